"""`pds <verb> --help` in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from pds_cli.options.described import Key, Part

WIDTH = 80
_JOINT = "\N{NO-BREAK SPACE}"
_LEFT = 30  # letters of `key=value` before the words; longer ones have a line of their own
FLAGS = (
    "Flags: -m sweep · --cfg job|hydra|all · --info · --config-dir <folder> · -p <part> · "
    "--hydra-help"
)


def page(
    head: str,
    groups: Mapping[str, Iterable[str]],
    parts: Sequence[Part],
    about: Mapping[str, str],
) -> str:
    """The whole page.

    Args:
        head: the verb and what it does.
        groups: group → its options, those that the verb takes.
        parts: the keys.
        about: title of a part → a line about it.
    """
    lines = textwrap.wrap(head, WIDTH)
    if groups:
        lines += ["", "Groups, as <group>=<option>; --help <group>=<option> shows its keys:"]
        for group, names in groups.items():
            # An option of a folder stands for all in it.
            short = dict.fromkeys(
                f"{name.partition('/')[0]}/…" if "/" in name else name for name in names
            )
            lines += _columns(f"  {group}", ", ".join(short), 18)
    for part in parts:
        said = f"{part.title}: {about[part.title]}" if about.get(part.title) else part.title
        lines += ["", *textwrap.wrap(said, WIDTH), *section(part.keys)]
    return "\n".join([*lines, "", *textwrap.wrap(FLAGS, WIDTH)])


def section(keys: Iterable[Key]) -> list[str]:
    """The lines of some keys: `key=value`, and beside it words and what it can be."""
    lines: list[str] = []
    for key in keys:
        words = key.help + (f" [{_together(key.can_be)}]" if key.can_be else "")
        lines += _columns(f"  {key.name}={key.value}", words.strip(), _LEFT + 2)
    return [line.replace(_JOINT, " ") for line in lines]


def _together(text: str) -> str:
    """A few words as one, so that no line ends within them."""
    return text.replace(" ", _JOINT) if len(text) <= 30 else text


def _columns(left: str, right: str, column: int) -> list[str]:
    """`left`, and `right` beside it or, where that is too long, below it."""
    indent = " " * column
    wrapped = textwrap.wrap(
        right, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    if len(left) < column - 1 and wrapped:
        return [left.ljust(column) + wrapped[0].lstrip(), *wrapped[1:]]
    first = textwrap.wrap(
        left, WIDTH, subsequent_indent="      ", break_long_words=False, break_on_hyphens=False
    )
    return [*first, *wrapped]
