"""What benchmarks show: tables of scores by method and by edit, and one sheet of pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pds_cli.evaluation.table import bootstrap
from pds_cli.markdown import table
from pds_cli.metrics.names import metric, title
from pds_cli.pictures.sheets import contact_sheet, save_image

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""method → a row an edit and seed: `edit`, `seed`, and its scores."""
SOURCES, TRUTHS = "sources", "true edits"
"""What stands beside the methods: no edit at all, and the true one, where it is known."""
MANY = 6  # edits of a sheet; more of them stand side by side


def edited(rows: Rows) -> list[str]:
    """The methods that were run."""
    return [name for name in rows if name not in (SOURCES, TRUTHS)]


def means(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, float]:
    """The mean of each score over the rows that have it."""
    found = {key: _values(rows, key) for key in columns}
    return {key: sum(values) / len(values) for key, values in found.items() if values}


def method_table(
    rows: Rows, columns: Sequence[str], words: Mapping[str, Sequence[str]] | None = None
) -> str:
    """A row a method: the mean of each score with its interval, by bootstrap over edits and seeds.

    words: method → how it was made, for a column of its own.
    """
    head = ["method", *(["words"] if words else []), *map(title, columns)]
    lines = []
    for name, found in rows.items():
        made = [" ".join(words.get(name, ()))] if words else []
        lines.append([name, *made, *(_mean(found, key) for key in columns)])
    return table(head, lines)


def edit_table(rows: Rows, columns: Sequence[str]) -> str:
    """A row an edit: the mean scores of each method, with a slash between them."""
    edits = dict.fromkeys(str(row["edit"]) for found in rows.values() for row in found)
    lines = []
    for edit in edits:
        cells = []
        for found in rows.values():
            mean = means([row for row in found if row["edit"] == edit], columns)
            cells.append(" / ".join(metric(k).number(v) for k, v in mean.items()) or "–")
        lines.append([edit, *cells])
    return table(["edit", *rows], lines)


def tables(
    rows: Rows,
    columns: Sequence[str],
    by_edit: Sequence[str],
    words: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """The paragraphs of `table.md`: by method, then some scores by edit."""
    return [
        method_table(rows, columns, words),
        f"By edit, {' / '.join(map(title, by_edit))}:",
        edit_table({name: found for name, found in rows.items() if found}, by_edit),
    ]


def _values(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float(row[key]) for row in rows if row.get(key) is not None]


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    values = _values(rows, key)
    if not values:
        return "–"
    mean = sum(values) / len(values)
    # The true edit has a PSNR without bounds to itself.
    if len(values) < 2 or not math.isfinite(mean):
        return metric(key).number(mean)
    return metric(key).interval(mean, *bootstrap(values))


def save_sheet(edits: Mapping[str, Mapping[str, Sequence[Any]]], path: Path) -> Path:
    """One picture of all edits, with a row an edit; of many edits, two of them in a row.

    edits: edit → column → what is shown there, as many pictures in each column; columns are
        sources, methods and true edits. Nothing is shown of a method that has none.
    """
    columns = list(dict.fromkeys(name for found in edits.values() for name in found))
    last = [name for name in columns if name == TRUTHS]
    columns = [name for name in columns if name != TRUTHS] + last
    sides = max(len(shown) for found in edits.values() for shown in found.values())
    tiles, labels = [], []
    for edit, found in edits.items():
        for side in range(sides):
            for name in columns:
                shown = found.get(name, ())
                tiles.append(shown[side] if side < len(shown) else None)
                labels.append(edit if name == SOURCES else name)
    across = sides if sides > 1 else 2 if len(edits) > MANY else 1
    return save_image(contact_sheet(tiles, across * len(columns), labels), path)
