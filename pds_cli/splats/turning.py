"""Turning Gaussians: quaternions (w,x,y,z), and the coefficients of harmonics."""

from __future__ import annotations

import torch
from torch import Tensor

from pds_cli.views.harmonics import spherical_harmonics


def product(q: Tensor, r: Tensor) -> Tensor:
    """Hamilton's product of quaternions [...,4]: the rotation r, then q."""
    a, b, c, d = q.unbind(-1)
    w, x, y, z = r.unbind(-1)
    parts = [
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    ]
    return torch.stack(torch.broadcast_tensors(*parts), -1)


def quaternion(matrix: Tensor) -> Tensor:
    """The unit quaternion [4] of a rotation [3,3], its largest component positive."""
    # The outer product of the quaternion with itself, from the entries (Shepperd 1978); the row
    # of its largest component is the quaternion, up to a factor that is not small.
    m = matrix
    diagonal = [
        1 + m[0, 0] + m[1, 1] + m[2, 2], 1 + m[0, 0] - m[1, 1] - m[2, 2],
        1 - m[0, 0] + m[1, 1] - m[2, 2], 1 - m[0, 0] - m[1, 1] + m[2, 2],
    ]  # fmt: skip
    wx, wy, wz = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    xy, xz, yz = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    rows = [
        [diagonal[0], wx, wy, wz], [wx, diagonal[1], xy, xz],
        [wy, xy, diagonal[2], yz], [wz, xz, yz, diagonal[3]],
    ]  # fmt: skip
    best = max(range(4), key=lambda i: float(diagonal[i]))
    return torch.nn.functional.normalize(torch.stack(rows[best]), dim=0)


def turned(coefficients: Tensor, matrix: Tensor) -> Tensor:
    """Coefficients [N,(D+1)²−1,3], without degree 0, of the same colours in a turned world.

    What was seen along d is now seen along `matrix` d. Rotations mix the harmonics of one degree
    among themselves, so values in a few directions determine the new ones.
    """
    count = coefficients.shape[1]
    if not count:
        return coefficients
    degree = round((count + 1) ** 0.5) - 1
    generator = torch.Generator().manual_seed(0)
    along = torch.randn(4 * count, 3, generator=generator, dtype=torch.float64)
    along = torch.nn.functional.normalize(along, dim=1).to(matrix)
    before = spherical_harmonics(along, degree)[:, 1:]
    after = spherical_harmonics(along @ matrix.T, degree)[:, 1:]
    mixing = torch.linalg.lstsq(after, before).solution.to(coefficients)
    return torch.einsum("ij,njc->nic", mixing, coefficients)
