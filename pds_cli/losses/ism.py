"""Interval Score Matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pds_cli.backbones.sampling import ddim_invert, ddim_step
from pds_cli.errors import UserError
from pds_cli.losses.base import Branches, Inputs, Loss


@dataclass(kw_only=True)
class ISM(Loss):
    """Gradient w(t) (ε̂_y(x_t) − ε̂_∅(x_s)) on a path x_0 → x_s → x_t of DDIM inversion.

    In the place of SDS's random noise stands what the model itself sees at s = t − delta_t, so
    that the estimates of a step agree with each other.

    Attributes:
        delta_t: timesteps from s to t.
        delta_s: timesteps between the network calls on the way from x_0 to x_s.

    Source: Liang et al., LucidDreamer, CVPR 2024, arXiv 2311.11284, eq. 17.
    """

    timesteps: Sequence[float] = (0.02, 0.5)
    weighting: str = "x0"
    delta_t: int = 50
    delta_s: int = 200

    uses_source: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("delta_t", "delta_s"):
            if getattr(self, name) < 1:
                raise UserError(f"loss.{name}={getattr(self, name)} must be at least 1")

    def noised(self, inputs: Inputs) -> tuple[dict[str, Tensor], Tensor]:
        """x_t, and ε̂_∅(x_s), which leads there."""
        backbone, text = inputs.backbone, inputs.texts["tgt"]
        t, s = inputs.t, (inputs.t - self.delta_t).clamp_min(0)
        x0 = inputs.images["tgt"]
        x_s = ddim_invert(backbone, x0, s, text, stride=self.delta_s, guidance=0.0)
        eps = backbone.predict_noise(x_s, s, text, 0.0).to(x0)
        bar_s, bar_t = (backbone.schedule.alpha_bar(time, x0) for time in (s, t))
        return {"tgt": ddim_step(x_s, eps, bar_s, bar_t)}, eps

    def gradient(self, branches: Branches) -> tuple[Tensor, dict[str, float]]:
        """ε̂_y(x_t) − ε̂_∅(x_s)."""
        return branches.predictions["tgt"] - branches.eps, {}
