"""Real spherical harmonics: how a colour depends on the direction that it is seen from."""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 0.28209479  # the harmonic of degree 0


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics [N,(degree+1)²] of unit directions [N,3], up to degree 3."""
    x, y, z = directions.unbind(-1)
    found = [torch.full_like(x, BASE)]
    if degree > 0:
        found += [-0.48860251 * y, 0.48860251 * z, -0.48860251 * x]
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        found += [1.09254843 * x * y, -1.09254843 * y * z, 0.31539157 * (3 * zz - 1)]
        found += [-1.09254843 * x * z, 0.54627422 * (xx - yy)]
    if degree > 2:
        found += [0.59004359 * y * (yy - 3 * xx), 2.89061144 * x * y * z]
        found += [0.45704579 * y * (1 - 5 * zz), 0.37317633 * z * (5 * zz - 3)]
        found += [0.45704579 * x * (1 - 5 * zz), 1.44530572 * z * (xx - yy)]
        found += [0.59004359 * x * (3 * yy - xx)]
    return torch.stack(found, -1)
