"""Splats as `.splat` files: 32 bytes each, without a header, as browser viewers take them.

x y z and three standard deviations as float32, then red, green, blue and opacity, and the
quaternion (w, x, y, z) around 128, as bytes. Harmonics have no place in it.
Source: the viewer of https://github.com/antimatter15/splat.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.files import atomic_path
from pds_cli.splats.ply import SplatFile, check_is_file
from pds_cli.views.harmonics import BASE

_ROW = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("color", "u1", 4), ("quats", "u1", 4)])
_LEAST = 1e-20  # standard deviations have logarithms


def read_splat(path: Path | str) -> SplatFile:
    """The Gaussians of a `.splat` file, of degree 0.

    Raises:
        UserError: not there, empty, cut short, or with numbers that cannot be.
    """
    path = Path(path)
    size = check_is_file(path)
    if size == 0 or size % _ROW.itemsize:
        raise UserError(
            f"{path} is no whole .splat file: those have {_ROW.itemsize} bytes a splat, and it has "
            f"{size:,}"
        )
    rows = np.fromfile(path, _ROW)
    wrong = ~(np.isfinite(rows["means"]).all(1) & np.isfinite(rows["scales"]).all(1))
    wrong |= (rows["scales"] < 0).any(1)
    if wrong.any():
        raise UserError(
            f"{path} is damaged, or no .splat file: places or sizes of {int(wrong.sum()):,} of its "
            f"{len(rows):,} splats are not finite, or below 0"
        )
    color = torch.from_numpy(rows["color"].astype(np.float32))
    turns = torch.from_numpy(rows["quats"].astype(np.float32)) - 128
    turns[(turns == 0).all(1), 0] = 1
    tensors = {
        "means": torch.from_numpy(rows["means"].copy()),
        "scales": torch.from_numpy(rows["scales"].copy()).clamp_min(_LEAST).log(),
        "quats": torch.nn.functional.normalize(turns),
        "opacities": opacity_logit(color[:, 3]),
        "sh0": (color[:, :3] / 255 - 0.5) / BASE,
        "shN": torch.zeros(len(rows), 0, 3),
    }
    return SplatFile(tensors)


def write_splat(path: Path | str, splats: SplatFile) -> Path:
    """Writes splats, what is largest and most opaque first, as viewers show what they have so far.

    Raises:
        UserError: no place to write.
    """
    held = {name: value.detach().cpu().float() for name, value in splats.tensors.items()}
    opacity = torch.sigmoid(held["opacities"])
    rows = np.empty(len(splats), _ROW)
    rows["means"], rows["scales"] = held["means"].numpy(), held["scales"].exp().numpy()
    color = torch.cat([held["sh0"] * BASE + 0.5, opacity[:, None]], 1)
    rows["color"] = as_bytes(255 * color)
    rows["quats"] = as_bytes(128 + 128 * torch.nn.functional.normalize(held["quats"]))
    order = (held["scales"].sum(1) + opacity.log()).argsort(descending=True, stable=True)
    with atomic_path(path) as temporary:
        rows[order.numpy()].tofile(temporary)
    return Path(path)


def opacity_logit(levels: Tensor) -> Tensor:
    """Logits of opacities [N] in 0…255; those of 0 and 255 are finite, and round back to them."""
    return torch.logit(levels.clamp(0.4, 254.6) / 255)


def as_bytes(values: Tensor) -> np.ndarray:
    """Numbers rounded and clipped to 0…255."""
    return values.round().clamp(0, 255).to(torch.uint8).numpy()
