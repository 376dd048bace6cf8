"""Views through a lens as a pinhole camera of the same focal length would have seen them."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pds_cli.views.cameras import Camera, distort, undistort
from pds_cli.views.view import View

_SAME = 1e-3  # focal lengths, between a place and what lens and its inverse make of it


def undistorted(view: View) -> View:
    """The view without its lens, of the same size and intrinsics; itself where it has none.

    What the photo does not show is masked, and filled with what is nearest.
    """
    camera = view.camera
    if camera is None or camera.distortion is None:
        return view
    grid, seen = _where(camera)
    mask = None if view.mask is None else sampled(view.mask, grid, "nearest")
    if not bool(seen.all()):
        mask = seen.float() if mask is None else mask * seen
    return replace(
        view,
        image=None if view.image is None else sampled(view.image, grid),
        camera=replace(camera, distortion=None),
        alpha=None if view.alpha is None else sampled(view.alpha, grid),
        mask=mask,
    )


def _where(camera: Camera) -> tuple[Tensor, Tensor]:
    """Where in the photo each pixel comes from [1,H,W,2], in [−1,1], and whether it is [1,H,W]."""
    assert camera.distortion is not None
    rows, columns = torch.meshgrid(
        torch.arange(camera.height, dtype=torch.float64) + 0.5,
        torch.arange(camera.width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    x, y = (columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy
    u, v = distort(x, y, camera.distortion)
    # Far from the middle a polynomial may turn back: what is there is none of the lens's doing.
    back_x, back_y = undistort(u, v, camera.distortion)
    whole = torch.hypot(back_x - x, back_y - y) < _SAME
    along = 2 * (u * camera.fx + camera.cx) / camera.width - 1
    down = 2 * (v * camera.fy + camera.cy) / camera.height - 1
    inside = (along.abs() <= 1) & (down.abs() <= 1)
    grid = torch.stack([along, down], -1)[None].nan_to_num(2.0).float()
    return grid, (whole & inside)[None]


def sampled(values: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Values [C,H,W] at places [1,h,w,2] in [−1,1], [C,h,w]; beyond the border what is nearest."""
    return F.grid_sample(
        values[None].float(), grid, mode=mode, padding_mode="border", align_corners=False
    )[0]
