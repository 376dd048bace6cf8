"""Scenes of photos with known cameras: what all their file formats share.

A format's loader lists `Frame`s. `CaptureScene` checks them, moves their world to where
reconstruction expects it, sets views aside for measuring, and reads the images.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from pds_cli.errors import UserError, check_choice
from pds_cli.options.scenes import CENTRES, ORIENTATIONS
from pds_cli.pictures.files import read_image, resize
from pds_cli.progress import Progress
from pds_cli.reading import label
from pds_cli.scenes.base import Scene, checked_front
from pds_cli.scenes.lenses import Straightened
from pds_cli.scenes.photos import SUFFIXES, listed
from pds_cli.views.cameras import Camera
from pds_cli.views.poses import (
    IDENTITY,
    Similarity,
    mean_up,
    normalisation,
)
from pds_cli.views.undistorting import undistorted
from pds_cli.views.view import Region, View

BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}

# What a folder of each format holds.
_MARKS = {
    "scene=nerfstudio": ("transforms.json",),
    "scene=blender": ("transforms_train.json",),
    "scene=colmap": ("sparse", "colmap/sparse", "images.bin"),
}
_NEAR, _FAR = 0.05, 1000.0  # in units of the region's radius
_EXIF_ORIENTATION = 0x0112
# EXIF orientation → how an upright image [C,H,W] goes back to the rows that the file stores.
_AS_STORED: dict[int, Callable[[Tensor], Tensor]] = {
    2: lambda image: image.flip(-1),
    3: lambda image: image.flip(-1, -2),
    4: lambda image: image.flip(-2),
    5: lambda image: image.transpose(-1, -2),
    6: lambda image: image.rot90(1, (-2, -1)),
    7: lambda image: image.transpose(-1, -2).flip(-1, -2),
    8: lambda image: image.rot90(-1, (-2, -1)),
}


@dataclass(frozen=True)
class Frame:
    """One photo with its camera, as a file lists it; nothing of it is read yet.

    name: the photo as the file names it, for messages and for the view's name.
    path: the image file.
    camera: of the image at the size that the file speaks of, in the file's world.
    mask: an image file, 0 where the photo says nothing of the scene; None: all of it counts.
    split: `train` or `eval` where the file has such lists, else None.
    straight: makes the image that the camera sees of the file's; None: that is it.
    """

    name: str
    path: Path
    camera: Camera
    mask: Path | None = None
    split: str | None = None
    straight: Straightened | None = None

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height of the file's image, as the capture's file speaks of it."""
        if self.straight is None:
            return self.camera.width, self.camera.height
        return self.straight.lens.width, self.straight.lens.height


class CaptureScene(Scene):
    """Photos with known cameras.

    Args:
        frames: the photos, at least one.
        source_prompt: what they show now; needed only where a prompt is asked for.
        max_size: the longer side of the views in pixels at most; None: as the files are.
        orientation: how the world is turned: `up` makes the cameras' mean up direction +z, `pca`
            the direction in which the camera centres vary least, `none` leaves it.
        centre: what becomes the origin: the mean of the camera centres (`poses`), the point
            nearest to what all cameras look at (`focus`), or `none`.
        auto_scale: make the largest absolute coordinate of a camera centre 1.
        eval_interval: the first and every so-many-th photo, by name, is held out for measuring,
            unless the file has lists of its own; 0: none is held out.
        background: what transparent images lie over: `white`, `black` or [r,g,b] in [0,1].
        front: where the front is, see `Scene.front`.
        applied: how the file's world came from the capture's original one.
        points: what structure from motion found: places [N,3] in the file's world, and colours.

    Attributes:
        transform: `Similarity` from the capture's original world to the scene's.

    Raises:
        UserError: an option out of range, or a frame that cannot be used, by name.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        *,
        source_prompt: str | None = None,
        max_size: int | None = 512,
        orientation: str = "up",
        centre: str = "poses",
        auto_scale: bool = True,
        eval_interval: int = 8,
        background: str | Sequence[float] = "white",
        front: float | str | None = None,
        applied: Similarity = IDENTITY,
        points: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        check_choice("scene.orientation", orientation, ORIENTATIONS)
        check_choice("scene.centre", centre, CENTRES)
        self._prompt = source_prompt
        self._max_size = max_size
        self._background = colour(background)
        frames = sorted(frames, key=_natural_order)
        names = view_names(frames)
        poses = torch.stack([frame.camera.camera_to_world.double() for frame in frames])
        moved = normalisation(poses, orientation, centre, auto_scale)
        self.transform = moved.after(applied)
        if points is not None:
            self.sparse_points = moved.points(points[0].double()).float(), points[1]
        self._pinhole = False
        poses = moved.poses(poses)
        reach = float(poses[:, :, 3].abs().max()) or 1.0
        up = (0.0, 0.0, 1.0) if orientation != "none" else mean_up(poses)
        self._region = Region(radius=reach, near=_NEAR * reach, far=_FAR * reach, up=up)
        placed = list(zip(names, frames, poses.float(), strict=True))
        held_out = hold_out(frames, eval_interval)
        self._views = self._read([one for one in placed if one[1].name not in held_out])
        self._held_out = [one for one in placed if one[1].name in held_out]
        self.front = checked_front(front, self._views)

    @property
    def source_prompt(self) -> str:  # type: ignore[override]
        """What the photos show.

        Raises:
            UserError: nobody said. Reconstruction does not ask.
        """
        if self._prompt is None or not self._prompt.strip():
            raise UserError(
                "source=… is needed: say what the photos show now, e.g. "
                'source="a photo of a man in a blue shirt"'
            )
        return self._prompt

    @property
    def views(self) -> Sequence[View]:
        """The photos that are reconstructed and edited, by name."""
        return self._views

    @cached_property
    def eval_views(self) -> Sequence[View]:  # type: ignore[override]
        """The photos held out; their files are read when they are first asked for."""
        views = self._read(self._held_out)
        return [undistorted(view) for view in views] if self._pinhole else views

    def undistort(self) -> None:
        """See `Scene.undistort`."""
        self._pinhole = True
        self._views = [undistorted(view) for view in self._views]
        self.__dict__.pop("eval_views", None)

    @property
    def region(self) -> Region:
        """Around the origin, as far as the cameras reach; contracted outside."""
        return self._region

    def _read(self, placed: Sequence[tuple[str, Frame, Tensor]]) -> list[View]:
        views = []
        with Progress("read photos", len(placed)) as progress:
            for name, frame, pose in placed:
                views.append(read_view(name, frame, pose, self._max_size, self._background))
                progress.update(len(views))
        return views


def colour(background: str | Sequence[float]) -> tuple[float, ...]:
    if isinstance(background, str):
        check_choice("scene.background", background, tuple(BACKGROUNDS))
        return BACKGROUNDS[background]
    try:
        red, green, blue = (float(value) for value in background)
    except (TypeError, ValueError):
        red = math.nan
    if math.isnan(red) or not all(0 <= value <= 1 for value in (red, green, blue)):
        raise UserError(
            f"scene.background={background} must be white, black, or 3 numbers from 0 to 1"
        )
    return red, green, blue


# --- frames --------------------------------------------------------------------------------------


def looks_like(folder: Path, own: str) -> str:
    """For a sentence: which scene would read this folder, where it is another than `own`."""
    for scene, marks in _MARKS.items():
        if scene != own and any((folder / mark).exists() for mark in marks):
            return f"; it looks like one for {scene}"
    return ""


def scene_folder(
    path: str | os.PathLike[str] | None,
    layout: str,
    source_url: str | None = None,
    other: str = "",
) -> Path:
    """The folder (or file) that a scene is read from.

    other: of `looks_like`, for the sentence.

    Raises:
        UserError: it is not there; the sentence says what should be, and where to get it.
    """
    if path is None or not os.fspath(path).strip():
        raise UserError(f"scene.path=… is needed: a folder with {layout}")
    found = Path(path).expanduser()
    if not found.exists():
        where = f"; the data is at {source_url}" if source_url else ""
        raise UserError(
            f"{path} does not exist (from {Path.cwd()}): a folder with {layout} is expected"
            f"{where}{other}; another place is given with scene.path=<folder>"
        )
    return found


def view_names(frames: Sequence[Frame]) -> list[str]:
    """Names for views, fit for files: paths without the folder that all share and the suffix.

    Raises:
        UserError: no frame at all, or two with the same photo or the same name.
    """
    if not frames:
        raise UserError("this scene has no frames: at least one photo with a camera is needed")
    paths = [listed(frame.name) for frame in frames]
    shared = os.path.commonpath([path.parent for path in paths])
    plain = [_plain(path.relative_to(shared) if shared else path) for path in paths]
    alike = Counter(plain)
    names: dict[str, str] = {}
    for frame, path, name in zip(frames, paths, plain, strict=True):
        if alike[name] > 1 and path.suffix:  # f0.jpg beside f0.png
            name = f"{name}_{path.suffix[1:]}"
        if name in names:
            raise UserError(
                f"frames {label(names[name])} and {label(frame.name)} are both named "
                f"{label(name)}: every photo may stand once"
            )
        names[name] = frame.name
    return list(names)


def _plain(path: PurePosixPath) -> str:
    """A photo's path as one word without its suffix."""
    path = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
    return "_".join(path.parts)


def _natural_order(frame: Frame) -> list[tuple[str, int]]:
    """A key that sorts r_2 before r_10."""
    return [(text, int(part or 0)) for text, part in re.findall(r"(\D*)(\d*)", frame.name)]


def hold_out(frames: Sequence[Frame], interval: int) -> set[str]:
    """The names of the frames that are held out; see `CaptureScene`.

    Raises:
        UserError: an interval of 1, or a file whose lists leave nothing to reconstruct.
    """
    if interval == 1 or interval < 0:
        raise UserError(
            f"scene.eval_interval={interval} would hold out every photo: use 0 for none, or at "
            "least 2"
        )
    if interval == 0:
        return set()
    if any(frame.split for frame in frames):
        held = {frame.name for frame in frames if frame.split == "eval"}
    elif len(frames) > 1:
        held = {frame.name for frame in frames[::interval]}
    else:
        held = set()
    if len(held) == len(frames):
        raise UserError("this scene's lists hold out all its frames: none is left for training")
    return held


# --- images --------------------------------------------------------------------------------------


def read_view(
    name: str, frame: Frame, pose: Tensor, max_size: int | None, background: Sequence[float]
) -> View:
    """The view of a frame at its new pose [3,4], at most `max_size` pixels long."""
    where = f"frame {label(frame.name)}"
    found = read_image(frame.path)
    assert found.image is not None
    picture = found.image if found.alpha is None else torch.cat([found.image, found.alpha])
    picture = _as_seen(picture, frame.path, frame, f"{where}: image")
    height, width = _within(picture, max_size)
    image, alpha = picture[:3], picture[3:] if len(picture) > 3 else None
    if alpha is not None:
        behind = torch.tensor(background)[:, None, None]
        image, alpha = alpha * image + (1 - alpha) * behind, resize(alpha, height, width)
    mask = None
    if frame.mask is not None:
        seen = read_image(frame.mask).image
        assert seen is not None
        seen = _as_seen(seen, frame.mask, frame, f"{where}: mask")
        counted = (seen.amax(0, keepdim=True) > 0).float()
        mask = (resize(counted, height, width) >= 0.5).float()
    camera = frame.camera.scaled(height, width).moved(pose)
    backdrop = None if alpha is None else (background[0], background[1], background[2])
    return View(name, resize(image, height, width), camera, alpha, mask, backdrop)


def _within(picture: Tensor, longest: int | None) -> tuple[int, int]:
    height, width = picture.shape[-2:]
    factor = 1.0 if longest is None else min(1.0, longest / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _as_seen(picture: Tensor, path: Path, frame: Frame, what: str) -> Tensor:
    """The image [C,H,W] of a file as the frame's camera sees it.

    Structure from motion works on pixels as they are stored, and read images are upright: where
    the stored form fits the camera, the EXIF rotation is undone.
    """
    across, down = frame.stored_size
    stored = _AS_STORED.get(_exif_orientation(path), lambda image: image)(picture)
    for candidate in (stored, picture):
        height, width = candidate.shape[-2:]
        # Copies at a fraction of the size are rounded: up to a pixel either way.
        if abs(width * down - height * across) <= across + down:
            return candidate if frame.straight is None else frame.straight(candidate)
    height, width = stored.shape[-2:]
    raise UserError(
        f"{what} {path} is {width}×{height} pixels, and its camera (w, h) is {across}×{down}: the "
        "same shape, at any scale, would be right"
    )


def _exif_orientation(path: Path) -> int:
    from PIL import Image

    try:
        with Image.open(path) as file:
            return int(file.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF fails in many ways; `read_image` ignores it too
        return 1
