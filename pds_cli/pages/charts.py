"""Curves of metrics.jsonl as inline SVG: ticks, paths, and the numbers for the pointer's readout.

The SVG is stretched to its box while tick labels are HTML, so text keeps its size on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pds_cli.runs.record import number

SIDE = 1000.0  # the SVG's own units, both ways
MOST_POINTS = 600
LOG_RATIO = 30.0
LARGEST = 1e100  # beyond it a run has blown up, and spans would overflow
Point = tuple[float, float]


@dataclass
class Series:
    """One stage's values of one quantity; NaN and infinite values are left out."""

    stage: str
    points: list[Point] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    """SVG path data and its look: `raw` (faint) or `main`, and the stage's number."""

    data: str
    kind: str
    stage: int


@dataclass(frozen=True)
class Chart:
    """Everything the template needs; positions are percentages of the plot's box."""

    title: str
    scale: str
    paths: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    stages: list[tuple[float, str]]
    readout: dict[str, Any]
    description: str


def build_chart(
    title: str, records: Sequence[dict[str, Any]], key: str, smooth_key: str | None = None
) -> Chart | None:
    """A chart of `key` over the steps, stage after stage; None without a finite value.

    The strong line is `smooth_key` where it was recorded, else a running mean of `key`.
    """
    starts = stage_starts(records)
    raw = split_stages(records, key, starts)
    if not raw:
        return None
    recorded = split_stages(records, smooth_key, starts) if smooth_key else []
    by_stage = {series.stage: series for series in recorded}
    smooth = [by_stage.get(series.stage) or _averaged(series) for series in raw]
    values = [y for series in (*raw, *smooth) for _, y in series.points]
    xs = [x for series in raw for x, _ in series.points]
    x_range = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)
    if 0 < x_range[0] < 0.05 * x_range[1]:
        x_range = (0.0, x_range[1])
    log = wants_log([y for series in raw for _, y in series.points]) and min(values) > 0
    y_range = _y_range(values, log)
    to_x = _scale(*x_range, False)
    to_y = _scale(*y_range, log)
    paths: list[Curve] = []
    for kind, lines in (("raw", raw), ("main", smooth)):
        for series in lines:
            points = [(to_x(x), 1 - to_y(y)) for x, y in thin(series.points)]
            paths.append(Curve(_path(points), kind, list(starts).index(series.stage) % 4))
    y_ticks = [(100 * (1 - to_y(v)), short(v)) for v in ticks(*y_range, log)]
    x_ticks = [(100 * to_x(v), short(v)) for v in ticks(*x_range, False, whole=True)]
    marks = [(100 * to_x(series.points[0][0]), series.stage) for series in raw]
    final = smooth[-1].points[-1]
    return Chart(
        title,
        "log" if log else "linear",
        paths,
        x_ticks,
        y_ticks,
        marks,
        _readout(raw, smooth, starts, to_x, to_y),
        f"{title} over {short(x_range[1])} steps, from {short(smooth[0].points[0][1])} "
        f"to {short(final[1])}",
    )


def stage_starts(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What to add to each stage's steps so that stages which count from 0 follow one another."""
    spans: dict[str, tuple[float, float]] = {}
    for record in records:
        stage, step = _stage(record), number(record.get("step")) or 0.0
        low, high = spans.get(stage, (step, step))
        spans[stage] = (min(low, step), max(high, step))
    starts: dict[str, float] = {}
    end = -math.inf
    for stage, (low, high) in spans.items():
        shift = end if low < end else 0.0
        starts[stage] = shift
        end = high + shift
    return starts


def split_stages(
    records: Sequence[dict[str, Any]], key: str, starts: dict[str, float]
) -> list[Series]:
    """The finite values of `key`, a series a stage; of a step written twice the later one counts.

    A resumed run writes the steps after its checkpoint a second time.
    """
    found: dict[str, dict[float, float]] = {}
    for record in records:
        value, step = number(record.get(key)), number(record.get("step"))
        stage = _stage(record)
        if step is not None and value is not None and abs(value) < LARGEST:
            found.setdefault(stage, {})[step + starts.get(stage, 0.0)] = value
    return [Series(stage, sorted(found[stage].items())) for stage in starts if found.get(stage)]


def _stage(record: dict[str, Any]) -> str:
    stage = record.get("stage")
    return stage if isinstance(stage, str) else ""


def _averaged(series: Series) -> Series:
    """A mean over neighbours on both sides, so that it does not lag behind; fewer at the ends."""
    points, half = series.points, min(50, len(series.points) // 16)
    values = [y for _, y in points]
    out: list[Point] = []
    for i, (x, _) in enumerate(points):
        window = values[max(0, i - half) : i + half + 1]
        out.append((x, math.fsum(window) / len(window)))
    return Series(series.stage, out)


def wants_log(values: Sequence[float]) -> bool:
    """True where all values are positive and all but the extremes span more than a factor 30."""
    if not values or min(values) <= 0:
        return False
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 50], ordered[-1 - len(ordered) // 50]
    return high / low > LOG_RATIO


def _y_range(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return low, high
    if high == low:
        pad = abs(high) * 0.5 or 1.0
        return low - pad, high + pad
    # A curve that stays positive is read against zero unless zero is far away.
    if 0 < low < 0.5 * high:
        low = 0.0
    return low, high + 0.04 * (high - low)


def _scale(low: float, high: float, log: bool) -> Any:
    if log:
        low, high = math.log10(low), math.log10(high)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return ((math.log10(value) if log else value) - low) / span

    return place


def thin(points: list[Point]) -> list[Point]:
    """At most about 600 points: of each run of neighbours the lowest and the highest are kept."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / MOST_POINTS)
    out: list[Point] = []
    for i in range(0, len(points), size):
        bucket = points[i : i + size]
        out += sorted({min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])})
    return out


def _path(points: list[Point]) -> str:
    steps = [f"{SIDE * x:.1f} {SIDE * y:.1f}" for x, y in points]
    if len(steps) == 1:
        steps *= 2  # a round cap makes a line of no length a dot
    return "M" + "L".join(steps)


def ticks(low: float, high: float, log: bool, whole: bool = False) -> list[float]:
    """Three to six round values inside [low, high]; integers only where `whole`."""
    if log:
        return _log_ticks(low, high)
    span = (high - low) / 4
    if not span > 0:
        return [low]
    unit = 10.0 ** math.floor(math.log10(span))
    if unit == 0:
        return [low]
    step = next((unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= span), span)
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, min(last, first + 10) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    every = max(1, math.ceil((last - first) / 5))
    decades = [10.0**e for e in range(first, last + 1, every)]
    if len(decades) >= 3:
        return decades
    marks = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 3)]
    return [m for m in marks if low <= m <= high] or [low]


def short(value: float | None) -> str:
    """A number in few characters: 0.0123, 4.57, 1234, 2.5e+06; an en dash for none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size != 0 and (size < 1e-3 or size >= 1e6):
        text = f"{value:.1e}".replace(".0e", "e").replace("e+0", "e").replace("e-0", "e-")
        text = text.replace("e+", "e")
    elif size >= 1000 or value == int(value):
        text = f"{value:.0f}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")


def _readout(
    raw: list[Series], smooth: list[Series], starts: dict[str, float], to_x: Any, to_y: Any
) -> dict[str, Any]:
    """Points for the pointer: place in percent, step, value, smoothed value, stage."""
    rows: list[list[Any]] = []
    for plain, main in zip(raw, smooth, strict=True):
        averages = dict(main.points)
        points = plain.points
        every = max(1, math.ceil(len(points) * len(raw) / 400))
        for x, y in points[::every] + ([points[-1]] if (len(points) - 1) % every else []):
            average = averages.get(x, y)
            place = [round(100 * to_x(x), 2), round(100 * (1 - to_y(average)), 2)]
            step = f"{x - starts[plain.stage]:.0f}"
            rows.append([*place, step, short(y), short(average), plain.stage])
    return {"points": rows}
