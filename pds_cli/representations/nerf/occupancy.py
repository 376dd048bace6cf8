"""Which parts of space hold anything: an occupancy grid that follows the field as it changes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# A cell's remembered density fades by this much at each update, so that what an edit empties
# is found to be empty.
_FADE = 0.8


class OccupancyGrid(torch.nn.Module):
    """Largest recent density of each cell of the contracted cube [0,1]³ (after Instant-NGP).

    Args:
        resolution: cells a side.
        threshold: a cell is occupied where its density is above the smaller of this and half
            the grid's mean.
        explore: part of the empty cells, drawn anew at each update, that count as occupied, so
            that density can grow where there was none.
    """

    density: Tensor
    occupied: Tensor

    def __init__(self, resolution: int, threshold: float, explore: float = 0.0) -> None:
        super().__init__()
        self.resolution, self.threshold, self.explore = resolution, threshold, explore
        shape = (resolution,) * 3
        self.register_buffer("density", torch.full(shape, float("inf"), dtype=torch.float16))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))

    @torch.no_grad()
    def update(
        self, field: Callable[[Tensor], Tensor], generator: torch.Generator, part: float = 1.0
    ) -> None:
        """Looks at cells anew, one random point in each, and decides which are occupied.

        Args:
            field: positions [N,3] in [0,1]³ → densities [N].
            generator: on the CPU.
            part: share of the cells looked at, drawn at random; half of them among the
                occupied ones.
        """
        n, device = self.resolution, self.density.device
        cells = self._pick(part, generator).to(device)
        xyz = torch.stack([cells // (n * n), cells // n % n, cells % n], -1)
        spot = (xyz + torch.rand(len(cells), 3, generator=generator).to(device)) / n
        found = torch.cat([field(chunk) for chunk in spot.split(1 << 17)]).clamp(max=6e4)
        flat = self.density.view(-1)
        old = flat[cells].float()
        old = torch.where(old.isfinite(), old * _FADE, 0.0)
        flat[cells] = torch.maximum(old, found).half()
        self._decide(generator)

    def _pick(self, part: float, generator: torch.Generator) -> Tensor:
        total = self.resolution**3
        if part >= 1:
            return torch.arange(total)
        count = max(1, int(total * part / 2))
        anywhere = torch.randint(total, (count,), generator=generator)
        inside = self.occupied.view(-1).nonzero()[:, 0].cpu()
        if len(inside):
            inside = inside[torch.randint(len(inside), (count,), generator=generator)]
        return torch.cat([anywhere, inside]).unique()

    def _decide(self, generator: torch.Generator) -> None:
        finite = self.density[self.density.isfinite()].float()
        mean = float(finite.mean()) if len(finite) else 0.0
        # Half the mean: an untrained field is about the same everywhere, and all of it has to be
        # looked at. Against the mean itself, rounding would decide between all cells and none.
        self.occupied = self.density > min(self.threshold, 0.5 * mean)
        if self.explore > 0:
            chance = torch.rand(self.occupied.shape, generator=generator).to(self.density.device)
            self.occupied = self.occupied | (chance < self.explore)
