"""The grid of a comparison: every run's picture, by the settings that differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pds_cli.errors import UserError
from pds_cli.metrics import names
from pds_cli.pages.page import Picture, picture, precise, relative_link
from pds_cli.pages.plan import Plan
from pds_cli.pictures import sheets
from pds_cli.runs import layout
from pds_cli.runs.differences import Settings, axis_positions, clean, position, value_text
from pds_cli.runs.record import RunRecord

CAPTIONS = (
    *("success", "kept", "clip_direction", "lpips_truth", "psnr_truth"),
    *("lpips_source", "psnr_source", "ssim_truth", "ssim_source"),
)
THUMBNAIL = 360
# Pictures that fit side by side on a page 900 pixels wide; more goes into rows below.
ACROSS = 6


@dataclass(frozen=True)
class Label:
    """A row's or column's heading: the main text and finer print."""

    text: str
    small: str = ""

    @property
    def line(self) -> str:
        return f"{self.text} {self.small}".strip()


@dataclass
class Cell:
    """One run in the grid."""

    run: RunRecord
    link: str | None
    image: Path | None
    picture: Picture | None
    note: str
    captions: list[tuple[str, str]]


@dataclass
class Grid:
    """cells[row][column] is the list of runs there; source and truth are per row or None."""

    rows: list[Label]
    columns: list[Label]
    cells: list[list[list[Cell]]]
    sources: list[Path | None] | None = None
    sources_above: list[Path | None] | None = None
    truths: list[Path | None] | None = None

    @property
    def bands(self) -> list[range]:
        """Columns that stand side by side, about as many in each band as in the others."""
        count = len(self.columns)
        room = ACROSS - bool(self.sources) - bool(self.truths)
        each = math.ceil(count / math.ceil(count / room))
        return [range(i, min(i + each, count)) for i in range(0, count, each)]

    @property
    def across(self) -> int:
        """The most pictures that stand side by side."""
        return max(map(len, self.bands)) + bool(self.sources) + bool(self.truths)


def axis_label(node: Settings, keys: Sequence[str], along: dict[str, list[str]]) -> Label:
    """A heading: the axis' own values, then in small print what goes along with them."""
    extra = [key for main in keys for key in along.get(main, [])]
    small = [value_text(key, node) for key in extra if key in node]
    return Label(", ".join(value_text(key, node) for key in keys), ", ".join(small[:4]))


def build_grid(
    runs: Sequence[RunRecord], settings: dict[int, Settings], plan: Plan, folder: Path
) -> Grid:
    """Put every run into its cell; runs that differ in nothing get a column each."""
    nodes = [settings.get(id(run), {}) for run in runs]
    captions = caption_names(runs)
    row_axis, column_axis = (axis_positions(nodes, keys) for keys in (plan.rows, plan.columns))
    rows = [axis_label(node, plan.rows, plan.along) for _, node in row_axis]
    if not plan.rows and not plan.columns:
        columns = [Label(clean(run.path.resolve().name)) for run in runs]
        grid = Grid(rows, columns, [[[make_cell(run, captions, folder)] for run in runs]])
    else:
        columns = [axis_label(node, plan.columns, plan.along) for _, node in column_axis]
        grid = Grid(rows, columns, [[[] for _ in columns] for _ in rows])
        row_at = {key: i for i, (key, _) in enumerate(row_axis)}
        column_at = {key: i for i, (key, _) in enumerate(column_axis)}
        for run, node in zip(runs, nodes, strict=True):
            row, column = row_at[position(node, plan.rows)], column_at[position(node, plan.columns)]
            grid.cells[row][column].append(make_cell(run, captions, folder))
    by_row = [[cell.run for cells in row for cell in cells] for row in grid.cells]
    by_column = [
        [cell.run for row in grid.cells for cell in row[i]] for i in range(len(grid.columns))
    ]
    grid.sources = shared_pictures(by_row, "source")
    grid.sources_above = None if grid.sources else shared_pictures(by_column, "source")
    grid.truths = shared_pictures(by_row, "truth")
    return grid


def shared_pictures(lines: Sequence[Sequence[RunRecord]], kind: str) -> list[Path | None] | None:
    """The one picture of each line; None where some line has several, or no line has any."""
    out: list[Path | None] = []
    for runs in lines:
        found: dict[bytes, Path] = {}
        for run in runs:
            path = first_view(run, kind)
            data = _bytes(path) if path else b""
            if path and data:
                found.setdefault(data, path)
        if len(found) > 1:
            return None
        out.append(next(iter(found.values()), None))
    return out if any(out) else None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def first_view(run: RunRecord, kind: str) -> Path | None:
    views = run.views
    return run.final(kind, views[0]) if views else None


def make_cell(run: RunRecord, captions: Sequence[str], folder: Path) -> Cell:
    """A run's picture (result, else its latest render), link and captions."""
    note = {"stopped": "stopped", "incomplete": "incomplete"}.get(run.status, "")
    candidates: list[tuple[Path, str]] = []
    if run.status != "failed":
        if result := first_view(run, "result"):
            candidates.append((result, note))
        frames = [f for f in run.frames if not run.views or f.view == run.views[0]]
        candidates += [(f.path, f"{note or 'incomplete'}, step {f.step}") for f in frames[::-1][:3]]
    image, found = None, None
    for path, text in candidates:
        if found := picture(path, THUMBNAIL):
            image, note = path, text
            break
    report = run.path / layout.REPORT
    link = relative_link(report, folder) if report.is_file() else None
    metrics = run.metrics
    shown_metrics = [(names.metric(n).label, precise(metrics[n])) for n in captions if n in metrics]
    return Cell(run, link, image, found, note, shown_metrics)


def caption_names(runs: Sequence[RunRecord]) -> list[str]:
    """The two metrics that say most, of those that were measured."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    known = [name for name in CAPTIONS if name in names]
    return (known or list(names))[:2]


def grid_image(grid: Grid, title: str) -> Any:
    """The grid as one picture, for slides and READMEs."""
    heads = [label.line for label in grid.columns]
    images: list[Any] = []
    labels: list[str] = []
    if grid.sources_above:
        images += [_readable(path) for path in grid.sources_above]
        labels += [""] * len(heads)
    for i, row in enumerate(grid.cells):
        line = [cells[0] if cells else None for cells in row]
        pictures = [_readable(cell.image) if cell else None for cell in line]
        texts = [_cell_text(cell) if cell else "" for cell in line]
        if grid.sources:
            pictures, texts = [_readable(grid.sources[i]), *pictures], ["", *texts]
        if grid.truths:
            pictures, texts = [*pictures, _readable(grid.truths[i])], [*texts, ""]
        images, labels = images + pictures, labels + texts
        if grid.sources_above and grid.truths and i == 0:  # the row above has no truth either
            images.insert(len(heads), None)
            labels.insert(len(heads), "")
    names = [*(["source"] if grid.sources else []), *heads, *(["true edit"] if grid.truths else [])]
    sides = [*(["source"] if grid.sources_above else []), *(label.line for label in grid.rows)]
    return sheets.contact_sheet(
        images,
        len(names),
        labels,
        row_labels=sides if any(sides) else None,
        column_labels=names,
        title=title,
        tile=192,
    )


def _readable(path: Path | None) -> Any:
    try:
        return sheets.to_pil(path) if path else None
    except UserError:
        return None


def _cell_text(cell: Cell) -> str:
    if cell.run.status == "failed":
        return "failed: " + clean(cell.run.error_line())[:80]
    return " · ".join(
        [*([cell.note] if cell.note else []), *(f"{n} {v}" for n, v in cell.captions)]
    )
