"""Volume rendering: marching, compositing, contraction; kernels on the CPU, PyTorch elsewhere.

Rays are given in the region's frame: x = (world − centre) / radius, so that the region is the
cube [−1,1]³ and distances t are in units of its radius. Samples of all rays are packed in one
row; ray r owns those from `starts[r]` to `starts[r+1]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Packed samples of R rays.

    starts: [R+1] int64. t: [S] middles. d: [S] lengths, both in units of the region's radius.
    """

    starts: Tensor
    t: Tensor
    d: Tensor

    @property
    def rays(self) -> Tensor:
        """The ray that each sample belongs to, [S] int64."""
        counts = self.starts[1:] - self.starts[:-1]
        return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)

    def keep(self, which: Tensor) -> Samples:
        """Only the samples where `which` [S] is true."""
        kept = torch.zeros_like(self.starts)
        passed = torch.cumsum(which.long(), 0)
        inside = self.starts > 0
        kept[inside] = passed[self.starts[inside] - 1]
        return Samples(kept, self.t[which], self.d[which])


def contract(positions: Tensor, unbounded: bool) -> Tensor:
    """Positions [N,3] in the region's frame to [0,1]³, for the grids.

    Unbounded: the identity inside the cube [−1,1]³ and (2 − 1/‖x‖)·x/‖x‖ outside, in the maximum
    norm, after Barron et al. 2022 (arXiv 2111.12077, equation 10); all of space fits in
    [−2,2]³. Bounded: the cube itself, positions outside it are brought to its faces.
    """
    if not unbounded:
        return (0.5 + 0.5 * positions).clamp(0, 1)
    norm = positions.abs().amax(-1, keepdim=True).clamp_min(1.0)
    return 0.5 + 0.25 * positions * (2 - 1 / norm) / norm


def expand(contracted: Tensor, unbounded: bool) -> Tensor:
    """The inverse of `contract`, [0,1]³ to the region's frame; finite in the open cube."""
    if not unbounded:
        return 2 * contracted - 1
    y = 4 * contracted - 2
    norm = y.abs().amax(-1, keepdim=True).clamp(1.0, 2.0 - 1e-4)
    return y / (norm * (2 - norm))


def limits(
    origins: Tensor, directions: Tensor, near: float, far: float, unbounded: bool
) -> tuple[Tensor, Tensor]:
    """Where each ray begins and ends, [R] each; near ≥ far for a ray that misses a bounded cube."""
    nears, fars = origins.new_full((len(origins),), near), origins.new_full((len(origins),), far)
    if unbounded:
        return nears, fars
    inverse = 1 / torch.where(directions.abs() < 1e-9, directions.new_tensor(1e-9), directions)
    first, second = (-1 - origins) * inverse, (1 - origins) * inverse
    enter = torch.minimum(first, second).amax(-1)
    leave = torch.maximum(first, second).amin(-1)
    return torch.maximum(nears, enter), torch.minimum(fars, leave)


def march(
    origins: Tensor,
    directions: Tensor,
    nears: Tensor,
    fars: Tensor,
    jitter: Tensor,
    occupied: Tensor,
    *,
    unbounded: bool,
    step: float,
) -> Samples:
    """The samples of rays that lie in occupied cells; no gradient.

    Args:
        origins, directions: [R,3]. nears, fars: [R]. jitter: [R] in (0,1],
            the length of each ray's first sample, in steps.
        occupied: [n,n,n] bool over the contracted cube, axes x, y, z.
        step: a sample's length, outside an unbounded scene's cube times ‖x‖² (maximum norm), so
            that samples are evenly spaced where the grids are.
    """
    if origins.device.type != "cpu":
        return march_torch(
            origins, directions, nears, fars, jitter, occupied, unbounded=unbounded, step=step
        )
    from pds_cli.kernels import volume

    arrays = [x.detach().contiguous().numpy() for x in (origins, directions, nears, fars, jitter)]
    march_rays: Any = volume.march
    starts, t, d = march_rays(*arrays, occupied.numpy(), unbounded, arrays[0].dtype.type(step))
    return Samples(*(torch.from_numpy(x) for x in (starts, t, d)))


@torch.no_grad()
def march_torch(
    origins: Tensor,
    directions: Tensor,
    nears: Tensor,
    fars: Tensor,
    jitter: Tensor,
    occupied: Tensor,
    *,
    unbounded: bool,
    step: float,
) -> Samples:
    """`march` in plain PyTorch: all rays take their k-th step together."""
    n = occupied.shape[0]
    now, shift = nears, jitter
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    while bool((now < fars).any()):
        norm = (origins + now[:, None] * directions).abs().amax(-1).clamp_min(1.0)
        width = torch.minimum(shift * step * (norm**2 if unbounded else 1.0), fars - now)
        middle = now + 0.5 * width
        cell = contract(origins + middle[:, None] * directions, unbounded) * n
        x, y, z = cell.long().clamp(0, n - 1).unbind(-1)
        found.append((middle, width, occupied[x, y, z] & (now < fars)))
        now = torch.where(now < fars, now + width, now)
        shift = torch.ones_like(jitter)
    if not found:
        starts = torch.zeros(len(origins) + 1, dtype=torch.long, device=origins.device)
        return Samples(starts, origins.new_zeros(0), origins.new_zeros(0))
    t, d, hit = (torch.stack(part, 1) for part in zip(*found, strict=True))
    starts = torch.nn.functional.pad(hit.sum(1).cumsum(0), (1, 0))
    return Samples(starts, t[hit], d[hit])


def composite(samples: Samples, sigma: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Alpha compositing along rays, differentiable in `sigma` and `values`.

    w_i = T_i (1 − exp(−σ_i d_i)), T_i = exp(−Σ_{j<i} σ_j d_j) (Max 1995; Mildenhall et al. 2020,
    equation 3).

    Args:
        sigma: [S] densities, per unit of `samples.d`. values: [S,C].

    Returns:
        sums [R,C] of w·value; what each ray has left at its end, [R]; weights [S] (no gradient).
    """
    if sigma.device.type == "cpu":
        return _Composite.apply(samples.starts, samples.d, sigma, values)
    return composite_torch(samples, sigma, values)


def composite_torch(
    samples: Samples, sigma: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`composite` in plain PyTorch."""
    rays, count = samples.rays, len(samples.starts) - 1
    optical = sigma.double() * samples.d  # the running sum is over all rays: double keeps it exact
    after = torch.cumsum(optical, 0)
    base = torch.nn.functional.pad(after, (1, 0))[samples.starts]
    before = after - optical - base[:-1][rays]
    weights = (torch.exp(-before) * -torch.expm1(-optical)).to(sigma)
    out = values.new_zeros(count, values.shape[1]).index_add(0, rays, weights[:, None] * values)
    left = torch.exp(base[:-1] - base[1:]).to(sigma)
    return out, left, weights.detach()


def distortion(samples: Samples, sigma: Tensor) -> Tensor:
    """How far the light is spread along each ray; [R], differentiable in σ.

    Σ_ij w_i w_j |s_i − s_j| + ⅓ Σ_i w_i² Δs_i with the weights of `composite` and s = t/(1 + t):
    small where a ray meets one surface or nothing, large in haze.

    Args:
        sigma: [S] densities, per unit of `samples.d`.

    Source: Barron et al., Mip-NeRF 360, CVPR 2022, arXiv 2111.12077, equation 15; s is ours.
    """
    rays = samples.rays
    with torch.no_grad():
        _, _, weights = composite(samples, sigma, sigma.new_zeros(len(sigma), 1))
        s, width = samples.t / (1 + samples.t), samples.d / (1 + samples.t) ** 2
        # Σ_j w_j |s_i − s_j| from running sums, as s rises along a ray.
        behind, total = _running(weights, samples, rays)
        behind_s, total_s = _running(weights * s, samples, rays)
        spread = s * (2 * behind - total) - (2 * behind_s - total_s)
        slope = (2 * spread + 2 / 3 * weights * width).to(sigma)  # ∂/∂w_i of a ray's sum
    # The sum is quadratic in w, so it is ½ Σ w_i · slope_i, and its gradient is the slope's.
    sums, _, _ = composite(samples, sigma, slope[:, None])
    return sums[:, 0] - 0.5 * sums[:, 0].detach()


def _running(values: Tensor, samples: Samples, rays: Tensor) -> tuple[Tensor, Tensor]:
    """At each sample, the sum [S] of its ray's values up to it, and over the whole ray."""
    sums = torch.nn.functional.pad(torch.cumsum(values.double(), 0), (1, 0))
    ends = sums[samples.starts]
    return sums[1:] - ends[:-1][rays], (ends[1:] - ends[:-1])[rays]


def visible(samples: Samples, sigma: Tensor, threshold: float) -> Tensor:
    """Which samples [S] still receive more than `threshold` of their ray's light; no gradient."""
    rays = samples.rays
    optical = sigma.detach().double() * samples.d
    after = torch.nn.functional.pad(torch.cumsum(optical, 0), (1, 0))
    before = after[:-1] - after[samples.starts[:-1]][rays]
    return torch.exp(-before) > threshold


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, starts: Tensor, d: Tensor, sigma: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        from pds_cli.kernels import volume

        arrays = [x.detach().contiguous().numpy() for x in (starts, sigma, values, d)]
        weights, out, left = (torch.from_numpy(x) for x in volume.composite(*arrays))
        ctx.save_for_backward(starts, d, sigma, values, weights, left)
        ctx.mark_non_differentiable(weights)
        return out, left, weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor, grad_left: Tensor, _: Any) -> tuple[Any, ...]:
        from pds_cli.kernels import volume

        starts, d, sigma, values, weights, left = ctx.saved_tensors
        order = (starts, sigma, values, d, weights, left, grad_out, grad_left)
        arrays = [x.detach().contiguous().numpy() for x in order]
        to_sigma, to_values = volume.composite_backward(*arrays)
        return None, None, torch.from_numpy(to_sigma), torch.from_numpy(to_values)
