"""Coefficients of the stochastic posterior p(x_{t−1} | x_t, y), and what PDS makes of them.

Write s for the timestep that precedes t on the walk, x̂_0 for the clean estimate, and

    μ(x_t, y) = γ x̂_0 + δ x_t,   x̂_0 = (x_t − √(1−ᾱ_t) ε̂) / √ᾱ_t,   z̃ = (x_s − μ) / σ.

Source and target share their noise, so x_t and x_s differ by √ᾱ_t Δx_0 and √ᾱ_s Δx_0, and

    z̃^tgt − z̃^src = ψ Δx_0 + χ Δε̂,
    ψ = (√ᾱ_s − γ − δ √ᾱ_t) / σ,     χ = γ √(1−ᾱ_t) / (√ᾱ_t σ).

The noise of x_s cancels, so it is never drawn. With γ = √ᾱ_s β/(1−ᾱ_t),
δ = √α (1−ᾱ_s)/(1−ᾱ_t), σ² = β (1−ᾱ_s)/(1−ᾱ_t), β = 1−α, both become products, which lose no
digits (r = ᾱ_t/ᾱ_s is the α of the step that the walk really takes):

    ψ = √ᾱ_s (√α − √r)(√α + ᾱ_s √r) / ((1−ᾱ_t) σ),     χ² = ᾱ_s β / (ᾱ_t (1−ᾱ_s)).

The first follows from α − ᾱ_t − √(αr)(1−ᾱ_s) = (√α − √r)(√α + ᾱ_s √r) with ᾱ_t = ᾱ_s r. So
ψ = 0 exactly when α = r: the true posterior has no identity term, and its χ² = SNR_s/SNR_t − 1.

Sources: Koo et al., Posterior Distillation Sampling, CVPR 2024 (arXiv 2311.13831); Ho et al.,
DDPM, arXiv 2006.11239, eq. 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pds_cli.errors import UserError, check_choice
from pds_cli.options.losses import COEFFICIENTS


@dataclass(frozen=True)
class Coefficients:
    """γ, δ, σ, ψ and χ for a batch of timesteps; each [B] in float64."""

    gamma: Tensor
    delta: Tensor
    sigma: Tensor
    psi: Tensor
    chi: Tensor


def posterior_coefficients(
    alphas_cumprod: Tensor,
    t: Tensor,
    t_prev: Tensor,
    mode: str = "published",
    *,
    psi: float | None = None,
    chi: float | None = None,
) -> Coefficients:
    """The coefficients of the step t → t_prev.

    Args:
        alphas_cumprod: ᾱ_t for t = 0 … T−1, shape [T], decreasing, in (0, 1).
        t: integer timesteps [B], in [1, T).
        t_prev: the timesteps before them on the walk [B], in [0, t).
        mode: which β, and so which α = 1−β, goes with the walk's ᾱ_{t_prev}:
            `published`: of one training step, β = 1 − ᾱ_t/ᾱ_{t−1}, as the published code has it,
            however far t_prev is; ψ > 0 unless t_prev = t−1.
            `exact`: of the step really taken, β = 1 − ᾱ_t/ᾱ_{t_prev}; ψ = 0, to the bit.
            `custom`: γ, δ, σ are the exact ones; ψ and χ are the constants given.
        psi: ψ of mode `custom`.
        chi: χ of mode `custom`.

    Raises:
        UserError: unknown mode, constants missing, or ᾱ_t = 0 (χ would be infinite).
        ValueError: timesteps out of range.
    """
    check_choice("loss.coefficients", mode, COEFFICIENTS)
    if bool((t_prev < 0).any() | (t_prev >= t).any() | (t >= len(alphas_cumprod)).any()):
        raise ValueError("timesteps must satisfy 0 <= t_prev < t < T")
    alphas = alphas_cumprod.double()
    t, t_prev = t.to(alphas.device), t_prev.to(alphas.device)
    a_t, a_s = alphas[t], alphas[t_prev]
    if bool((a_t <= 0).any()):
        raise UserError(
            "the backbone's noise schedule ends in pure noise (alphas_cumprod = 0), where the "
            "posterior has no finite weight; lower the upper end of loss.timesteps"
        )
    a_from = alphas[t - 1] if mode == "published" else a_s
    result = _coefficients(a_t, a_s, a_from)
    if mode != "custom":
        return result
    if psi is None or chi is None:
        raise UserError("loss.coefficients=custom needs both constants, loss.psi=… and loss.chi=…")
    constants = torch.full_like(a_t, psi), torch.full_like(a_t, chi)
    return Coefficients(result.gamma, result.delta, result.sigma, *constants)


def _coefficients(a_t: Tensor, a_s: Tensor, a_from: Tensor) -> Coefficients:
    """The module's formulas, with α = ᾱ_t / `a_from` and the walk's ᾱ_s = `a_s`; all [B]."""
    alpha, r = a_t / a_from, a_t / a_s
    beta = (a_from - a_t) / a_from
    gamma = a_s.sqrt() * beta / (1 - a_t)
    delta = alpha.sqrt() * (1 - a_s) / (1 - a_t)
    sigma = (beta * (1 - a_s) / (1 - a_t)).sqrt()
    # √α − √r = (α − r)/(√α + √r), with α − r taken from the ᾱ, so that equal steps give exactly 0.
    gap = a_t * (a_s - a_from) / (a_from * a_s) / (alpha.sqrt() + r.sqrt())
    psi = a_s.sqrt() * gap * (alpha.sqrt() + a_s * r.sqrt()) / ((1 - a_t) * sigma)
    chi = (a_s * beta / (a_t * (1 - a_s))).sqrt()
    return Coefficients(gamma, delta, sigma, psi, chi)
