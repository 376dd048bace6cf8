"""Backbones that are told the camera of a picture: what they are told, training, and edits."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_MODEL
from omegaconf import OmegaConf
from torch import Tensor

from pds_cli.backbones.embedded import CAMERA, EmbeddedBackbone, camera_features
from pds_cli.benchmarks.side_by_side import edit_cases
from pds_cli.config import composed
from pds_cli.losses.dds import DDS
from pds_cli.pictures.captioned import CaptionedImages
from pds_cli.pretraining.components import build_components, load_components, save_components
from pds_cli.pretraining.objectives import DenoisingObjective
from pds_cli.runs.checkpoint import load_checkpoint
from pds_cli.runs.folder import RunFolder
from pds_cli.scenes.figurine import FigurineScene
from pds_cli.scenes.toybox import ToyboxScene
from pds_cli.toybox.cases import FIGURES, make_case
from pds_cli.toybox.world import vocabulary
from pds_cli.training.prompts import ViewDependentText, angles_of_views, encoded_prompts, idle

WORDS = [" ".join(vocabulary())]
COLUMN = "class_embedding.linear_1.weight"


def told() -> dict[str, Any]:
    return {**deepcopy(TINY_MODEL), "camera": True}


@pytest.fixture
def knowing(tiny_backbone: Path) -> Any:
    """Parts grown from the tiny backbone, with weights on the camera's numbers."""
    parts = build_components(told(), 64, WORDS)
    images = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    load_components(parts, tiny_backbone, sample=lambda: images)
    with torch.no_grad():
        weight = dict(parts.unet.named_parameters())[COLUMN]
        weight[:, -CAMERA:] = torch.randn(weight[:, -CAMERA:].shape,
                                          generator=torch.Generator().manual_seed(1))  # fmt: skip
    return parts


def test_what_is_told_is_a_direction() -> None:
    front, left, above = (camera_features(*angles) for angles in ((0, 0), (90, 0), (40, 90)))
    torch.testing.assert_close(front, torch.tensor([1.0, 0.0, 1.0, 0.0]))
    torch.testing.assert_close(left, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(above, torch.tensor([1.0, 0.0, 0.0, 1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(camera_features(-30, 10), camera_features(330, 10))
    assert len(front) == CAMERA


def test_it_begins_as_the_backbone_that_was_told_nothing(tiny_backbone: Path) -> None:
    parts = build_components(told(), 64, WORDS)
    load_components(parts, tiny_backbone, sample=lambda: torch.rand(16, 3, 64, 64) * 2 - 1)
    former, now = EmbeddedBackbone(str(tiny_backbone)), EmbeddedBackbone.of(parts)
    assert now.knows_cameras and not former.knows_cameras
    x_t, t = torch.randn(1, 16, 16, 16), torch.tensor([600])
    text = former.encode_prompt(["a robot"])
    assert former.with_camera(text, 10, 20) is text
    expected = former.predict_eps(x_t, t, text.cond)
    for seen in (
        now.encode_prompt(["a robot"]),
        now.with_camera(now.encode_prompt(["a robot"]), 50, 9),
    ):
        torch.testing.assert_close(now.predict_eps(x_t, t, seen.cond), expected)


def test_its_folder_knows_cameras_too(knowing: Any, tmp_path: Path) -> None:
    save_components(knowing, tmp_path / "saved", torch.float32)
    own, read = EmbeddedBackbone.of(knowing), EmbeddedBackbone(str(tmp_path / "saved"))
    x_t, t = torch.randn(1, 16, 16, 16), torch.tensor([600])
    texts = [b.with_camera(b.encode_prompt(["a robot"]), 70, 20) for b in (own, read)]
    a, b = (net.predict_eps(x_t, t, s.cond) for net, s in zip((own, read), texts, strict=True))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    other = own.with_camera(texts[0], 250, 20)
    assert float((own.predict_eps(x_t, t, other.cond) - a).abs().max()) > 1e-3
    assert torch.equal(other.cond["camera"], other.null["camera"])  # guidance is not of cameras


def objective(parts: Any, records: list[dict[str, Any]], drop: float) -> DenoisingObjective:
    images = torch.randint(0, 256, (len(records), 3, 64, 64), dtype=torch.uint8)
    data = CaptionedImages(images, [["a robot"]] * len(records), records)
    backbone = EmbeddedBackbone.of(parts)
    return DenoisingObjective(
        parts.unet, parts.text_encoder, parts.tokenize, parts.autoencoder, data,
        backbone.schedule, batch_size=8, drop_camera=drop,
    )  # fmt: skip


def test_training_tells_the_cameras_that_are_known(knowing: Any) -> None:
    records: list[dict[str, Any]] = [
        {"camera": {"azimuth": 90.0, "elevation": 0.0}}, {}, {"camera": {"azimuth": "left"}},
    ]  # fmt: skip
    index, draw = torch.tensor([0, 1, 2, 0]), torch.Generator().manual_seed(0)
    found = objective(knowing, records, 0.0)._cameras(index, draw)
    left, nothing = camera_features(90, 0), torch.zeros(CAMERA)
    torch.testing.assert_close(found, torch.stack([left, nothing, nothing, left]))
    many = objective(knowing, records[:1], 0.3)._cameras(torch.zeros(2000, dtype=torch.long), draw)
    assert 0.25 < float((many[:, 0] == 0).float().mean()) < 0.35
    assert float(objective(knowing, records, 1.0)._cameras(index, draw).abs().max()) == 0


def test_training_moves_what_the_camera_says(knowing: Any) -> None:
    for module in (knowing.unet, knowing.text_encoder):
        module.requires_grad_(True)
    records = [{"camera": {"azimuth": 30.0 * i, "elevation": 10.0}} for i in range(12)]
    loss = objective(knowing, records, 0.5)
    loss.begin()
    scalar, _ = loss.loss(0, 0.0, torch.Generator().manual_seed(0))
    scalar.backward()
    grad: Tensor = dict(knowing.unet.named_parameters())[COLUMN].grad
    assert bool((grad[:, -CAMERA:].abs().amax(0) > 0).all())


def test_each_view_is_told_its_own_camera(knowing: Any) -> None:
    backbone, scene = EmbeddedBackbone.of(knowing), ToyboxScene(size=64, count=6, held_out=1)
    options: Any = OmegaConf.create({"camera": True})
    angles = angles_of_views(options, scene, backbone)
    for view, camera in zip(scene.views, scene._cameras, strict=True):
        azimuth, elevation = angles[view.name]
        assert abs((azimuth - camera.azimuth + 180) % 360 - 180) < 1
        assert abs(elevation - camera.elevation) < 1
    cfg: Any = OmegaConf.create({"prompt": "a robot", "suffix": "", "negative": ""})
    prompts = encoded_prompts(cfg, "a man", backbone, {}, angles)
    assert isinstance(prompts.tgt, ViewDependentText)
    name = scene.views[2].name
    seen = prompts.tgt.by_view[name].cond["camera"][0]
    torch.testing.assert_close(seen, camera_features(*angles[name]))
    assert angles_of_views(OmegaConf.create({"camera": False}), scene, backbone) == {}  # type: ignore[arg-type]


def test_a_picture_whose_camera_is_known_is_told_too(knowing: Any) -> None:
    backbone = EmbeddedBackbone.of(knowing)
    scene = FigurineScene(camera={"azimuth": 20.0}, size=64)
    options: Any = OmegaConf.create({"camera": True})
    angles = angles_of_views(options, scene, backbone)
    assert angles == {"front": (20.0, 14.0)}
    told = {each.key for each in idle(composed("edit", ["prompt=x"]), {}, angles)}
    assert {"view_prompts.enabled", "view_prompts.words"} <= told
    assert "view_prompts.camera" not in told


def test_a_benchmark_tells_each_case_its_camera(
    knowing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, seen = EmbeddedBackbone.of(knowing), []
    cases = [make_case("wizard hat", *FIGURES[k]) for k in range(2)]
    asked = backbone.predict_eps

    def watched(x_t: Tensor, t: Tensor, cond: Any) -> Tensor:
        seen.append(cond["camera"])
        return asked(x_t, t, cond)

    monkeypatch.setattr(backbone, "predict_eps", watched)
    edit_cases(cases, backbone, DDS(guidance=2.0), RunFolder(tmp_path), steps=1, lr=0.1)
    cameras = [camera_features(c.camera.azimuth, c.camera.elevation) for c in cases]
    torch.testing.assert_close(seen[0], torch.stack(cameras).repeat(len(seen[0]) // 2, 1))


def test_an_edit_in_3d_tells_it(pds: Callable[..., Any], knowing: Any) -> None:
    pytest.importorskip("pyvista")
    save_components(knowing, Path("knowing"))
    words = ["edit", "scene=figurine", "scene.size=64", "scene.count=2", "scene.held_out=1",
             "representation=splats", "representation.budget=50", "representation.fit.steps=2",
             f"representation.fit.cache={Path('fits').resolve()}", "turntable=0", "refine=none",
             "prompt=a photo of a robot", "backbone.model=knowing", "steps=2", "render_every=0",
             "device=cpu"]  # fmt: skip
    for name, camera in (("on", "true"), ("again", "true"), ("off", "false")):
        answer = pds(*words, f"view_prompts.camera={camera}", f"out={name}")
        assert answer.code == 0, answer.err
    ends = [
        load_checkpoint(Path(run) / "exports/result.safetensors")[0]["means"]
        for run in ("on", "again", "off")
    ]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_a_recipe_trains_one(pds: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("pyvista")
    text = {part: TINY_MODEL[part] for part in ("autoencoder", "unet", "text_encoder")}
    words = [
        f"model.{part}.{key}={json.dumps(value)}".replace('"', "").replace(" ", "")
        for part, values in text.items() for key, value in values.items()
    ]  # fmt: skip
    done = pds("pretrain", *words, "model.camera=true", "stages=[denoise]", "denoise.steps=2",
               "denoise.batch_size=2", f"data.folder={tmp_path / 'toys'}", "data.images=12",
               "data.around=1", "preview.columns=1", "preview.steps=1", "into=made",
               "device=cpu")  # fmt: skip
    assert done.code == 0, done.err
    assert EmbeddedBackbone("made").knows_cameras
