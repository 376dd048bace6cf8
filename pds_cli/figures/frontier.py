"""The identity dial: what PDS gains and loses as ψ is scaled, with the other methods beside it.

    python -m pds_cli.figures.frontier [outputs] [docs/figures]

Takes what the parts of `make figure-frontier` left, and writes `frontier.json`, the figure
`frontier.png` and its tables `frontier.md`. What is in `frontier.json` from before and was not
measured again stays.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pds_cli.errors import UserError
from pds_cli.files import atomic_path, write_text
from pds_cli.markdown import table

Rows = Mapping[str, Sequence[Mapping[str, float]]]
"""method → the scores of each of its edits."""
Points = dict[str, dict[str, float]]
"""method → its mean scores."""

EXACT = "exact"
_TICKS = (0.025, 0.05, 0.1, 0.2, 0.4)
_DIAL, _OTHER, _EXACT = "#0072B2", "#555555", "#B2182B"


@dataclass(frozen=True)
class Panel:
    """One kind of scene.

    points: method → its mean scores.
    fidelity: which score says how well the prompt was followed, and its title.
    """

    title: str
    points: Mapping[str, Mapping[str, float]]
    fidelity: tuple[str, str]


def identity(name: str) -> float | None:
    """ψ's scale of a method called `id_…`, such as 0.25 of `id_025`; None for another method.

    >>> identity("id_025"), identity("id_8"), identity("sds")
    (0.25, 8.0, None)
    """
    if not name.startswith("id_"):
        return None
    digits = name.removeprefix("id_")
    return float(f"0.{digits[1:]}") if digits.startswith("0") and digits != "0" else float(digits)


def read(path: Path, target: str = "figure-frontier") -> Any:
    """A benchmark's numbers.

    Raises:
        UserError: they are not there.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): run make {target}") from error


def means(rows: Rows) -> Points:
    """method → score → its mean, for the methods that were edits."""
    return {
        name: {
            key: sum(row[key] for row in found) / len(found) for key in SCORES if key in found[0]
        }
        for name, found in rows.items()
        if name not in ("source", "sources", "true edits")
    }


SCORES = ("success", "similarity", "lpips_source", "lpips_truth")
KINDS = {
    "pictures": ("bench/methods", "frontier/image"),
    "drawings": ("frontier/svg",),
    "NeRFs": ("bench/nerf_methods", "frontier/nerf"),
}
"""Kind of scene → where below `outputs` its numbers are."""


def measured(outputs: Path) -> dict[str, Points]:
    """kind → method → mean scores, of the benchmarks that were run."""
    found: dict[str, Points] = {}
    for kind, places in KINDS.items():
        for place in places:
            path = outputs / place / "results.json"
            if path.is_file():
                numbers = read(path)
                several = numbers["rows"] if "rows" in numbers else _cases(numbers["results"])
                found.setdefault(kind, {}).update(means(several))
        found.get(kind, {}).pop("pds", None)  # a point of the dial
    return found


def _cases(results: Mapping[str, Any]) -> Rows:
    return {name: [found["mean"]] for name, found in results.items() if name != "ground truth"}


def merged(kept: Mapping[str, Points], new: Mapping[str, Points]) -> dict[str, Points]:
    """The kept numbers with the new ones in their place, kinds in the order of `KINDS`.

    Raises:
        UserError: there are none.
    """
    found = {kind: {**kept.get(kind, {}), **new.get(kind, {})} for kind in KINDS}
    found = {kind: points for kind, points in found.items() if points}
    if not found:
        raise UserError("No benchmark of the identity dial was run: run make figure-frontier")
    return found


def panels(numbers: Mapping[str, Points]) -> list[Panel]:
    """What is drawn of `merged`."""
    names = {"success": "success", "similarity": "icon similarity to the prompt"}
    found = []
    for kind, points in numbers.items():
        score = "similarity" if kind == "drawings" else "success"
        found.append(Panel(kind, points, (score, names[score])))
    return found


def panel_table(panel: Panel) -> str:
    """Markdown: the dial, then the other methods."""
    key, title = panel.fidelity
    truth = any("lpips_truth" in scores for scores in panel.points.values())
    columns = {key: f"{title} ↑", "lpips_source": "LPIPS to source ↓"}
    if truth:
        columns["lpips_truth"] = "LPIPS to truth ↓"
    rows = []
    for name in _order(panel.points):
        scale = identity(name)
        label = f"PDS, identity {scale:g}" if scale is not None else _label(name)
        rows.append([label, *(f"{panel.points[name][column]:.3f}" for column in columns)])
    return table(["method", *columns.values()], rows)


def _order(points: Mapping[str, Any]) -> list[str]:
    dial = sorted((n for n in points if identity(n) is not None), key=lambda n: identity(n) or 0.0)
    return [*(n for n in points if n == EXACT), *dial,
            *(n for n in points if n != EXACT and identity(n) is None)]  # fmt: skip


def _label(name: str) -> str:
    return "PDS, exact" if name == EXACT else name


def draw(found: Sequence[Panel]) -> Any:
    """The matplotlib figure: fidelity over LPIPS to the source, and over LPIPS to the truth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(found), 8), layout="constrained")
    axes = figure.subplots(2, len(found), squeeze=False)
    for column, panel in enumerate(found):
        for row, (score, title) in enumerate(
            (("lpips_source", "LPIPS to the source"), ("lpips_truth", "LPIPS to the true edit"))
        ):
            ax = axes[row][column]
            if not all(score in scores for scores in panel.points.values()):
                ax.axis("off")
                continue
            _draw_panel(ax, panel, score)
            ax.set(xlabel=title, ylabel=panel.fidelity[1])
            ax.margins(y=0.1)
            low, high = ax.get_ylim()
            ax.set_ylim(low, high + 0.35 * (high - low))  # room for names
            if score == "lpips_truth":
                _log_axis(ax)
            if row == 0:
                ax.set_title(panel.title)
    return figure


def _log_axis(ax: Any) -> None:
    """The good methods lie close together, the bad ones far away."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ticks = [tick for tick in _TICKS if low < tick < high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)


def _draw_panel(ax: Any, panel: Panel, score: str) -> None:
    key = panel.fidelity[0]
    place = {name: (scores[score], scores[key]) for name, scores in panel.points.items()}
    dial = [name for name in _order(place) if identity(name) is not None]
    ax.plot(*zip(*(place[name] for name in dial), strict=True), "o-", color=_DIAL, ms=4, lw=1.2)
    for name, (x, y) in place.items():
        scale = identity(name)
        if scale is not None:
            below = {"xytext": (0, -12), "ha": "center", "color": _DIAL}
            ax.annotate(f"{scale:g}", (x, y), textcoords="offset points", fontsize=8, **below)
            continue
        ink, marker, size = (_EXACT, "*", 9) if name == EXACT else (_OTHER, "s", 4)
        ax.plot([x], [y], marker, color=ink, ms=size)
        above = {"xytext": (1, 5), "rotation": 60, "color": ink}  # many lie side by side
        ax.annotate(_label(name), (x, y), textcoords="offset points", fontsize=8, **above)


def main(argv: Sequence[str]) -> int:
    """Writes the figure and the tables; returns the exit code."""
    outputs = Path(argv[0] if argv else "outputs")
    out = Path(argv[1] if len(argv) > 1 else "docs/figures")
    record = out / "frontier.json"
    try:
        kept = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        numbers = merged(kept, measured(outputs))
        write_text(record, json.dumps(numbers, indent=1) + "\n")
        found = panels(numbers)
        with atomic_path(out / "frontier.png") as temporary:
            draw(found).savefig(temporary, dpi=110, metadata={"Software": None}, format="png")
        parts = ["# The identity dial\n", "Made by `make figure-frontier`; see `docs/pds.md`.\n"]
        parts += [f"## {panel.title}\n\n{panel_table(panel)}\n" for panel in found]
        print(out / "frontier.png", write_text(out / "frontier.md", "\n".join(parts)), sep="\n")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
