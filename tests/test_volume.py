"""Volume rendering: contraction, marching and compositing against twins and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pds_cli.representations.nerf import volume
from pds_cli.representations.nerf.volume import Samples


def some_rays(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    origins = 3 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    aims = 0.8 * torch.randn(count, 3, generator=generator)
    return origins, torch.nn.functional.normalize(aims - origins, dim=-1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3))
def test_expand_undoes_contract(point: list[float]) -> None:
    x = torch.tensor([point], dtype=torch.float64)
    back = volume.expand(volume.contract(x, True), True)
    assert torch.allclose(back, x, rtol=1e-6, atol=1e-6)


def test_contraction_is_the_identity_inside_and_bounded_outside() -> None:
    inside = torch.tensor([[0.3, -0.9, 0.5]])
    assert torch.allclose(volume.contract(inside, True), 0.5 + 0.25 * inside)
    far = volume.contract(torch.tensor([[1e6, 0.0, 0.0]]), True)
    assert float(far[0, 0]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("unbounded", [False, True])
def test_marching_equals_its_twin(unbounded: bool) -> None:
    origins, directions = some_rays(64)
    generator = torch.Generator().manual_seed(1)
    jitter = 1 - torch.rand(64, generator=generator)
    occupied = torch.rand(16, 16, 16, generator=generator) < 0.3
    nears, fars = volume.limits(origins, directions, 0.2, 20.0, unbounded)
    args = (origins, directions, nears, fars, jitter, occupied)
    ours = volume.march(*args, unbounded=unbounded, step=0.05)
    twin = volume.march_torch(*args, unbounded=unbounded, step=0.05)
    # A sample on a cell's face may fall to either side.
    assert abs(len(ours.t) - len(twin.t)) <= 3
    same = (ours.starts[1:] - ours.starts[:-1]) == (twin.starts[1:] - twin.starts[:-1])
    assert float(same.float().mean()) > 0.95
    keep_ours, keep_twin = same[ours.rays], same[twin.rays]
    assert torch.allclose(ours.t[keep_ours], twin.t[keep_twin], atol=1e-4)
    assert torch.allclose(ours.d[keep_ours], twin.d[keep_twin], atol=1e-4)


def test_marching_fills_the_ray_where_all_is_occupied() -> None:
    origins, directions = some_rays(20)
    nears, fars = volume.limits(origins, directions, 0.1, 50.0, False)
    full = torch.ones(8, 8, 8, dtype=torch.bool)
    found = volume.march(
        origins, directions, nears, fars, torch.rand(20), full, unbounded=False, step=0.1
    )
    sums = torch.zeros(20).index_add(0, found.rays, found.d)
    assert torch.allclose(sums, (fars - nears).clamp_min(0), atol=1e-4)


def test_a_ray_that_misses_the_bounded_cube_has_no_samples() -> None:
    origins, directions = torch.tensor([[3.0, 3.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    nears, fars = volume.limits(origins, directions, 0.1, 50.0, False)
    full = torch.ones(4, 4, 4, dtype=torch.bool)
    found = volume.march(
        origins, directions, nears, fars, torch.ones(1), full, unbounded=False, step=0.1
    )
    assert len(found.t) == 0
    out, left, _ = volume.composite(found, torch.zeros(0), torch.zeros(0, 3))
    assert out.tolist() == [[0.0, 0.0, 0.0]]
    assert left.tolist() == [1.0]


def packed(
    seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Samples, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor([3, 0, 5, 1])
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    d = torch.rand(9, generator=generator, dtype=dtype) + 0.1
    sigma = 2 * torch.rand(9, generator=generator, dtype=dtype)
    values = torch.rand(9, 4, generator=generator, dtype=dtype)
    return Samples(starts, torch.zeros(9, dtype=dtype), d), sigma, values


def test_compositing_equals_its_twin() -> None:
    samples, sigma, values = packed()
    for a, b in zip(
        volume.composite(samples, sigma, values),
        volume.composite_torch(samples, sigma, values),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-10)


def test_compositing_gradients_are_those_of_finite_differences() -> None:
    samples, sigma, values = packed()
    for function in (volume.composite, volume.composite_torch):
        assert torch.autograd.gradcheck(
            lambda s, v, f=function: f(samples, s, v)[:2],
            (sigma.clone().requires_grad_(), values.clone().requires_grad_()),
        )


def test_homogeneous_fog_follows_beer_and_lambert() -> None:
    count, length, sigma = 400, 2.0, 0.7
    d = torch.full((count,), length / count, dtype=torch.float64)
    samples = Samples(torch.tensor([0, count]), (torch.arange(count) + 0.5) * d, d)
    density = torch.full((count,), sigma, dtype=torch.float64)
    values = torch.stack([torch.ones_like(d), samples.t], -1)
    out, left, weights = volume.composite(samples, density, values)
    absorbed = 1 - math.exp(-sigma * length)
    depth = 1 / sigma - math.exp(-sigma * length) * (length + 1 / sigma)
    assert float(left) == pytest.approx(1 - absorbed, abs=1e-9)
    assert out[0].tolist() == pytest.approx([absorbed, depth], abs=1e-5)
    assert float(weights.sum()) == pytest.approx(absorbed, abs=1e-9)


def test_light_stops_at_an_opaque_sample() -> None:
    samples, _, _ = packed()
    sigma = torch.zeros(9, dtype=torch.float64)
    sigma[4] = 1e3  # the second sample of the third ray
    lit = volume.visible(samples, sigma, 1e-3)
    assert lit.tolist() == [True, True, True, True, True, False, False, False, True]
    kept = samples.keep(lit)
    assert kept.starts.tolist() == [0, 3, 3, 5, 6]
    assert torch.equal(kept.d, samples.d[lit])


# --- distortion ----------------------------------------------------------------------------------


def spread(samples: Samples, sigma: torch.Tensor) -> torch.Tensor:
    """`volume.distortion` by its definition: every pair of samples of every ray."""
    found = []
    for first, last in zip(samples.starts[:-1], samples.starts[1:], strict=True):
        t, d, density = (x[int(first) : int(last)] for x in (samples.t, samples.d, sigma))
        optical = density * d
        weights = torch.exp(optical - optical.cumsum(0)) * (1 - torch.exp(-optical))
        s, width = t / (1 + t), d / (1 + t) ** 2
        pairs = weights[:, None] * weights * (s[:, None] - s).abs()
        found.append(pairs.sum() + (weights**2 * width).sum() / 3)
    return torch.stack(found)


def placed(seed: int) -> tuple[Samples, torch.Tensor]:
    samples, sigma, _ = packed(seed)
    ends = samples.d.cumsum(0)
    before = torch.nn.functional.pad(ends, (1, 0))[samples.starts[:-1]][samples.rays]
    return Samples(samples.starts, ends - 0.5 * samples.d - before, samples.d), sigma


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_distortion_and_its_gradient_are_those_of_all_pairs(seed: int) -> None:
    samples, sigma = placed(seed)
    sigma = sigma.requires_grad_()
    found, wanted = volume.distortion(samples, sigma), spread(samples, sigma)
    assert torch.allclose(found, wanted, rtol=1e-9)
    upstream = torch.linspace(0.5, 2, len(found)).to(found)
    slope, expected = (torch.autograd.grad(x, sigma, upstream)[0] for x in (found, wanted))
    assert torch.allclose(slope, expected, rtol=1e-8, atol=1e-10)


def test_distortion_is_small_for_one_surface_and_large_for_haze() -> None:
    count = 100
    d = torch.full((count,), 0.02, dtype=torch.float64)
    samples = Samples(torch.tensor([0, count]), (torch.arange(count) + 0.5) * 0.02, d)
    nothing = torch.zeros(count, dtype=torch.float64)
    wall = nothing.clone()
    wall[60:] = 1e4
    haze_before_it = wall + 0.3
    assert float(volume.distortion(samples, nothing)) == 0
    assert float(volume.distortion(samples, wall)) < 0.002  # one sample long
    assert float(volume.distortion(samples, haze_before_it)) > 0.05
    assert len(volume.distortion(Samples(torch.tensor([0]), d[:0], d[:0]), nothing[:0])) == 0
