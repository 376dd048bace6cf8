"""A splat file as a scene: the views are its own renders."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pds_cli.errors import UserError, check_choice
from pds_cli.options.scenes import UPS
from pds_cli.progress import Progress
from pds_cli.reading import brief, read_json
from pds_cli.scenes.base import Scene, checked_front
from pds_cli.scenes.capture import colour
from pds_cli.splats.files import read_splats
from pds_cli.splats.ply import SplatFile
from pds_cli.splats.rasterise import Gaussians, rasterise, seen_colors
from pds_cli.views.cameras import Camera, checked_camera, look_at
from pds_cli.views.poses import checked_pose
from pds_cli.views.view import Region, View

CAMERAS = "cameras.json"
_UP = {"x": 0, "y": 1, "z": 2}
_MOST = 0.9  # of what is opaque, within the region
_NEAR = 0.02  # radii


class SplatScene(Scene):
    """Gaussians of a splat file, seen by its cameras or by some on a circle round it.

    Cameras stand in `cameras.json` beside the file where its trainer wrote that (3DGS does). Else
    they look from all sides at the middle of what is there.

    Args:
        path: the file: PLY, `.splat` or SPZ.
        source_prompt: what it shows.
        cameras: a file like `cameras.json`; None: that beside it, or else a circle.
        count: cameras at most; those of a file are taken evenly.
        size: longer side of the views in pixels at most.
        up: which way is up in the file's world; many captures have −y.
        distance: of the circle's cameras from the middle; None: so that the scene fills the view.
        elevation: of the circle's cameras, degrees above the horizon.
        field_of_view: of the circle's cameras, degrees across.
        background: what is behind everything: `white`, `black`, or red, green and blue in [0,1].
        front: see `Scene.front`.

    Attributes:
        splats: what the file holds; `representation=splats` begins with it.
        backdrop: the background's colour [3].

    Raises:
        UserError: no file, no prompt, a file that holds no splats, or cameras that are none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        source_prompt: str | None = None,
        *,
        cameras: str | os.PathLike[str] | None = None,
        count: int = 24,
        size: int = 512,
        up: str = "-y",
        distance: float | None = None,
        elevation: float = 10.0,
        field_of_view: float = 45.0,
        background: str | Sequence[float] = "white",
        front: float | str | None = None,
    ) -> None:
        if path is None or not os.fspath(path).strip():
            raise UserError("scene.path=… is needed: the splat file to edit, e.g. scene.path=a.ply")
        if source_prompt is None or not source_prompt.strip():
            raise UserError(
                'source=… is needed: say what the file shows now, e.g. source="a photo of a man"'
            )
        check_choice("scene.up", up, UPS)
        self.source_prompt, self.splats = source_prompt, read_splats(Path(path))
        self.backdrop = torch.tensor(colour(background))
        self._region = region_of(self.splats, up)
        beside = Path(path).parent / CAMERAS
        listed = Path(cameras) if cameras else beside if beside.is_file() else None
        if listed is None:
            found = around(
                self._region, count, size, distance, elevation, math.radians(field_of_view)
            )
        else:
            every = read_3dgs_cameras(listed)
            several = min(count, len(every))
            chosen = [every[i * len(every) // several] for i in range(several)]
            found = [c.with_longer_side(min(size, max(c.width, c.height))) for c in chosen]
        self._views = self._seen(found)
        self.front = checked_front(front, self._views)

    def _seen(self, cameras: Sequence[Camera]) -> list[View]:
        views = []
        with Progress("renders of the file", len(cameras)) as progress:
            for number, camera in enumerate(cameras):
                views.append(View(f"view_{number:03d}", self._render(camera), camera))
                progress.update(number + 1)
        return views

    @torch.no_grad()
    def _render(self, camera: Camera) -> Tensor:
        """The image [3,H,W] in [0,1]."""
        held, degree = self.splats.tensors, self.splats.degree
        colors = seen_colors(held["means"], held["sh0"], held["shN"], camera, degree)
        gaussians = Gaussians(
            held["means"], held["quats"], held["scales"], torch.sigmoid(held["opacities"]), colors
        )
        drawn = rasterise(gaussians, camera, near=self._region.near)
        return (drawn.color + (1 - drawn.opacity) * self.backdrop[:, None, None]).clamp(0, 1)

    @property
    def views(self) -> Sequence[View]:
        """Renders of the file."""
        return self._views

    @property
    def region(self) -> Region:
        """The cube that holds nine tenths of what is opaque."""
        return self._region


def region_of(splats: SplatFile, up: str) -> Region:
    """Where the Gaussians are, by the opacity that lies there, so that a few far off count little.

    up: one of `UPS`.
    """
    means = splats.tensors["means"].double()
    weight = torch.sigmoid(splats.tensors["opacities"].double())
    centre = torch.stack([_quantile(means[:, k], weight, 0.5) for k in range(3)])
    away = (means - centre).abs().amax(1)
    radius = max(float(_quantile(away, weight, _MOST)), 1e-6)
    axis = [0.0, 0.0, 0.0]
    axis[_UP[up[-1]]] = -1.0 if up.startswith("-") else 1.0
    x, y, z = centre.tolist()
    return Region((x, y, z), radius, near=_NEAR * radius, up=(axis[0], axis[1], axis[2]))


def _quantile(values: Tensor, weight: Tensor, share: float) -> Tensor:
    order = values.argsort()
    total = weight[order].cumsum(0)
    return values[order][int((total < share * total[-1]).sum())]


def around(
    region: Region,
    count: int,
    size: int,
    distance: float | None,
    elevation: float,
    field_of_view: float,
) -> list[Camera]:
    """Cameras evenly on a circle about `region.up`, looking at the region's centre.

    Args:
        distance: from the centre; None: so that the region fills the view.
        elevation: degrees. field_of_view: radians.
    """
    middle = torch.tensor(region.centre, dtype=torch.float64)
    up = torch.tensor(region.up, dtype=torch.float64)
    if distance is None:
        distance = 1.2 * region.radius / math.tan(field_of_view / 2)
    ahead = up.roll(1)
    aside = torch.linalg.cross(up, ahead)
    focal = size / 2 / math.tan(field_of_view / 2)
    level, rise = math.cos(math.radians(elevation)), math.sin(math.radians(elevation))
    found = []
    for number in range(count):
        turn = 2 * math.pi * number / count
        out = level * (math.cos(turn) * ahead + math.sin(turn) * aside) + rise * up
        pose = look_at((middle + distance * out).tolist(), middle.tolist(), up.tolist())
        found.append(Camera(pose.float(), focal, focal, size / 2, size / 2, size, size))
    return found


def read_3dgs_cameras(path: Path) -> list[Camera]:
    """The cameras that 3DGS writes beside its splats.

    A list of objects with `position` [3], `rotation` (three rows, camera to world, x right, y down,
    z ahead), `fx`, `fy`, `width` and `height`.

    Raises:
        UserError: with the file and the entry that is wrong.
    """
    found = read_json(path)
    if not isinstance(found, list) or not found:
        raise UserError(f"{path} holds no list of cameras: give one that 3DGS wrote")
    return [_entry(entry, f"{path}: camera {number}") for number, entry in enumerate(found)]


def _entry(entry: Any, where: str) -> Camera:
    try:
        rotation = torch.tensor(entry["rotation"], dtype=torch.float64)
        position = torch.tensor(entry["position"], dtype=torch.float64)
        width, height = int(entry["width"]), int(entry["height"])
        pose = torch.cat([rotation * rotation.new_tensor([1, -1, -1]), position[:, None]], 1)
        fx, fy = float(entry["fx"]), float(entry["fy"])
    except (TypeError, ValueError, LookupError, RuntimeError, OverflowError) as error:
        raise UserError(
            f"{where} is none that 3DGS writes (position, rotation, fx, fy, width, height): "
            f"{brief(str(error))}"
        ) from error
    pose = checked_pose(pose.tolist(), where, "rotation")[:3].float()
    return checked_camera(Camera(pose, fx, fy, width / 2, height / 2, width, height), where)
