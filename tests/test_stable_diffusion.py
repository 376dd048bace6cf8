"""The Stable-Diffusion-format backbone, on tiny random pipelines saved in diffusers format."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_pipelines import (
    LENGTH,
    build_pipeline,
    build_unet,
    build_vae,
)
from torch import Tensor

from pds_cli.backbones import diffusers_folder
from pds_cli.backbones.stable_diffusion import StableDiffusion
from pds_cli.errors import UserError
from pds_cli.losses.base import Loss
from pds_cli.losses.dds import DDS
from pds_cli.losses.pds import PDS
from pds_cli.losses.sds import SDS

GOLDEN = Path(__file__).parent / "golden" / "stable_diffusion.json"
KINDS = ("sd1", "sd2", "sdxl")
HUB_ID = "nobody-here/no-such-model"


Saved = dict[str, tuple[Any, Path]]


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    saved: Saved = {}
    for kind in KINDS:
        root = tmp_path_factory.mktemp(kind)
        pipeline = build_pipeline(kind, root / "tokenizers")
        pipeline.set_progress_bar_config(disable=True)
        pipeline.save_pretrained(root / "model")
        saved[kind] = (pipeline, root / "model")
    return saved


@pytest.fixture(scope="session")
def backbones(pipelines: Saved) -> dict[str, StableDiffusion]:
    return {kind: StableDiffusion(str(pipelines[kind][1]), device="cpu") for kind in KINDS}


@pytest.fixture
def copy_of(pipelines: Saved, tmp_path: Path) -> Callable[[str], Path]:
    def copy(kind: str) -> Path:
        return Path(shutil.copytree(pipelines[kind][1], tmp_path / kind))

    return copy


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# -- agreement with diffusers --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_embeddings_equal_the_pipelines_own(
    kind: str, pipelines: Saved, backbones: dict[str, StableDiffusion]
) -> None:
    pipeline, prompts = pipelines[kind][0], ["a man", "a very long bag of words it is"]
    ours = backbones[kind].encode_prompt(prompts, negative="bad")
    with torch.no_grad():
        if kind == "sdxl":
            tokens, null, pooled, null_pooled = pipeline.encode_prompt(
                prompts, negative_prompt=["bad"] * 2, device="cpu"
            )
            torch.testing.assert_close(ours.cond["pooled"], pooled)
            torch.testing.assert_close(ours.null["pooled"], null_pooled)
        else:
            tokens, null = pipeline.encode_prompt(
                prompts, "cpu", 1, True, negative_prompt=["bad"] * 2
            )
    torch.testing.assert_close(ours.cond["tokens"], tokens)
    torch.testing.assert_close(ours.null["tokens"], null)
    assert not torch.allclose(tokens[0], tokens[1])


def test_sdxl_empty_negative_prompt_is_all_zeros_as_in_the_pipeline(
    pipelines: Saved, backbones: dict[str, StableDiffusion]
) -> None:
    _, null, _, null_pooled = pipelines["sdxl"][0].encode_prompt(["a man"], device="cpu")
    ours = backbones["sdxl"].encode_prompt(["a man"])
    assert torch.equal(ours.null["tokens"], null) and not null.any()
    assert torch.equal(ours.null["pooled"], null_pooled)


def test_sdxl_without_forced_zeros_encodes_the_empty_prompt(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("sdxl")
    index = json.loads((folder / "model_index.json").read_text())
    index["force_zeros_for_empty_prompt"] = False
    (folder / "model_index.json").write_text(json.dumps(index))
    text = StableDiffusion(str(folder), device="cpu").encode_prompt(["a man"])
    assert text.null["tokens"].abs().sum() > 0 and text.null["pooled"].abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_eps_equals_the_unets_own_output_per_sample(
    kind: str, pipelines: Saved, backbones: dict[str, StableDiffusion]
) -> None:
    pipeline, backbone = pipelines[kind][0], backbones[kind]
    x_t, t = noise(3, 4, 8, 8), torch.tensor([21, 501, 999])
    text = backbone.encode_prompt(["a man", "a hat", "b"])
    added = None
    if kind == "sdxl":
        # 8 latent pixels × 4 = 32; the pipeline orders (original, crop corner, target).
        ids = pipeline._get_add_time_ids((32, 32), (0, 0), (32, 32), torch.float32, 12)
        added = {"text_embeds": text.cond["pooled"], "time_ids": ids.expand(3, 6)}
    with torch.no_grad():
        raw = pipeline.unet(
            x_t, t, encoder_hidden_states=text.cond["tokens"], added_cond_kwargs=added
        ).sample
        eps = backbone.predict_eps(x_t, t, text.cond)
    if kind == "sd2":
        raw = eps_from_v_by_scheduler(pipeline.scheduler, raw, t, x_t)
    torch.testing.assert_close(eps, raw, rtol=1e-4, atol=1e-5)


def eps_from_v_by_scheduler(scheduler: Any, v: Tensor, t: Tensor, x_t: Tensor) -> Tensor:
    """ε from the scheduler's own x̂_0, by x_t = √ᾱ x̂_0 + √(1−ᾱ) ε."""
    scheduler.set_timesteps(1000)
    found = []
    for i in range(len(t)):
        x0 = scheduler.step(v[i], int(t[i]), x_t[i]).pred_original_sample
        alpha = scheduler.alphas_cumprod[t[i]]
        found.append((x_t[i] - alpha.sqrt() * x0) / (1 - alpha).sqrt())
    return torch.stack(found)


def test_x0_prediction_is_converted(copy_of: Callable[[str], Path], pipelines: Saved) -> None:
    folder = copy_of("sd1")
    config_file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps({**config, "prediction_type": "sample"}))
    backbone = StableDiffusion(str(folder), device="cpu")
    x_t, t = noise(2, 4, 8, 8), torch.tensor([100, 800])
    text = backbone.encode_prompt(["a", "b"])
    with torch.no_grad():
        x0 = pipelines["sd1"][0].unet(x_t, t, text.cond["tokens"]).sample
        eps = backbone.predict_eps(x_t, t, text.cond)
    torch.testing.assert_close(backbone.add_noise(x0, t, eps), x_t, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_classifier_free_guidance_mixes_both_branches(
    kind: str, backbones: dict[str, StableDiffusion]
) -> None:
    backbone = backbones[kind]
    x_t, t = noise(2, 4, 8, 8), torch.tensor([50, 500])
    text = backbone.encode_prompt(["a man", "a hat"], negative="fog")
    with torch.no_grad():
        full = backbone.predict_eps(x_t, t, text.cond)
        null = backbone.predict_eps(x_t, t, text.null)
        mixed = backbone.predict_noise(x_t, t, text, torch.tensor([7.5, 0.0]))
    torch.testing.assert_close(mixed[0], null[0] + 7.5 * (full - null)[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed[1], null[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_levels_are_those_of_the_saved_scheduler(
    kind: str, pipelines: Saved, backbones: dict[str, StableDiffusion]
) -> None:
    expected = pipelines[kind][0].scheduler.alphas_cumprod
    torch.testing.assert_close(backbones[kind].schedule.alphas_cumprod, expected)
    assert backbones[kind].schedule.num_train_timesteps == 1000


def test_zero_terminal_snr_stays_above_zero(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("sd2")
    config_file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps({**config, "rescale_betas_zero_snr": True}))
    alphas_cumprod = StableDiffusion(str(folder), device="cpu").schedule.alphas_cumprod
    assert 0 < alphas_cumprod[-1] < 1e-6 and (alphas_cumprod.diff() < 0).all()


# -- images and latents --------------------------------------------------------------------------


def test_encoding_is_the_scaled_posterior_mean_and_decoding_its_inverse(
    pipelines: Saved, backbones: dict[str, StableDiffusion]
) -> None:
    vae, backbone, image = pipelines["sd1"][0].vae, backbones["sd1"], picture(2, 3, 32, 24)
    with torch.no_grad():
        mean = vae.encode(2 * image - 1).latent_dist.mean
        torch.testing.assert_close(backbone.encode_image(image), 0.18215 * mean)
        decoded = vae.decode(mean).sample / 2 + 0.5
        torch.testing.assert_close(backbone.decode_latent(0.18215 * mean), decoded)
        assert torch.equal(backbone.encode_image(image), backbone.encode_image(image))


@pytest.mark.parametrize(
    "options",
    [
        {"shift_factor": 0.3, "scaling_factor": 1.5},
        {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.0, 2.0, 0.5, 3.0]},
    ],
)
def test_shift_and_per_channel_latent_statistics(
    options: dict[str, Any], copy_of: Callable[[str], Path]
) -> None:
    folder, vae = copy_of("sd1"), build_vae(**options)
    vae.save_pretrained(folder / "vae")
    backbone, image = StableDiffusion(str(folder), device="cpu"), picture(1, 3, 16, 16)
    mean = torch.tensor(options.get("latents_mean", [0.3] * 4)).reshape(1, 4, 1, 1)
    std = torch.tensor(options.get("latents_std", [1.0] * 4)).reshape(1, 4, 1, 1)
    with torch.no_grad():
        raw = vae.encode(2 * image - 1).latent_dist.mean
        x0 = backbone.encode_image(image)
        torch.testing.assert_close(x0, (raw - mean) * vae.config.scaling_factor / std)
        torch.testing.assert_close(backbone.decode_latent(x0), vae.decode(raw).sample / 2 + 0.5)


def test_gradients_reach_the_image_and_no_weight(backbones: dict[str, StableDiffusion]) -> None:
    backbone, image = backbones["sd1"], picture(1, 3, 32, 32).requires_grad_()
    backbone.encode_image(image).square().sum().backward()
    assert image.grad is not None and (image.grad != 0).float().mean() > 0.9
    assert all(not p.requires_grad and p.grad is None for p in backbone.parameters())


def test_networks_stay_in_evaluation_mode(backbones: dict[str, StableDiffusion]) -> None:
    assert not any(m.training for m in backbones["sdxl"].train().modules())


def test_a_sampled_latent_differs_from_the_mean(pipelines: Saved) -> None:
    backbone = StableDiffusion(str(pipelines["sd1"][1]), device="cpu", vae_sample=True)
    image = picture(1, 3, 16, 16)
    assert not torch.equal(backbone.encode_image(image), backbone.encode_image(image))


def test_an_image_that_does_not_fit_the_vae_is_refused(
    backbones: dict[str, StableDiffusion],
) -> None:
    with pytest.raises(UserError, match="multiples of 4"):
        backbones["sd1"].encode_image(picture(1, 3, 30, 32))


@given(st.integers(1, 20000), st.integers(1, 20000))
def test_working_size_fits_keeps_aspect_and_is_stable(
    sd15_like: StableDiffusion, height: int, width: int
) -> None:
    h, w = sd15_like.image_size(height, width)
    assert h % 64 == 0 and w % 64 == 0
    assert min(h, w) >= 256 and max(h, w) <= 1024
    assert sd15_like.image_size(h, w) == (h, w)
    if 0.3 < height / width < 3.3:
        assert abs(torch.tensor((h / w) / (height / width)).log()) < 0.3
        assert 0.7 < h * w / 512**2 < 1.4


@pytest.fixture(scope="session")
def sd15_like(backbones: dict[str, StableDiffusion]) -> StableDiffusion:
    """The tiny backbone with Stable Diffusion 1.5's geometry."""
    import copy

    sized = copy.copy(backbones["sd1"])
    sized.resolution, sized.vae_factor, sized.size_multiple = 512, 8, 64
    return sized


@pytest.mark.parametrize(
    ("given_size", "expected"),
    [((512, 512), (512, 512)), ((4000, 3000), (576, 448)), ((64, 64), (512, 512))],
)
def test_working_sizes_of_stable_diffusion(
    sd15_like: StableDiffusion, given_size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert sd15_like.image_size(*given_size) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_every_working_size_passes_through_vae_and_unet(
    kind: str, backbones: dict[str, StableDiffusion]
) -> None:
    backbone = backbones[kind]
    assert backbone.resolution == 32
    height, width = backbone.image_size(70, 41)
    x0 = backbone.encode_image(picture(1, 3, height, width))
    text = backbone.encode_prompt(["a"])
    with torch.no_grad():
        assert backbone.predict_eps(x0, torch.tensor([5]), text.cond).shape == x0.shape
        assert backbone.decode_latent(x0).shape == (1, 3, height, width)


# -- options -------------------------------------------------------------------------------------


def test_half_precision_keeps_the_vae_in_float32_and_returns_what_it_was_given(
    pipelines: Saved, backbones: dict[str, StableDiffusion]
) -> None:
    backbone = StableDiffusion(str(pipelines["sdxl"][1]), device="cpu", dtype="bfloat16")
    assert backbone.unet.dtype == torch.bfloat16 and backbone.vae.dtype == torch.float32
    x_t, t = noise(1, 4, 8, 8), torch.tensor([300])
    with torch.no_grad():
        eps = backbone.predict_eps(x_t, t, backbone.encode_prompt(["a man"]).cond)
        exact = backbones["sdxl"].predict_eps(
            x_t, t, backbones["sdxl"].encode_prompt(["a man"]).cond
        )
    assert eps.dtype == torch.float32
    assert 0 < (eps - exact).abs().max() < 0.2 * exact.std()


@pytest.mark.parametrize(
    "options", [{"attention_slicing": True}, {"offload": "model"}, {"offload": "sequential"}]
)
def test_memory_savers_do_not_change_the_result(
    options: dict[str, Any], pipelines: Saved, backbones: dict[str, StableDiffusion]
) -> None:
    saver = StableDiffusion(str(pipelines["sd1"][1]), device="cpu", **options)
    x_t, t = noise(1, 4, 8, 8), torch.tensor([300])
    with torch.no_grad():
        found, expected = (
            b.predict_noise(x_t, t, b.encode_prompt(["a man"]), 7.5)
            for b in (saver, backbones["sd1"])
        )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_long_prompt_is_cut_with_a_warning(
    backbones: dict[str, StableDiffusion], caplog: pytest.LogCaptureFixture
) -> None:
    text = backbones["sd1"].encode_prompt(["abcdefghijklmnopqrstuvwxyz"])
    assert text.cond["tokens"].shape == (1, LENGTH, 16)
    assert "is cut to 16" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "choose one of auto, float32"),
        ({"offload": "disk"}, "choose one of none, model, sequential"),
        ({"device": "toaster"}, "is not known"),
        ({"resolution": 4}, "too small: 8"),
    ],
)
def test_unknown_options_are_answered(
    options: dict[str, Any], message: str, pipelines: Saved
) -> None:
    with pytest.raises(UserError, match=message):
        StableDiffusion(str(pipelines["sd1"][1]), **{"device": "cpu", **options})


def test_a_variant_is_found_and_its_absence_falls_back(
    pipelines: Saved, copy_of: Callable[[str], Path]
) -> None:
    folder = copy_of("sd1")
    assert diffusers_folder.check_folder(folder, "fp16").variants["unet"] is None
    for plain in (folder / "unet", folder / "text_encoder"):
        for file in plain.glob("*.safetensors"):
            file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    backbone = StableDiffusion(str(folder), device="cpu")
    mine, theirs = backbone.unet.state_dict(), pipelines["sd1"][0].unet.state_dict()
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)


def test_sharded_weights_load_and_a_missing_shard_is_named(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("sd1")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    build_unet("sd1").save_pretrained(folder / "unet", max_shard_size="40KB")
    shards = sorted((folder / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    StableDiffusion(str(folder), device="cpu")
    shards[0].unlink()
    with pytest.raises(UserError, match=re.escape(shards[0].name)):
        StableDiffusion(str(folder), device="cpu")


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl", "local"])
def test_configurations_fit_the_constructor(name: str, pipelines: Saved) -> None:
    from omegaconf import OmegaConf

    from pds_cli.config import composed

    node = composed("edit", [f"backbone={name}", "device=cpu"]).backbone
    options: Any = OmegaConf.to_container(node, resolve=True)
    assert options.pop("_target_") == "pds_cli.backbones.stable_diffusion.StableDiffusion"
    backbone = StableDiffusion(**{**options, "model": str(pipelines["sd1"][1])})
    assert set(backbone.recommended["guidance"]) == {"sds", "dds", "pds", "sdi"}
    assert set(backbone.recommended) == {"guidance", "source_guidance", "steps", "lr", "nerf"}


# -- broken checkpoints --------------------------------------------------------------------------


def truncate(file: Path, keep: int = 1000) -> None:
    file.write_bytes(file.read_bytes()[:keep])


UNET = Path("unet") / "diffusion_pytorch_model.safetensors"

BREAKAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated weights": (
        lambda f: truncate(f / UNET, (f / UNET).stat().st_size - 10),
        f"{UNET} is corrupt or truncated",
    ),
    "empty weights": (lambda f: truncate(f / UNET, 0), f"{UNET} is corrupt or truncated"),
    "weights that are not safetensors": (
        lambda f: (f / UNET).write_bytes(b"\x80\x04pickle" * 50),
        f"{UNET} is corrupt or truncated",
    ),
    "no weights": (lambda f: (f / UNET).unlink(), "unet has no safetensors weights"),
    "pickled weights only": (
        lambda f: (f / UNET).rename(f / "unet" / "diffusion_pytorch_model.bin"),
        "only pickled weights",
    ),
    "weights of another model": (
        lambda f: shutil.copy(f / "vae" / "diffusion_pytorch_model.safetensors", f / UNET),
        "unet",
    ),
    "broken index": (lambda f: truncate(f / "model_index.json", 9), "is not a JSON file"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "no model_index.json"),
    "broken config": (lambda f: truncate(f / "unet" / "config.json", 9), "is not a JSON file"),
    "no component": (lambda f: shutil.rmtree(f / "vae"), "vae has no config.json"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "as a tokenizer"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "scheduler_config.json"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_checkpoint_is_named_in_one_sentence(
    breakage: str, copy_of: Callable[[str], Path]
) -> None:
    folder = copy_of("sd1")
    action, message = BREAKAGES[breakage]
    action(folder)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        StableDiffusion(str(folder), device="cpu")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_single_missing_weight_is_not_left_random(copy_of: Callable[[str], Path]) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy_of("sd1")
    weights = load_file(folder / UNET)
    del weights["conv_out.bias"]
    save_file(weights, folder / UNET, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"conv_out\.bias"):
        StableDiffusion(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unet": ["os", "system"]}, "whose unet is system"),
        ({"vae": ["diffusers", "AutoencoderTiny"]}, "whose vae is AutoencoderTiny"),
        ({"text_encoder": [None, None]}, "whose text_encoder is missing"),
        ({"requires_aesthetics_score": True}, "refiner"),
    ],
)
def test_other_families_are_refused(
    change: dict[str, Any], message: str, copy_of: Callable[[str], Path]
) -> None:
    folder = copy_of("sd1")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **change}))
    with pytest.raises(UserError, match=message):
        StableDiffusion(str(folder), device="cpu")


def test_an_inpainting_unet_is_refused(copy_of: Callable[[str], Path]) -> None:
    from diffusers import UNet2DConditionModel

    folder = copy_of("sd1")
    config = json.loads((folder / "unet" / "config.json").read_text())
    UNet2DConditionModel.from_config({**config, "in_channels": 9}).save_pretrained(folder / "unet")
    with pytest.raises(UserError, match="9 input channels"):
        StableDiffusion(str(folder), device="cpu")


# -- finding the checkpoint ----------------------------------------------------------------------


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(diffusers_folder, "PROBE_SECONDS", 0.3)
    return tmp_path / "hub"


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes connections and never answers: the worst kind of missing network."""
    server = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(server.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    for connection in held:
        connection.close()


def load_in_thread(model: str, limit: float = 60.0) -> str:
    """The message of the UserError; fails if no answer comes (the limit is for hangs only)."""
    answers: list[BaseException] = []

    def load() -> None:
        try:
            StableDiffusion(model, device="cpu")
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(limit)
    assert answers, "loading hangs"
    assert isinstance(answers[0], UserError), answers[0]
    return str(answers[0])


def expect_download_advice(message: str) -> None:
    assert "\n" not in message
    assert f"hf download {HUB_ID} " in message
    assert "backbone=local backbone.model=models/no-such-model" in message


def test_no_network_is_answered_with_what_to_download(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    expect_download_advice(load_in_thread(HUB_ID))


def test_a_network_that_swallows_everything_does_not_hang(
    empty_cache: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", silent_server)
    expect_download_advice(load_in_thread(HUB_ID))


def test_offline_mode_asks_nobody(
    empty_cache: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(HfApi, "model_info", lambda *a, **k: pytest.fail("asked the hub"))
    message = load_in_thread(HUB_ID)
    expect_download_advice(message)
    assert "HF_HUB_OFFLINE" in message


def test_a_cached_model_needs_no_network(
    pipelines: Saved, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    monkeypatch.setattr(HfApi, "model_info", lambda *a, **k: pytest.fail("asked the hub"))
    home, commit = empty_cache / "models--nobody-here--no-such-model", "0" * 40
    shutil.copytree(pipelines["sd1"][1], home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    assert StableDiffusion(HUB_ID, device="cpu").resolution == 32


def test_a_hub_model_is_downloaded_at_the_commit_that_was_listed(
    pipelines: Saved, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    folder = pipelines["sd1"][1]
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]

    def model_info(self: Any, repo: str, *, revision: str | None, timeout: float) -> Any:
        files = [SimpleNamespace(rfilename=n) for n in [*names, "huge.ckpt"]]
        return SimpleNamespace(sha="abc", siblings=files)

    def snapshot_download(repo: str, *, revision: str, allow_patterns: list[str]) -> str:
        assert (repo, revision) == (HUB_ID, "abc") and "huge.ckpt" not in allow_patterns
        for name in allow_patterns:
            (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name, tmp_path / "got" / name)
        return str(tmp_path / "got")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert StableDiffusion(HUB_ID, device="cpu", revision="main").resolution == 32


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_only_needed_files_are_downloaded_and_the_advised_command_gets_them(
    variant: str | None, pipelines: Saved
) -> None:
    folder = pipelines["sdxl"][1]
    names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    names += [n.replace("model.safetensors", "model.fp16.safetensors") for n in names]
    surplus = ["v1-5-pruned.ckpt", "v1-5-pruned-emaonly.safetensors", "unet/model.onnx"]
    surplus += ["safety_checker/model.safetensors", "unet/diffusion_pytorch_model.bin"]
    needed = diffusers_folder.needed_files([*names, *surplus], variant)
    weights = [n for n in needed if n.endswith(".safetensors")]
    assert len(weights) == 4 and not set(needed) & set(surplus)
    assert all((".fp16." in n) == (variant == "fp16") for n in weights)
    command = diffusers_folder._download_command("a/b", variant)
    patterns = re.findall(r'--include "([^"]+)"', command)
    assert all(any(fnmatch.fnmatch(n, p) for p in patterns) for n in needed)
    assert not any(fnmatch.fnmatch(n, p) for n in surplus[:3] for p in patterns)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("", "backbone.model is empty"),
        ("./models/nothing", "there is no such folder"),
        ("/nowhere/at/all", "there is no such folder"),
        (__file__, "is a file, but a folder"),
    ],
)
def test_a_wrong_path_is_answered(model: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        StableDiffusion(model, device="cpu")


def test_local_files_only_never_asks_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    monkeypatch.setattr(HfApi, "model_info", lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match=r"backbone\.model=models/sd15: there is no such folder"):
        StableDiffusion("models/sd15", device="cpu", local_files_only=True)


# -- golden values -------------------------------------------------------------------------------


def summary(x: Tensor) -> dict[str, Any]:
    """Mean, spread and eight spread-out entries of a tensor."""
    flat = x.detach().double().flatten()
    picks = torch.linspace(0, len(flat) - 1, 8).long()
    return {
        "shape": list(x.shape),
        "mean": flat.mean().item(),
        "std": flat.std().item(),
        "entries": flat[picks].tolist(),
    }


def golden_values(backbone: StableDiffusion) -> dict[str, dict[str, Any]]:
    x0_tgt, x0_src = (backbone.encode_image(picture(2, 3, 32, 32, seed=s)) for s in (1, 2))
    text_tgt, text_src = (backbone.encode_prompt([p] * 2) for p in ("a man in a hat", "a man"))
    x_t, t = noise(2, 4, 8, 8, seed=3), torch.tensor([101, 701])
    with torch.no_grad():
        values = {"x0": x0_tgt, "eps": backbone.predict_noise(x_t, t, text_tgt, 7.5)}
    eps = noise(2, 4, 8, 8, seed=4)
    losses: dict[str, Loss] = {
        "sds": SDS(guidance=7.5),
        "dds": DDS(guidance=7.5),
        "pds": PDS(guidance=7.5),
    }
    for name, loss in losses.items():
        output = loss.evaluate(backbone, x0_tgt, x0_src, text_tgt, text_src, t=t, eps=eps)
        values[f"{name}_grad"] = output.grad
    return {name: summary(value) for name, value in values.items()}


def test_golden_values(backbones: dict[str, StableDiffusion]) -> None:
    """Pins x_0, ε̂ and the gradients; `UPDATE_GOLDEN=1 pytest` writes the file anew."""
    found = golden_values(backbones["sd2"])
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(GOLDEN.read_text())
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name]["shape"] == values["shape"]
        for key in ("mean", "std", "entries"):
            assert found[name][key] == pytest.approx(values[key], rel=1e-4, abs=1e-4), name
