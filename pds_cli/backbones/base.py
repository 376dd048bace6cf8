"""The contract of a backbone: a text-to-image diffusion prior that predicts noise."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pds_cli.backbones.schedule import Schedule
from pds_cli.errors import UserError
from pds_cli.views.view import View


def check_finite(module: torch.nn.Module) -> None:
    """Looks at every weight.

    Raises:
        ValueError: one is NaN or infinite, by name.
    """
    for name, value in module.named_parameters():
        if not bool(value.isfinite().all()):
            raise ValueError(f"its weights {name} hold NaN or infinity")


def resolve_device(device: str | torch.device) -> torch.device:
    """The device to run on; `auto` takes CUDA where it is there.

    Raises:
        UserError: an unknown device, or one of CUDA that is not there.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UserError(
            f"device={device} is not known: auto, cpu or cuda would be right"
        ) from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={device} is asked for but there is no CUDA here: use device=cpu")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={device} is asked for but CUDA's devices here end with "
            f"cuda:{torch.cuda.device_count() - 1}"
        )
    return resolved


@dataclass(frozen=True)
class Text:
    """Encoded prompts with their unconditional counterparts.

    `cond` and `null` hold the same keys (for example `tokens` [B,L,D], `mask` [B,L], `pooled`
    [B,D]); every tensor's first dimension is the batch.
    """

    cond: dict[str, Tensor]
    null: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.cond.values())))

    def __getitem__(self, index: slice | Tensor) -> Text:
        return Text(
            {k: v[index] for k, v in self.cond.items()},
            {k: v[index] for k, v in self.null.items()},
        )

    def expand(self, batch: int) -> Text:
        """Repeats a single prompt `batch` times; a batch that already fits is returned as it is."""
        if len(self) == batch:
            return self
        if len(self) != 1:
            raise ValueError(f"cannot expand {len(self)} prompts to a batch of {batch}")
        return self[torch.zeros(batch, dtype=torch.long)]

    @staticmethod
    def cat(texts: Sequence[Text]) -> Text:
        """Joins several batches of prompts into one."""
        first = texts[0]
        return Text(
            {k: torch.cat([t.cond[k] for t in texts]) for k in first.cond},
            {k: torch.cat([t.null[k] for t in texts]) for k in first.null},
        )


class Backbone(torch.nn.Module, ABC):
    """A diffusion prior on x_0 of shape [B,C,h,w], with noise prediction on its schedule.

    Attributes:
        schedule: how noise is added; set by the class's `__init__`.
        resolution: side in pixels of the square images that the backbone was trained on.
        draws_images: False where x_0 is no picture in RGB, but a point, say: editors refuse it.
        knows_cameras: it can be told from where a picture looks, see `with_camera`.
    """

    schedule: Schedule
    resolution: int
    draws_images: bool = True
    knows_cameras: bool = False

    @property
    def device(self) -> torch.device:
        """Where the backbone's tensors are."""
        return self.schedule.alphas_cumprod.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (C, h, w) of x_0 at the backbone's own resolution; asks the encoder."""
        height, width = self.image_size(self.resolution, self.resolution)
        with torch.no_grad():
            blank = torch.zeros(1, 3, height, width, device=self.device)
            channels, rows, columns = self.encode_image(blank).shape[1:]
        return channels, rows, columns

    def denoiser(self) -> Any:
        """The network that a LoRA may be hung on, a diffusers model; None where there is none."""
        return None

    @abstractmethod
    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) in pixels nearest to the given one that the backbone can take."""

    @abstractmethod
    def encode_image(self, image: Tensor) -> Tensor:
        """Maps images [B,3,H,W] in [0,1] to x_0 [B,C,h,w]; differentiable, deterministic."""

    @abstractmethod
    def decode_latent(self, x0: Tensor) -> Tensor:
        """Maps x_0 [B,C,h,w] to images [B,3,H,W]; differentiable, not clamped to [0,1]."""

    @abstractmethod
    def encode_prompt(self, prompts: Sequence[str], negative: str = "") -> Text:
        """Encodes B prompts, and `negative` as the unconditional counterpart of each."""

    def unknown_words(self, prompt: str) -> dict[str, list[str]]:
        """The words of a prompt that the backbone cannot read, each with the nearest it knows.

        None, unless its vocabulary is closed.
        """
        return {}

    def seen_from(self, text: Text, view: View) -> Text:
        """What encoded prompts mean for a picture of `view`, with the same batch.

        The text as it is, unless the backbone knows from where it looks.
        """
        return text

    def with_camera(self, text: Text, azimuth: float, elevation: float) -> Text:
        """What encoded prompts mean for a picture from there; the same where it is not known.

        Args:
            azimuth, elevation: degrees, from the scene's front and above its horizon.

        Source: Shi et al., MVDream, arXiv 2308.16512, section 3.2.
        """
        return text

    @abstractmethod
    def predict_eps(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Raw noise prediction ε̂ [N,C,h,w] for x_t [N,C,h,w] at integer t [N], no guidance.

        Whatever the network predicts (ε, v, x_0, velocity) is converted to ε here.
        """

    def predict_noise(
        self, x_t: Tensor, t: Tensor, text: Text, guidance: float | Tensor = 1.0
    ) -> Tensor:
        """Classifier-free guided ε̂ = ε̂_∅ + ω(ε̂_y − ε̂_∅) in one batched network call.

        Args:
            x_t: noisy latents [B,C,h,w].
            t: integer timesteps [B] in [0, T).
            text: B encoded prompts.
            guidance: ω, a float or one value a sample [B]; 1 is the plain conditional model and
                0 the unconditional one, either for half the work.

        Returns:
            ε̂ [B,C,h,w].

        Source: Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv 2207.12598, eq. 6.
        """
        omega = torch.as_tensor(guidance, dtype=x_t.dtype, device=x_t.device).expand(len(x_t))
        # ω = 0 needs the unconditional half alone, ω = 1 the conditional one.
        first = {k: _choose(omega == 0, text.null[k], v) for k, v in text.cond.items()}
        guided = ((omega != 1) & (omega != 0)).nonzero()[:, 0]
        if len(guided) == 0:
            return self.predict_eps(x_t, t, first)
        cond = {k: torch.cat([v, text.null[k][guided]]) for k, v in first.items()}
        eps = self.predict_eps(torch.cat([x_t, x_t[guided]]), torch.cat([t, t[guided]]), cond)
        full, null = eps[: len(x_t)], eps[len(x_t) :]
        scale = omega[guided].reshape(-1, *[1] * (x_t.ndim - 1))
        return full.index_copy(0, guided, null + scale * (full[guided] - null))

    def add_noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε for x_0, ε [B,C,h,w] and integer t [B]."""
        return self.schedule.add_noise(x0, t, eps)


def _choose(where: Tensor, this: Tensor, other: Tensor) -> Tensor:
    """`this` [B,…] for the samples where `where` [B] is true, `other` for the rest."""
    return torch.where(where.reshape(-1, *[1] * (this.ndim - 1)), this, other)


def warn_unknown_words(backbone: Backbone, *prompts: str) -> None:
    """Says on stderr which words an embedded backbone cannot read, and what would be right."""
    unknown: dict[str, list[str]] = {}
    for prompt in prompts:
        unknown |= backbone.unknown_words(prompt)
    for word, near in unknown.items():
        hint = f"; the nearest it knows: {', '.join(near)}" if near else ""
        print(f"pds: this backbone never saw the word {word!r}{hint}", file=sys.stderr)
    if unknown:
        print("pds: for free vocabulary use a large model, e.g. backbone=sd15", file=sys.stderr)
