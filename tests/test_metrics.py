"""PSNR, SSIM and LPIPS against independent computations and published values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.metrics.lpips import Lpips, lpips
from pds_cli.metrics.psnr import psnr
from pds_cli.pictures.ssim import ssim


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    """An image and a noisy copy in [−1,1]."""
    g = torch.Generator().manual_seed(0)
    a = torch.rand(*shape, generator=g) * 2 - 1
    return a, (a + 0.2 * torch.randn(*shape, generator=g)).clamp(-1, 1)


def test_psnr_of_known_errors() -> None:
    a = torch.zeros(3, 3, 8, 8)
    b = torch.stack([torch.full((3, 8, 8), v) for v in (0.1, 0.01, 1.0)])
    torch.testing.assert_close(psnr(a, b), torch.tensor([20.0, 40.0, 0.0]))
    assert psnr(a[0], b[0]).tolist() == pytest.approx([20.0])
    assert math.isinf(psnr(b, b)[0])
    with pytest.raises(ValueError, match="one shape"):
        psnr(a, b[:1])


def ssim_by_loops(a: np.ndarray, b: np.ndarray, window: int = 11) -> float:
    """Wang et al. 2004, window by window, in float64; a and b are [C,H,W]."""
    offset = np.arange(window) - window // 2
    weight = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for x, y in zip(a, b, strict=True):
        for i in range(x.shape[0] - window + 1):
            for j in range(x.shape[1] - window + 1):
                p, q = x[i : i + window, j : j + window], y[i : i + window, j : j + window]
                mean_p, mean_q = (weight * p).sum(), (weight * q).sum()
                var_p = (weight * (p - mean_p) ** 2).sum()
                var_q = (weight * (q - mean_q) ** 2).sum()
                cov = (weight * (p - mean_p) * (q - mean_q)).sum()
                numerator = (2 * mean_p * mean_q + 1e-4) * (2 * cov + 9e-4)
                values.append(numerator / ((mean_p**2 + mean_q**2 + 1e-4) * (var_p + var_q + 9e-4)))
    return float(np.mean(values))


def test_ssim_equals_a_direct_evaluation() -> None:
    a, b = (x / 2 + 0.5 for x in pair(2, 3, 24, 17))
    expected = [
        ssim_by_loops(x.double().numpy(), y.double().numpy()) for x, y in zip(a, b, strict=True)
    ]
    assert ssim(a.double(), b.double()).tolist() == pytest.approx(expected, abs=1e-9)
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-5)


def test_ssim_of_equal_and_of_inverted_images() -> None:
    a = pair(1, 3, 32, 32)[0] / 2 + 0.5
    assert ssim(a, a).tolist() == pytest.approx([1.0])
    assert ssim(a[0], 1 - a[0]).item() < 0


@pytest.mark.parametrize(("height", "width", "window"), [(8, 8, 7), (10, 40, 9), (2, 5, 1)])
def test_ssim_of_small_images_has_a_window_that_fits(height: int, width: int, window: int) -> None:
    a, b = (x / 2 + 0.5 for x in pair(1, 3, height, width))
    expected = ssim_by_loops(a[0].double().numpy(), b[0].double().numpy(), window)
    assert ssim(a.double(), b.double()).item() == pytest.approx(expected, abs=1e-9)


def test_lpips_matches_the_reference_values() -> None:
    a, b = pair(2, 3, 64, 64)
    assert lpips(a, b, signed=True).tolist() == pytest.approx([0.0130, 0.0175], abs=6e-5)
    torch.testing.assert_close(lpips(a / 2 + 0.5, b / 2 + 0.5), lpips(a, b, signed=True))
    zeros, ones = torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
    assert lpips(zeros, ones, signed=True).item() == pytest.approx(0.5780, abs=1e-3)


def test_lpips_is_a_distance_per_image_and_shape() -> None:
    a, b = (x / 2 + 0.5 for x in pair(2, 3, 40, 56))
    assert lpips(a, a).abs().max() == 0
    torch.testing.assert_close(lpips(a, b), lpips(b, a))
    torch.testing.assert_close(lpips(a[1], b[1]), lpips(a, b)[1:])


def test_lpips_is_differentiable_with_frozen_weights_even_at_zero() -> None:
    model = Lpips()
    assert not any(p.requires_grad for p in model.parameters())
    a = torch.zeros(1, 3, 64, 64, requires_grad=True)
    model(a, torch.ones(1, 3, 64, 64)).sum().backward()
    assert a.grad is not None and a.grad.isfinite().all() and a.grad.abs().sum() > 0


def test_lpips_names_the_smallest_size_and_works_at_it() -> None:
    small = torch.zeros(1, 3, 31, 31)
    assert lpips(small, small + 1).item() > 0.1
    with pytest.raises(UserError, match="at least 31×31 pixels, not 30×64"):
        lpips(torch.zeros(1, 3, 30, 64), torch.zeros(1, 3, 30, 64))
    with pytest.raises(ValueError, match="one shape"):
        lpips(small, torch.zeros(1, 1, 31, 31))
