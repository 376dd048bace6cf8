"""Which words of `pds edit` have no effect beside the others; said before a sweep compares them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from pds_cli.instantiate import within
from pds_cli.options.signature import constant_of

DATASET_UPDATE = "pds_cli.training.dataset_update.DatasetUpdateObjective"
_OMEGAS = ("guidance", "source_guidance")
# What only a loss's many steps look at.
_STEPPING = ("batch_size", "hold_view", "lr_schedule", "warmup", "early_stop", "optimizer")
# Loss's module → (its option, the values at which others of its options count for nothing, them).
_SWITCHES: dict[str, tuple[str, Callable[[object], bool], Sequence[str]]] = {
    "pds": ("coefficients", lambda value: value == "exact", ["identity"]),
    "vsd": ("particles", lambda value: value == "source", ["rank", "lora_lr", "lora_steps"]),
    "cds": ("contrast", lambda value: value == 0, ["patches", "patch_sizes"]),
    "ids": ("iterations", lambda value: value == 0, ["scale"]),
}
_SVG_STEPS = {
    "point_lr": "points",
    "color_lr": "colors",
    "opacity_lr": "opacities",
    "gradient_lr": "gradients",
}


def remarks(cfg: DictConfig, words: Sequence[str], chosen: Callable[[str], str]) -> Iterator[str]:
    """A line for each word that this edit does not look at, and for an ω of 0 or below.

    Args:
        cfg: of `pds edit`, before recommendations are filled in.
        words: of the command line.
        chosen: group → the option that was chosen from it.
    """
    given = {word.lstrip("+").partition("=")[0]: word.lstrip("+") for word in words}
    alone = OmegaConf.select(cfg, "editor._target_") is not None
    if alone and cfg.loss._target_ != DATASET_UPDATE:
        yield from _beside_an_editor(cfg, given, f"editor={chosen('editor')}")
    else:
        who = f"loss={chosen('loss')}"
        for key in (*_ignored_by_loss(cfg), *_others(cfg)):
            for word in (word for name, word in given.items() if within(name, [key])):
                if word == "turntable=0":
                    continue  # for scripts that edit all kinds of scenes
                yield f"{_because(cfg, key) or who} looks at no {word}{_instead(cfg, key)}"
    yield from _without_a_prompt(cfg, given)


def _beside_an_editor(cfg: DictConfig, given: dict[str, str], who: str) -> Iterator[str]:
    for key in (*_OMEGAS, "steps", "lr"):
        if cfg[key] is not None:
            own = f"; its own is editor.{key}" if key in cfg.editor else ""
            yield f"{who} looks at no {key}={cfg[key]}{own}"
    for key in ("loss", *_STEPPING):
        yield from (
            f"{who} looks at no {word}" for name, word in given.items() if within(name, [key])
        )


def _ignored_by_loss(cfg: DictConfig) -> Iterator[str]:
    module = _module(cfg)
    if cfg.loss._target_ == DATASET_UPDATE:
        yield from (*_OMEGAS, "batch_size", "hold_view")
    for key in _OMEGAS:
        without = constant_of(str(cfg.loss._target_), "uses_source") == "False"
        if module == "csd" or (without and key == "source_guidance"):
            yield from (key, f"loss.{key}")


def _others(cfg: DictConfig) -> Iterator[str]:
    """Keys that other keys switch off."""
    option, off, keys = _SWITCHES.get(_module(cfg), ("", bool, []))
    if option and off(cfg.loss.get(option)):
        yield from (f"loss.{key}" for key in keys)
    if not cfg.early_stop.patience:
        yield "early_stop.min_delta"
    representation = str(cfg.representation.get("_target_"))
    if representation.startswith("pds_cli.representations.") and not representation.endswith(
        "NeRF"
    ):
        yield from ("turntable", "hold_view")
    parameters = cfg.representation.get("parameters") or _SVG_STEPS.values()
    for key, what in _SVG_STEPS.items():
        if key in cfg.representation and what not in parameters:
            yield f"representation.{key}"


def _because(cfg: DictConfig, key: str) -> str | None:
    """What makes a key idle, where it is not the loss as such."""
    option, _, keys = _SWITCHES.get(_module(cfg), ("", bool, []))
    if key.removeprefix("loss.") in keys:
        return f"loss.{option}={cfg.loss[option]}"
    if key == "early_stop.min_delta":
        return "early_stop.patience=0"
    if key == "turntable" or (key == "hold_view" and cfg.loss._target_ != DATASET_UPDATE):
        return "an edit of a single view"
    if key.startswith("representation."):
        return f"representation.parameters=[{','.join(cfg.representation.parameters)}]"
    return None


def _instead(cfg: DictConfig, key: str) -> str:
    if cfg.loss._target_ != DATASET_UPDATE:
        return ""
    if key in _OMEGAS and key in cfg.editor:
        return f"; its own is editor.{key}"
    return "; its own is loss.batch_size" if key == "batch_size" else ""


def _without_a_prompt(cfg: DictConfig, given: dict[str, str]) -> Iterator[str]:
    """What ω ≤ 0 means: ε̂_∅ + ω (ε̂_y − ε̂_∅) knows nothing of the prompt y, or its contrary."""
    keys = ["editor.guidance"] if cfg.editor._target_ is not None else []
    if not keys and _module(cfg) != "csd":
        keys = ["guidance", "loss.guidance"]
    for key in keys:
        value = OmegaConf.select(cfg, key)
        if key in given and value is not None and value <= 0:
            what = "leaves the prompt out" if value == 0 else "leads away from the prompt"
            yield f"{key}={value:g} {what}: 1 is the prompt alone, more follows it further"


def _module(cfg: DictConfig) -> str:
    """`pds` for pds_cli.losses.pds.PDS; nothing for a class from outside."""
    target = str(cfg.loss.get("_target_"))
    return target.split(".")[-2] if target.startswith("pds_cli.losses.") else ""
