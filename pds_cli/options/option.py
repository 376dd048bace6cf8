"""How a key of a config is said: once, in the field of its schema, with its words."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

from omegaconf import MISSING

from pds_cli.options.ranges import Range

_WORDS = "pds"


@dataclass(frozen=True)
class Option:
    """What is known of a key beside its type and its value.

    help: one line, with the unit.
    range: of the number, or of each number in a list or a table.
    choices: the texts that it can be.
    or_else: what it can be besides, in words; empty: one of the choices and nothing else.
    text: free text; nothing in it means anything to the command line.
    example: a list of as many numbers as it takes; empty: any number of them.
    ascending: the numbers of the list must not fall.
    keys: a schema that describes entries of a table that has no types.
    """

    help: str
    range: Range | None = None
    choices: tuple[str, ...] = ()
    or_else: str = ""
    text: bool = False
    example: tuple[float, ...] = ()
    ascending: bool = False
    keys: type | None = None


def option(words: str, default: Any = MISSING, **more: Any) -> Any:
    """A field of a schema with its words.

    Args:
        words: `Option.help`.
        default: the value where no YAML says one; a schema: the table that it describes.
        more: the other fields of `Option`.
    """
    said = {_WORDS: Option(words, **more)}
    if isinstance(default, type):
        return field(default_factory=default, metadata=said)
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=said)
    return field(default=default, metadata=said)


@functools.cache
def options_of(schema: type) -> Mapping[str, Option]:
    """The keys of a schema, in its order, but for `_target_`."""
    return {item.name: item.metadata[_WORDS] for item in fields(schema) if _WORDS in item.metadata}


@functools.cache
def types_of(schema: type) -> Mapping[str, Any]:
    """The types of a schema's keys."""
    return get_type_hints(schema)


def below(schema: type, key: str) -> type | None:
    """The schema of the table at a key, typed or not; None where the key holds none."""
    found = types_of(schema).get(key)
    if isinstance(found, type) and is_dataclass(found):
        return found
    said = options_of(schema).get(key)
    return said.keys if said else None


def find(schema: type, key: str) -> Option | None:
    """The option at a dotted key.

    >>> from pds_cli.options.verbs import EditConfig
    >>> find(EditConfig, "early_stop.patience").help
    'steps without a lower loss after which a stage ends; 0: off'
    """
    name, _, rest = key.partition(".")
    if not rest:
        return options_of(schema).get(name)
    table = below(schema, name)
    return find(table, rest) if table else None
