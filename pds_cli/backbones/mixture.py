"""An analytic backbone: noise prediction in closed form for a labelled Gaussian mixture.

Data x_0 follows Σ_i w_i N(m_i, s_i² I), each component with a label. Noised to time t,

    p_t(x) = Σ_i w_i N(x; √ᾱ_t m_i, v_i I),   v_i = ᾱ_t s_i² + 1−ᾱ_t,

so the score, and with it ε̂ = −√(1−ᾱ_t) ∇ log p_t(x), is a softmax-weighted sum over components.
A prompt restricts the sum to the components of its labels. Nothing is learned, nothing is
approximate: what a loss does with this backbone is what the loss itself does.

Source: Song et al., Score-Based Generative Modeling, arXiv 2011.13456, for ε̂ and the score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.schedule import Schedule
from pds_cli.errors import UserError
from pds_cli.toybox.crescents import crescents


def scaled_linear(
    num_train_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> Tensor:
    """ᾱ_t [T] in float64 of Stable Diffusion's schedule: √β_t rises evenly from start to end."""
    roots = torch.linspace(
        math.sqrt(beta_start), math.sqrt(beta_end), num_train_timesteps, dtype=torch.float64
    )
    return torch.cumprod(1 - roots.square(), dim=0)


class MixtureBackbone(Backbone):
    """Exact ε̂ for a labelled Gaussian mixture, or for a labelled point set (std 0).

    Prompts are label names: `"a"`; a weighting of labels such as `"a:1 b:3"`; or `""` for the
    whole mixture. Images and latents are the data themselves, [B,C,h,w].

    Args:
        means: the components' means [N,C,h,w], or [N,D] for D-vectors (C = D, h = w = 1).
        labels: one label a component.
        std: standard deviation of every component, a number or [N]; at least 0.
        weights: mixture weights [N], positive, any sum; None: all alike.
        num_train_timesteps: T of the noise schedule.
        beta_start: β at t = 0.
        beta_end: β at t = T−1.
        recommended: suggested settings of a run; kept, not used here.

    Raises:
        UserError: empty or mismatched data.
    """

    means: Tensor
    variances: Tensor
    log_weights: Tensor
    label_index: Tensor

    def __init__(
        self,
        means: Tensor,
        labels: Sequence[str],
        std: float | Tensor = 0.0,
        weights: Tensor | None = None,
        *,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        count = len(means)
        if count == 0 or len(labels) != count:
            raise UserError(f"a mixture needs one label a component, not {len(labels)} for {count}")
        self.shape = tuple(means.shape[1:]) if means.ndim == 4 else (means.shape[1], 1, 1)
        self.resolution, self.draws_images = self.shape[1], self.shape[0] == 3
        self.recommended = recommended
        self.labels = tuple(dict.fromkeys(labels))
        weight = torch.ones(count) if weights is None else torch.as_tensor(weights)
        spread = torch.as_tensor(std, dtype=torch.float64).expand(count)
        if bool((weight <= 0).any()) or bool((spread < 0).any()):
            raise UserError("a mixture needs weights greater than 0 and std of at least 0")
        index = torch.tensor([self.labels.index(label) for label in labels])
        self.register_buffer("means", means.reshape(count, -1).double())
        self.register_buffer("variances", spread.square())
        self.register_buffer("log_weights", weight.double().log().log_softmax(dim=0))
        self.register_buffer("label_index", index)
        schedule = scaled_linear(num_train_timesteps, beta_start, beta_end)
        self.schedule = Schedule(schedule)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape of the data."""
        channels, rows, columns = self.shape
        return channels, rows, columns

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """The data's own (h, w), whatever is asked for."""
        return self.shape[1], self.shape[2]

    def encode_image(self, image: Tensor) -> Tensor:
        """The identity: data [B,C,h,w] are their own latents."""
        return image

    def decode_latent(self, x0: Tensor) -> Tensor:
        """The identity."""
        return x0

    def encode_prompt(self, prompts: Sequence[str], negative: str = "") -> Text:
        """Prompts as log weights of the labels: `{"log_weights": [B, number of labels]}`."""
        cond = torch.stack([self._label_log_weights(prompt) for prompt in prompts])
        null = self._label_log_weights(negative).expand_as(cond)
        return Text({"log_weights": cond}, {"log_weights": null.clone()})

    def _label_log_weights(self, prompt: str) -> Tensor:
        """Log factor [number of labels] on each label's components; −∞ leaves a label out."""
        if not prompt.strip():
            return torch.zeros(len(self.labels), dtype=torch.float64, device=self.device)
        result = torch.zeros(len(self.labels), dtype=torch.float64, device=self.device)
        for word in prompt.split():
            label, _, number = word.partition(":")
            factor = _positive(number) if number else 1.0
            if label not in self.labels or factor is None:
                raise UserError(
                    f'the mixture backbone does not know the prompt "{prompt}"; its labels are '
                    f'{", ".join(self.labels)}, a weighting looks like "{self.labels[0]}:2", and '
                    "an empty prompt means all of them"
                )
            # The factor is relative to the labels' shares, so that "a:1 b:1" weighs them alike.
            share = self.log_weights[self.label_index == self.labels.index(label)].logsumexp(0)
            result[self.labels.index(label)] += factor / share.exp()
        return result.log()

    def predict_eps(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Exact ε̂ [N,C,h,w]; rows of equal prompts are computed together."""
        flat, alpha = x_t.flatten(1), self.schedule.alphas_cumprod[t.to(self.device)].to(x_t)
        prompts, eps = cond["log_weights"], torch.empty_like(flat)
        left = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
        while bool(left.any()):
            first = prompts[left.nonzero()[0, 0]]
            same = left & (prompts == first).all(dim=1)
            rows = same.nonzero().squeeze(1)
            eps[rows] = self._eps(flat[rows], alpha[rows, None], first)
            left &= ~same
        return eps.view_as(x_t)

    def _eps(self, x: Tensor, alpha: Tensor, label_log_weights: Tensor) -> Tensor:
        """ε̂ [R,D] at x [R,D] and ᾱ [R,1] for one prompt; components left out cost nothing."""
        means, variances, log_weights = self._components(label_log_weights, x)
        v = alpha * variances + (1 - alpha)
        return mixture_eps(x, alpha, with_squares(means), v, log_weights)

    def _components(self, label_log_weights: Tensor, like: Tensor) -> tuple[Tensor, ...]:
        """Means [K,D], variances [1,K] (or [1,1] when all alike) and log weights [K] in use."""
        log_weights = self.log_weights + label_log_weights.to(self.log_weights)[self.label_index]
        used = log_weights.isfinite().nonzero().squeeze(1)
        variances = self.variances[used]
        if bool((variances == variances[0]).all()):
            variances = variances[:1]
        return (
            self.means[used].to(like),
            variances[None].to(like),
            log_weights[used].log_softmax(dim=0).to(like),
        )

    def log_density(self, x: Tensor, prompt: str = "", t: int | None = None) -> Tensor:
        """log p_t(x | prompt) [B] of points x [B,C,h,w] or [B,D]; differentiable.

        Args:
            t: timestep in [0, T); None: the data's own density, before any noise.

        Raises:
            UserError: t is None and a component has std 0, which has no density.
        """
        flat = x.flatten(1)
        means, variances, log_weights = self._components(self._label_log_weights(prompt), flat)
        if t is None and bool((variances == 0).any()):
            raise UserError("a point set with std 0 has no density; give the mixture std > 0")
        alpha = (
            flat.new_ones(1, 1)
            if t is None
            else self.schedule.alphas_cumprod[t].to(flat).view(1, 1)
        )
        v = alpha * variances + (1 - alpha)
        terms = _log_terms(flat, alpha, with_squares(means), v, log_weights)
        return terms.logsumexp(dim=1)

    def posterior(self, x: Tensor, label: str, t: int | None = None) -> Tensor:
        """P(label | x_t = x) [B] by Bayes' rule, for x [B,C,h,w] or [B,D]; t as in `log_density`.

        Raises:
            UserError: unknown label, or std 0 with t None.
        """
        if label not in self.labels:
            raise UserError(f"no label {label} in the mixture; it has {', '.join(self.labels)}")
        log_joint = []
        for i, name in enumerate(self.labels):
            prior = self.log_weights[self.label_index == i].logsumexp(dim=0).to(x)
            log_joint.append(self.log_density(x, name, t) + prior)
        stacked = torch.stack(log_joint, dim=1)
        return stacked.softmax(dim=1)[:, self.labels.index(label)]


def _positive(number: str) -> float | None:
    """`number` as a positive finite float, else None."""
    try:
        value = float(number)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def with_squares(means: Tensor) -> Tensor:
    """Means m [K,D] as `mixture_eps` takes them, [K,D+1]: |m|² stands in the last column."""
    return torch.cat([means, means.square().sum(dim=1, keepdim=True)], dim=1)


def mixture_eps(x: Tensor, alpha: Tensor, points: Tensor, v: Tensor, log_weights: Tensor) -> Tensor:
    """Exact ε̂ [R,D] of a Gaussian mixture at x_t [R,D], the formula at the head of this file.

    Args:
        alpha: ᾱ_t [R,1].
        points: the means, `with_squares`, [K,D+1].
        v: the variances v_i at t, [R,K], or [R,1] where they are all alike.
        log_weights: log w_i, [K] or one for each row [R,K], any sum; −∞ leaves a component out.
    """
    share = _log_terms(x, alpha, points, v, log_weights).softmax(dim=1)
    means = points[:, :-1]
    if v.shape[1] == 1:
        score = (alpha.sqrt() * _mixed(share, means) - x) / v
    else:
        share = share / v
        score = alpha.sqrt() * _mixed(share, means) - share.sum(dim=1, keepdim=True) * x
    return -(1 - alpha).sqrt() * score


def local_mixture_eps(
    x: Tensor, alpha: Tensor, places: Tensor, v: Tensor, log_weights: Tensor, window: int
) -> Tensor:
    """ε̂ [R,C,h,w] where at each place the posterior of the components sees only what lies near.

    Each place weighs the components by how well they explain x_t in the window around it, so one
    ε̂ can draw on several. A window that covers everything from everywhere gives `mixture_eps`.

    Args:
        x: x_t [R,C,h,w].
        alpha: ᾱ_t [R,1].
        places: the means, place by place, [h·w,K,C].
        v: the variance at t, [R,1].
        log_weights: log w_i for each row [R,K], any sum; −∞ leaves a component out.
        window: its side in places, odd; at borders only what lies inside counts.

    Source: the local score of Kamb and Ganguli, An analytic theory of creativity in convolutional
    diffusion models, arXiv 2412.20292, section 3, for a mixture of Gaussians, at a fixed window.
    """
    rows, _, height, width = x.shape
    count = places.shape[1]
    here = x.flatten(2).permute(2, 0, 1)  # [h·w,R,C]
    fit = alpha.sqrt() * (here @ places.mT)
    fit -= 0.5 * alpha * places.square().sum(2)[:, None]
    # Adjacent in memory are components, then rows, then places: what pooling calls channels last.
    near = fit.view(1, height, width, rows * count).permute(0, 3, 1, 2)
    near = F.avg_pool2d(near, window, 1, window // 2, divisor_override=1)
    fit = near.permute(0, 2, 3, 1).reshape(height * width, rows, count)
    mean = (fit / v + log_weights).softmax(2) @ places
    mean = mean.permute(1, 2, 0).reshape_as(x)
    alpha, v = alpha[..., None, None], v[..., None, None]
    return (1 - alpha).sqrt() * (x - alpha.sqrt() * mean) / v


def _mixed(share: Tensor, means: Tensor) -> Tensor:
    """share [R,K] @ means [K,D]; of many wide means only those are read that weigh anything."""
    if len(share) < means.shape[1]:
        # All that is left out together is less than the rounding of what is not.
        least = torch.finfo(share.dtype).eps / len(means) * share.amax(dim=1, keepdim=True)
        heavy = (share > least).any(dim=0).nonzero().squeeze(1)
        if 4 * len(heavy) < len(means):
            return share[:, heavy] @ means[heavy]
    return share @ means


def _log_terms(x: Tensor, alpha: Tensor, points: Tensor, v: Tensor, log_weights: Tensor) -> Tensor:
    """log(w_i N(x; √ᾱ m_i, v_i I)) [R,K]; arguments as in `mixture_eps`."""
    inner = alpha.sqrt() * x
    if v.shape[1] == 1:
        # One matrix product of width D+1 instead of passes over [R,K].
        left = torch.cat([inner, -0.5 * alpha.expand(len(x), 1)], dim=1) / v
        terms = torch.addmm(log_weights, left, points.T)
    else:
        terms = log_weights + (inner @ points[:, :-1].T - 0.5 * alpha * points[:, -1]) / v
    own = 0.5 * x.square().sum(dim=1, keepdim=True) / v
    return terms - own - 0.5 * x.shape[1] * (2 * math.pi * v).log()


class CrescentMixture(MixtureBackbone):
    """The two crescents of `scene=toy2d`, every point a Gaussian of the given std."""

    def __init__(
        self,
        points: int = 400,
        noise: float = 0.08,
        std: float = 0.05,
        seed: int = 0,
        **options: Any,
    ) -> None:
        data = crescents(points, noise, seed)
        labels = [label for label, x in data.items() for _ in range(len(x))]
        super().__init__(torch.cat(list(data.values())), labels, std, **options)
