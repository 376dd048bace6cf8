"""Score Distillation via Inversion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pds_cli.backbones.sampling import ddim_invert
from pds_cli.errors import UserError
from pds_cli.losses.base import Branches, Inputs, Loss, inner_generator


@dataclass(kw_only=True)
class SDI(Loss):
    """Gradient w(t) (ε̂_y(x_t) − κ), where κ is the noise that inversion finds in x_0.

    SDS is DDIM in another variable with random noise where κ should be, which blurs. κ solves
    κ = ε̂(√ᾱ_t x_0 + √(1−ᾱ_t) κ), and DDIM inversion approximates it; where it holds exactly,
    with the guidance of the first term, the gradient is zero.

    Attributes:
        inversion_guidance: ω on the way to x_t. Published are s = 7.5 for the edit and −7.5 here,
            in ε̂_y + s (ε̂_y − ε̂_∅): they are ω = 8.5 and −6.5.
        inversion_steps: network calls on the way.
        inversion_eta: share of fresh noise on the way, see `ddim_invert`.
        fixed_point: iterations of κ ← ε̂(√ᾱ_t x_0 + √(1−ᾱ_t) κ) afterwards.

    Source: Lukoianov et al., Score Distillation via Reparametrized DDIM, NeurIPS 2024,
    arXiv 2405.15891, eq. 11 and section 5.
    """

    timesteps: Sequence[float] = (0.25, 0.98)
    schedule: str = "annealed"
    weighting: str = "x0"
    inversion_guidance: float = -6.5
    inversion_steps: int = 10
    inversion_eta: float = 0.3
    fixed_point: int = 0

    uses_source: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inversion_steps < 1 or self.fixed_point < 0:
            raise UserError(
                "loss.inversion_steps must be at least 1 and loss.fixed_point at least 0"
            )
        if not math.isfinite(self.inversion_guidance) or not 0 <= self.inversion_eta <= 1:
            raise UserError(
                "loss.inversion_guidance must be a number, and loss.inversion_eta lie between 0 "
                "and 1"
            )

    def noised(self, inputs: Inputs) -> tuple[dict[str, Tensor], Tensor]:
        """x_t at the end of the inversion, and κ in it."""
        backbone, t, text = inputs.backbone, inputs.t, inputs.texts["tgt"]
        x0, omega = inputs.images["tgt"], self.inversion_guidance
        x_t = ddim_invert(
            backbone, x0, t, text, steps=self.inversion_steps, guidance=omega,
            eta=self.inversion_eta, generator=inner_generator(inputs.eps),
        )  # fmt: skip
        kappa = backbone.schedule.to_eps(x0, x_t, t, "sample")
        for _ in range(self.fixed_point):
            kappa = backbone.predict_noise(x_t, t, text, omega).to(x0)
            x_t = backbone.add_noise(x0, t, kappa)
        return {"tgt": x_t}, kappa

    def gradient(self, branches: Branches) -> tuple[Tensor, dict[str, float]]:
        """ε̂_y(x_t) − κ."""
        return branches.predictions["tgt"] - branches.eps, {}
