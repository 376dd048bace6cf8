"""A UNet with a fine branch: what it makes of patches is corrected at twice their resolution.

Latents of patches of P pixels have many channels at few places. A UNet at those places is cheap,
but it has to tell edges inside of a patch from its channels alone, and learns that last and badly.
Here a few residual blocks look at the same latents as P/2-pixel patches see them, with the UNet's
last features beside them, and add to what it found.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from pds_cli.backbones.patch_autoencoder import PatchAutoencoder

CHANNELS = 16  # of a fine place
_GROUPS = 16


class _Residual(nn.Module):
    def __init__(self, width: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(groups, width)
        self.conv_in = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(embedding, width)
        self.norm_out = nn.GroupNorm(groups, width)
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x))) + self.time(embedding)[:, :, None, None]
        found: Tensor = x + self.conv_out(F.silu(self.norm_out(h)))
        return found


class FineBranch(nn.Module):
    """What is added to a UNet's output [B,C,h,w]; at first nothing.

    `to_fine` and `from_fine` are linear maps from a place's C channels to `CHANNELS` channels of
    each of its four quarters, and back; `set_maps` makes them those of pictures.

    Args:
        channels: C. features: of the UNet's last layer. embedding: of the time.
        width: channels at the fine places. blocks: residual blocks there.
    """

    def __init__(
        self, channels: int, features: int, embedding: int, width: int, blocks: int
    ) -> None:
        super().__init__()
        groups = next(g for g in range(min(_GROUPS, width), 0, -1) if width % g == 0)
        self.to_fine = nn.Conv2d(channels, 4 * CHANNELS, 1, bias=False)
        self.from_fine = nn.Conv2d(4 * CHANNELS, channels, 1, bias=False)
        self.conv_in = nn.Conv2d(CHANNELS, width, 3, padding=1)
        self.features = nn.Conv2d(features, 4 * width, 1)
        self.blocks = nn.ModuleList([_Residual(width, embedding, groups) for _ in range(blocks)])
        self.norm = nn.GroupNorm(groups, width)
        self.conv_out = nn.Conv2d(width, CHANNELS, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, sample: Tensor, features: Tensor, embedding: Tensor) -> Tensor:
        """[B,C,h,w] for x_t [B,C,h,w], features [B,F,h,w] and the time's embedding [B,E]."""
        h = self.conv_in(F.pixel_shuffle(self.to_fine(sample), 2))
        h = h + F.pixel_shuffle(self.features(features), 2)
        embedding = F.silu(embedding)
        for block in self.blocks:
            h = block(h, embedding)
        found: Tensor = self.from_fine(F.pixel_unshuffle(self.conv_out(F.silu(self.norm(h))), 2))
        return found

    @torch.no_grad()
    def set_maps(self, autoencoder: PatchAutoencoder, images: Tensor, whiten: float) -> None:
        """Lets a fine place be what an autoencoder of half the patch makes of its pixels.

        Args:
            autoencoder: of the latents. images: [N,3,H,W] in [−1,1], for the other's components.
        """
        config: Any = autoencoder.config
        half = config.patch // 2
        fine = PatchAutoencoder(min(CHANNELS, 3 * half**2), half, 8, 0)
        fine.fit_components(images.to(fine.mean), whiten)
        for conv, begin, end in (
            (self.to_fine, autoencoder, fine),
            (self.from_fine, fine, autoencoder),
        ):
            conv.weight.copy_(_between(begin, end, conv.weight))


def _between(begin: PatchAutoencoder, end: PatchAutoencoder, like: Tensor) -> Tensor:
    """The linear map from one's latents of a place to the other's, as 1×1 weights like `like`."""
    coarse = "to" if begin._patch > end._patch else "from"
    inputs = like.shape[1]
    unit = torch.eye(inputs)[:, :, None, None]
    if coarse == "from":
        unit = F.pixel_shuffle(unit, 2)[:, : begin.encoder.shape[0]]
    patches = F.conv2d(unit, begin.decoder.float().cpu()[:, :, None, None])
    picture = F.pixel_shuffle(patches, begin._patch)
    patches = F.pixel_unshuffle(picture, end._patch)
    found = F.conv2d(patches, end.encoder.float().cpu()[:, :, None, None])
    if coarse == "to":
        missing = CHANNELS - found.shape[1]
        found = F.pixel_unshuffle(F.pad(found, (0, 0, 0, 0, 0, missing)), 2)
    return found.flatten(1).T[:, :, None, None].to(like)


_Base: Any = UNet2DConditionModel


class FineUNet(_Base):  # type: ignore[misc]
    """diffusers' UNet with a `FineBranch`.

    Args:
        fine_width, fine_blocks: `width` and `blocks` of the branch.
        others: as of `UNet2DConditionModel`. Of input channels beyond those of the output, a
            source's, the branch sees nothing.
    """

    def __init__(
        self, *args: Any, fine_width: int = 64, fine_blocks: int = 3, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.register_to_config(fine_width=fine_width, fine_blocks=fine_blocks)
        self.fine = FineBranch(
            self.config.out_channels,
            self.conv_out.in_channels,
            self.time_embedding.linear_2.out_features,
            fine_width,
            fine_blocks,
        )

    # diffusers reads from the signature what a configuration may hold.
    __init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *inspect.signature(UNet2DConditionModel.__init__).parameters.values(),
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
                for name, value in (("fine_width", 64), ("fine_blocks", 3))
            ),
        ]
    )

    def forward(self, sample: Tensor, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        """As of `UNet2DConditionModel`."""
        held: list[Tensor] = []
        hook = self.conv_out.register_forward_pre_hook(lambda _, inputs: held.append(inputs[0]))
        try:
            found = super().forward(sample, timestep, *args, **kwargs)
        finally:
            hook.remove()
        embedding = self.time_embedding(self.get_time_embed(sample, timestep).to(held[0].dtype))
        more = self.fine(sample[:, : self.config.out_channels], held[0], embedding)
        if isinstance(found, tuple):
            return (found[0] + more, *found[1:])
        found.sample = found.sample + more
        return found


def unet_class(config: Any) -> Any:
    """`FineUNet` where a configuration asks for a branch, else diffusers' own."""
    return FineUNet if config.get("fine_width") else UNet2DConditionModel
