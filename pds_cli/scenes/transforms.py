"""The files `transforms*.json`: a list of frames with poses, as nerfstudio and Blender write them.

Poses are camera-to-world matrices with OpenGL's axes, as in `pds_cli.views.cameras`. Intrinsics
stand beside the frames, or in a frame for that frame alone.
"""

from __future__ import annotations

import math
import posixpath
from dataclasses import replace
from pathlib import Path
from typing import Any

from pds_cli.errors import UserError
from pds_cli.reading import brief, label, read_json
from pds_cli.scenes.capture import Frame
from pds_cli.scenes.lenses import Lens, Straightened
from pds_cli.scenes.photos import NotThere, image_path, say_left_out, stored_size
from pds_cli.views.cameras import Camera, checked_camera
from pds_cli.views.poses import checked_pose

_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_FISHEYE = "OPENCV_FISHEYE"
_LENS = ("k1", "k2", "p1", "p2", "k3", "k4")


def read_transforms(file: Path) -> dict[str, Any]:
    """The contents of a transforms file.

    Raises:
        UserError: not JSON, or without a list `frames` of objects.
    """
    found = read_json(file)
    frames = found.get("frames") if isinstance(found, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise UserError(f"{file} has no list `frames` with an object for every photo")
    if not frames:
        raise UserError(f"{file} has no frames: its list `frames` is empty")
    return found


def frames_of(
    file: Path, found: dict[str, Any], downscale: int | None = None, split: str | None = None
) -> list[Frame]:
    """The frames of a transforms file; paths are relative to its folder.

    Args:
        downscale: images come from the folders `…_<downscale>`, where they are that much smaller.
        split: what the frames are for, where the whole file says that.

    Frames without a photo are left out, which is said.

    Raises:
        UserError: with the frame and the field that is wrong, or under half have a photo.
    """
    frames: list[Frame] = []
    missing: list[NotThere] = []
    for number, item in enumerate(found["frames"]):
        name = item.get("file_path", f"number {number}")
        where = f"{file}: frame {label(name)}"
        try:
            path = image_path(file.parent, item.get("file_path"), where, downscale=downscale)
        except NotThere as error:
            missing.append(error)
            continue
        mask = item.get("mask_path")
        if mask is not None:
            mask = image_path(file.parent, mask, where, "mask_path", downscale)
        fields = {**found, **item}
        camera, straight = _camera(fields, path, downscale or 1, where)
        frames.append(Frame(str(name), path, camera, mask, split, straight))
    say_left_out(missing, len(frames), str(file))
    return frames


def split_of(file: Path, found: dict[str, Any], frames: list[Frame]) -> list[Frame]:
    """The frames with the lists `train_filenames`, `val_filenames`, `test_filenames` applied.

    Without such lists they stay as they are. A frame that no list names is left out.

    Raises:
        UserError: a list that is none, or names a frame that the file does not have.
    """
    lists = {
        "train_filenames": "train",
        "val_filenames": "eval",
        "test_filenames": "eval",
    }
    if not any(field in found for field in lists):
        return frames
    known = {posixpath.normpath(str(item.get("file_path"))) for item in found["frames"]}
    splits: dict[str, str] = {}
    for field, split in lists.items():
        names = found.get(field, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{file}: {field} must be a list of the frames' file_path")
        for name in map(posixpath.normpath, names):
            if name not in known:
                raise UserError(
                    f"{file}: {field} names {label(name)}, which is no frame of this file"
                )
            splits.setdefault(name, split)
    named = [(posixpath.normpath(frame.name), frame) for frame in frames]
    return [replace(frame, split=splits[name]) for name, frame in named if name in splits]


def _camera(
    fields: dict[str, Any], path: Path, downscale: int, where: str
) -> tuple[Camera, Straightened | None]:
    """A frame's camera, and what straightens its photo where that is one of a fisheye."""
    model = fields.get("camera_model", "OPENCV")
    fisheye = model == _FISHEYE or bool(fields.get("is_fisheye"))
    if model not in _PERSPECTIVE and not fisheye:
        raise UserError(
            f"{where}: camera_model {label(model)} is not supported: undistort the photos to one "
            f"of {', '.join(_PERSPECTIVE[:-1])} first"
        )
    width, height = fields.get("w"), fields.get("h")
    if width is None or height is None:
        width, height = (size * downscale for size in stored_size(path))
    width, height = (_positive(value, "w, h", where) for value in (width, height))
    fx = _focal(fields, "x", width, where)
    fy = _focal(fields, "y", height, where) if _says_focal(fields, "y") else fx
    if fx is None or fy is None:
        raise UserError(f"{where}: fl_x (or camera_angle_x) is missing: the focal length in pixels")
    cx = _number(fields.get("cx", width / 2), "cx", where)
    cy = _number(fields.get("cy", height / 2), "cy", where)
    lens = {key: _number(fields.get(key, 0.0), key, where) for key in _LENS}
    pose, size = checked_pose(fields.get("transform_matrix"), where), (round(width), round(height))
    if fisheye:
        bent = tuple(lens[key] for key in ("k1", "k2", "k3", "k4"))
        straight = Straightened(Lens(_FISHEYE, *size, (fx, fy, cx, cy, *bent)), where)
        return checked_camera(Camera(pose, *straight.intrinsics), where), straight
    found = tuple(lens.values()) if any(lens.values()) else None
    camera = Camera(pose, fx, fy, cx, cy, *size, found)  # type: ignore[arg-type]
    return checked_camera(camera, where), None


def _says_focal(fields: dict[str, Any], axis: str) -> bool:
    return f"fl_{axis}" in fields or f"camera_angle_{axis}" in fields


def _focal(fields: dict[str, Any], axis: str, pixels: float, where: str) -> float | None:
    """fl_x, or the focal length that camera_angle_x means; None where neither is there."""
    if f"fl_{axis}" in fields:
        return _positive(fields[f"fl_{axis}"], f"fl_{axis}", where)
    field = f"camera_angle_{axis}"
    if field not in fields:
        return None
    angle = _positive(fields[field], field, where)
    if angle >= math.pi:
        raise UserError(f"{where}: {field} is {angle:g}: radians below π would be right")
    return 0.5 * pixels / math.tan(0.5 * angle)


def _number(value: Any, field: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: {field} is {brief(value)}: a finite number would be right")
    return float(value)


def _positive(value: Any, field: str, where: str) -> float:
    if not _number(value, field, where) > 0:
        raise UserError(f"{where}: {field} is {brief(value)}: a number above 0 would be right")
    return float(value)
