"""A small autoencoder for embedded backbones: linear patch encoder, convolutional decoder.

The encoder projects each p×p patch on its leading principal components and scales component k
by std_k^(−whiten). It is linear, so the gradient that a loss gives on x_0 reaches the pixels
through a constant matrix, and it needs no training. The decoder starts from the linear inverse
and adds a learned residual that restores what the dropped components held.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class PatchAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Images [B,3,H,W] in [−1,1] ↔ latents [B,C,H/p,W/p] of about unit variance.

    Args:
        latent_channels: C, the number of components kept of the 3p².
        patch: p, a power of two.
        width: channels of the decoder at latent resolution.
        blocks: residual blocks at latent resolution.
    """

    @register_to_config
    def __init__(
        self, latent_channels: int = 16, patch: int = 4, width: int = 96, blocks: int = 3
    ) -> None:
        super().__init__()
        size = 3 * patch * patch
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("encoder", torch.zeros(latent_channels, size))
        self.register_buffer("decoder", torch.zeros(size, latent_channels))
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, width, 3, padding=1)]
        layers += [_Residual(width) for _ in range(blocks)]
        scale = patch
        while scale > 1:
            narrower = max(24, width // 3)
            layers += [nn.SiLU(), nn.Conv2d(width, narrower * 4, 3, padding=1), nn.PixelShuffle(2)]
            layers += [_Residual(narrower)] if scale > 2 else []
            width, scale = narrower, scale // 2
        layers += [nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1)]
        self.residual = nn.Sequential(*layers)
        nn.init.zeros_(layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]

    def encode(self, images: Tensor) -> Tensor:
        """Latents [B,C,h,w] of images [B,3,H,W] in [−1,1]; linear."""
        patches = F.pixel_unshuffle(images, self._patch) - self._column(self.mean)
        # Not in the images' own precision where that is half: the mean's is wider.
        return F.conv2d(patches, self.encoder[:, :, None, None].to(patches.dtype)).to(images.dtype)

    def decode_linear(self, latents: Tensor) -> Tensor:
        """The pseudo-inverse of `encode`: images [B,3,H,W]."""
        patches = F.conv2d(latents, self.decoder[:, :, None, None].to(latents.dtype))
        return F.pixel_shuffle(patches + self._column(self.mean), self._patch)

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B,3,H,W] of latents [B,C,h,w], not clamped."""
        image: Tensor = self.decode_linear(latents) + self.residual(latents)
        return image

    @property
    def _patch(self) -> int:
        config: Any = self.config
        return int(config.patch)

    @staticmethod
    def _column(values: Tensor) -> Tensor:
        return values[None, :, None, None]

    @torch.no_grad()
    def fit_components(self, images: Tensor, whiten: float = 0.5) -> None:
        """Sets the linear maps from images [N,3,H,W] in [−1,1] by principal components.

        Args:
            whiten: 0 keeps each component's spread, 1 makes all spreads equal; the latents are
                then scaled to unit mean variance.
        """
        patches = F.pixel_unshuffle(images, self._patch).movedim(1, -1).flatten(0, -2).double()
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
        kept = self.encoder.shape[0]
        std = values.flip(0)[:kept].clamp_min(1e-12).sqrt()
        basis = vectors.flip(1)[:, :kept].T
        # The sign of an eigenvector is arbitrary: fix it, so that every machine gets one answer.
        basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
        gain = std.pow(-whiten)
        gain = gain / (gain * std).square().mean().sqrt()
        self.mean.copy_(mean)
        self.encoder.copy_(gain[:, None] * basis)
        self.decoder.copy_(basis.T / gain)
