"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool] = ()) -> str:
    r"""A table, without a newline at its end; a bar in a cell is escaped, a line break a space.

    Args:
        head: the columns' titles.
        rows: as many cells each.
        numeric: of each column, whether its cells stand at the right; none: all at the left.

    >>> print(table(["loss", "LPIPS"], [["pds", "0.07"], ["a|b", "–"]]))
    | loss | LPIPS |
    |---|---|
    | pds | 0.07 |
    | a\|b | – |
    """
    rule = "|" + "".join("---:|" if right else "---|" for right in numeric or [False] * len(head))
    return "\n".join([_line(head), rule, *(_line(row) for row in rows)])


def literal(text: str) -> str:
    r"""One line of text that is not read as Markdown or HTML; `table` escapes its bars.

    >>> print(literal("a_b & <c>"))
    a\_b &amp; \<c\>
    """
    for character in "\\`*_[]<>#~":
        text = text.replace(character, "\\" + character)
    return " ".join(text.replace("&", "&amp;").split())


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
