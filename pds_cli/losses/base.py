"""What every distillation loss shares: noise, one backbone call, weighting and clipping.

A loss is a gradient on x_0^tgt. It is computed without a graph, so nothing of the backbone's
activations is kept, and `inject` hands it to autograd as if it came from a scalar.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.errors import UserError, check_choice
from pds_cli.losses.timesteps import SCHEDULES, Walk

WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": torch.ones_like,
    "sigma": lambda alpha: (1 - alpha).sqrt(),
    "sigma2": lambda alpha: 1 - alpha,
    "x0": lambda alpha: ((1 - alpha) / alpha).sqrt(),
}


@dataclass
class LossOutput:
    """A loss's answer.

    grad: the gradient on x_0^tgt, [B,C,h,w], detached.
    t: the timesteps used, [B].
    logs: scalars for the log, means over the batch.
    """

    grad: Tensor
    t: Tensor
    logs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Branches:
    """Everything a loss's formula may use. Images are [B,C,h,w], `t` and `t_prev` [B].

    `eps` is the noise ε_t that both branches share; `eps_tgt` and `eps_src` are the guided
    predictions ε̂. The source half is None for a loss that has no source branch.
    """

    x0_tgt: Tensor
    x0_src: Tensor | None
    eps: Tensor
    eps_tgt: Tensor
    eps_src: Tensor | None
    t: Tensor
    t_prev: Tensor
    alphas_cumprod: Tensor

    @property
    def delta_x0(self) -> Tensor:
        """Δx_0 = x_0^tgt − x_0^src."""
        assert self.x0_src is not None
        return self.x0_tgt - self.x0_src

    @property
    def delta_eps(self) -> Tensor:
        """Δε̂ = ε̂^tgt − ε̂^src."""
        assert self.eps_src is not None
        return self.eps_tgt - self.eps_src


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Shapes values [B] so that they multiply `like` [B,…], in its dtype and on its device."""
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))


def inject(x0_tgt: Tensor, grad: Tensor) -> Tensor:
    """A scalar whose derivative in x_0^tgt is exactly `grad`, sample by sample.

    There is no division by the batch: when x_0^tgt is one image expanded to B noise draws, its
    parameters receive the sum of the B gradients, so divide the scalar by B for their mean.
    The scalar's value is ½ mean(grad²), the published loss, and has no gradient of its own.

    Args:
        x0_tgt: the image or latent [B,C,h,w], attached to the representation's graph.
        grad: the gradient [B,C,h,w].
    """
    wide = torch.promote_types(grad.dtype, torch.float32)  # a sum in half precision overflows
    grad = grad.detach().to(wide)
    linear = (x0_tgt.to(wide) * grad).sum()
    return linear - linear.detach() + 0.5 * grad.square().mean()


@dataclass(kw_only=True)
class Loss(ABC):
    """A distillation loss; its fields are the options that all losses share.

    Attributes:
        guidance: ω of the target branch. None only until the run's value is filled in.
        source_guidance: ω of the source branch; None: the same as `guidance`.
        timesteps: (min, max) part of the walk that t is drawn from, ratios in [0, 1].
        num_inference_steps: length n of the walk through the T training timesteps (see `Walk`);
            for PDS with published coefficients it also sets how strongly identity is kept.
        schedule: `uniform` or `annealed` (t falls from max to min as the run goes on).
        weighting: w(t), a factor on the whole gradient:
            `none` 1; `sigma` √(1−ᾱ_t); `sigma2` 1−ᾱ_t; `x0` √((1−ᾱ_t)/ᾱ_t), which turns a
            difference of ε̂ into the (negative) difference of the clean estimates x̂_0.
        clip_norm: largest Euclidean norm of a sample's gradient; None: no limit.
        clip_value: largest absolute value of a gradient's element; None: no limit.
        source_bank: number K of fixed (t, ε) pairs a view whose source predictions are reused
            (see `SourceBank`); None or 0: t and ε are drawn anew every time.

    Raises:
        UserError: an option out of its range.
    """

    guidance: float | None = None
    source_guidance: float | None = None
    timesteps: Sequence[float] = (0.02, 0.98)
    num_inference_steps: int = 500
    schedule: str = "uniform"
    weighting: str = "none"
    clip_norm: float | None = None
    clip_value: float | None = None
    source_bank: int | None = None

    uses_source: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.timesteps = _checked_ratios(self.timesteps)
        check_choice("loss.weighting", self.weighting, WEIGHTINGS)
        check_choice("loss.schedule", self.schedule, SCHEDULES)
        for name in ("guidance", "source_guidance"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UserError(f"loss.{name}={value} is not a finite number; try 7.5")
        for name in ("clip_norm", "clip_value"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"loss.{name}={value} must be greater than 0, or null for no limit")
        self._check_source_bank()

    @abstractmethod
    def gradient(self, branches: Branches) -> tuple[Tensor, dict[str, float]]:
        """The loss's formula: an unweighted gradient [B,C,h,w], and scalars for the log."""

    def __call__(
        self,
        backbone: Backbone,
        x0_tgt: Tensor,
        x0_src: Tensor | None,
        text_tgt: Text,
        text_src: Text | None,
        *,
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> LossOutput:
        """Draws t and ε for every sample, and evaluates the gradient there.

        Args:
            backbone: the diffusion prior.
            x0_tgt: what is being edited, [B,C,h,w].
            x0_src: what it was, [B,C,h,w] or [1,C,h,w]; unused (may be None) for SDS.
            text_tgt: the target prompt, 1 or B encoded prompts.
            text_src: the source prompt likewise; unused (may be None) for SDS.
            progress: how much of the run is done, in [0, 1]; for `schedule=annealed`.
            generator: the source of randomness. Draws are made on its device, then moved.
        """
        walk = Walk(backbone.num_train_timesteps, self.num_inference_steps)
        batch = len(x0_tgt)
        t = walk.sample(batch, self.timesteps, self.schedule, progress, generator)
        device = generator.device if generator is not None else x0_tgt.device
        eps = torch.randn(x0_tgt.shape, generator=generator, device=device, dtype=x0_tgt.dtype)
        t, eps = t.to(x0_tgt.device), eps.to(x0_tgt.device)
        return self.evaluate(backbone, x0_tgt, x0_src, text_tgt, text_src, t=t, eps=eps)

    @torch.no_grad()
    def evaluate(
        self,
        backbone: Backbone,
        x0_tgt: Tensor,
        x0_src: Tensor | None,
        text_tgt: Text,
        text_src: Text | None,
        *,
        t: Tensor,
        eps: Tensor,
        eps_src: Tensor | None = None,
    ) -> LossOutput:
        """The gradient at given timesteps t [B] and noise ε [B,C,h,w]; a pure function.

        The other arguments are those of `__call__`. Neither the images nor the backbone's
        parameters receive a gradient from here.

        Args:
            eps_src: what `predict_source` gave for this t and ε, [B,C,h,w]; the source branch
                then stays away from the backbone.
        """
        if self.uses_source and (x0_src is None or text_src is None):
            raise UserError(f"{type(self).__name__} needs a source image and a source prompt")
        branches = self._branches(backbone, x0_tgt, x0_src, text_tgt, text_src, t, eps, eps_src)
        grad, logs = self.gradient(branches)
        weight = WEIGHTINGS[self.weighting](backbone.alphas_cumprod[t.to(backbone.device)])
        grad = self._clip(per_sample(weight, grad) * grad)
        norm = grad.flatten(1).norm(dim=1).mean()
        return LossOutput(
            grad, t, {"grad_norm": float(norm), "t": float(t.double().mean()), **logs}
        )

    @torch.no_grad()
    def predict_source(
        self, backbone: Backbone, x0_src: Tensor, text_src: Text, *, t: Tensor, eps: Tensor
    ) -> Tensor:
        """The guided source prediction ε̂^src [B,C,h,w] for x_0^src [B,C,h,w], t [B] and ε.

        It does not depend on θ, so it may be kept and handed to `evaluate`.
        """
        branch = (x0_src, text_src, self._omega(source=True))
        return self._predict(backbone, [branch], t, eps)[0]

    def _branches(
        self,
        backbone: Backbone,
        x0_tgt: Tensor,
        x0_src: Tensor | None,
        text_tgt: Text,
        text_src: Text | None,
        t: Tensor,
        eps: Tensor,
        eps_src: Tensor | None,
    ) -> Branches:
        """Noises both images alike and predicts ε̂ for all branches in one backbone call."""
        x0_tgt = x0_tgt.detach()
        branches = [(x0_tgt, text_tgt, self._omega())]
        if not self.uses_source:
            x0_src = eps_src = None
        else:
            assert x0_src is not None and text_src is not None
            x0_src = x0_src.detach().to(x0_tgt).expand_as(x0_tgt)
            if eps_src is None:
                branches.append((x0_src, text_src, self._omega(source=True)))
        predicted = self._predict(backbone, branches, t, eps)
        return Branches(
            x0_tgt=x0_tgt,
            x0_src=x0_src,
            eps=eps,
            eps_tgt=predicted[0],
            eps_src=predicted[1] if len(predicted) == 2 else eps_src,
            t=t,
            t_prev=Walk(backbone.num_train_timesteps, self.num_inference_steps).previous(t),
            alphas_cumprod=backbone.alphas_cumprod,
        )

    @staticmethod
    def _predict(
        backbone: Backbone, branches: Sequence[tuple[Tensor, Text, float]], t: Tensor, eps: Tensor
    ) -> Sequence[Tensor]:
        """ε̂ [B,C,h,w] of every branch (x_0, prompt, ω), under the same t and ε, in one call."""
        n, batch = len(branches), len(t)
        x0 = torch.cat([image for image, _, _ in branches])
        text = Text.cat([prompt.expand(batch) for _, prompt, _ in branches])
        x_t = backbone.add_noise(x0, t.repeat(n), torch.cat([eps] * n))
        omegas = torch.tensor([omega for _, _, omega in branches], device=x_t.device)
        guidance = omegas.repeat_interleave(batch)
        return backbone.predict_noise(x_t, t.repeat(n), text, guidance).to(x0.dtype).chunk(n)

    def _omega(self, source: bool = False) -> float:
        """ω of a branch."""
        if self.guidance is None:
            raise UserError("loss.guidance is not set; give guidance=… (7.5 is a common start)")
        return self.guidance if not source or self.source_guidance is None else self.source_guidance

    def _check_source_bank(self) -> None:
        size = self.source_bank
        if size is None:
            return
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise UserError(f"loss.source_bank={size} must be a whole number, 0 or null for none")
        if size and not self.uses_source:
            raise UserError(
                f"loss.source_bank={size}: {type(self).__name__} has no source branch whose "
                "predictions could be kept; leave it out, or use loss=dds or loss=pds"
            )

    def _clip(self, grad: Tensor) -> Tensor:
        """Limits each element, then each sample's norm."""
        if self.clip_value is not None:
            grad = grad.clamp(-self.clip_value, self.clip_value)
        if self.clip_norm is not None:
            norm = grad.flatten(1).norm(dim=1)
            scale = self.clip_norm / norm.clamp_min(self.clip_norm)
            grad = per_sample(scale, grad) * grad
        return grad


def _checked_ratios(timesteps: Sequence[float]) -> tuple[float, float]:
    """`timesteps` as two floats, or a UserError."""
    ratios = tuple(float(r) for r in timesteps)
    if len(ratios) != 2 or not 0 <= ratios[0] <= ratios[1] <= 1:
        raise UserError(
            f"loss.timesteps={list(ratios)} must be two ratios, 0 <= min <= max <= 1, "
            "for example [0.02,0.98]"
        )
    return ratios[0], ratios[1]
