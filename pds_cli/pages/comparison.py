"""The comparison page of several runs: a grid by what differs, and a table of their metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from pds_cli.errors import UserError
from pds_cli.files import write_text
from pds_cli.metrics import names
from pds_cli.pages.grid import THUMBNAIL, Grid, build_grid, caption_names, grid_image
from pds_cli.pages.metric_table import Table
from pds_cli.pages.page import Picture, duration, picture, render
from pds_cli.pages.plan import Plan, make_plan
from pds_cli.pictures import sheets
from pds_cli.runs import layout
from pds_cli.runs.differences import Settings, all_settings, clean, group_labels, shown
from pds_cli.runs.record import RunRecord, number, read_run


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
    page = out if out.suffix.lower() in (".html", ".htm") else out / layout.COMPARISON
    unique = {Path(path).resolve(): Path(path) for path in runs}
    records = [read_run(path) for path in unique.values()]
    placed = [run for run in records if run.config]
    settings = dict(zip(map(id, placed), all_settings(placed), strict=True))
    plan = make_plan(list(settings.values()), rows, columns)
    grid = build_grid(placed or records, settings, plan, page.parent)
    table = Table(records, settings, plan, page.parent)
    heading = title or _heading(records)
    sheets.save_image(grid_image(grid, heading), page.with_name("grid.png"))
    write_text(page.with_name(layout.TABLE), table.markdown(heading))
    return write_text(page, _html(records, placed, settings, plan, grid, table, heading))


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

    legends: list[names.Metric | str] = [
        f"{names.title(name)}: {names.metric(name).text}" for name in caption_names(records)
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
