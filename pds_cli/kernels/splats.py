"""Gaussian splats on the CPU: projection, tiles, and compositing, each with its adjoint.

Arrays are C-contiguous, float32 or float64 alike. A camera's axes are OpenCV's here (x right,
y down, looking along +z); pixel centres lie at (column + ½, row + ½).

Compositing works on tiles of 16 × 16 pixels. In a tile the Gaussians come one after the other,
nearest first, and of each only the rows that it reaches; the 16 pixels of a row are neighbours in
memory, so that a row is a few vector instructions.

Source: Kerbl et al., 3D Gaussian Splatting, arXiv 2308.04079; Zwicker et al., EWA Splatting, 2002,
for the projection; the adjoints follow Ye et al., gsplat, arXiv 2409.06765, appendix.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

TILE = 16  # pixels a side
LEAST = 1 / 255  # a contribution below which a Gaussian is not there
MOST = 0.999  # opacity at most, so that something passes and the adjoint can divide
STOP = 1e-4  # light left below which nothing further counts
DILATION = 0.3  # px², added to both variances: what is thinner than a pixel still meets its centre
LENGTH = 12  # numbers of a projected Gaussian, in the order of the names below
X, Y, DEPTH, CONIC_XX, CONIC_XY, CONIC_YY, OPACITY, REACH_X, REACH_Y, RED, GREEN, BLUE = range(12)
GRADS = 10  # of those: x, y, depth, three of the conic, opacity, three of the colour


@njit(inline="always")
def _rotation(q):
    """The matrix of a quaternion (w,x,y,z) of any length, row by row, and its length."""
    length = math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    w, x, y, z = q[0] / length, q[1] / length, q[2] / length, q[3] / length
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        w, x, y, z, length,
    )  # fmt: skip


@njit(inline="always")
def _seen(mean, pose):
    """A world point in the camera's axes; pose is world to camera, [3,4]."""
    x = pose[0, 0] * mean[0] + pose[0, 1] * mean[1] + pose[0, 2] * mean[2] + pose[0, 3]
    y = pose[1, 0] * mean[0] + pose[1, 1] * mean[1] + pose[1, 2] * mean[2] + pose[1, 3]
    z = pose[2, 0] * mean[0] + pose[2, 1] * mean[1] + pose[2, 2] * mean[2] + pose[2, 3]
    return x, y, z


@njit(inline="always")
def _shape(quat, log_scale, r, rs, pose):
    """Fills r with the rotation, rs with W·R·S (its columns are the axes as the camera sees them).

    Returns the scales and the normalised quaternion with its length.
    """
    (
        r[0, 0], r[0, 1], r[0, 2], r[1, 0], r[1, 1], r[1, 2], r[2, 0], r[2, 1], r[2, 2],
        w, x, y, z, length,
    ) = _rotation(quat)  # fmt: skip
    s0, s1, s2 = math.exp(log_scale[0]), math.exp(log_scale[1]), math.exp(log_scale[2])
    for i in range(3):
        for k in range(3):
            rs[i, k] = pose[i, 0] * r[0, k] + pose[i, 1] * r[1, k] + pose[i, 2] * r[2, k]
        rs[i, 0] *= s0
        rs[i, 1] *= s1
        rs[i, 2] *= s2
    return s0, s1, s2, w, x, y, z, length


@njit(inline="always")
def _slope(x, z, center, focal, side):
    """x/z, and whether it was held to where the image ends and a bit: beyond, EWA breaks down."""
    reach = 0.15 * side / focal
    low, high = -center / focal - reach, (side - center) / focal + reach
    u = x / z
    if u < low:
        return low, True
    if u > high:
        return high, True
    return u, False


@njit(inline="always")
def _flattened(rs, u, v, fx, fy, z, j):
    """Covariance on the image (xx, xy, yy) without dilation; fills j with J·W·R·S, [2,3]."""
    xx = yy = xy = 0.0
    for k in range(3):
        j[0, k] = fx / z * (rs[0, k] - u * rs[2, k])
        j[1, k] = fy / z * (rs[1, k] - v * rs[2, k])
        xx += j[0, k] * j[0, k]
        xy += j[0, k] * j[1, k]
        yy += j[1, k] * j[1, k]
    return xx, xy, yy


@njit(parallel=True, cache=True)
def project(means, quats, log_scales, opacities, colors, pose, lens, size, near, antialias):
    """Gaussians as the image has them, [N,12] in the order of this file's names.

    One that is not seen has reach 0: behind `near`, outside, fainter than `LEAST`, or not finite.

    Args:
        means, log_scales: [N,3] in world units; quats: [N,4] (w,x,y,z), of any length but 0.
        opacities: [N] in [0,1]; colors: [N,3].
        pose: world to camera [3,4]; lens: fx, fy, cx, cy; size: width, height.
        antialias: opacity falls as dilation spreads it (Yu et al., Mip-Splatting, 2311.16493).
    """
    count = len(means)
    out = np.zeros((count, LENGTH), means.dtype)
    fx, fy, cx, cy = lens[0], lens[1], lens[2], lens[3]
    width, height = size[0], size[1]
    for i in prange(count):
        x, y, z = _seen(means[i], pose)
        if not near < z < 1e30:
            continue
        r, rs, j = np.empty((3, 3)), np.empty((3, 3)), np.empty((2, 3))
        _shape(quats[i], log_scales[i], r, rs, pose)
        u, _ = _slope(x, z, cx, fx, width)
        v, _ = _slope(y, z, cy, fy, height)
        xx, xy, yy = _flattened(rs, u, v, fx, fy, z, j)
        before = xx * yy - xy * xy
        xx += DILATION
        yy += DILATION
        det = xx * yy - xy * xy
        opacity = opacities[i]
        if antialias:
            opacity *= math.sqrt(max(before / det, 0.0))
        if not (opacity >= LEAST and det > 0 and xx < 1e12 and yy < 1e12):
            continue
        extent = 2 * math.log(opacity / LEAST)
        reach_x, reach_y = math.sqrt(extent * xx), math.sqrt(extent * yy)
        px, py = fx * x / z + cx, fy * y / z + cy
        outside = px + reach_x <= 0 or py + reach_y <= 0
        outside = outside or px - reach_x >= width or py - reach_y >= height
        found = px + py + reach_x + reach_y + colors[i, 0] + colors[i, 1] + colors[i, 2]
        if outside or not math.isfinite(found):
            continue
        out[i, X], out[i, Y], out[i, DEPTH] = px, py, z
        out[i, CONIC_XX], out[i, CONIC_XY], out[i, CONIC_YY] = yy / det, -xy / det, xx / det
        out[i, OPACITY], out[i, REACH_X], out[i, REACH_Y] = opacity, reach_x, reach_y
        out[i, RED], out[i, GREEN], out[i, BLUE] = colors[i, 0], colors[i, 1], colors[i, 2]
    return out


@njit(inline="always")
def _quaternion_adjoint(g, w, x, y, z, length, out):
    """From the gradient g [3,3] to a rotation to that of its quaternion, of any length."""
    gw = 2 * (
        z * (g[1, 0] - g[0, 1]) + y * (g[0, 2] - g[2, 0]) + x * (g[2, 1] - g[1, 2])
    )  # fmt: skip
    gx = 2 * (
        y * (g[0, 1] + g[1, 0]) + z * (g[0, 2] + g[2, 0]) + w * (g[2, 1] - g[1, 2])
        - 2 * x * (g[1, 1] + g[2, 2])
    )  # fmt: skip
    gy = 2 * (
        x * (g[0, 1] + g[1, 0]) + z * (g[1, 2] + g[2, 1]) + w * (g[0, 2] - g[2, 0])
        - 2 * y * (g[0, 0] + g[2, 2])
    )  # fmt: skip
    gz = 2 * (
        x * (g[0, 2] + g[2, 0]) + y * (g[1, 2] + g[2, 1]) + w * (g[1, 0] - g[0, 1])
        - 2 * z * (g[0, 0] + g[1, 1])
    )  # fmt: skip
    along = gw * w + gx * x + gy * y + gz * z
    out[0], out[1] = (gw - along * w) / length, (gx - along * x) / length
    out[2], out[3] = (gy - along * y) / length, (gz - along * z) / length


@njit(inline="always")
def _covariance_adjoint(a, b, c, ga, gb, gc):
    """From the gradient to a conic (a,b,c) to that of the covariance that it is the inverse of."""
    p, q = a * ga + b * gb / 2, a * gb / 2 + b * gc
    r, s = b * ga + c * gb / 2, b * gb / 2 + c * gc
    return -(p * a + q * b), -2 * (p * b + q * c), -(r * b + s * c)


@njit(parallel=True, cache=True)
def project_adjoint(
    grads, projected, means, quats, log_scales, opacities, pose, lens, size, antialias
):
    """Gradients to means, quats, log_scales, opacities and colors from `grads` [N,10].

    Args:
        grads: to what `project` found: x, y, depth, conic (3), opacity, colour (3).
        projected: that; the other arguments as there.
    """
    count = len(means)
    g_means, g_quats = np.zeros_like(means), np.zeros_like(quats)
    g_scales, g_opacities = np.zeros_like(log_scales), np.zeros_like(opacities)
    g_colors = np.zeros_like(means)
    fx, fy, cx, cy = lens[0], lens[1], lens[2], lens[3]
    for i in prange(count):
        if projected[i, REACH_X] <= 0:
            continue
        g = grads[i]
        for k in range(3):
            g_colors[i, k] = g[7 + k]
        x, y, z = _seen(means[i], pose)
        r, rs, j = np.empty((3, 3)), np.empty((3, 3)), np.empty((2, 3))
        s0, s1, s2, qw, qx, qy, qz, length = _shape(quats[i], log_scales[i], r, rs, pose)
        u, held_u = _slope(x, z, cx, fx, size[0])
        v, held_v = _slope(y, z, cy, fy, size[1])
        xx, xy, yy = _flattened(rs, u, v, fx, fy, z, j)
        gxx, gxy, gyy = _covariance_adjoint(
            projected[i, CONIC_XX], projected[i, CONIC_XY], projected[i, CONIC_YY], g[3], g[4], g[5]
        )
        g_opacity = g[6]
        if antialias:
            before = xx * yy - xy * xy
            wide_x, wide_y = xx + DILATION, yy + DILATION
            det = wide_x * wide_y - xy * xy
            share = math.sqrt(before / det)
            part = 0.5 * g_opacity * opacities[i] * share
            gxx += part * (yy / before - wide_y / det)
            gyy += part * (xx / before - wide_x / det)
            gxy += part * -2 * xy * (1 / before - 1 / det)
            g_opacity *= share
        g_opacities[i] = g_opacity
        g_rs, g_r = np.zeros((3, 3)), np.empty((3, 3))
        gu = gv = 0.0
        gz = g[2] - (fx * x * g[0] + fy * y * g[1]) / (z * z)
        for k in range(3):
            g0 = 2 * gxx * j[0, k] + gxy * j[1, k]
            g1 = gxy * j[0, k] + 2 * gyy * j[1, k]
            g_rs[0, k] = fx / z * g0
            g_rs[1, k] = fy / z * g1
            g_rs[2, k] = -fx / z * u * g0 - fy / z * v * g1
            gu -= fx / z * rs[2, k] * g0
            gv -= fy / z * rs[2, k] * g1
            gz -= (j[0, k] * g0 + j[1, k] * g1) / z
        gx, gy = fx / z * g[0], fy / z * g[1]
        if not held_u:
            gx += gu / z
            gz -= gu * u / z
        if not held_v:
            gy += gv / z
            gz -= gv * v / z
        scales = (s0, s1, s2)
        for k in range(3):
            g_means[i, k] = pose[0, k] * gx + pose[1, k] * gy + pose[2, k] * gz
            along = 0.0
            for m in range(3):
                along += rs[m, k] * g_rs[m, k]
            g_scales[i, k] = along
            for m in range(3):
                g_r[m, k] = scales[k] * (
                    pose[0, m] * g_rs[0, k] + pose[1, m] * g_rs[1, k] + pose[2, m] * g_rs[2, k]
                )
        _quaternion_adjoint(g_r, qw, qx, qy, qz, length, g_quats[i])
    return g_means, g_quats, g_scales, g_opacities, g_colors


@njit(inline="always")
def _span(middle, reach, count):
    """The tiles [begin, end) of an axis that [middle − reach, middle + reach] meets."""
    if reach <= 0:
        return 0, 0
    begin = max(math.floor((middle - reach) / TILE), 0)
    return begin, min(math.floor((middle + reach) / TILE) + 1, count)


@njit(cache=True)
def bin_tiles(projected, order, columns, rows):
    """Which Gaussians reach which tile, nearest first.

    Args:
        order: indices [N] by depth.

    Returns:
        starts [T+1] and items [M]: tile t, in row order, has items[starts[t]:starts[t+1]].
    """
    starts = np.zeros(columns * rows + 1, np.int64)
    for i in order:
        x0, x1 = _span(projected[i, X], projected[i, REACH_X], columns)
        y0, y1 = _span(projected[i, Y], projected[i, REACH_Y], rows)
        for y in range(y0, y1):
            for x in range(x0, x1):
                starts[y * columns + x + 1] += 1
    for t in range(columns * rows):
        starts[t + 1] += starts[t]
    items, at = np.empty(starts[-1], np.int32), starts[:-1].copy()
    for i in order:
        x0, x1 = _span(projected[i, X], projected[i, REACH_X], columns)
        y0, y1 = _span(projected[i, Y], projected[i, REACH_Y], rows)
        for y in range(y0, y1):
            for x in range(x0, x1):
                t = y * columns + x
                items[at[t]] = i
                at[t] += 1
    return starts, items


@njit(inline="always")
def _reached(g, top):
    """The first row of a tile that a Gaussian reaches, and the one behind the last."""
    first = math.ceil(g[Y] - g[REACH_Y] - top - 0.5)
    last = math.floor(g[Y] + g[REACH_Y] - top - 0.5) + 1
    return max(first, 0), min(last, TILE)


@njit(inline="always")
def _falloff(power):
    """exp(−power) for power ≥ 0, to 2·10⁻⁶; above 6 what it is there.

    (e^(−p/16))^16 by a polynomial, as the library's exponential is not vectorised.
    """
    p = min(power, type(power)(6)) * type(power)(-1 / 16)
    e = type(power)(1 / 120) + p * type(power)(1 / 720)
    e = type(power)(1 / 6) + p * (type(power)(1 / 24) + p * e)
    e = type(power)(1) + p * (type(power)(1) + p * (type(power)(1 / 2) + p * e))
    e *= e
    e *= e
    e *= e
    return e * e


@njit(inline="always")
def _centres(start, like):
    """Where the centres of a tile's columns or rows lie, [16]."""
    found = np.empty(TILE, like.dtype)
    for i in range(TILE):
        found[i] = start + i + 0.5
    return found


@njit(inline="always")
def _plane(value, like):
    """A number for each pixel of a tile, [16,16]."""
    return np.full((TILE, TILE), value, like.dtype)


# In both kernels below a pixel's numbers lie in arrays of their own, made where they are used:
# LLVM then turns the innermost loops, over the 16 pixels of a row, into vector instructions. Rows
# of one array, or arrays handed to a function of its own, take four times as long.


@njit(parallel=True, fastmath=True, cache=True)
def composite(projected, starts, items, width, height):
    """Colour, depth and light left of each pixel, nearest Gaussian first.

    Returns:
        out [H,W,4]: Σ T α (r, g, b, depth), without a background; left [H,W]: T behind the last;
        ends [H,W]: how many of the tile's items come before the light is used up.
    """
    dtype = projected.dtype
    out, left = np.zeros((height, width, 4), dtype), np.ones((height, width), dtype)
    ends = np.zeros((height, width), np.int32)
    columns = (width + TILE - 1) // TILE
    for tile in prange(len(starts) - 1):
        unit = np.ones(1, dtype)[0]  # numbers of the arrays' own type: others would widen all
        zero, half = type(unit)(0), type(unit)(0.5)
        least, most, stop = type(unit)(LEAST), type(unit)(MOST), type(unit)(STOP)
        top, side = tile // columns * TILE, tile % columns * TILE
        light, open_ = _plane(1, projected), _plane(1, projected)
        red, green = _plane(0, projected), _plane(0, projected)
        blue, far = _plane(0, projected), _plane(0, projected)
        done = np.zeros((TILE, TILE), np.int32)
        across, down = _centres(side, projected), _centres(top, projected)
        dx = np.empty(TILE, dtype)
        begin, end = starts[tile], starts[tile + 1]
        for k in range(begin, end):
            g = projected[items[k]]
            a, b, c, opacity = half * g[CONIC_XX], g[CONIC_XY], half * g[CONIC_YY], g[OPACITY]
            for i in range(TILE):
                dx[i] = across[i] - g[X]
            first, last = _reached(g, top)
            for y in range(first, last):
                dy = down[y] - g[Y]
                cdy, bdy = c * dy * dy, b * dy
                for i in range(TILE):
                    power = (a * dx[i] + bdy) * dx[i] + cdy
                    alpha = min(most, opacity * _falloff(max(power, zero)))
                    alpha = alpha * open_[y, i] if alpha >= least else zero
                    weight = alpha * light[y, i]
                    shut = light[y, i] - weight <= stop
                    open_[y, i] = zero if shut else open_[y, i]
                    weight = zero if shut else weight
                    light[y, i] -= weight
                    red[y, i] += weight * g[RED]
                    green[y, i] += weight * g[GREEN]
                    blue[y, i] += weight * g[BLUE]
                    far[y, i] += weight * g[DEPTH]
                    done[y, i] = k + 1 - begin if weight > 0 else done[y, i]
            if (k & 15) == 15 and np.max(open_) == 0:
                break
        for y in range(min(TILE, height - top)):
            for i in range(min(TILE, width - side)):
                at = out[top + y, side + i]
                at[0], at[1], at[2], at[3] = red[y, i], green[y, i], blue[y, i], far[y, i]
                left[top + y, side + i] = light[y, i]
                ends[top + y, side + i] = done[y, i]
    return out, left, ends


@njit(parallel=True, fastmath=True, cache=True)
def composite_adjoint(grad, grad_left, left, ends, projected, starts, items):
    """Gradients [N,10] to what `project` found, from those to colour and depth, and to the light.

    Args:
        grad: [H,W,4]; grad_left: [H,W]; the others as `composite` took and gave them.
    """
    height, width = left.shape
    dtype = projected.dtype
    columns = (width + TILE - 1) // TILE
    parts = np.zeros((len(items), GRADS), dtype)
    for tile in prange(len(starts) - 1):
        unit = np.ones(1, dtype)[0]
        zero, half = type(unit)(0), type(unit)(0.5)
        least, most = type(unit)(LEAST), type(unit)(MOST)
        top, side = tile // columns * TILE, tile % columns * TILE
        light, behind = _plane(1, projected), _plane(0, projected)
        gr, gg = _plane(0, projected), _plane(0, projected)
        gb, gd = _plane(0, projected), _plane(0, projected)
        count, longest = np.zeros((TILE, TILE), np.int32), 0
        for y in range(min(TILE, height - top)):
            for i in range(min(TILE, width - side)):
                at = grad[top + y, side + i]
                gr[y, i], gg[y, i], gb[y, i], gd[y, i] = at[0], at[1], at[2], at[3]
                light[y, i] = left[top + y, side + i]
                behind[y, i] = grad_left[top + y, side + i] * light[y, i]
                count[y, i] = ends[top + y, side + i]
                longest = max(longest, count[y, i])
        across, down = _centres(side, projected), _centres(top, projected)
        dx, sums = np.empty(TILE, dtype), np.empty((7, TILE), dtype)
        for k in range(starts[tile] + longest - 1, starts[tile] - 1, -1):
            place = k - starts[tile]
            g = projected[items[k]]
            a, b, c, opacity = half * g[CONIC_XX], g[CONIC_XY], half * g[CONIC_YY], g[OPACITY]
            red, green, blue, far = g[RED], g[GREEN], g[BLUE], g[DEPTH]
            for i in range(TILE):
                dx[i] = across[i] - g[X]
                for m in range(7):
                    sums[m, i] = zero
            first, last = _reached(g, top)
            for y in range(first, last):
                dy = down[y] - g[Y]
                cdy, bdy = c * dy * dy, b * dy
                for i in range(TILE):
                    power = (a * dx[i] + bdy) * dx[i] + cdy
                    full = opacity * _falloff(max(power, zero))
                    alpha = min(most, full)
                    alpha = alpha if alpha >= least and place < count[y, i] else zero
                    passed = unit / (unit - alpha)
                    before = light[y, i] * passed
                    weight = alpha * before
                    light[y, i] = before
                    shade = gr[y, i] * red + gg[y, i] * green + gb[y, i] * blue + gd[y, i] * far
                    slope = alpha * (behind[y, i] * passed - before * shade)
                    slope = slope if full <= most else zero  # at its most, nothing moves it
                    behind[y, i] += weight * shade
                    sums[0, i] += slope
                    sums[1, i] += slope * dy
                    sums[2, i] += slope * dy * dy
                    sums[3, i] += weight * gr[y, i]
                    sums[4, i] += weight * gg[y, i]
                    sums[5, i] += weight * gb[y, i]
                    sums[6, i] += weight * gd[y, i]
            _gathered(sums, dx, g, parts[k])
    found = np.zeros((len(projected), GRADS), dtype)
    for k in range(len(items)):  # in a fixed order, so that sums are the same every time
        for m in range(GRADS):
            found[items[k], m] += parts[k, m]
    return found


@njit(inline="always")
def _gathered(sums, dx, g, out):
    """A Gaussian's gradients from one tile's sums over its rows.

    Args:
        sums: [7,16] over the rows of each column: the gradient to the exponent, that times dy and
            dy², and what is to the colour and the depth.
    """
    s = sx = sy = sxx = sxy = syy = type(sums[0, 0])(0)
    red = green = blue = far = type(sums[0, 0])(0)
    for i in range(TILE):
        s += sums[0, i]
        sx += sums[0, i] * dx[i]
        sxx += sums[0, i] * dx[i] * dx[i]
        sy += sums[1, i]
        sxy += sums[1, i] * dx[i]
        syy += sums[2, i]
        red += sums[3, i]
        green += sums[4, i]
        blue += sums[5, i]
        far += sums[6, i]
    out[0] = -(g[CONIC_XX] * sx + g[CONIC_XY] * sy)
    out[1] = -(g[CONIC_XY] * sx + g[CONIC_YY] * sy)
    out[2] = far
    out[3], out[4], out[5] = sxx / 2, sxy, syy / 2
    out[6] = -s / g[OPACITY]
    out[7], out[8], out[9] = red, green, blue
