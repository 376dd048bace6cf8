"""The hash grid: Numba kernels against the plain PyTorch twin, and tiny-cuda-nn's layout."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pds_cli.errors import UserError
from pds_cli.representations.nerf.encoding import (
    GridLayout,
    HashGrid,
    choose_backend,
    hash_grid_torch,
)

SMALL = GridLayout(levels=4, features=2, log2_table=9, base_resolution=4, growth=1.7)


def with_backend(backend: str, layout: GridLayout, table: torch.Tensor) -> HashGrid:
    grid = HashGrid(layout, backend)
    grid.table = torch.nn.Parameter(table.clone())
    return grid


def test_levels_follow_tiny_cuda_nn() -> None:
    layout = GridLayout(levels=3, features=2, log2_table=12, base_resolution=16, growth=2.0)
    assert layout.scales.tolist() == [15.0, 31.0, 63.0]
    assert layout.resolutions.tolist() == [16, 32, 64]
    assert layout.dense.tolist() == [True, False, False]
    assert layout.offsets.tolist() == [0, 4096, 8192, 12288]


def test_a_dense_level_is_padded_to_eight_entries() -> None:
    layout = GridLayout(levels=1, log2_table=15, base_resolution=5)
    assert layout.offsets.tolist() == [0, 128]  # 5³ = 125


def test_dense_rows_lie_x_first_and_positions_are_shifted_by_half_a_cell() -> None:
    layout = GridLayout(levels=1, features=1, log2_table=15, base_resolution=4, growth=2.0)
    table = torch.arange(64.0)
    # Position p lies at 3p + ½ in a grid of 4 corners a side, so p = ½ lies on corner 2.
    point = torch.tensor([[0.5, 0.5, 0.5], [1 / 6, 0.5, 0.5], [0.5, 1 / 6, 0.5]])
    for backend in ("numba", "torch"):
        found = with_backend(backend, layout, table)(point)[:, 0]
        assert found.tolist() == pytest.approx([2 + 8 + 32, 1 + 8 + 32, 2 + 4 + 32], abs=1e-4)


def test_hashed_rows_use_the_three_primes() -> None:
    layout = GridLayout(levels=1, features=1, log2_table=8, base_resolution=16)
    assert not layout.dense[0]
    x, y, z = 3, 11, 7
    row = (x ^ (y * 2654435761 % 2**32) ^ (z * 805459861 % 2**32)) % 256
    table = torch.zeros(256)
    table[row] = 1.0
    point = (torch.tensor([[x, y, z]], dtype=torch.float32) - 0.5) / 15
    for backend in ("numba", "torch"):
        assert float(with_backend(backend, layout, table)(point)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("features", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numba_equals_its_twin_forward_and_backward(features: int, dtype: torch.dtype) -> None:
    layout = GridLayout(levels=5, features=features, log2_table=10, base_resolution=6, growth=1.6)
    generator = torch.Generator().manual_seed(features)
    table = torch.randn(layout.entries * features, generator=generator, dtype=dtype)
    edges = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.5]], dtype=dtype)
    points = torch.cat([torch.rand(700, 3, generator=generator, dtype=dtype), edges])
    weights = torch.randn(703, 5 * features, generator=generator, dtype=dtype)
    found = []
    for backend in ("numba", "torch"):
        where = points.clone().requires_grad_()
        grid = with_backend(backend, layout, table)
        features_at = grid(where)
        found.append(
            (
                features_at.detach(),
                *torch.autograd.grad((features_at * weights).sum(), [grid.table, where]),
            )
        )
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    for a, b in zip(*found, strict=True):
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def test_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    layout = GridLayout(levels=2, features=2, log2_table=8, base_resolution=3, growth=2.0)
    table = torch.randn(layout.entries * 2, generator=generator, dtype=torch.float64)
    points = 0.1 + 0.8 * torch.rand(4, 3, generator=generator, dtype=torch.float64)
    from pds_cli.representations.nerf.encoding import _NumbaGrid

    for function in (_NumbaGrid.apply, hash_grid_torch):
        assert torch.autograd.gradcheck(
            lambda p, t, f=function: f(p, t, layout),
            (points.requires_grad_(), table.requires_grad_()),
            eps=1e-6,
        )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_features_are_linear_in_the_table(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(20, 3, generator=generator)
    a, b = (torch.randn(SMALL.entries * 2, generator=generator) for _ in range(2))
    both = with_backend("numba", SMALL, a + 2 * b)(points)
    apart = with_backend("numba", SMALL, a)(points) + 2 * with_backend("numba", SMALL, b)(points)
    assert torch.allclose(both, apart, atol=1e-4)


def test_a_constant_table_gives_constant_features() -> None:
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(1))
    found = with_backend("numba", SMALL, torch.full((SMALL.entries * 2,), 3.0))(points)
    assert torch.allclose(found, torch.full_like(found, 3.0), atol=1e-5)


def test_the_result_is_the_same_in_every_run() -> None:
    generator = torch.Generator().manual_seed(3)
    points, grid = torch.rand(3000, 3, generator=generator), HashGrid(SMALL, "numba")
    grads = [torch.autograd.grad(grid(points).square().sum(), grid.table)[0] for _ in range(2)]
    assert torch.equal(*grads)


def test_a_table_of_one_backend_loads_in_another() -> None:
    one, other = HashGrid(SMALL, "numba"), HashGrid(SMALL, "torch")
    other.load_state_dict(one.state_dict())
    points = torch.rand(30, 3, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(one(points), other(points), atol=1e-8)


@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("tinycudann") is None,
    reason="needs CUDA and tinycudann",
)
def test_tiny_cuda_nn_equals_the_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(SMALL.entries * 2, generator=generator)
    points = torch.rand(500, 3, generator=generator).cuda()
    theirs = HashGrid(SMALL, "tinycudann", "cuda")
    theirs.table = torch.nn.Parameter(table.cuda())
    ours = with_backend("torch", SMALL, table).cuda()
    a, b = theirs(points), ours(points)
    assert float((a - b).abs().max()) <= 1e-4 * float(b.abs().max())
    grads = [torch.autograd.grad(f.square().sum(), g.table)[0] for f, g in ((a, theirs), (b, ours))]
    assert float((grads[0] - grads[1]).abs().max()) <= 1e-4 * float(grads[1].abs().max())


def test_the_backend_is_chosen_by_device() -> None:
    assert choose_backend("auto", torch.device("cpu")) == "numba"
    assert choose_backend("torch", torch.device("cuda")) == "torch"
    with pytest.raises(UserError, match="runs on the CPU"):
        choose_backend("numba", torch.device("cuda"))
    with pytest.raises(UserError, match="needs CUDA"):
        choose_backend("tinycudann", torch.device("cpu"))
    with pytest.raises(UserError, match="choose one of auto"):
        choose_backend("jax", torch.device("cpu"))


def test_a_layout_out_of_range_is_refused() -> None:
    with pytest.raises(UserError, match=r"grid\.levels=0"):
        GridLayout(levels=0)


def test_scales_are_rounded_as_in_single_precision() -> None:
    # 16 · 1.5^l is exact at l = 1 and 2: rounding up must not add a corner there.
    layout = GridLayout(levels=3, base_resolution=16, growth=1.5)
    assert layout.resolutions.tolist() == [16, 24, 36]
    assert layout.scales.dtype == np.float64
