"""Score distillation as a bridge between two distributions of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pds_cli.losses.base import Branch, Branches, Loss

FLAWS = (
    ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, "
    "malformed"
)
QUALITIES = ", detailed high resolution, high quality, sharp"


@dataclass(kw_only=True)
class SDSBridge(Loss):
    """Gradient w(t) ω (ε̂_{y^tgt} − ε̂_{y^src}), both at x_t^tgt.

    SDS moves pictures along a path from their own distribution to the prompt's, and takes the
    unconditional one for the former. Here a prompt describes it: the source's, and the flaws
    that pictures have on the way. DDS differs in looking at x_t^src for the second term.

    Attributes:
        qualities, flaws: put behind the target and the source prompt.

    Source: McAllister et al., Rethinking Score Distillation as a Bridge Between Image
    Distributions, NeurIPS 2024, arXiv 2406.09417, section 4.
    """

    weighting: str = "sigma2"
    qualities: str = QUALITIES
    flaws: str = FLAWS

    uses_source: ClassVar[bool] = False

    def prompts(self, prompt: str, source: str) -> dict[str, str]:
        """The target prompt with the qualities, the source prompt with the flaws."""
        return {"best": prompt + self.qualities, "now": source + self.flaws}

    def branches(self) -> dict[str, Branch]:
        """ε̂ of the target's image under both prompts."""
        return {"tgt": Branch("tgt", "best", 1.0), "now": Branch("tgt", "now", 1.0)}

    def gradient(self, branches: Branches) -> tuple[Tensor, dict[str, float]]:
        """ω (ε̂_{y^tgt} − ε̂_{y^src})."""
        eps = branches.predictions
        return self._omega() * (eps["tgt"] - eps["now"]), {}
