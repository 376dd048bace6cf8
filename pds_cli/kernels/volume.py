"""Volume rendering on the CPU: marching through an occupancy grid, and compositing.

Samples of all rays lie in one row ("packed"): ray r owns samples starts[r] … starts[r+1]−1, in
the order in which the ray meets them.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(inline="always")
def _norm(x, y, z):
    return max(abs(x), max(abs(y), abs(z)))


@njit(inline="always")
def _contracted(x, y, z, unbounded):
    """The contraction of mip-NeRF 360 in the maximum norm, from the unit cube's frame to [0,1]³.

    Inside the cube [−1,1]³ it is the identity, outside it brings everything into [−2,2]³.
    """
    if not unbounded:
        return 0.5 + 0.5 * x, 0.5 + 0.5 * y, 0.5 + 0.5 * z
    norm = _norm(x, y, z)
    if norm > 1:
        factor = (2 - 1 / norm) / norm
        x, y, z = x * factor, y * factor, z * factor
    return 0.5 + 0.25 * x, 0.5 + 0.25 * y, 0.5 + 0.25 * z


@njit(inline="always")
def _occupied(grid, u, v, w):
    n = grid.shape[0]
    i, j, k = int(u * n), int(v * n), int(w * n)
    if i < 0 or j < 0 or k < 0 or i >= n or j >= n or k >= n:
        return False
    return grid[i, j, k]


@njit(inline="always")
def _walk(origin, direction, near, far, jitter, grid, unbounded, step, t, d, first, write):
    """Marches one ray; returns how many samples it has, and writes them where `write` says."""
    count, now = 0, near
    shift = jitter
    while now < far:
        width = step
        if unbounded:
            norm = _norm(
                origin[0] + now * direction[0],
                origin[1] + now * direction[1],
                origin[2] + now * direction[2],
            )
            width = step * max(type(step)(1), norm * norm)
        width = min(width * shift, far - now)
        middle = now + type(step)(0.5) * width
        u, v, w = _contracted(
            origin[0] + middle * direction[0],
            origin[1] + middle * direction[1],
            origin[2] + middle * direction[2],
            unbounded,
        )
        if _occupied(grid, u, v, w):
            if write:
                t[first + count] = middle
                d[first + count] = width
            count += 1
        now += width
        shift = type(step)(1)
    return count


@njit(parallel=True, cache=True)
def march(origins, directions, nears, fars, jitter, grid, unbounded, step):
    """The samples of rays in the occupied cells of `grid`.

    Args:
        origins, directions: [R,3], in the frame where the region is the cube [−1,1]³.
        nears, fars: [R], where each ray begins and ends; nears ≥ fars for a ray that misses.
        jitter: [R] in (0,1], the length of each ray's first sample, in steps.
        grid: [n,n,n] bool, over the contracted cube; axes x, y, z.
        step: a sample's length, outside the cube times ‖x‖², as the contraction shrinks it.

    Returns:
        starts [R+1], t [S] (the middles of the samples) and d [S] (their lengths).
    """
    rays = origins.shape[0]
    counts = np.zeros(rays, np.int64)
    nothing = np.zeros(0, origins.dtype)
    for r in prange(rays):
        counts[r] = _walk(
            origins[r], directions[r], nears[r], fars[r], jitter[r], grid,
            unbounded, step, nothing, nothing, 0, False,
        )  # fmt: skip
    starts = np.zeros(rays + 1, np.int64)
    starts[1:] = np.cumsum(counts)
    t = np.empty(starts[rays], origins.dtype)
    d = np.empty(starts[rays], origins.dtype)
    for r in prange(rays):
        _walk(
            origins[r], directions[r], nears[r], fars[r], jitter[r], grid,
            unbounded, step, t, d, starts[r], True,
        )  # fmt: skip
    return starts, t, d


@njit(parallel=True, fastmath=True, cache=True)
def composite(starts, sigma, values, d):
    """Weights [S], sums [R,C] of weight · value, and what is left of each ray [R].

    weight_i = T_i (1 − exp(−σ_i d_i)), T_i = exp(−Σ_{j<i} σ_j d_j).
    """
    rays, channels = starts.shape[0] - 1, values.shape[1]
    weights = np.empty_like(sigma)
    out = np.zeros((rays, channels), values.dtype)
    left = np.ones(rays, values.dtype)
    for r in prange(rays):
        transmittance = 1.0
        for i in range(starts[r], starts[r + 1]):
            through = np.exp(-sigma[i] * d[i])
            weight = transmittance * (1 - through)
            weights[i] = weight
            for c in range(channels):
                out[r, c] += weight * values[i, c]
            transmittance *= through
        left[r] = transmittance
    return weights, out, left


@njit(parallel=True, fastmath=True, cache=True)
def composite_backward(starts, sigma, values, d, weights, left, grad_out, grad_left):
    """The adjoint of `composite`: gradients to sigma [S] and values [S,C].

    With G_i = grad_out · value_i and S_i = Σ_{j>i} weight_j G_j + left · grad_left,
    ∂/∂σ_i = d_i (T_{i+1} G_i − S_i), where T_{i+1} is what sample i lets through.
    """
    rays, channels = starts.shape[0] - 1, values.shape[1]
    grad_sigma = np.empty_like(sigma)
    grad_values = np.empty_like(values)
    for r in prange(rays):
        behind = left[r] * grad_left[r]
        transmittance = left[r]
        for i in range(starts[r + 1] - 1, starts[r] - 1, -1):
            dot = 0.0
            for c in range(channels):
                dot += grad_out[r, c] * values[i, c]
                grad_values[i, c] = grad_out[r, c] * weights[i]
            grad_sigma[i] = d[i] * (transmittance * dot - behind)
            behind += weights[i] * dot
            transmittance += weights[i]
    return grad_sigma, grad_values
