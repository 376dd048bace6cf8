"""The embedded backbone and its autoencoder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pds_cli.backbones.embedded import PACKAGED, EmbeddedBackbone, words_of
from pds_cli.backbones.patch_autoencoder import PatchAutoencoder
from pds_cli.errors import UserError
from pds_cli.options.view_prompts import VIEW_WORDS
from pds_cli.pretraining.components import (
    MAX_WORDS,
    Components,
    build_components,
    build_tokenizer,
    cosine_alphas_cumprod,
    save_components,
)

MAX_BYTES = 40_000_000


@pytest.fixture(scope="module")
def backbone(tiny_backbone: Path) -> EmbeddedBackbone:
    return EmbeddedBackbone(str(tiny_backbone), device="cpu")


@pytest.fixture(scope="module")
def autoencoder(gallery_images: Any) -> PatchAutoencoder:
    fitted = PatchAutoencoder(latent_channels=12, patch=4, width=16, blocks=1)
    fitted.fit_components(gallery_images * 2 - 1)
    return fitted.double().eval()


@pytest.fixture(scope="module")
def images(gallery_images: Any) -> torch.Tensor:
    return (gallery_images * 2 - 1).double()


# --- autoencoder ---------------------------------------------------------------------------------


def test_encoding_is_linear(autoencoder: PatchAutoencoder, images: torch.Tensor) -> None:
    a, b = images[:4], images[4:]
    mixed = autoencoder.encode(0.3 * a + 0.7 * b)
    apart = 0.3 * autoencoder.encode(a) + 0.7 * autoencoder.encode(b)
    torch.testing.assert_close(mixed, apart, rtol=0, atol=1e-12)
    assert mixed.shape == (4, 12, 16, 16)


def test_linear_decoding_is_the_pseudo_inverse(
    autoencoder: PatchAutoencoder, images: torch.Tensor
) -> None:
    latents = torch.randn(2, 12, 5, 3, dtype=torch.float64)
    back = autoencoder.encode(autoencoder.decode_linear(latents))
    torch.testing.assert_close(back, latents, rtol=0, atol=1e-5)  # fitted in float32
    # The other way round it is a projection, orthogonal to what it leaves out.
    projected = autoencoder.decode_linear(autoencoder.encode(images))
    again = autoencoder.decode_linear(autoencoder.encode(projected))
    torch.testing.assert_close(again, projected, rtol=0, atol=1e-5)
    mean = autoencoder.decode_linear(torch.zeros(1, 12, 16, 16, dtype=torch.float64))
    cosine = torch.nn.functional.cosine_similarity(
        (images - projected).flatten(), (projected - mean).flatten(), dim=0
    )
    assert abs(float(cosine)) < 1e-4


def test_principal_components_beat_any_other_basis(
    autoencoder: PatchAutoencoder, images: torch.Tensor
) -> None:
    def error(model: PatchAutoencoder) -> float:
        return float((model.decode_linear(model.encode(images)) - images).square().mean())

    best = error(autoencoder)
    for seed in range(5):
        basis, _ = torch.linalg.qr(
            torch.randn(48, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        )
        other = PatchAutoencoder(latent_channels=12, patch=4, width=16, blocks=1).double()
        other.mean.copy_(autoencoder.mean)
        other.encoder.copy_(basis.T)
        other.decoder.copy_(basis)
        assert best < 0.5 * error(other)


@pytest.mark.parametrize("whiten", [0.0, 0.5, 1.0])
def test_latents_have_unit_variance(images: torch.Tensor, whiten: float) -> None:
    model = PatchAutoencoder(latent_channels=12, patch=4, width=16, blocks=1)
    model.fit_components(images, whiten)
    latents = model.double().encode(images)
    std = latents.movedim(1, -1).flatten(0, -2).std(0)
    assert float(std.square().mean()) == pytest.approx(1, rel=1e-3)
    assert std.tolist() == sorted(std.tolist(), reverse=True) or whiten == 1.0
    if whiten == 1.0:
        torch.testing.assert_close(std, torch.ones_like(std), rtol=1e-3, atol=0)


def test_components_do_not_depend_on_the_order_of_the_pictures(images: torch.Tensor) -> None:
    def fitted(shown: torch.Tensor) -> PatchAutoencoder:
        model = PatchAutoencoder(latent_channels=12, patch=4, width=16, blocks=1)
        model.fit_components(shown)
        return model

    one, other = fitted(images), fitted(images.flip(0))
    torch.testing.assert_close(one.encoder, other.encoder, rtol=1e-4, atol=1e-4)
    largest = one.encoder.gather(1, one.encoder.abs().argmax(1, keepdim=True))
    assert bool((largest > 0).all())


def test_an_untrained_decoder_is_the_linear_one(
    autoencoder: PatchAutoencoder, images: torch.Tensor
) -> None:
    latents = autoencoder.encode(images)
    assert torch.equal(autoencoder.decode(latents), autoencoder.decode_linear(latents))


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_patch_sizes(patch: int) -> None:
    model = PatchAutoencoder(latent_channels=5, patch=patch, width=24, blocks=1)
    model.fit_components(torch.rand(4, 3, 16, 16) * 2 - 1)
    latents = model.encode(torch.zeros(1, 3, 16, 16))
    assert latents.shape == (1, 5, 16 // patch, 16 // patch)
    assert model.decode(latents).shape == (1, 3, 16, 16)


# --- the folder ----------------------------------------------------------------------------------


def test_a_saved_backbone_is_the_one_that_was_built(
    backbone: EmbeddedBackbone, tiny_components: Any
) -> None:
    live = EmbeddedBackbone.of(tiny_components)
    text, live_text = (b.encode_prompt(["a man in red", "a robot"]) for b in (backbone, live))
    torch.testing.assert_close(text.cond["tokens"], live_text.cond["tokens"], rtol=0, atol=2e-2)
    x_t, t = torch.randn(2, 16, 16, 16), torch.tensor([30, 900])
    with torch.no_grad():
        a, b = (m.predict_eps(x_t, t, s.cond) for m, s in ((backbone, text), (live, live_text)))
    torch.testing.assert_close(a, b, rtol=0, atol=2e-2)  # weights are stored as float16
    torch.testing.assert_close(
        backbone.schedule.alphas_cumprod,
        tiny_components.alphas_cumprod.float(),
        rtol=1e-4,
        atol=1e-6,
    )
    assert not backbone.training
    assert not any(p.requires_grad for p in backbone.parameters())


def test_noise_is_derived_from_the_velocity(
    backbone: EmbeddedBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the true v, less the linear guess, ε comes back: ε = √ᾱ v + √(1−ᾱ) x_t."""
    x0, eps, t = torch.randn(3, 16, 16, 16), torch.randn(3, 16, 16, 16), torch.tensor([0, 400, 999])
    alpha = backbone.schedule.alphas_cumprod[t].reshape(-1, 1, 1, 1)
    x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps
    v = alpha.sqrt() * eps - (1 - alpha).sqrt() * x0

    spread = backbone.vae.spread
    assert spread is not None
    _, skip, out = backbone.schedule.preconditioning(t, x_t, spread)

    class Answer:
        sample = (v - skip * x_t) / out

    monkeypatch.setattr(backbone.unet, "forward", lambda *_, **__: Answer)
    found = backbone.predict_eps(x_t, t, backbone.encode_prompt(["a man"] * 3).cond)
    torch.testing.assert_close(found, eps, rtol=0, atol=1e-5)


def test_images_and_latents(backbone: EmbeddedBackbone, gallery_images: torch.Tensor) -> None:
    assert backbone.resolution == 64
    assert backbone.image_size(480, 640) == (64, 64)
    image = gallery_images.clone().requires_grad_()
    x0 = backbone.encode_image(image)
    assert x0.shape == (8, 16, 16, 16)
    assert 0.5 < float(x0.detach().std()) < 2
    back = backbone.decode_latent(x0)
    assert float((back - gallery_images).detach().square().mean()) < 0.01
    back.sum().backward()
    assert image.grad is not None and bool(image.grad.any())


def test_the_null_prompt_is_the_negative_one(backbone: EmbeddedBackbone) -> None:
    text = backbone.encode_prompt(["a man", "a bear"], negative="a robot")
    robot = backbone.encode_prompt(["a robot"])
    for row in text.null["tokens"]:
        torch.testing.assert_close(row, robot.cond["tokens"][0])
    assert not torch.allclose(text.cond["tokens"][0], text.cond["tokens"][1])


def test_words(backbone: EmbeddedBackbone) -> None:
    assert words_of("A man, SMILING (close-up)!") == ["a", "man", "smiling", "close", "up"]
    plain, loud = backbone.token_ids(["a man in red", "A MAN -- in; red!!"])
    assert torch.equal(plain, loud)
    assert backbone.unknown_words("a robott in red, a robott") == {
        "robott": backbone.unknown_words("robott")["robott"]
    }
    assert backbone.unknown_words("robott")["robott"][0] == "robot"
    assert backbone.unknown_words("") == {}
    assert backbone.unknown_words("[PAD]").keys() == {"pad"}, "special tokens are no words"
    long = backbone.token_ids(["man " * 200, ""])
    assert long.shape == (2, MAX_WORDS + 2)


def test_a_tokenizer_of_any_language() -> None:
    tokenizer = build_tokenizer(["Ein Größerer Hut", "名前"])
    assert {"größerer", "名前", "hut"} <= set(tokenizer.get_vocab())


@pytest.mark.parametrize("shift", [0.0, -1.386])
def test_the_noise_schedule(shift: float) -> None:
    alphas = cosine_alphas_cumprod(1000, shift)
    assert alphas.shape == (1000,)
    assert bool((alphas[1:] <= alphas[:-1]).all())
    assert 0 < float(alphas[-1]) < 1e-4 and 1 - 1e-4 < float(alphas[0]) < 1
    middle = torch.logit((alphas[499] + alphas[500]) / 2)
    assert float(middle) == pytest.approx(shift, abs=0.01)


def test_writing_replaces_the_parts_and_nothing_else(tiny_components: Any, tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet/stale.bin").touch()
    for name in ("probe.safetensors", "photo.png"):
        (folder / name).write_text("mine")
    save_components(tiny_components, folder)
    EmbeddedBackbone(str(folder), device="cpu")
    assert not (folder / "unet/stale.bin").exists()
    assert (folder / "probe.safetensors").read_text() == "mine"
    assert (folder / "photo.png").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["holiday"]


def test_a_picture_size_that_does_not_fit() -> None:
    from conftest import TINY_MODEL

    with pytest.raises(UserError, match="size=20 does not divide by 8"):
        build_components(TINY_MODEL, 20, ["a"])


# --- damage --------------------------------------------------------------------------------------


def test_no_backbone_there(tmp_path: Path) -> None:
    for model in (str(tmp_path), str(tmp_path / "none"), "nonesuch"):
        with pytest.raises(UserError, match="holds no backbone; write one with pds pretrain"):
            EmbeddedBackbone(model)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("unet/diffusion_pytorch_model.safetensors", b"\0" * 100),
        ("unet/diffusion_pytorch_model.safetensors", None),
        ("unet/config.json", b"{}"),
        ("vae/config.json", b"{not json"),
        ("text_encoder/model.safetensors", b""),
        ("tokenizer", None),
        ("scheduler/scheduler_config.json", None),
    ],
)
def test_a_damaged_backbone(
    tiny_backbone: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_backbone, folder)
    path = folder / name
    if content is not None:
        path.write_bytes(content)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(UserError) as caught:
        EmbeddedBackbone(str(folder), device="cpu")
    assert "is damaged" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_where_there_is_none(tiny_backbone: Path) -> None:
    with pytest.raises(UserError, match=r"device=cuda:1 .* no CUDA"):
        EmbeddedBackbone(str(tiny_backbone), device="cuda:1")


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("toybox", "a photo of a man wearing a wizard hat"),
        ("emoji", "a smiling face with sunglasses"),
    ],
)
def test_the_shipped_weights_are_small(name: str, prompt: str) -> None:
    weights = list((PACKAGED / name).rglob("*.safetensors"))
    assert weights
    assert sum(path.stat().st_size for path in weights) <= MAX_BYTES
    assert EmbeddedBackbone(name, device="cpu").unknown_words(prompt) == {}


def test_a_tokenizers_file_does_not_depend_on_its_last_call(
    tiny_components: Components, tmp_path: Path
) -> None:
    """It keeps how it last cut and padded; a run that was resumed may not have called it."""
    backend = tiny_components.tokenizer.backend_tokenizer
    backend.no_padding()
    save_components(tiny_components, tmp_path / "before")
    tiny_components.tokenize(["a man"])
    assert backend.padding is not None
    save_components(tiny_components, tmp_path / "after")
    one, other = (tmp_path / name / "tokenizer/tokenizer.json" for name in ("before", "after"))
    assert one.read_bytes() == other.read_bytes()


def test_what_ships_draws_128_pixels_and_knows_from_where_it_looks() -> None:
    backbone = EmbeddedBackbone("toybox")
    assert (backbone.resolution, backbone.latent_shape) == (128, (48, 16, 16))
    assert backbone.knows_cameras
    for words in VIEW_WORDS.values():
        assert backbone.unknown_words(f"a photo of a man, {words}") == {}
