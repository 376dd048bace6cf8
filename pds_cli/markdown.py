"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""A table, without a newline at its end; a bar in a cell is escaped, a line break a space.

    Args:
        head: the columns' titles.
        rows: as many cells each.

    >>> print(table(["loss", "LPIPS"], [["pds", "0.07"], ["a|b", "–"]]))
    | loss | LPIPS |
    |---|---|
    | pds | 0.07 |
    | a\|b | – |
    """
    rule = "|" + "---|" * len(head)
    return "\n".join([_line(head), rule, *(_line(row) for row in rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
