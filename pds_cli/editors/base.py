"""The contract of an editor, and the way to a backbone's latents and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.errors import UserError
from pds_cli.images import resize


class Editor(ABC):
    """Edits images by text. Built from config with keyword options."""

    def begin(self, *, prompt: str, source: str, negative: str = "") -> None:  # noqa: B027
        """Called once before the first edit, with the prompts as words.

        For editors that read prompts with a model of their own.
        """

    @abstractmethod
    def edit(
        self,
        backbone: Backbone,
        image: Tensor,
        source: Tensor,
        text_tgt: Text,
        text_src: Text | None,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """The edited images [B,3,H,W] in [0,1], without a graph.

        Args:
            backbone: the diffusion prior.
            image: what is edited, [B,3,H,W] in [0,1].
            source: what it was before any edit, [B,3,H,W] in [0,1]; not every editor looks at it.
            text_tgt: the target prompt, 1 or B encoded prompts.
            text_src: the source prompt likewise; None where the editor needs none.
            generator: the only source of randomness.
        """


def encode(backbone: Backbone, image: Tensor) -> Tensor:
    """x_0 [B,C,h,w] of images [B,3,H,W] in [0,1], resized to what the backbone takes."""
    image = image.to(backbone.device)
    return backbone.encode_image(resize(image, *backbone.image_size(*image.shape[-2:])))


def decode(backbone: Backbone, x0: Tensor, like: Tensor) -> Tensor:
    """Images of x_0 [B,C,h,w] in [0,1], in the size, dtype and place of `like` [B,3,H,W]."""
    image = backbone.decode_latent(x0).clamp(0, 1)
    return resize(image, *like.shape[-2:]).to(like)


def checked(owner: str, **values: float) -> None:
    """Refuses editor options out of range: `steps` >= 1, ω finite, the others in [0, 1].

    Raises:
        UserError: naming the option of `owner`, such as `editor`.
    """
    for name, value in values.items():
        if name == "steps":
            if value < 1:
                raise UserError(f"{owner}.steps={value} must be a whole number of at least 1")
        elif name.endswith("guidance"):
            if not math.isfinite(value):
                raise UserError(f"{owner}.{name}={value} is not a finite number; try 7.5")
        elif not 0 <= value <= 1:
            raise UserError(f"{owner}.{name}={value} must lie between 0 and 1")
