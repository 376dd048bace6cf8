"""The keys of distillation losses, and of dataset update; values stand in `conf/loss`."""

from __future__ import annotations

from dataclasses import dataclass

from pds_cli.options.option import option
from pds_cli.options.ranges import (
    BATCH,
    FINITE,
    MILLION,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    STEPS,
    whole,
)
from pds_cli.options.target import Target

SCHEDULES = ("uniform", "annealed")
WEIGHTINGS = ("none", "sigma", "sigma2", "x0")
COEFFICIENTS = ("published", "exact", "custom")
PARTICLES = ("lora", "source")
UPDATE_INPUTS = ("stage", "current")
UPDATE_INITIALS = ("renders", "source")

_TIMESTEPS = whole(1, 100_000)
_ITERATIONS = whole(0, 100_000)


@dataclass
class LossConf(Target):
    """What every distillation loss has."""

    guidance: float | None = option("ω of the target branch; null: the run's", range=FINITE)
    source_guidance: float | None = option(
        "ω of the source branch; null: that of the target", range=FINITE
    )
    timesteps: list[float] = option(
        "part of the walk that t is drawn from, as shares of it",
        range=SHARE,
        example=(0.02, 0.98),
        ascending=True,
    )
    num_inference_steps: int = option(
        "length of the walk through the training timesteps", range=whole(2, MILLION)
    )
    schedule: str = option(
        "uniform: t is drawn; annealed: t falls from max to min as the run goes on",
        choices=SCHEDULES,
    )
    weighting: str = option(
        "w(t): none 1, sigma √(1-ᾱ), sigma2 1-ᾱ, x0 √((1-ᾱ)/ᾱ)", choices=WEIGHTINGS
    )
    clip_norm: float | None = option(
        "largest norm of a sample's gradient; null: no limit", range=POSITIVE
    )
    clip_value: float | None = option(
        "largest size of a gradient's element; null: no limit", range=POSITIVE
    )
    source_bank: int | None = option(
        "fixed (t, noise) pairs a view whose source prediction is reused; 0 or null: none",
        range=whole(0, MILLION),
    )


@dataclass
class PDSConf(LossConf):
    """Posterior Distillation Sampling."""

    coefficients: str = option(
        "ψ and χ: as published, of the exact posterior (ψ = 0), or constants",
        choices=COEFFICIENTS,
    )
    identity: float = option(
        "scale of ψ: 1 as published, more keeps more of the source", range=NOT_NEGATIVE
    )
    psi: float | None = option("ψ of coefficients=custom, on Δx_0", range=FINITE)
    chi: float | None = option("χ of coefficients=custom, on Δε̂", range=FINITE)


@dataclass
class CSDConf(LossConf):
    """Classifier Score Distillation."""

    source_weight: float = option(
        "how much of the source prompt's direction is taken away", range=NOT_NEGATIVE
    )


@dataclass
class NFSDConf(LossConf):
    """Noise-Free Score Distillation."""

    negative: str = option("prompt for what pictures should not be", text=True)


@dataclass
class SDSBridgeConf(LossConf):
    """SDS as a bridge."""

    qualities: str = option("put behind the target prompt", text=True)
    flaws: str = option("put behind the source prompt", text=True)


@dataclass
class DreamCatalystConf(LossConf):
    """DreamCatalyst, with τ = t/T."""

    psi: float = option("weight ψ e^τ of identity, on Δx_0", range=NOT_NEGATIVE)
    delta: float = option("δ in the weight δ + γ τ^(1/e) of the edit", range=NOT_NEGATIVE)
    gamma: float = option("γ in the weight δ + γ τ^(1/e) of the edit", range=NOT_NEGATIVE)


@dataclass
class ISMConf(LossConf):
    """Interval Score Matching."""

    delta_t: int = option("timesteps between the two predictions", range=_TIMESTEPS)
    delta_s: int = option("timesteps between the calls of the inversion", range=_TIMESTEPS)


@dataclass
class SDIConf(LossConf):
    """Score Distillation via Inversion."""

    inversion_guidance: float = option("ω of the inversion", range=FINITE)
    inversion_steps: int = option("network calls of the inversion", range=_TIMESTEPS)
    inversion_eta: float = option("share of fresh noise in the inversion", range=SHARE)
    fixed_point: int = option(
        "iterations of the noise's fixed-point equation afterwards", range=_ITERATIONS
    )


@dataclass
class IDSConf(LossConf):
    """Identity-preserving Distillation Sampling."""

    scale: float = option("step size of the inner optimisation of the noise", range=NOT_NEGATIVE)
    iterations: int = option("steps of the inner optimisation; 0 is DDS", range=_ITERATIONS)


@dataclass
class CDSConf(LossConf):
    """Contrastive Denoising Score."""

    contrast: float = option("weight of the contrast; 0 is DDS", range=NOT_NEGATIVE)
    patches: int = option(
        "places that are contrasted, drawn anew each step", range=whole(2, MILLION)
    )
    patch_sizes: list[int] = option(
        "sides of the squares that features are averaged over", range=whole(1, 1024)
    )


@dataclass
class VSDConf(LossConf):
    """Variational Score Distillation."""

    particles: str = option(
        "what says how renders are now: a LoRA that learns it, or the source prompt",
        choices=PARTICLES,
    )
    rank: int = option("rank of the LoRA", range=whole(1, MILLION))
    lora_lr: float = option("step size of Adam for the LoRA", range=POSITIVE)
    lora_steps: int = option("steps of the LoRA a gradient", range=_ITERATIONS)


@dataclass
class UpdateConf:
    """Redrawing views now and then, and fitting the scene to them."""

    every: int = option("steps between two calls of the editor", range=STEPS)
    together: int = option("views that are redrawn in one call of the editor", range=BATCH)
    sharing: float = option(
        "how much of self-attention sees the views that are redrawn together", range=SHARE
    )
    batch_size: int = option("views a step of reconstruction", range=BATCH)
    input: str = option(
        "what is redrawn: a view as it was when the stage began, or as it is now",
        choices=UPDATE_INPUTS,
    )
    initial: str = option(
        "what a view not redrawn yet is fitted to: its first render, or the source",
        choices=UPDATE_INITIALS,
    )
    keep_detail: bool = option(
        "redraw at the images' size, and add only what the editor changed; false: as published"
    )


@dataclass
class DatasetUpdateConf(UpdateConf, Target):
    """Iterative dataset update: views are redrawn, and the scene fitted to them."""
