"""The contract of an editor, and the way to a backbone's latents and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.errors import UserError
from pds_cli.pictures.files import resize


class Editor(ABC):
    """Edits images by text. Built from config with keyword options.

    Attributes:
        reads_words: it looks at no encoded prompts, only at the words that `begin` gave it.
    """

    reads_words: ClassVar[bool] = False

    def begin(  # noqa: B027 - optional
        self, *, prompt: str | Sequence[str], source: str | Sequence[str], negative: str = ""
    ) -> None:
        """Called once before the first edit, with the prompts as words.

        For editors that read prompts with a model of their own.

        Args:
            prompt, source: one, or one for each image of a batch.
        """

    def asks(self, backbone: Backbone) -> Backbone:
        """The diffusion prior that `edit` asks: the run's, unless the editor has its own."""
        return backbone

    def check(self, backbone: Backbone) -> None:
        """Called once, before anything is run: refuses what the backbone cannot do.

        Raises:
            UserError: an editor of more `steps` than it has timesteps.
        """
        if (steps := getattr(self, "steps", None)) is not None:
            check_steps(steps, self.asks(backbone).schedule.num_train_timesteps)

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


def check_draws_images(backbone: Backbone, what: str) -> None:
    """Refuses a backbone whose data are points, or whatever else an editor cannot redraw.

    Raises:
        UserError: naming `what` needs images.
    """
    if not backbone.draws_images:
        raise UserError(f"this backbone draws no images, which {what} needs")


def checked(**values: float) -> None:
    """Refuses editor options out of range: `steps` >= 1, ω finite, the others in [0, 1].

    Raises:
        UserError: naming the option.
    """
    for name, value in values.items():
        if name == "steps":
            if value < 1:
                raise UserError(f"editor.steps={value} must be a whole number of at least 1")
        elif name.endswith("guidance"):
            if not math.isfinite(value):
                raise UserError(f"editor.{name}={value} is not a finite number; try 7.5")
        elif not 0 <= value <= 1:
            raise UserError(f"editor.{name}={value} must lie between 0 and 1")


def start_of(strength: tuple[float, float], total: int, generator: torch.Generator) -> int:
    """The timestep to begin at, drawn from a range of strengths; −1 is the clean image."""
    low, high = strength
    share = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device)
    return round((low + (high - low) * float(share)) * total) - 1


def check_steps(steps: int, total: int) -> None:
    """Refuses a walk of more steps than a backbone has timesteps.

    Raises:
        UserError: it is.
    """
    if steps > total:
        raise UserError(f"editor.steps={steps} is more than the backbone's {total} timesteps")


def share_of(steps: int, start: int, total: int) -> int:
    """How many of a walk's `steps` lie below `start`, of `total` timesteps; at least one.

    Raises:
        UserError: more steps than timesteps.
    """
    check_steps(steps, total)
    return max(1, round(steps * (start + 1) / total))


def checked_strength(strength: float | Sequence[float]) -> tuple[float, float]:
    """The range of strengths as two floats, or a UserError."""
    try:
        values = [float(strength)] * 2 if isinstance(strength, int | float) else list(strength)
        low, high = (float(value) for value in values)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 <= low <= high <= 1:
        raise UserError(
            f"editor.strength={strength} must be a number between 0 and 1, or two, "
            "for example [0.1,0.2]"
        )
    return low, high
