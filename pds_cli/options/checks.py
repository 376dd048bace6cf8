"""Checks of values that types cannot make: ranges, texts that must not be empty, devices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from pds_cli.errors import UserError, did_you_mean
from pds_cli.options.ranges import check
from pds_cli.options.schemas import VERB_SCHEMAS

DEVICES = ("auto", "cpu", "cuda")
_TEXTS = ("prompt",)
# Where the keys of a class mean what `pds_cli.options.ranges` says.
_OURS = ("pds_cli.", "torch.optim.")


def keys_of(verb: str) -> set[str]:
    """The keys at the top of a verb's config."""
    return {item.name for item in fields(VERB_SCHEMAS[verb])}


def validate(verb: str, cfg: DictConfig) -> None:
    """Checks values that types cannot: ranges, required texts, the device's name.

    Raises:
        UserError: with the key, its value and what would be right.
    """
    for key in _TEXTS:
        if key not in keys_of(verb):
            continue
        if OmegaConf.is_missing(cfg, key) and "resume" in cfg and cfg.resume:
            continue  # the run that goes on has one
        if OmegaConf.is_missing(cfg, key) or not str(cfg[key] or "").strip():
            raise UserError(
                f"{key} is empty: say what the picture should show, "
                f'for example pds {verb} {key}="a photo of a robot".'
            )
    device = cfg.get("device")
    if device is not None and device not in DEVICES and not _is_cuda_index(device):
        raise UserError(f"device={device} is not a device: use auto, cpu, cuda or cuda:<number>.")
    for key in ("allow_modules", "runs", "collect", "stages"):
        if key in cfg and not OmegaConf.is_missing(cfg, key):
            _check_texts(key, cfg[key])
    recommended = OmegaConf.select(cfg, "backbone.recommended")
    if not isinstance(recommended, DictConfig | None):
        raise UserError(
            f"backbone.recommended={recommended} is no table such as {{steps: 300}}: leave it out, "
            "or give single values as backbone.recommended.steps=300."
        )
    _check_added(cfg, VERB_SCHEMAS[verb])
    for name, value, foreign in _leaves(cfg):
        check(name, value, foreign)


def _check_texts(key: str, value: Any) -> None:
    """Refuses what is no list of texts; an interpolation may have brought anything."""
    if not isinstance(value, ListConfig) or not all(isinstance(text, str) for text in value):
        raise UserError(f"{key}={value} is no list of texts such as [a,b].")


def _check_added(node: DictConfig, schema: type | None, prefix: str = "") -> None:
    """Refuses what `+key=value` added where nobody looks at it: beside a verb's own keys.

    What is built by a class is asked of that class.
    """
    known = [item.name for item in fields(schema)] if schema is not None else None
    for key in node:
        if known is not None and key not in known and "_target_" not in node:
            near = did_you_mean(str(key), known)
            raise UserError(f"{prefix}{key!s} is not a key{near} Keys are {', '.join(known)}.")
        child = node._get_node(key)
        kind = OmegaConf.get_type(child) if isinstance(child, DictConfig) else None
        if isinstance(child, DictConfig) and is_dataclass(kind) and child._content:
            _check_added(child, kind, f"{prefix}{key!s}.")


def _is_cuda_index(device: str) -> bool:
    return device.startswith("cuda:") and device[5:].isdigit()


def _leaves(
    node: DictConfig, prefix: str = "", foreign: bool = False
) -> Iterator[tuple[str, Any, bool]]:
    """Dotted keys with resolved values, and whether a class from outside has them.

    Missing values are left out.
    """
    foreign = foreign or is_foreign(node)
    for key in node:
        if OmegaConf.is_missing(node, key):
            continue
        value = node[key]
        name = f"{prefix}{key!s}"
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{name}.", foreign)
        elif isinstance(value, ListConfig):
            yield name, OmegaConf.to_container(value, resolve=True), foreign
        else:
            yield name, value, foreign


def is_foreign(node: DictConfig) -> bool:
    """Whether a node is built by a class from outside, whose keys mean what it says."""
    known = isinstance(node._content, dict) and not OmegaConf.is_missing(node, "_target_")
    target = node.get("_target_") if known else None
    return isinstance(target, str) and not target.startswith(_OURS)
