"""What a designer may ask of a drawing beside the prompt: symmetry, and curves without loops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def mirrored(points: Tensor, tolerance: float = 3.0) -> tuple[Tensor, Tensor, float]:
    """Pairs of points that mirror each other in a vertical line, and that line.

    The line is the middle of the points' box.

    Args:
        points: [N,2].
        tolerance: how far from its mirror image a point's partner may lie.

    Returns:
        (i, j, x): indices [M] of each point that has a partner, of the partner, and the line's x.
    """
    x = 0.5 * float(points[:, 0].min() + points[:, 0].max()) if len(points) else 0.0
    image = torch.stack([2 * x - points[:, 0], points[:, 1]], 1)
    if not len(points):
        nothing = torch.zeros(0, dtype=torch.long)
        return nothing, nothing, x
    distance, partner = torch.cdist(image, points).min(1)
    found = (distance <= tolerance).nonzero()[:, 0]
    return found, partner[found], x


def symmetry(points: Tensor, i: Tensor, j: Tensor, x: float) -> Tensor:
    """Mean squared distance between points and their partners' mirror images; a scalar."""
    if not len(i):
        return points.sum() * 0
    image = torch.stack([2 * x - points[j, 0], points[j, 1]], 1)
    return (points[i] - image).square().sum(1).mean()


def xing(points: Tensor, curves: np.ndarray) -> Tensor:
    """How far cubic curves are from crossing themselves the wrong way; a scalar ≥ 0.

    For a cubic A B C D, the angle from AB to CD has to turn as that from AB to BC does:
    D₁ [−D₂]₊ + (1 − D₁) [D₂]₊ with D₁ = 1 where AB × BC > 0 and D₂ = AB × CD / (|AB| |CD|).

    Source: Ma et al., LIVE, CVPR 2022, arXiv 2206.04655, equation 6.
    """
    cubic = torch.as_tensor(curves[curves[:, 0] == 3, 1:].astype(np.int64))
    if not len(cubic):
        return points.sum() * 0
    a, b, c, d = (points[cubic[:, k]] for k in range(4))
    ab, bc, cd = b - a, c - b, d - c
    turn = (_cross(ab, bc) > 0).to(points)
    size = (ab.norm(dim=1) * cd.norm(dim=1)).clamp(min=1e-6)
    sine = _cross(ab, cd) / size
    return (turn * torch.relu(-sine) + (1 - turn) * torch.relu(sine)).mean()


def _cross(u: Tensor, v: Tensor) -> Tensor:
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
