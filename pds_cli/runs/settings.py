"""What a run's settings are, and whether a resumed run agrees with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pds_cli.errors import UserError, first_line
from pds_cli.instantiate import CONTRACTS, checked_node, literal_config, within
from pds_cli.options.checks import validate
from pds_cli.options.job import key_of
from pds_cli.options.schemas import FREE, VERB_SCHEMAS, schema_of_class
from pds_cli.reading import read_yaml
from pds_cli.runs import layout
from pds_cli.runs.folder import RunFolder
from pds_cli.runs.ownership import check_card

# Never taken from the folder, even where the command line says nothing: a folder that somebody
# sent must not say which modules to trust.
OF_THE_COMMAND_LINE = frozenset(["resume", "out", "overwrite", "debug", "allow_modules"])


def fingerprint(cfg: DictConfig) -> str:
    """A hash of everything that shapes a run's result."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    kept = {k: v for k, v in plain.items() if k not in FREE and k != "hydra"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def resumed(verb: str, cfg: DictConfig, resolved: DictConfig, run: RunFolder) -> DictConfig:
    """The settings that the run in a folder was started with, checked before any is used.

    Args:
        verb: the verb whose run it must be.
        cfg: the present command line's configuration.
        resolved: the same with recommendations filled in.

    Raises:
        UserError: the folder holds no run of this verb and version, its settings are not those
            that it began with or are none that the verb takes, or the command line asks for
            something that would change its result.
    """
    from hydra.core.hydra_config import HydraConfig

    saved = _unchanged(verb, run.path, "resume")
    given = set(OF_THE_COMMAND_LINE)
    for override in HydraConfig.get().overrides.task:
        key = key_of(override)
        if key.split(".")[0] in FREE:
            given.add(key.split(".")[0])
            continue
        if (verb, key) == ("edit", "steps") and cfg.steps != saved.steps:
            check_longer(saved, cfg.steps, run.path)
            saved.steps = cfg.steps
            continue
        if OmegaConf.select(resolved, key) != OmegaConf.select(saved, key):
            raise UserError(
                f"{key} differs from the run in {run.path}, which cannot be changed midway: "
                "resume it without that setting, or start a new run"
            )
    modules = list(saved.get("allow_modules") or [])
    for key in given & set(cfg):
        saved[key] = cfg[key]
    check_saved(verb, saved, modules, str(run.path))
    return saved


def saved_settings(verb: str, folder: str, allowed: Sequence[str], key: str) -> DictConfig:
    """The settings of another run, checked as those of one that is resumed.

    Args:
        verb: the verb whose run it must be.
        allowed: modules that the user trusts now.
        key: what the user called the folder.

    Raises:
        UserError: see `resumed`.
    """
    saved = _unchanged(verb, Path(folder), key)
    modules = list(saved.get("allow_modules") or [])
    saved.allow_modules = list(allowed)
    check_saved(verb, saved, modules, folder)
    return saved


def _unchanged(verb: str, folder: Path, key: str) -> DictConfig:
    """The settings in a folder, if it is a run of the verb and they are what it began with."""
    card = check_card(folder, key, verb)
    saved = _read(folder / layout.CONFIG)
    if fingerprint(saved) not in (card.get("fingerprint"), *card.get("fingerprints", [])):
        raise UserError(
            f"{folder}/config.yaml is not what the run began with: put it back, or start a new run."
        )
    return saved


def _read(path: Path) -> DictConfig:
    if not path.is_file():
        raise UserError(f"{path} is missing: start a new run.")
    plain = read_yaml(path)
    if not isinstance(plain, dict):
        raise UserError(f"{path} holds no settings: start a new run.")
    return literal_config(plain)


def check_saved(verb: str, saved: DictConfig, modules: Sequence[str], folder: str) -> None:
    """Checks settings that a folder brought: their types, their ranges, and what they build.

    Args:
        modules: what the run was allowed to build from; named where it is not allowed now.

    Raises:
        UserError: naming the first thing that is wrong.
    """
    where = f"{folder}/config.yaml"
    _typed(VERB_SCHEMAS[verb], saved, where)
    validate(verb, saved)
    allowed = list(saved.get("allow_modules") or [])
    for kind, node in _components(saved):
        target = str(node["_target_"])
        if schema := schema_of_class(kind, target):
            _typed(schema, literal_config(node), f"{where}, {kind}")
        own = [name for name in modules if within(target, [name])]
        if own and not set(own) & set(allowed):
            raise UserError(
                f"{folder} was made with code of yours ({', '.join(modules)}): if you trust what "
                f"it holds, add allow_modules=[{','.join(modules)}]."
            )
        checked_node(kind, node, allowed)


def _components(saved: DictConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind, plain node) of all that the settings would have built."""
    plain = OmegaConf.to_container(saved, resolve=True)
    assert isinstance(plain, dict)
    refine = plain.get("refine")
    nodes = [(kind, plain.get(kind)) for kind in CONTRACTS]
    nodes.append(("editor", refine.get("editor") if isinstance(refine, dict) else None))
    for kind, node in nodes:
        if isinstance(node, dict) and node.get("_target_") is not None:
            yield kind, node


def _typed(schema: type, saved: DictConfig, where: str) -> None:
    """Refuses values of another type than the schema says; keys beside it are left alone."""
    typed = OmegaConf.structured(schema)
    known = {str(key): saved._get_node(key) for key in saved if key in typed}
    try:
        OmegaConf.merge(typed, known)
    except OmegaConfBaseException as error:
        key = f" {error.full_key}" if error.full_key else ""
        raise UserError(
            f"{where}:{key} cannot be used ({first_line(error)}): start a new run."
        ) from error


def check_longer(saved: DictConfig, steps: int, run: Path) -> None:
    """Whether an edit may go on to more steps than it was started with.

    Raises:
        UserError: fewer steps, or something in it depends on how many there are.
    """
    if steps < saved.steps:
        raise UserError(
            f"steps differs from the run in {run}: {steps} is less than its {saved.steps}; start a "
            "new run."
        )
    reason = None
    if saved.lr_schedule != "constant":
        reason = f"its step size falls to the end of its steps (lr_schedule={saved.lr_schedule})"
    elif OmegaConf.select(saved, "loss.schedule") not in (None, "uniform"):
        reason = f"its timesteps follow its progress (loss.schedule={saved.loss.schedule})"
    elif OmegaConf.select(saved, "representation.distortion"):
        reason = "its distortion loss grows with its progress (representation.distortion)"
    elif OmegaConf.select(saved, "refine.editor") is not None:
        reason = "a refinement follows it"
    elif OmegaConf.select(saved, "editor._target_") and "dataset_update" not in saved.loss._target_:
        reason = "an editor alone takes one step"
    if reason is not None:
        raise UserError(
            f"steps differs from the run in {run}, which cannot go beyond its {saved.steps} steps, "
            f"as {reason}; begin another run at its result with init={run}."
        )
