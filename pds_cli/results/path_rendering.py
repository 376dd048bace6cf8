"""A 3D result rendered along a camera path: pictures, depth and films in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pds_cli.pictures.colormap import depth_picture, depth_range
from pds_cli.pictures.files import write_image
from pds_cli.pictures.video import write_video
from pds_cli.progress import Progress
from pds_cli.representations.base import Representation
from pds_cli.representations.spatial import Spatial, load_spatial
from pds_cli.runs.outputs import result_of
from pds_cli.views.cameras import Camera
from pds_cli.views.paths import fitted, turntable
from pds_cli.views.view import Rendering

_PROBES, _PROBE_SIZE = 8, 64  # small renders that find the range of depths before the large ones


def load_result(
    run: Path | str, device: str = "auto", allow_modules: Sequence[str] = ()
) -> Spatial:
    """The 3D result of a run folder of `pds fit` or `pds edit`.

    Raises:
        UserError: the folder is not there, holds no 3D result, or see `load_spatial`.
    """
    return load_spatial(result_of(run), device, allow_modules)


def render_path(
    representation: Spatial, cameras: Sequence[Camera], title: str = "render"
) -> Iterator[Rendering]:
    """What the cameras see, one after the other, on the CPU, with a progress bar."""
    with Progress(title, len(cameras)) as progress:
        for number, camera in enumerate(cameras, 1):
            seen = representation.render_camera(camera)
            yield Rendering(seen.rgb.cpu(), seen.depth.cpu(), seen.opacity.cpu())
            progress.update(number)


def write_renders(
    folder: Path,
    representation: Spatial,
    cameras: Sequence[Camera],
    *,
    fps: float = 20.0,
    depth: bool = True,
) -> list[Path]:
    """Writes `rgb_<number>.png`, `depth_<number>.png` and films of both; returns the films.

    Pictures are written as they come, so that long paths need no memory.

    Raises:
        UserError: the folder cannot be written.
    """
    near, far = _depth_range(representation, cameras) if depth else (1.0, 1.0)
    colours, depths = [], []
    for number, seen in enumerate(render_path(representation, cameras)):
        colours.append(write_image(folder / f"rgb_{number:04d}.png", seen.rgb))
        if depth:
            picture = depth_picture(seen, near, far)
            depths.append(write_image(folder / f"depth_{number:04d}.png", picture))
    films = write_video(folder / "video", colours, fps)
    return films + (write_video(folder / "depth", depths, fps) if depth else [])


def write_turntable(
    stem: Path,
    representation: Spatial,
    *,
    frames: int = 48,
    size: int | None = None,
    fps: float = 20.0,
    **options: Any,
) -> list[Path]:
    """Writes a turntable as `<stem>.mp4` and `<stem>.gif`; returns what was written.

    frames, size, options: see `turntable`.

    Raises:
        UserError: the place cannot be written, or the cameras look at nothing together.
    """
    train = list(representation.cameras["train"].values())
    cameras = turntable(train, representation.region, frames=frames, size=size, **options)
    seen = render_path(representation, cameras, stem.name)
    return write_video(stem, [_bytes(rendering.rgb) for rendering in seen], fps)


def film(stem: Path, representation: Representation, frames: int) -> list[Path]:
    """A turntable of so many frames, see `write_turntable`; nothing of what is flat, or for 0."""
    if not frames or not isinstance(representation, Spatial):
        return []
    return write_turntable(stem, representation, frames=frames)


def _bytes(image: Tensor) -> Tensor:
    return (torch.nan_to_num(image).clamp(0, 1) * 255).round().to(torch.uint8)


def _depth_range(representation: Spatial, cameras: Sequence[Camera]) -> tuple[float, float]:
    """One range of depths for a whole path, so that its colours do not flicker."""
    step = max(1, len(cameras) // _PROBES)
    small = [fitted(camera, _PROBE_SIZE) for camera in cameras[::step]]
    seen = [representation.render_camera(camera) for camera in small]
    return depth_range([Rendering(r.rgb.cpu(), r.depth.cpu(), r.opacity.cpu()) for r in seen])
