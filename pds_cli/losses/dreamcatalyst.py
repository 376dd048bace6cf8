"""DreamCatalyst's weighting of identity and edit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.losses.base import Branches, Loss, per_sample


@dataclass(kw_only=True)
class DreamCatalyst(Loss):
    """Gradient ψ e^τ Δx_0 + (δ + γ τ^{1/e}) Δε̂, with τ = t/T falling as the run goes on.

    PDS holds the source most at small t; here identity counts most at large t, where an edit
    begins, and fades as t falls, so that the run is like a sampler's way from noise to image.
    The weighting alone: the paper also uses FreeU and InstructPix2Pix as backbone.

    Attributes:
        psi: ψ, at least 0.
        delta: δ.
        gamma: γ.

    Source: Kim et al., DreamCatalyst, ICLR 2025, arXiv 2407.11394, section 4.2.
    """

    timesteps: Sequence[float] = (0.2, 0.9)
    schedule: str = "annealed"
    psi: float = 0.075
    delta: float = 0.2
    gamma: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("psi", "delta", "gamma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"loss.{name}={value} must be a number of at least 0")

    def gradient(self, branches: Branches) -> tuple[Tensor, dict[str, float]]:
        """ψ e^τ Δx_0 + (δ + γ τ^{1/e}) Δε̂."""
        tau = branches.t.double() / branches.schedule.num_train_timesteps
        psi, chi = self.psi * tau.exp(), self.delta + self.gamma * tau ** (1 / math.e)
        keep = per_sample(psi, branches.delta_x0) * branches.delta_x0
        edit = per_sample(chi, branches.delta_eps) * branches.delta_eps
        return keep + edit, {"psi": float(psi.mean()), "chi": float(chi.mean())}
