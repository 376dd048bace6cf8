"""Drawing images from a backbone with the DDIM sampler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text


def ddim_timesteps(num_train_timesteps: int, steps: int, start: int | None = None) -> Tensor:
    """`steps` integer timesteps [steps] from `start` down, evenly spaced, without repeats.

    Args:
        start: the first of them, in [0, T); None: T−1.

    Raises:
        ValueError: steps is not in 1 … start + 1.
    """
    start = num_train_timesteps - 1 if start is None else start
    if not 0 <= start < num_train_timesteps:
        raise ValueError(f"start must be between 0 and {num_train_timesteps - 1}, not {start}")
    if not 1 <= steps <= start + 1:
        raise ValueError(f"steps must be between 1 and {start + 1}, not {steps}")
    edges = torch.linspace(start, -1, steps + 1, dtype=torch.float64)
    return edges[:-1].round().long()


def ddim_step(
    x_t: Tensor, eps: Tensor, alpha: Tensor, alpha_next: Tensor, variance: Tensor | float = 0.0
) -> Tensor:
    """The mean of the step from ᾱ = `alpha` to `alpha_next`, up or down the noise levels.

    √ᾱ' x̂_0 + √(1−ᾱ'−σ²) ε̂ with x̂_0 = (x_t − √(1−ᾱ) ε̂)/√ᾱ. Fresh noise of `variance` σ² is left
    to the caller.

    Source: Song, Meng, Ermon, Denoising Diffusion Implicit Models (ICLR 2021), eq. 12.
    """
    clean = (x_t - (1 - alpha).sqrt() * eps) / alpha.sqrt()
    return alpha_next.sqrt() * clean + (1 - alpha_next - variance).sqrt() * eps


def ddpm_variance(alpha: Tensor, alpha_next: Tensor) -> Tensor:
    """σ² of DDPM's step from the noisier ᾱ = `alpha` to `alpha_next` (ibid., eq. 16, η = 1)."""
    return (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)


@torch.no_grad()
def ddim(
    backbone: Backbone,
    x_t: Tensor,
    text: Text,
    *,
    steps: int = 30,
    guidance: float = 1.0,
    start: int | None = None,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    on_step: Callable[[int], None] | None = None,
    predict: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Follows the DDIM path from x_t to x_0.

    Args:
        backbone: predicts ε̂ on its schedule.
        x_t: images [B,C,h,w] at t = `start`; standard normal noise at T−1.
        text: B encoded prompts.
        steps: network evaluations, 1 … start + 1.
        guidance: ω of classifier-free guidance.
        start: the timestep that x_t is at, in [0, T); None: T−1.
        eta: 0 is deterministic, 1 adds as much fresh noise as DDPM, at most 1.
        generator: of the fresh noise, drawn on its device.
        on_step: called with the number of steps done.
        predict: (x_t, t [B]) → ε̂, instead of the backbone's guided prediction under `text`.

    Returns:
        x_0 [B,C,h,w].

    Source: Song, Meng, Ermon, Denoising Diffusion Implicit Models (ICLR 2021), eq. 12 and 16.
    """
    times = ddim_timesteps(backbone.schedule.num_train_timesteps, steps, start).to(x_t.device)
    alphas = backbone.schedule.alphas_cumprod.to(x_t.device)[times].to(x_t.dtype)
    # After the last step the image is clean: ᾱ = 1.
    following = torch.cat([alphas[1:], alphas.new_ones(1)])
    for done, (t, alpha, alpha_next) in enumerate(
        zip(times, alphas, following, strict=True), start=1
    ):
        at = t.repeat(len(x_t))
        if predict is None:
            eps = backbone.predict_noise(x_t, at, text, guidance)
        else:
            eps = predict(x_t, at)
        variance = eta**2 * ddpm_variance(alpha, alpha_next)
        x_t = ddim_step(x_t, eps, alpha, alpha_next, variance)
        if eta and done < steps:  # nothing is added to the clean image: its variance is 0
            x_t = x_t + variance.sqrt() * normal_like(x_t, generator)
        if on_step is not None:
            on_step(done)
    return x_t


@torch.no_grad()
def ddim_invert(
    backbone: Backbone,
    x0: Tensor,
    t: Tensor,
    text: Text,
    *,
    stride: int | None = None,
    steps: int | None = None,
    guidance: float = 1.0,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Follows the DDIM path the other way, from x_0 to x_t, each sample to its own t.

    Args:
        backbone: predicts ε̂ on its schedule.
        x0: clean images [B,C,h,w].
        t: where to go, integer timesteps [B] in [0, T).
        text: B encoded prompts.
        stride: timesteps between network calls; a sample's last step is what is left.
        steps: network calls, evenly spaced for each sample; give this or `stride`.
        guidance: ω.
        eta: 0 is deterministic; above, each step exchanges that share of DDPM's variance for
            fresh noise.
        generator: of the fresh noise.

    Returns:
        x_t [B,C,h,w].

    Source: Song et al., DDIM (ICLR 2021), section 4.3; Dhariwal and Nichol, arXiv 2105.05233, F.
    """
    if stride is None:
        assert steps is not None
        share = torch.arange(steps + 1, device=t.device, dtype=torch.float64) / steps
        times = (share[:, None] * t[None]).round().long()
    else:
        count = max(1, -(-int(t.max()) // stride))
        times = torch.arange(count + 1, device=t.device)[:, None] * stride
        times = times.minimum(t[None])
    alphas = backbone.schedule.alphas_cumprod.to(x0.device)[times].to(x0.dtype)
    alphas[0] = 1  # a clean image, that the network sees as one at t = 0
    x = x0
    for at, now, after in zip(times[:-1], alphas[:-1], alphas[1:], strict=True):
        eps = backbone.predict_noise(x, at, text, guidance).to(x.dtype)
        now, after = (a.reshape(-1, *[1] * (x.ndim - 1)) for a in (now, after))
        variance = eta**2 * ddpm_variance(after, now)
        x = ddim_step(x, eps, now, after, variance)
        if eta:
            x = x + variance.sqrt() * normal_like(x, generator)
    return x


def normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise in the shape, dtype and place of x, drawn on the generator's device."""
    device = generator.device if generator is not None else x.device
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)


def noise(shape: tuple[int, int, int], seed: int, first: int, count: int) -> Tensor:
    """Standard normal noise [count,C,h,w] for samples `first`, `first` + 1, …

    Sample i depends on `seed` and i only, so the size of batches changes nothing.
    """
    drawn = []
    for index in range(first, first + count):
        # Spread, so that sample 1 of seed 0 is not sample 0 of seed 1.
        generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
        drawn.append(torch.randn(shape, generator=generator))
    return torch.stack(drawn)


def sample(
    backbone: Backbone,
    prompt: str,
    count: int,
    *,
    negative: str = "",
    steps: int = 30,
    guidance: float = 1.0,
    seed: int = 0,
    batch_size: int = 8,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Draws `count` images [count,3,H,W] in [0,1] for one prompt.

    Args:
        on_step: called with the number of DDIM steps done, over all batches.
    """
    text = backbone.encode_prompt([prompt], negative)
    shape = backbone.latent_shape
    images, done = [], 0
    for first in range(0, count, batch_size):
        size = min(batch_size, count - first)
        start = noise(shape, seed, first, size).to(backbone.device, _dtype(text))
        before = done

        def tell(step: int, before: int = before) -> None:
            if on_step is not None:
                on_step(before + step)

        x0 = ddim(backbone, start, text.expand(size), steps=steps, guidance=guidance, on_step=tell)
        with torch.no_grad():
            images.append(backbone.decode_latent(x0).clamp(0, 1).float().cpu())
        done += steps
    return torch.cat(images)


def _dtype(text: Text) -> torch.dtype:
    for tensor in text.cond.values():
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32
