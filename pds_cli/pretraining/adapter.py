"""Adapters of a backbone: the parts that training begins with, and the folder that it makes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pds_cli.backbones.adapter import (
    FILE,
    Adapter,
    adapter_tensors,
    attach,
    base_name,
    weights_hash,
)
from pds_cli.backbones.embedded import (
    INDEX,
    PACKAGED,
    EmbeddedBackbone,
    folder_of,
    load_parts,
    read_adapter,
    words_of,
)
from pds_cli.errors import UserError
from pds_cli.files import write_text
from pds_cli.pretraining.components import Components, replacing
from pds_cli.runs.checkpoint import save_checkpoint


def adapting(cfg: DictConfig) -> bool:
    """Whether a recipe trains an adapter."""
    return bool(OmegaConf.select(cfg, "adapter.rank"))


def check_adapter(cfg: DictConfig) -> None:
    """Refuses an adapter of nothing, or with parts that it has not.

    Raises:
        UserError: with what would be right.
    """
    said = f"adapter.rank={cfg.adapter.rank}"
    if not cfg.init:
        raise UserError(f"{said} needs the backbone that it is an adapter of: give init=<backbone>")
    if list(cfg.stages) != ["denoise"]:
        raise UserError(f"{said} trains no part but the UNet: give stages=[denoise]")
    if not cfg.adapter.layers:
        raise UserError("adapter.layers=[] leaves nothing to train: name a kind of layers")
    base = folder_of(cfg.init)
    if read_adapter(base) is not None:
        raise UserError(
            f"init={cfg.init} is an adapter itself: give the backbone that it is one of, or train "
            "on from there without one (adapter.rank=0)"
        )
    if base.resolve() == Path(cfg.into).resolve():
        raise UserError(f"into={cfg.into} is the backbone of the adapter: choose another folder")
    _check_size(cfg, load_parts(base))


def _check_size(cfg: DictConfig, parts: dict[str, Any]) -> None:
    unet, vae = parts["unet"].config, parts["vae"].config
    side = unet.sample_size * vae.patch
    if cfg.size != side:
        raise UserError(f"size={cfg.size} is not that of {cfg.init}: give size={side}")
    if unet.in_channels > vae.latent_channels and not cfg.data.pairs:
        raise UserError(f"init={cfg.init} looks at a source: give data.pairs=true")


def adapted_components(cfg: DictConfig, captions: Iterable[str], image_inputs: int) -> Components:
    """The parts of `init`, frozen, with an adapter on the UNet that changes nothing yet.

    Args:
        captions: what the base must be able to read.
        image_inputs: 2 for a UNet that looks at a source beside the noisy image.

    Raises:
        UserError: the base never saw some of the words, or see `attach` and `load_parts`.
    """
    found = load_parts(folder_of(cfg.init))
    known = found["tokenizer"].get_vocab()
    words = dict.fromkeys(word for caption in captions for word in words_of(caption))
    unread = [word for word in words if word not in known]
    if unread:
        raise UserError(
            f"init={cfg.init} never saw {', '.join(unread[:5])} of the captions, and an adapter "
            "learns no words: train without one (adapter.rank=0)"
        )
    vae = found.pop("vae")
    found["text_encoder"].requires_grad_(False)
    channels = vae.config.latent_channels * image_inputs
    attach(found["unet"], cfg.adapter.rank, cfg.adapter.layers, channels)
    return Components(autoencoder=vae, **found)


def adapter_of(cfg: DictConfig, parts: Components) -> Adapter:
    """What the adapter's folder says of it; the hash is of the weights that were trained beside."""
    return Adapter(
        base=base_name(folder_of(cfg.init), Path(cfg.into), PACKAGED),
        sha256=weights_hash(parts.unet, parts.text_encoder, parts.autoencoder),
        rank=cfg.adapter.rank,
        layers=tuple(cfg.adapter.layers),
        in_channels=parts.unet.config.in_channels,
    )


def save_adapter(unet: Any, adapter: Adapter, folder: Path) -> None:
    """Writes an adapter's folder in half precision, as `save_components` does that of a backbone.

    Raises:
        UserError: weights are not finite, or the folder cannot be written.
    """
    tensors = {name: tensor.half() for name, tensor in adapter_tensors(unet).items()}
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UserError("training left weights beyond half precision: give a lower denoise.lr=")
    with replacing(folder, "the adapter") as temporary:
        save_checkpoint(temporary / FILE, tensors, {})
        (temporary / FILE).chmod(0o644)  # it is written as a private file
        write_index(temporary, adapter)


def write_index(folder: Path, adapter: Adapter) -> None:
    """Writes `model_index.json`, which makes a folder an adapter's."""
    index = {"_class_name": EmbeddedBackbone.__name__, "adapter": adapter.index()}
    write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")
