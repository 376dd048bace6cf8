"""A composed config as lists of keys with their words, for `--help` and `docs/options.md`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pds_cli.options.checks import is_foreign, schema_at
from pds_cli.options.option import Option, below, options_of, types_of
from pds_cli.options.schemas import BASES
from pds_cli.options.signature import keywords_of
from pds_cli.options.verbs import CommonConfig, ResumableConfig

NEEDED = "???"
_LONG = 60  # letters of a table that is shown whole


@dataclass(frozen=True)
class Key:
    """A key with its words.

    name: with dots.
    value: what it is now, as the command line writes it.
    help: what it is for; may be empty for a class from outside.
    can_be: its choices, its range or its kind; may be empty.
    """

    name: str
    value: str
    help: str
    can_be: str


@dataclass(frozen=True)
class Part:
    """Keys that belong together: of a verb, or of the option that is chosen of a group."""

    title: str
    keys: tuple[Key, ...]


def parts(verb: str, schema: type, cfg: DictConfig, choices: Mapping[str, str]) -> list[Part]:
    """Everything in a verb's config.

    Args:
        choices: group → the option that is chosen.
    """
    shared = set(options_of(ResumableConfig)) | set(options_of(CommonConfig))
    own = [key for key in options_of(schema) if key not in choices and key not in shared]
    rest = [key for key in options_of(schema) if key in shared]
    found = [
        Part(f"Keys of pds {verb}", tuple(keys_in(cfg, schema, only=own))),
        Part("Where and how it runs", tuple(keys_in(cfg, schema, only=rest))),
    ]
    for group in choices:
        node = cfg.get(group)
        if isinstance(node, DictConfig):
            keys = tuple(option_keys(group, node))
            found.append(Part(f"{group}={choices[group]}", keys))
    return [part for part in found if part.keys]


def option_keys(group: str, node: DictConfig) -> Iterator[Key]:
    """The keys of a group's node."""
    schema = schema_at(group, node)
    yield from keys_in(node, schema, f"{group}.", outside=is_foreign(node))
    target = None if OmegaConf.is_missing(node, "_target_") else node.get("_target_")
    if schema is not BASES.get(group) or not isinstance(target, str):
        return
    for name, keyword in keywords_of(target).items():
        if name not in node:
            yield Key(f"{group}.{name}", _written(keyword.default), keyword.help, "")


def keys_in(
    node: DictConfig,
    schema: type | None,
    prefix: str = "",
    only: list[str] | None = None,
    outside: bool = False,
) -> Iterator[Key]:
    """The keys of a node and of the tables in it, with the words of its schema.

    Args:
        prefix: put before the names.
        only: names at its top; None: all.
        outside: its class is from outside: it has no words of ours.
    """
    said = options_of(schema) if schema is not None and not outside else {}
    own = keywords_of(str(node._get_node("_target_"))) if "_target_" in node else {}
    names = [str(key) for key in node] if only is None else only
    for name in [name for name in names if not name.startswith("_")]:
        table = below(schema, name) if schema is not None and not outside else None
        child = node._get_node(name)
        if table is not None and isinstance(child, DictConfig):
            yield from keys_in(child, table, f"{prefix}{name}.")
            continue
        option = said.get(name)
        words = option.help if option else own[name].help if name in own else ""
        kind = kind_of(option, types_of(schema).get(name) if schema and option else None)
        yield Key(f"{prefix}{name}", _value(node, name), words, kind)


def kind_of(option: Option | None, kind: Any) -> str:
    """What a key can be: its choices, its range or its kind."""
    found = []
    if option is not None and option.choices:
        found += [*option.choices, *([option.or_else] if option.or_else else [])]
    elif option is not None and option.range is not None:
        found.append(option.range.short)
    elif kind is bool:
        found += ["true", "false"]
    elif option is not None and option.text:
        found.append("text")
    return " | ".join(found)


def _value(node: DictConfig, name: str) -> str:
    """The value as a word of the command line, tables in short."""
    if OmegaConf.is_missing(node, name):
        return NEEDED
    try:
        value = node[name]
        if isinstance(value, DictConfig | ListConfig):
            value = OmegaConf.to_container(value, resolve=True)
    except OmegaConfBaseException:
        return str(node._get_node(name))
    whole = _flow(value)
    if not isinstance(value, dict) or len(whole) <= _LONG:
        return whole
    entries = (f"{k}: {'{…}' if isinstance(v, dict) else _flow(v)}" for k, v in value.items())
    return f"{{{', '.join(entries)}}}"


def _written(default: str) -> str:
    """A default of Python's as the command line writes it."""
    try:
        value = ast.literal_eval(default)
    except (ValueError, SyntaxError):
        return default
    return _flow(list(value) if isinstance(value, tuple) else value)


def _flow(value: Any) -> str:
    """A value in one line of YAML."""
    if value == "":
        return "''"
    if isinstance(value, str):
        return " ".join(value.split())
    text = yaml.safe_dump(
        value, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True
    )
    return text.strip().removesuffix("...").strip()
