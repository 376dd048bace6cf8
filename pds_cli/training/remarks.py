"""Words of `pds edit` that have no effect beside the others; said before an edit begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from pds_cli.instantiate import within
from pds_cli.representations.base import Representation
from pds_cli.training.trainer import Idle, Objective

# Filled in by the backbone's recommendation, so that any value is somebody's.
_ASKED = ("guidance", "source_guidance", "steps", "lr")


def remarks(
    cfg: DictConfig,
    words: Sequence[str],
    chosen: Callable[[str], str],
    objectives: Sequence[Objective],
    representation: Representation,
    more: Sequence[Idle] = (),
) -> Iterator[str]:
    """A line for each word that this edit does not look at, and for an ω of 0 or below.

    Args:
        cfg: of `pds edit`, before recommendations are filled in.
        words: of the command line.
        chosen: group → the option that was chosen from it.
        objectives: of its stages, that of the edit first.
        representation: what is edited.
        more: keys without effect that none of them knows of.
    """
    given = {word.lstrip("+").partition("=")[0]: word.lstrip("+") for word in words}
    given |= {k: f"{k}={cfg[k]}" for k in _ASKED if k not in given and cfg[k] is not None}
    group = objectives[0].group
    who = f"{group}={chosen(group)}"
    idle = [*_idle(cfg, objectives, representation), *more]
    for name, word in given.items():
        found = next((each for each in idle if within(name, [each.key])), None)
        if found is None or word == "turntable=0":  # which scripts say for all kinds of scenes
            continue
        instead = f"; its own is {found.instead}" if _has(cfg, found.instead) else ""
        yield f"{found.because or who} looks at no {word}{instead}"
    yield from _without_a_prompt(cfg, given, [each.key for each in idle])


def _idle(
    cfg: DictConfig, objectives: Sequence[Objective], representation: Representation
) -> list[Idle]:
    found = [idle for objective in objectives for idle in objective.idle()]
    found += [Idle(*each) for each in representation.idle().items()]
    if not cfg.early_stop.patience:
        found.append(Idle("early_stop.min_delta", "early_stop.patience=0"))
    return found


def _has(cfg: DictConfig, key: str) -> bool:
    group, _, name = key.rpartition(".")
    return bool(key) and name in cfg[group]


def _without_a_prompt(cfg: DictConfig, given: dict[str, str], idle: Sequence[str]) -> Iterator[str]:
    """What ω ≤ 0 means: ε̂_∅ + ω (ε̂_y − ε̂_∅) knows nothing of the prompt y, or its contrary."""
    for key in ("editor.guidance", "guidance", "loss.guidance"):
        value = OmegaConf.select(cfg, key)
        if key in given and not within(key, idle) and value is not None and value <= 0:
            what = "leaves the prompt out" if value == 0 else "leads away from the prompt"
            yield f"{key}={value:g} {what}: 1 is the prompt alone, more follows it further"
