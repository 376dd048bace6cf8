"""Where Gaussians begin."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.representations.spatial import load_spatial
from pds_cli.runs.outputs import result_of
from pds_cli.views.cameras import Camera
from pds_cli.views.view import Region

_NEIGHBOURS = 3  # as published
_SEEN = 128  # pixels, longer side of the renders that points are taken from
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


def points_about(
    places: Tensor, colors: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Points [N,3], their colours [N,3], and how far each lies from its neighbours, [N].

    Where structure from motion found more than are wanted, so many of them at random; where fewer,
    all, and others scattered about them as far as they lie apart.

    Args:
        places: [M,3] in world units, M at least 1. colors: [M,3] in [0,1].
        count: N, at least 1. generator: on the CPU.
    """
    order = torch.randperm(len(places), generator=generator)[:count]
    points, shown = places[order].float(), colors[order]
    if count > len(points):
        drawn = torch.randint(len(points), (count - len(points),), generator=generator)
        away = torch.randn(len(drawn), 3, generator=generator) * _apart(points)[drawn, None]
        points = torch.cat([points, points[drawn] + away])
        shown = torch.cat([shown, shown[drawn]])
    return points, shown, _apart(points)


def seen_points(run: str, region: Region) -> tuple[Tensor, Tensor]:
    """Places [N,3] and colours [N,3] of what a run's cameras see of its 3D result.

    Raises:
        UserError: the run holds no 3D result, one of another scene, or one that shows nothing.
    """
    found = load_spatial(result_of(run, "representation.initial"))
    if found.region != region:
        raise UserError(
            f"representation.initial={run} is of another scene: its region is not this scene's"
        )
    places, colors = [], []
    for camera in found.cameras["train"].values():
        small = camera.with_longer_side(min(_SEEN, max(camera.width, camera.height)))
        seen = found.render_camera(small)
        origins, directions = small.rays()
        there = seen.opacity.flatten().cpu() > 0.5
        depth = seen.depth.flatten().cpu()[there, None]
        places.append(origins[there] + directions[there] * depth)
        colors.append(seen.rgb.flatten(1).T.cpu()[there])
    if not sum(map(len, places)):
        raise UserError(f"representation.initial={run} shows nothing to begin at")
    return torch.cat(places).float(), torch.cat(colors).clamp(0, 1)


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
