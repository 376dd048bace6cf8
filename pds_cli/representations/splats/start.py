"""Where Gaussians begin."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from pds_cli.views.cameras import Camera
from pds_cli.views.view import Region

_NEIGHBOURS = 3  # as published
_FARTHEST = 20.0  # radii, of what is seen outside of an unbounded region


def starting_points(
    region: Region, cameras: Sequence[Camera], count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random points [N,3] in world units, and how far each lies from its neighbours, [N].

    They fill the cube of the region; where there is more to see outside of it, half of them lie
    along the rays of random pixels, at distances whose logarithm is even.

    Args:
        count: N, at least 1. generator: on the CPU.
    """
    outside = count // 2 if region.unbounded else 0
    cube = 2 * torch.rand(count - outside, 3, generator=generator) - 1
    points = cube * region.radius + torch.tensor(region.centre)
    if outside:
        points = torch.cat([points, _along_rays(region, cameras, outside, generator)])
    return points, _apart(points)


def _along_rays(
    region: Region, cameras: Sequence[Camera], count: int, generator: torch.Generator
) -> Tensor:
    shares = torch.randint(len(cameras), (count,), generator=generator).bincount(
        minlength=len(cameras)
    )
    found = []
    for camera, share in zip(cameras, shares.tolist(), strict=True):
        pixels = torch.randint(camera.width * camera.height, (share,), generator=generator)
        origins, directions = camera.rays(pixels)
        far = torch.rand(share, 1, generator=generator) * math.log(_FARTHEST)
        found.append((origins + directions * region.radius * far.exp()).float())
    return torch.cat(found)


def _apart(points: Tensor) -> Tensor:
    """Root mean square distance [N] to the three nearest others; 1 where there are none."""
    if len(points) < 2:
        return torch.ones(len(points))
    several = min(_NEIGHBOURS, len(points) - 1)
    distances, _ = cKDTree(points.numpy()).query(points.numpy(), several + 1)
    found = torch.from_numpy(distances[:, 1:]).square().mean(1).sqrt()
    return found.clamp_min(1e-7).float()
