"""The keys of backbones; values stand in `conf/backbone`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pds_cli.options.option import option
from pds_cli.options.ranges import (
    COUNT,
    LONGEST_SIDE,
    MILLION,
    NOT_NEGATIVE,
    PIXELS,
    POSITIVE,
    SEED,
    TURN,
    Range,
    whole,
)
from pds_cli.options.target import Target
from pds_cli.options.verbs import DEVICES, PRECISIONS

DTYPES = ("auto", "float32", "float16", "bfloat16")
OFFLOADS = ("none", "model", "sequential")
MATCHINGS = ("words", "attributes", "similarity")
VIEWS = ("camera", "sector", "all")
_SECTOR = Range(0, 360, above=True)  # degrees


@dataclass
class BackboneConf(Target):
    """What every backbone has."""

    recommended: Any = option("what a run uses where nothing is said, by the names of its keys")


@dataclass
class MixtureConf(BackboneConf):
    """Labelled points, with exact scores."""

    points: int = option("points a label", range=whole(1, 1000 * MILLION))
    noise: float = option("standard deviation of the points around their arc", range=NOT_NEGATIVE)
    std: float = option("spread of the Gaussian that each point is", range=NOT_NEGATIVE)
    seed: int = option("fixes the points", range=SEED)


@dataclass
class ExactConf(BackboneConf):
    """What exact scores of pictures have, whichever pictures."""

    std: float = option("spread of the Gaussian that each picture's latent is", range=POSITIVE)
    window: int | None = option(
        "side of what decides at each place which pictures count; odd; null: everything",
        range=whole(1, 9999),
    )
    views: str = option(
        "pictures that count for a view: its camera's, its sector's, or all", choices=VIEWS
    )
    sector: float = option("width of the sector in degrees of azimuth", range=_SECTOR)
    model: str | None = option(
        "embedded backbone whose latents it takes; null: components of the patches", text=True
    )
    device: str = option("where the pictures are", choices=DEVICES, or_else="cuda:<number>")


@dataclass
class GalleryConf(ExactConf):
    """Exact scores of a folder of captioned pictures."""

    path: str | None = option("the folder, with its captions.jsonl", text=True)
    size: int = option("side in pixels that pictures are cropped and resized to", range=PIXELS)
    matching: str = option("what makes a picture one that a prompt speaks of", choices=MATCHINGS)
    temperature: float = option(
        "of matching=similarity: nearer 0, the likest count more", range=POSITIVE
    )


@dataclass
class ToyboxExactConf(ExactConf):
    """Exact scores of a toy figure; what is said of the scene comes from there."""

    figure: Any = option("attributes of the figure; the scene's")
    camera: Any = option("the one camera; the scene's")
    cameras: int | None = option("number of cameras around it; the scene's", range=COUNT)
    edit_azimuth: float = option("only cameras within so many degrees of the front", range=TURN)
    size: int = option("side in pixels of the renders; the scene's", range=PIXELS)
    prompts: Any = option("texts that name the attributes that take every value")
    count: int = option("pictures at most, of all cameras together", range=whole(1, MILLION))
    cache: str = option("folder where renders are kept for the next run", text=True)


@dataclass
class EmbeddedConf(BackboneConf):
    """Small models in the package, or of `pds pretrain`."""

    model: str = option(
        "name of one in the package, or a folder that pds pretrain wrote", text=True
    )
    device: str = option("where the model is", choices=DEVICES, or_else="cuda:<number>")
    precision: str = option(
        "of the network's products; auto: bfloat16 where the device is quicker with it",
        choices=PRECISIONS,
    )


@dataclass
class StableDiffusionConf(BackboneConf):
    """Models in Stable Diffusion's format."""

    model: str = option("hub id, or folder in diffusers format", text=True)
    revision: str | None = option("branch, tag or commit of a hub id; null: the main branch")
    variant: str | None = option("of the weights, for example fp16: half the download")
    local_files_only: bool = option("never ask the hub")
    dtype: str = option(
        "precision of the networks; auto: float16 on CUDA, else float32", choices=DTYPES
    )
    device: str = option("where the model is", choices=DEVICES, or_else="cuda:<number>")
    vae_sample: bool = option("draw x_0 from the VAE's posterior instead of taking its mean")
    attention_slicing: bool = option("attention in two halves: less memory, a little slower")
    offload: str = option(
        "what waits on the CPU: nothing, the text encoders, or the UNet's layers too",
        choices=OFFLOADS,
    )
    resolution: int | None = option(
        "side of the working area in pixels; null: what the UNet was trained at",
        range=LONGEST_SIDE,
    )
