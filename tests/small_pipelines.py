"""Stable Diffusion pipelines of a few thousand weights, in diffusers format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

LENGTH = 16  # tokens a prompt


def write_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> Any:
    """A CLIP tokenizer of single letters and two merges, in the layout of the public models."""
    from transformers import CLIPTokenizer

    letters = ["!", *"abcdefghijklmnopqrstuvwxyz"]
    words = [*letters, *[f"{c}</w>" for c in letters], "ma", "man</w>", "<|startoftext|>"]
    vocab = {word: i for i, word in enumerate([*words, "<|endoftext|>"])}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\nm a\nma n</w>\n")
    names = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad,
    }
    config = {**names, "model_max_length": LENGTH, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return CLIPTokenizer.from_pretrained(folder)


def fill(module: Any, seed: int) -> Any:
    """Sets weights from a seed alone, whatever order or initialisation the libraries use."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            value = torch.randn(p.shape, generator=generator)
            if p.ndim > 1:
                value = value / p[0].numel() ** 0.5
            elif name.endswith("weight"):
                value = 1 + 0.1 * value
            else:
                value = 0.1 * value
            p.copy_(value)
    return module.eval()


def build_text_encoder(kind: str, vocab: int, second: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocab,
        hidden_size=24 if second else 16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=12,
        hidden_act="gelu" if kind == "sd2" else "quick_gelu",
        bos_token_id=vocab - 2,
        eos_token_id=vocab - 1,
        pad_token_id=vocab - 1,
    )
    return fill((CLIPTextModelWithProjection if second else CLIPTextModel)(config), 3 + second)


def build_unet(kind: str, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    options: dict[str, Any] = {"cross_attention_dim": 16}
    if kind == "sdxl":
        options = {
            "cross_attention_dim": 40,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 12 + 6 * 4,
        }
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        use_linear_projection=kind != "sd1",
        **options,
        **more,
    )
    return fill(unet, 1)


def build_vae(**options: Any) -> Any:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        **{"scaling_factor": 0.18215, **options},
    )
    return fill(vae, 2)


def build_pipeline(kind: str, folder: Path) -> Any:
    from diffusers import (
        DDIMScheduler,
        EulerDiscreteScheduler,
        PNDMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
    )

    tokenizer = write_tokenizer(folder / "tokenizer")
    beta = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    parts = {
        "vae": build_vae(),
        "unet": build_unet(kind),
        "tokenizer": tokenizer,
        "text_encoder": build_text_encoder(kind, len(tokenizer)),
    }
    if kind == "sdxl":
        return StableDiffusionXLPipeline(
            **parts,
            tokenizer_2=write_tokenizer(folder / "tokenizer_2", pad="!"),
            text_encoder_2=build_text_encoder(kind, len(tokenizer), second=True),
            scheduler=EulerDiscreteScheduler(**beta),
            add_watermarker=False,
        )
    sd2 = kind == "sd2"
    scheduler = (
        DDIMScheduler(**beta, prediction_type="v_prediction", clip_sample=False, steps_offset=1)
        if sd2
        else PNDMScheduler(**beta, skip_prk_steps=True, steps_offset=1)
    )
    return StableDiffusionPipeline(
        **parts,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_instruct_pipeline(folder: Path) -> Any:
    """A pipeline whose UNet sees a source image beside the noisy one."""
    from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline

    tokenizer = write_tokenizer(folder / "tokenizer")
    return StableDiffusionInstructPix2PixPipeline(
        vae=build_vae(),
        unet=build_unet("sd1", in_channels=8),
        tokenizer=tokenizer,
        text_encoder=build_text_encoder("sd1", len(tokenizer)),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            timestep_spacing="trailing",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
