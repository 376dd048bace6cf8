"""Contrastive Denoising Score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pds_cli.backbones.base import Backbone
from pds_cli.backbones.shared_attention import self_attentions
from pds_cli.errors import UserError
from pds_cli.losses.base import Branches, Inputs, Loss, inner_generator

TEMPERATURE = 0.07  # of the contrast, as published
LATENTS_PER_UNIT = 2000  # published: 2000/(hw) times DDS beside 3 times the contrast


@dataclass(kw_only=True)
class CDS(Loss):
    """Gradient w(t) [Δε̂ + contrast · (hw/2000) ∂ℓ/∂x_0^tgt]: DDS with structure held by attention.

    ℓ contrasts features of the two noised images: the outputs of the self-attention in the
    UNet's upward half. A place of the target should look like the same place of the source, and
    unlike its other places. Features are those of the conditional prediction. An inner
    derivative: it goes through the backbone, with a graph.

    Attributes:
        contrast: weight of ℓ, at least 0; hw/2000 makes it that of the published code, where
            the DDS term is 2000/(hw) Δε̂.
        patches: how many places are contrasted, drawn anew each time.
        patch_sizes: features are averaged over squares of these sides first.

    Raises:
        UserError: an option out of its range, or a backbone without such attention.

    Source: Nam et al., Contrastive Denoising Score for Text-guided Latent Diffusion Image
    Editing, CVPR 2024, arXiv 2311.18608, eq. 8.
    """

    timesteps: Sequence[float] = (0.05, 0.95)
    contrast: float = 3.0
    patches: int = 256
    patch_sizes: Sequence[int] = (1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.patch_sizes = tuple(int(size) for size in self.patch_sizes)
        if not (math.isfinite(self.contrast) and self.contrast >= 0):
            raise UserError(f"loss.contrast={self.contrast} must be a number of at least 0")
        if self.patches < 2 or not self.patch_sizes or min(self.patch_sizes) < 1:
            raise UserError(
                "loss.patches must be at least 2 and loss.patch_sizes sides of at least 1"
            )

    def idle(self) -> dict[str, str | None]:
        """Without the contrast no patches are drawn."""
        unused = () if self.contrast else ("patches", "patch_sizes")
        return super().idle() | dict.fromkeys(unused, "contrast")

    def gradient(self, branches: Branches) -> tuple[Tensor, dict[str, float]]:
        """Δε̂ + contrast · (hw/2000) ∂ℓ/∂x_0^tgt."""
        if not self.contrast:
            return branches.delta_eps, {}
        inputs = branches.inputs
        with torch.no_grad():
            wanted = features(inputs, "src", branches.noisy["src"])
        with torch.enable_grad():
            x0 = inputs.images["tgt"].detach().requires_grad_()
            noisy = inputs.backbone.add_noise(x0, inputs.t, branches.eps)
            found = features(inputs, "tgt", noisy)
            generator = inner_generator(inputs.eps)
            loss = sum(
                (self._contrast(a, b, generator) for a, b in zip(found, wanted, strict=True)),
                x0.new_zeros(()),
            )
            (slope,) = torch.autograd.grad(loss, x0)
        scale = self.contrast * x0.shape[-2] * x0.shape[-1] / LATENTS_PER_UNIT
        return branches.delta_eps + scale * slope, {"contrast": float(loss.detach()) / len(x0)}

    def _contrast(self, found: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """ℓ of one attention's outputs [B,P,C] for the target and the source, summed over B."""
        total = found.new_zeros(())
        for size in self.patch_sizes:
            pooled = [_pooled(tokens, size) for tokens in (found, wanted)]
            places = pooled[0].shape[1]
            order = torch.randperm(places, generator=generator)[: self.patches].to(found.device)
            target, source = (functional.normalize(x[:, order], dim=-1) for x in pooled)
            total = total + patch_contrast(target, source).sum()
        return total


def patch_contrast(target: Tensor, source: Tensor) -> Tensor:
    """The contrast [B] of unit features [B,P,C]: mean over places of −log softmax at their own.

    Source: Park et al., Contrastive Unpaired Translation, ECCV 2020, eq. 3.
    """
    batch, places, _ = target.shape
    logits = source @ target.transpose(1, 2) / TEMPERATURE
    own = torch.arange(places, device=target.device).repeat(batch)
    each = functional.cross_entropy(logits.flatten(0, 1), own, reduction="none")
    return each.reshape(batch, places).mean(1)


def features(inputs: Inputs, image: str, x_t: Tensor) -> list[Tensor]:
    """Outputs [B,P,C] of the upward self-attentions for x_t [B,C,h,w] under its own prompt."""
    with recorded(inputs.backbone) as found:
        inputs.backbone.predict_noise(x_t, inputs.t, inputs.texts[image], 1.0)
    return found


@contextmanager
def recorded(backbone: Backbone) -> Iterator[list[Tensor]]:
    """Records what the self-attentions of the UNet's upward half put out meanwhile."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        found.append(output)

    layers = self_attentions(backbone)
    chosen = [module for name, module in layers.items() if ".up_blocks." in name]
    if not chosen:
        raise UserError(
            "loss=cds reads the self-attention of a UNet, and this backbone has none; "
            "choose another backbone, or loss=dds"
        )
    hooks = [module.register_forward_hook(keep) for module in chosen]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _pooled(tokens: Tensor, size: int) -> Tensor:
    """Tokens [B,P,C] of a square, averaged over squares of `size`; [B,P/size²,C]."""
    side = math.isqrt(tokens.shape[1])
    if size == 1 or side * side != tokens.shape[1] or side < 2 * size:
        return tokens
    square = tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
    return functional.avg_pool2d(square, size).flatten(2).transpose(1, 2)
