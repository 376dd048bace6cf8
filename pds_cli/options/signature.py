"""What a class of the package says of its own keys: read from its source, not imported.

A component without a schema needs none: its keywords, their defaults and its docstring are enough.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_PACKAGE = "pds_cli."
_ENTRY = re.compile(r"([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*): (.*)")


@dataclass(frozen=True)
class Keyword:
    """A keyword of a class with a default.

    default: as Python writes it.
    kind: its annotation, likewise.
    help: the first sentence that the docstring has on it; may be empty.
    """

    default: str
    kind: str = ""
    help: str = ""


@functools.cache
def keywords_of(target: str) -> Mapping[str, Keyword]:
    """The keywords with a default of a class of the package, its bases' first; empty for others."""
    module, _, name = target.rpartition(".")
    tree = _source(module) if target.startswith(_PACKAGE) else None
    found = _class(tree, name) if tree is not None else None
    if tree is None or found is None:
        return {}
    keywords: dict[str, Keyword] = {}
    for base in found.bases:
        if isinstance(base, ast.Name):
            keywords |= keywords_of(_origin(tree, module, base.id))
    words = _entries(ast.get_docstring(found) or "")
    init = [item for item in found.body if isinstance(item, ast.FunctionDef)]
    defaults = next((_arguments(each) for each in init if each.name == "__init__"), None)
    for key, kind, default in _fields(found) if defaults is None else defaults:
        known = keywords[key].help if key in keywords else ""
        keywords[key] = Keyword(ast.unparse(default), kind, words.get(key, known))
    return keywords


def _source(module: str) -> ast.Module | None:
    try:
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            return None
        return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except (ImportError, OSError, SyntaxError, ValueError):
        return None


def _class(tree: ast.Module, name: str) -> ast.ClassDef | None:
    return next(
        (item for item in tree.body if isinstance(item, ast.ClassDef) and item.name == name), None
    )


def _origin(tree: ast.Module, module: str, name: str) -> str:
    """The dotted path of a class that a module names."""
    for item in tree.body:
        if isinstance(item, ast.ImportFrom) and name in [each.name for each in item.names]:
            return f"{item.module}.{name}"
    return f"{module}.{name}"


_Entry = tuple[str, str, ast.expr]  # name, annotation, default


def _fields(found: ast.ClassDef) -> Iterator[_Entry]:
    """The fields of a dataclass with a default."""
    for item in found.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        kind = ast.unparse(item.annotation)
        if item.value is not None and "ClassVar" not in kind:
            yield item.target.id, kind, item.value


def _arguments(function: ast.FunctionDef) -> list[_Entry]:
    """The arguments of a constructor with a default."""
    spec = function.args
    places = spec.args[len(spec.args) - len(spec.defaults) :]
    pairs = [*zip(places, spec.defaults, strict=True)]
    pairs += [
        (each, default)
        for each, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
        if default is not None
    ]
    return [
        (each.arg, ast.unparse(each.annotation) if each.annotation else "", default)
        for each, default in pairs
    ]


def _entries(docstring: str) -> dict[str, str]:
    """`name: what it is` of the sections Args and Attributes, the first sentence of each."""
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in docstring.splitlines():
        depth = len(line) - len(line.lstrip())
        if not depth and line:
            inside, names = line in ("Args:", "Attributes:"), []
        elif inside and depth == 4 and (match := _ENTRY.fullmatch(line.strip())):
            names = match[1].split(", ")
            found |= dict.fromkeys(names, match[2])
        elif inside and depth > 4:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return {name: re.split(r"(?<=\w)\. ", text)[0].rstrip(".") for name, text in found.items()}
