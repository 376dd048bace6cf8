"""The keys of scenes; values stand in `conf/scene`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pds_cli.options.option import option
from pds_cli.options.ranges import (
    COUNT,
    FEW,
    LONGEST_SIDE,
    MILLION,
    NOT_NEGATIVE,
    PIXELS,
    POSITIVE,
    SEED,
    SHARE,
    TURN,
    Range,
    whole,
)
from pds_cli.options.target import Target

ORIENTATIONS = ("up", "pca", "none")
CENTRES = ("poses", "focus", "none")
BACKGROUNDS = ("white", "black")
UPS = ("x", "y", "z", "-x", "-y", "-z")
SPLITS = ("test", "val", "none")
LABELS = ("a", "b")

_SHOWS = "what it shows now; source= goes before it"
_FRONT = "the front: degrees about up (0: -y, 90: +x), or a view's name"
_FIGURE = "attributes of the figure (docs/toybox.md); those not named keep their defaults"


@dataclass
class ImageSceneConf(Target):
    """One picture."""

    path: str | None = option("the image file: PNG, JPEG or WebP", text=True)
    source_prompt: str | None = option(_SHOWS, text=True)


@dataclass
class SVGSceneConf(Target):
    """One drawing."""

    path: str | None = option("the SVG file, or a sample's name: cat_icon", text=True)
    source_prompt: str | None = option(f"{_SHOWS}; null: the drawing's title", text=True)
    size: int = option("longer side in pixels of the picture results are set against", range=PIXELS)


@dataclass
class CaptureSceneConf(Target):
    """Photos with known cameras."""

    path: str | None = option("the folder of the capture", text=True)
    source_prompt: str | None = option(
        "what the photos show now; source= goes before it", text=True
    )
    max_size: int | None = option(
        "longer side of the views in pixels at most; null: as the files are", range=LONGEST_SIDE
    )
    background: Any = option(
        "what transparent photos lie over",
        choices=BACKGROUNDS,
        or_else="[r,g,b]",
        range=SHARE,
        example=(1, 1, 1),
    )
    front: Any = option(f"{_FRONT}; null: the views' mean", range=TURN)
    source_url: str | None = option(
        "where the data is, for the message when it is missing", text=True
    )
    recommended: Any = option("what a representation takes where nothing is said, by its name")


@dataclass
class NerfstudioSceneConf(CaptureSceneConf):
    """Captures in nerfstudio's format."""

    downscale: int | None = option(
        "n: read the smaller copies in images_n; null: the images", range=whole(1, 1024)
    )
    orientation: str = option(
        "what becomes +z: the cameras' mean up, their flattest axis, or the file's",
        choices=ORIENTATIONS,
    )
    centre: str = option(
        "what becomes the origin: the cameras' mean, what they look at, or the file's",
        choices=CENTRES,
    )
    auto_scale: bool = option("make the largest coordinate of a camera 1")
    eval_interval: int = option(
        "every n-th photo is held out, unless the file has lists; 0: none", range=whole(0, MILLION)
    )


@dataclass
class ColmapSceneConf(NerfstudioSceneConf):
    """Captures with a COLMAP model."""

    images: str = option("folder of the images, below path", text=True)
    masks: str | None = option(
        "folder of masks below path: <image>.png, black where nothing counts", text=True
    )


@dataclass
class BlenderSceneConf(CaptureSceneConf):
    """Objects in the format of NeRF's synthetic set."""

    eval_split: str = option("file whose views are held out for measuring", choices=SPLITS)
    eval_every: int = option("of those, every n-th is read", range=whole(1, MILLION))
    radius: float = option("the object lies within ± radius of the origin", range=POSITIVE)


@dataclass
class SplatSceneConf(Target):
    """A splat file."""

    path: str | None = option("the splat file: PLY, SPZ or .splat", text=True)
    source_prompt: str | None = option(_SHOWS, text=True)
    cameras: str | None = option(
        "file of cameras as 3DGS writes it; null: cameras.json beside the file, or a circle",
        text=True,
    )
    count: int = option("cameras at most", range=whole(1, 10_000))
    size: int = option("longer side of the views in pixels at most", range=PIXELS)
    up: str = option("which way is up in the file's world", choices=UPS)
    distance: float | None = option(
        "of the circle from the middle; null: so that the scene fills the view", range=POSITIVE
    )
    elevation: float = option("of the circle, degrees above the horizon", range=Range(-89, 89))
    field_of_view: float = option("of the circle's cameras, degrees across", range=Range(1, 150))
    background: Any = option(
        "what is behind everything",
        choices=BACKGROUNDS,
        or_else="[r,g,b]",
        range=SHARE,
        example=(1, 1, 1),
    )
    front: Any = option(f"{_FRONT}; null: the views' mean", range=TURN)


@dataclass
class CameraConf:
    """A camera about the toy figure."""

    azimuth: float = option("degrees; 0 looks the figure in the face", range=TURN)
    elevation: float = option("degrees above the horizon", range=Range(-89, 89))
    distance: float = option(
        "from what is looked at, in world units; a figure is 2.3 tall",
        range=Range(0, 1000, above=True),
    )


@dataclass
class FigurineSceneConf(Target):
    """One picture of a toy figure."""

    figure: dict[str, str] = option(_FIGURE)
    camera: dict[str, float] = option("where it is seen from", keys=CameraConf)
    source_prompt: str | None = option(f"{_SHOWS}; null: said from the figure", text=True)
    size: int = option("side in pixels", range=PIXELS)


@dataclass
class ToyboxSceneConf(Target):
    """A toy figure seen from all sides."""

    figure: dict[str, str] = option(_FIGURE)
    source_prompt: str | None = option(f"{_SHOWS}; null: said from the figure", text=True)
    size: int = option("side of the pictures in pixels", range=PIXELS)
    count: int = option("views, evenly spaced around the figure", range=COUNT)
    edit_azimuth: float = option(
        "an edit looks at views within so many degrees of the front", range=Range(0, 360)
    )
    held_out: int = option("views that measure the fit", range=FEW)
    front: Any = option(_FRONT, range=TURN)


@dataclass
class Toy2DSceneConf(Target):
    """Points of one crescent."""

    label: str = option("the crescent to start from; also the source prompt", choices=LABELS)
    points: int = option("points a crescent", range=whole(1, 1000 * MILLION))
    noise: float = option("standard deviation of the points around their arc", range=NOT_NEGATIVE)
    seed: int = option("fixes the points", range=SEED)
