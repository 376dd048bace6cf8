"""Structural similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
_SMALL = 1024  # sides up to which products of matrices are quicker, above all with gradients


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM of images [B,C,H,W] (or [C,H,W]) in [0,1]; 1 is equal.

    An 11×11 Gaussian window with σ = 1.5 over the positions where it fits entirely, K1 = 0.01,
    K2 = 0.03, data range 1, each channel by itself, averaged over channels and positions. Of images
    with a side shorter than 11 the window is cut to the largest odd size that fits, and the same σ.

    Source: Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment: From Error Visibility to
    Structural Similarity, IEEE TIP 13(4), 2004, eq. 13 and section III-C.

    Returns:
        [B].

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"ssim compares images of one shape, not {a.shape} and {b.shape}")
    a, b = (x if x.ndim == 4 else x[None] for x in (a, b))
    batch = len(a)
    # One filter pass over the five moments; channels become batch entries.
    moments = torch.stack([a, b, a * a, b * b, a * b]).reshape(-1, 1, *a.shape[-2:])
    mean_a, mean_b, aa, bb, ab = _blur(moments).reshape(5, batch, -1)
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * cov + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean(dim=1)


def _blur(x: Tensor) -> Tensor:
    shortest = min(x.shape[-2:])
    window = min(WINDOW, shortest - 1 + shortest % 2)
    offset = torch.arange(window, dtype=x.dtype, device=x.device) - window // 2
    kernel = torch.exp(-(offset**2) / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    if max(x.shape[-2:]) <= _SMALL:
        down, across = (_banded(kernel, side) for side in x.shape[-2:])
        return down @ x @ across.T
    return functional.conv2d(
        functional.conv2d(x, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1)
    )


def _banded(kernel: Tensor, side: int) -> Tensor:
    """The matrix [side − window + 1, side] that a filter along one axis is."""
    rows = torch.arange(side - len(kernel) + 1, device=kernel.device)[:, None]
    columns = rows + torch.arange(len(kernel), device=kernel.device)
    return kernel.new_zeros(len(rows), side).scatter(1, columns, kernel.expand(len(rows), -1))
