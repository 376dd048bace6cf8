"""What every distillation loss shares: noise, one backbone call, weighting and clipping.

A loss is a gradient on x_0^tgt. It is computed without a graph, so nothing of the backbone's
activations is kept, and `inject` hands it to autograd as if it came from a scalar.

Most losses are a sum of predictions with factors: a loss names its predictions in `branches`,
each an (image, prompt, guidance), and weighs them in `gradient`. One that noises its images in
another way says so in `noised`.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.schedule import Schedule
from pds_cli.errors import UserError, check_choice
from pds_cli.losses.timesteps import Walk
from pds_cli.options.losses import SCHEDULES

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
class Branch:
    """One prediction of a loss: ε̂ of a noised image under a prompt.

    image: `tgt` or `src`.
    text: `tgt`, `src`, or the name of a prompt of the loss's own (`Loss.texts`).
    guidance: ω; 1 is the prompt alone, 0 the unconditional prediction alone.
    """

    image: str
    text: str
    guidance: float


@dataclass(frozen=True)
class Inputs:
    """What a loss is evaluated on: images x_0 [B,C,h,w] and B prompts, by name; t [B]; ε.

    progress: how much of the stage is done, in [0, 1).
    """

    backbone: Backbone
    images: Mapping[str, Tensor]
    texts: Mapping[str, Text]
    t: Tensor
    eps: Tensor
    progress: float = 0.0


@dataclass(frozen=True)
class Branches:
    """Everything a loss's formula may use.

    inputs: what was asked.
    noisy: x_t [B,C,h,w] of the images, by name.
    eps: the noise ε_t in them, [B,C,h,w].
    predictions: the guided ε̂ [B,C,h,w] by the names of `Loss.branches`.
    t_prev: the timesteps before t on the walk, [B].
    """

    inputs: Inputs
    noisy: Mapping[str, Tensor]
    eps: Tensor
    predictions: Mapping[str, Tensor]
    t_prev: Tensor

    @property
    def t(self) -> Tensor:
        """The timesteps [B]."""
        return self.inputs.t

    @property
    def progress(self) -> float:
        """How much of the stage is done, in [0, 1): 0 at its first step."""
        return self.inputs.progress

    @property
    def schedule(self) -> Schedule:
        """The backbone's noise schedule."""
        return self.inputs.backbone.schedule

    @property
    def x0_tgt(self) -> Tensor:
        """x_0^tgt [B,C,h,w]."""
        return self.inputs.images["tgt"]

    @property
    def x0_src(self) -> Tensor:
        """x_0^src [B,C,h,w], for a loss that has a source."""
        return self.inputs.images["src"]

    @property
    def delta_x0(self) -> Tensor:
        """Δx_0 = x_0^tgt − x_0^src [B,C,h,w]."""
        return self.x0_tgt - self.x0_src

    @property
    def delta_eps(self) -> Tensor:
        """Δε̂ = ε̂^tgt − ε̂^src [B,C,h,w]."""
        return self.predictions["tgt"] - self.predictions["src"]


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Shapes values [B] so that they multiply `like` [B,…], in its dtype and on its device."""
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))


def inner_generator(eps: Tensor) -> torch.Generator:
    """Random numbers for what goes on inside a loss, fixed by its noise ε: a pure function."""
    seed = zlib.crc32(eps.detach().float().cpu().contiguous().numpy().tobytes())
    return torch.Generator().manual_seed(seed)


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
        # Encoded prompts of the loss's own by name, one or one a latent; `begin` fills it.
        self.texts: dict[str, Text] = {}
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

    def branches(self) -> dict[str, Branch]:
        """The predictions that `gradient` uses, by name; all come from one backbone call."""
        found = {"tgt": Branch("tgt", "tgt", self._omega())}
        if self.uses_source:
            found["src"] = Branch("src", "src", self._omega(source=True))
        return found

    def noised(self, inputs: Inputs) -> tuple[dict[str, Tensor], Tensor]:
        """x_t [B,C,h,w] of every image, and the ε in them: here, the one that all share."""
        add = inputs.backbone.add_noise
        noisy = {name: add(x0, inputs.t, inputs.eps) for name, x0 in inputs.images.items()}
        return noisy, inputs.eps

    def begin(
        self,
        backbone: Backbone,
        *,
        prompt: str | Sequence[str] = "",
        source: str | Sequence[str] = "",
        negative: str = "",
    ) -> None:
        """Called once before an edit, with its prompts; keeps the loss's own in `texts`.

        Args:
            prompt, source: one, or one for each latent that is edited.
        """
        pairs = zip(_several(prompt), _several(source), strict=True)
        own = [self.prompts(*pair) for pair in pairs]
        self.texts = {
            name: backbone.encode_prompt([words[name] for words in own], negative)
            for name in own[0]
        }

    def idle(self) -> dict[str, str | None]:
        """Options that have no effect → the option whose value makes that so; None: always."""
        return {} if self.uses_source else {"source_guidance": None}

    def prompts(self, prompt: str, source: str) -> dict[str, str]:
        """Prompts beside the target and the source that `branches` name; none by default."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """What a loss has learnt and must survive an interruption; most learn nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027 - optional
        """The inverse of `state_dict`."""

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
            progress: how much of the stage is done, in [0, 1]; for `schedule=annealed`, and for
                losses that change as a run goes on (`Branches.progress`).
            generator: the source of randomness. Draws are made on its device, then moved.
        """
        walk = Walk(backbone.schedule.num_train_timesteps, self.num_inference_steps)
        batch = len(x0_tgt)
        t = walk.sample(batch, self.timesteps, self.schedule, progress, generator)
        device = generator.device if generator is not None else x0_tgt.device
        eps = torch.randn(x0_tgt.shape, generator=generator, device=device, dtype=x0_tgt.dtype)
        t, eps = t.to(x0_tgt.device), eps.to(x0_tgt.device)
        args = (backbone, x0_tgt, x0_src, text_tgt, text_src)
        return self.evaluate(*args, t=t, eps=eps, progress=progress)

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
        progress: float = 0.0,
    ) -> LossOutput:
        """The gradient at given timesteps t [B] and noise ε [B,C,h,w]; a pure function.

        The other arguments are those of `__call__`. Neither the images nor the backbone's
        parameters receive a gradient from here.

        Args:
            eps_src: what `predict_source` gave for this t and ε, [B,C,h,w]; the source branch
                then stays away from the backbone.
            progress: how much of the stage is done, in [0, 1).
        """
        inputs = self._inputs(backbone, x0_tgt, x0_src, text_tgt, text_src, t, eps)
        inputs = replace(inputs, progress=progress)
        branches = self._predictions(inputs, {} if eps_src is None else {"src": eps_src})
        grad, logs = self._checked(self.gradient(branches), x0_tgt)
        weight = WEIGHTINGS[self.weighting](backbone.schedule.alphas_cumprod[t.to(backbone.device)])
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
        noisy = {"src": backbone.add_noise(x0_src, t, eps)}
        branch = {"src": Branch("src", "src", self._omega(source=True))}
        return predict(backbone, branch, noisy, {"src": text_src}, t)["src"].to(x0_src.dtype)

    def _inputs(
        self,
        backbone: Backbone,
        x0_tgt: Tensor,
        x0_src: Tensor | None,
        text_tgt: Text,
        text_src: Text | None,
        t: Tensor,
        eps: Tensor,
    ) -> Inputs:
        """The arguments of `evaluate` by name, without graphs, in batches of one size."""
        name = type(self).__name__
        images, texts = {"tgt": x0_tgt.detach()}, {"tgt": text_tgt.expand(len(t))}
        if self.uses_source:
            if x0_src is None or text_src is None:
                raise UserError(f"{name} needs a source image and a source prompt")
            images["src"] = x0_src.detach().to(x0_tgt).expand_as(x0_tgt)
            texts["src"] = text_src.expand(len(t))
        own = {key: _repeated(text, len(t)) for key, text in self.texts.items()}
        return Inputs(backbone, images, {**texts, **own}, t, eps)

    def _predictions(self, inputs: Inputs, known: Mapping[str, Tensor]) -> Branches:
        """Noises the images and predicts ε̂ for all branches but the known ones, in one call."""
        backbone, t = inputs.backbone, inputs.t
        noisy, eps = self.noised(inputs)
        asked = {k: branch for k, branch in self.branches().items() if k not in known}
        dtype = inputs.images["tgt"].dtype
        found = predict(backbone, asked, noisy, inputs.texts, t)
        return Branches(
            inputs=inputs,
            noisy=noisy,
            eps=eps,
            predictions={k: v.to(dtype) for k, v in found.items()} | dict(known),
            t_prev=Walk(backbone.schedule.num_train_timesteps, self.num_inference_steps).previous(
                t
            ),
        )

    def _checked(self, answer: object, x0_tgt: Tensor) -> tuple[Tensor, dict[str, float]]:
        """What `gradient` returned, or a UserError for a class that returns something else."""
        if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict):
            grad, logs = answer
            if isinstance(grad, Tensor) and grad.shape == x0_tgt.shape:
                return grad, logs
        raise UserError(
            f"{type(self).__name__}.gradient must return a pair: a gradient "
            f"{list(x0_tgt.shape)} like the images, and a dict of numbers for the log"
        )

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
        if size and not (self.uses_source and type(self).noised is Loss.noised):
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


def predict(
    backbone: Backbone,
    branches: Mapping[str, Branch],
    noisy: Mapping[str, Tensor],
    texts: Mapping[str, Text],
    t: Tensor,
) -> dict[str, Tensor]:
    """ε̂ [B,C,h,w] of every branch at t [B], in one backbone call.

    Args:
        noisy: x_t [B,C,h,w] by the names of `Branch.image`.
        texts: B prompts each, by the names of `Branch.text`.
    """
    batch = len(t)
    x_t = torch.cat([noisy[branch.image] for branch in branches.values()])
    text = Text.cat([texts[branch.text].expand(batch) for branch in branches.values()])
    omegas = torch.tensor([b.guidance for b in branches.values()], device=x_t.device)
    guidance = omegas.repeat_interleave(batch)
    found = backbone.predict_noise(x_t, t.repeat(len(branches)), text, guidance)
    return dict(zip(branches, found.chunk(len(branches)), strict=True))


def _several(prompts: str | Sequence[str]) -> list[str]:
    return [prompts] if isinstance(prompts, str) else list(prompts)


def _repeated(text: Text, batch: int) -> Text:
    """One prompt, or those of N latents draw by draw, for a batch."""
    return text.expand(batch) if len(text) == 1 else Text.cat([text] * (batch // len(text)))


def _checked_ratios(timesteps: Sequence[float]) -> tuple[float, float]:
    """`timesteps` as two floats, or a UserError."""
    ratios = tuple(float(r) for r in timesteps)
    if len(ratios) != 2 or not 0 <= ratios[0] <= ratios[1] <= 1:
        raise UserError(
            f"loss.timesteps={list(ratios)} must be two ratios, 0 <= min <= max <= 1, "
            "for example [0.02,0.98]"
        )
    return ratios[0], ratios[1]
