"""View consistency: a textured plane, whose warps are known in closed form, and what spoils it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pds_cli.metrics.consistency import consistency, view_consistency, warp
from pds_cli.views.cameras import Camera, look_at
from pds_cli.views.view import Rendering

SIZE = 48


def cameras(count: int = 4, lens: bool = False) -> list[Camera]:
    """Above the plane z = 0, side by side, all looking at the origin."""
    found = []
    for number in range(count):
        pose = look_at((0.4 * number - 0.6, -2.0, 3.0), (0.0, 0.0, 0.0))
        found.append(Camera(pose, 60.0, 60.0, SIZE / 2, SIZE / 2, SIZE, SIZE))
    if lens:
        found = [replace(c, distortion=(0.05, 0.0, 0.01, 0.0, 0.0, 0.0)) for c in found]
    return found


def texture(points: Tensor) -> Tensor:
    """Smooth colours [3,N] of points [N,3]."""
    x, y = 4 * points[:, 0], 4 * points[:, 1]
    return 0.5 + 0.3 * torch.stack([x.sin(), y.cos(), (x + y).sin()])


def plane(camera: Camera) -> Rendering:
    """The textured plane z = 0."""
    origins, directions = camera.rays()
    depth = -origins[:, 2] / directions[:, 2]
    rgb = texture(origins + depth[:, None] * directions)
    shape = (camera.height, camera.width)
    return Rendering(rgb.reshape(3, *shape), depth.reshape(shape), torch.ones(shape))


def renders(seen: list[Camera]) -> list[Rendering]:
    return [plane(camera) for camera in seen]


@pytest.mark.parametrize("lens", [False, True])
def test_a_textured_plane_is_consistent(lens: bool) -> None:
    seen = cameras(lens=lens)
    found = consistency(renders(seen), seen)
    assert found.psnr > 45
    assert found.l1 < 0.005
    assert found.overlap > 0.8
    assert view_consistency(renders(seen), seen) == found.psnr


def test_a_warp_is_the_other_view_in_closed_form() -> None:
    seen = cameras()
    a, b = plane(seen[0]), plane(seen[1])
    warped, mask = warp(b, seen[1], a, seen[0])
    assert 0.7 < float(mask.float().mean()) < 1
    assert float((warped - a.rgb)[:, mask].abs().max()) < 0.02
    # Where the mask says no, the point is outside of the other picture.
    origins, directions = seen[0].rays()
    pixels, _ = seen[1].project(origins + a.depth.flatten()[:, None] * directions)
    inside = ((pixels >= 0.5) & (pixels <= SIZE - 0.5)).all(-1)
    assert torch.equal(mask.flatten(), inside)


def test_brightness_that_changes_from_view_to_view_costs_what_it_differs() -> None:
    """With offsets d_i the squared error is the mean of (d_i − d_{i+1})²."""
    seen, values = cameras(), []
    flat = [replace(r, rgb=torch.full_like(r.rgb, 0.5)) for r in renders(seen)]
    for strength in (0.02, 0.05, 0.1, 0.2):
        offsets = strength * torch.tensor([0.0, 1.0, -0.5, 0.7])
        jittered = [replace(r, rgb=r.rgb + d) for r, d in zip(flat, offsets, strict=True)]
        found = consistency(jittered, seen)
        values.append(found.psnr)
        # The pairs have nearly equal numbers of pixels.
        assert found.psnr == pytest.approx(
            -10 * math.log10(float(offsets.diff().square().mean())), abs=0.1
        )
        assert found.l1 == pytest.approx(float(offsets.diff().abs().mean()), rel=0.02)
    assert values == sorted(values, reverse=True)


def test_colour_noise_lowers_it_monotonically() -> None:
    seen, generator = cameras(), torch.Generator().manual_seed(0)
    noise = torch.randn(len(seen), 3, 1, 1, generator=generator)
    values = []
    for strength in (0.0, 0.01, 0.05, 0.2):
        jittered = [
            replace(r, rgb=r.rgb + strength * n) for r, n in zip(renders(seen), noise, strict=True)
        ]
        values.append(view_consistency(jittered, seen))
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] > 20


def with_pillar(camera: Camera) -> Rendering:
    """The plane with a red square in front of it, at z = 1, |x|, |y| < 0.3."""
    behind = plane(camera)
    origins, directions = camera.rays()
    near = (1 - origins[:, 2]) / directions[:, 2]
    points = origins + near[:, None] * directions
    hit = (points[:, :2].abs() < 0.3).all(-1).reshape(behind.depth.shape)
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    return Rendering(
        torch.where(hit, red, behind.rgb),
        torch.where(hit, near.reshape(hit.shape), behind.depth),
        behind.opacity,
    )


def test_what_is_hidden_in_the_other_view_does_not_count() -> None:
    seen = cameras()
    strict = consistency([with_pillar(c) for c in seen], seen)
    loose = consistency([with_pillar(c) for c in seen], seen, tolerance=10.0)
    assert strict.psnr > loose.psnr + 4, "without the mask, hidden places spoil it"
    assert strict.overlap < loose.overlap


def test_geometry_that_differs_lowers_the_overlap() -> None:
    seen = cameras()
    found = renders(seen)
    bent = [replace(r, depth=r.depth * (1 + 0.05 * (i % 2))) for i, r in enumerate(found)]
    assert consistency(bent, seen).overlap < 0.5 * consistency(found, seen).overlap


def test_what_is_transparent_does_not_count() -> None:
    seen = cameras()
    clear = [replace(r, opacity=0.0 * r.opacity) for r in renders(seen)]
    found = consistency(clear, seen)
    assert math.isnan(found.psnr) and math.isnan(found.l1) and found.overlap == 0
    half = [replace(r, rgb=r.rgb.clone(), opacity=r.opacity.clone()) for r in renders(seen)]
    for number, rendering in enumerate(half):
        rendering.rgb[:, :, : SIZE // 3] = float(number % 2)  # nonsense …
        rendering.opacity[:, : SIZE // 3] = 0.0  # … where nothing is
    # The border between both is mixed by the bilinear look-up, so it is not quite as good.
    assert consistency(half, seen).psnr > 25


def test_equal_views_are_perfect_and_lpips_is_there_when_asked_for() -> None:
    camera = cameras(1)[0]
    found = consistency([plane(camera)] * 2, [camera] * 2, perceptual=True)
    assert found.psnr > 90
    assert found.lpips == pytest.approx(0, abs=1e-4)
    seen = cameras(2)
    spoilt = [plane(seen[0]), replace(plane(seen[1]), rgb=plane(seen[1]).rgb.flip(0))]
    worse = consistency(spoilt, seen, perceptual=True).lpips
    assert worse is not None and worse > 0.05


def test_renderings_may_be_smaller_than_their_cameras() -> None:
    seen = cameras()
    large = [camera.scaled(4 * SIZE, 4 * SIZE) for camera in seen]
    assert consistency(renders(seen), large).psnr == pytest.approx(
        view_consistency(renders(seen), seen)
    )


def test_it_needs_a_pair() -> None:
    seen = cameras(2)
    for found, which in ((renders(seen)[:1], seen[:1]), (renders(seen), seen[:1])):
        with pytest.raises(ValueError, match="two or more"):
            consistency(found, which)
