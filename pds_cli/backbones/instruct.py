"""What models share that look at a source image beside the noisy one, and take instructions."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pds_cli.backbones.base import Text


class InstructMixin(ABC):
    """Guidance by an image and an instruction; a model says how it predicts beside an image."""

    image_inputs = 2

    @abstractmethod
    def predict_beside(
        self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor], image: Tensor
    ) -> Tensor:
        """ε̂ [N,C,h,w] of noisy latents [N,C,h,w] at t [N], looking at the latents `image`."""

    def look(self, x0: Tensor) -> Tensor:
        """What the model looks at, of the source's x_0 [B,C,h,w]: here, these latents."""
        return x0

    def predict_edit(
        self,
        x_t: Tensor,
        t: Tensor,
        text: Text,
        image: Tensor,
        guidance: float,
        image_guidance: float,
    ) -> Tensor:
        """ε̂ = ε̂(∅,∅) + s_I (ε̂(I,∅) − ε̂(∅,∅)) + s_T (ε̂(I,y) − ε̂(I,∅)), [B,C,h,w].

        Args:
            x_t: noisy latents [B,C,h,w] at t [B].
            text: B encoded instructions y.
            image: from `look`, [B,C,h,w].
            guidance, image_guidance: s_T and s_I.

        Source: Brooks et al., InstructPix2Pix, CVPR 2023, arXiv 2211.09800, eq. 3.
        """
        seen = torch.cat([image, image, torch.zeros_like(image)])
        cond = {key: torch.cat([text.cond[key], *[text.null[key]] * 2]) for key in text.cond}
        eps = self.predict_beside(torch.cat([x_t] * 3), t.repeat(3), cond, seen).to(x_t)
        whole, pictured, plain = eps.chunk(3)
        return plain + image_guidance * (pictured - plain) + guidance * (whole - pictured)
