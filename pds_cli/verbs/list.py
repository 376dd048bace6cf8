"""pds list [group] [--config-dir <folder>]: what each config group offers, one line an option.

The descriptions are the first comment lines of the YAML files.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

import pds_cli.verbs
from pds_cli.errors import UserError, did_you_mean
from pds_cli.options.catalogue import catalogue

HELP = "what each config group offers"
CONFIG = None


def main(argv: list[str]) -> int:
    """Prints all groups and verbs, or the group named."""
    group, folders = _read(argv)
    groups = {"verb": _verbs(), **catalogue(folders)}
    if group is not None and group not in groups:
        raise UserError(
            f"there is no group {group!r}{did_you_mean(group, list(groups))} "
            f"Groups are {', '.join(groups)}."
        )
    _show({group: groups[group]} if group else groups)
    return 0


def verb_names() -> list[str]:
    """The verbs there are, one for each module in `pds_cli.verbs`."""
    modules = pkgutil.iter_modules(pds_cli.verbs.__path__)
    return sorted(module.name for module in modules if not module.name.startswith("_"))


def _read(argv: list[str]) -> tuple[str | None, list[Path]]:
    words, folders = list(argv), []
    for flag in ("--config-dir", "-cd"):
        while flag in words:
            at = words.index(flag)
            if len(words) == at + 1 or not Path(words[at + 1]).is_dir():
                raise UserError(f"{flag} needs a folder with config groups.")
            folders.append(Path(words[at + 1]))
            del words[at : at + 2]
    if len(words) > 1 or any(word.startswith("-") for word in words):
        raise UserError("use pds list, or pds list <group>, with --config-dir <folder> for yours.")
    return (words[0] if words else None), folders


def _verbs() -> dict[str, str]:
    return {name: import_module(f"pds_cli.verbs.{name}").HELP for name in verb_names()}


def _show(groups: dict[str, dict[str, str]]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    width = max(len(option) for options in groups.values() for option in options)
    for number, (group, options) in enumerate(groups.items()):
        console.print(Text("\n" * bool(number) + group, style="bold"))
        for option, description in options.items():
            console.print(Text(f"  {option:<{width}}  {description}"))
