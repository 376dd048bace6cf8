"""Cameras of scenes with many views: intrinsics, pose, distortion, and the rays of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.reading import brief
from pds_cli.views.poses import checked_pose

# Newton steps to undo the lens; distances then agree to 1e-6 for usual lenses.
_UNDISTORT_STEPS = 10
_LONGEST_SIDE = 1_000_000  # pixels
_GRID, _MISSED = 33, 0.1  # pixels a side that a lens is tried at, and how far they may be missed


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with an optional lens.

    Axes are OpenGL's, as in Blender and nerfstudio: x right, y up, the camera looks along −z.
    World units are the scene's own. Pixel centres lie at (column + ½, row + ½).

    Attributes:
        camera_to_world: [3,4], rotation and camera centre.
        fx, fy, cx, cy: focal lengths and principal point in pixels.
        width, height: of the image in pixels.
        distortion: (k1, k2, p1, p2, k3, k4) of OpenCV's perspective model with radial terms
            k1 r² + k2 r⁴ + k3 r⁶ + k4 r⁸; None: no lens.
    """

    camera_to_world: Tensor
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    distortion: tuple[float, float, float, float, float, float] | None = None

    @property
    def position(self) -> Tensor:
        """The camera centre [3] in world units."""
        return self.camera_to_world[:, 3]

    @property
    def forward(self) -> Tensor:
        """The unit direction [3] in which the camera looks."""
        return -self.camera_to_world[:, 2]

    def scaled(self, height: int, width: int) -> Camera:
        """The same camera for its image resized to height × width pixels."""
        x, y = width / self.width, height / self.height
        return replace(
            self,
            fx=self.fx * x,
            cx=self.cx * x,
            fy=self.fy * y,
            cy=self.cy * y,
            width=width,
            height=height,
        )

    def with_longer_side(self, pixels: int | None) -> Camera:
        """The same camera for its image with a longer side of so many pixels; None: as it is."""
        if pixels is None:
            return self
        ratio = pixels / max(self.height, self.width)
        return self.scaled(*(max(1, round(ratio * s)) for s in (self.height, self.width)))

    def moved(self, camera_to_world: Tensor) -> Camera:
        """The same intrinsics at another pose [3,4]."""
        return replace(self, camera_to_world=camera_to_world)

    def rays(self, pixels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Origins and unit directions [N,3] of the rays through pixels.

        Args:
            pixels: flat indices [N], row · width + column; None: all, in row order.
        """
        pose = self.camera_to_world
        if pixels is None:
            pixels = torch.arange(self.width * self.height, device=pose.device)
        x = ((pixels % self.width).to(pose) + 0.5 - self.cx) / self.fx
        y = (
            torch.div(pixels, self.width, rounding_mode="floor").to(pose) + 0.5 - self.cy
        ) / self.fy
        if self.distortion is not None:
            x, y = undistort(x, y, self.distortion)
        local = torch.stack([x, -y, -torch.ones_like(x)], -1)
        directions = torch.nn.functional.normalize(local @ pose[:, :3].T, dim=-1)
        return pose[:, 3].expand_as(directions), directions

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel coordinates [N,2] (column, row) and depth [N] along the viewing axis.

        Points [N,3] behind the camera have negative depth and meaningless pixels.
        """
        pose = self.camera_to_world.to(points)
        local = (points - pose[:, 3]) @ pose[:, :3]
        depth = -local[:, 2]
        x, y = local[:, 0] / depth, -local[:, 1] / depth
        if self.distortion is not None:
            x, y = distort(x, y, self.distortion)
        return torch.stack([x * self.fx + self.cx, y * self.fy + self.cy], -1), depth

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; the inverse of `from_dict`."""
        fields = ("fx", "fy", "cx", "cy", "width", "height")
        found: dict[str, Any] = {name: getattr(self, name) for name in fields}
        found["camera_to_world"] = self.camera_to_world.tolist()
        if self.distortion is not None:
            found["distortion"] = list(self.distortion)
        return found

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Camera:
        """A camera from `to_dict`'s form.

        Raises:
            UserError: a field is missing or has the wrong form, or the numbers are no camera's.
        """
        if not isinstance(found, dict):
            raise UserError(f"not a camera: {brief(found)} is no object with fields")
        fx, fy, width, height = (
            _number(found, name, above=0.0) for name in ("fx", "fy", "width", "height")
        )
        cx, cy = _number(found, "cx"), _number(found, "cy")
        pose = _numbers(found.get("camera_to_world"))
        if pose is None or pose.shape not in ((3, 4), (4, 4)):
            raise UserError("not a camera: camera_to_world must be 3 or 4 rows of 4 finite numbers")
        lens = found.get("distortion")
        if lens is not None:
            values = _numbers(lens)
            if values is None or values.shape != (6,):
                raise UserError("not a camera: distortion must be 6 finite numbers")
            lens = tuple(float(value) for value in lens)
        checked_pose(pose.tolist(), "not a camera", "camera_to_world")
        camera = cls(pose[:3], fx, fy, cx, cy, int(width), int(height), lens)
        return checked_camera(camera, "not a camera")


def checked_camera(camera: Camera, where: str) -> Camera:
    """The camera, if its intrinsics can be of one; of its pose nothing is asked.

    Raises:
        UserError: sides that are no pixels, a focal length that is not positive, a focal length,
            principal point or lens that sends rays nowhere, or a lens that has no inverse.
    """
    width, height = camera.width, camera.height
    if not (1 <= width <= _LONGEST_SIDE and 1 <= height <= _LONGEST_SIDE):
        raise UserError(
            f"{where}: a picture of {width:.6g}×{height:.6g} pixels: sides of 1 to "
            f"{_LONGEST_SIDE} pixels would be right"
        )
    if not (0 < camera.fx < math.inf and 0 < camera.fy < math.inf):
        raise UserError(
            f"{where}: focal length {camera.fx:g}, {camera.fy:g}: numbers above 0 would be right"
        )
    corners = [0, width - 1, (height - 1) * width, height * width - 1]
    middle = height // 2 * width + width // 2
    _, directions = replace(camera, camera_to_world=torch.eye(4)[:3]).rays(
        torch.tensor([*corners, middle])
    )
    lengths = directions.norm(dim=-1)
    if not bool(((lengths - 1).abs() < 1e-3).all()):  # NaN, or squares beyond a float
        raise UserError(
            f"{where}: focal length {camera.fx:g}, {camera.fy:g}, principal point {camera.cx:g}, "
            f"{camera.cy:g} and lens {list(camera.distortion or ())} send rays nowhere: they are "
            "no camera's"
        )
    if camera.distortion is not None and (missed := _missed(camera)) > _MISSED:
        raise UserError(
            f"{where}: lens {list(camera.distortion)} cannot be inverted: the ray of a pixel comes "
            f"back {missed:.3g} pixels from it; wrong coefficients, or a picture far wider than "
            "what they were found on"
        )
    return camera


def _missed(camera: Camera) -> float:
    """How far, in pixels, the lens puts the rays of pixels from those, at most; of a grid."""
    assert camera.distortion is not None
    across = torch.linspace(0.5, camera.width - 0.5, _GRID, dtype=torch.float64)
    down = torch.linspace(0.5, camera.height - 0.5, _GRID, dtype=torch.float64)
    y, x = torch.meshgrid(
        (down - camera.cy) / camera.fy, (across - camera.cx) / camera.fx, indexing="ij"
    )
    u, v = distort(*undistort(x, y, camera.distortion), camera.distortion)
    off = torch.hypot((u - x) * camera.fx, (v - y) * camera.fy)
    return float(off.nan_to_num(math.inf).max())


def _number(found: dict[str, Any], name: str, above: float = -math.inf) -> float:
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"not a camera: {name} must be a finite number, not {brief(value)}")
    if not value > above:
        raise UserError(f"not a camera: {name} must be above {above:g}, not {brief(value)}")
    return float(value)


def _numbers(values: Any) -> Tensor | None:
    """Nested lists of finite numbers as a tensor, or None where they are something else."""
    try:
        found = torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        return None
    return found if found.isfinite().all() else None


def distort(x: Tensor, y: Tensor, lens: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Ideal image-plane coordinates to those the lens makes of them (OpenCV's formula)."""
    k1, k2, p1, p2, k3, k4 = lens
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def undistort(x: Tensor, y: Tensor, lens: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The inverse of `distort`, by Newton's method from the distorted coordinates."""
    k1, k2, p1, p2, k3, k4 = lens
    u, v = x.clone(), y.clone()
    for _ in range(_UNDISTORT_STEPS):
        r2 = u * u + v * v
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
        slope = k1 + r2 * (2 * k2 + r2 * (3 * k3 + r2 * 4 * k4))  # d radial / d r²
        du, dv = distort(u, v, lens)
        error_u, error_v = du - x, dv - y
        cross = 2 * u * v * slope + 2 * p1 * u + 2 * p2 * v
        a = radial + 2 * u * u * slope + 2 * p1 * v + 6 * p2 * u
        d = radial + 2 * v * v * slope + 6 * p1 * v + 2 * p2 * u
        determinant = a * d - cross * cross
        u = u - (d * error_u - cross * error_v) / determinant
        v = v - (a * error_v - cross * error_u) / determinant
    return u, v


def look_at(
    position: Sequence[float], target: Sequence[float], up: Sequence[float] = (0.0, 0.0, 1.0)
) -> Tensor:
    """The pose [3,4] of a camera at `position` that looks at `target`, `up` pointing upwards.

    Raises:
        UserError: position and target coincide, or the view is along `up`.
    """
    eye = torch.tensor(position, dtype=torch.float64)
    back = eye - torch.tensor(target, dtype=torch.float64)
    right = torch.linalg.cross(torch.tensor(up, dtype=torch.float64), back)
    if float(right.norm()) < 1e-9:
        raise UserError(f"a camera at {list(position)} cannot look at {list(target)}: no direction")
    back, right = back / back.norm(), right / right.norm()
    return torch.stack([right, torch.linalg.cross(back, right), back, eye], -1).float()
