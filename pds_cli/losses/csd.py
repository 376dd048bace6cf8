"""Classifier Score Distillation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.losses.base import Branch, Branches, Loss


@dataclass(kw_only=True)
class CSD(Loss):
    """Gradient w(t) [ε̂_y − ε̂_∅ − source_weight (ε̂_{y^src} − ε̂_∅)], all at x_t^tgt.

    The part of SDS that guidance multiplies: CSD = lim SDS/ω for ω → ∞. `guidance` has no part
    in it. With a source weight, what the source prompt says is taken away, as the paper does for
    editing.

    Attributes:
        source_weight: how much of the source prompt's direction to subtract, at least 0.

    Source: Yu et al., Text-to-3D with Classifier Score Distillation, arXiv 2310.19415, eq. 6 and
    section 4.3.
    """

    weighting: str = "sigma2"
    source_weight: float = 0.0

    uses_source: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.source_weight) and self.source_weight >= 0):
            raise UserError(f"loss.source_weight={self.source_weight} must be a number >= 0")

    def idle(self) -> dict[str, str | None]:
        """The limit of all guidance has none."""
        return super().idle() | {"guidance": None}

    def prompts(self, prompt: str, source: str) -> dict[str, str]:
        """The source prompt, for the target's image."""
        return {"source": source} if self.source_weight else {}

    def branches(self) -> dict[str, Branch]:
        """ε̂_y, ε̂_∅ and, where it counts, ε̂_{y^src}."""
        found = {"text": Branch("tgt", "tgt", 1.0), "null": Branch("tgt", "tgt", 0.0)}
        return found | ({"source": Branch("tgt", "source", 1.0)} if self.source_weight else {})

    def gradient(self, branches: Branches) -> tuple[Tensor, dict[str, float]]:
        """ε̂_y − ε̂_∅ − source_weight (ε̂_{y^src} − ε̂_∅)."""
        eps = branches.predictions
        grad = eps["text"] - eps["null"]
        if self.source_weight:
            grad = grad - self.source_weight * (eps["source"] - eps["null"])
        return grad, {}
