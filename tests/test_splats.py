"""Gaussian splats: kernels against plain PyTorch, closed forms, adjoints, degenerate input."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.kernels import splats as kernels
from pds_cli.representations.base import FitSettings
from pds_cli.representations.spatial import Place, load_spatial
from pds_cli.representations.splats.relocation import (
    BORN,
    DEAD,
    faded,
    relocate,
    scatter,
    shared,
    wander,
)
from pds_cli.representations.splats.representation import Splats
from pds_cli.representations.splats.start import points_about, starting_points
from pds_cli.runs import layout
from pds_cli.runs.checkpoint import load_checkpoint, save_checkpoint
from pds_cli.runs.folder import RunFolder
from pds_cli.scenes.toybox import ToyboxScene
from pds_cli.splats.rasterise import (
    Drawn,
    Gaussians,
    rasterise,
    rasterise_gsplat,
    rasterise_torch,
    world_to_camera,
)
from pds_cli.training.fit import fit_stage, measure
from pds_cli.training.trainer import Trainer
from pds_cli.views.cameras import Camera, look_at
from pds_cli.views.harmonics import BASE
from pds_cli.views.poses import rotations
from pds_cli.views.view import Region

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


def test_gsplat_is_told_what_the_twin_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in takes gsplat's arguments, OpenCV's axes and matrices, and gives its shapes."""
    told: dict[str, Any] = {}

    def rasterization(
        means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor,
        viewmats: Tensor, Ks: Tensor, width: int, height: int, *, near_plane: float, eps2d: float,
        packed: bool, render_mode: str, rasterize_mode: str,
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
        told.update(mode=render_mode, blur=rasterize_mode, eps2d=eps2d, packed=packed)
        assert viewmats.shape == (1, 4, 4) and Ks.shape == (1, 3, 3)
        (fx, _, cx), (_, fy, cy), _ = Ks[0].tolist()
        pose = torch.linalg.inv(viewmats[0])[:3] * torch.tensor([1.0, -1.0, -1.0, 1.0])
        seen = Camera(pose, fx, fy, cx, cy, width, height)
        given = Gaussians(means, quats, scales.log(), opacities, colors)
        drawn = rasterise_torch(
            given, seen, near=near_plane, antialias=rasterize_mode == "antialiased"
        )
        image = torch.cat([drawn.color, drawn.depth[None]]).permute(1, 2, 0)
        return image[None], drawn.opacity[None, ..., None], {}

    monkeypatch.setitem(sys.modules, "gsplat", SimpleNamespace(rasterization=rasterization))
    gaussians = free(cloud(30, dtype=torch.float32))
    with torch.no_grad():
        gaussians.means[3, 1] = math.nan
    for antialias in (False, True):
        ours = rasterise_torch(gaussians, camera(), near=1.0, antialias=antialias)
        theirs = rasterise_gsplat(gaussians, camera(), near=1.0, antialias=antialias)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert told == {"mode": "RGB+D", "blur": "antialiased", "eps2d": 0.3, "packed": False}
    weighed(theirs).backward()
    assert all(bool(x.grad is not None) and bool(x.grad.isfinite().all())  # type: ignore[union-attr]
               for x in gaussians.tensors())  # fmt: skip


@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("gsplat") is None,
    reason="needs CUDA and gsplat",
)
@pytest.mark.parametrize("antialias", [False, True])
def test_gsplat_equals_the_twin(antialias: bool) -> None:
    there = Gaussians(*(x.cuda() for x in cloud(60, dtype=torch.float32).tensors()))
    drawn = []
    for draw in (rasterise_gsplat, rasterise_torch):
        gaussians = free(there)
        seen = draw(gaussians, camera(), antialias=antialias)
        weighed(seen).backward()
        drawn.append([*seen, *(x.grad for x in gaussians.tensors())])
    for a, b in zip(*drawn, strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(a, b, atol=2e-3 * float(b.abs().max()), rtol=1e-3)


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


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_order_in_memory_and_the_length_of_quaternions_say_nothing(seed: int) -> None:
    gaussians = cloud(30, seed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    shuffled = Gaussians(*(x[order] for x in gaussians.tensors()))
    shuffled = replace(shuffled, quats=shuffled.quats * -3)
    for a, b in zip(rasterise(gaussians, camera()), rasterise(shuffled, camera()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@settings(max_examples=20, deadline=None)
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


# --- relocation ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(0.01, 0.999), st.integers(1, 51))
def test_copies_together_are_as_opaque_as_one(opacity: float, copies: int) -> None:
    each, scale = shared(torch.tensor([opacity]).double(), torch.tensor([copies]))
    together = 1 - (1 - each) ** copies
    torch.testing.assert_close(together, torch.tensor([opacity]).double(), rtol=1e-6, atol=1e-9)
    assert (float(scale) == 1) if copies == 1 else 0 < float(scale) < 1.0001


def test_copies_keep_the_light_of_a_line_through_the_middle() -> None:
    """∫ 1 − (1 − o' exp(−x²/2s²))^n dx = ∫ o exp(−x²/2) dx, by quadrature."""
    x = torch.linspace(-12, 12, 20_001).double()
    for opacity, n in ((0.9, 2), (0.5, 3), (0.99, 7)):
        each, scale = shared(torch.tensor([opacity]).double(), torch.tensor([n]))
        found = 1 - (1 - each * torch.exp(-((x / scale) ** 2) / 2)) ** n
        expected = opacity * torch.exp(-(x**2) / 2)
        assert float(found.sum()) == pytest.approx(float(expected.sum()), rel=1e-6)


def adam(tensors: dict[str, Tensor]) -> torch.optim.Adam:
    """Adam after a step, so that it has moments."""
    for value in tensors.values():
        value.requires_grad_().grad = torch.ones_like(value)
    optimizer = torch.optim.Adam(tensors.values(), lr=1e-9)
    optimizer.step()
    return optimizer


def test_what_has_faded_moves_to_what_has_not_and_nothing_is_seen_of_it() -> None:
    gaussians = cloud(40)
    logits = torch.full((40,), 2.0).double()
    logits[30:] = -8.0
    tensors = {
        "means": gaussians.means, "quats": gaussians.quats, "scales": gaussians.scales,
        "opacities": logits, "colors": gaussians.colors,
    }  # fmt: skip
    optimizer = adam(tensors)

    def seen() -> Drawn:
        held = {k: v.detach() for k, v in tensors.items()}
        return rasterise(
            Gaussians(
                held["means"], held["quats"], held["scales"],
                torch.sigmoid(held["opacities"]), held["colors"],
            ),
            camera(),
        )  # fmt: skip

    before = seen()
    assert relocate(tensors, optimizer, torch.Generator().manual_seed(0)) == 10
    assert bool((torch.sigmoid(tensors["opacities"]) > DEAD).all())
    assert len(torch.unique(tensors["means"].detach(), dim=0)) == 30, "they lie where others do"
    assert float((seen().color - before.color).abs().mean()) < 0.01
    moments = optimizer.state[tensors["means"]]["exp_avg"]
    assert bool((moments[30:] == 0).all()) and bool((moments[:30] != 0).any())
    assert relocate(tensors, optimizer, torch.Generator()) == 0, "nothing has faded"


def test_what_is_scattered_begins_faint_about_what_the_gradient_pulls_at() -> None:
    gaussians, logits = cloud(40), torch.full((40,), 2.0).double()
    logits[30:] = -8.0
    tensors = {"means": gaussians.means, "scales": gaussians.scales, "opacities": logits}
    tensors |= {"quats": gaussians.quats, "sh0": gaussians.colors}
    optimizer = adam(tensors)
    pull = optimizer.state[tensors["means"]]["exp_avg"]
    pull[:] = 0.0
    pull[[3, 7]] = 1.0
    gone, reach = faded(tensors), 0.01
    assert gone.tolist() == list(range(30, 40))
    scatter(tensors, optimizer, torch.Generator().manual_seed(0), gone, reach)
    means = tensors["means"].detach()
    apart = torch.cdist(means[gone], means[[3, 7]]).min(1).values
    assert float(apart.min()) > 0 and float(apart.max()) < 5 * reach
    assert torch.allclose(torch.sigmoid(tensors["opacities"][gone]), torch.tensor(BORN).double())
    assert torch.allclose(tensors["scales"][gone].exp(), torch.tensor(reach / 3).double())
    of_two = (tensors["sh0"][gone][:, None] == tensors["sh0"][[3, 7]]).all(2)
    assert bool(of_two.any(1).all()), "colours are those of what is pulled"
    assert bool((optimizer.state[tensors["sh0"]]["exp_avg"][30:] == 0).all())
    # Relocation within an edit draws so, too.
    tensors["opacities"].data[30:] = -8.0
    assert relocate(tensors, optimizer, torch.Generator(), gone, pulled=True) == 10
    assert float(torch.cdist(means[gone], means[[3, 7]]).min(1).values.max()) == 0
    nothing = {**tensors, "opacities": torch.full((40,), -9.0).double()}
    before = nothing["means"].clone()
    scatter(nothing, optimizer, torch.Generator(), gone, reach)
    assert torch.equal(nothing["means"], before), "there is nothing to lie about"


def test_only_what_is_faint_wanders_and_within_its_shape() -> None:
    count = 2000
    means = torch.zeros(count, 3)
    logits = torch.full((count,), -9.0)
    logits[1000:] = 3.0
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(count, 4)
    scales = torch.tensor([0.1, 0.01, 0.001]).log().expand(count, 3)
    wander(means, quats, scales, logits, 1e-3, torch.Generator().manual_seed(0))
    assert float(means[1000:].abs().max()) < 1e-6
    widths = means[:1000].std(0)
    assert float(widths[0] / widths[1]) == pytest.approx(100, rel=0.1)
    assert float(widths[1] / widths[2]) == pytest.approx(100, rel=0.1)


# --- the representation --------------------------------------------------------------------------

SCENE = ["scene=figurine", "scene.size=64", "scene.count=4", "scene.held_out=2", "device=cpu"]
CPU: Any = Place("cpu")
SPLATS = ["representation=splats", "representation.budget=400", "turntable=0"]


@pytest.fixture(scope="module")
def scene() -> ToyboxScene:
    pytest.importorskip("pyvista")
    return ToyboxScene(size=64, count=6, held_out=2)


def test_points_begin_in_the_region_and_along_what_is_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    closed = Region((1.0, 2.0, 3.0), 0.5, unbounded=False)
    points, apart = starting_points(closed, [camera()], 500, generator)
    assert bool(((points - torch.tensor(closed.centre)).abs() <= 0.5).all())
    nearest = (torch.cdist(points, points) + 9 * torch.eye(500)).amin(1)
    assert bool((apart >= nearest - 1e-6).all()) and float(apart.mean()) < 0.2
    wide, _ = starting_points(replace(closed, unbounded=True), [camera()], 500, generator)
    away = (wide - torch.tensor(closed.centre)).norm(dim=1)
    assert float(away.max()) > 4 and int((away < 1).sum()) >= 250
    alone, one = starting_points(closed, [camera()], 1, generator)
    assert alone.shape == (1, 3) and one.tolist() == [1.0]


def test_points_that_were_found_are_where_gaussians_begin(scene: ToyboxScene) -> None:
    found = torch.rand(50, 3, generator=torch.Generator().manual_seed(1))
    colours = found.flip(1)
    few, shown, apart = points_about(found, colours, 20, torch.Generator().manual_seed(0))
    assert few.shape == (20, 3)
    assert set(few[:, 0].tolist()) <= set(found[:, 0].tolist())
    assert len(set(few[:, 0].tolist())) == 20
    torch.testing.assert_close(shown, few.flip(1))
    many, shown, apart = points_about(found, colours, 200, torch.Generator().manual_seed(0))
    assert many.shape == shown.shape == (200, 3) and apart.shape == (200,)
    assert torch.equal(many[:50].sort(0).values, found.sort(0).values)
    assert float(torch.cdist(many, found).amin(1).max()) < 1.0
    assert float((many[50:, None] - found).norm(dim=2).amin(1).median()) < 0.3
    scene.sparse_points = (found, colours)
    try:
        splats = Splats(scene, CPU, budget=50)
        assert torch.equal(splats.means.detach().sort(0).values, found.sort(0).values)
        seen = splats.sh0.detach() * BASE + 0.5
        torch.testing.assert_close(seen, splats.means.detach().flip(1))
        options = splats.fit_options()
        scene.sparse_points = (found + 0.1, colours)
        assert Splats(scene, CPU, budget=50).fit_options() != options
    finally:
        scene.sparse_points = None
    assert "start" not in Splats(scene, CPU, budget=50).fit_options()


def test_a_fit_comes_nearer_and_its_file_brings_it_back(scene: ToyboxScene, tmp_path: Path) -> None:
    torch.manual_seed(0)
    splats = Splats(scene, CPU, budget=600, sh_degree=1, sh_every=20)
    trainer = Trainer(
        [fit_stage(scene, splats, FitSettings(steps=60, lr=8.0, views_per_step=1))],
        RunFolder(tmp_path / "run"),
    )
    before = measure(splats, scene.eval_views)["psnr"]
    trainer.run()
    after = measure(splats, scene.eval_views)["psnr"]
    assert after > before + 3
    splats.save(tmp_path / "scene.safetensors")
    again = load_spatial(tmp_path / "scene.safetensors", "cpu")
    seen = scene.eval_views[0].camera
    assert seen is not None
    splats.begin_edit()
    for a, b in zip(*(vars(x.render_camera(seen)).values() for x in (splats, again)), strict=True):
        assert torch.equal(a, b)


def test_depth_is_along_the_ray(scene: ToyboxScene) -> None:
    splats = Splats(scene, CPU, budget=1)
    with torch.no_grad():
        splats.means.copy_(torch.tensor([[1.5, 0.3, 1.0]]))
        splats.scales.fill_(math.log(0.02))
        splats.opacities.fill_(5.0)
    pose = look_at((0.0, -6.0, 1.0), (0.0, 0.0, 1.0)).float()
    seen = Camera(pose, 64.0, 64.0, 32.0, 32.0, 64, 64)
    found = splats.render_camera(seen)
    at = int(found.opacity.argmax())
    away = float((splats.means.detach()[0] - seen.position).norm())
    assert float(found.depth.flatten()[at]) == pytest.approx(away, rel=2e-3)


def test_what_cannot_be_gets_a_sentence(scene: ToyboxScene, tmp_path: Path) -> None:
    for options, said in (
        ({"sh_degree": 4}, "sh_degree=4 must be at most 3"),
        ({"budget": 0}, "budget=0 must be at least 1"),
        ({"dssim": 1.5}, "dssim=1.5 must be at most 1"),
        ({"render_size": 4}, "render_size=4 must be at least 8"),
        ({"background": "sky"}, "background"),
    ):
        with pytest.raises(UserError, match=said):
            Splats(scene, CPU, **options)
    path = Splats(scene, CPU, budget=5).export(tmp_path)[0]
    tensors, meta = load_checkpoint(path)
    for change in ({"budget": 6}, {"sh_degree": 1}, {"noise": None}):
        wrong = meta | {"options": meta["options"] | change}
        save_checkpoint(tmp_path / "wrong.safetensors", tensors, wrong)
        with pytest.raises(UserError):
            load_spatial(tmp_path / "wrong.safetensors")


def test_an_interrupted_fit_ends_the_same(
    pds: Callable[..., Any], stopping: Callable[[str, int], None], tmp_path: Path
) -> None:
    words = ["fit", *SCENE, *SPLATS[:2], "representation.fit.steps=12", "render_every=0",
             "representation.relocate_every=2", "representation.fit.cache=null"]  # fmt: skip
    whole = pds(*words, "out=whole")
    assert whole.code == 0, whole.err
    stopping("fit", 7)
    assert pds(*words, "out=parts", "checkpoint_every=0").code == 130
    again = pds("fit", "resume=parts")
    assert again.code == 0, again.err
    for a, b in zip(
        *(load_checkpoint(Path(run) / layout.RESULT_3D)[0].values()
          for run in ("whole", "parts")), strict=True
    ):  # fmt: skip
        assert torch.equal(a, b)


def test_an_edit_of_splats_is_rendered_and_begun_at(
    pds: Callable[..., Any], tiny_backbone: Path
) -> None:
    words = [*SCENE, *SPLATS, "representation.fit.steps=3", f"backbone.model={tiny_backbone}",
             "representation.render_size=64", "steps=2", "refine=none",
             "render_every=0"]  # fmt: skip
    first = pds("edit", *words, "prompt=a photo of a robot", "out=first")
    assert first.code == 0, first.err
    assert json.loads(Path("first/summary.json").read_text())["representation"] == "splats"
    seen = pds("render", "run=first", "out=seen", "frames=2")
    assert seen.code == 0, seen.err
    then = pds("edit", "init=first", "prompt=a photo of a bear", f"backbone.model={tiny_backbone}",
               "steps=1", "refine=none", "turntable=0", "render_every=0", "out=then")  # fmt: skip
    assert then.code == 0, then.err
    mesh = pds("export", "run=first", "format=mesh", "out=mesh")
    assert mesh.code == 2 and "a Splats does not say" in mesh.err and mesh.err.count("\n") == 1


def test_an_edit_changes_only_the_parameters_it_may(scene: ToyboxScene) -> None:
    splats = Splats(scene, CPU, budget=30, parameters=["colors"], relocate_every=1)
    assert len(splats.parameter_groups()) == 7  # a fit changes all, and what lies behind
    splats.begin_edit()
    optimizer = torch.optim.Adam(splats.parameter_groups(), lr=0.1)
    before = {name: value.clone() for name, value in splats.state_dict().items()}
    splats.opacities.data[:5] = before["opacities"][:5] = -20.0  # would be relocated
    splats.render(scene.views[0]).square().sum().backward()
    optimizer.step()
    splats.after_step(optimizer)
    changed = {n for n, v in splats.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"sh0", "background_logit", "steps"}
    splats = Splats(scene, CPU, budget=30, parameters=["means", "opacities"])
    splats.begin_edit()
    chosen = [id(group["params"][0]) for group in splats.parameter_groups()]
    assert chosen == [id(splats.means), id(splats.opacities)]
    for wrong in ([], ["points"]):
        with pytest.raises(UserError, match="choose from means, scales"):
            Splats(scene, CPU, parameters=wrong)
    assert (
        Splats(scene, CPU, parameters=["means"]).fit_options() == Splats(scene, CPU).fit_options()
    )


def test_an_edit_scatters_once(scene: ToyboxScene) -> None:
    splats = Splats(scene, CPU, budget=100, seeds=0.3, reach=0.05)
    splats.hold_source()
    splats.begin_edit()
    splats.opacities.data[:40] -= 1.0
    optimizer = torch.optim.Adam(splats.parameter_groups(), lr=1e-9)
    places = [splats.means.detach().clone()]
    for _ in range(2):
        assert splats.penalty(scene.views[0], 0.1, torch.Generator()) is None
        splats.render(scene.views[0]).square().sum().backward()
        optimizer.step()
        splats.after_step(optimizer)
        places.append(splats.means.detach().clone())
    moved = [(a - b).norm(dim=1) > 1e-6 for a, b in itertools.pairwise(places)]
    assert int(moved[0][:40].sum()) == int(moved[0].sum()) == 30 and int(moved[1].sum()) == 0
    fitted = Splats(scene, CPU, budget=100, seeds=0.3)
    fitted.hold_source()
    fitted.begin_edit()  # to pictures, as a refinement is: nothing grows there
    before = fitted.means.detach().clone()
    fitted.after_step(torch.optim.Adam(fitted.parameter_groups()))
    assert torch.equal(fitted.means.detach(), before)
    own = Splats(scene, CPU, budget=100, seeds=0.0).fit_options()
    assert own == splats.fit_options(), "a fit does not depend on it"
    odd: list[dict[str, Any]]
    odd = [{"seeds": 2.0}, {"explore": -1.0}, {"reach": 0.0}]
    for wrong in odd:
        with pytest.raises(UserError, match=f"representation.{next(iter(wrong))}="):
            Splats(scene, CPU, budget=10, **wrong)


def test_a_fit_begins_on_the_surface_of_another(scene: ToyboxScene, tmp_path: Path) -> None:
    first = Splats(scene, CPU, budget=200)
    with torch.no_grad():
        first.means.mul_(0.02).add_(torch.tensor([0.3, 0.0, 1.0]))
        first.scales.fill_(math.log(0.05))
        first.opacities.fill_(4.0)
        first.sh0.fill_(0.4 / BASE)
    first.begin_edit()
    first.export(tmp_path / "run" / layout.EXPORTS)
    then = Splats(scene, CPU, budget=100, initial=str(tmp_path / "run"))
    away = torch.cdist(then.means.detach(), first.means.detach()).amin(1)
    assert float(away.median()) < 0.15
    assert float((then.sh0.detach() * BASE - 0.4).abs().median()) < 0.05
    assert then.fit_options() != Splats(scene, CPU, budget=100).fit_options()

    class Elsewhere(ToyboxScene):
        @property
        def region(self) -> Region:
            return replace(super().region, radius=9.0)

    with pytest.raises(UserError, match="of another scene"):
        Splats(Elsewhere(size=64, count=2, held_out=1), CPU, initial=str(tmp_path / "run"))
    with pytest.raises(UserError, match="holds no 3D result"):
        Splats(scene, CPU, initial=str(tmp_path))


def test_an_anchor_holds_gaussians_where_the_edit_began(scene: ToyboxScene) -> None:
    view, draw = scene.views[0], torch.Generator()
    assert Splats(scene, CPU, budget=20).penalty(view, 0.0, draw) is None
    splats = Splats(scene, CPU, budget=20, anchor=0.5)
    with torch.no_grad():
        splats.means.add_(1.0)  # the fit, so to say
    splats.hold_source()
    splats.begin_edit()
    found = splats.penalty(view, 0.0, draw)
    assert found is not None and float(found) == 0
    with torch.no_grad():
        splats.means.add_(splats.scales.exp().mean(1, keepdim=True) * torch.tensor([2.0, 0.0, 0.0]))
        splats.sh0.add_(0.3 / BASE)
        splats.opacities.sub_(1.0)
    found = splats.penalty(view, 0.0, draw)
    assert found is not None
    assert float(found) == pytest.approx(0.5 * (4 / 3 + 0.09 + 1), rel=1e-4)
    found.backward()
    assert splats.means.grad is not None and bool((splats.means.grad[:, 0] > 0).all())


def test_an_anchored_edit_that_was_interrupted_ends_the_same(
    pds: Callable[..., Any], stopping: Callable[[str, int], None], tiny_backbone: Path
) -> None:
    words = ["edit", *SCENE, *SPLATS, "representation.fit.steps=4", "representation.anchor=5",
             f"representation.fit.cache={Path('fits').resolve()}", "refine=none", "steps=8", "lr=1",
             f"backbone.model={tiny_backbone}", "prompt=a photo of a robot",
             "render_every=0"]  # fmt: skip
    whole = pds(*words, "out=whole")
    assert whole.code == 0, whole.err
    free = pds(*[word.replace("anchor=5", "anchor=0") for word in words], "out=free")
    assert free.code == 0, free.err
    stopping("edit", 5)
    assert pds(*words, "out=parts", "checkpoint_every=0").code == 130
    assert pds("edit", "resume=parts").code == 0
    ends = [
        load_checkpoint(Path(run) / layout.RESULT_3D)[0]["means"]
        for run in ("whole", "parts", "free")
    ]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])
