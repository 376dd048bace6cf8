"""The settings of an edit: what was chosen, with what the backbone recommends where nothing was."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from pds_cli.errors import UserError, did_you_mean
from pds_cli.instantiate import check_target, resolve_config
from pds_cli.options.checks import speaks_for_itself
from pds_cli.options.job import choice, given_groups, method_of
from pds_cli.runs.ownership import choices_of
from pds_cli.training.chains import begin_at

METHOD = ("loss", "editor")
# Whose options the run folder names, for reports and comparisons.
GROUPS = ("scene", "representation", "backbone", "loss")
WHOLE = "none"  # as a mask: all may change
DEFAULTS = {
    "guidance": 7.5, "source_guidance": None, "steps": 500, "lr": 0.02, "mask_everywhere": None,
}  # fmt: skip


def chosen(run: Path | None = None, init: str | None = None) -> dict[str, str]:
    """The options of the main groups: now, or when the run in a folder was started, if it says.

    init: a run whose scene, representation and backbone are taken over, where none are given.
    """
    if run is not None and (started_with := choices_of(run)):
        return started_with
    now = {**{group: choice(group) for group in GROUPS}, "loss": method_of(*map(choice, METHOD))}
    if init is not None:
        brought = chosen(Path(init))
        now |= {group: brought[group] for group in set(GROUPS[:3]) - given_groups()}
    return now


def resolved(cfg: DictConfig) -> DictConfig:
    """The configuration, with the backbone's recommendations where nothing was said.

    Raises:
        UserError: a part from outside does not know a key, or `init` names no run to begin at.
    """
    cfg = copy.deepcopy(cfg)
    if cfg.init is not None and not cfg.resume:
        begin_at(cfg)
    if cfg.resume and OmegaConf.is_missing(cfg, "prompt"):
        cfg.prompt = ""  # the run that goes on has one
    representation = chosen(init=None if cfg.resume else cfg.init)["representation"]
    return with_recommended(cfg, {"loss": choice("loss"), "representation": representation})


def with_recommended(cfg: DictConfig, options: Mapping[str, str]) -> DictConfig:
    """The resolved config, with the backbone's recommendations where nothing was said.

    Args:
        cfg: of `pds edit`; it is changed.
        options: of the groups loss and representation, those that were chosen.

    Raises:
        UserError: a part from outside does not know a key.
    """
    _check_foreign(cfg)
    recommended = _recommended(cfg, options["representation"])
    for key, default in DEFAULTS.items():
        if cfg[key] is None:
            found = recommended.get(key, default)
            if isinstance(found, DictConfig):
                found = _of_loss(found, cfg, options["loss"], default)
            cfg[key] = found
    for key in ("guidance", "source_guidance"):
        if key in cfg.loss and cfg.loss[key] is None:
            cfg.loss[key] = cfg[key]
    return resolve_config(cfg)


def settle_mask(cfg: DictConfig, possible: bool) -> None:
    """Puts the mask that the backbone recommends where nothing is said of one; `none` is null then.

    A run that goes on has settled that before. A box in space is a limit by itself.

    Args:
        cfg: resolved; `cfg.mask` is changed.
        possible: whether the scene has what `mask=auto` looks at.
    """
    if cfg.mask is None and possible and not cfg.resume and cfg.mask_box is None:
        cfg.mask = OmegaConf.select(cfg, "backbone.recommended.mask")
    if cfg.mask == WHOLE:
        cfg.mask = None


def _check_foreign(cfg: DictConfig) -> None:
    """Asks classes from outside whether they know their keys; gives their losses the run's ω.

    Raises:
        UserError: a key that a class does not know, or a class that may not be built.
    """
    for group in (*GROUPS, "editor", "optimizer", "logger"):
        node = cfg[group]
        if not isinstance(node, DictConfig) or not speaks_for_itself(group, node):
            continue
        signature = inspect.signature(check_target(group, node._target_, list(cfg.allow_modules)))
        kinds = [parameter.kind for parameter in signature.parameters.values()]
        known = list(signature.parameters)
        for key in node:
            ours = str(key).startswith("_") or inspect.Parameter.VAR_KEYWORD in kinds
            if key not in known and not ours:
                near = did_you_mean(str(key), known)
                raise UserError(
                    f"{group}.{key!s} is not a key of {node._target_}{near} "
                    f"It takes {', '.join(known)}."
                )
        for key in ("guidance", "source_guidance"):
            if group == "loss" and key in known and key not in node:
                node[key] = None  # filled in where a loss's YAML has them, too


def _of_loss(values: DictConfig, cfg: DictConfig, option: str, default: Any) -> Any:
    """What is recommended for the chosen loss, else for the loss that it is an option of."""
    module = str(cfg.loss.get("_target_", "")).split(".")[-2:-1]
    return next((values[name] for name in (option, *module) if name in values), default)


def _recommended(cfg: DictConfig, option: str) -> DictConfig | dict[str, Any]:
    """What the backbone recommends for the representation, by its option.

    Keys under the representation's name, its option's or its class's `word`, replace those beside
    it, in `cfg` too, where other settings refer to them.
    """
    found = OmegaConf.select(cfg, "backbone.recommended")
    if not isinstance(found, DictConfig):
        return {}
    names = (option, _word(cfg)) if found else ()
    particular = next((found[n] for n in names if isinstance(found.get(n), DictConfig)), None)
    if particular is not None:
        with open_dict(found):
            for key, value in particular.items():
                found[key] = value
    return found


def _word(cfg: DictConfig) -> str:
    """What a backbone calls the representation, by its class."""
    target = cfg.representation.get("_target_")
    found: Any = check_target("representation", target, list(cfg.allow_modules))
    return str(found.word)
