"""The command lines of the GPU's scripts: words of the form key=value, and what they write."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn


def refuse(reason: str) -> NoReturn:
    """Ends the script with a sentence and exit code 2."""
    print(reason, file=sys.stderr)
    sys.exit(2)


def options(argv: list[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The defaults, and over them what the command line says."""
    found = dict(defaults)
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals or key not in found:
            refuse(f"{word!r} is not understood: give key=value with one of {', '.join(found)}")
        found[key] = value
    return found


def number(found: Mapping[str, str], key: str) -> int:
    """A count of at least 1."""
    if not found[key].isdecimal() or int(found[key]) < 1:
        refuse(f"{key}={found[key]} must be a whole number of at least 1")
    return int(found[key])


def choice(found: Mapping[str, str], key: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """One of the known words."""
    if found[key] not in known:
        refuse(f"{key}={found[key]} is not known; choose one of {', '.join(known)}")
    return found[key]


def write_json(path: Path, content: Any) -> None:
    """Writes the file whole or not at all, so that a killed script leaves what it had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
