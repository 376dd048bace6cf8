"""The contract of a representation: parameters θ and a differentiable renderer g."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.views.view import View


@dataclass(frozen=True)
class FitSettings:
    """How a representation is fitted.

    Attributes:
        steps: optimiser steps.
        lr: step size of Adam, times each parameter group's own scale.
        views_per_step: views whose pixels a step mixes.
        warmup: steps over which the step size rises from zero; it then falls along a cosine.
        cache: folder where fits are kept for the next run of the same scene and settings;
            None: nowhere.
    """

    steps: int = 300
    lr: float = 0.05
    views_per_step: int = 16
    warmup: int = 20
    cache: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "lr", "views_per_step"):
            if not getattr(self, name) > 0:
                raise UserError(
                    f"representation.fit.{name}={getattr(self, name)} must be greater than 0"
                )


class Representation(torch.nn.Module, ABC):
    """A parametric image. Constructed as `(scene, backbone, **options)`.

    `state_dict()` is all that a checkpoint needs to bring it back.

    Attributes:
        word: the name that a backbone's recommendations have for it, such as `nerf`.
        fit_settings: how it is fitted to its scene's images before an edit; None where it
            begins as the source.
    """

    word: ClassVar[str] = ""
    fit_settings: FitSettings | None = None

    @property
    def device(self) -> torch.device:
        """Where θ is."""
        return next(self.parameters()).device

    @abstractmethod
    def render(self, view: View) -> Tensor:
        """g(θ, view): an image [1,3,H,W] in [0,1], differentiable in θ."""

    @torch.no_grad()
    def render_full(self, view: View) -> Tensor:
        """The image [3,H,W] in [0,1] of a view, without a graph, at the size of its own image.

        A representation that renders smaller than that while it is edited overrides this.
        """
        return self.render(view)[0].clamp(0, 1)

    def render_latent(self, view: View) -> Tensor | None:
        """x_0 [1,C,h,w] where θ lives in the backbone's latent space, else None."""
        return None

    def reconstruction_loss(
        self, pairs: Sequence[tuple[View, Tensor]], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """How far g(θ, view) is from an image [3,H,W], as a scalar with a graph, and logs.

        The default is the mean squared error over all pixels; a representation may draw a part
        of them with `generator`. `view.mask` is respected.
        """
        from pds_cli.pictures.files import resize

        errors = []
        for view, image in pairs:
            render = self.render(view)
            size = render.shape[-2:]
            error = (render - resize(image.to(render), *size)[None]).square()
            if view.mask is not None:
                error = error * resize(view.mask.to(render), *size)[None]
            errors.append(error.mean())
        loss = torch.stack(errors).mean()
        return loss, {"psnr": -10 * math.log10(max(float(loss.detach()), 1e-10))}

    def penalty(self, view: View, progress: float, generator: torch.Generator) -> Tensor | None:
        """A scalar with a graph that every step of an edit adds to its loss; None for nothing.

        For what is wanted of θ whatever the prompt says.

        Args:
            view: the view that the step renders.
            progress: how much of the edit is done, 0 … 1.
            generator: the only source of randomness.
        """
        return None

    def source_latent(self, view: View) -> Tensor:
        """x_0^src for a view without an image, in the shape of `render_latent`.

        Raises:
            NotImplementedError: where sources are always images.
        """
        raise NotImplementedError(f"{type(self).__name__} edits views that have an image")

    def show(self, view: View, image: Tensor) -> None:
        """Sets θ so that the view shows `image` [1,3,H,W] in [0,1], where θ is a picture."""
        raise NotImplementedError(f"{type(self).__name__} is no picture")

    def hold_source(self) -> None:
        """Called when θ is the source of an edit, in each process that works on the edit."""

    def begin_edit(self) -> None:
        """Called before the first step of an edit in this process."""

    def fit_options(self) -> dict[str, Any]:
        """The options that shape a fit, for `pds_cli.training.fit.fit_key`."""
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser; by default one group of all parameters.

        A group's `lr_scale` multiplies the step size.
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def regularise(self) -> None:
        """Brings θ back to its valid range; called by `after_step`."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Called after every optimiser step; what changes many parameters minds their moments."""
        self.regularise()

    def idle(self) -> dict[str, str]:
        """Keys of a run that have no effect on this representation → what makes that so."""
        return {"turntable": "an edit of a single view"}

    def changes(self) -> dict[str, float]:
        """How far θ is from where it began, in numbers of its own, for a run's metrics."""
        return {}

    @abstractmethod
    def export(self, folder: Path) -> list[Path]:
        """Writes the result in the formats users expect; returns the files written."""
