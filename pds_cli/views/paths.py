"""Camera paths through a scene, made from the cameras that it was seen by, or read from a file.

Angles are degrees. Paths are closed, so that a film of one can loop.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pds_cli.errors import UserError, did_you_mean
from pds_cli.options.verbs import PATHS
from pds_cli.reading import MAX_PIXELS, brief, label, read_json
from pds_cli.views.cameras import Camera, look_at
from pds_cli.views.poses import IDENTITY, Similarity, checked_pose, focus, mean_up
from pds_cli.views.view import Region

FRAMES = 60
ORBIT_SWEEP = 20.0
_STEEPEST = 89.0  # a camera right above looks along `up`


def camera_path(
    path: str | os.PathLike[str],
    train: Sequence[Camera],
    region: Region | None = None,
    *,
    frames: int | None = None,
    size: int | None = None,
    elevation: float | None = None,
    start: float = 0.0,
    sweep: float | None = None,
    transform: Similarity = IDENTITY,
) -> list[Camera]:
    """The cameras of a path, by its name or its file, all of one size with even sides.

    Args:
        path: one of `PATHS`, or a file for `read_cameras`.
        train: the cameras that the scene was seen by.
        region: where the scene is.
        frames: how many cameras; None: `FRAMES`, or all where the path lists cameras.
        size: longer side of the pictures in pixels; None: that of the cameras.
        elevation, start: of `turntable`. sweep: of `turntable` and `orbit`; None: theirs.
        transform: from the capture's coordinates to the scene's, for a file in the former.

    Raises:
        UserError: no such path, an option out of range, or a file that holds no cameras.
    """
    for name, value in (("frames", frames), ("size", size)):
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1")
    name = os.fspath(path)
    if name not in PATHS:
        if not Path(name).exists():
            raise UserError(
                f"path={name} is neither {', '.join(PATHS[:-1])} or {PATHS[-1]}, nor a file of "
                f"cameras{did_you_mean(name, PATHS)}"
            )
        return listed(read_cameras(name, transform), frames, size)
    if not math.isfinite(start):
        raise UserError(f"start={start} must be a finite number of degrees")
    if not train:
        raise UserError("the run knows no cameras: give a file of cameras")
    if name == "train":
        return listed(train, frames, size)
    if name == "orbit":
        wide = ORBIT_SWEEP if sweep is None else sweep
        return orbit(train, region, frames=frames or FRAMES, size=size, sweep=wide)
    return turntable(
        train,
        region,
        frames=frames or FRAMES,
        size=size,
        elevation=elevation,
        start=start,
        sweep=360.0 if sweep is None else sweep,
    )


def turntable(
    train: Sequence[Camera],
    region: Region | None = None,
    *,
    frames: int = FRAMES,
    size: int | None = None,
    elevation: float | None = None,
    start: float = 0.0,
    sweep: float = 360.0,
) -> list[Camera]:
    """Cameras on a circle round what the train cameras look at, upright, looking at it.

    The circle's axis is the region's `up`, or what the cameras call up on average; its distance
    is the train cameras' median, and so is the field of view.

    Args:
        train: at least one camera.
        region: where the scene is, for train cameras whose axes meet nowhere.
        frames: how many cameras.
        size: longer side of the pictures in pixels; None: that of the train cameras.
        elevation: height above the middle as an angle in ±89; None: the train cameras' median.
        start: azimuth of the first camera, counted from the first train camera, counterclockwise
            as seen from above.
        sweep: 360 or −360 for a full circle; less for an arc that is swung along and back, for
            scenes that were seen from one side only.

    Raises:
        UserError: an angle out of range, or cameras that look at nothing together.
    """
    if not 0 < abs(sweep) <= 360:
        raise UserError(f"sweep={sweep:g} must be between −360 and 360 degrees, and not 0")
    if elevation is not None and not abs(elevation) <= _STEEPEST:
        raise UserError(f"elevation={elevation:g} must be between −{_STEEPEST:g} and {_STEEPEST:g}")
    poses = _poses(train)
    middle = look_at_point(train, region)
    up = middle.new_tensor(region.up if region is not None else mean_up(poses))
    offsets = poses[:, :, 3] - middle
    distance = float(offsets.norm(dim=-1).median())
    if elevation is None:
        heights = (offsets @ up) / offsets.norm(dim=-1).clamp_min(1e-9)
        elevation = math.degrees(math.asin(max(-1.0, min(1.0, float(heights.median())))))
        elevation = max(-_STEEPEST, min(_STEEPEST, elevation))
    ahead, aside = _horizontal(offsets[0], poses[0, :, 1], up)
    level, rise = math.cos(math.radians(elevation)), math.sin(math.radians(elevation))
    camera = fitted(_typical(train), size)
    path = []
    for azimuth in _azimuths(frames, start, sweep):
        around = math.cos(azimuth) * ahead + math.sin(azimuth) * aside
        eye = middle + distance * (level * around + rise * up)
        path.append(camera.moved(look_at(eye.tolist(), middle.tolist(), up.tolist())))
    return path


def orbit(
    train: Sequence[Camera],
    region: Region | None = None,
    *,
    frames: int = FRAMES,
    size: int | None = None,
    sweep: float = ORBIT_SWEEP,
) -> list[Camera]:
    """A small closed loop about the first train camera: it stays where the scene was seen.

    The loop is an ellipse across the viewing axis, half as high as it is wide; every camera looks
    at the point of that axis nearest to what the train cameras look at.

    Args:
        train, region, frames, size: as of `turntable`.
        sweep: the angle, in (0, 120], under which that point sees the loop.

    Raises:
        UserError: a sweep out of range, or cameras that look at nothing together.
    """
    if not 0 < sweep <= 120:
        raise UserError(f"sweep={sweep:g} must be above 0 and at most 120 degrees for an orbit")
    pose = _poses(train)[0]
    right, up, eye, axis = pose[:, 0], pose[:, 1], pose[:, 3], -pose[:, 2]
    ahead = look_at_point(train, region) - eye
    along = float(ahead @ axis)
    distance = along if along > 0 else float(ahead.norm())
    pivot = eye + distance * axis
    radius = distance * math.tan(math.radians(sweep / 2))
    camera = fitted(replace(train[0], distortion=None), size)
    path = []
    for azimuth in _azimuths(frames, 0.0, 360.0):
        moved = eye + radius * (math.cos(azimuth) * right + 0.5 * math.sin(azimuth) * up)
        path.append(camera.moved(look_at(moved.tolist(), pivot.tolist(), up.tolist())))
    return path


def listed(
    cameras: Sequence[Camera], frames: int | None = None, size: int | None = None
) -> list[Camera]:
    """Given cameras in their order, in one size: the first one's, or with its longer side `size`.

    frames: so many of them, evenly spaced; None: all.
    """
    count = len(cameras) if frames is None else min(frames, len(cameras))
    first = fitted(cameras[0], size)
    chosen = [cameras[i * len(cameras) // count] for i in range(count)]
    return [_on_canvas(camera, first.height, first.width) for camera in chosen]


def read_cameras(path: str | os.PathLike[str], transform: Similarity = IDENTITY) -> list[Camera]:
    """The cameras of a JSON file: a list of what `Camera.to_dict` gives.

    An entry whose `units` are `capture` is brought to the scene's coordinates by `transform`. The
    object that a run has as `exports/cameras.json` will do too; its `train` part is taken.

    Raises:
        UserError: with the file, the entry and the field that is wrong.
    """
    path = Path(path)
    found = read_json(path)
    entries = found.get("train") if isinstance(found, dict) else found
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} is not a list of cameras such as pds export format=cameras writes")
    return [_entry(path, number, entry, transform) for number, entry in enumerate(entries)]


def fitted(camera: Camera, size: int | None) -> Camera:
    """The camera for pictures whose longer side is `size` pixels, both sides even.

    Films need even sides; what rounding adds is seen beyond the picture's edge.

    Raises:
        UserError: a picture of more than `MAX_PIXELS`.
    """
    ratio = 1.0 if size is None else size / max(camera.width, camera.height)
    height, width = (max(2, 2 * round(ratio * s / 2)) for s in (camera.height, camera.width))
    if height * width > MAX_PIXELS:
        raise UserError(
            f"pictures of {width}×{height} pixels are more than the limit of "
            f"{MAX_PIXELS // 1_000_000} megapixels: choose a smaller size"
        )
    return _on_canvas(camera, height, width)


def look_at_point(train: Sequence[Camera], region: Region | None = None) -> Tensor:
    """The point [3] in float64 that the cameras look at: nearest to their axes in least squares.

    Where there is none before them (axes side by side), it is the region's centre, or else what
    lies a region's radius ahead of their mean.

    Raises:
        UserError: the cameras look away from each other.
    """
    poses, region = _poses(train), region or Region()
    centres, axes = poses[:, :, 3], -poses[:, :, 2]
    for point in (focus(poses), poses.new_tensor(region.centre)):
        along = ((point - centres) * axes).sum(-1)
        if float(along.median()) > 0.05 * region.radius:
            return point
    ahead = axes.mean(0)
    if float(ahead.norm()) < 0.3:
        raise UserError(
            "the cameras of this run look at nothing together, so nothing can be circled: "
            "path=train shows what they see"
        )
    return centres.mean(0) + region.radius * ahead / ahead.norm()


def _poses(cameras: Sequence[Camera]) -> Tensor:
    return torch.stack([camera.camera_to_world for camera in cameras]).double().cpu()


def _azimuths(frames: int, start: float, sweep: float) -> list[float]:
    """Radians: evenly along a full circle, or along an arc and back, slower at its ends."""
    turns = [i / frames for i in range(frames)]
    if abs(sweep) < 360:
        turns = [0.5 - 0.5 * math.cos(2 * math.pi * turn) for turn in turns]
    return [math.radians(start + sweep * turn) for turn in turns]


def _horizontal(offset: Tensor, other: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors across `up`: along `offset` (or `other`, where that is along `up`), and left."""
    for direction in (offset, other, up.roll(1)):
        level = direction - (direction @ up) * up
        if float(level.norm()) > 1e-3 * float(direction.norm()):
            break
    level = level / level.norm()
    return level, torch.linalg.cross(up, level)


def _typical(train: Sequence[Camera]) -> Camera:
    """The train camera with the median field of view, looking straight, without its lens."""
    widths = sorted(train, key=lambda camera: camera.fx / max(camera.width, camera.height))
    camera = widths[len(widths) // 2]
    return replace(camera, cx=camera.width / 2, cy=camera.height / 2, distortion=None)


def _on_canvas(camera: Camera, height: int, width: int) -> Camera:
    """The camera for a picture of this size that shows all of its own, in the middle."""
    ratio = min(height / camera.height, width / camera.width)
    margins = (width - ratio * camera.width, height - ratio * camera.height)
    # A lens says nothing about what lies beyond the edges of its picture.
    inside = max(margins) <= 2.0
    return replace(
        camera,
        fx=camera.fx * ratio,
        fy=camera.fy * ratio,
        cx=camera.cx * ratio + margins[0] / 2,
        cy=camera.cy * ratio + margins[1] / 2,
        width=width,
        height=height,
        distortion=camera.distortion if inside else None,
    )


def _entry(path: Path, number: int, entry: Any, transform: Similarity) -> Camera:
    name = entry.get("name") if isinstance(entry, dict) else None
    where = f"{path}: entry {number}" + (f" ({label(name)})" if name else "")
    try:
        camera = Camera.from_dict(entry)
        pose = checked_pose(entry["camera_to_world"], "not a camera", "camera_to_world")
        units = entry.get("units", "scene")
        if units not in ("scene", "capture"):
            raise UserError(f"not a camera: its units are {brief(units)}: use scene or capture")
    except UserError as error:
        raise UserError(f"{where} is {error}") from error
    if units == "capture":
        pose = transform.poses(pose[None])[0]
    return camera.moved(pose.float())
