"""Where an edit may change what views show: masks, or a box in space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.pictures.files import read_image
from pds_cli.scenes.base import Scene
from pds_cli.views.cameras import Camera
from pds_cli.views.view import View

_ALIKE = 0.02  # of the ratio of a mask's sides to that of its picture's


def read_limits(mask: str | None, box: Sequence[float] | None, scene: Scene) -> dict[str, Tensor]:
    """A view's name → where it may change, [1,H,W] of 0 and 1 at its image's size.

    Args:
        mask: a picture, white where the only view may change; or a folder that has one,
            `<name>.png`, for each view that is edited.
        box: two opposite corners of a box in the scene's coordinates, x y z x y z: each view may
            change where its rays meet the box.

    Raises:
        UserError: masks that are not there, of another shape, or all black; a box of a flat scene,
            of no size, or that no view sees.
    """
    if mask is None and box is None:
        return {}
    views = [view for view in scene.edit_views if view.image is not None]
    if not views:
        raise UserError("mask= and mask_box= limit what views show, and this scene has no pictures")
    found = {view.name: torch.ones_like(_image(view)[:1]) for view in views}
    if mask is not None:
        for view in views:
            found[view.name] = _read(_file(Path(mask).expanduser(), view, len(views)), view)
    if box is not None:
        for view in views:
            found[view.name] = found[view.name] * _of_box(view, box)
    if not any(bool(limit.any()) for limit in found.values()):
        raise UserError(
            "mask= and mask_box= leave nothing that may change: give a mask with white in it, or "
            "a box that a view sees"
        )
    return found


def places(limit: Tensor, height: int, width: int) -> Tensor:
    """The limit at a latent's places, [1,height,width]: a place counts where any pixel does."""
    return F.adaptive_max_pool2d(limit, (height, width))


def within(limit: Tensor, changed: Tensor, before: Tensor) -> Tensor:
    """`changed` [...,H,W] inside of the limit, `before` of the same shape outside; exactly so."""
    size = changed.shape[-2:]
    inside = F.interpolate(limit[None], size, mode="nearest")[0].to(changed.device) > 0.5
    return torch.where(inside, changed, before.to(changed))


def _image(view: View) -> Tensor:
    assert view.image is not None
    return view.image


def _file(mask: Path, view: View, count: int) -> Path:
    if not mask.exists():
        raise UserError(f"mask={mask} does not exist (from {Path.cwd()})")
    if not mask.is_dir():
        if count > 1:
            raise UserError(
                f"mask={mask} is one picture, and the scene has {count} views that are edited: "
                "give a folder with <name>.png for each, or mask_box="
            )
        return mask
    path = mask / f"{view.name}.png"
    if not path.is_file():
        raise UserError(f"mask={mask} has no {path.name}, for the view {view.name}")
    return path


def _read(path: Path, view: View) -> Tensor:
    found = read_image(path).image
    assert found is not None
    height, width = _image(view).shape[-2:]
    rows, columns = found.shape[-2:]
    if abs(rows * width / (columns * height) - 1) > _ALIKE:
        raise UserError(
            f"{path} is {columns}×{rows} pixels, and what it is the mask of is {width}×{height}: "
            "the same shape, at any scale, would be right"
        )
    grey = found.mean(0, keepdim=True)
    return (F.interpolate(grey[None], (height, width), mode="nearest")[0] > 0.5).float()


def _of_box(view: View, box: Sequence[float]) -> Tensor:
    if view.camera is None:
        raise UserError("mask_box= is for scenes in 3D: give mask=<picture> for a flat one")
    corners = torch.tensor(list(box), dtype=torch.float64).view(2, 3)
    low, high = corners.amin(0), corners.amax(0)
    if not bool((high > low).all()):
        raise UserError(f"mask_box={list(box)} has no size: give two opposite corners of a box")
    height, width = _image(view).shape[-2:]
    return _meets(view.camera.scaled(height, width), low, high).view(1, height, width).float()


def _meets(camera: Camera, low: Tensor, high: Tensor) -> Tensor:
    """Which rays of a camera meet the box, [H·W] (the slabs of Kay and Kajiya, 1986)."""
    origins, directions = (x.double() for x in camera.rays())
    inverse = 1 / torch.where(directions == 0, torch.full_like(directions, 1e-12), directions)
    first, second = (low - origins) * inverse, (high - origins) * inverse
    enters = torch.minimum(first, second).amax(1)
    leaves = torch.maximum(first, second).amin(1)
    return (leaves >= enters) & (leaves > 0)
