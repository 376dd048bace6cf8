"""Does a toybox backbone draw what captions say? Samples of random captions, read by the probe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.sampling import ddim, noise
from pds_cli.files import write_text
from pds_cli.markdown import table
from pds_cli.pictures.sheets import contact_sheet, save_image
from pds_cli.progress import Progress
from pds_cli.runs import layout
from pds_cli.runs.folder import RunFolder
from pds_cli.toybox.probe import load_probe
from pds_cli.toybox.world import ATTRIBUTES, caption, mentioned, random_figure, random_mentions


class CaptionBenchmark:
    """Does the backbone draw what captions say? Random captions, sampled and read by the probe.

    Args:
        count: random captions.
        steps: DDIM steps.
        guidance: ω.
    """

    def __init__(
        self, count: int = 256, *, steps: int = 30, guidance: float = 3.0, seed: int = 1
    ) -> None:
        self.count, self.steps, self.guidance, self.seed = count, steps, guidance, seed

    @torch.no_grad()
    def run(self, backbone: EmbeddedBackbone, run: RunFolder, batch: int = 32) -> Path:
        """Writes `table.md`, `results.json` and `sheet.png`; returns the table's path."""
        rng = np.random.default_rng(self.seed)
        figures = [random_figure(rng) for _ in range(self.count)]
        said = [random_mentions(figure, rng) for figure in figures]
        captions = [caption(f, s) for f, s in zip(figures, said, strict=True)]
        images = self._draw(backbone, captions, batch)
        found = load_probe().classify(images)
        right, total = dict.fromkeys(ATTRIBUTES, 0), dict.fromkeys(ATTRIBUTES, 0)
        for figure, names, seen in zip(figures, said, found, strict=True):
            for name, value in mentioned(figure, names).items():
                right[name] += seen[name] == value
                total[name] += 1
        rates = {name: right[name] / max(1, total[name]) for name in ATTRIBUTES}
        rates["all"] = sum(right.values()) / sum(total.values())
        run.write_json(layout.RESULTS, rates)
        rows = table(["attribute", "found"], ([name, f"{r:.3f}"] for name, r in rates.items()))
        write_text(run.path / layout.TABLE, rows + "\n")
        save_image(contact_sheet(list(images[:64]), 8, captions[:64]), run.path / "sheet.png")
        return run.path / layout.TABLE

    def _draw(self, backbone: EmbeddedBackbone, captions: list[str], batch: int) -> Tensor:
        images = []
        shape = backbone.latent_shape
        with Progress("sampling", len(captions)) as progress:
            for first in range(0, len(captions), batch):
                part = captions[first : first + batch]
                x_t = noise(shape, self.seed, first, len(part)).to(backbone.device)
                text = backbone.encode_prompt(part)
                x0 = ddim(backbone, x_t, text, steps=self.steps, guidance=self.guidance)
                images.append(backbone.decode_latent(x0).clamp(0, 1).cpu())
                progress.update(first + len(part))
        return torch.cat(images)
