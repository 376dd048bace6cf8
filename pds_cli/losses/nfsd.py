"""Noise-Free Score Distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pds_cli.losses.base import Branch, Branches, Loss, per_sample

NEGATIVE = (
    "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, "
    "low-resolution, gloomy"
)
QUIET = 0.2  # below this share of T the unconditional prediction is all domain and no noise


@dataclass(kw_only=True)
class NFSD(Loss):
    """Gradient w(t) [δ_D + ω δ_C] with δ_C = ε̂_y − ε̂_∅ and an estimate of δ_D free of noise.

    SDS is δ_D + δ_N + ω δ_C − ε, where the noise δ_N − ε has no use. At small t (< 0.2 T), ε̂_∅
    is taken for δ_D; above, ε̂_∅ − ε̂_neg, with a prompt for what pictures should not be.

    Attributes:
        negative: that prompt.

    Source: Katzir et al., Noise-Free Score Distillation, arXiv 2310.17590, eq. 8 and 9; ω = 7.5
    there.
    """

    weighting: str = "sigma2"
    negative: str = NEGATIVE

    uses_source: ClassVar[bool] = False

    def prompts(self, prompt: str, source: str) -> dict[str, str]:
        """What pictures should not be."""
        return {"negative": self.negative}

    def branches(self) -> dict[str, Branch]:
        """ε̂_y, ε̂_∅ and ε̂_neg, all at x_t^tgt."""
        return {
            "text": Branch("tgt", "tgt", 1.0),
            "null": Branch("tgt", "tgt", 0.0),
            "negative": Branch("tgt", "negative", 1.0),
        }

    def gradient(self, branches: Branches) -> tuple[Tensor, dict[str, float]]:
        """δ_D + ω δ_C."""
        eps = branches.predictions
        quiet = branches.t < QUIET * branches.schedule.num_train_timesteps
        quiet = per_sample(quiet, eps["null"]).bool()
        domain = torch.where(quiet, eps["null"], eps["null"] - eps["negative"])
        return domain + self._omega() * (eps["text"] - eps["null"]), {}
