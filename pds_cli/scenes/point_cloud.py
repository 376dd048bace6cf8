"""Coloured points as PLY files: what structure from motion found of a capture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pds_cli.errors import UserError, first_line
from pds_cli.files import atomic_path

_COLORS = ("red", "green", "blue")


def read_point_cloud(path: Path) -> tuple[Tensor, Tensor] | None:
    """Places [N,3] float64 and colours [N,3] in [0,1], grey where there are none; None: no point.

    Raises:
        UserError: no PLY file of points, or one whose numbers are not finite.
    """
    from plyfile import PlyData, PlyParseError

    try:
        rows = PlyData.read(str(path))["vertex"].data
        places = np.stack([rows[axis].astype(np.float64) for axis in "xyz"], 1)
    except (PlyParseError, LookupError, ValueError, OSError, MemoryError) as error:
        raise UserError(
            f"{path} is no PLY file of points that can be read: {first_line(error)}"
        ) from error
    if not len(places):
        return None
    if not np.isfinite(places).all():
        raise UserError(f"{path} is damaged: some of its points lie nowhere (NaN or infinite)")
    colors = np.full(places.shape, 0.5, np.float32)
    if set(_COLORS) <= set(rows.dtype.names or ()):
        whole = 255 if rows.dtype["red"].kind in "iu" else 1
        colors = np.stack([rows[name].astype(np.float32) / whole for name in _COLORS], 1)
    return torch.from_numpy(places), torch.from_numpy(colors).nan_to_num(0.5).clamp(0, 1)


def write_point_cloud(path: Path, places: Tensor, colors: Tensor) -> Path:
    """Writes places [N,3] and colours [N,3] in [0,1].

    Raises:
        UserError: no place to write.
    """
    from plyfile import PlyData, PlyElement

    kinds = [*((axis, "<f4") for axis in "xyz"), *((name, "u1") for name in _COLORS)]
    rows = np.empty(len(places), kinds)
    for k, axis in enumerate("xyz"):
        rows[axis] = places[:, k].numpy()
    for k, name in enumerate(_COLORS):
        rows[name] = (255 * colors[:, k]).round().clamp(0, 255).numpy()
    with atomic_path(path) as temporary:
        PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(str(temporary))
    return path
