"""A backbone that grows: larger pictures and further words, on top of what it knew."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_MODEL
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.patch_autoencoder import PatchAutoencoder
from pds_cli.errors import UserError
from pds_cli.pictures.captioned import load_captioned_images
from pds_cli.pretraining.components import build_components, load_components, save_components
from pds_cli.pretraining.recipe import Recipe
from pds_cli.toybox.world import vocabulary


def smooth(count: int, size: int, seed: int = 0) -> Tensor:
    """Pictures [N,3,S,S] in [−1,1] with something at every scale, less at the finer ones."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(count, 3, size, size)
    for scale in (1, 2, 4, 8, 16):
        noise = torch.randn(count, 3, size // scale, size // scale, generator=generator)
        picture += scale**0.5 * F.interpolate(noise, (size, size), mode="bilinear")
    return (picture / picture.abs().max()).clamp(-1, 1)


@pytest.mark.parametrize("times", [1, 2, 4])
def test_latents_grow_from_those_of_smaller_pictures(times: int) -> None:
    images = smooth(48, 16 * times)
    small = F.avg_pool2d(images, times)
    former = PatchAutoencoder(7, 4, 24, 0)
    former.fit_components(small, whiten=0.5)
    grown = PatchAutoencoder(19, 4 * times, 24, 0)
    grown.grow_components(former, images, whiten=0.5)
    latents = grown.encode(images)
    torch.testing.assert_close(latents[:, :7], former.encode(small), rtol=1e-4, atol=1e-5)
    decoded = grown.decode_linear(latents)
    torch.testing.assert_close(grown.encode(decoded), latents, rtol=1e-4, atol=1e-4)
    before = F.interpolate(former.decode_linear(former.encode(small)), scale_factor=times)
    assert (decoded - images).square().mean() < 0.7 * (before - images).square().mean()
    # What is new is scaled by the law of what was there: the less spread, the more gain.
    spread = latents.std((0, 2, 3))
    assert bool((spread[7:].diff() <= 1e-5).all()) and float(spread[7]) <= 1.3 * float(spread[6])


def test_components_of_the_same_size_are_principal_ones() -> None:
    """Growing from no channel of use is fitting: nothing is lost to what was known."""
    images = smooth(32, 16)
    fitted, former = PatchAutoencoder(9, 4, 24, 0), PatchAutoencoder(4, 4, 24, 0)
    fitted.fit_components(images)
    former.fit_components(images)
    grown = PatchAutoencoder(9, 4, 24, 0)
    grown.grow_components(former, images)
    same = [maker.decode_linear(maker.encode(images)) for maker in (fitted, grown)]
    torch.testing.assert_close(same[0], same[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("patch", "channels"), [(6, 12), (2, 12), (8, 3)])
def test_latents_that_cannot_grow(patch: int, channels: int) -> None:
    former = PatchAutoencoder(4, 4, 24, 0)
    former.fit_components(smooth(8, 24))
    with pytest.raises(ValueError, match="grow from smaller patches"):
        PatchAutoencoder(channels, patch, 24, 0).grow_components(former, smooth(8, 24))


def larger(**autoencoder: int) -> dict[str, Any]:
    model = deepcopy(TINY_MODEL)
    model["autoencoder"] |= {"patch": 8, "latent_channels": 24, **autoencoder}
    return model


def test_a_grown_backbone_begins_with_what_it_knew(tiny_backbone: Path) -> None:
    parts = build_components(larger(), 128, [" ".join(["zeppelin", "aside", *vocabulary()])])
    images = smooth(32, 128)
    load_components(parts, tiny_backbone, sample=lambda: images)
    former, grown = EmbeddedBackbone(str(tiny_backbone)), EmbeddedBackbone.of(parts)
    assert grown.resolution == 128 and former.resolution == 64
    prompts = ["a photo of a robot in green", "a snowman"]
    known, text = former.encode_prompt(prompts), grown.encode_prompt(prompts)
    torch.testing.assert_close(text.cond["pooled"], known.cond["pooled"])
    assert not grown.unknown_words("a zeppelin aside") and former.unknown_words("a zeppelin")
    x_t = torch.randn(2, 24, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([100, 700])
    expected = former.predict_eps(x_t[:, :16], t, known.cond)
    torch.testing.assert_close(
        grown.predict_eps(x_t, t, text.cond)[:, :16], expected, rtol=1e-4, atol=1e-4
    )


def test_only_a_run_with_pictures_grows(tiny_backbone: Path) -> None:
    words = [" ".join(vocabulary())]
    with pytest.raises(UserError, match="another size"):
        load_components(build_components(larger(), 128, words), tiny_backbone)
    more = build_components(TINY_MODEL, 64, [*words, "zeppelin"])
    with pytest.raises(UserError, match="reads other words"):
        load_components(more, tiny_backbone)
    # A word that the pictures' captions lack would be lost.
    fewer = build_components(TINY_MODEL, 64, [" ".join(vocabulary()[1:])])
    with pytest.raises(UserError, match="reads other words"):
        load_components(fewer, tiny_backbone, sample=lambda: smooth(8, 64))
    with pytest.raises(UserError, match="another size"):  # fewer channels than it has
        narrow = build_components(larger(latent_channels=8), 128, words)
        load_components(narrow, tiny_backbone, sample=lambda: smooth(8, 128))


def test_a_model_by_instruction_does_not_grow(tmp_path: Path) -> None:
    words = ["a red square"]
    save_components(build_components(TINY_MODEL, 64, words, image_inputs=2), tmp_path / "pairs")
    parts = build_components(larger(), 128, words, image_inputs=2)
    with pytest.raises(UserError, match="another size"):
        load_components(parts, tmp_path / "pairs", sample=lambda: smooth(8, 128))


def test_a_recipe_grows_what_it_begins_with(tmp_path: Path) -> None:
    """`init` of smaller pictures and fewer words, as `pds pretrain` builds its parts."""

    def recipe(pictures: Path, size: int, model: dict[str, Any], init: Path | None) -> Recipe:
        node = {"stages": ["decode"], "device": "cpu", "seed": 0, "size": size, "model": model}
        cfg = OmegaConf.create({**node, "init": init and str(init)})
        return Recipe(cfg, load_captioned_images(pictures, size))

    lines = []
    for i, image in enumerate(smooth(12, 32)):
        pixels = ((image + 1) * 127.5).round().byte().movedim(0, -1).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"file": f"{i}.png", "caption": "a cloud"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    first = recipe(tmp_path, 16, TINY_MODEL, None).parts
    save_components(first, tmp_path / "backbone")
    more = [line.replace("a cloud", "a cloud seen aside") for line in lines]
    (tmp_path / "captions.jsonl").write_text("\n".join(more))
    grown = recipe(tmp_path, 32, larger(), tmp_path / "backbone").parts
    images = load_captioned_images(tmp_path, 32).batch(torch.arange(12))
    torch.testing.assert_close(
        grown.autoencoder.encode(images)[:, :16],
        first.autoencoder.encode(F.avg_pool2d(images, 2)),
        rtol=1e-2,
        atol=1e-2,
    )
