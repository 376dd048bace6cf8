"""Posterior Distillation Sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from pds_cli.errors import UserError, check_choice
from pds_cli.losses.base import Branches, Loss, per_sample
from pds_cli.losses.coefficients import posterior_coefficients
from pds_cli.options.losses import COEFFICIENTS


@dataclass(kw_only=True)
class PDS(Loss):
    """Gradient z̃^tgt − z̃^src = identity · ψ(t) Δx_0 + χ(t) Δε̂.

    Attributes:
        coefficients: `published`, `exact` or `custom`; see `posterior_coefficients`. With the
            published ones and 500 steps ψ holds the edit to its source; with the exact ones
            ψ = 0 and the gradient is that of DDS weighted by χ(t).
        identity: scale of ψ, at least 0; 1 is as published, larger keeps more of the source.
        psi: constant ψ for `coefficients=custom`.
        chi: constant χ for `coefficients=custom`.

    Source: Koo et al., Posterior Distillation Sampling, CVPR 2024, arXiv 2311.13831, section 4.
    """

    coefficients: str = "published"
    identity: float = 1.0
    psi: float | None = None
    chi: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("loss.coefficients", self.coefficients, COEFFICIENTS)
        if not (math.isfinite(self.identity) and self.identity >= 0):
            raise UserError(f"loss.identity={self.identity} must be a number of at least 0")
        constants = (self.psi is not None, self.chi is not None)
        if constants != (self.coefficients == "custom",) * 2:
            raise UserError(
                "loss.psi and loss.chi are the two constants of loss.coefficients=custom: "
                "give all three together, or none"
            )

    def idle(self) -> dict[str, str | None]:
        """With the exact coefficients ψ is 0, so `identity` scales nothing."""
        off = self.coefficients == "exact"
        return super().idle() | ({"identity": "coefficients"} if off else {})

    def gradient(self, branches: Branches) -> tuple[Tensor, dict[str, float]]:
        """identity · ψ Δx_0 + χ Δε̂, with the means of ψ, χ and both terms' norms for the log."""
        c = posterior_coefficients(
            branches.schedule.alphas_cumprod,
            branches.t,
            branches.t_prev,
            self.coefficients,
            psi=self.psi,
            chi=self.chi,
        )
        keep = per_sample(self.identity * c.psi, branches.delta_x0) * branches.delta_x0
        edit = per_sample(c.chi, branches.delta_eps) * branches.delta_eps
        logs = {
            "psi": float(c.psi.mean()),
            "chi": float(c.chi.mean()),
            "identity_norm": float(keep.flatten(1).norm(dim=1).mean()),
            "edit_norm": float(edit.flatten(1).norm(dim=1).mean()),
        }
        return keep + edit, logs
