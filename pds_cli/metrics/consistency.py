"""View consistency: whether renders from neighbouring cameras show the same scene."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from pds_cli.metrics.lpips import MIN_SIDE
from pds_cli.views.cameras import Camera
from pds_cli.views.view import Rendering

TOLERANCE = 0.02
_OPAQUE = 0.5
_LEAST_ERROR = 1e-10  # a squared error of 100 dB counts as none


@dataclass(frozen=True)
class Consistency:
    """How alike neighbouring views are where both see the same surface.

    psnr: dB, of the squared error over all compared pixels; at most 100. NaN: none compared.
    l1: mean absolute difference, in [0,1]. NaN: none compared.
    overlap: part of the opaque pixels that could be compared, in [0,1]. The mask hides what has
        no common surface, so a good psnr at a low overlap says little.
    lpips: mean over the pairs, where it was asked for; what cannot be compared counts as equal.
    """

    psnr: float
    l1: float
    overlap: float
    lpips: float | None = None


def view_consistency(renderings: Sequence[Rendering], cameras: Sequence[Camera]) -> float:
    """`consistency(…).psnr`: higher is more consistent."""
    return consistency(renderings, cameras).psnr


def consistency(
    renderings: Sequence[Rendering],
    cameras: Sequence[Camera],
    *,
    tolerance: float = TOLERANCE,
    perceptual: bool = False,
) -> Consistency:
    """Compares each view with the next, and the next with it, through their depths.

    For a pair (i, j) every pixel of i goes to its point X at depth_i along its ray, and from
    there to its place in j; the colour there (bilinear) is compared with the pixel's own. A pixel
    counts where both places are more than half opaque, X lies before j and inside its picture,
    and j sees X: depth_j there equals |X − o_j| within `tolerance` of it, else something is in
    between. Bilinear sampling blurs, so sharp texture bounds the value even for equal scenes:
    compare values of equal sizes and cameras only.

    Args:
        renderings: at least two, each with depth along the ray.
        cameras: theirs, in the order in which neighbours follow one another; scaled to the
            renderings' sizes.
        tolerance: relative difference of depth that is still the same surface.
        perceptual: compute LPIPS too, for pictures of at least 31×31 pixels.

    Raises:
        ValueError: fewer than two renderings, or another number of cameras.
    """
    if len(renderings) != len(cameras) or len(renderings) < 2:
        raise ValueError(f"{len(renderings)} renderings, {len(cameras)} cameras: two or more pairs")
    placed = [
        (seen, camera.scaled(*seen.depth.shape))
        for seen, camera in zip(renderings, cameras, strict=True)
    ]
    squared = absolute = compared = opaque = 0.0
    distances = []
    for first, second in pairwise(placed):
        for (seen, camera), (other, other_camera) in ((first, second), (second, first)):
            warped, mask = warp(other, other_camera, seen, camera, tolerance)
            error = (warped - seen.rgb)[:, mask].double()
            squared += float(error.square().sum())
            absolute += float(error.abs().sum())
            compared += error.numel()
            opaque += 3 * float((seen.opacity > _OPAQUE).sum())
            if perceptual and min(mask.shape) >= MIN_SIDE:
                distances.append(_lpips(torch.where(mask, warped, seen.rgb), seen.rgb))
    return Consistency(
        psnr=-10 * math.log10(max(squared / compared, _LEAST_ERROR)) if compared else math.nan,
        l1=absolute / compared if compared else math.nan,
        overlap=compared / opaque if opaque else 0.0,
        lpips=sum(distances) / len(distances) if distances else None,
    )


def warp(
    other: Rendering,
    other_camera: Camera,
    seen: Rendering,
    camera: Camera,
    tolerance: float = TOLERANCE,
) -> tuple[Tensor, Tensor]:
    """What `camera` should see according to `other`, [3,H,W], and where that is known, [H,W].

    Both cameras have the sizes of their renderings; see `consistency`.
    """
    height, width = seen.depth.shape
    origins, directions = camera.rays()
    points = origins + seen.depth.flatten()[:, None].to(directions) * directions
    pixels, ahead = other_camera.project(points)
    size = pixels.new_tensor([other_camera.width, other_camera.height])
    place = torch.nan_to_num(2 * pixels / size - 1, nan=2.0, posinf=2.0, neginf=-2.0)
    layers = torch.cat([other.rgb, other.depth[None], other.opacity[None]])[None].to(place)
    found = functional.grid_sample(
        layers, place.reshape(1, height, width, 2), padding_mode="border", align_corners=False
    )[0]
    distance = (points - other_camera.position.to(points)).norm(dim=-1).reshape(height, width)
    # Half a pixel from the edge, where the bilinear look-up still has all four neighbours.
    inside = ((place.abs() <= 1 - 1 / size).all(-1) & (ahead > 0)).reshape(height, width)
    visible = (found[3] - distance).abs() <= tolerance * distance
    opaque = (seen.opacity.to(place) > _OPAQUE) & (found[4] > _OPAQUE)
    return found[:3].to(seen.rgb), (inside & visible & opaque).to(seen.rgb.device)


def _lpips(a: Tensor, b: Tensor) -> float:
    from pds_cli.metrics.lpips import lpips

    return float(lpips(a[None].float(), b[None].float()))
