"""Edits of the toy figure in 3D, each run as a user would, against the true edit from all sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from pds_cli.benchmarks.runner import EditCase, JobBenchmark, Look
from pds_cli.benchmarks.tables import SOURCES, TRUTHS
from pds_cli.benchmarks.toybox_scores import BY_EDIT, COLUMNS, attribute_scores
from pds_cli.errors import UserError
from pds_cli.metrics.consistency import consistency
from pds_cli.metrics.lpips import lpips
from pds_cli.metrics.psnr import psnr
from pds_cli.results.path_rendering import load_result, render_path
from pds_cli.runs.folder import RunFolder
from pds_cli.toybox.cases import Case, all_cases
from pds_cli.toybox.gallery import picture_tensor
from pds_cli.toybox.probe import Probe, load_probe
from pds_cli.toybox.world import Figure, OrbitCamera, orbit

SHOWN = 8  # sides of a result that its picture shows


@dataclass(frozen=True)
class FigureCase(EditCase):
    """An edit of the figure, as jobs are told of it."""

    case: Case


class NerfEditBenchmark(JobBenchmark[FigureCase]):
    """Some edits of one figure by several methods.

    An edit's `sources.png`, `<method>.png` and `true edits.png` show it from `SHOWN` sides.

    Args:
        methods, overrides, only, seed, seeds: of a `JobBenchmark`.
        edits: kinds of edit, of `pds_cli.toybox.cases.EDITS`.
        figure: attributes of the figure, the rest at their defaults.
        cameras: from how many sides a result is seen, evenly spaced around it.
        size: side of the renders that are scored, in pixels.

    Raises:
        UserError: nothing to run, an unknown edit, or a figure that cannot be.
    """

    columns = (*COLUMNS, "consistency", "overlap", "seconds", "memory_mb")
    by_edit = BY_EDIT

    def __init__(
        self,
        methods: Mapping[str, Sequence[str]],
        edits: Sequence[str],
        *,
        overrides: Sequence[str] = (),
        figure: Mapping[str, str] | None = None,
        only: Sequence[str] | None = None,
        cameras: int = 16,
        size: int = 128,
        seed: int = 0,
        seeds: int = 1,
    ) -> None:
        super().__init__(methods, overrides=overrides, only=only, seed=seed, seeds=seeds)
        if not edits:
            raise UserError("benchmark.edits must leave something to run")
        if cameras < 2:
            raise UserError(f"benchmark.cameras={cameras} must be at least 2")
        self.figure, self.size = Figure(**dict(figure or {})), size
        self.edits = all_cases([(self.figure, OrbitCamera())], edits)
        self.cameras = orbit(cameras, -180, 180)
        self.probe = load_probe()
        self._seen: dict[Figure, Tensor] = {}

    def cases(self, run: RunFolder) -> list[FigureCase]:
        """The edits of the figure."""
        plain = asdict(Figure())
        changed = {k: v for k, v in asdict(self.figure).items() if v != plain[k]}
        figure = [f"scene.figure.{key}={value}" for key, value in changed.items()]
        return [
            FigureCase(
                case.kind,
                [*figure, f"prompt={case.prompt}", f"source={case.source_prompt}"],
                case,
            )
            for case in self.edits
        ]

    @torch.no_grad()
    def look(self, case: FigureCase, job: Path) -> Look:
        """Renders from all the cameras: their scores, and how consistent they are."""
        cameras = [camera.camera(self.size) for camera in self.cameras]
        renderings = list(render_path(load_result(job), cameras))
        alike = consistency(renderings, cameras)
        images = torch.stack([seen.rgb for seen in renderings]).clamp(0, 1)
        return self._look(case, images, consistency=alike.psnr, overlap=alike.overlap)

    def references(self, case: FigureCase, job: Path) -> dict[str, Look]:
        """The figure before the edit, and after the true one."""
        figures = {SOURCES: case.case.source, TRUTHS: case.case.target}
        return {name: self._look(case, self._pictures(figure)) for name, figure in figures.items()}

    def _look(self, case: FigureCase, images: Tensor, **scores: float) -> Look:
        """What images [N,3,S,S] from all the cameras show: tiles from the front and from behind."""
        source, truth = (self._pictures(f) for f in (case.case.source, case.case.target))
        found = likeness(case.case, images, source, truth, self.probe)
        front = len(self.cameras) // 2
        around = [front + i * len(self.cameras) // SHOWN for i in range(SHOWN)]
        strip = torch.cat([images[i % len(images)] for i in around], 2)
        tiles = [images[i % len(images)].clone() for i in (front + 1, 1)]
        return Look({**found, **scores}, tiles, strip)

    def _pictures(self, figure: Figure) -> Tensor:
        """Renders [N,3,S,S] in [0,1] of a figure from all the cameras."""
        if figure not in self._seen:
            found = [picture_tensor(figure, camera, self.size) for camera in self.cameras]
            self._seen[figure] = torch.stack(found)
        return self._seen[figure]


@torch.no_grad()
def likeness(
    case: Case, images: Tensor, source: Tensor, truth: Tensor, probe: Probe
) -> dict[str, float]:
    """Means over the cameras of what the probe finds, and of distances to true edit and source."""
    found = [attribute_scores(seen, case) for seen in probe.classify(images)]
    return {
        "success": sum(reached for reached, _ in found) / len(found),
        "kept": sum(kept for _, kept in found) / len(found),
        "lpips_truth": float(lpips(images, truth).mean()),
        "psnr_truth": float(psnr(images, truth).mean()),
        "lpips_source": float(lpips(images, source).mean()),
    }
