"""Two crescents of points in the plane: the data of the 2D figure."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pds_cli.errors import UserError


def crescents(points: int = 400, noise: float = 0.08, seed: int = 0) -> dict[str, Tensor]:
    """Two interleaved half circles of radius 1, one a label.

    `a` arches upwards around (0, 0), `b` downwards around (1, 0.35); points are evenly spaced
    along the arc and displaced by Gaussian noise.

    Args:
        points: points a label, at least 1.
        noise: standard deviation of the displacement, at least 0, in the radius's unit.
        seed: fixes the noise.

    Returns:
        {"a": [points,2], "b": [points,2]} in float64.
    """
    if points < 1 or not noise >= 0:
        raise UserError(
            f"the crescents need points >= 1 and noise >= 0, not points={points} noise={noise}"
        )
    generator = torch.Generator().manual_seed(seed)
    angle = torch.linspace(0, math.pi, points, dtype=torch.float64)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    lower = torch.stack([1 - angle.cos(), 0.35 - angle.sin()], dim=1)
    shape = (2, points, 2)
    displaced = torch.randn(shape, generator=generator, dtype=torch.float64) * noise
    return {"a": upper + displaced[0], "b": lower + displaced[1]}
