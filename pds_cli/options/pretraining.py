"""The keys of `pds pretrain`; the values of its sections are a recipe, in `conf/pretrain.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pds_cli.options.option import option
from pds_cli.options.ranges import (
    BATCH,
    BELOW_ONE,
    COUNT,
    EVERY,
    FINITE,
    MILLION,
    NOT_NEGATIVE,
    PIXELS,
    POSITIVE,
    SEED,
    SHARE,
    STEPS,
    WIDTH,
    Range,
    whole,
)
from pds_cli.options.verbs import PRECISION_HELP, PRECISIONS, ResumableConfig

STAGES = ("probe", "decode", "denoise", "similarity")
ADAPTED = ("attention", "linear", "convolution")
TRAINED = ("all", "branch")


@dataclass
class PretrainDataConf:
    """Where the captioned images are, and what is drawn there first."""

    folder: str = option("folder of captions.jsonl and the images it names", text=True)
    toybox: bool = option("render toybox pictures there first; false: take what is there")
    icons: str | None = option(
        "folder of icon sets (make icons) to draw there first, instead of the toybox", text=True
    )
    per_drawing: int = option("pictures of each icon's drawing in each set", range=COUNT)
    images: int = option("toybox pictures to render", range=whole(1, 100 * MILLION))
    fresh: int = option(
        "toybox pictures drawn anew at each step, in place of the oldest", range=EVERY
    )
    around: float = option("share of them that look from anywhere, not from the front", range=SHARE)
    views: float = option("share of the captions that say from where a picture looks", range=SHARE)
    pairs: bool = option("edits beside their sources: makes a model that edits by instruction")
    seed: int = option("fixes which pictures are drawn", range=SEED)


@dataclass
class AutoencoderConf:
    """Keywords of `PatchAutoencoder`."""

    latent_channels: int = option("channels of the latents", range=whole(1, 4096))
    patch: int = option("pixels a side of what one latent stands for", range=whole(1, 256))
    width: int = option("channels of the decoder", range=WIDTH)
    blocks: int = option("residual blocks of the decoder", range=whole(0, 256))
    whiten: float = option("0: components keep their spread; 1: all spreads are equal", range=SHARE)


@dataclass
class UNetConf:
    """Keywords of diffusers' `UNet2DConditionModel`, and of the branch that `FineUNet` has."""

    layers_per_block: int = option("residual layers a block", range=whole(1, 64))
    block_out_channels: list[int] = option("channels of each block", range=WIDTH)
    down_block_types: list[str] = option("diffusers' names of the blocks on the way down")
    up_block_types: list[str] = option("diffusers' names of the blocks on the way up")
    attention_head_dim: int = option("channels a head of attention", range=WIDTH)
    norm_num_groups: int = option("groups of group normalisation", range=WIDTH)
    fine_width: int = option(
        "channels of a branch at twice the latents' resolution; 0: none", range=whole(0, 4096)
    )
    fine_blocks: int = option("residual blocks of that branch", range=whole(0, 64))


@dataclass
class TextEncoderConf:
    """Keywords of transformers' `CLIPTextConfig`."""

    hidden_size: int = option("width of a token", range=whole(1, 65_536))
    intermediate_size: int = option("width inside the MLPs", range=whole(1, 65_536))
    num_hidden_layers: int = option("layers", range=whole(1, 256))
    num_attention_heads: int = option("heads of attention a layer", range=whole(1, 256))


@dataclass
class PretrainModelConf:
    """The parts of an embedded backbone; keywords of each part's own class."""

    timesteps: int = option("training timesteps T", range=whole(2, 100_000))
    camera: bool = option("the UNet is told the camera of a picture, where that is known")
    shift: float = option(
        "of the cosine schedule's log-SNR; below 0: more noise", range=Range(-100, 100)
    )
    autoencoder: dict[str, Any] = option("images to latents and back", keys=AutoencoderConf)
    unet: dict[str, Any] = option("predicts the noise", keys=UNetConf)
    text_encoder: dict[str, Any] = option("captions to tokens", keys=TextEncoderConf)


@dataclass
class AdapterConf:
    """What the stage `denoise` trains in the place of the UNet and the text encoder."""

    rank: int = option("of a LoRA on the UNet of init; 0: no adapter", range=whole(0, MILLION))
    layers: list[str] = option("kinds of layers that the LoRA is on", choices=ADAPTED)


@dataclass
class PretrainStageConf:
    """Budget and optimiser of one stage."""

    steps: int = option("optimiser steps", range=STEPS)
    batch_size: int = option("pictures a step", range=BATCH)
    lr: float = option("largest step size of AdamW", range=POSITIVE)
    weight_decay: float = option("decoupled decay of the weights", range=NOT_NEGATIVE)
    warmup: int = option("steps over which the step size rises from zero", range=EVERY)
    decay: float = option("of the moving average of the weights that is kept", range=BELOW_ONE)


@dataclass
class DenoiseConf(PretrainStageConf):
    """The stage that trains the UNet and the text encoder."""

    trains: str = option(
        "all: UNet and text encoder; branch: the UNet's fine branch alone", choices=TRAINED
    )
    drop: float = option("chance that a caption is left out: trains guidance", range=SHARE)
    drop_camera: float = option(
        "chance that a camera is left out, where the model is told of it", range=SHARE
    )
    drop_source: float = option("of pairs: chance that the source is left out", range=SHARE)
    high_noise: float = option("share of late timesteps from the noisiest quarter", range=SHARE)
    high_noise_from: float = option("part of the steps after which they are late", range=SHARE)


@dataclass
class DecodeConf(PretrainStageConf):
    """The stage that trains the decoder."""

    noise: float = option("largest noise on the latents", range=NOT_NEGATIVE)


@dataclass
class PreviewConf:
    """The sample sheet: a row a prompt."""

    prompts: list[str] = option("what the rows show")
    columns: int = option("samples a prompt", range=whole(1, 1000))
    steps: int = option("DDIM steps", range=STEPS)
    guidance: float = option("ω of the samples", range=FINITE)


@dataclass
class PretrainConfig(ResumableConfig):
    """`pds pretrain`."""

    data: PretrainDataConf = option("the captioned images", PretrainDataConf)
    size: int = option("side of the images in pixels", 64, range=PIXELS)
    into: str = option(
        "backbone folder to write; use it as backbone.model", "outputs/toybox", text=True
    )
    init: str | None = option("backbone folder to start from; null: from nothing", None, text=True)
    stages: list[str] = option(
        "what is trained, each independent of the others",
        ["probe", "decode", "denoise"],
        choices=STAGES,
    )
    model: PretrainModelConf = option("sizes of the parts", PretrainModelConf)
    adapter: AdapterConf = option(
        "train a few weights beside the UNet of init, and write those alone", AdapterConf
    )
    denoise: DenoiseConf = option("training of the noise prediction", DenoiseConf)
    decode: DecodeConf = option("training of the decoder", DecodeConf)
    probe: PretrainStageConf = option(
        "training of the classifier that reads toybox pictures", PretrainStageConf
    )
    similarity: PretrainStageConf = option(
        "training of the likeness of pictures and captions, for icons", PretrainStageConf
    )
    precision: str = option(PRECISION_HELP, "auto", choices=PRECISIONS)
    preview: PreviewConf = option("the sheet of samples", PreviewConf)
    checkpoint_every: int = option("steps between checkpoints", 250, range=EVERY)
    render_every: int = option("steps between sample sheets", 500, range=EVERY)
    log_every: int = option("steps between lines of metrics.jsonl", 10, range=STEPS)
    logger: Any = option("where else metrics and pictures go")
