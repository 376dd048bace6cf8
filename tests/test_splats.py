"""Gaussian splats: kernels against plain PyTorch, closed forms, adjoints, degenerate input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pds_cli.kernels import splats as kernels
from pds_cli.representations.splats.rasterise import (
    Drawn,
    Gaussians,
    rasterise,
    rasterise_torch,
    rotations,
    world_to_camera,
)
from pds_cli.views.cameras import Camera, look_at

DRAWERS = pytest.mark.parametrize("draw", [rasterise, rasterise_torch])
NAMES = ("means", "quats", "scales", "opacities", "colors")


def camera(width: int = 37, height: int = 29, focal: float = 40.0) -> Camera:
    """Looks at the origin from the side, its principal point beside the middle."""
    pose = look_at((2.5, -3.0, 1.2), (0.0, 0.0, 0.0))
    return Camera(pose, focal, 1.1 * focal, width / 2 + 1.5, height / 2 - 1, width, height)


def cloud(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Gaussians:
    """Random Gaussians around the origin."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    uniform = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    found = (0.8 * normal(count, 3), normal(count, 4), -1.8 + 0.5 * normal(count, 3))
    every = (*found, uniform[:, 0], uniform[:, 1:])
    return Gaussians(*(x.to(dtype) for x in every))


def free(gaussians: Gaussians) -> Gaussians:
    """The same as leaves that want gradients."""
    return Gaussians(*(x.clone().requires_grad_() for x in gaussians.tensors()))


def weighed(drawn: Drawn) -> Tensor:
    """A sum that minds every pixel of everything."""
    generator = torch.Generator().manual_seed(7)
    found = torch.cat([drawn.color, drawn.depth[None], drawn.opacity[None]])
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    return (found * weights.to(found)).sum()


# --- kernels and twin ----------------------------------------------------------------------------


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_kernels_and_plain_pytorch_agree(antialias: bool, dtype: torch.dtype, close: float) -> None:
    ours, twin = free(cloud(80, dtype=dtype)), free(cloud(80, dtype=dtype))
    found = rasterise(ours, camera(), antialias=antialias)
    expected = rasterise_torch(twin, camera(), antialias=antialias)
    assert 0.1 < float(expected.opacity.detach().mean()) < 0.9, "there is something to compare"
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=close, atol=close)
    grads = (
        torch.autograd.grad(weighed(each), gaussians.tensors())
        for each, gaussians in ((found, ours), (expected, twin))
    )
    for name, a, b in zip(NAMES, *grads, strict=True):
        scale = float(b.abs().max())
        torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=10 * close, msg=name)


@pytest.mark.parametrize("antialias", [False, True])
def test_adjoints_are_derivatives(antialias: bool) -> None:
    gaussians = free(cloud(6, seed=3))

    def drawn(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(rasterise(Gaussians(*tensors), camera(12, 10, 14.0), antialias=antialias))

    # The kernels' exponential is a polynomial good to 2e-6, which bounds what differences show.
    torch.autograd.gradcheck(drawn, gaussians.tensors(), eps=1e-5, atol=1e-3, rtol=1e-3)


def test_a_far_one_held_at_the_border_has_the_twin_s_gradient() -> None:
    """Beyond the image the local affine map is held; what reaches in still has a gradient."""
    gaussians = cloud(12)
    side = look_at((2.5, -3.0, 1.2), (0.0, 0.0, 0.0))[:, 0].double()
    gaussians = replace(
        gaussians, means=gaussians.means * 0.2 + 3.2 * side, scales=gaussians.scales + 1.5
    )
    ours, twin = free(gaussians), free(gaussians)
    a = torch.autograd.grad(weighed(rasterise(ours, camera())), ours.tensors())
    b = torch.autograd.grad(weighed(rasterise_torch(twin, camera())), twin.tensors())
    assert float(b[0].abs().max()) > 1e-3
    for name, x, y in zip(NAMES, a, b, strict=True):
        scale = float(y.abs().max())
        torch.testing.assert_close(x / scale, y / scale, rtol=0, atol=1e-5, msg=name)


# --- closed forms --------------------------------------------------------------------------------


def straight(size: int = 33, focal: float = 50.0) -> Camera:
    """At the origin, looking along −z, the principal point in the middle pixel's centre."""
    pose = torch.eye(4)[:3]
    return Camera(pose, focal, focal, size / 2, size / 2, size, size)


def single(z: float = -5.0, scale: float = 0.2, opacity: float = 0.8) -> Gaussians:
    """One round Gaussian before `straight`."""
    return Gaussians(
        torch.tensor([[0.0, 0.0, z]]).double(),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]).double(),
        torch.full((1, 3), math.log(scale)).double(),
        torch.tensor([opacity]).double(),
        torch.tensor([[1.0, 0.5, 0.25]]).double(),
    )


@DRAWERS
def test_a_round_one_before_the_camera_is_a_gaussian_of_pixels(draw: Any) -> None:
    drawn = draw(single(), straight())
    variance = (0.2 * 50 / 5) ** 2 + kernels.DILATION
    away = torch.arange(33).double() - 16
    expected = 0.8 * torch.exp(-(away[:, None] ** 2 + away**2) / (2 * variance))
    expected[expected < kernels.LEAST] = 0
    torch.testing.assert_close(drawn.opacity, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(drawn.color[1], 0.5 * expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(drawn.depth, 5 * expected, rtol=1e-5, atol=1e-6)


@DRAWERS
def test_the_nearer_hides_the_farther(draw: Any) -> None:
    near, far = single(-4.0, 5.0, 0.75), single(-6.0, 5.0, 1.0)
    both = Gaussians(*(torch.cat(each) for each in zip(far.tensors(), near.tensors(), strict=True)))
    both.colors[:] = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    middle = draw(both, straight()).color[:, 16, 16]
    expected = torch.tensor([0.75, 0.25 * kernels.MOST, 0.0]).double()
    torch.testing.assert_close(middle, expected, rtol=1e-5, atol=1e-6)


@DRAWERS
def test_behind_the_last_light_nothing_counts(draw: Any) -> None:
    several = [single(-4.0 - i, 9.0, 0.98) for i in range(5)]
    stack = Gaussians(*(torch.cat(x) for x in zip(*(g.tensors() for g in several), strict=True)))
    stack = free(stack)
    drawn = draw(stack, straight())
    # 0.02² is the light behind two; a third would leave 8·10⁻⁶, less than what counts.
    assert float(drawn.opacity[16, 16].detach()) == pytest.approx(1 - 0.02**2, abs=1e-6)
    grads = torch.autograd.grad(drawn.color[:, 16, 16].sum(), stack.tensors())
    assert bool((grads[4][:2] != 0).all()) and bool((grads[4][2:] == 0).all())


def test_antialias_keeps_the_light_of_a_thin_one() -> None:
    thin, wide = single(scale=0.01), single(scale=0.4)
    light = [
        [float(rasterise(g, straight(), antialias=a).opacity.sum()) for a in (False, True)]
        for g in (thin, wide)
    ]
    # 0.1 pixels wide: blurred to 0.56, so √(0.01² / 0.31²) of the light is kept.
    assert light[0][1] < 0.1 * light[0][0] and light[1][1] == pytest.approx(light[1][0], rel=0.02)


def test_poses_take_points_where_cameras_project_them() -> None:
    points = cloud(20).means.float()
    pixels, depth = camera().project(points)
    pose = world_to_camera(camera()).float()
    x, y, z = (points @ pose[:, :3].T + pose[:, 3]).unbind(1)
    seen = camera()
    torch.testing.assert_close(z, depth)
    torch.testing.assert_close(
        torch.stack([x / z * seen.fx + seen.cx, y / z * seen.fy + seen.cy], 1), pixels
    )


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_order_in_memory_and_the_length_of_quaternions_say_nothing(seed: int) -> None:
    gaussians = cloud(30, seed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    shuffled = Gaussians(*(x[order] for x in gaussians.tensors()))
    shuffled = replace(shuffled, quats=shuffled.quats * -3)
    for a, b in zip(rasterise(gaussians, camera()), rasterise(shuffled, camera()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_moving_world_and_camera_together_changes_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    quat, shift = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (4, 3))
    turn = rotations(quat[None])[0]
    gaussians, seen = cloud(30, seed), camera()
    pose = seen.camera_to_world.double()
    moved = seen.moved(torch.cat([turn @ pose[:, :3], (turn @ pose[:, 3] + shift)[:, None]], 1))
    turned = replace(
        gaussians,
        means=gaussians.means @ turn.T + shift,
        quats=_product(quat / quat.norm(), gaussians.quats),
    )
    for a, b in zip(rasterise(gaussians, seen), rasterise(turned, moved), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def _product(q: Tensor, r: Tensor) -> Tensor:
    """Hamilton's product of one quaternion [4] and several [N,4]."""
    w, x, y, z = q
    left = torch.stack(
        [
            torch.stack([w, -x, -y, -z]),
            torch.stack([x, w, -z, y]),
            torch.stack([y, z, w, -x]),
            torch.stack([z, -y, x, w]),
        ]
    )
    return r @ left.T


# --- degenerate input ----------------------------------------------------------------------------

ODD = {
    "nothing": lambda g: Gaussians(*(x[:0] for x in g.tensors())),
    "points": lambda g: replace(g, scales=torch.full_like(g.scales, -math.inf)),
    "huge": lambda g: replace(g, scales=torch.full_like(g.scales, 30.0)),
    "infinite": lambda g: replace(g, scales=torch.full_like(g.scales, math.inf)),
    "flat": lambda g: replace(g, scales=g.scales + torch.tensor([0.0, 0.0, -60.0])),
    "needles": lambda g: replace(g, scales=g.scales + torch.tensor([3.0, -60.0, -60.0])),
    "behind": lambda g: replace(g, means=g.means - 20 * camera().forward.double()),
    "on the lens": lambda g: replace(g, means=camera().position.double().expand_as(g.means)),
    "just before it": lambda g: replace(
        g, means=(camera().position + 0.011 * camera().forward).double().expand_as(g.means)
    ),
    "at the border": lambda g: replace(g, means=g.means * 4),
    "clear": lambda g: replace(g, opacities=torch.zeros_like(g.opacities)),
    "opaque": lambda g: replace(g, opacities=torch.ones_like(g.opacities)),
    "one depth": lambda g: replace(g, means=torch.zeros_like(g.means)),
    "no rotation": lambda g: replace(g, quats=torch.zeros_like(g.quats)),
    "NaN means": lambda g: replace(g, means=g.means * math.nan),
    "NaN scales": lambda g: replace(g, scales=g.scales * math.nan),
    "NaN opacities": lambda g: replace(g, opacities=g.opacities * math.nan),
    "infinite colors": lambda g: replace(g, colors=g.colors * math.inf),
}


@DRAWERS
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("name", ODD)
def test_odd_gaussians_leave_everything_finite(name: str, antialias: bool, draw: Any) -> None:
    """Every second one is odd; the others are drawn, and all gradients are finite."""
    plain, odd = cloud(10, dtype=torch.float32), ODD[name](cloud(10, seed=1))
    mixed = free(Gaussians(
        *(torch.cat([a, b.float()]) for a, b in zip(plain.tensors(), odd.tensors(), strict=True))
    ))  # fmt: skip
    drawn = draw(mixed, camera(), antialias=antialias)
    assert all(bool(each.isfinite().all()) for each in drawn)
    assert 0 <= float(drawn.opacity.detach().min()) <= float(drawn.opacity.detach().max()) <= 1
    grads = torch.autograd.grad(weighed(drawn), mixed.tensors())
    assert all(bool(g.isfinite().all()) for g in grads)
    if name in ("nothing", "behind", "clear", "no rotation", "infinite") or "NaN" in name:
        alone = draw(plain, camera(), antialias=antialias)
        torch.testing.assert_close(drawn.color.detach(), alone.color)


def test_a_lens_is_refused() -> None:
    bent = replace(camera(), distortion=(0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="undistort"):
        rasterise(cloud(3), bent)
