"""report.html: one run as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pds_cli.files import write_text
from pds_cli.metrics import names
from pds_cli.pages.charts import Chart, build_chart
from pds_cli.pages.page import (
    Picture,
    animation,
    duration,
    file_size,
    picture,
    render,
)
from pds_cli.runs import layout
from pds_cli.runs.differences import clean, flatten, shown
from pds_cli.runs.record import Frame, RunRecord, number, read_run

MOST_FRAMES = 12
MOST_VIEWS = 8
THUMBNAIL = 320
TURNTABLES = {"Before": layout.TURNTABLE_BEFORE, "After": layout.TURNTABLE}


@dataclass(frozen=True)
class Still:
    """A picture with its caption."""

    caption: str
    picture: Picture


@dataclass(frozen=True)
class ViewPanel:
    """One view: what the slider compares, the true edit, the mask, and the frames between."""

    name: str
    before: Still | None
    after: Still | None
    truth: Still | None
    mask: Still | None
    film: list[Still]

    @property
    def stills(self) -> list[Still]:
        found = (self.before, self.after, self.truth, self.mask)
        return [still for still in found if still is not None]


@dataclass(frozen=True)
class MetricRow:
    """One metric with its values against each reference."""

    meaning: names.Metric
    values: dict[str, float | None]


def write_report(folder: Path | str) -> Path:
    """Write `report.html` into a run folder, whole or not at all, and return its path.

    Reads only the files of the run folder; those that are missing or damaged are left out and,
    where damaged, named on the page. The page needs no other file and no network.
    Raises UserError where `folder` is no run folder or cannot be written.
    """
    run = read_run(folder)
    return write_text(run.path / layout.REPORT, report_html(run))


def report_html(run: RunRecord) -> str:
    """The page of one run."""
    panels = [panel for name in run.views[:MOST_VIEWS] if (panel := _panel(run, name))]
    rows, references = metric_rows(run.metrics)
    curves = [build_chart("Loss", run.records, "loss", "loss_ema")]
    curves.append(build_chart("Gradient norm", run.records, "grad_norm"))
    charts: list[Chart] = [curve for curve in curves if curve is not None]
    return render(
        "report.html.j2",
        run=run,
        wide=False,
        title=clean(run.prompt) or untitled(run),
        source_prompt=clean(run.source_prompt),
        facts=facts(run),
        panels=panels,
        turntables=turntables(run),
        views_left_out=max(0, len(run.views) - MOST_VIEWS),
        rows=rows,
        references=references,
        reference_texts=names.REFERENCES,
        charts=charts,
        config_text=clean(run.config_text),
        environment=[(key, shown(value)) for key, value in flatten(run.environment).items()],
        exports=[(clean(name), file_size(size)) for name, size in run.exports],
        data={"readouts": [chart.readout for chart in charts]},
    )


def untitled(run: RunRecord) -> str:
    """A title for a run without prompt: its folder's name."""
    return f"Run {clean(run.path.resolve().name)}"


def facts(run: RunRecord) -> list[tuple[str, str]]:
    """The few settings a reader looks for first."""
    config, summary = run.config, run.summary
    steps = number(summary.get("steps"))
    if steps is None:
        steps = max((number(r.get("step")) or 0.0 for r in run.records), default=None)
    pairs: list[tuple[str, Any]] = [
        ("Loss", run.choice("loss").upper()),
        ("Backbone", run.choice("backbone")),
        ("Scene", run.choice("scene")),
        ("Representation", run.choice("representation")),
        ("Guidance", _first(summary.get("guidance"), config.get("guidance"))),
        ("Steps", None if steps is None else int(steps)),
        ("Seed", config.get("seed")),
        ("View prompts", counted(summary.get("view_prompts"))),
        ("Time", duration(number(summary.get("seconds")))),
        ("Device", _device(run)),
    ]
    return [(name, shown(value)) for name, value in pairs if value not in (None, "")]


def counted(found: Any) -> str:
    """What prompts said of views, and of how many, as `front view (6), back view (5)`."""
    if not isinstance(found, dict):
        return ""
    return ", ".join(f"{words or 'nothing'} ({count})" for words, count in found.items())


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _device(run: RunRecord) -> Any:
    device = run.environment.get("device")
    if isinstance(device, dict):
        device = _first(device.get("name"), device.get("type"))
    return _first(device, run.config.get("device"))


def _panel(run: RunRecord, view: str) -> ViewPanel | None:
    frames = [frame for frame in run.frames if frame.view == view]
    before = _still("Source", run.final("source", view))
    after = _still("Result", run.final("result", view))
    if after is None:  # stopped, or still running: the latest render that can be read
        for frame in reversed(frames):
            if after := _still(f"After {_step_text(frame, frames)}", frame.path):
                break
    truth = _still("True edit", run.final("truth", view))
    film = [
        Still(_step_text(frame, frames), found)
        for frame in subsample(frames, MOST_FRAMES)
        if (found := picture(frame.path, THUMBNAIL))
    ]
    mask = _still("White may change", run.path / layout.MASKS / f"{view}.png")
    panel = ViewPanel(clean(view), before, after, truth, mask, film)
    return panel if panel.stills or film else None


def turntables(run: RunRecord) -> list[Still]:
    """The films that `pds edit` makes of a 3D scene, those that are there."""
    found = {name: animation(run.path / file) for name, file in TURNTABLES.items()}
    return [Still(name, film) for name, film in found.items() if film]


def _still(caption: str, path: Path | None) -> Still | None:
    found = picture(path)
    return Still(caption, found) if found else None


def _step_text(frame: Frame, frames: Sequence[Frame]) -> str:
    several = len({f.stage for f in frames}) > 1
    return f"{clean(frame.stage)} {frame.step}" if several else f"step {frame.step}"


def subsample(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` items, evenly spaced, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def metric_rows(metrics: dict[str, float | None]) -> tuple[list[MetricRow], list[str]]:
    """Rows of the metrics table, and its columns (references; "" for metrics that have none)."""
    rows: dict[str, MetricRow] = {}
    seen: set[str] = set()
    for name, value in metrics.items():
        base, reference = names.parts(name)
        rows.setdefault(base, MetricRow(names.metric(name), {})).values[reference] = value
        seen.add(reference)
    return list(rows.values()), [r for r in ("", "truth", "source") if r in seen]
