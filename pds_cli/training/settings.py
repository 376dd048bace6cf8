"""The settings of an edit, of its config alone: what the backbone recommends, and what edits."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from pds_cli.errors import UserError, did_you_mean
from pds_cli.instantiate import check_target, instantiate, resolve_config
from pds_cli.options.checks import is_foreign

if TYPE_CHECKING:
    from pds_cli.editors.base import Editor

DEFAULTS = {"guidance": 7.5, "source_guidance": None, "steps": 500, "lr": 0.02}
_BUILT = ("scene", "representation", "backbone", "loss", "editor", "optimizer", "logger")


def check_foreign(cfg: DictConfig) -> None:
    """Asks classes from outside whether they know their keys; gives their losses the run's ω.

    Raises:
        UserError: a key that a class does not know, or a class that may not be built.
    """
    for group in _BUILT:
        node = cfg[group]
        if not isinstance(node, DictConfig) or not is_foreign(node):
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


def with_recommended(cfg: DictConfig, options: Mapping[str, str]) -> DictConfig:
    """The resolved config, with the backbone's recommendations where nothing was said.

    Args:
        cfg: of `pds edit`; it is changed.
        options: of the groups loss and representation, those that were chosen.
    """
    recommended = _recommended(cfg, options["representation"])
    for key, default in DEFAULTS.items():
        if cfg[key] is None:
            value = recommended.get(key, default)
            cfg[key] = (
                _of_loss(value, cfg, options["loss"], default)
                if isinstance(value, DictConfig)
                else value
            )
    for key in ("guidance", "source_guidance"):
        if key in cfg.loss and cfg.loss[key] is None:
            cfg.loss[key] = cfg[key]
    return resolve_config(cfg)


def _of_loss(values: DictConfig, cfg: DictConfig, option: str, default: Any) -> Any:
    """What is recommended for the chosen loss, else for the loss that it is an option of."""
    module = str(cfg.loss.get("_target_", "")).split(".")[-2:-1]
    return next((values[name] for name in (option, *module) if name in values), default)


def _recommended(cfg: DictConfig, representation: str) -> DictConfig | dict[str, Any]:
    """What the backbone recommends for a representation.

    Keys under the representation's name replace those beside it, in `cfg` too, where other
    settings refer to them.
    """
    found = OmegaConf.select(cfg, "backbone.recommended")
    if not isinstance(found, DictConfig):
        return {}
    particular = found.get(representation)
    if isinstance(particular, DictConfig):
        with open_dict(found):
            for key, value in particular.items():
                found[key] = value
    return found


def configured_editor(cfg: DictConfig) -> Editor | None:
    """What the config group `editor` describes; None for `editor=none`.

    Raises:
        UserError: a dial of an editor without one.
    """
    node = cfg.editor
    if node is None:
        return None
    if node._target_ is not None:
        editor: Editor = instantiate("editor", node, allow_modules=list(cfg.allow_modules))
        return editor
    for key in ("steps", "guidance", "strength"):
        if node[key] is not None:
            raise UserError(
                f"editor.{key}={node[key]} needs an editor, such as editor=sdedit; without one it "
                f"is {key}=… alone"
            )
    return None
