"""A small exact problem that every loss is tested on."""

from __future__ import annotations

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.backbones.mixture import MixtureBackbone
from pds_cli.losses.base import Loss


def small_mixture() -> MixtureBackbone:
    """Six Gaussians with two labels on data [2,2,1], in float64."""
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(6, 2, 2, 1, generator=generator, dtype=torch.float64)
    std = torch.tensor([0.1, 0.2, 0.3, 0.1, 0.2, 0.5], dtype=torch.float64)
    return MixtureBackbone(means, list("aaabbb"), std)


def problem(batch: int, seed: int = 0, low: int = 3, high: int = 999) -> dict[str, Tensor]:
    """Random x_0^tgt, x_0^src, ε and t in [low, high), in float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(batch, 2, 2, 1, generator=generator, dtype=torch.float64)

    t = torch.randint(low, high, (batch,), generator=generator)
    return {"x0_tgt": draw(), "x0_src": draw(), "eps": draw(), "t": t}


def gradient(
    loss: Loss, backbone: Backbone, p: dict[str, Tensor], tgt: str = "b", src: str = "a"
) -> Tensor:
    loss.begin(backbone, prompt=tgt, source=src)
    text_tgt, text_src = backbone.encode_prompt([tgt]), backbone.encode_prompt([src])
    return loss.evaluate(
        backbone, p["x0_tgt"], p["x0_src"], text_tgt, text_src, t=p["t"], eps=p["eps"]
    ).grad
