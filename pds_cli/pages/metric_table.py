"""The table of a comparison: the runs' settings and metrics, with the best of each marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pds_cli.markdown import literal, table
from pds_cli.metrics import names
from pds_cli.pages.page import duration, precise, relative_link
from pds_cli.pages.plan import Plan
from pds_cli.runs import layout
from pds_cli.runs.differences import MISSING, PLAIN, Settings, canonical, clean, edit_of, shown
from pds_cli.runs.record import RunRecord, number

# Pixels of a page's table, of which a setting, a metric or a time takes so many; what does not fit
# goes into a table below.
ROOM = 852
WIDTHS = {"number": 76, "metric": 80, "seconds": 100, "status": 104, "joined": 250}
MOST_SETTINGS = 430  # pixels of settings; beyond that they share a column


@dataclass(frozen=True)
class Column:
    """A column of the metric table: a setting, a metric, or how the run went."""

    name: str
    title: str
    hint: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class Block:
    """Columns of the metric table that fit side by side, behind those of the settings."""

    columns: list[Column]
    lines: list[list[Entry]]
    widths: list[float]  # of the columns, in percent


@dataclass(frozen=True)
class Entry:
    """One table cell: its text, what it is sorted by, and whether it is the column's best."""

    text: str
    sort: str
    best: bool = False
    link: str | None = None


class Table:
    """The runs' settings and metrics, with the best of every metric marked."""

    def __init__(
        self,
        runs: Sequence[RunRecord],
        settings: dict[int, Settings],
        plan: Plan,
        folder: Path,
    ) -> None:
        self.runs = list(runs)
        self.settings, self.folder = settings, folder
        self.keys = plan.keys
        self.metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
        edits: dict[Any, list[RunRecord]] = {}
        for run in runs:
            edits.setdefault(edit_of(run), []).append(run)
        # Numbers of different edits say nothing about which run is better.
        self.best = {
            (edit, name): best_value(name, same)
            for edit, same in edits.items()
            for name in self.metrics
        }
        self.several = len(edits) > 1
        self.columns = self._columns()
        self.lines = [self._line(run) for run in self.runs]

    def _columns(self) -> list[Column]:
        columns = [] if self.keys else [Column("run", "run")]
        for key in self.keys:
            values = [node[key] for node in self.settings.values() if key in node]
            numeric = bool(values) and all(canonical(value)[0] == "number" for value in values)
            columns.append(Column(key, key.replace("_", " "), key, numeric))
        for name in self.metrics:
            columns.append(Column(name, names.title(name), names.metric(name).text, True))
        return [*columns, Column("seconds", "time", "seconds", True), Column("status", "status")]

    @property
    def blocks(self) -> list[Block]:
        """The table in parts that a narrow page shows whole, each with the settings."""
        columns, lines = self.columns, self.lines
        count = len(columns) - len(self.metrics) - 2
        widths = [self._width(i) for i in range(count)]
        widths += [WIDTHS.get(c.name, WIDTHS["metric"]) for c in columns[count:]]
        if sum(widths[:count]) > MOST_SETTINGS:
            columns = [Column("settings", "settings"), *columns[count:]]
            lines = [[self._joined(line[:count]), *line[count:]] for line in lines]
            count, widths = 1, [WIDTHS["joined"], *widths[count:]]
        parts: list[list[int]] = [[]]
        for i in range(count, len(columns)):
            used = sum(widths[:count]) + sum(widths[j] for j in parts[-1])
            if used + widths[i] > ROOM and parts[-1]:
                parts.append([])
            parts[-1].append(i)
        return [self._block([*range(count), *part], columns, lines, widths) for part in parts]

    def _width(self, i: int) -> int:
        """Pixels for a column of settings."""
        if self.columns[i].numeric:
            return WIDTHS["number"]
        texts = [self.columns[i].title, *(line[i].text for line in self.lines)]
        return min(24 + 8 * max(map(len, texts)), 150)

    def _block(
        self,
        place: Sequence[int],
        columns: Sequence[Column],
        lines: Sequence[Sequence[Entry]],
        widths: Sequence[float],
    ) -> Block:
        whole = sum(widths[i] for i in place)
        return Block(
            [columns[i] for i in place],
            [[line[i] for i in place] for line in lines],
            [round(100 * widths[i] / whole, 2) for i in place],
        )

    def _joined(self, entries: Sequence[Entry]) -> Entry:
        """All settings of a run as one entry, with the names that their values need."""
        names = [column.name for column in self.columns]
        text = ", ".join(
            entry.text
            if name in PLAIN
            else f"{name.rpartition('.')[2].replace('_', ' ')} {entry.text}"
            for name, entry in zip(names, entries, strict=False)
        )
        return Entry(text, text, link=entries[0].link)

    def _line(self, run: RunRecord) -> list[Entry]:
        node = self.settings.get(id(run), {})
        report = run.path / layout.REPORT
        link = relative_link(report, self.folder) if report.is_file() else None
        entries = [] if self.keys else [Entry(clean(run.path.resolve().name), run.path.name)]
        for key in self.keys:
            text = shown(node[key]) if key in node else MISSING
            text = text.upper() if key == "loss" else text
            kind, value = canonical(node.get(key, MISSING))
            entries.append(Entry(text, repr(value) if kind == "number" else text))
        for name in self.metrics:
            value = run.metrics.get(name)
            is_best = value is not None and value == self.best[edit_of(run), name]
            entries.append(Entry(precise(value), _sort_number(value), is_best))
        seconds = number(run.summary.get("seconds"))
        entries.append(Entry(duration(seconds) or MISSING, _sort_number(seconds)))
        entries.append(Entry(run.status, run.status))
        first = entries[0]
        return [Entry(first.text, first.sort, first.best, link), *entries[1:]]

    @property
    def legend(self) -> str:
        """What is marked as the best."""
        return "best of its column" + (" among the runs of its prompt and scene" * self.several)

    def markdown(self, title: str) -> str:
        """The same table for a README, best values in bold."""
        heads = [literal(column.title) for column in self.columns]
        rows = [
            [f"**{literal(e.text)}**" if e.best else literal(e.text) for e in line]
            for line in self.lines
        ]
        whole = table(heads, rows, [column.numeric for column in self.columns])
        meanings = dict.fromkeys(names.metric(name) for name in self.metrics)
        notes = [f"- bold: {self.legend}"]
        notes += [f"- {m.label} {m.arrow}: {m.text}" for m in meanings if m.text]
        if failed := [run for run in self.runs if run.error is not None]:
            notes += [
                f"- failed, {literal(clean(run.path.resolve().name))}: "
                f"{literal(clean(run.error_line()))}"
                for run in failed
            ]
        return "\n".join([f"# {literal(title)}", "", whole, "", *notes, ""])


def best_value(name: str, runs: Iterable[RunRecord]) -> float | None:
    """The best value of a metric; None where it has no direction or all runs are equal."""
    direction = names.metric(name).better
    values = [v for run in runs if (v := run.metrics.get(name)) is not None and not math.isnan(v)]
    if not direction or len(set(values)) < 2:
        return None
    choose: Callable[[list[float]], float] = max if direction > 0 else min
    return choose(values)


def _sort_number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)
