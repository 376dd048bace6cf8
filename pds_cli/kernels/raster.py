"""Rasterising filled paths on the CPU: exact-area antialiasing, compositing, and the adjoint.

A drawing is a row of shapes, painted in order. A shape is a set of closed contours of lines,
quadratic and cubic Béziers. Curves are cut into short edges; each edge adds its signed area to
the pixels it crosses, and a running sum along the row turns that into the mean winding number of
every pixel (the way font rasterisers work), which the fill rule makes a coverage. The canvas is
cut into bands of rows. A worker takes every n-th band, and paints all shapes into it. The adjoint
paints its band again, remembers what each shape found below, and goes back.

Coordinates are pixels: x to the right, y down, the centre of the first pixel at (0.5, 0.5).
Arrays are C-contiguous, of one float type (float32 or float64) and int32. Colours are sRGB in
[0,1] and mixed as they are, as browsers do; layers hold premultiplied RGBA.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

NONZERO, EVENODD = 0, 1
SOLID, LINEAR, RADIAL = 0, 1, 2
PAD, REFLECT, REPEAT = 0, 1, 2
# What `ops` rows say: [DRAW, shape], [PUSH, 0] a new clear layer, [POP, group] lay it over the
# one below with that group's opacity, [CLIP, 0] keep of the layer below what this one covers.
DRAW, PUSH, POP, CLIP = 0, 1, 2, 3

BAND = 8  # rows
_MOST_PIECES = 512  # edges of one curve


# --- curves to edges -----------------------------------------------------------------------------


@njit(cache=True)
def _pieces(curve, points, tolerance):
    """How many chords keep within `tolerance` of a curve: error ≤ max|p''| / (8 n²)."""
    degree = curve[0]
    if degree == 1:
        return 1
    x0, y0 = points[curve[1], 0], points[curve[1], 1]
    x1, y1 = points[curve[2], 0], points[curve[2], 1]
    x2, y2 = points[curve[3], 0], points[curve[3], 1]
    bend = np.hypot(x0 - 2 * x1 + x2, y0 - 2 * y1 + y2) * 0.25
    if degree == 3:
        x3, y3 = points[curve[4], 0], points[curve[4], 1]
        bend = 3 * max(bend, np.hypot(x1 - 2 * x2 + x3, y1 - 2 * y2 + y3) * 0.25)
    return int(min(max(np.ceil(np.sqrt(bend / tolerance)), 1.0), _MOST_PIECES))


@njit(cache=True)
def _weights(degree, t):
    """Bernstein weights of a curve's control points at t."""
    s = 1 - t
    if degree == 1:
        return s, t, s * 0, s * 0
    if degree == 2:
        return s * s, 2 * s * t, t * t, s * 0
    return s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t


@njit(cache=True)
def flatten(points, curves, contours, tolerance):
    """Vertices of closed polygons, one contour after the other.

    Args:
        points: [N,2] control points.
        curves: [C,5] degree (1, 2, 3) and the indices of its control points.
        contours: [K+1] where each contour's curves begin; each is closed by index: its last
            curve ends at the point where its first began.
        tolerance: how far a chord may be from its curve, in pixels.

    Returns:
        vertices [V,2], the curve [V] and the parameter t [V] of each, the vertex that follows on
        its contour [V], and where each contour's vertices begin [K+1].
    """
    count = 0
    for c in range(len(curves)):
        count += _pieces(curves[c], points, tolerance)
    vertices = np.empty((count, 2), points.dtype)
    origin = np.empty(count, np.int32)
    where = np.empty(count, points.dtype)
    following = np.empty(count, np.int32)
    starts = np.zeros(len(contours), np.int32)
    v = 0
    for k in range(len(contours) - 1):
        starts[k] = v
        for c in range(contours[k], contours[k + 1]):
            curve = curves[c]
            pieces = _pieces(curve, points, tolerance)
            for i in range(pieces):
                t = points.dtype.type(i / pieces)
                weights = _weights(curve[0], t)
                x = y = t * 0
                for j in range(curve[0] + 1):
                    x += weights[j] * points[curve[1 + j], 0]
                    y += weights[j] * points[curve[1 + j], 1]
                vertices[v, 0], vertices[v, 1] = x, y
                origin[v], where[v], following[v] = c, t, v + 1
                v += 1
        if v > starts[k]:
            following[v - 1] = starts[k]
    starts[len(contours) - 1] = v
    return vertices, origin, where, following, starts


@njit(cache=True)
def flatten_adjoint(grad, curves, origin, where, count):
    """The gradient [count,2] on control points from that on the vertices [V,2]."""
    out = np.zeros((count, 2), grad.dtype)
    for v in range(len(grad)):
        curve = curves[origin[v]]
        weights = _weights(curve[0], where[v])
        for j in range(curve[0] + 1):
            out[curve[1 + j], 0] += weights[j] * grad[v, 0]
            out[curve[1 + j], 1] += weights[j] * grad[v, 1]
    return out


@njit(cache=True)
def boxes(vertices, spans, height, width):
    """The pixels [S,4] that shapes can touch, and one more on each side: x0, y0, x1, y1 (ends
    excluded), within the canvas. `spans` [S+1]: where the shapes' vertices begin."""
    out = np.zeros((len(spans) - 1, 4), np.int32)
    for s in range(len(spans) - 1):
        if spans[s] == spans[s + 1]:
            continue
        part = vertices[spans[s] : spans[s + 1]]
        # Clamped before rounding: an integer does not hold every float.
        x0 = min(max(part[:, 0].min(), -1.0), width + 1.0)
        y0 = min(max(part[:, 1].min(), -1.0), height + 1.0)
        x1 = min(max(part[:, 0].max(), -1.0), width + 1.0)
        y1 = min(max(part[:, 1].max(), -1.0), height + 1.0)
        out[s, 0], out[s, 1] = max(int(np.floor(x0)) - 1, 0), max(int(np.floor(y0)) - 1, 0)
        out[s, 2], out[s, 3] = min(int(np.ceil(x1)) + 1, width), min(int(np.ceil(y1)) + 1, height)
        if out[s, 0] >= out[s, 2] or out[s, 1] >= out[s, 3]:
            out[s, :] = 0
    return out


# --- coverage ------------------------------------------------------------------------------------


@njit(cache=True)
def _add_piece(row, left, columns, xa, xb, height):
    """Adds the signed area right of a piece of an edge that stays within one row of pixels."""
    low, high = (xa, xb) if xa <= xb else (xb, xa)
    first, last = left, left + columns
    if high <= first:
        row[0] += height  # left of the canvas: everything to the right is inside
        return
    if low >= last:
        return
    if low < first:  # the part beyond the canvas, then the rest
        share = (first - low) / (high - low)
        row[0] += height * share
        height -= height * share
        low = low * 0 + first
    slope = height / (high - low) if high > low else height * 0
    c = int(low)
    while True:
        end = min(high, c + low * 0 + 1)
        part = slope * (end - low) if high > low else height
        inside = (low + end) * 0.5 - c
        row[c - left] += part * (1 - inside)
        if c + 1 < last:
            row[c + 1 - left] += part * inside
        c += 1
        low = end
        if end >= high or c >= last:
            return


@njit(cache=True)
def _wind(vertices, following, begin, end, left, right, top, bottom, out):
    """The mean winding number of the pixels [top:bottom, left:right] into out[:, :right−left]."""
    columns = right - left
    out[: bottom - top, :columns] = 0
    for v in range(begin, end):
        u = following[v]
        x0, y0, x1, y1 = vertices[v, 0], vertices[v, 1], vertices[u, 0], vertices[u, 1]
        if y0 == y1 or max(y0, y1) <= top or min(y0, y1) >= bottom:
            continue
        sign = y0 * 0 + 1
        if y0 > y1:
            x0, y0, x1, y1, sign = x1, y1, x0, y0, -sign
        slope = (x1 - x0) / (y1 - y0)
        ya = max(y0, sign * 0 + top)
        stop = min(y1, y0 * 0 + bottom)
        xa = x0 if ya == y0 else x0 + (ya - y0) * slope
        r = int(ya)
        while ya < stop:
            yb = min(y0 * 0 + r + 1, stop)
            xb = x1 if yb == y1 else x0 + (yb - y0) * slope
            _add_piece(out[r - top], left, columns, xa, xb, sign * (yb - ya))
            ya, xa = yb, xb
            r += 1
    for r in range(bottom - top):
        total = out[r, 0]
        for c in range(1, columns):
            total += out[r, c]
            out[r, c] = total


@njit(cache=True)
def _fill(winding, rule):
    """Coverage from a mean winding number."""
    size = abs(winding)
    if rule == NONZERO:
        return min(size, size * 0 + 1)
    size = size - 2 * np.floor(size * 0.5)
    return size if size <= 1 else 2 - size


@njit(cache=True)
def _fill_slope(winding, rule):
    """∂ coverage / ∂ winding."""
    sign = winding * 0 + (1 if winding > 0 else -1)
    size = abs(winding)
    if rule == NONZERO:
        return sign if size < 1 else sign * 0
    return sign if size - 2 * np.floor(size * 0.5) < 1 else -sign


@njit(cache=True)
def _beside(winding, jump):
    """The whole winding numbers on a pixel's own side of an edge and across it.

    Where other edges cross the pixel too, its mean is no whole number: then both are of the
    mean's sign.
    """
    own = np.round(winding)
    if abs(winding - own) > 1e-4:
        away = np.ceil(winding) if winding > 0 else np.floor(winding)
        near = np.floor(winding) if winding > 0 else np.ceil(winding)
        own = away if (away + jump) * winding >= 0 else near
    return own, own + jump


@njit(cache=True)
def _edge_of_pixel(grad, winding, jump, rule, positive):
    """What moving an edge that lies between two pixels does to one of them.

    On that line coverage has a kink: moved one way the edge enters one pixel, moved the other
    way the other. The mean of both is half of each. `jump` is how the winding changes across
    the edge, from its negative side (left, above) to its positive one.
    """
    own, other = _beside(winding, -jump if positive else jump)
    change = _fill(other, rule) - _fill(own, rule)
    return (grad * change if positive else -grad * change) * 0.5


@njit(cache=True)
def _pull(grad, winding, rule, left, top, rows, columns, x, y, dx, dy):
    """What moving a piece of an edge within one pixel along its normal does, per unit of normal.

    (x, y) is its middle, (dx, dy) its extent. Returns the factors on (v_x, v_y) of its velocity.
    """
    c, r = int(np.floor(x)), int(np.floor(y))
    zero = x * 0
    if dx == 0 and x == c:  # a vertical edge between two columns
        jump, found = zero + (1 if dy > 0 else -1), zero
        if 0 <= r - top < rows:
            if 0 <= c - left < columns:
                i, j = r - top, c - left
                found += _edge_of_pixel(grad[i, j], winding[i, j], jump, rule, True)
            if 0 <= c - 1 - left < columns:
                i, j = r - top, c - 1 - left
                found += _edge_of_pixel(grad[i, j], winding[i, j], jump, rule, False)
        return found * abs(dy), zero
    if dy == 0 and y == r:  # a horizontal edge between two rows
        jump, found = zero + (-1 if dx > 0 else 1), zero
        if 0 <= c - left < columns:
            if 0 <= r - top < rows:
                i, j = r - top, c - left
                found += _edge_of_pixel(grad[i, j], winding[i, j], jump, rule, True)
            if 0 <= r - 1 - top < rows:
                i, j = r - 1 - top, c - left
                found += _edge_of_pixel(grad[i, j], winding[i, j], jump, rule, False)
        return zero, found * abs(dx)
    if 0 <= r - top < rows and 0 <= c - left < columns:
        i, j = r - top, c - left
        slope = grad[i, j] * _fill_slope(winding[i, j], rule)
        return -slope * dy, slope * dx
    return zero, zero


@njit(cache=True)
def _wind_adjoint(
    vertices, following, begin, end, left, right, top, bottom, grad, winding, rule, out
):
    """Adds the gradient on vertices, from `grad` on the coverage of the pixels of the box.

    A shape's area changes by the flow of its edges: ∂/∂θ ∫ winding = ∮ v·n ds. So each piece of
    an edge within one pixel hands that pixel's gradient, times its normal, to its two ends.
    """
    rows, columns = bottom - top, right - left
    for v in range(begin, end):
        u = following[v]
        x0, y0, x1, y1 = vertices[v, 0], vertices[v, 1], vertices[u, 0], vertices[u, 1]
        dx, dy = x1 - x0, y1 - y0
        if max(y0, y1) < top or min(y0, y1) > bottom or max(x0, x1) < left or min(x0, x1) > right:
            continue
        # Within the box: s from `first` to `last`.
        first, last = x0 * 0, x0 * 0 + 1
        if dx != 0:
            a, b = (left - x0) / dx, (right - x0) / dx
            first, last = max(first, min(a, b)), min(last, max(a, b))
        if dy != 0:
            a, b = (top - y0) / dy, (bottom - y0) / dy
            first, last = max(first, min(a, b)), min(last, max(a, b))
        s = first
        # The next lines between columns and between rows that the edge crosses.
        x, y = x0 + first * dx, y0 + first * dy
        column = np.floor(x) + 1 if dx > 0 else np.ceil(x) - 1
        row = np.floor(y) + 1 if dy > 0 else np.ceil(y) - 1
        for _ in range(2 * (rows + columns) + 8):
            if s >= last:
                break
            to_column = (column - x0) / dx if dx != 0 else last
            to_row = (row - y0) / dy if dy != 0 else last
            stop = min(last, min(to_column, to_row))
            if to_column <= stop:
                column += 1 if dx > 0 else -1
            if to_row <= stop:
                row += 1 if dy > 0 else -1
            if stop > s:
                middle, length = 0.5 * (s + stop), stop - s
                gx, gy = _pull(
                    grad, winding, rule, left, top, rows, columns,
                    x0 + middle * dx, y0 + middle * dy, length * dx, length * dy,
                )  # fmt: skip
                out[v, 0] += (1 - middle) * gx
                out[v, 1] += (1 - middle) * gy
                out[u, 0] += middle * gx
                out[u, 1] += middle * gy
                s = stop


# --- paints --------------------------------------------------------------------------------------


@njit(cache=True)
def _gradient_place(kind, data, x, y):
    """Where between its ends a linear or radial gradient is at (x, y) of its own space.

    Returns t and whether there is any (outside a cone there is none).
    """
    if kind == LINEAR:
        dx, dy = data[2] - data[0], data[3] - data[1]
        size = dx * dx + dy * dy
        if size == 0:
            return x * 0 + 1, True
        return ((x - data[0]) * dx + (y - data[1]) * dy) / size, True
    dx, dy, dr = data[0] - data[3], data[1] - data[4], data[2] - data[5]
    px, py = x - data[3], y - data[4]
    a = dx * dx + dy * dy - dr * dr
    b = px * dx + py * dy + data[5] * dr
    c = px * px + py * py - data[5] * data[5]
    if a == 0:
        if b == 0:
            return x * 0 + 1, data[2] == 0
        t = 0.5 * c / b
        return t, data[5] + t * dr >= 0
    root = b * b - a * c
    if root < 0:
        return x * 0, False
    root = np.sqrt(root)
    t, other = (b + root) / a, (b - root) / a
    if other > t:
        t, other = other, t
    if data[5] + t * dr < 0:
        t = other
    return t, data[5] + t * dr >= 0


@njit(cache=True)
def _gradient_place_adjoint(kind, data, x, y, t, grad, out):
    """Adds to `out` the gradient on a gradient's geometry from that on t before spreading."""
    if kind == LINEAR:
        dx, dy = data[2] - data[0], data[3] - data[1]
        size = dx * dx + dy * dy
        if size == 0:
            return
        px, py = x - data[0], y - data[1]
        gx = grad * (px - 2 * t * dx) / size
        gy = grad * (py - 2 * t * dy) / size
        out[2] += gx
        out[3] += gy
        out[0] -= gx + grad * dx / size
        out[1] -= gy + grad * dy / size
        return
    # |p − t d| = r_f + t (r − r_f), differentiated implicitly.
    dx, dy, dr = data[0] - data[3], data[1] - data[4], data[2] - data[5]
    ux, uy = x - data[3] - t * dx, y - data[4] - t * dy
    radius = data[5] + t * dr
    below = ux * dx + uy * dy + radius * dr
    if below == 0:
        return
    grad = -grad / below
    out[0] += grad * t * ux
    out[1] += grad * t * uy
    out[2] += grad * t * radius
    out[3] += grad * (1 - t) * ux
    out[4] += grad * (1 - t) * uy
    out[5] += grad * (1 - t) * radius


@njit(cache=True)
def _spread(t, mode):
    """t in [0,1], and the sign of its slope (0 where it was clamped)."""
    one = t * 0 + 1
    if mode == PAD:
        if t <= 0:
            return t * 0, t * 0
        if t >= 1:
            return one, t * 0
        return t, one
    if mode == REPEAT:
        return t - np.floor(t), one
    t = t - 2 * np.floor(t * 0.5)
    return (t, one) if t <= 1 else (2 - t, -one)


@njit(cache=True)
def _stop_before(stops, begin, end, t):
    """The stop after which t lies; begin − 1 before the first one."""
    found = begin - 1
    for i in range(begin, end):
        if stops[i, 0] <= t:
            found = i
    return found


@njit(cache=True)
def _between(stops, begin, end, t):
    """The two stops around t and the share of the second."""
    i = _stop_before(stops, begin, end, t)
    if i < begin:
        return begin, begin, t * 0
    if i + 1 >= end:
        return end - 1, end - 1, t * 0
    return i, i + 1, (t - stops[i, 0]) / (stops[i + 1, 0] - stops[i, 0])


@njit(cache=True)
def _paint(kind, spread, data, stops, begin, end, m, x, y):
    """Straight RGBA of a paint at a pixel's centre, and t and the spread t of gradients."""
    zero = x * 0
    if kind == SOLID:
        return data[0], data[1], data[2], zero + 1, zero, zero
    u, v = m[0] * x + m[2] * y + m[4], m[1] * x + m[3] * y + m[5]
    t, found = _gradient_place(kind, data, u, v)
    if not found:
        return zero, zero, zero, zero, zero, zero
    at, _ = _spread(t, spread)
    i, j, share = _between(stops, begin, end, at)
    keep = 1 - share
    return (
        keep * stops[i, 1] + share * stops[j, 1],
        keep * stops[i, 2] + share * stops[j, 2],
        keep * stops[i, 3] + share * stops[j, 3],
        keep * stops[i, 4] + share * stops[j, 4],
        t,
        at,
    )


@njit(cache=True)
def _paint_adjoint(
    kind, spread, data, stops, begin, end, m, x, y, t, at, g0, g1, g2, ga, data_out, stops_out
):
    """Adds the gradients on a paint's numbers, from those on its straight RGBA at a pixel."""
    if kind == SOLID:
        data_out[0] += g0
        data_out[1] += g1
        data_out[2] += g2
        return
    i, j, share = _between(stops, begin, end, at)
    for k, g in ((1, g0), (2, g1), (3, g2), (4, ga)):
        stops_out[i, k] += (1 - share) * g
        stops_out[j, k] += share * g
    if i == j:
        return
    length = stops[j, 0] - stops[i, 0]
    slope = (
        g0 * (stops[j, 1] - stops[i, 1])
        + g1 * (stops[j, 2] - stops[i, 2])
        + g2 * (stops[j, 3] - stops[i, 3])
        + ga * (stops[j, 4] - stops[i, 4])
    ) / length
    stops_out[i, 0] -= slope * (1 - share)
    stops_out[j, 0] -= slope * share
    _, sign = _spread(t, spread)
    if sign != 0:
        u, v = m[0] * x + m[2] * y + m[4], m[1] * x + m[3] * y + m[5]
        _gradient_place_adjoint(kind, data, u, v, t, slope * sign, data_out)


# --- painting a band -----------------------------------------------------------------------------


@njit(cache=True)
def _over(layer, below, opacity, rows):
    """Lays a layer over the one below it, with an opacity."""
    for r in range(rows):
        for c in range(layer.shape[1]):
            keep = 1 - opacity * layer[r, c, 3]
            for k in range(4):
                below[r, c, k] = keep * below[r, c, k] + opacity * layer[r, c, k]


@njit(cache=True)
def _draw(layer, top, box, band, winding, shape, opacity, kind, spread, rule, data, stops, span, m):
    """Paints a shape's part of a band into a layer; `winding` holds the box's pixels."""
    for r in range(band[0], band[1]):
        for c in range(box[0], box[2]):
            cover = _fill(winding[r - band[0], c - box[0]], rule)
            if cover == 0:
                continue
            red, green, blue, alpha, _, _ = _paint(
                kind,
                spread,
                data,
                stops,
                span[0],
                span[1],
                m,
                cover * 0 + c + 0.5,
                cover * 0 + r + 0.5,
            )
            alpha *= cover * opacity
            pixel = layer[r - top, c]
            pixel[0] = (1 - alpha) * pixel[0] + alpha * red
            pixel[1] = (1 - alpha) * pixel[1] + alpha * green
            pixel[2] = (1 - alpha) * pixel[2] + alpha * blue
            pixel[3] = (1 - alpha) * pixel[3] + alpha


@njit(cache=True)
def _rows_of(box, top, bottom):
    """Rows of a box within a band; empty where the first is not below the second."""
    return max(box[1], top), min(box[3], bottom)


@njit(cache=True)
def _paint_band(
    layers, winding, tape, top, bottom, vertices, following, spans, box, rules, opacities,
    paints, matrices, kinds, spreads, data, stop_spans, stops, ops, groups, background,
):  # fmt: skip
    """Paints rows [top, bottom) into layers[0]; `tape` keeps what the adjoint needs, if it is long
    enough to hold anything."""
    rows, width = bottom - top, layers.shape[2]
    for r in range(rows):
        for c in range(width):
            for k in range(4):
                layers[0, r, c, k] = background[k]
    level, keep, at = 0, len(tape) > 0, 0
    for o in range(len(ops)):
        op, i = ops[o, 0], ops[o, 1]
        if op == DRAW:
            lo, hi = _rows_of(box[i], top, bottom)
            if lo >= hi:
                continue
            left, right = box[i, 0], box[i, 2]
            _wind(vertices, following, spans[i], spans[i + 1], left, right, lo, hi, winding)
            if keep:
                for r in range(lo, hi):
                    for c in range(left, right):
                        tape[at] = winding[r - lo, c - left]
                        for k in range(4):
                            tape[at + 1 + k] = layers[level, r - top, c, k]
                        at += 5
            p = paints[i]
            _draw(
                layers[level], top, box[i], (lo, hi), winding, i, opacities[i], kinds[p],
                spreads[p], rules[i], data[p], stops, stop_spans[p], matrices[p],
            )  # fmt: skip
        elif op == PUSH:
            level += 1
            layers[level, :rows] = 0
        else:
            if keep:
                for r in range(rows):
                    for c in range(width):
                        for k in range(4):
                            tape[at + k] = layers[level, r, c, k]
                            tape[at + 4 + k] = layers[level - 1, r, c, k]
                        at += 8
            if op == POP:
                _over(layers[level], layers[level - 1], groups[i], rows)
            else:
                for r in range(rows):
                    for c in range(width):
                        for k in range(4):
                            layers[level - 1, r, c, k] *= layers[level, r, c, 3]
            level -= 1
    return at


@njit(parallel=True, cache=True)
def paint(
    vertices, following, spans, box, rules, opacities, paints, matrices, kinds, spreads, data,
    stop_spans, stops, ops, groups, background, height, width, depth, workers,
):  # fmt: skip
    """The image [H,W,4], premultiplied RGBA.

    Args:
        vertices, following: of all contours, see `flatten`.
        spans: [S+1] where each shape's vertices begin.
        box: [S,4] from `boxes`.
        rules: [S] NONZERO or EVENODD.
        opacities: [S].
        paints: [S] which paint a shape has; matrices: [P,6] from the canvas to a paint's own
            space, (a, b, c, d, e, f) as in SVG.
        kinds, spreads: [P] of the paints; data: [P,6] r g b, or x1 y1 x2 y2, or
            cx cy r fx fy fr.
        stop_spans: [P,2] first and behind the last of a gradient's stops; stops: [K,5] offset, r,
            g, b, alpha, sorted by offset.
        ops: [O,2]; groups: [G] opacities of groups; depth: the most layers at once.
        background: [4] premultiplied.
    """
    out = np.empty((height, width, 4), vertices.dtype)
    for worker in prange(workers):
        layers = np.empty((depth, BAND, width, 4), vertices.dtype)
        winding = np.empty((BAND, width), vertices.dtype)
        tape = np.empty(0, vertices.dtype)
        for band in range(worker, (height + BAND - 1) // BAND, workers):
            top = band * BAND
            bottom = min(top + BAND, height)
            _paint_band(
                layers, winding, tape, top, bottom, vertices, following, spans, box, rules,
                opacities, paints, matrices, kinds, spreads, data, stop_spans, stops, ops, groups,
                background,
            )  # fmt: skip
            out[top:bottom] = layers[0, : bottom - top]
    return out


@njit(cache=True)
def tape_length(box, ops, height, width):
    """How many numbers the adjoint remembers for the band that needs most."""
    most = 0
    for top in range(0, height, BAND):
        bottom, total = min(top + BAND, height), 0
        for o in range(len(ops)):
            i = ops[o, 1]
            if ops[o, 0] == DRAW:
                lo, hi = _rows_of(box[i], top, bottom)
                total += 5 * max(hi - lo, 0) * (box[i, 2] - box[i, 0])
            elif ops[o, 0] != PUSH:
                total += 8 * (bottom - top) * width
        most = max(most, total)
    return most


@njit(cache=True)
def _draw_adjoint(
    grads, level, tape, at, top, lo, hi, box, opacity, kind, spread, rule, data, stops, span, m,
    winding, cover_grad, data_out, stops_out,
):  # fmt: skip
    """Goes back over `_draw`: sets the gradient on coverage, adds those on the paint, turns that
    on the layer after into that on the layer before; returns the gradient on the opacity."""
    total = opacity * 0
    for r in range(lo, hi):
        for c in range(box[0], box[2]):
            i, j = r - lo, c - box[0]
            winding[i, j] = tape[at]
            cover = _fill(tape[at], rule)
            pixel = grads[level, r - top, c]
            x, y = cover * 0 + c + 0.5, cover * 0 + r + 0.5
            red, green, blue, alpha, t, spot = _paint(
                kind, spread, data, stops, span[0], span[1], m, x, y
            )
            change = (
                pixel[0] * (red - tape[at + 1])
                + pixel[1] * (green - tape[at + 2])
                + pixel[2] * (blue - tape[at + 3])
                + pixel[3] * (1 - tape[at + 4])
            )
            at += 5
            cover_grad[i, j] = change * opacity * alpha
            if cover == 0:
                continue
            total += change * cover * alpha
            shown = cover * opacity * alpha
            _paint_adjoint(
                kind, spread, data, stops, span[0], span[1], m, x, y, t, spot,
                shown * pixel[0], shown * pixel[1], shown * pixel[2], change * cover * opacity,
                data_out, stops_out,
            )  # fmt: skip
            for k in range(4):
                pixel[k] *= 1 - shown
    return total


@njit(cache=True)
def _over_adjoint(grads, level, tape, at, opacity, rows):
    """Goes back over `_over`; returns the gradient on the group's opacity."""
    total = opacity * 0
    for r in range(rows):
        for c in range(grads.shape[2]):
            layer, below = tape[at : at + 4], tape[at + 4 : at + 8]
            at += 8
            upper, lower = grads[level, r, c], grads[level - 1, r, c]
            hidden = opacity * 0
            for k in range(4):
                hidden += lower[k] * below[k]
                total += lower[k] * layer[k]
                upper[k] = opacity * lower[k]
                lower[k] *= 1 - opacity * layer[3]
            upper[3] -= opacity * hidden
            total -= layer[3] * hidden
    return total


@njit(cache=True)
def _clip_adjoint(grads, level, tape, at, rows):
    """Goes back over CLIP."""
    for r in range(rows):
        for c in range(grads.shape[2]):
            mask, upper, lower = tape[at + 3], grads[level, r, c], grads[level - 1, r, c]
            upper[:] = 0
            for k in range(4):
                upper[3] += lower[k] * tape[at + 4 + k]
                lower[k] *= mask
            at += 8


@njit(cache=True)
def _band_adjoint(
    grads, winding, cover_grad, tape, end, top, bottom, vertices, following, spans, box, rules,
    opacities, paints, matrices, kinds, spreads, data, stop_spans, stops, ops, groups,
    vertices_out, opacities_out, data_out, stops_out, groups_out,
):  # fmt: skip
    """Goes back over `_paint_band`, from the gradient in grads[0]."""
    rows, width = bottom - top, grads.shape[2]
    level, at = 0, end
    for o in range(len(ops) - 1, -1, -1):
        op, i = ops[o, 0], ops[o, 1]
        if op == DRAW:
            lo, hi = _rows_of(box[i], top, bottom)
            if lo >= hi:
                continue
            left, right = box[i, 0], box[i, 2]
            at -= 5 * (hi - lo) * (right - left)
            p = paints[i]
            opacities_out[i] += _draw_adjoint(
                grads, level, tape, at, top, lo, hi, box[i], opacities[i], kinds[p], spreads[p],
                rules[i], data[p], stops, stop_spans[p], matrices[p], winding, cover_grad,
                data_out[p], stops_out,
            )  # fmt: skip
            _wind_adjoint(
                vertices, following, spans[i], spans[i + 1], left, right, lo, hi, cover_grad,
                winding, rules[i], vertices_out,
            )  # fmt: skip
        elif op == PUSH:
            level -= 1
        else:
            level += 1
            at -= 8 * rows * width
            if op == POP:
                groups_out[i] += _over_adjoint(grads, level, tape, at, groups[i], rows)
            else:
                _clip_adjoint(grads, level, tape, at, rows)


@njit(parallel=True, cache=True)
def paint_adjoint(
    grad, vertices, following, spans, box, rules, opacities, paints, matrices, kinds, spreads,
    data, stop_spans, stops, ops, groups, background, height, width, depth, workers,
):  # fmt: skip
    """From `grad` [H,W,4] on what `paint` returned for the same arguments, the gradients on
    vertices [V,2], opacities [S], data [P,6], stops [K,5] and groups [G]."""
    kind = vertices.dtype
    length = tape_length(box, ops, height, width)
    vertices_out = np.zeros((workers, len(vertices), 2), kind)
    opacities_out = np.zeros((workers, len(opacities)), kind)
    data_out = np.zeros((workers, len(data), 6), kind)
    stops_out = np.zeros((workers, len(stops), 5), kind)
    groups_out = np.zeros((workers, len(groups)), kind)
    for worker in prange(workers):
        layers = np.empty((depth, BAND, width, 4), kind)
        grads = np.empty((depth, BAND, width, 4), kind)
        winding = np.empty((BAND, width), kind)
        cover_grad = np.empty((BAND, width), kind)
        tape = np.empty(length + 1, kind)
        for band in range(worker, (height + BAND - 1) // BAND, workers):
            top = band * BAND
            bottom = min(top + BAND, height)
            end = _paint_band(
                layers, winding, tape, top, bottom, vertices, following, spans, box, rules,
                opacities, paints, matrices, kinds, spreads, data, stop_spans, stops, ops, groups,
                background,
            )  # fmt: skip
            grads[0, : bottom - top] = grad[top:bottom]
            _band_adjoint(
                grads, winding, cover_grad, tape, end, top, bottom, vertices, following, spans,
                box, rules, opacities, paints, matrices, kinds, spreads, data, stop_spans, stops,
                ops, groups, vertices_out[worker], opacities_out[worker], data_out[worker],
                stops_out[worker], groups_out[worker],
            )  # fmt: skip
    return (
        vertices_out.sum(0), opacities_out.sum(0), data_out.sum(0), stops_out.sum(0),
        groups_out.sum(0),
    )  # fmt: skip
