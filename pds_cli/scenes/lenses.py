"""Lenses that our cameras do not know: photos through them are straightened as they are read.

pycolmap, an extra, knows the models; a pinhole camera takes their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pds_cli.errors import UserError, first_line
from pds_cli.views.undistorting import sampled


@dataclass(frozen=True)
class Lens:
    """A camera of a COLMAP model: its kind, its picture's size in pixels, and its parameters."""

    kind: str
    width: int
    height: int
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class Straightened:
    """The pinhole camera of a lens, and photos as it sees them.

    Args:
        lens: of any model that pycolmap knows.
        where: the file and the photo, for sentences.

    Raises:
        UserError: pycolmap is missing, or the lens's numbers are none.
    """

    lens: Lens
    where: str

    def __post_init__(self) -> None:
        _ = self.pinhole  # what is wrong is said now

    @property
    def intrinsics(self) -> tuple[float, float, float, float, int, int]:
        """fx, fy, cx, cy, width and height of the pinhole camera, in pixels of its own picture."""
        fx, fy, cx, cy = map(float, self.pinhole.params)
        return fx, fy, cx, cy, int(self.pinhole.width), int(self.pinhole.height)

    @cached_property
    def pinhole(self) -> Any:
        """pycolmap's pinhole camera, whose picture has no blank pixels."""
        try:
            import pycolmap
        except ImportError as error:
            raise UserError(
                f"{self.where}: camera model {self.lens.kind} is read with pycolmap, which is not "
                "installed: pip install 'pds[colmap]', or undistort the photos first (colmap "
                "image_undistorter)"
            ) from error
        try:
            found = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), self._camera)
        except (RuntimeError, ValueError, TypeError) as error:
            raise self._wrong(first_line(error)) from error
        if not (found.width > 0 and found.height > 0 and all(map(_finite, found.params))):
            raise self._wrong("no pinhole camera sees what it sees")
        return found

    @cached_property
    def _camera(self) -> Any:
        import pycolmap

        lens = self.lens
        return pycolmap.Camera(
            model=lens.kind, width=lens.width, height=lens.height, params=list(lens.parameters)
        )

    def __call__(self, picture: Tensor) -> Tensor:
        """A photo [C,H,W] of any scale as the pinhole camera sees it, at the same scale."""
        scale = picture.shape[-1] / self.lens.width
        fx, fy, cx, cy, width, height = self.intrinsics
        shape = max(1, round(scale * height)), max(1, round(scale * width))
        rows, columns = (torch.arange(side, dtype=torch.float64) + 0.5 for side in shape)
        y, x = torch.meshgrid(
            (rows * height / shape[0] - cy) / fy, (columns * width / shape[1] - cx) / fx,
            indexing="ij",
        )  # fmt: skip
        rays = torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)
        seen = torch.from_numpy(self._camera.img_from_cam(rays.numpy())).nan_to_num(-1e9)
        size = seen.new_tensor([self.lens.width, self.lens.height])
        return sampled(picture, (2 * seen / size - 1).view(1, *shape, 2).float())

    def _wrong(self, why: str) -> UserError:
        return UserError(
            f"{self.where}: {list(self.lens.parameters)} is no {self.lens.kind}: {why}"
        )


def _finite(value: float) -> bool:
    return abs(value) < 1e9  # NaN is not
