"""An attribute classifier for toybox pictures: it scores samples and edits, never guides them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pds_cli.errors import UserError
from pds_cli.toybox.world import ATTRIBUTES, Figure

PROBE_FILE = Path(__file__).parents[1] / "data" / "toybox" / "probe.safetensors"


class Probe(nn.Module):
    """A small residual network with one linear head an attribute.

    `forward` maps images [B,3,S,S] in [−1,1], S at least 64, to logits [B,K_a] for each attribute
    of `ATTRIBUTES`, in order. It looks at them at 64×64.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        widths = [width, width * 2, width * 4, width * 6]
        self.stem = nn.Conv2d(3, width, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList()
        for before, after in itertools.pairwise(widths):
            self.blocks.append(
                nn.Sequential(
                    nn.GroupNorm(8, before),
                    nn.SiLU(),
                    nn.Conv2d(before, after, 3, padding=1),
                    nn.GroupNorm(8, after),
                    nn.SiLU(),
                    nn.Conv2d(after, after, 3, stride=2, padding=1),
                )
            )
        # Where something is matters (hats are above, boxes beside), so the 4×4 map is kept.
        self.mix = nn.Sequential(
            nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], 48, 1), nn.Flatten()
        )
        self.hidden = nn.Linear(48 * 16, 256)
        self.heads = nn.ModuleList([nn.Linear(256, len(v)) for v in ATTRIBUTES.values()])

    def forward(self, images: Tensor) -> list[Tensor]:
        large = images.shape[-1] > 64
        x = self.stem(F.interpolate(images, (64, 64), mode="area") if large else images)
        for block in self.blocks:
            x = block(x)
        x = F.silu(self.hidden(self.mix(x)))
        return [head(x) for head in self.heads]

    @torch.no_grad()
    def classify(self, images: Tensor) -> list[dict[str, int]]:
        """The most likely value's index of each attribute, for images [B,3,S,S] in [0,1]."""
        found = torch.stack([logit.argmax(1) for logit in self(images * 2 - 1)], 1).tolist()
        return [dict(zip(ATTRIBUTES, row, strict=True)) for row in found]


def probe_labels(records: list[dict[str, Any]]) -> Tensor:
    """Labels int64 [N,A] of a toybox data set's records.

    Raises:
        UserError: where a record describes no figure.
    """
    try:
        figures = [Figure(**record["figure"]) for record in records]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"these pictures are not toybox renders ({error}), so there is no probe to train; "
            "leave `probe` out of stages"
        ) from error
    return torch.tensor([list(figure.labels().values()) for figure in figures])


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [B,3,S,S] with small shifts, blur, noise and colour changes.

    Generated pictures are softer and noisier than renders; the probe must read them too.
    """
    batch = len(images)
    shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
    images = torch.roll(F.pad(images, (2, 2, 2, 2), mode="replicate"), shift, (2, 3))
    images = images[:, :, 2:-2, 2:-2]
    if float(torch.rand((), generator=generator)) < 0.4:
        small = F.interpolate(images, scale_factor=0.5, mode="area")
        images = F.interpolate(small, images.shape[-2:], mode="bilinear")
    level = 0.12 * torch.rand(batch, 1, 1, 1, generator=generator)
    gain = 1 + 0.1 * (2 * torch.rand(batch, 3, 1, 1, generator=generator) - 1)
    return images * gain + level * torch.randn(images.shape, generator=generator)


def save_probe(probe: Probe, path: Path) -> None:
    """Writes the probe's weights in half precision."""
    from pds_cli.runs.checkpoint import save_checkpoint

    save_checkpoint(path, {k: v.half() for k, v in probe.state_dict().items()}, {"kind": "probe"})


def load_probe(path: Path = PROBE_FILE) -> Probe:
    """The probe that ships with the package.

    Raises:
        UserError: where the file is missing or damaged.
    """
    from pds_cli.weights import read_weights

    probe = Probe()
    try:
        probe.load_state_dict(read_weights(path)[0])
    except (UserError, RuntimeError) as error:
        raise UserError(
            f"the toybox probe {path} is missing or damaged; train it with "
            "pds pretrain stages=[probe], or reinstall pds"
        ) from error
    return probe.eval().requires_grad_(False)
