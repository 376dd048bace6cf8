"""Multiresolution hash encoding (Müller et al. 2022, arXiv 2201.05989), three backends.

All backends share one layout of the table, tiny-cuda-nn's, so a table trained with one is read
by the others.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pds_cli.errors import UserError, check_choice
from pds_cli.options.representations import ENCODINGS as BACKENDS

_PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True)
class GridLayout:
    """Where each level of the grid lies in the table; tiny-cuda-nn's formulas.

    Attributes:
        levels: L.
        features: F, numbers an entry.
        log2_table: a level has at most 2^log2_table entries; larger ones are hashed.
        base_resolution: cells a side of the coarsest level.
        growth: ratio of the resolutions of neighbouring levels.
    """

    levels: int = 8
    features: int = 2
    log2_table: int = 15
    base_resolution: int = 16
    growth: float = 1.5

    def __post_init__(self) -> None:
        limits = {
            "levels": (1, 32),
            "features": (1, 8),
            "log2_table": (8, 24),
            "base_resolution": (2, 512),
            "growth": (1.0, 4.0),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(
                    f"representation.grid.{name}={getattr(self, name)} must be {low} to {high}"
                )

    @property
    def scales(self) -> np.ndarray:
        """Cells across [0,1] of each level, [L] float64: base · growth^l − 1."""
        grown = np.exp2(np.arange(self.levels) * math.log2(self.growth)) * self.base_resolution
        # In single precision, as tiny-cuda-nn computes it: the next line rounds up.
        return grown.astype(np.float32).astype(np.float64) - 1.0

    @property
    def resolutions(self) -> np.ndarray:
        """Corners along each side of each level, [L]."""
        return np.ceil(self.scales).astype(np.int64) + 1

    @property
    def dense(self) -> np.ndarray:
        """Which levels have an entry for each corner, [L] bool."""
        return self.resolutions**3 <= 2**self.log2_table

    @property
    def offsets(self) -> np.ndarray:
        """The first entry of each level, and the end, [L+1]."""
        rounded = -(-(self.resolutions**3) // 8) * 8
        return np.concatenate([[0], np.cumsum(np.minimum(rounded, 2**self.log2_table))])

    @property
    def entries(self) -> int:
        """Entries of all levels."""
        return int(self.offsets[-1])

    def tinycudann(self) -> dict[str, Any]:
        """The same grid as tiny-cuda-nn's `encoding_config`."""
        return {
            "otype": "HashGrid",
            "n_levels": self.levels,
            "n_features_per_level": self.features,
            "log2_hashmap_size": self.log2_table,
            "base_resolution": self.base_resolution,
            "per_level_scale": self.growth,
        }


def choose_backend(name: str, device: torch.device) -> str:
    """The backend that `auto` means on a device, or `name` where it can run there.

    Raises:
        UserError: an unknown name, or a backend that cannot run on the device.
    """
    check_choice("representation.encoding", name, BACKENDS)
    there = device.type == "cuda" and importlib.util.find_spec("tinycudann") is not None
    if name == "auto":
        return "numba" if device.type == "cpu" else "tinycudann" if there else "torch"
    if name == "numba" and device.type != "cpu":
        raise UserError(f"representation.encoding=numba runs on the CPU, not on {device}; use auto")
    if name == "tinycudann" and not there:
        raise UserError(
            "representation.encoding=tinycudann needs CUDA and the package tinycudann "
            "(pds doctor says how to get it); encoding=auto takes what is there"
        )
    return name


class HashGrid(torch.nn.Module):
    """Features of positions in [0,1]³, by trilinear interpolation on L grids.

    Args:
        layout: the grid.
        backend: `auto`, `tinycudann`, `numba` or `torch`.
        device: where it runs.

    Shapes:
        positions [N,3] → features [N, L·F], differentiable in both the table and the positions.

    Example:
        >>> HashGrid(GridLayout(levels=4), "torch")(torch.rand(5, 3)).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        layout: GridLayout,
        backend: str = "auto",
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.backend = choose_backend(backend, torch.device(device))
        first = (torch.rand(layout.entries * layout.features, generator=generator) * 2 - 1) * 1e-4
        self.table = torch.nn.Parameter(first.to(device))
        # tiny-cuda-nn keeps a parameter of its own, which ours stands in for; it is no submodule.
        self._tinycudann: list[Any] = []

    @property
    def width(self) -> int:
        """Numbers a position: L·F."""
        return self.layout.levels * self.layout.features

    def forward(self, positions: Tensor) -> Tensor:
        if self.backend == "numba":
            return _NumbaGrid.apply(positions, self.table, self.layout)
        if self.backend == "tinycudann":
            return self._with_tinycudann(positions)
        return hash_grid_torch(positions, self.table, self.layout)

    def _with_tinycudann(self, positions: Tensor) -> Tensor:
        if not self._tinycudann:
            import tinycudann

            self._tinycudann.append(
                tinycudann.Encoding(3, self.layout.tinycudann(), dtype=torch.float32)
            )
        module = self._tinycudann[0]
        return torch.func.functional_call(module, {"params": self.table}, (positions,))


def hash_grid_torch(positions: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """The encoding in plain PyTorch: positions [N,3], table [entries·F] → [N,L·F]."""
    rows = table.reshape(-1, layout.features)
    corners = torch.tensor([[c & 1, (c >> 1) & 1, c >> 2] for c in range(8)]).to(positions.device)
    scales, resolutions = layout.scales, layout.resolutions
    dense, offsets = layout.dense, layout.offsets
    found = []
    for level in range(layout.levels):
        scaled = positions * float(scales[level]) + 0.5
        cell = scaled.detach().floor()
        fraction = (scaled - cell)[:, None, :]
        corner = cell.long()[:, None, :] + corners
        weight = torch.where(corners.bool(), fraction, 1 - fraction).prod(-1)
        entries = int(offsets[level + 1] - offsets[level])
        index = _corner_index(corner, int(resolutions[level]), entries, bool(dense[level]))
        found.append((weight[..., None] * rows[index + int(offsets[level])]).sum(1))
    return torch.cat(found, -1)


def _corner_index(corner: Tensor, resolution: int, entries: int, dense: bool) -> Tensor:
    if dense:
        strides = torch.tensor([1, resolution, resolution**2]).to(corner)
        return (corner * strides).sum(-1) % entries
    mixed = corner[..., 0]
    for axis in (1, 2):
        mixed = mixed ^ ((corner[..., axis] * _PRIMES[axis]) & 0xFFFFFFFF)
    return mixed & (entries - 1)


class _NumbaGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
        from pds_cli.kernels import hash_grid

        ctx.layout = layout
        ctx.save_for_backward(positions, table)
        points = _array(positions)
        geometry = _geometry(layout, points.dtype)
        return torch.from_numpy(hash_grid.forward(points, _array(table), *geometry))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        from pds_cli.kernels import hash_grid

        points, table = (_array(saved) for saved in ctx.saved_tensors)
        upstream, geometry = _array(grad), _geometry(ctx.layout, points.dtype)
        to_positions = to_table = None
        if ctx.needs_input_grad[0]:
            to_positions = hash_grid.backward_positions(points, table, upstream, *geometry)
            to_positions = torch.from_numpy(to_positions)
        if ctx.needs_input_grad[1]:
            to_table = torch.from_numpy(hash_grid.backward_table(points, upstream, *geometry))
        return to_positions, to_table, None


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())


def _geometry(layout: GridLayout, dtype: np.dtype) -> tuple[Any, ...]:
    """What the kernels need to know of the grid, in small types."""
    sides, offsets = layout.resolutions.astype(np.int32), layout.offsets.astype(np.int32)
    return layout.scales.astype(dtype), sides, offsets, layout.dense, (0,) * layout.features
