"""The NeRF: its renders against closed forms, its gradients, its memory, its files, its options.

Fields are tiny, or set by hand: a ball of fog whose opacity and depth are known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Answer
from posed_scene import CENTRE, GRID, SMALL, Posed, seen_from
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.representations.nerf import volume
from pds_cli.representations.nerf.field import RadianceField
from pds_cli.representations.nerf.occupancy import OccupancyGrid
from pds_cli.representations.nerf.representation import NeRF
from pds_cli.representations.spatial import Place, load_spatial
from pds_cli.scenes.base import Scene
from pds_cli.views.cameras import Camera
from pds_cli.views.view import Region, View


def nerf(scene: Scene | None = None, seed: int = 0, **options: Any) -> NeRF:
    torch.manual_seed(seed)
    return NeRF(scene or Posed(), Place("cpu"), **{**SMALL, **options})  # type: ignore[arg-type]


def rough(found: NeRF, bias: float = 0.0) -> NeRF:
    """Gives the field structure: without, all of space is nearly the same."""
    with torch.no_grad():
        found.field.grid.table.normal_(generator=torch.Generator().manual_seed(7))
    found.field.density_bias = bias
    found.update_occupancy()
    return found


class Ball(torch.nn.Module):
    """A red ball of even fog, in world units, in the place of a RadianceField."""

    def __init__(self, region: Region, centre: Sequence[float], radius: float, sigma: float):
        super().__init__()
        self.region, self.centre, self.radius = region, torch.tensor(centre), radius
        self.sigma = sigma

    def density(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        framed = volume.expand(positions, self.region.unbounded)
        world = framed * self.region.radius + torch.tensor(self.region.centre)
        inside = (world - self.centre).norm(dim=-1) < self.radius
        return self.sigma * self.region.radius * inside.float(), world

    def color(self, features: Tensor, directions: Tensor, view: Tensor | None = None) -> Tensor:
        return torch.tensor([1.0, 0.0, 0.0]).expand(len(features), 3)

    def forward(
        self, positions: Tensor, directions: Tensor, view: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        sigma, features = self.density(positions)
        return sigma, self.color(features, directions, view)


def with_ball(
    unbounded: bool, centre: Sequence[float], radius: float, sigma: float, **options: Any
) -> NeRF:
    scene = Posed(unbounded)
    found = nerf(scene, **{"step": 0.004, "background": "white", "occupancy": 64, **options})
    found.field = Ball(scene.region, centre, radius, sigma)  # type: ignore[assignment]
    found.occupancy.occupied.fill_(True)
    return found


# --- what is rendered ----------------------------------------------------------------------------


def chords(camera: Camera, centre: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Where each ray [N] enters a ball, and how long it stays inside (0: it misses)."""
    origins, directions = camera.rays()
    middle = ((centre - origins) * directions).sum(-1)
    nearest = origins + middle[:, None] * directions
    half = (radius**2 - (nearest - centre).square().sum(-1)).clamp_min(0).sqrt()
    return middle - half, 2 * half


@pytest.mark.parametrize("unbounded", [True, False])
@pytest.mark.parametrize(
    ("offset", "radius"), [((0.0, 0.0, 0.0), 1.2), ((0.5, -0.6, 0.4), 0.9)], ids=["mid", "aside"]
)
def test_a_ball_of_fog_looks_as_it_must(
    unbounded: bool, offset: tuple[float, ...], radius: float
) -> None:
    """Beer and Lambert's opacity and depth, in world units, at the pixels where the ball is."""
    centre = [c + o for c, o in zip(CENTRE, offset, strict=True)]
    sigma = 1.3
    found = with_ball(unbounded, centre, radius, sigma)
    camera = seen_from((3.0, -5.0, 2.0), height=20, width=32)
    seen = found.render_camera(camera)
    enter, length = chords(camera, torch.tensor(centre), radius)
    opacity = 1 - torch.exp(-sigma * length)
    left = torch.exp(-sigma * length)
    depth = enter + 1 / sigma - length * left / opacity.clamp_min(1e-6)
    hit = length > 0.3
    assert 40 < int(hit.sum()) < 400, "the ball fills a part of the picture"
    assert seen.rgb.shape == (3, 20, 32) and seen.depth.shape == seen.opacity.shape == (20, 32)
    assert torch.allclose(seen.opacity.flatten(), opacity, atol=0.02)
    assert torch.allclose(seen.depth.flatten()[hit], depth[hit], atol=0.02)
    red = torch.stack([torch.ones_like(left), left, left])
    assert torch.allclose(seen.rgb.flatten(1), red, atol=0.02)


def test_a_ball_beyond_the_region_is_seen_through_the_contraction() -> None:
    centre = (CENTRE[0] - 7.0, CENTRE[1] + 1.0, CENTRE[2])
    found = with_ball(True, centre, 2.0, 0.8)
    camera = seen_from((6.0, 0.0, 0.0), height=24)
    enter, length = chords(camera, torch.tensor(centre), 2.0)
    assert float(enter[length > 0].min()) > 9
    seen = found.render_camera(camera)
    opacity = 1 - torch.exp(-0.8 * length)
    assert int((length > 1).sum()) > 20
    assert torch.allclose(seen.opacity.flatten(), opacity, atol=0.06)


def test_density_and_color_are_in_world_units() -> None:
    found = with_ball(True, CENTRE, 1.2, 1.3)
    points = torch.tensor([CENTRE, (CENTRE[0] + 1.1, *CENTRE[1:]), (CENTRE[0] + 1.3, *CENTRE[1:])])
    assert found.density(points).tolist() == pytest.approx([1.3, 1.3, 0.0])
    assert found.color(points, torch.eye(3)).tolist() == [[1.0, 0.0, 0.0]] * 3


def test_density_and_color_are_those_of_the_render() -> None:
    """One short piece of a ray: its opacity and colour follow from a look at its middle."""
    found = rough(nerf(background="black"))
    found.occupancy.occupied.fill_(True)
    camera = seen_from((6.0, 0.0, 1.0), 1, focal=3.0)
    origin, direction = camera.rays()
    region = found.region
    found.region = replace(region, near=6.0, far=6.001)
    seen = found.render_camera(camera)
    point = origin + 6.0005 * direction
    opacity = 1 - math.exp(-0.001 * float(found.density(point)))
    assert opacity > 1e-5
    assert float(seen.opacity) == pytest.approx(opacity, rel=0.01)
    expected = opacity * found.color(point, direction)[0]
    assert seen.rgb.flatten().tolist() == pytest.approx(expected.tolist(), rel=0.02)


def test_render_and_render_camera_agree() -> None:
    found = rough(nerf())
    view = Posed().views[0]
    assert view.camera is not None
    with torch.no_grad():
        plain = found.render(view)
    assert torch.allclose(plain[0], found.render_camera(view.camera).rgb, atol=1e-6)


def test_the_renders_size_is_separate_from_the_views() -> None:
    found = rough(nerf(render_size=10))
    view = Posed().views[0]
    wide = replace(view, camera=seen_from((6.0, 0.0, 1.0), height=16, width=32))
    assert found.render(view).shape == (1, 3, 10, 10)
    assert found.render(wide).shape == (1, 3, 5, 10)
    assert found.render_camera(seen_from((6.0, 0.0, 1.0), 7, 9)).rgb.shape == (3, 7, 9)
    assert wide.camera is not None
    small = found.render_camera(wide.camera.scaled(5, 10)).rgb
    with torch.no_grad():
        assert torch.allclose(found.render(wide)[0], small, atol=1e-6)


def test_a_full_render_has_the_views_size_and_appearance() -> None:
    found = rough(nerf(render_size=10, appearance=True), bias=2.0)
    view = Posed().views[0]
    assert view.camera is not None
    full = found.render_full(view)
    assert full.shape == (3, view.camera.height, view.camera.width) and not full.requires_grad
    found.render_size = None
    with torch.no_grad():
        assert torch.allclose(full, found.render(view)[0], atol=1e-6)


def test_a_larger_render_shows_the_same_scene() -> None:
    centre = (CENTRE[0], CENTRE[1], CENTRE[2] + 0.7)
    found = with_ball(True, centre, 0.8, 3.0, step=0.02)
    camera = seen_from((6.0, 0.0, 1.0), 16)
    small = found.render_camera(camera).rgb
    large = found.render_camera(camera.scaled(48, 48)).rgb
    pooled = torch.nn.functional.avg_pool2d(large, 3)
    assert float((pooled - small).abs().mean()) < 0.02
    assert float((pooled.flip(-2) - small).abs().mean()) > 0.05


def test_haze_is_penalised_while_a_scene_is_edited() -> None:
    view, generator = Posed().views[0], torch.Generator()
    assert rough(nerf()).penalty(view, 1.0, generator) is None
    found = rough(nerf(distortion=100.0), bias=1.0)
    optimizer = torch.optim.Adam(found.parameters(), lr=0.02)
    penalties = []
    for step in range(30):
        penalty = found.penalty(view, 1.0, generator.manual_seed(step))
        assert penalty is not None
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        penalties.append(float(penalty.detach()))
    assert penalties[0] > 1 and penalties[-1] < 0.5 * penalties[0]
    half = rough(nerf(distortion=200.0), bias=1.0).penalty(view, 0.5, generator.manual_seed(0))
    assert half is not None and float(half.detach()) == pytest.approx(penalties[0] / 2, rel=1e-5)
    assert rough(nerf(distortion=200.0)).penalty(view, 0.0, generator) is None


# --- background ----------------------------------------------------------------------------------


def emptied(background: str) -> NeRF:
    found = nerf(background=background)
    found.field.density_bias = -50.0
    return found


@pytest.mark.parametrize(("background", "value"), [("white", 1.0), ("black", 0.0)])
def test_an_empty_scene_shows_its_background(background: str, value: float) -> None:
    seen = emptied(background).render_camera(seen_from((6.0, 0.0, 0.0), 4))
    assert torch.equal(seen.rgb, torch.full((3, 4, 4), value))
    assert float(seen.opacity.max()) < 1e-6
    assert bool(seen.depth.isfinite().all())


def test_a_learned_background_is_a_parameter() -> None:
    found = emptied("learned")
    with torch.no_grad():
        found.background_logit.copy_(torch.tensor([-2.0, 0.0, 2.0]))
    seen = found.render(Posed().views[0])
    wanted = torch.sigmoid(found.background_logit)[None, :, None, None].expand_as(seen)
    assert torch.allclose(seen, wanted, atol=1e-6)
    seen[0, 2].sum().backward()
    assert found.background_logit.grad is not None
    assert found.background_logit.grad.tolist()[:2] == [0.0, 0.0]
    assert float(found.background_logit.grad[2]) > 0
    assert any(found.background_logit is p for g in found.parameter_groups() for p in g["params"])


def test_a_fixed_background_is_no_parameter() -> None:
    found = emptied("white")
    assert not any(
        found.background_logit is p for g in found.parameter_groups() for p in g["params"]
    )


def test_a_random_background_changes_with_the_step() -> None:
    found = emptied("random")
    view = Posed().views[0]
    first, same = found.render(view), found.render(view)
    found.steps += 1
    other = found.render(view)
    assert torch.equal(first, same)
    assert float((first - other).detach().abs().max()) > 0.01
    assert float(first.detach().var(dim=(-1, -2)).max()) < 1e-9, "one colour for all pixels"


# --- appearance ----------------------------------------------------------------------------------


def test_views_have_an_appearance_and_other_cameras_see_the_mean() -> None:
    found = rough(nerf(appearance=True), bias=2.0)
    field = found.field
    assert field.looks is not None
    with torch.no_grad():
        field.looks.copy_(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    features, directions = torch.randn(5, 15), torch.nn.functional.normalize(torch.ones(5, 3))
    each = [field.color(features, directions, torch.full((5,), i)) for i in range(3)]
    assert float((each[0] - each[1]).abs().max()) > 1e-3
    mean = field.color(features, directions, torch.full((5,), -1))
    assert torch.equal(mean, field.color(features, directions))
    view = Posed().views[1]
    assert view.camera is not None
    with torch.no_grad():
        own = found.render(view)[0]
        stranger = found.render(replace(view, name="never seen"))[0]
        neutral = found.render_camera(view.camera).rgb
        field.looks.copy_(field.looks.mean(0, keepdim=True).expand(3, 8).clone())
        assert torch.allclose(neutral, found.render(view)[0], atol=1e-5)
    assert torch.allclose(stranger, neutral, atol=1e-5)
    assert float((own - neutral).abs().max()) > 1e-3


# --- gradients and memory ------------------------------------------------------------------------


def gradients(found: NeRF, view: View) -> list[Tensor]:
    image = found.render(view)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    parameters = [p for p in found.parameters() if p.requires_grad]
    return list(torch.autograd.grad((image * weights).sum(), parameters))


@pytest.mark.parametrize("appearance", [False, True])
def test_rendering_in_chunks_has_the_gradient_of_rendering_at_once(appearance: bool) -> None:
    view = Posed().views[1]
    whole = rough(nerf(chunk=10_000, appearance=appearance))
    parts = rough(nerf(chunk=37, appearance=appearance))
    with torch.no_grad():
        assert torch.allclose(whole.render(view), parts.render(view), atol=1e-6)
    assert torch.allclose(whole.render(view), parts.render(view), atol=1e-6)
    for a, b in zip(gradients(whole, view), gradients(parts, view), strict=True):
        assert float(a.abs().max()) > 0
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))


class Kept:
    """A tensor that a graph keeps, counted while it lives."""

    live = peak = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Kept.live += tensor.nbytes
        Kept.peak = max(Kept.peak, Kept.live)

    def __del__(self) -> None:
        Kept.live -= self.tensor.nbytes


def peak_of(found: NeRF, size: int) -> int:
    """Most bytes that graphs kept at a time while an image was rendered and differentiated."""
    view = View("view_0", None, seen_from((6.0, 0.0, 1.0), size))
    Kept.live = Kept.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        found.render(view).square().sum().backward()
    return Kept.peak


def test_memory_stays_flat_when_the_image_grows() -> None:
    bounded = rough(nerf(chunk=128))
    small, large = peak_of(bounded, 16), peak_of(bounded, 32)
    assert large < 1.25 * small
    unbounded = rough(nerf(chunk=10_000))
    assert peak_of(unbounded, 32) > 2.5 * peak_of(unbounded, 16), "the measure sees the graph"
    assert peak_of(unbounded, 32) > 4 * large


def test_density_growth_gives_empty_space_a_slope() -> None:
    view = Posed().views[0]
    found = nerf(background="white")
    found.field.density_bias = -30.0
    found.occupancy.occupied.fill_(True)

    def slope() -> float:
        for p in found.parameters():
            p.grad = None
        found.render(view).sum().backward()
        return max(
            float(p.grad.abs().max()) for p in found.field.parameters() if p.grad is not None
        )

    flat = slope()
    found.field.growth = 0.1
    assert slope() > 100 * flat
    assert slope() > 1e-3


def test_growth_leaves_values_alone_and_changes_slopes_only_below_it() -> None:
    from pds_cli.representations.nerf.field import _Density

    raw = torch.tensor([-20.0, -1.0, 0.5, 5.0], requires_grad=True)
    plain, grown = _Density.apply(raw, 0.0), _Density.apply(raw, 1.0)
    assert torch.equal(plain, grown)
    assert torch.allclose(plain.detach(), raw.detach().exp())
    (a,) = torch.autograd.grad(plain.sum(), raw)
    (b,) = torch.autograd.grad(grown.sum(), raw)
    assert a[1:].tolist() == pytest.approx(raw.detach().exp()[1:].tolist())
    assert b.tolist() == pytest.approx([1.0, 1.0, math.exp(0.5), math.exp(5)])


def test_an_edit_begins_with_growth_and_exploration() -> None:
    found = nerf(explore=0.07, density_growth=0.3)
    assert found.field.growth == 0.0
    found.begin_edit()
    assert (found.occupancy.explore, found.field.growth) == (0.07, 0.3)


# --- the occupancy grid --------------------------------------------------------------------------


def in_corner(side: float) -> Callable[[Tensor], Tensor]:
    """Dense in a corner of the unit cube, empty elsewhere."""
    return lambda x: 10.0 * (x < side).all(-1).float()


def updated(
    grid: OccupancyGrid, field: Callable[[Tensor], Tensor], times: int = 1, part: float = 1.0
) -> OccupancyGrid:
    for seed in range(times):
        grid.update(field, torch.Generator().manual_seed(seed), part)
    return grid


def test_only_cells_that_hold_something_are_occupied() -> None:
    grid = updated(OccupancyGrid(16, 0.5), in_corner(0.5))
    assert bool(grid.occupied[:8, :8, :8].all())
    assert float(grid.occupied.float().mean()) < 0.2


def test_cells_become_free_when_the_field_empties() -> None:
    grid = updated(OccupancyGrid(16, 0.5), in_corner(0.5))
    updated(grid, in_corner(0.25), times=25)
    assert bool(grid.occupied[:4, :4, :4].all())
    assert float(grid.occupied[:8, :8, :8].float().mean()) < 0.5
    assert float(grid.density[7, 7, 7]) < 0.5


def test_partial_updates_find_density_where_there_was_none() -> None:
    grid = updated(OccupancyGrid(16, 0.5), in_corner(0.5))
    moved: Callable[[Tensor], Tensor] = lambda x: in_corner(0.5)(1 - x)  # noqa: E731
    updated(grid, moved, times=40, part=0.25)
    assert float(grid.occupied[8:, 8:, 8:].float().mean()) > 0.9
    assert float(grid.occupied[:8, :8, :8].float().mean()) < 0.3


def test_exploration_looks_into_a_share_of_empty_cells_drawn_anew() -> None:
    grid = updated(OccupancyGrid(16, 0.5, explore=0.3), in_corner(0.25))
    first = grid.occupied.clone()
    assert 0.2 < float(first[8:].float().mean()) < 0.45
    grid.update(in_corner(0.25), torch.Generator().manual_seed(9))
    assert not torch.equal(first, grid.occupied)
    assert bool(grid.occupied[:4, :4, :4].all())


def even(value: float) -> Callable[[Tensor], Tensor]:
    """The same everywhere."""
    return lambda x: torch.full((len(x),), value)


def test_a_field_that_is_the_same_everywhere_is_not_skipped() -> None:
    """An untrained field: if nothing were looked at, nothing would ever be learned."""
    for value in (1e-4, 0.1354, 0.2):
        grid = updated(OccupancyGrid(16, 0.5), even(value))
        assert float(grid.occupied.float().mean()) > 0.05, value
    for seed in range(4):
        assert float(nerf(seed=seed).occupancy.occupied.float().mean()) > 0.05, seed


def test_the_grid_is_looked_at_anew_while_steps_go_by(monkeypatch: pytest.MonkeyPatch) -> None:
    found = nerf(update_every=3)
    parts: list[float] = []
    monkeypatch.setattr(found, "update_occupancy", lambda part=1.0: parts.append(part))
    for _ in range(30):
        found.regularise()
    assert int(found.steps) == 30
    assert len(parts) == 10
    assert parts[0] == 1.0 and parts[-1] < 1.0


def test_skipping_empty_space_does_not_change_the_picture() -> None:
    found = with_ball(True, CENTRE, 1.2, 1.3, step=0.02)
    camera = seen_from((6.0, 0.0, 1.0), 16)
    before = found.render_camera(camera).rgb
    for _ in range(12):
        found.steps += 1
        found.update_occupancy()
    assert float(found.occupancy.occupied.float().mean()) < 0.3
    # A cell at the ball's surface may have been looked at only outside of it.
    error = (found.render_camera(camera).rgb - before).abs()
    assert float(error.mean()) < 0.005 and float(error.max()) < 0.1


# --- reconstruction ------------------------------------------------------------------------------


def test_masked_pixels_are_never_drawn() -> None:
    view = Posed(size=20).views[0]
    image = torch.zeros(3, 20, 20)
    image[:, :, 10:] = 1.0
    mask = torch.zeros(1, 20, 20)
    mask[:, 3:, 10:] = 1.0
    found = nerf()
    _, wanted = found._draw(replace(view, mask=mask), image, 500, torch.Generator().manual_seed(0))
    assert wanted.shape == (500, 3)
    assert bool((wanted == 1).all())
    _, wanted = found._draw(view, image, 500, torch.Generator().manual_seed(0))
    assert 0.3 < float(wanted.mean()) < 0.7


def test_drawn_rays_go_through_their_pixels() -> None:
    """An image of each pixel's own ray direction."""
    view = Posed(size=12).views[2]
    assert view.camera is not None
    directions = view.camera.rays()[1]
    image = directions.T.reshape(3, 12, 12)
    rays, wanted = nerf()._draw(view, image, 200, torch.Generator().manual_seed(0))
    assert torch.allclose(rays.directions, wanted, atol=1e-6)
    middle = torch.tensor(CENTRE)
    assert torch.allclose(rays.origins[0] * 2 + middle, view.camera.position, atol=1e-5)


def test_an_image_at_another_size_has_its_camera_scaled() -> None:
    view = Posed(size=12).views[0]
    assert view.camera is not None
    image = view.camera.scaled(24, 24).rays()[1].T.reshape(3, 24, 24)
    rays, wanted = nerf()._draw(view, image, 200, torch.Generator().manual_seed(0))
    assert torch.allclose(rays.directions, wanted, atol=1e-6)


def test_the_reconstruction_loss_is_that_of_the_renders() -> None:
    found = emptied("white")
    views = Posed().views
    pairs = [
        (view, torch.full((3, 16, 16), level))
        for view, level in zip(views, (1, 0.5, 0.5), strict=True)
    ]
    loss, logs = found.reconstruction_loss(pairs, torch.Generator().manual_seed(0))
    assert float(loss) == pytest.approx(0.25 * 2 / 3, abs=1e-5)
    assert logs["psnr"] == pytest.approx(-10 * math.log10(0.5 / 3), abs=1e-3)
    again, _ = found.reconstruction_loss(pairs, torch.Generator().manual_seed(0))
    assert torch.equal(loss, again)


def test_a_fit_is_penalised_for_haze_over_the_rays_that_it_draws() -> None:
    views = Posed().views
    pairs = [(view, torch.zeros(3, 16, 16)) for view in views]
    generator = torch.Generator()

    def step(weight: float, chunk: int) -> tuple[float, dict[str, float], list[Tensor]]:
        found = rough(nerf(fit_distortion=weight, chunk=chunk), bias=1.0)
        loss, logs = found.reconstruction_loss(pairs, generator.manual_seed(0))
        wanted = [p for p in found.parameters() if p.requires_grad]
        return float(loss.detach()), logs, list(torch.autograd.grad(loss, wanted))

    plain, before, slope = step(0.0, 10_000)
    once, logs, _ = step(1.0, 10_000)
    twice, again, whole = step(2.0, 10_000)
    parts = step(2.0, 37)[2]
    assert before["psnr"] == logs["psnr"] == again["psnr"] and "distortion" not in before
    assert logs["distortion"] > 1e-3
    assert once - plain == pytest.approx(logs["distortion"], rel=1e-4)
    assert twice - plain == pytest.approx(2 * logs["distortion"], rel=1e-4)
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
    felt = [not torch.allclose(a, b, rtol=1e-2) for a, b in zip(whole, slope, strict=True)]
    assert any(felt) and not all(felt), "density feels it, colours do not"


# --- files ---------------------------------------------------------------------------------------


def test_export_and_load_render_bit_for_bit_the_same(tmp_path: Path) -> None:
    found = rough(nerf(Posed(unbounded=False), appearance=True, background="learned"), bias=1.0)
    found.field.density_bias = found.options["density_bias"]  # what is set by hand is in no file
    written = found.export(tmp_path / "a")
    assert [path.name for path in written] == ["result.safetensors", "cameras.json"]
    back = load_spatial(tmp_path / "a/result.safetensors", "cpu")
    camera = seen_from((3.0, -5.0, 2.0), 12, 20)
    one, other = found.render_camera(camera), back.render_camera(camera)
    assert float(one.opacity.max()) > 0.01
    for a, b in ((one.rgb, other.rgb), (one.depth, other.depth), (one.opacity, other.opacity)):
        assert torch.equal(a, b)
    assert back.region == found.region
    assert isinstance(back, NeRF) and back.names == found.names
    assert back.cameras["train"].keys() == {"view_0", "view_1", "view_2"}
    view = Posed().views[1]
    assert view.camera is not None
    kept = back.cameras["train"]["view_1"]
    assert torch.allclose(kept.camera_to_world, view.camera.camera_to_world)
    back.export(tmp_path / "b")
    assert (tmp_path / "b/cameras.json").read_text() == (tmp_path / "a/cameras.json").read_text()


def test_a_checkpoint_of_one_encoding_renders_the_same_in_another() -> None:
    numba, plain = rough(nerf(encoding="numba")), nerf(encoding="torch", seed=5)
    plain.load_state_dict(numba.state_dict())
    plain.field.density_bias = numba.field.density_bias
    camera = seen_from((6.0, 0.0, 1.0), 16)
    one, other = numba.render_camera(camera), plain.render_camera(camera)
    assert float(one.opacity.mean()) > 0.1
    assert torch.allclose(one.rgb, other.rgb, atol=1e-4)
    assert torch.allclose(one.opacity, other.opacity, atol=1e-4)


def test_a_file_that_is_no_nerf_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.safetensors"):
        load_spatial(tmp_path / "nowhere.safetensors")
    file = nerf().export(tmp_path)[0]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"result\.safetensors"):
        load_spatial(file)
    file.write_bytes(whole)
    (tmp_path / "cameras.json").unlink()  # it is for other programs
    assert len(load_spatial(file).cameras["train"]) == 3


def test_what_only_an_edit_uses_does_not_change_the_fit() -> None:
    plain = nerf().fit_options()
    same = nerf(
        chunk=99, render_size=9, explore=0.5, density_growth=1.0, distortion=9.0, encoding="torch"
    )
    assert same.fit_options() == plain
    for other in ({"step": 0.2}, {"hidden": 8}, {"background": "white"}, {"fit_distortion": 1.0}):
        assert nerf(**other).fit_options() != plain, other


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (
            {"background": "plaid"},
            r"background=plaid is unknown; choose one of learned, white, black, random",
        ),
        ({"encoding": "magic"}, r"encoding=magic is unknown; choose one of"),
        ({"distortion": -1.0}, r"distortion=-1.0 must not be negative"),
        ({"fit_distortion": -1.0}, r"fit_distortion=-1.0 must not be negative"),
        ({"sh_degree": 4}, r"sh_degree=4 must be -1 \(none\) to 3"),
        ({"grid": {**GRID, "levels": 0}}, r"grid\.levels=0 must be"),
        ({"fit": {"steps": 0}}, r"fit\.steps=0 must be greater than 0"),
        ({"fit": {"lr": -1.0}}, r"fit\.lr=-1\.0 must be greater than 0"),
        ({"step": 0.0}, r"representation\.step"),
        ({"chunk": 0}, r"representation\.chunk"),
        ({"rays": 0}, r"representation\.rays"),
        ({"occupancy": 0}, r"representation\.occupancy"),
        ({"update_every": 0}, r"representation\.update_every"),
        ({"render_size": 0}, r"representation\.render_size"),
    ],
)
def test_an_option_out_of_range_is_refused_with_a_sentence(
    option: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        nerf(**option)


def test_a_flat_scene_is_refused(pds: Callable[..., Answer], tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    answer = pds(
        "fit", "scene=image", "representation=nerf", "source=a cat", f"scene.path={tmp_path}/a.png"
    )
    assert answer.code == 2
    assert answer.err.count("\n") == 1, answer.err
    assert "representation=nerf needs a scene of posed views" in answer.err


def test_spherical_harmonics_are_orthonormal() -> None:
    """Their products, averaged over the sphere, give the identity over 4π."""
    from pds_cli.views.harmonics import spherical_harmonics

    count = 4000  # the Fibonacci lattice: almost even over the sphere
    z = 1 - (2 * torch.arange(count, dtype=torch.float64) + 1) / count
    angle = torch.arange(count, dtype=torch.float64) * math.pi * (3 - math.sqrt(5))
    flat = (1 - z**2).sqrt()
    points = torch.stack([flat * angle.cos(), flat * angle.sin(), z], -1)
    for degree in range(4):
        values = spherical_harmonics(points, degree)
        assert values.shape == (count, (degree + 1) ** 2)
        product = values.T @ values * 4 * math.pi / count
        assert torch.allclose(product, torch.eye(len(product), dtype=torch.float64), atol=2e-3)


def test_the_direction_matters_only_where_it_was_asked_for() -> None:
    for degree, matters in ((-1, False), (0, False), (2, True)):
        torch.manual_seed(0)
        field = nerf(sh_degree=degree).field
        assert isinstance(field, RadianceField)
        features = torch.ones(2, 15)
        a, b = field.color(features, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]]))
        assert bool((a != b).any()) == matters
