"""The noise schedule of a backbone: how much signal and noise x_t holds, and what follows."""

from __future__ import annotations

import torch
from torch import Tensor

from pds_cli.errors import UserError

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a network predicts: ε, v = √ᾱ_t ε − √(1−ᾱ_t) x_0 (arXiv 2202.00512), or x_0."""


class Schedule(torch.nn.Module):
    """A variance-preserving schedule: x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε.

    Every method takes integer timesteps t [B] in [0, T) and a tensor `like` [B,…] or x_t, and
    answers in its dtype, on its device, in a shape that multiplies it.

    Args:
        alphas_cumprod: ᾱ_t for t = 0 … T−1, shape [T], decreasing, in (0, 1).
    """

    alphas_cumprod: Tensor

    def __init__(self, alphas_cumprod: Tensor) -> None:
        super().__init__()
        self.register_buffer("alphas_cumprod", alphas_cumprod)

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of discrete training timesteps."""
        return len(self.alphas_cumprod)

    def alpha_bar(self, t: Tensor, like: Tensor) -> Tensor:
        """ᾱ_t."""
        found = self.alphas_cumprod[t.to(self.alphas_cumprod.device)].to(like)
        return found.reshape(-1, *[1] * (like.ndim - 1))

    def alpha(self, t: Tensor, like: Tensor) -> Tensor:
        """√ᾱ_t, the factor on x_0."""
        return self.alpha_bar(t, like).sqrt()

    def sigma(self, t: Tensor, like: Tensor) -> Tensor:
        """√(1−ᾱ_t), the factor on ε."""
        return (1 - self.alpha_bar(t, like)).sqrt()

    def add_noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t [B,…] of x_0 and ε [B,…]."""
        return self.alpha(t, x0) * x0 + self.sigma(t, x0) * eps

    def velocity(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """v [B,…] of x_0 and ε [B,…]."""
        return self.alpha(t, x0) * eps - self.sigma(t, x0) * x0

    def preconditioning(
        self, t: Tensor, like: Tensor, spread: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Factors (c_in, c_skip, c_out) such that v̂ = c_skip x_t + c_out F(c_in x_t).

        c_skip x_t is the best linear guess of v for latents of these spreads, c_out the spread of
        what it leaves, and c_in x_t has unit variance. A spread of 1 gives 1, 0 and 1: F is v̂.

        Args:
            like: x_t [B,C,h,w].
            spread: the standard deviation of each channel [C], above 0.

        Source: Karras et al., EDM, arXiv 2206.00364, section 5, for v and one channel at a time.
        """
        alpha_bar, variance = self.alpha_bar(t, like), spread.to(like)[:, None, None].square()
        total = alpha_bar * variance + 1 - alpha_bar
        skip = (alpha_bar * (1 - alpha_bar)).sqrt() * (1 - variance) / total
        return total.rsqrt(), skip, (variance / total).sqrt()

    def to_eps(self, output: Tensor, x_t: Tensor, t: Tensor, prediction: str) -> Tensor:
        """ε̂ [B,…] from what a network predicted at x_t [B,…].

        Args:
            prediction: what that is, one of `PREDICTIONS`.

        Raises:
            UserError: an unknown kind.
        """
        if prediction == "epsilon":
            return output
        if prediction == "v_prediction":
            return self.alpha(t, x_t) * output + self.sigma(t, x_t) * x_t
        if prediction == "sample":
            return (x_t - self.alpha(t, x_t) * output) / self.sigma(t, x_t)
        raise UserError(f"a network that predicts {prediction} is none of {', '.join(PREDICTIONS)}")

    def to_x0(self, eps: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean estimate x̂_0 [B,…] of a prediction ε̂ [B,…] at x_t [B,…]."""
        return (x_t - self.sigma(t, x_t) * eps) / self.alpha(t, x_t)
