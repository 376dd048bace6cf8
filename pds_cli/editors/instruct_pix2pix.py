"""InstructPix2Pix: a diffusion model that edits pictures by instruction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.stable_diffusion import StableDiffusion
from pds_cli.editors.base import (
    Editor,
    checked,
    checked_strength,
    decode,
    encode,
    share_of,
    start_of,
)
from pds_cli.errors import UserError
from pds_cli.sampling import ddim, normal_like


class InstructModel(StableDiffusion):
    """A Stable-Diffusion-format UNet that sees a second image beside the noisy one."""

    image_inputs = 2

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
            image: the latents of the image to edit, without the VAE's scale, [B,C,h,w].
            guidance, image_guidance: s_T and s_I.

        Source: Brooks et al., InstructPix2Pix, CVPR 2023, arXiv 2211.09800, eq. 3.
        """
        conditions = torch.cat([image, image, torch.zeros_like(image)])
        inputs = torch.cat([torch.cat([x_t] * 3), conditions], 1)
        tokens = torch.cat([text.cond["tokens"], text.null["tokens"], text.null["tokens"]])
        output = self.unet(
            inputs.to(tokens.dtype), t.repeat(3), encoder_hidden_states=tokens
        ).sample
        eps = self._to_eps(output.float(), torch.cat([x_t] * 3).float(), t.repeat(3)).to(x_t)
        whole, pictured, plain = eps.chunk(3)
        return plain + image_guidance * (pictured - plain) + guidance * (whole - pictured)


class InstructPix2Pix(Editor):
    """Edits by an instruction such as "give him a hat", with a model of its own.

    The prompt is the instruction. What is noised is the image as it is; what the model looks at
    is the source, so that repeated edits do not drift (Instruct-NeRF2NeRF). The run's backbone
    is not asked.

    Args:
        model: hub id, or folder in diffusers format.
        steps: DDIM steps of the whole walk, of which an edit takes its share.
        guidance: ω of the instruction.
        image_guidance: ω of the image.
        strength: how much noise, in [0, 1]; two values are a range to draw from in each edit.
        device, dtype: see `StableDiffusion`.

    Raises:
        UserError: an option out of its range, or a model that is none.

    Source: Brooks et al., InstructPix2Pix, CVPR 2023, arXiv 2211.09800.
    """

    def __init__(
        self,
        *,
        model: str = "timbrooks/instruct-pix2pix",
        steps: int = 100,
        guidance: float = 7.5,
        image_guidance: float = 1.5,
        strength: float | Sequence[float] = 1.0,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        checked(steps=steps, guidance=guidance, image_guidance=image_guidance)
        self.steps, self.guidance = steps, float(guidance)
        self.image_guidance = float(image_guidance)
        self.strength = checked_strength(strength)
        self.model = InstructModel(model, device=device, dtype=dtype)
        self.text: Text | None = None

    def begin(self, *, prompt: str, source: str, negative: str = "") -> None:
        """Encodes the instruction with the model's own text encoder."""
        self.text = self.model.encode_prompt([prompt], negative)

    @torch.no_grad()
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
        """See `Editor.edit`; `backbone` and the encoded prompts are not looked at."""
        if self.text is None:
            raise UserError("editor=instruct_pix2pix needs Editor.begin before its first edit")
        model, total = self.model, self.model.num_train_timesteps
        start = start_of(self.strength, total, generator)
        x0 = encode(model, image)
        if start < 0:
            return decode(model, x0, image)
        looked_at = encode(model, source) / model.latent_scale + model.latent_shift
        t, text = torch.full((len(x0),), start, device=x0.device), self.text.expand(len(x0))
        scales = self.guidance, self.image_guidance
        x0 = ddim(
            model,
            model.add_noise(x0, t, normal_like(x0, generator)),
            text,
            steps=share_of(self.steps, start, total),
            start=start,
            predict=lambda x_t, t: model.predict_edit(x_t, t, text, looked_at, *scales),
        )
        return decode(model, x0, image)
