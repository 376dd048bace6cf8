"""InstructPix2Pix: a diffusion model that edits pictures by instruction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.embedded import EmbeddedBackbone, EmbeddedInstructModel, folder_of
from pds_cli.backbones.instruct import InstructMixin
from pds_cli.backbones.sampling import ddim, normal_like
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
from pds_cli.reading import read_json


class InstructModel(InstructMixin, StableDiffusion):
    """A Stable-Diffusion-format UNet that sees a second image beside the noisy one."""

    def look(self, x0: Tensor) -> Tensor:
        """The latents without the VAE's scale."""
        return x0 / self.latent_scale + self.latent_shift

    def predict_beside(
        self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor], image: Tensor
    ) -> Tensor:
        """See `InstructMixin.predict_beside`."""
        inputs = torch.cat([x_t, image], 1).to(cond["tokens"].dtype)
        output = self.unet(inputs, t, encoder_hidden_states=cond["tokens"]).sample
        return self.schedule.to_eps(output.float(), x_t.float(), t, self.prediction_type)


def load_model(model: str, device: str, dtype: str) -> InstructModel | EmbeddedInstructModel:
    """A model by hub id or folder in diffusers format, or one that ships with the package.

    Raises:
        UserError: there is none, or it is no model for instructions.
    """
    folder = folder_of(model)
    try:
        index = read_json(folder / "model_index.json")
        embedded = index["_class_name"] == EmbeddedBackbone.__name__
    except (UserError, KeyError, TypeError):
        embedded = False
    if embedded:
        return EmbeddedInstructModel(str(folder), device=device)
    try:
        return InstructModel(model, device=device, dtype=dtype)
    except UserError as error:  # it speaks of the key that backbones have
        text = str(error).replace("backbone=local backbone.model", "editor.model")
        raise UserError(text.replace("backbone.model", "editor.model")) from error


class InstructPix2Pix(Editor):
    """Edits by an instruction such as "give him a hat", with a model of its own.

    The prompt is the instruction. What is noised is the image as it is; what the model looks at
    is the source, so that repeated edits do not drift (Instruct-NeRF2NeRF). The run's backbone
    is not asked.

    Args:
        model: hub id, folder in diffusers format, folder that `pds pretrain data.pairs=true`
            wrote, or the name of one shipped with the package (`toybox_instruct`).
        steps: DDIM steps of the whole walk, of which an edit takes its share.
        guidance: ω of the instruction.
        image_guidance: ω of the image.
        strength: how much noise, in [0, 1]; two values are a range to draw from in each edit.
        device, dtype: see `StableDiffusion`.

    Raises:
        UserError: an option out of its range, or a model that is none.

    Source: Brooks et al., InstructPix2Pix, CVPR 2023, arXiv 2211.09800.
    """

    reads_words = True

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
        self.model = load_model(model, device, dtype)
        self.text: Text | None = None

    def begin(
        self, *, prompt: str | Sequence[str], source: str | Sequence[str], negative: str = ""
    ) -> None:
        """Encodes the instruction with the model's own text encoder."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        self.text = self.model.encode_prompt(prompts, negative)

    def asks(self, backbone: Backbone) -> Backbone:
        """The model of its own."""
        return self.model

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
        model, total = self.model, self.model.schedule.num_train_timesteps
        start = start_of(self.strength, total, generator)
        x0 = encode(model, image)
        if start < 0:
            return decode(model, x0, image)
        looked_at = model.look(encode(model, source))
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
