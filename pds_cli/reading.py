"""Text, JSON and YAML that somebody else may have written: read within bounds, or refused.

Only ordinary files are opened, only so many bytes are read, as UTF-8, and what comes out is nested
no deeper than `MAX_DEPTH` and holds no number that would not fit a float.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pds_cli.errors import UserError

MAX_BYTES = 32 * 2**20
MAX_YAML_BYTES = 2**20  # YAML is read some hundred times slower than JSON
MAX_DEPTH = 64
MAX_PIXELS = 80_000_000
"""Largest image that is read; a 30,000 × 30,000 header alone would ask for gigabytes."""
_WORD = "tag:yaml.org,2002:"


def read_text(path: str | os.PathLike[str], limit: int = MAX_BYTES) -> str:
    """The text of an ordinary UTF-8 file; a byte-order mark at its start is dropped.

    Raises:
        UserError: not there, no ordinary file, more than `limit` bytes, or not UTF-8.
    """
    return decoded(read_bytes(path, limit), path)


def read_json(path: str | os.PathLike[str], limit: int = MAX_BYTES) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: see `read_text`; or it is not JSON, or nested too deeply.
    """
    return _parsed(path, limit, parse_json, "JSON")


def read_yaml(path: str | os.PathLike[str], limit: int = MAX_YAML_BYTES) -> Any:
    """What a YAML file of plain values holds.

    Raises:
        UserError: see `read_text` and `parse_yaml`.
    """
    return _parsed(path, limit, parse_yaml, "YAML")


def read_object(path: str | os.PathLike[str], limit: int = MAX_BYTES) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none that can be read."""
    try:
        found = read_json(path, limit)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _parsed(
    path: str | os.PathLike[str], limit: int, parse: Callable[[str], Any], kind: str
) -> Any:
    text = read_text(path, limit)
    try:
        return parse(text)
    except ValueError as error:
        raise UserError(f"{path} is not a {kind} file that can be read: {error}") from error


def read_bytes(path: str | os.PathLike[str], limit: int = MAX_BYTES) -> bytes:
    """The bytes of an ordinary file.

    Raises:
        UserError: not there, no ordinary file (a folder, a pipe, a device), or too large.
    """
    try:
        # A pipe that nobody writes to would keep us waiting in open.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(f"{path} is not an ordinary file: name one that can be read whole")
            found = file.read(limit + 1)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check the path (from {Path.cwd()})") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder: name a file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error
    if len(found) > limit:
        raise UserError(
            f"{path} is larger than {size_of(limit)}, the most that is read of its kind"
        )
    return found


def decoded(content: bytes, path: str | os.PathLike[str]) -> str:
    """Bytes of a file as UTF-8 text.

    Raises:
        UserError: they are not.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (at byte {error.start}): save it as UTF-8"
        ) from error


def parse_json(text: str) -> Any:
    """What a JSON text holds. NaN and Infinity are read, as Python writes them.

    Raises:
        ValueError: in one line: not JSON, nested too deeply, or a number that no float can hold.
    """
    try:
        return _checked(json.loads(text, parse_int=_whole))
    except RecursionError:
        raise ValueError(_DEEP) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} in line {error.lineno}, column {error.colno}") from error


def parse_yaml(text: str) -> Any:
    """What a YAML text of mappings, lists, texts and numbers holds; dates stay texts.

    Raises:
        ValueError: in one line: not YAML, nested too deeply, tags, aliases (a few lines of them can
            stand for gigabytes), or a number that no float can hold.
    """
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it has an alias (*{event.anchor}); write out what it stands for")
            if getattr(event, "tag", None) not in (None, "!"):
                raise ValueError(f"it has a tag ({event.tag}); plain values are what is read")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(_DEEP)
        return _checked(yaml.load(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{error.problem or error.context}{place}") from error
    except (yaml.YAMLError, RecursionError, TypeError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from error


def size_of(count: int) -> str:
    """Bytes in words."""
    return f"{count / 2**20:g} MiB" if count >= 2**20 else f"{count / 2**10:g} KiB"


def brief(value: Any, longest: int = 60) -> str:
    """A wrong value as a sentence can show it: in one line, not all of it."""
    if isinstance(value, dict | list | tuple) and value:
        kind = "an object" if isinstance(value, dict) else "a list"
        return f"{kind} of {len(value)}"
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def label(name: Any) -> str:
    """A name as a sentence can show it: as it is, while it is short and stays in its line."""
    plain = isinstance(name, str) and len(name) <= 200 and name.isprintable()
    return name if plain else brief(name)


_DEEP = f"it is nested more than {MAX_DEPTH} deep"


def _whole(text: str) -> int | float:
    """An integer; beyond 64 bits a float, as in other programs that read JSON."""
    if len(text) <= 20 and -(2**63) <= (value := int(text)) < 2**64:
        return value
    near = float(text)
    if not math.isfinite(near):
        raise ValueError(f"it has a number of {len(text)} digits")
    return near


def _checked(found: Any) -> Any:
    """What was read, unless it is nested too deeply."""
    level, depth = [found], 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError(_DEEP)
        inner: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                inner += node.values()
            elif isinstance(node, list):
                inner += node
        level, depth = inner, depth + 1
    return found


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe values only, of which dates are texts and integers are bounded."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own form
        first: [(tag, pattern) for tag, pattern in found if tag != f"{_WORD}timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def whole(self, node: Any) -> int | float:
        text = str(self.construct_scalar(node))
        if len(text) > 400:
            raise ValueError(f"it has a number of {len(text)} digits")
        return _whole(str(self.construct_yaml_int(node)))


_Loader.add_constructor(f"{_WORD}int", _Loader.whole)
