"""Edits that may change a part of what is seen: masks, boxes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.errors import UserError
from pds_cli.losses.dds import DDS
from pds_cli.representations.image import ImageRepresentation
from pds_cli.runs.checkpoint import load_checkpoint
from pds_cli.scenes.base import Scene
from pds_cli.scenes.image import ImageScene
from pds_cli.scenes.limits import places, read_limits, within
from pds_cli.scenes.toybox import ToyboxScene
from pds_cli.training.distillation import EditObjective
from pds_cli.views.cameras import Camera, look_at
from pds_cli.views.view import View

ROBOT = "a photo of a robot"


def picture(path: Path, width: int = 96, height: int = 64) -> Path:
    """A file of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def mask(path: Path, width: int = 96, height: int = 64) -> Path:
    """White in the left half, black in the right."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, : width // 2] = 255
    Image.fromarray(pixels).save(path)
    return path


def test_outside_of_a_mask_a_picture_stays_bit_for_bit(
    pds: Callable[..., Any], tiny_backbone: Path
) -> None:
    picture(Path("a.png"))
    mask(Path("half.png"), 48, 32)  # of any scale
    words = ["edit", "scene=image", "scene.path=a.png", "source=a photo of a man", "turntable=0",
             f"prompt={ROBOT}", f"backbone.model={tiny_backbone}", "steps=3", "lr=0.5",
             "render_every=0", "device=cpu"]  # fmt: skip
    before = np.asarray(Image.open("a.png"))
    for name, more in (
        ("latent", ["representation.parametrisation=latent"]),
        ("pixels", ["representation.parametrisation=pixels"]),
        ("bare", ["representation.export_detail=false"]),
        ("editor", ["editor=sdedit", "editor.steps=3"]),
        ("update", ["loss=dataset_update", "editor=sdedit", "editor.steps=3", "loss.every=1"]),
    ):
        answer = pds(*words, *more, "mask=half.png", f"out={name}")
        assert answer.code == 0, answer.err
        after = np.asarray(Image.open(f"{name}/exports/result.png"))
        assert (after[:, 48:] == before[:, 48:]).all(), name
        assert (after[:, :48] != before[:, :48]).any(), name
    free = pds(*words, "representation.export_detail=false", "out=free")
    assert free.code == 0
    assert (np.asarray(Image.open("free/exports/result.png"))[:, 48:] != before[:, 48:]).any()


def test_a_limited_edit_that_was_interrupted_ends_the_same(
    pds: Callable[..., Any], stopping: Callable[[str, int], None], tiny_backbone: Path
) -> None:
    picture(Path("a.png"))
    mask(Path("half.png"))
    words = ["edit", "scene=image", "scene.path=a.png", "source=a photo of a man",
             f"prompt={ROBOT}", f"backbone.model={tiny_backbone}", "steps=6", "mask=half.png",
             "render_every=0", "device=cpu"]  # fmt: skip
    assert pds(*words, "out=whole").code == 0
    stopping("edit", 3)
    assert pds(*words, "out=parts", "checkpoint_every=0").code == 130
    assert pds("edit", "resume=parts").code == 0
    whole, parts = (Path(run, "exports/result.png").read_bytes() for run in ("whole", "parts"))
    assert whole == parts


def test_a_box_is_where_rays_meet_it() -> None:
    """Two corners, in any order; seen from inside of it, all of a view may change."""
    scene = ToyboxScene(size=64, count=4, held_out=1)
    low, high = (-0.3, -0.3, 1.0), (0.3, 0.3, 1.6)
    found = read_limits(None, [*low, *high], scene)
    assert found.keys() == {view.name for view in scene.edit_views}
    corners = torch.tensor([[x, y, z] for x in low[:1] + high[:1] for y in (low[1], high[1])
                            for z in (low[2], high[2])])  # fmt: skip
    for view in scene.edit_views:
        assert view.camera is not None
        limit = found[view.name]
        assert limit.shape == (1, 64, 64) and set(limit.unique().tolist()) == {0.0, 1.0}
        pixels, _ = view.camera.scaled(64, 64).project(corners)
        rows, columns = limit[0].nonzero().unbind(1)
        for axis, seen in ((0, columns), (1, rows)):
            assert abs(float(pixels[:, axis].min()) - float(seen.min())) <= 1
            assert abs(float(pixels[:, axis].max()) - float(seen.max() + 1)) <= 1
    turned = read_limits(None, [*high, *low], scene)
    assert all(torch.equal(found[name], turned[name]) for name in found)
    inside = read_limits(None, [-50, -50, -50, 50, 50, 50], scene)
    assert all(bool(limit.all()) for limit in inside.values())
    camera = Camera(look_at((0.0, -6.0, 1.0), (0.0, 0.0, 1.0)).float(), 64, 64, 32, 32, 64, 64)
    behind = replace(scene.edit_views[0], camera=camera)

    class Alone(Scene):
        @property
        def views(self) -> list[View]:
            return [behind]

    with pytest.raises(UserError, match="leave nothing that may change"):
        read_limits(None, [-1, -9, 0, 1, -8, 2], Alone())


def test_a_place_counts_where_any_of_its_pixels_does() -> None:
    limit = torch.zeros(1, 16, 16)
    limit[0, 5, 9] = 1
    assert places(limit, 4, 4).nonzero().tolist() == [[0, 1, 2]]
    changed, before = torch.ones(3, 8, 8), torch.zeros(3, 8, 8)
    limit = torch.zeros(1, 16, 16)
    limit[:, 4:8] = 1
    found = within(limit, changed, before)
    assert found[:, 2:4].eq(1).all() and float(found.sum()) == 3 * 16


def test_only_views_that_may_change_have_a_gradient(
    pds: Callable[..., Any], tiny_backbone: Path
) -> None:
    """A folder of masks, all black but for one view's: the others move nothing."""
    pytest.importorskip("pyvista")
    names = [view.name for view in ToyboxScene(size=64, count=2, held_out=1).edit_views]
    Path("masks").mkdir()
    for k, name in enumerate(names):
        Image.new("L", (64, 64), 255 if k == 0 else 0).save(f"masks/{name}.png")
    words = ["edit", "scene=figurine", "scene.size=64", "scene.count=2", "scene.held_out=1",
             "representation=splats", "representation.budget=50", "representation.fit.steps=2",
             f"representation.fit.cache={Path('fits').resolve()}", "turntable=0", "refine=none",
             f"prompt={ROBOT}", f"backbone.model={tiny_backbone}", "steps=4", "render_every=0",
             "device=cpu"]  # fmt: skip
    answer = pds(*words, "mask=masks", "out=one")
    assert answer.code == 0, answer.err
    box = pds(*words, "mask_box=[-1,-1,0,1,1,3]", "out=box")
    assert box.code == 0, box.err
    ends = [load_checkpoint(Path(run) / "exports/result.safetensors")[0] for run in ("one", "box")]
    assert not torch.equal(ends[0]["means"], ends[1]["means"])


def test_a_gradient_is_nothing_where_nothing_may_change(
    tiny_components: Any, tmp_path: Path
) -> None:
    """θ is a latent: what lies outside of the mask's places does not move at all."""
    torch.manual_seed(0)
    backbone = EmbeddedBackbone.of(tiny_components)
    scene = ImageScene(picture(tmp_path / "a.png", 64, 64), "a man")
    limit = torch.zeros(1, 64, 64)
    limit[:, :, :30] = 1  # the first 8 of 16 places, the last of them in part
    representation = ImageRepresentation(scene, backbone, parametrisation="latent")
    scene.limits = {scene.views[0].name: limit}
    texts = [backbone.encode_prompt([text]) for text in (ROBOT, "a photo of a man")]
    objective = EditObjective(scene, representation, backbone, DDS(guidance=3.0), *texts)
    scalar, _ = objective.loss(0, 0.0, torch.Generator().manual_seed(0))
    scalar.backward()
    grad = representation.theta.grad
    assert grad is not None and grad.shape == (1, 16, 16, 16)
    assert float(grad[..., 8:].abs().max()) == 0
    assert bool((grad[..., :8].abs().amax((0, 1)) > 0).all())


def test_outside_a_render_is_held_to_its_source(tiny_components: Any, tmp_path: Path) -> None:
    """θ are pixels, moved away: outside of the mask its gradient is how far it went."""
    torch.manual_seed(0)
    backbone = EmbeddedBackbone.of(tiny_components)
    scene = ImageScene(picture(tmp_path / "a.png", 64, 64), "a man")
    limit = torch.zeros(1, 64, 64)
    limit[:, :, :32] = 1
    representation = ImageRepresentation(scene, backbone, parametrisation="pixels")
    scene.limits = {scene.views[0].name: limit}
    away = 0.1 * torch.rand_like(representation.theta)
    source = representation.theta.detach().clone()
    representation.theta.data = source * 0.8 + away
    texts = [backbone.encode_prompt([text]) for text in (ROBOT, "a photo of a man")]
    objective = EditObjective(scene, representation, backbone, DDS(guidance=3.0), *texts)
    scalar, _ = objective.loss(0, 0.0, torch.Generator().manual_seed(0))
    scalar.backward()
    grad = representation.theta.grad
    assert grad is not None
    gone = representation.theta.detach() - source
    torch.testing.assert_close(grad[..., 32:], gone[..., 32:], rtol=1e-4, atol=1e-5)
    assert float((grad - gone)[..., :32].abs().min()) > 0


def test_what_limits_nothing_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    scene = ImageScene(tmp_path / "a.png", "a man")
    Image.new("L", (96, 64)).save(tmp_path / "black.png")
    mask(tmp_path / "square.png", 64, 64)
    (tmp_path / "masks").mkdir()
    for name, box, said in (
        ("none.png", None, "does not exist"),
        ("black.png", None, "leave nothing that may change"),
        ("square.png", None, "64×64 pixels, and .* is 96×64"),
        ("masks", None, r"has no a\.png"),
        (None, [0, 0, 0, 1, 1, 1], "for scenes in 3D"),
    ):
        with pytest.raises(UserError, match=said):
            read_limits(None if name is None else str(tmp_path / name), box, scene)
    many = ToyboxScene(size=64, count=3, held_out=1)
    with pytest.raises(UserError, match="one picture, and the scene has 3 views"):
        read_limits(str(tmp_path / "square.png"), None, many)
    with pytest.raises(UserError, match="has no size"):
        read_limits(None, [0, 0, 0, 1, 1, 0], many)
