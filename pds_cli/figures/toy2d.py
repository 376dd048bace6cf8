"""The paper's 2D experiment: points of one crescent, moved towards the other by each loss.

    python -m pds_cli.figures.toy2d [out=outputs/figures] [steps=2000] [points=100] [seed=0]
        [lr=0.01]

Writes `toy2d.webp`, `toy2d.svg`, `toy2d.md` and `toy2d.json` into the folder. The scores are
exact (`pds_cli.backbones.mixture`), so what is seen is the losses' doing alone.

Source: Koo et al., Posterior Distillation Sampling, CVPR 2024, arXiv 2311.13831, whose 2D
comparison this follows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pds_cli import scripts as command
from pds_cli.backbones.mixture import CrescentMixture, MixtureBackbone
from pds_cli.errors import UserError
from pds_cli.files import atomic_path, write_text
from pds_cli.losses.base import Loss
from pds_cli.losses.dds import DDS
from pds_cli.losses.pds import PDS
from pds_cli.losses.sds import SDS
from pds_cli.markdown import table
from pds_cli.pictures.sheets import QUALITY
from pds_cli.scenes.toy2d import Toy2DScene

IDENTITIES = (0.0, 0.5, 1.0, 2.0, 4.0)
GUIDANCES = (1.0, 7.5)
SOURCE, TARGET = "a", "b"
_SOURCE_INK, _TARGET_INK, _END_INK = "#0072B2", "#E69F00", "#B2182B"


@dataclass(frozen=True)
class Settings:
    """What the command line may set."""

    out: str = "outputs/figures"
    steps: int = 2000
    points: int = 100
    seed: int = 0
    lr: float = 0.01


@dataclass(frozen=True)
class Case:
    """One panel: a loss by the name it is shown with."""

    name: str
    loss: Loss

    @property
    def identity(self) -> float | None:
        """The PDS identity scale; None for a loss without such a term."""
        if isinstance(self.loss, PDS) and self.loss.coefficients == "published":
            return self.loss.identity
        return None


@dataclass(frozen=True)
class Result:
    """One panel's outcome.

    path: positions [frames,N,2] from start to end.
    posterior: P(target) of the end points [N].
    to_target: their distances to the nearest target point [N].
    numbers: the table's row.
    """

    case: Case
    path: Tensor
    posterior: Tensor
    to_target: Tensor
    numbers: dict[str, Any]


def loss_cases(guidance: float) -> list[Case]:
    """The four losses at one guidance."""
    return [
        Case("SDS", SDS(guidance=guidance)),
        Case("DDS", DDS(guidance=guidance)),
        Case("PDS exact", PDS(guidance=guidance, coefficients="exact")),
        Case("PDS published", PDS(guidance=guidance)),
    ]


def identity_cases() -> list[Case]:
    """PDS with published coefficients at guidance 1, over the identity scale."""
    return [Case("PDS published", PDS(guidance=1.0, identity=identity)) for identity in IDENTITIES]


def optimise(
    case: Case, backbone: MixtureBackbone, source: Tensor, settings: Settings, frames: int = 100
) -> Tensor:
    """Adam on all points at once; returns about `frames` positions [frames,N,2], ends included.

    Args:
        source: the points to start from [N,2].
    """
    start = source[:, :, None, None]
    x = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=settings.lr)
    text_tgt = backbone.encode_prompt([TARGET]).expand(len(source))
    text_src = backbone.encode_prompt([SOURCE]).expand(len(source))
    generator = torch.Generator().manual_seed(settings.seed)
    every, path = max(1, settings.steps // frames), [source]
    for step in range(1, settings.steps + 1):
        progress = (step - 1) / settings.steps
        output = case.loss(
            backbone, x, start, text_tgt, text_src, progress=progress, generator=generator
        )
        x.grad = output.grad
        optimiser.step()
        if step % every == 0 or step == settings.steps:
            path.append(x.detach()[:, :, 0, 0].clone())
    return torch.stack(path)


def measure(case: Case, path: Tensor, backbone: MixtureBackbone) -> Result:
    """Distances and posterior probabilities of the end points."""
    end = path[-1].double()
    posterior = backbone.posterior(end, TARGET)
    target = backbone.means[backbone.label_index == backbone.labels.index(TARGET)].double()
    to_target = torch.cdist(end, target).min(dim=1).values
    numbers = {
        "loss": case.name,
        "guidance": case.loss.guidance,
        "identity": case.identity,
        "moved": float((end - path[0]).norm(dim=1).mean()),
        "posterior": float(posterior.mean()),
        "crossed": float((posterior > 0.5).double().mean()),
        "to_border": float(torch.cdist(end, border_points(backbone)).min(dim=1).values.mean()),
        "to_target": float(to_target.mean()),
        "spread": float((end - end.mean(dim=0)).square().sum(dim=1).mean().sqrt()),
    }
    return Result(case, path, posterior, to_target, numbers)


@cache
def border_points(backbone: MixtureBackbone, n: int = 500) -> Tensor:
    """Points [K,2] of the border between the classes, to about 0.02, in a frame of side 10."""
    axis = torch.linspace(-4.5, 5.5, n, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    inside = (backbone.posterior(grid.reshape(-1, 2), TARGET) > 0.5).reshape(n, n)
    edge = torch.zeros_like(inside)
    edge[:-1] |= inside[:-1] != inside[1:]
    edge[:, :-1] |= inside[:, :-1] != inside[:, 1:]
    return grid[edge]


def run(settings: Settings) -> dict[str, list[Result]]:
    """All panels: one list a guidance (keys `1` and `7.5`), and the list `identity`."""
    backbone = CrescentMixture()
    every_point = Toy2DScene(SOURCE).points
    index = torch.linspace(0, len(every_point) - 1, settings.points).round().long()
    source, fast = every_point[index].float(), CrescentMixture().float()
    rows = {f"{guidance:g}": loss_cases(guidance) for guidance in GUIDANCES}
    rows["identity"] = identity_cases()
    results: dict[str, list[Result]] = {}
    for row, cases in rows.items():
        results[row] = []
        for case in cases:
            known = [r for rs in results.values() for r in rs if r.case == case]
            result = known[0] if known else None
            if result is None:
                result = measure(case, optimise(case, fast, source, settings), backbone)
                n = result.numbers
                shown = "" if case.identity is None else f" identity {case.identity:g}"
                print(
                    f"{case.name}{shown}, guidance {case.loss.guidance:g}: "
                    f"moved {n['moved']:.2f}, P({TARGET}) {n['posterior']:.2f}",
                    flush=True,
                )
            results[row].append(result)
    return results


# ---- the tables -----------------------------------------------------------------------------

_COLUMNS = (
    ("moved", "moved"),
    ("posterior", f"P({TARGET})"),
    ("crossed", "crossed"),
    ("to_border", "to border"),
    ("to_target", "to target"),
    ("spread", "spread"),
)


def numbers_table(results: Sequence[Result], by: str) -> str:
    """A Markdown table with a row a result, headed by its loss or its identity (`by`)."""
    return table(
        [by, *(title for _, title in _COLUMNS)],
        (
            [
                result.case.name if by == "loss" else f"{result.case.identity:g}",
                *(f"{result.numbers[key]:.2f}" for key, _ in _COLUMNS),
            ]
            for result in results
        ),
    )


def markdown(results: dict[str, list[Result]], settings: Settings) -> str:
    """The page that goes with the figure: the measured numbers and how they were made."""
    parts = [
        "# The 2D figure\n",
        "![Points moved from one crescent to the other by each loss](toy2d.webp)\n",
        f"Made by `make figure-toy2d`: two crescents of 400 points, exact scores, "
        f" {settings.points} source points, Adam at {settings.lr:g}, "
        f"{settings.steps:,} steps, seed {settings.seed}. What it shows: `docs/pds.md`.\n",
        "*moved*: mean distance from the start (the crescents have radius 1). "
        f"*P({TARGET})*: mean posterior probability of the target class at the end. *crossed*: "
        "share of end points on the target's side of the border. *to border*, *to target*: mean "
        "distance to the border and to the nearest target point. *spread*: root mean square "
        f"distance of the end points from their mean; the source has {_spread(results):.2f}.\n",
    ]
    for guidance in GUIDANCES:
        parts.append(f"## Losses at guidance {guidance:g}\n")
        parts.append(numbers_table(results[f"{guidance:g}"], "loss") + "\n")
    parts.append("## PDS published at guidance 1, by identity\n")
    parts.append(numbers_table(results["identity"], "identity") + "\n")
    return "\n".join(parts)


def _spread(results: dict[str, list[Result]]) -> float:
    """Root mean square distance of the source points from their mean."""
    source = results["identity"][0].path[0]
    return float((source - source.mean(dim=0)).square().sum(dim=1).mean().sqrt())


# ---- the picture ----------------------------------------------------------------------------


def draw(results: dict[str, list[Result]]) -> Any:
    """The matplotlib figure: a row of losses a guidance, and a row of identities."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.2, 8.7), layout="constrained")
    axes = figure.subplots(3, 5)
    backbone = CrescentMixture()
    for row, (key, panels) in enumerate(results.items()):
        frame = _frame(panels)
        border = _border(backbone, frame)
        for column, result in enumerate(panels):
            ax = axes[row][column]
            _draw_panel(ax, result, border, frame)
            name = f"identity {result.case.identity:g}" if key == "identity" else result.case.name
            ax.set_title(name, fontsize=11)
        if key != "identity":
            if row == 0:
                _draw_strips(axes[row][4], panels, [r.posterior for r in panels])
                axes[row][4].set(xlim=(-0.04, 1.04), xticks=[0, 0.5, 1])
                axes[row][4].axvline(0.5, color="#333333", lw=0.9, ls="--")
                axes[row][4].set_xlabel(f"P({TARGET}) of each end point")
            else:
                _draw_strips(axes[row][4], panels, [r.to_target for r in panels])
                axes[row][4].set_xlabel("distance to the target class")
        label = "PDS published, ω = 1" if key == "identity" else f"guidance ω = {key}"
        axes[row][0].set_ylabel(label, fontsize=11)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=5, frameon=False, fontsize=10)
    return figure


def _frame(panels: Sequence[Result]) -> tuple[float, float, float, float]:
    """Limits (x_min, x_max, y_min, y_max) of proportion 5:4 that hold the row's paths."""
    every = torch.cat([r.path.reshape(-1, 2) for r in panels]).double()
    data = torch.tensor([[-1.35, -0.85], [2.35, 1.35]], dtype=torch.float64)
    low = torch.minimum(every.min(dim=0).values, data[0]) - 0.1
    high = torch.maximum(every.max(dim=0).values, data[1]) + 0.1
    centre, size = ((low + high) / 2).tolist(), (high - low).tolist()
    height = max(size[1], size[0] * 0.8)
    width = height / 0.8
    return (
        centre[0] - width / 2,
        centre[0] + width / 2,
        centre[1] - height / 2,
        centre[1] + height / 2,
    )


def _border(
    backbone: MixtureBackbone, frame: tuple[float, float, float, float], n: int = 240
) -> tuple[Any, Any, Any]:
    """Coordinates and target posterior [n,n] on a grid over the frame, for contour lines."""
    x = torch.linspace(frame[0], frame[1], n, dtype=torch.float64)
    y = torch.linspace(frame[2], frame[3], n, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
    return x.numpy(), y.numpy(), backbone.posterior(grid, TARGET).reshape(n, n).numpy()


def _draw_panel(
    ax: Any, result: Result, border: tuple[Any, Any, Any], frame: Sequence[float]
) -> None:
    """One panel: data, border, paths and end points."""
    from matplotlib.collections import LineCollection

    data = CrescentMixture()
    points = data.means.numpy()
    for index, (label, ink) in enumerate(((SOURCE, _SOURCE_INK), (TARGET, _TARGET_INK))):
        x, y = points[data.label_index.numpy() == index].T
        ax.scatter(x, y, s=4, color=ink, alpha=0.45, linewidths=0, rasterized=True)
        ax.scatter([], [], s=25, color=ink, linewidths=0, label=f"class {label}")
    ax.contour(*border, levels=[0.5], colors="#333333", linewidths=0.9, linestyles="--")
    ax.plot([], [], color="#333333", lw=0.9, ls="--", label=f"border, P({TARGET}) = 0.5")
    lines = result.path.transpose(0, 1).numpy()
    # Rasterised, or the SVG would hold a hundred thousand vertices.
    paths = LineCollection(list(lines), colors="#555555", linewidths=0.5, alpha=0.35)
    ax.add_collection(paths).set_rasterized(True)
    ax.plot([], [], color="#555555", lw=0.8, label="paths")
    ax.scatter(*lines[:, -1].T, s=9, color=_END_INK, linewidths=0, zorder=3, label="end points")
    numbers = result.numbers
    ax.set_xlabel(
        f"moved {numbers['moved']:.2f}, P({TARGET}) = {numbers['posterior']:.2f}", fontsize=10
    )
    ax.set(xlim=frame[:2], ylim=frame[2:], xticks=[], yticks=[], aspect="equal")


def _draw_strips(ax: Any, panels: Sequence[Result], values: Sequence[Tensor]) -> None:
    """One number of every end point: a dot a point, a row a loss."""
    generator = torch.Generator().manual_seed(0)
    for row, (result, value) in enumerate(zip(panels, values, strict=True)):
        jitter = (torch.rand(len(value), generator=generator) - 0.5) * 0.4
        ax.scatter(value, row + jitter, s=5, color=_END_INK, alpha=0.5, linewidths=0)
        ax.text(
            0.5,
            row - 0.27,
            result.case.name,
            fontsize=9,
            ha="center",
            va="bottom",
            transform=ax.get_yaxis_transform(),
            bbox={"fc": "white", "ec": "none", "pad": 0.6},
        )
    ax.set(ylim=(len(panels) - 0.6, -0.65), yticks=[], box_aspect=0.8)


def write(results: dict[str, list[Result]], settings: Settings) -> list[Path]:
    """Writes the figure, the page and the numbers; returns the files."""
    import matplotlib

    folder = Path(settings.out)
    folder.mkdir(parents=True, exist_ok=True)
    # A fixed salt and no date: the same numbers give the same files.
    with matplotlib.rc_context({"svg.hashsalt": "toy2d", "font.size": 10, "svg.fonttype": "path"}):
        figure = draw(results)
        files: dict[str, dict[str, Any]] = {
            "webp": {"pil_kwargs": {"quality": QUALITY}},
            "svg": {"metadata": {"Date": None}},
        }
        for suffix, options in files.items():
            with atomic_path(folder / f"toy2d.{suffix}") as temporary:
                figure.savefig(temporary, dpi=140, format=suffix, **options)
    numbers = {key: [r.numbers for r in panels] for key, panels in results.items()}
    write_text(folder / "toy2d.json", json.dumps(numbers, indent=2) + "\n")
    write_text(folder / "toy2d.md", markdown(results, settings))
    return [folder / f"toy2d.{suffix}" for suffix in ("webp", "svg", "md", "json")]


def parse(argv: Sequence[str]) -> Settings:
    """Settings from `key=value` words.

    Raises:
        UserError: an unknown key or a value of the wrong kind.
    """
    kinds: dict[str, Any] = {f.name: type(f.default) for f in fields(Settings)}
    values: dict[str, Any] = {}
    for word in argv:
        key, separator, value = word.partition("=")
        if not separator or key not in kinds:
            raise UserError(f"{word!r} is not understood; give key=value of {', '.join(kinds)}")
        try:
            values[key] = kinds[key](value)
        except ValueError:
            raise UserError(f"{word}: {key} must be of type {kinds[key].__name__}") from None
    settings = Settings(**values)
    if settings.steps < 1 or not 1 <= settings.points <= 400 or not settings.lr > 0:
        raise UserError("steps must be at least 1, points 1 to 400, and lr greater than 0")
    return settings


def main(argv: Sequence[str]) -> list[Path]:
    """Makes the figure; returns the paths of what was written."""
    settings = parse(argv)
    return list(write(run(settings), settings))


if __name__ == "__main__":
    sys.exit(command.run(main))
