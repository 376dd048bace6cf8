"""Scenes from COLMAP's sparse models, binary or text."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from pds_cli.errors import UserError
from pds_cli.reading import label
from pds_cli.scenes.capture import CaptureScene, Frame, looks_like, scene_folder
from pds_cli.scenes.colmap_model import Photo, photo_count, read_model, read_points
from pds_cli.scenes.lenses import Straightened
from pds_cli.scenes.photos import NotThere, image_path, say_left_out
from pds_cli.views.cameras import Camera, checked_camera

_LAYOUT = "images/ and a sparse model in sparse/0, sparse or colmap/sparse/0"
# Camera model → where its parameters go in (fx, fy, cx, cy, k1, k2, p1, p2).
PARAMETERS = {
    "SIMPLE_PINHOLE": (0, 0, 1, 2),
    "PINHOLE": (0, 1, 2, 3),
    "SIMPLE_RADIAL": (0, 0, 1, 2, 3),
    "RADIAL": (0, 0, 1, 2, 3, 4),
    "OPENCV": (0, 1, 2, 3, 4, 5, 6, 7),
}


class ColmapScene(CaptureScene):
    """The registered photos of a COLMAP reconstruction.

    Args:
        path: the folder with `images` and the model.
        images: the folder of the images, below `path`.
        masks: the folder of masks, below `path`: `<image>.png` for each `<image>`, black where the
            photo says nothing; None: no masks.
        downscale: read the images from `<images>_<downscale>`.
        source_url: where the data can be had, for the sentence when it is not there.
        recommended: what a representation takes on the command line; of no use here.
        source_prompt, max_size, orientation, centre, auto_scale, eval_interval, background, front:
            see `CaptureScene`.

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
        front: float | str | None = None,
        source_url: str | None = None,
        recommended: Any = None,
    ) -> None:
        root = scene_folder(path, _LAYOUT, source_url)
        model = _model_folder(root)
        super().__init__(
            _frames(root, read_model(model), images, masks, downscale),
            source_prompt=source_prompt,
            max_size=max_size,
            orientation=orientation,
            centre=centre,
            auto_scale=auto_scale,
            eval_interval=eval_interval,
            background=background,
            front=front,
            points=read_points(model),
        )


def camera_of(photo: Photo, where: str, straight: Straightened | None = None) -> Camera:
    """A photo's camera, in the model's world.

    COLMAP's cameras look along +z with y downwards, ours along −z with y upwards.

    Args:
        straight: of a lens that has no place in `Camera`; the camera is its pinhole one then.

    Raises:
        UserError: numbers that no camera has.
    """
    lens, bent = photo.lens, []
    if straight is None:
        fx, fy, cx, cy, *bent = (lens.parameters[i] for i in PARAMETERS[lens.kind])
        width, height = lens.width, lens.height
    else:
        fx, fy, cx, cy, width, height = straight.intrinsics
    turned = photo.world_to_camera[:, :3].T
    pose = torch.cat([turned, -turned @ photo.world_to_camera[:, 3:]], -1)
    pose[:, 1:3] *= -1
    distortion = (*bent, *[0.0] * (6 - len(bent))) if any(bent) else None
    camera = Camera(pose, fx, fy, cx, cy, width, height, distortion)  # type: ignore[arg-type]
    return checked_camera(camera, where)


def _model_folder(root: Path) -> Path:
    """The model with the most photos; which it is is said where there are several.

    Raises:
        UserError: there is none.
    """
    places = [*_numbered(root / "sparse"), root / "sparse"]
    places += [*_numbered(root / "colmap/sparse"), root / "colmap/sparse", root]
    found = [place for place in places if _holds_model(place)]
    if not found:
        raise UserError(
            f"{root} has no COLMAP model: cameras and images, as .bin or .txt files, are expected "
            "in sparse/0, sparse, colmap/sparse/0 or the folder itself"
            + looks_like(root, "scene=colmap")
        )
    if len(found) == 1:
        return found[0]
    counts = {place: photo_count(place) for place in found}
    best = max(found, key=lambda place: counts[place])
    others = [f"{p.relative_to(root)} ({counts[p]})" for p in found if p != best]
    print(
        f"pds: {root} has {len(found)} COLMAP models; {best.relative_to(root)} with "
        f"{counts[best]} photos is taken, and not {', '.join(others)}",
        file=sys.stderr,
    )
    return best


def _numbered(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())


def _holds_model(place: Path) -> bool:
    return any(
        all((place / f"{part}.{suffix}").is_file() for part in ("cameras", "images"))
        for suffix in ("bin", "txt")
    )


def _frames(
    root: Path, photos: Iterable[Photo], images: str, masks: str | None, downscale: int | None
) -> list[Frame]:
    frames: list[Frame] = []
    missing: list[NotThere] = []
    for photo in photos:
        where = f"{root}: image {label(photo.name)}"
        try:
            path = image_path(root, f"{images}/{photo.name}", where, "file", downscale)
        except NotThere as error:
            missing.append(error)
            continue
        mask = None
        if masks is not None:
            mask = image_path(root, f"{masks}/{photo.name}.png", where, "mask")
        known = photo.lens.kind in PARAMETERS
        straight = None if known else Straightened(photo.lens, where)
        camera = camera_of(photo, where, straight)
        frames.append(Frame(photo.name, path, camera, mask, straight=straight))
    say_left_out(missing, len(frames), str(root))
    return frames
