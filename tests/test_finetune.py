"""`pds finetune`: DreamBooth on embedded backbones and on Stable-Diffusion-format folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_pipelines import build_pipeline
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.stable_diffusion import StableDiffusion
from pds_cli.pictures.files import write_image
from pds_cli.pretraining.dreambooth import DreamBoothObjective, read_pictures, trainable_unet
from pds_cli.runs.checkpoint import load_checkpoint

SUBJECT, CLASS = "a photo of sks man", "a photo of a man"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three alike pictures of one subject, one of them wide."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for i, (height, width) in enumerate([(64, 64), (64, 96), (80, 64)]):
        image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
        write_image(folder / f"{i}.png", (image + 0.02 * i).clamp(0, 1))
    (folder / "notes.txt").write_text("not a picture")
    return folder


@torch.no_grad()
def error(backbone: Backbone, images: Tensor, prompt: str) -> float:
    """Mean squared error of ε̂ over fixed draws of t and ε."""
    generator = torch.Generator().manual_seed(0)
    x0 = backbone.encode_image(images).repeat(16, 1, 1, 1)
    t = torch.randint(100, 900, (len(x0),), generator=generator)
    eps = torch.randn(x0.shape, generator=generator)
    text = backbone.encode_prompt([prompt]).expand(len(x0))
    found = backbone.predict_eps(backbone.add_noise(x0, t, eps), t, text.cond)
    return float((found - eps).square().mean())


def words(pictures: Path, *more: str) -> list[str]:
    fixed = ["finetune", f"images={pictures}", f"prompt={SUBJECT}", "batch_size=4", "device=cpu"]
    return [*fixed, *more]


def test_a_subject_is_learnt(
    pds: Callable, tiny_backbone: Path, pictures: Path, tmp_path: Path
) -> None:
    done = pds(
        *words(pictures, f"backbone.model={tiny_backbone}", "steps=120", "lr=0.01", "out=run")
    )
    assert done.code == 0, done.err
    before = EmbeddedBackbone(str(tiny_backbone), device="cpu")
    after = EmbeddedBackbone(str(tmp_path / "run" / "backbone"), device="cpu")
    assert list(before.unknown_words(SUBJECT)) == ["sks"] and not after.unknown_words(SUBJECT)
    images = read_pictures(str(pictures), 64)
    assert images.shape == (3, 3, 64, 64)
    assert error(after, images, SUBJECT) < 0.9 * error(before, images, SUBJECT)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["new_words"] == ["sks"] and summary["status"] == "done"
    assert (tmp_path / "run" / "samples.png").is_file()
    # What the prompt did not name is read as before.
    one, two = (b.encode_prompt([CLASS]).cond["tokens"] for b in (before, after))
    torch.testing.assert_close(one, two, rtol=0, atol=5e-3)
    edited = pds(
        *("edit", "scene=figurine2d", f"source={SUBJECT}", f"prompt={SUBJECT} with a hat"),
        *("backbone.model=run/backbone", "steps=1", "out=edited"),
    )
    assert edited.code == 0, edited.err
    assert "never saw the word" not in edited.err


@pytest.mark.parametrize("method", ["lora", "full"])
def test_only_what_is_trained_changes(method: str, tiny_backbone: Path) -> None:
    backbone = EmbeddedBackbone(str(tiny_backbone), device="cpu")
    held = {k: v.clone() for k, v in backbone.named_parameters()}
    unet = trainable_unet(backbone, method, 2)
    x0 = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    text = backbone.encode_prompt([CLASS])
    objective = DreamBoothObjective(backbone, unet, x0, text, batch_size=2)
    (group,) = objective.parameter_groups()
    optimizer = torch.optim.SGD(group["params"], lr=0.1)
    scalar, logs = objective.loss(0, 0.0, torch.Generator().manual_seed(0))
    assert logs["subject"] == pytest.approx(float(scalar.detach()))
    scalar.backward()
    optimizer.step()
    trained = {id(p) for p in group["params"]}
    changed = [k for k, p in backbone.named_parameters() if k in held and id(p) not in trained]
    for name, parameter in backbone.named_parameters():
        if name in changed:
            torch.testing.assert_close(parameter, held[name], rtol=0, atol=0)
    names = set(objective.state_dict())
    assert all(("lora" in name) == (method == "lora") for name in names)


def test_the_prior_is_preserved(
    pds: Callable, tiny_backbone: Path, pictures: Path, tmp_path: Path
) -> None:
    """With its class at its side, the subject leaves the class's own pictures more alone."""
    common = [f"backbone.model={tiny_backbone}", "steps=60", "lr=0.01"]
    kept = pds(*words(pictures, *common, f"class_prompt={CLASS}", "class_images=4", "out=kept"))
    assert kept.code == 0, kept.err
    assert pds(*words(pictures, *common, "out=plain")).code == 0
    before = EmbeddedBackbone(str(tiny_backbone), device="cpu")
    from pds_cli.backbones.sampling import sample

    images = sample(before, CLASS, 4, guidance=6.0)
    errors = {
        name: error(
            EmbeddedBackbone(str(tmp_path / name / "backbone"), device="cpu"), images, CLASS
        )
        for name in ("kept", "plain")
    }
    assert errors["kept"] < errors["plain"]
    assert (tmp_path / "kept" / "class.png").is_file()


def test_a_stopped_run_goes_on(
    pds: Callable,
    stopping: Callable[[str, int], None],
    tiny_backbone: Path,
    pictures: Path,
    tmp_path: Path,
) -> None:
    more = [f"backbone.model={tiny_backbone}", "steps=4", "lr=0.01"]
    assert pds(*words(pictures, *more, "out=whole")).code == 0
    stopping("finetune", 2)
    assert pds(*words(pictures, *more, "out=part")).code != 0
    assert not (tmp_path / "part" / "backbone").exists()
    assert pds("finetune", "resume=part").code == 0
    one, two = (
        load_checkpoint(tmp_path / x / "checkpoint.safetensors")[0] for x in ("whole", "part")
    )
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key])


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_stable_diffusion_folder(
    method: str, pds: Callable, pictures: Path, tmp_path: Path
) -> None:
    pipeline = build_pipeline("sd1", tmp_path / "tokenizers")
    pipeline.save_pretrained(tmp_path / "model")
    done = pds(
        *words(pictures, "backbone=local", f"backbone.model={tmp_path}/model", "steps=30"),
        *(f"method={method}", "lr=0.003", "out=run"),
    )
    assert done.code == 0, done.err
    before = StableDiffusion(str(tmp_path / "model"), device="cpu")
    after = StableDiffusion(str(tmp_path / "run" / "backbone"), device="cpu")
    images = read_pictures(str(pictures), before.resolution)
    assert error(after, images, SUBJECT) < error(before, images, SUBJECT)
    for part in ("vae", "text_encoders"):
        one, two = (getattr(b, part).state_dict() for b in (before, after))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_lora_learns_in_single_precision_beside_weights_in_half(
    pds: Callable, pictures: Path, tmp_path: Path
) -> None:
    build_pipeline("sd1", tmp_path / "tokenizers").save_pretrained(tmp_path / "model")
    done = pds(
        *words(pictures, "backbone=local", f"backbone.model={tmp_path}/model", "steps=10"),
        *("backbone.dtype=float16", "lr=0.003", "out=run"),
    )
    assert done.code == 0, done.err
    state = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")[0]
    lora = {key: value for key, value in state.items() if "lora" in key}
    assert lora and all(value.dtype == torch.float32 for value in lora.values())
    before = StableDiffusion(str(tmp_path / "model"), device="cpu")
    after = StableDiffusion(str(tmp_path / "run" / "backbone"), device="cpu")
    images = read_pictures(str(pictures), before.resolution)
    assert error(after, images, SUBJECT) < error(before, images, SUBJECT)


@pytest.mark.parametrize(
    ("more", "right"),
    [
        (["lr=1e30", "steps=1"], "no finite numbers: give a lower lr="),
        (["rank=100000"], "rank=100000 is more than the "),
        (["warmup=-3"], "warmup=-3 is out of range"),
        (["images=nowhere"], "images=nowhere is no folder"),
        (["method=half"], "choose one of lora, full"),
        ([f"class_prompt={SUBJECT}"], "prompt must say more than class_prompt"),
        (["backbone=mixture"], "no UNet to finetune|draws no images|mixture"),
        (["rank=0"], "rank=0"),
    ],
)
def test_bad_words_get_a_sentence(
    pds: Callable, pictures: Path, tmp_path: Path, more: list[str], right: str
) -> None:
    import re

    found = pds(*words(pictures, *more, f"out={tmp_path}/run"))
    assert found.code == 2, found.err
    assert re.search(right, found.err) and "Traceback" not in found.err
    assert not (tmp_path / "run" / "backbone").exists()
