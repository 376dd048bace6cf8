"""Edits of the toy figure in 3D, each run as a user would, against the true edit from all sides."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.benchmarks.jobs import chosen, edit_job
from pds_cli.benchmarks.toybox import attribute_scores
from pds_cli.errors import UserError
from pds_cli.evaluation.table import bootstrap
from pds_cli.files import write_text
from pds_cli.markdown import table
from pds_cli.metrics.consistency import consistency
from pds_cli.metrics.lpips import lpips
from pds_cli.metrics.psnr import psnr
from pds_cli.pictures.sheets import contact_sheet, save_image
from pds_cli.progress import Progress
from pds_cli.results.path_rendering import load_result, render_path
from pds_cli.runs.folder import RunFolder, check_seeds, seed_folder
from pds_cli.scenes.toybox import orbit
from pds_cli.toybox.cases import Case, all_cases
from pds_cli.toybox.gallery import picture_tensor
from pds_cli.toybox.probe import Probe, load_probe
from pds_cli.toybox.world import Figure, OrbitCamera

SHOWN = 8  # sides of a result that its picture shows
TITLES = {
    "success": "success ↑",
    "kept": "kept ↑",
    "lpips_truth": "LPIPS to truth ↓",
    "psnr_truth": "PSNR to truth ↑",
    "lpips_source": "LPIPS to source",
    "consistency": "view consistency, dB ↑",
    "overlap": "overlap",
    "seconds": "s",
    "memory_mb": "peak MB",
}


class NerfEditBenchmark:
    """Some edits of one figure by several methods; every job is a `pds edit` of its own.

    A job that is done already in the same `out=`, with the same words, is not run again; one that
    was interrupted goes on.

    Args:
        methods: name → words of the command line for `pds edit`.
        edits: kinds of edit, of `pds_cli.toybox.cases.EDITS`.
        overrides: words that every job gets.
        figure: attributes of the figure, the rest at their defaults.
        only: names of methods, where not all of `methods` are to run.
        cameras: from how many sides a result is seen, evenly spaced around it.
        size: side of the renders that are scored, in pixels.
        seed, seeds: of the first edit, and how many; scores are means over them, and beside the
            means stand intervals by bootstrap over edits and seeds.

    Raises:
        UserError: no methods or no edits, an unknown edit, or a figure that cannot be.
    """

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
        if not methods or not edits:
            raise UserError("benchmark.methods and benchmark.edits must leave something to run")
        if cameras < 2:
            raise UserError(f"benchmark.cameras={cameras} must be at least 2")
        self.figure = Figure(**dict(figure or {}))
        check_seeds(seeds)
        self.seeds = range(seed, seed + seeds)
        self.methods = {name: list(words) for name, words in chosen(methods, only).items()}
        self.cases = all_cases([(self.figure, OrbitCamera())], edits)
        self.overrides, self.size = list(overrides), size
        self.cameras = orbit(cameras, -180, 180)

    def run(self, backbone: Backbone, run: RunFolder) -> Path:
        """Runs every job; writes `table.md`, `results.json` and `edits.png`.

        In an edit's folder, `<method>.png` shows its result under the first seed from `SHOWN`
        sides, beside `sources.png` and `true edits.png`. `backbone` is not looked at: each job
        loads its own.
        """
        probe = load_probe()
        names = [*self.methods, "sources", "true edits"]
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        shown: dict[str, list[Tensor]] = {name: [] for name in names}
        count = len(self.cases) * len(self.methods) * len(self.seeds)
        with Progress("edits in 3D", count) as progress:
            done = itertools.count(1)
            for case in self.cases:
                place = run.path / case.kind.replace(" ", "_")
                truth, source = self._pictures(case.target), self._pictures(case.source)
                for name, images in (("sources", source), ("true edits", truth)):
                    rows[name].append(_likeness(case, images, source, truth, probe))
                    shown[name].append(images)
                for name, words in self.methods.items():
                    for seed in self.seeds:
                        folder = RunFolder(seed_folder(place / name, seed - self.seeds[0]))
                        cost = edit_job([*self._words(case, words), f"seed={seed}"], folder)
                        images, alike = self._look(folder.path)
                        likeness = _likeness(case, images, source, truth, probe)
                        rows[name].append({**likeness, **alike, **cost})
                        if seed == self.seeds[0]:
                            shown[name].append(images)
                        progress.update(next(done))
                for name, pictures in shown.items():
                    self._sides(pictures[-1], place / f"{name}.png")
        run.write_json("results.json", {"rows": rows, "edits": [c.kind for c in self.cases]})
        self._sheet(shown, run.path / "edits.png")
        return write_text(run.path / "table.md", markdown(rows, [c.kind for c in self.cases]))

    def _words(self, case: Case, method: Sequence[str]) -> list[str]:
        changed = {k: v for k, v in asdict(self.figure).items() if v != asdict(Figure())[k]}
        figure = [f"scene.figure.{key}={value}" for key, value in changed.items()]
        prompts = [f"prompt={case.prompt}", f"source={case.source_prompt}"]
        return [*figure, *prompts, *self.overrides, *method]

    def _pictures(self, figure: Figure) -> Tensor:
        """Renders [N,3,S,S] in [0,1] of a figure from all the cameras."""
        return torch.stack([picture_tensor(figure, c, self.size) for c in self.cameras])

    @torch.no_grad()
    def _look(self, folder: Path) -> tuple[Tensor, dict[str, float]]:
        """Renders [N,3,S,S] of a result from all the cameras, and how consistent they are."""
        cameras = [camera.camera(self.size) for camera in self.cameras]
        renderings = list(render_path(load_result(folder), cameras))
        alike = consistency(renderings, cameras)
        images = torch.stack([seen.rgb for seen in renderings]).clamp(0, 1)
        return images, {"consistency": alike.psnr, "overlap": alike.overlap}

    def _sides(self, images: Tensor, path: Path) -> None:
        """Pictures from `SHOWN` sides in one row, the first from the front."""
        front = len(self.cameras) // 2
        around = [front + i * len(self.cameras) // SHOWN for i in range(SHOWN)]
        save_image(torch.cat([images[i % len(images)] for i in around], 2), path)

    def _sheet(self, shown: Mapping[str, list[Tensor]], path: Path) -> None:
        """A row an edit: sources, methods and truth, from the front and from behind."""
        order = ["sources", *self.methods, "true edits"]
        front, back = len(self.cameras) // 2 + 1, 1
        tiles, labels = [], []
        for i, case in enumerate(self.cases):
            for side in (front, back):
                tiles += [shown[name][i][side % len(self.cameras)] for name in order]
                labels += [case.kind if name == "sources" else name for name in order]
        save_image(contact_sheet(tiles, 2 * len(order), labels), path)


@torch.no_grad()
def _likeness(
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


def markdown(rows: Mapping[str, Sequence[Mapping[str, float]]], kinds: Sequence[str]) -> str:
    """The means of every method over edits and seeds, then success and LPIPS an edit."""
    means = []
    for name, found in rows.items():
        several = len(found) > len(kinds)
        cells = [_mean([row[key] for row in found if key in row], several) for key in TITLES]
        means.append([name, *cells])
    by_edit = []
    for i, kind in enumerate(kinds):
        cells = []
        for found in rows.values():
            seeds = len(found) // len(kinds)
            mine = found[i * seeds : (i + 1) * seeds]
            both = [sum(r[key] for r in mine) / seeds for key in ("success", "lpips_truth")]
            cells.append("{:.2f} / {:.3f}".format(*both))
        by_edit.append([kind, *cells])
    parts = [
        table(["method", *TITLES.values()], means),
        "Success and LPIPS to truth by edit:",
        table(["edit", *rows], by_edit),
    ]
    return "\n\n".join(parts) + "\n"


def _mean(values: Sequence[float], interval: bool) -> str:
    if not values:
        return "–"
    mean = sum(values) / len(values)
    if mean >= 100:
        return f"{mean:.0f}"
    low, high = bootstrap(values)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]" if interval else f"{mean:.3f}"
