"""Camera poses as a whole: checking them, and turning, centring and scaling their world."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pds_cli.errors import UserError

log = logging.getLogger(__name__)

# Entries of RᵀR − I up to here are rounding, and are cleaned away; beyond, the pose is wrong.
_ROTATION_TOLERANCE = 5e-3
_FOCUS_ROUNDS = 10
_FARTHEST = 1e9  # single precision has no squares of much more


@dataclass(frozen=True)
class Similarity:
    """The map of points p ↦ scale · (matrix[:, :3] p + matrix[:, 3]).

    matrix: [3,4] float64, a rotation beside a translation.
    """

    matrix: Tensor
    scale: float = 1.0

    def points(self, points: Tensor) -> Tensor:
        """Points [N,3], moved."""
        matrix = self.matrix.to(points)
        return self.scale * (points @ matrix[:, :3].T + matrix[:, 3])

    def poses(self, poses: Tensor) -> Tensor:
        """Camera-to-world matrices [N,3,4], moved; their rotations stay rotations."""
        rotations = self.matrix[:, :3].to(poses) @ poses[:, :, :3]
        return torch.cat([rotations, self.points(poses[:, :, 3])[:, :, None]], -1)

    def after(self, first: Similarity) -> Similarity:
        """The map that applies `first` and then this one."""
        rotation, shift = self.matrix[:, :3], self.matrix[:, 3] / first.scale
        translation = rotation @ first.matrix[:, 3] + shift
        matrix = torch.cat([rotation @ first.matrix[:, :3], translation[:, None]], -1)
        return Similarity(matrix, self.scale * first.scale)

    def inverse(self) -> Similarity:
        """The way back."""
        rotation = self.matrix[:, :3].T
        shift = -self.scale * rotation @ self.matrix[:, 3:]
        return Similarity(torch.cat([rotation, shift], -1), 1 / self.scale)

    def to_dict(self) -> dict[str, Any]:
        """As nerfstudio's `dataparser_transforms.json` has it; the inverse of `from_dict`."""
        return {"transform": self.matrix.tolist(), "scale": self.scale}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Similarity:
        """The map that `to_dict` described.

        Raises:
            UserError, LookupError, TypeError, ValueError: it is none.
        """
        checked_pose(found["transform"], "its transform", "transform")
        scale = float(found["scale"])
        if not 1e-9 <= scale <= 1e9:
            raise ValueError("its transform's scale is no number above 0")
        return cls(torch.tensor(found["transform"], dtype=torch.float64)[:3], scale)


IDENTITY = Similarity(torch.eye(4, dtype=torch.float64)[:3])


def checked_pose(values: Any, where: str, field: str = "transform_matrix") -> Tensor:
    """A camera-to-world matrix [3,4] in float64 from 3 or 4 rows of numbers.

    Rounding in the rotation is cleaned away: the nearest rotation is taken.

    Raises:
        UserError: another form, NaN or infinity, or a left part that is no rotation.
    """
    try:
        pose = torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        pose = torch.empty(0)
    if pose.shape not in ((3, 4), (4, 4)):
        raise UserError(f"{where}: {field} is not a matrix: 3 or 4 rows of 4 numbers are right")
    pose = pose[:3]
    if not pose.isfinite().all():
        raise UserError(
            f"{where}: {field} holds NaN or infinity: the pose is unknown, leave it out"
        )
    if float(pose[:, 3].abs().max()) > _FARTHEST:
        raise UserError(
            f"{where}: {field} puts the camera {float(pose[:, 3].abs().max()):.2g} units away: at "
            f"most {_FARTHEST:g} would be right"
        )
    rotation = pose[:, :3]
    error = float((rotation.T @ rotation - torch.eye(3, dtype=pose.dtype)).abs().max())
    if error > _ROTATION_TOLERANCE:
        raise UserError(
            f"{where}: {field} is not a rotation beside a position (RᵀR differs from I by "
            f"{error:.2g}): orthonormal columns, without a scale, would be right"
        )
    u, _, v = torch.linalg.svd(rotation)
    if float(torch.linalg.det(u @ v)) < 0:
        raise UserError(f"{where}: {field} mirrors (its determinant is −1): a rotation is right")
    return torch.cat([u @ v, pose[:, 3:]], -1)


def normalisation(poses: Tensor, orientation: str, centre: str, auto_scale: bool) -> Similarity:
    """Turns, shifts and scales a world by its cameras, poses [N,3,4]; see `CaptureScene`."""
    if centre == "none":
        origin = poses.new_zeros(3)
    else:
        origin = poses[:, :, 3].mean(0) if centre == "poses" else focus(poses)
    rotation = torch.eye(3, dtype=poses.dtype)
    if orientation == "up":
        rotation = rotation_to_z(poses[:, :, 1].mean(0))
    elif orientation == "pca":
        rotation = _principal_axes(poses)
    moved = Similarity(torch.cat([rotation, (-rotation @ origin)[:, None]], -1))
    reach = float(moved.points(poses[:, :, 3]).abs().max()) if auto_scale else 1.0
    return Similarity(moved.matrix, 1 / reach if reach > 1e-9 else 1.0)


def focus(poses: Tensor) -> Tensor:
    """The point [3] nearest, in least squares, to the viewing axes of the poses [N,3,4].

    Cameras that turn out to look away from it are left out, and it is found again. Where the axes
    are parallel there is no such point, and the mean of the camera centres is taken.
    """
    centres, axes = poses[:, :, 3], -poses[:, :, 2]
    point, used = centres.mean(0), torch.ones(len(poses), dtype=torch.bool)
    for _ in range(_FOCUS_ROUNDS):
        across = torch.eye(3, dtype=poses.dtype) - axes[used, :, None] * axes[used, None, :]
        total = across.sum(0)
        if not used.any() or float(torch.linalg.cond(total)) > 1e6:
            log.warning("the cameras look at no common point: centred at their mean instead")
            return centres.mean(0)
        point = torch.linalg.solve(total, (across @ centres[used, :, None]).sum(0)[:, 0])
        ahead = ((point - centres) * axes).sum(-1) > 0
        if bool((ahead == used).all()):
            break
        used = ahead
    return point


def rotations(quats: Tensor) -> Tensor:
    """Rotation matrices [N,3,3] of quaternions [N,4] (w,x,y,z) of any length but 0."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1, eps=0).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def rotation_to_z(direction: Tensor) -> Tensor:
    """The rotation [3,3] by the smallest angle that takes a direction [3] to +z (Rodrigues)."""
    identity = torch.eye(3, dtype=direction.dtype)
    if float(direction.norm()) < 1e-9:
        return identity
    x, y, z = (direction / direction.norm()).tolist()
    if z < -1 + 1e-9:  # any axis across will do
        return identity * identity.new_tensor([1.0, -1.0, -1.0])
    cross = identity.new_tensor([[0.0, 0.0, -x], [0.0, 0.0, -y], [x, y, 0.0]])
    return identity + cross + cross @ cross / (1 + z)


def _principal_axes(poses: Tensor) -> Tensor:
    """The rotation [3,3] whose rows are the directions of the centres' spread, largest first.

    The signs are chosen so that the cameras' mean up direction has z ≥ 0.
    """
    offsets = poses[:, :, 3] - poses[:, :, 3].mean(0)
    _, vectors = torch.linalg.eigh(offsets.T @ offsets)
    axes = vectors.flip(-1).T.contiguous()
    if float(axes[2] @ poses[:, :, 1].mean(0)) < 0:
        axes[2] = -axes[2]
    axes[1] = torch.linalg.cross(axes[2], axes[0])
    return axes


def mean_up(poses: Tensor) -> tuple[float, float, float]:
    """The unit direction that the cameras of poses [N,3,4] call up, on average; else +z."""
    up = poses[:, :, 1].mean(0)
    if float(up.norm()) < 1e-9:
        return (0.0, 0.0, 1.0)
    x, y, z = (up / up.norm()).tolist()
    return (x, y, z)
