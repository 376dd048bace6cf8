"""Multiresolution hash grid on the CPU: forward, and adjoint to the table and to the positions.

Arrays are C-contiguous float32 or float64: positions [N,3] in [0,1], table [entries·F] (all
levels in a row, see `pds_cli.representations.nerf.encoding.GridLayout`), features [N,L·F].
`scales` has the positions' type: mixed arithmetic would cost half the speed. `features` is any
tuple of F integers: its length is part of its type, so that F is a constant of the compiled code
and its loops are unrolled, which makes them 2.5 times faster than with F as a number. (Closures
over F would be as fast, but Numba's cache on disk mixes up closures of one name.)
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

# tiny-cuda-nn's primes; the first axis is multiplied by one.
_PRIME_Y, _PRIME_Z = np.uint32(2654435761), np.uint32(805459861)
_CHUNK = 512  # points that go through all levels together, so that their features stay in cache


@njit(inline="always")
def _cell(position, scale):
    """The lower corner of a position's cell, and where in the cell it is."""
    scaled = position * scale + type(scale)(0.5)
    corner = np.int32(scaled)  # positions are not negative, so this rounds down
    return corner, scaled - corner


@njit(inline="always")
def _rows(x, y, z, side, entries, dense):
    """The rows of a cell's eight corners in its level's table; x changes fastest, z slowest."""
    if dense:
        a = x + side * (y + side * z)
        b, c = a + side, a + side * side
        d = c + side
        if d + 1 < entries:
            return a, a + 1, b, b + 1, c, c + 1, d, d + 1
        # The last cells' far corners can lie past the table; tiny-cuda-nn wraps them round.
        return (
            a % entries, (a + 1) % entries, b % entries, (b + 1) % entries,
            c % entries, (c + 1) % entries, d % entries, (d + 1) % entries,
        )  # fmt: skip
    mask = np.uint32(entries - 1)
    x0, x1 = np.uint32(x), np.uint32(x + 1)
    y0, z0 = np.uint32(y) * _PRIME_Y, np.uint32(z) * _PRIME_Z
    y1, z1 = y0 + _PRIME_Y, z0 + _PRIME_Z
    return (
        np.int32((x0 ^ y0 ^ z0) & mask), np.int32((x1 ^ y0 ^ z0) & mask),
        np.int32((x0 ^ y1 ^ z0) & mask), np.int32((x1 ^ y1 ^ z0) & mask),
        np.int32((x0 ^ y0 ^ z1) & mask), np.int32((x1 ^ y0 ^ z1) & mask),
        np.int32((x0 ^ y1 ^ z1) & mask), np.int32((x1 ^ y1 ^ z1) & mask),
    )  # fmt: skip


@njit(parallel=True, fastmath=True, cache=True)
def forward(positions, table, scales, sides, offsets, dense, features):
    """Features [N,L·F] of positions, by trilinear interpolation."""
    count, levels, width = positions.shape[0], scales.shape[0], len(features)
    out = np.empty((count, levels * width), table.dtype)
    for chunk in prange((count + _CHUNK - 1) // _CHUNK):
        for level in range(levels):
            entries = offsets[level + 1] - offsets[level]
            rows = table[offsets[level] * width : offsets[level + 1] * width]
            for i in range(chunk * _CHUNK, min(count, (chunk + 1) * _CHUNK)):
                x, fx = _cell(positions[i, 0], scales[level])
                y, fy = _cell(positions[i, 1], scales[level])
                z, fz = _cell(positions[i, 2], scales[level])
                gx, gy, gz = 1 - fx, 1 - fy, 1 - fz
                a, b, c, d, e, f, g, h = _rows(x, y, z, sides[level], entries, dense[level])
                for k in range(width):
                    out[i, level * width + k] = gz * (
                        gy * (gx * rows[a * width + k] + fx * rows[b * width + k])
                        + fy * (gx * rows[c * width + k] + fx * rows[d * width + k])
                    ) + fz * (
                        gy * (gx * rows[e * width + k] + fx * rows[f * width + k])
                        + fy * (gx * rows[g * width + k] + fx * rows[h * width + k])
                    )
    return out


@njit(parallel=True, fastmath=True, cache=True)
def backward_table(positions, grad, scales, sides, offsets, dense, features):
    """The adjoint to the table [entries·F].

    Parallel over levels: no two threads write to the same entry, and the order of the sum,
    and with it the result, is the same in every run.
    """
    count, levels, width = positions.shape[0], scales.shape[0], len(features)
    out = np.zeros(offsets[levels] * width, grad.dtype)
    for level in prange(levels):
        entries = offsets[level + 1] - offsets[level]
        rows = out[offsets[level] * width : offsets[level + 1] * width]
        for i in range(count):
            x, fx = _cell(positions[i, 0], scales[level])
            y, fy = _cell(positions[i, 1], scales[level])
            z, fz = _cell(positions[i, 2], scales[level])
            gx, gy, gz = 1 - fx, 1 - fy, 1 - fz
            a, b, c, d, e, f, g, h = _rows(x, y, z, sides[level], entries, dense[level])
            for k in range(width):
                upstream = grad[i, level * width + k]
                rows[a * width + k] += gx * gy * gz * upstream
                rows[b * width + k] += fx * gy * gz * upstream
                rows[c * width + k] += gx * fy * gz * upstream
                rows[d * width + k] += fx * fy * gz * upstream
                rows[e * width + k] += gx * gy * fz * upstream
                rows[f * width + k] += fx * gy * fz * upstream
                rows[g * width + k] += gx * fy * fz * upstream
                rows[h * width + k] += fx * fy * fz * upstream
    return out


@njit(parallel=True, fastmath=True, cache=True)
def backward_positions(positions, table, grad, scales, sides, offsets, dense, features):
    """The adjoint to the positions [N,3]."""
    count, levels, width = positions.shape[0], scales.shape[0], len(features)
    out = np.zeros((count, 3), grad.dtype)
    for i in prange(count):
        for level in range(levels):
            entries = offsets[level + 1] - offsets[level]
            rows = table[offsets[level] * width : offsets[level + 1] * width]
            x, fx = _cell(positions[i, 0], scales[level])
            y, fy = _cell(positions[i, 1], scales[level])
            z, fz = _cell(positions[i, 2], scales[level])
            gx, gy, gz = 1 - fx, 1 - fy, 1 - fz
            a, b, c, d, e, f, g, h = _rows(x, y, z, sides[level], entries, dense[level])
            for k in range(width):
                upstream = scales[level] * grad[i, level * width + k]
                va, vb = rows[a * width + k], rows[b * width + k]
                vc, vd = rows[c * width + k], rows[d * width + k]
                ve, vf = rows[e * width + k], rows[f * width + k]
                vg, vh = rows[g * width + k], rows[h * width + k]
                out[i, 0] += upstream * (
                    gz * (gy * (vb - va) + fy * (vd - vc)) + fz * (gy * (vf - ve) + fy * (vh - vg))
                )
                out[i, 1] += upstream * (
                    gz * (gx * (vc - va) + fx * (vd - vb)) + fz * (gx * (vg - ve) + fx * (vh - vf))
                )
                out[i, 2] += upstream * (
                    gy * (gx * (ve - va) + fx * (vf - vb)) + fy * (gx * (vg - vc) + fx * (vh - vd))
                )
    return out
