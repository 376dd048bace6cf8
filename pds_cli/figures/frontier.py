"""The identity dial: what PDS gains and loses as ψ is scaled, with the other methods beside it.

    python -m pds_cli.figures.frontier [outputs] [outputs/figures] [docs/figures]

Takes what the parts of `make figure-frontier` left, and writes `frontier.json`, the figure
`frontier.webp` and its tables `frontier.md`. What is in `frontier.json` from before and was not
measured again stays.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pds_cli.errors import UserError
from pds_cli.files import atomic_path, write_text
from pds_cli.markdown import table
from pds_cli.pictures.sheets import QUALITY
from pds_cli.reading import read_json
from pds_cli.runs import layout
from pds_cli.scripts import check_words, run

Rows = Mapping[str, Sequence[Mapping[str, float]]]
"""method → the scores of each of its edits."""
Points = dict[str, dict[str, float]]
"""method → its mean scores."""

EXACT = "exact"
_TICKS = (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8)
_DIAL, _EXACT, _DIAL_LABEL = "#0072B2", "#B2182B", "PDS by its identity"
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7")
_MARKERS = ("s", "^", "D", "v", "P", "X")


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
        return read_json(path)
    except UserError as error:
        raise UserError(f"{error}: run make {target}") from error


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
            path = outputs / place / layout.RESULTS
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

    figure = Figure(figsize=(5.5 * len(found), 9), layout="constrained")
    axes = figure.subplots(2, len(found), squeeze=False)
    styles = _styles(found)
    for column, panel in enumerate(found):
        for row, (score, title) in enumerate(
            (("lpips_source", "LPIPS to the source"), ("lpips_truth", "LPIPS to the true edit"))
        ):
            ax = axes[row][column]
            if not all(score in scores for scores in panel.points.values()):
                ax.axis("off")
                continue
            _draw_panel(ax, panel, score, styles)
            ax.set(xlabel=title, ylabel=panel.fidelity[1])
            ax.margins(y=0.1)
            _root_axis(ax)
            if row == 0:
                ax.set_title(panel.title)
    marks = {mark.get_label(): mark for ax in axes.flat for mark in ax.get_lines()}
    order = [label for label in (_DIAL_LABEL, *map(_label, styles)) if label in marks]
    figure.legend([marks[label] for label in order], order, loc="outside lower center",
                  ncols=3 + 2 * len(found), fontsize=9)  # fmt: skip
    return figure


def _styles(found: Sequence[Panel]) -> dict[str, dict[str, Any]]:
    """method → marker and colour, the same in all panels; no two methods have both in common."""
    names = dict.fromkeys(name for panel in found for name in _order(panel.points))
    others = [name for name in names if identity(name) is None and name != EXACT]
    styles: dict[str, dict[str, Any]] = {
        name: {
            "marker": _MARKERS[i // len(_COLOURS) % len(_MARKERS)],
            "color": _COLOURS[i % len(_COLOURS)],
            "ms": 7,
        }
        for i, name in enumerate(others)
    }
    return {EXACT: {"marker": "*", "color": _EXACT, "ms": 11}, **styles}


def _root_axis(ax: Any) -> None:
    """Square roots: the good methods lie close together, the bad ones far away."""
    low, high = ax.get_xlim()
    low = max(low, 0)
    ax.set_xscale("function", functions=(_root, np.square))
    ax.set_xlim(low, high)
    ticks = [tick for tick in _TICKS if low <= tick < high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _root(values: Any) -> Any:
    return np.sqrt(np.maximum(values, 0))


def _draw_panel(ax: Any, panel: Panel, score: str, styles: Mapping[str, Mapping[str, Any]]) -> None:
    key = panel.fidelity[0]
    place = {name: (scores[score], scores[key]) for name, scores in panel.points.items()}
    dial = [name for name in _order(place) if identity(name) is not None]
    for name, (x, y) in place.items():
        if identity(name) is None:
            ax.plot(
                [x], [y], linestyle="none", label=_label(name), zorder=3, alpha=0.8, **styles[name]
            )
    line = {"color": _DIAL, "ms": 4, "lw": 1.2, "label": _DIAL_LABEL}
    ax.plot(*zip(*(place[name] for name in dial), strict=True), "o-", **line)
    for name, above in zip(dial, _outer_side([place[name][1] for name in dial]), strict=True):
        text = {"ha": "center", "color": _DIAL, "fontsize": 8, "textcoords": "offset points"}
        ax.annotate(f"{identity(name):g}", place[name], xytext=(0, 6 if above else -12), **text)


def _outer_side(heights: Sequence[float]) -> list[bool]:
    """Whether a label goes above its point: where the line bends down; ends unlike their neighbour.

    >>> _outer_side([0.0, 0.0, 0.1, 0.9, 1.0, 1.0])
    [True, False, False, True, True, False]
    """
    inner = [2 * b > a + c for a, b, c in zip(heights, heights[1:], heights[2:], strict=False)]
    return [not inner[0], *inner, not inner[-1]] if inner else [False] * len(heights)


def main(argv: Sequence[str]) -> list[Path]:
    """Writes the numbers, the figure and the tables; returns the paths of the last two."""
    check_words(argv, 0, 3, __doc__)
    words = [*argv, *("outputs", "outputs/figures")[len(argv) :]]
    outputs, out = Path(words[0]), Path(words[1])
    record = Path(words[-1]) / "frontier.json"
    kept = read(record) if record.is_file() else {}
    numbers = merged(kept, measured(outputs))
    write_text(out / "frontier.json", json.dumps(numbers, indent=1) + "\n")
    found = panels(numbers)
    with atomic_path(out / "frontier.webp") as temporary:
        draw(found).savefig(temporary, dpi=110, format="webp", pil_kwargs={"quality": QUALITY})
    parts = ["# The identity dial\n", "Made by `make figure-frontier`; see `docs/pds.md`.\n"]
    parts += [f"## {panel.title}\n\n{panel_table(panel)}\n" for panel in found]
    return [out / "frontier.webp", write_text(out / "frontier.md", "\n".join(parts))]


if __name__ == "__main__":
    sys.exit(run(main))
