"""The radiance field: density and colour of a point, from a hash grid and two small MLPs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.representations.nerf.encoding import GridLayout, HashGrid
from pds_cli.views.harmonics import spherical_harmonics

_LARGEST_EXPONENT = 12.0
PIECE = 1 << 15  # positions looked at together; see `RadianceField.forward`
_GEOMETRY = 15  # features that the density network hands to the colour network, beside density


class _Density(torch.autograd.Function):
    """exp, whose gradient neither explodes for large arguments nor vanishes for small ones.

    The gradient is that of exp at an argument brought to [log growth, 12]. Where space is empty
    exp has no slope to climb; with `growth` > 0 an edit can raise density there.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, growth: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.lowest = math.log(max(growth, math.exp(-_LARGEST_EXPONENT)))
        return torch.exp(x.clamp(max=_LARGEST_EXPONENT))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * torch.exp(x.clamp(ctx.lowest, _LARGEST_EXPONENT)), None


def _mlp(sizes: list[int], generator: torch.Generator | None) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes):
        layer = torch.nn.Linear(wide, narrow, bias=False)
        bound = (6 / wide) ** 0.5 if narrow != sizes[-1] else (3 / wide) ** 0.5
        with torch.no_grad():
            layer.weight.uniform_(-bound, bound, generator=generator)
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


class RadianceField(torch.nn.Module):
    """Density and colour at positions in [0,1]³ (contracted), in the manner of Instant-NGP.

    Args:
        layout: of the hash grid.
        encoding: its backend.
        hidden: width of the MLPs.
        sh_degree: of the view's direction as the colour network sees it, 0 to 3; −1: colours
            do not depend on the view.
        appearance: views with an appearance vector of their own; 0: none.
        density_bias: added to the raw density; negative: the field begins nearly empty.
    """

    def __init__(
        self,
        layout: GridLayout,
        *,
        encoding: str = "auto",
        hidden: int = 64,
        sh_degree: int = 2,
        appearance: int = 0,
        density_bias: float = -1.0,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not -1 <= sh_degree <= 3:
            raise UserError(f"representation.sh_degree={sh_degree} must be -1 (none) to 3")
        self.sh_degree, self.density_bias, self.growth = sh_degree, density_bias, 0.0
        self.grid = HashGrid(layout, encoding, device, generator)
        self.trunk = _mlp([self.grid.width, hidden, 1 + _GEOMETRY], generator)
        self.looks = torch.nn.Parameter(torch.zeros(appearance, 8)) if appearance else None
        seen = (sh_degree + 1) ** 2 + (8 if appearance else 0)
        self.head = _mlp([_GEOMETRY + seen, hidden, 3], generator)
        self.to(device)

    def forward(
        self, positions: Tensor, directions: Tensor, view: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """σ [N] and colours [N,3]; see `density` and `color`.

        In pieces, because large intermediate results cost more to allocate than to compute.
        """
        sigmas, colors = [], []
        views = [None] * len(positions) if view is None else view.split(PIECE)
        for part, seen, whose in zip(
            positions.split(PIECE), directions.split(PIECE), views, strict=False
        ):
            sigma, features = self.density(part)
            sigmas.append(sigma)
            colors.append(self.color(features, seen, whose))
        return torch.cat(sigmas), torch.cat(colors)

    def density(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """σ [N] ≥ 0, per radius of the region, and features [N,15] for `color`."""
        out = self.trunk(self.grid(positions))
        return _Density.apply(out[:, 0] + self.density_bias, self.growth), out[:, 1:]

    def color(self, features: Tensor, directions: Tensor, view: Tensor | None = None) -> Tensor:
        """Colours [N,3] in [0,1] from features [N,15] and unit viewing directions [N,3].

        view: [N], whose appearance vector to use; −1, or None for all: the mean of them.
        """
        parts = [features]
        if self.sh_degree >= 0:
            parts.append(spherical_harmonics(directions, self.sh_degree))
        if self.looks is not None:
            looks = torch.cat([self.looks, self.looks.mean(0, keepdim=True)])
            parts.append(looks[-1].expand(len(features), -1) if view is None else looks[view])
        return torch.sigmoid(self.head(torch.cat(parts, -1)))
