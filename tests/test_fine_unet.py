"""The fine branch of a UNet: its maps, what it begins with, its files, and its training."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_MODEL
from diffusers import UNet2DConditionModel
from torch import Tensor

from pds_cli.backbones.embedded import EmbeddedBackbone, load_parts
from pds_cli.backbones.fine_unet import CHANNELS, FineBranch, FineUNet
from pds_cli.backbones.patch_autoencoder import PatchAutoencoder
from pds_cli.errors import UserError
from pds_cli.pictures.files import write_image
from pds_cli.pretraining.components import build_components, load_components, save_components
from pds_cli.pretraining.packing import pack_backbone
from pds_cli.toybox.world import vocabulary

WORDS = [" ".join(vocabulary())]


def smooth(count: int, size: int) -> Tensor:
    """Pictures [N,3,S,S] in [−1,1] that a few components tell well."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, size // 8, size // 8, generator=generator)
    return F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)


def with_branch(**autoencoder: int) -> dict[str, Any]:
    model = deepcopy(TINY_MODEL)
    model["autoencoder"] |= {"patch": 8, "latent_channels": 24, **autoencoder}
    model["unet"] |= {"fine_width": 8, "fine_blocks": 1}
    return model


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_a_fine_place_is_what_half_the_patch_makes_of_its_pixels(patch: int) -> None:
    images = smooth(16, 32)
    autoencoder = PatchAutoencoder(min(48, 3 * patch**2), patch, 8, 0)
    autoencoder.fit_components(images)
    branch = FineBranch(autoencoder.encoder.shape[0], 8, 16, 8, 1)
    branch.set_maps(autoencoder, images, 0.5)
    fine = PatchAutoencoder(min(CHANNELS, 3 * (patch // 2) ** 2), patch // 2, 8, 0)
    fine.fit_components(images, 0.5)
    latents = autoencoder.encode(images)
    seen = F.pixel_shuffle(branch.to_fine(latents), 2)[:, : fine.encoder.shape[0]]
    # Both less what a latent of 0 stands for, as the maps are linear.
    middle = autoencoder.decode_linear(torch.zeros_like(latents))
    expected = fine.encode(autoencoder.decode_linear(latents)) - fine.encode(middle)
    torch.testing.assert_close(seen, expected, rtol=1e-3, atol=1e-3)
    back = branch.from_fine(branch.to_fine(latents))
    assert float((back - latents).square().mean()) < 0.05 * float(latents.square().mean())


def test_it_begins_as_the_unet_without_it_and_then_adds_to_that(tiny_backbone: Path) -> None:
    model = deepcopy(TINY_MODEL)
    model["unet"] |= {"fine_width": 8, "fine_blocks": 2}
    parts = build_components(model, 64, WORDS)
    load_components(parts, tiny_backbone, sample=lambda: smooth(16, 64))
    former, now = EmbeddedBackbone(str(tiny_backbone)), EmbeddedBackbone.of(parts)
    text, t = former.encode_prompt(["a robot"]), torch.tensor([300])
    x_t = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = former.predict_eps(x_t, t, text.cond)
    torch.testing.assert_close(now.predict_eps(x_t, t, text.cond), expected)
    torch.nn.init.normal_(parts.unet.fine.conv_out.weight)
    assert float((now.predict_eps(x_t, t, text.cond) - expected).abs().max()) > 0.01


def test_everything_in_it_is_trained() -> None:
    parts = build_components(with_branch(), 64, WORDS)
    torch.nn.init.normal_(parts.unet.fine.conv_out.weight)
    for block in parts.unet.fine.blocks:
        torch.nn.init.normal_(block.conv_out.weight)
    tokens = torch.randn(2, 5, 32)
    found = parts.unet(torch.randn(2, 24, 8, 8), torch.tensor([3, 700]), tokens,
                       class_labels=tokens.mean(1))  # fmt: skip
    found.sample.square().mean().backward()
    assert all(bool((p.grad != 0).any()) for p in parts.unet.fine.parameters())


def test_its_folder_is_read_back_packed_or_not(tmp_path: Path) -> None:
    parts = build_components(with_branch(), 64, WORDS)
    parts.autoencoder.fit_components(smooth(16, 64))
    torch.nn.init.normal_(parts.unet.fine.conv_out.weight)
    save_components(parts, tmp_path / "plain", torch.float32)
    pack_backbone(tmp_path / "plain", tmp_path / "packed")
    own, x_t = EmbeddedBackbone.of(parts), torch.randn(1, 24, 8, 8)
    for name, close in (("plain", 1e-5), ("packed", 0.05)):
        read = EmbeddedBackbone(str(tmp_path / name))
        unet: Any = read.unet
        assert isinstance(unet, FineUNet) and unet.config.fine_width == 8
        text = read.encode_prompt(["a robot"])
        a, b = (net.predict_eps(x_t, torch.tensor([500]), text.cond) for net in (own, read))
        assert float((a - b).square().mean()) <= close**2 * float(a.square().mean())
    plain: Any = build_components(TINY_MODEL, 64, WORDS).unet
    assert "fine_width" not in plain.config
    assert type(plain) is UNet2DConditionModel


def test_a_source_beside_the_latents_is_not_the_branch_s() -> None:
    parts = build_components(with_branch(), 64, WORDS, image_inputs=2)
    tokens, t = torch.randn(1, 5, 32), torch.tensor([3])
    found = parts.unet(torch.randn(1, 48, 8, 8), t, tokens, class_labels=tokens.mean(1)).sample
    assert found.shape == (1, 24, 8, 8)


def test_sizes_that_fit_nothing_get_a_sentence(pds: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="patches of even size"):
        build_components(with_branch(patch=1, latent_channels=3), 64, WORDS)
    refused = pds("pretrain", "model.unet.fine_width=-1", "out=refused")
    assert refused.code == 2 and "fine_width" in refused.err and not Path("refused").exists()


def test_the_branch_alone_is_trained_where_that_is_asked_for(
    pds: Callable[..., Any], tmp_path: Path, tiny_backbone: Path
) -> None:
    lines = []
    for i, image in enumerate(smooth(12, 128)):
        write_image(tmp_path / f"{i}.png", (image + 1) / 2)
        lines.append(json.dumps({"file": f"{i}.png", "caption": " ".join(vocabulary())}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    model = with_branch()
    words = [
        f"model.{part}.{key}={json.dumps(value)}".replace('"', "").replace(" ", "")
        for part in ("autoencoder", "unet", "text_encoder")
        for key, value in model[part].items()
    ]
    given = ["stages=[denoise]", f"data.folder={tmp_path}", "data.toybox=false", "size=128",
             "denoise.trains=branch", "denoise.steps=2", "denoise.batch_size=2", "device=cpu",
             "preview.columns=1", "preview.steps=1", "into=made"]  # fmt: skip
    given.append(f"init={tiny_backbone}")
    done = pds("pretrain", *given, *words)
    assert done.code == 0, done.err
    before, after = load_parts(tiny_backbone), load_parts(Path("made"))
    state = after["unet"].state_dict()
    assert float(state["fine.conv_out.weight"].abs().max()) > 0
    for name, value in before["unet"].state_dict().items():
        if not name.startswith(("conv_in.", "conv_out.")):  # which grew
            assert torch.equal(state[name], value), name
    text = after["text_encoder"].state_dict()
    for name, value in before["text_encoder"].state_dict().items():
        assert torch.equal(text[name], value), name
    refused = pds("pretrain", *given, *words, "model.unet.fine_width=0", "out=refused")
    assert refused.code == 2 and "denoise.trains=branch" in refused.err
    assert not Path("refused").exists()
