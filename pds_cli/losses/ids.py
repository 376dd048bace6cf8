"""Identity-preserving Distillation Sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.losses.base import Branches, Inputs, Loss


@dataclass(kw_only=True)
class IDS(Loss):
    """Gradient w(t) Δε̂ as in DDS, at noise under which the source predicts itself.

    An inner optimisation (fixed-point regularisation): x_t^src moves down the slope of
    ‖x_0^src − x̂_0(x_t^src)‖ for some steps. The noise ε* that x_t^src then holds is shared with
    the target. Each step needs a graph through the backbone, the only ones here.

    Attributes:
        scale: λ, the step size, at least 0.
        iterations: N, steps; 0 is DDS.

    Source: Kim et al., Identity-preserving Distillation Sampling by Fixed-Point Iterator,
    CVPR 2025, arXiv 2502.19930, eq. 6 to 9.
    """

    timesteps: Sequence[float] = (0.05, 0.95)
    scale: float = 1.0
    iterations: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scale >= 0 or self.iterations < 0:
            raise UserError("loss.scale and loss.iterations must be at least 0")

    def idle(self) -> dict[str, str | None]:
        """Without iterations nothing is scaled."""
        return super().idle() | ({} if self.iterations else {"scale": "iterations"})

    def noised(self, inputs: Inputs) -> tuple[dict[str, Tensor], Tensor]:
        """x_t of both images with the noise ε*, and ε*."""
        backbone, t = inputs.backbone, inputs.t
        x0_src, x0_tgt = inputs.images["src"], inputs.images["tgt"]
        x_t = backbone.add_noise(x0_src, t, inputs.eps)
        for _ in range(self.iterations):
            x_t = x_t - self.scale * self._slope(inputs, x_t)
        eps = backbone.schedule.to_eps(x0_src, x_t, t, "sample")
        return {"src": x_t, "tgt": backbone.add_noise(x0_tgt, t, eps)}, eps

    def _slope(self, inputs: Inputs, x_t: Tensor) -> Tensor:
        """The derivative of ‖x_0^src − x̂_0(x_t)‖, sample by sample, in x_t [B,C,h,w]."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            omega = self._omega(source=True)
            eps = inputs.backbone.predict_noise(x, inputs.t, inputs.texts["src"], omega)
            clean = inputs.backbone.schedule.to_x0(eps, x, inputs.t)
            off = (inputs.images["src"] - clean).flatten(1).norm(dim=1)
            return torch.autograd.grad(off.sum(), x)[0]

    def gradient(self, branches: Branches) -> tuple[Tensor, dict[str, float]]:
        """Δε̂ at the corrected noise, and how far it was moved."""
        moved = (branches.eps - branches.inputs.eps).flatten(1).norm(dim=1)
        return branches.delta_eps, {"noise_moved": float(moved.mean())}
