"""Score Distillation Sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pds_cli.losses.base import Branches, Loss


@dataclass(kw_only=True)
class SDS(Loss):
    """Gradient w(t) (ε̂^tgt − ε_t): pulls towards the target prompt and knows no source.

    The default weighting is w(t) = 1−ᾱ_t, as in the published PDS code.

    Source: Poole et al., DreamFusion, arXiv 2209.14988, eq. 3.
    """

    weighting: str = "sigma2"

    uses_source: ClassVar[bool] = False

    def gradient(self, branches: Branches) -> tuple[Tensor, dict[str, float]]:
        """ε̂^tgt − ε_t."""
        return branches.predictions["tgt"] - branches.eps, {}
