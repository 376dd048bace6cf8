"""Scenes in nerfstudio's format: a folder with `transforms.json` and its images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.reading import brief
from pds_cli.scenes.capture import CaptureScene, looks_like, scene_folder
from pds_cli.scenes.photos import image_path
from pds_cli.scenes.point_cloud import read_point_cloud
from pds_cli.scenes.transforms import frames_of, read_transforms, split_of
from pds_cli.views.poses import IDENTITY, Similarity, checked_pose

_LAYOUT = "transforms.json and the images that it names (nerfstudio's format)"


class NerfstudioScene(CaptureScene):
    """Photos with cameras from a `transforms.json`.

    Args:
        path: the folder with `transforms.json`, or such a file.
        downscale: read the images from `images_<downscale>` instead of `images`.
        source_url: where the data can be had, for the sentence when it is not there.
        recommended: what a representation takes on the command line; of no use here.
        source_prompt, max_size, orientation, centre, auto_scale, eval_interval, background, front:
            see `CaptureScene`. Photos are held out by the file's own lists where it has them.

    Points that the file names as `ply_file_path` are read, too.

    `transform` starts from the world before the file's `applied_transform` and `applied_scale`.

    Raises:
        UserError: no such folder, or a frame that cannot be used, with its name and field.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        source_prompt: str | None = None,
        *,
        downscale: int | None = None,
        max_size: int | None = 512,
        orientation: str = "up",
        centre: str = "poses",
        auto_scale: bool = True,
        eval_interval: int = 8,
        background: str | Sequence[float] = "white",
        front: float | str | None = None,
        source_url: str | None = None,
        recommended: Any = None,
    ) -> None:
        file = scene_folder(path, _LAYOUT, source_url)
        if file.is_dir():
            other = looks_like(file, "scene=nerfstudio")
            file = scene_folder(file / "transforms.json", _LAYOUT, source_url, other)
        found = read_transforms(file)
        super().__init__(
            split_of(file, found, frames_of(file, found, downscale)),
            source_prompt=source_prompt,
            max_size=max_size,
            orientation=orientation,
            centre=centre,
            auto_scale=auto_scale,
            eval_interval=eval_interval,
            background=background,
            front=front,
            applied=_applied(file, found),
            points=_points(file, found.get("ply_file_path")),
        )


def _points(file: Path, name: Any) -> tuple[Tensor, Tensor] | None:
    """The points that a file names as `ply_file_path`, in its world, and their colours."""
    if name is None:
        return None
    path = image_path(file.parent, name, str(file), "ply_file_path")
    return read_point_cloud(path)


def _applied(file: Path, found: dict[str, Any]) -> Similarity:
    """What was done to the capture's world before the file was written."""
    matrix, scale = found.get("applied_transform"), found.get("applied_scale", 1.0)
    try:
        if isinstance(scale, bool) or not 1e-9 <= float(scale) <= 1e9:
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(
            f"{file}: applied_scale is {brief(scale)}: a number above 0 would be right"
        ) from None
    if matrix is None:
        return Similarity(IDENTITY.matrix, float(scale))
    return Similarity(checked_pose(matrix, str(file), "applied_transform"), float(scale))
