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
        spread: standard deviation of each channel that the UNet's prediction is preconditioned
            with (`Schedule.preconditioning`); None: with 1 for all, so not at all.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        patch: int = 4,
        width: int = 96,
        blocks: int = 3,
        spread: list[float] | None = None,
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
    def spread(self) -> Tensor | None:
        """Of each channel [C], or None; see the class."""
        config: Any = self.config
        return None if config.spread is None else self.mean.new_tensor(config.spread)

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
        mean, covariance = self._moments(images)
        std, basis = _components(covariance, self.encoder.shape[0])
        gain = std.pow(-whiten)
        gain = gain / (gain * std).square().mean().sqrt()
        self._set(mean, gain[:, None] * basis, gain * std)

    @torch.no_grad()
    def grow_components(
        self, former: PatchAutoencoder, images: Tensor, whiten: float = 0.5
    ) -> None:
        """Sets the linear maps so that the first channels are another autoencoder's latents.

        Those of the same picture at the size that `former` knows: averaged down by p / p_former.
        The channels that are left hold principal components of what those do not tell, scaled by
        the law that `former`'s follow. So a network that knows `former`'s latents knows these in
        part; the spreads of those stay what it was trained with. (Growing by resolution: Karras
        et al., Progressive GAN, arXiv 1710.10196.)

        Args:
            former: with patches smaller by a power of two, and fewer channels or as many.
            images: [N,3,H,W] in [−1,1], to find what is left in.
            whiten: that of `former`.

        Raises:
            ValueError: its patches or channels do not fit.
        """
        times, remainder = divmod(self._patch, former._patch)
        kept = len(former.encoder)
        if remainder or times < 1 or kept > len(self.encoder):
            raise ValueError("latents grow from smaller patches, and to more channels")
        mean, covariance = self._moments(images)
        down = _averaging(former._patch, times).to(mean)
        known = former.encoder.double() @ down
        # The former mean where the former latents look, so that they are exactly what they were.
        mean = mean + times**2 * down.T @ (former.mean.double() - down @ mean)
        outside = torch.eye(len(mean)).to(mean) - torch.linalg.pinv(known) @ known
        std, basis = _components(outside @ covariance @ outside, len(self.encoder) - kept)
        # In a patch of the former's size the same picture has a spread `times` smaller.
        norm, first = former.encoder[0].double().norm(), known[0]
        first_std = (first @ covariance @ first).sqrt() / norm
        gain = norm * (std / times / first_std).pow(-whiten) / times
        before = mean.new_ones(kept) if former.spread is None else former.spread.double()
        encoder = torch.cat([known, gain[:, None] * basis])
        self._set(mean, encoder, torch.cat([before, gain * std]))

    def _moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [3p²] and covariance [3p²,3p²] of the patches, in double precision."""
        patches = F.pixel_unshuffle(images, self._patch).movedim(1, -1).flatten(0, -2)
        mean = patches.mean(0, dtype=torch.float64)
        return mean, torch.cov((patches - mean.to(patches)).T).double()

    def _set(self, mean: Tensor, encoder: Tensor, spread: Tensor) -> None:
        self.register_to_config(spread=spread.tolist())
        self.mean.copy_(mean)
        self.encoder.copy_(encoder)
        self.decoder.copy_(torch.linalg.pinv(encoder))


def _components(covariance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Spreads [K] and directions [K,D] of the leading principal components."""
    values, vectors = torch.linalg.eigh(covariance)
    std = values.flip(0)[:count].clamp_min(1e-12).sqrt()
    basis = vectors.flip(1)[:, :count].T
    # The sign of an eigenvector is arbitrary: fix it, so that every machine gets one answer.
    return std, basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()


def _averaging(patch: int, times: int) -> Tensor:
    """The matrix [3p²,3(p·times)²] that averages a patch down, in `pixel_unshuffle`'s order."""
    side = patch * times
    units = torch.eye(3 * side * side).view(-1, 3 * side * side, 1, 1)
    small = F.avg_pool2d(F.pixel_shuffle(units, side), times)
    return F.pixel_unshuffle(small, patch)[:, :, 0, 0].T
