"""Scenes from COLMAP's sparse models, binary or text. Needs the extra `pds[colmap]`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pds_cli.errors import UserError
from pds_cli.scenes.cameras import Camera
from pds_cli.scenes.capture import (
    CaptureScene,
    Frame,
    image_path,
    scene_folder,
)
from pds_cli.scenes.poses import checked_pose

_LAYOUT = "images/ and a sparse model in sparse/0, sparse or colmap/sparse/0"
_MODELS = ("sparse/0", "sparse", "colmap/sparse/0", ".")
# Camera model → where its parameters go in (fx, fy, cx, cy, k1, k2, p1, p2).
PARAMETERS = {
    "SIMPLE_PINHOLE": (0, 0, 1, 2),
    "PINHOLE": (0, 1, 2, 3),
    "SIMPLE_RADIAL": (0, 0, 1, 2, 3),
    "RADIAL": (0, 0, 1, 2, 3, 4),
    "OPENCV": (0, 1, 2, 3, 4, 5, 6, 7),
}


def pycolmap() -> Any:
    """The module.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pycolmap as module
    except ImportError as error:
        raise UserError(
            "COLMAP models are read and made with pycolmap, which is not installed; install it "
            "with: pip install 'pds[colmap]'"
        ) from error
    return module


class ColmapScene(CaptureScene):
    """The registered photos of a COLMAP reconstruction.

    Args:
        path: the folder with `images` and the model.
        images: the folder of the images, below `path`.
        masks: the folder of masks, below `path`: `<image>.png` for each `<image>`, black where the
            photo says nothing; None: no masks.
        downscale: read the images from `<images>_<downscale>`.
        source_url: where the data can be had, for the sentence when it is not there.
        source_prompt, max_size, orientation, centre, auto_scale, eval_interval, background: see
            `CaptureScene`.

    Raises:
        UserError: no model there, or one that cannot be read or used, with the image and the field.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        source_prompt: str | None = None,
        *,
        images: str = "images",
        masks: str | None = None,
        downscale: int | None = None,
        max_size: int | None = 512,
        orientation: str = "up",
        centre: str = "poses",
        auto_scale: bool = True,
        eval_interval: int = 8,
        background: str | Sequence[float] = "white",
        source_url: str | None = None,
    ) -> None:
        root = scene_folder(path, _LAYOUT, source_url)
        super().__init__(
            _frames(root, read_model(_model_folder(root)), images, masks, downscale),
            source_prompt=source_prompt,
            max_size=max_size,
            orientation=orientation,
            centre=centre,
            auto_scale=auto_scale,
            eval_interval=eval_interval,
            background=background,
        )


def read_model(folder: Path) -> Any:
    """The `pycolmap.Reconstruction` in a folder of binary or text files.

    Raises:
        UserError: pycolmap is missing, or cannot read the files.
    """
    module = pycolmap()
    try:
        return module.Reconstruction(folder)
    except Exception as error:  # its own checks raise a handful of built-in types
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder} is not a COLMAP model that can be read ({first})") from error


def camera_of(image: Any, where: str) -> Camera:
    """The camera of a `pycolmap.Image`, in the model's world.

    COLMAP's cameras look along +z with y downwards, ours along −z with y upwards.

    Raises:
        UserError: a camera model that is not perspective, a focal length that is not positive, or
            a broken pose.
    """
    camera = image.camera
    model = camera.model.name
    if model not in PARAMETERS:
        raise UserError(
            f"{where}: camera model {model} is not supported: undistort the photos "
            f"(colmap image_undistorter) or use one of {', '.join(PARAMETERS)}"
        )
    values = [float(camera.params[index]) for index in PARAMETERS[model]]
    fx, fy, cx, cy, *lens = values
    if not (0 < fx < float("inf") and 0 < fy < float("inf")):
        raise UserError(f"{where}: focal length {fx:g}, {fy:g}: numbers above 0 would be right")
    pose = checked_pose(image.cam_from_world().inverse().matrix().tolist(), where, "pose")
    pose[:, 1:3] *= -1
    distortion = (*lens, *[0.0] * (6 - len(lens))) if any(lens) else None
    return Camera(
        pose,
        fx,
        fy,
        cx,
        cy,
        int(camera.width),
        int(camera.height),
        distortion,  # type: ignore[arg-type]
    )


def _model_folder(root: Path) -> Path:
    for name in _MODELS:
        for suffix in ("bin", "txt"):
            if all((root / name / f"{part}.{suffix}").is_file() for part in ("cameras", "images")):
                return root / name
    raise UserError(
        f"{root} has no COLMAP model: cameras and images, as .bin or .txt files, are expected in "
        f"{', '.join(_MODELS[:-1])} or the folder itself"
    )


def _frames(
    root: Path, model: Any, images: str, masks: str | None, downscale: int | None
) -> list[Frame]:
    frames = []
    for image in model.images.values():
        where = f"{root}: image {image.name}"
        if not image.has_pose:
            continue
        path = image_path(root, f"{images}/{image.name}", where, "file", downscale)
        mask = None
        if masks is not None:
            mask = image_path(root, f"{masks}/{image.name}.png", where, "mask")
        frames.append(Frame(image.name, path, camera_of(image, where), mask))
    return frames
