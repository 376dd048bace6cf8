"""The comparison page of several runs: a grid by what differs, and a table of their metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pds_cli.errors import UserError
from pds_cli.files import write_text
from pds_cli.pages.page import (
    Meaning,
    Picture,
    duration,
    meaning,
    metric_parts,
    picture,
    precise,
    relative_link,
    render,
)
from pds_cli.pictures import sheets
from pds_cli.runs.differences import (
    MISSING,
    PLAIN,
    Settings,
    all_settings,
    axis_positions,
    canonical,
    clean,
    column_of,
    determines,
    differing_keys,
    edit_of,
    find_key,
    group_labels,
    is_edit,
    position,
    shown,
    value_text,
)
from pds_cli.runs.record import RunRecord, number, read_run

CAPTIONS = (
    *("success", "kept", "clip_direction", "lpips_truth", "psnr_truth"),
    *("lpips_source", "psnr_source", "ssim_truth", "ssim_source"),
)
THUMBNAIL = 360
# What fits side by side on a page 900 pixels wide; more goes into rows below.
ACROSS = 6  # pictures
ROOM = 852  # pixels of a table, of which a setting, a metric or a time takes so many:
WIDTHS = {"number": 76, "metric": 80, "seconds": 100, "status": 104, "joined": 250}
MOST_SETTINGS = 430  # pixels of settings; beyond that they share a column


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


@dataclass
class Plan:
    """Which settings make the rows and columns, and which merely go along with one of them."""

    rows: list[str]
    columns: list[str]
    along: dict[str, list[str]] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        main = [*self.rows, *self.columns]
        return main + [key for name in main for key in self.along.get(name, [])]


def write_comparison(
    runs: Sequence[Path | str],
    out: Path | str,
    rows: str | None = None,
    columns: str | None = None,
    title: str | None = None,
) -> Path:
    """Write the comparison page of `runs`, with `grid.png` and `table.md` beside it.

    runs: run folders; a failed job's holds error.txt. Damaged ones are shown as incomplete.
    out: a folder, in which `comparison.html` is written, or the path of an .html file.
    rows, columns: config keys such as `loss` or `loss.identity`; None: chosen from what differs.
    Returns the page's path. Raises UserError for no runs, a folder that is no run, an unknown
    key, or a place that cannot be written.
    """
    if not runs:
        raise UserError("there is nothing to compare: name at least one run folder")
    out = Path(out)
    page = out if out.suffix.lower() in (".html", ".htm") else out / "comparison.html"
    unique = {Path(path).resolve(): Path(path) for path in runs}
    records = [read_run(path) for path in unique.values()]
    placed = [run for run in records if run.config]
    settings = dict(zip(map(id, placed), all_settings(placed), strict=True))
    plan = make_plan(list(settings.values()), rows, columns)
    grid = build_grid(placed or records, settings, plan, page.parent)
    table = Table(records, settings, plan, page.parent)
    heading = title or _heading(records)
    sheets.save_image(grid_image(grid, heading), page.with_name("grid.png"))
    write_text(page.with_name("table.md"), table.markdown(heading))
    return write_text(page, _html(records, placed, settings, plan, grid, table, heading))


# ---------------------------------------------------------------------------- what differs


def make_plan(settings: Sequence[Settings], rows: str | None, columns: str | None) -> Plan:
    """Choose rows and columns: one key makes the columns, all others are joined into the rows.

    A key that another one determines makes no axis of its own (each loss with its own guidance
    would give a grid with only a diagonal) and goes into that one's finer print.
    """
    asked = [find_key(settings, key) for key in (rows, columns) if key]
    values = {key: column_of(settings, key) for key in [*asked, *differing_keys(settings)]}
    main = list(dict.fromkeys(asked))
    along: dict[str, list[str]] = {}
    for key in values:
        if key in main:
            continue
        leader = next((m for m in main if determines(values[m], values[key])), None)
        if leader is None:
            main.append(key)
        else:
            along.setdefault(leader, []).append(key)
    column = asked[-1] if columns else _best_column([k for k in main if not rows or k != asked[0]])
    if rows and columns and asked[0] == asked[1]:
        raise UserError(f"rows and columns are both {rows}; name two different keys")
    column_keys = [column] if column else []
    return Plan([key for key in main if key not in column_keys], column_keys, along)


def _best_column(keys: Sequence[str]) -> str | None:
    if not keys or (len(keys) == 1 and is_edit(keys[0])):
        return None
    # With prompts or scenes down the side, losses side by side are what one looks for.
    if "loss" in keys and (len(keys) > 2 or any(map(is_edit, keys))):
        return "loss"
    others = [key for key in keys if key != "seed"]
    return (others or list(keys))[-1]


# ---------------------------------------------------------------------------- the grid


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
    report = run.path / "report.html"
    link = relative_link(report, folder) if report.is_file() else None
    metrics = run.metrics
    shown_metrics = [(meaning(n).label, precise(metrics[n])) for n in captions if n in metrics]
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


# ---------------------------------------------------------------------------- the table


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
            columns.append(Column(name, metric_title(name), meaning(name).text, True))
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
        report = run.path / "report.html"
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
        heads = [_markdown(column.title) for column in self.columns]
        rule = ["---:" if column.numeric else "---" for column in self.columns]
        lines = [f"# {_markdown(title)}", "", _pipes(heads), _pipes(rule)]
        for line in self.lines:
            texts = [_markdown(entry.text) for entry in line]
            lines.append(
                _pipes(f"**{t}**" if e.best else t for t, e in zip(texts, line, strict=True))
            )
        meanings = dict.fromkeys(meaning(name) for name in self.metrics)
        notes = [f"- bold: {self.legend}"]
        notes += [f"- {m.label} {m.arrow}: {m.text}" for m in meanings if m.text]
        if failed := [run for run in self.runs if run.error is not None]:
            notes += [
                f"- failed, {_markdown(clean(run.path.resolve().name))}: "
                f"{_markdown(clean(run.error_line()))}"
                for run in failed
            ]
        return "\n".join([*lines, "", *notes, ""])


def metric_title(name: str) -> str:
    """`PSNR ↑ (truth)` for `psnr_truth`."""
    found, reference = meaning(name), metric_parts(name)[1]
    return " ".join(
        part for part in (found.label, found.arrow, f"({reference})" if reference else "") if part
    )


def best_value(name: str, runs: Iterable[RunRecord]) -> float | None:
    """The best value of a metric; None where it has no direction or all runs are equal."""
    direction = meaning(name).better
    values = [v for run in runs if (v := run.metrics.get(name)) is not None and not math.isnan(v)]
    if not direction or len(set(values)) < 2:
        return None
    choose: Callable[[list[float]], float] = max if direction > 0 else min
    return choose(values)


def _sort_number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown(text: str) -> str:
    """Text that stays one cell and is not read as Markdown or HTML."""
    text = " ".join(text.split())
    for character in "\\`*_[]<>|#~":
        text = text.replace(character, "\\" + character)
    return text.replace("&", "&amp;")


# ---------------------------------------------------------------------------- the page


def _heading(runs: Sequence[RunRecord]) -> str:
    prompts = {run.prompt for run in runs if run.prompt}
    return clean(prompts.pop()) if len(prompts) == 1 else f"Comparison of {len(runs)} runs"


def _facts(
    runs: Sequence[RunRecord], placed: Sequence[RunRecord], plan: Plan
) -> list[tuple[str, str]]:
    pairs = [("Runs", str(len(runs)))]
    for group in ("loss", "backbone", "scene", "representation"):
        labels = {label for label in group_labels(placed, group) if label != "null"}
        if group not in plan.keys and len(labels) == 1:
            label = labels.pop()
            pairs.append((group.capitalize(), label.upper() if group == "loss" else label))
    for key in ("guidance", "steps", "seed"):
        values = {shown(run.config.get(key)) for run in placed} - {"null"}
        if key not in plan.keys and len(values) == 1:
            pairs.append((key.capitalize(), values.pop()))
    total = sum(s for run in runs if (s := number(run.summary.get("seconds"))) and math.isfinite(s))
    return [(k, v) for k, v in [*pairs, ("Time in all", duration(total) if total else "")] if v]


def _troubled(run: RunRecord) -> bool:
    return run.status == "incomplete" or bool(run.problems) or not run.config


def _html(
    records: Sequence[RunRecord],
    placed: Sequence[RunRecord],
    settings: dict[int, Settings],
    plan: Plan,
    grid: Grid,
    table: Table,
    heading: str,
) -> str:
    sources = {clean(run.source_prompt) for run in records if run.source_prompt}
    embedded: dict[Path, Picture | None] = {}

    def embed(path: Path | None) -> Picture | None:
        if path is not None and path not in embedded:
            embedded[path] = picture(path, THUMBNAIL)
        return embedded[path] if path is not None else None

    legends: list[Meaning | str] = [
        f"{metric_title(name)}: {meaning(name).text}" for name in caption_names(records)
    ]
    return render(
        "comparison.html.j2",
        title=clean(heading),
        source_prompt=sources.pop() if len(sources) == 1 else "",
        facts=_facts(records, placed, plan),
        grid=grid,
        embed=embed,
        side=160 if any(len(label.line) > 12 for label in grid.rows) else 84,
        wide=grid.across > 4 or len(table.blocks) > 1,
        legends=legends,
        table=table,
        failed=[run for run in records if run.error is not None],
        troubled=[run for run in records if run.error is None and _troubled(run)],
        lost=[run for run in records if not run.config] if placed else [],
    )
