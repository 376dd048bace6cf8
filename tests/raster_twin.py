"""The rasteriser in plain PyTorch: what `pds_cli.kernels.raster` does, readable and slow.

Coverage comes from one closed form for every edge and pixel, and autograd does the adjoint.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pds_cli.drawings.rasterise import Numbers, Program
from pds_cli.kernels import raster


def bezier(points: Tensor, t: Tensor) -> Tensor:
    """Points [n,2] of a curve with control points [d+1,2] at t [n], by de Casteljau."""
    rows = [p.expand(len(t), 2) for p in points]
    while len(rows) > 1:
        rows = [a + t[:, None] * (b - a) for a, b in pairwise(rows)]
    return rows[0]


def polygon(points: Tensor, curves: np.ndarray, pieces: list[int]) -> Tensor:
    """Vertices [V,2] of one closed contour."""
    parts = []
    for curve, n in zip(curves, pieces, strict=True):
        control = points[torch.as_tensor(curve[1 : 2 + curve[0]].astype(np.int64))]
        parts.append(bezier(control, torch.arange(n, dtype=points.dtype) / n))
    return torch.cat(parts)


def winding(vertices: Tensor, height: int, width: int) -> Tensor:
    """Mean winding number [H,W] of the pixels, of one closed polygon.

    An edge covers, of a pixel, the mean over its part within the pixel's row of
    clamp(x₊ − x, 0, 1), x₊ being the pixel's right side, times the height of that part.
    """
    a, b = vertices, vertices.roll(-1, 0)
    rows = torch.arange(height, dtype=vertices.dtype)
    y0, y1 = a[:, None, 1], b[:, None, 1]
    ya, yb = (y.clamp(min=rows, max=rows + 1) for y in (y0, y1))
    flat = y1 == y0
    slope = (b[:, None, 0] - a[:, None, 0]) / torch.where(flat, torch.ones_like(y0), y1 - y0)
    xa, xb = a[:, None, 0] + (ya - y0) * slope, a[:, None, 0] + (yb - y0) * slope
    right = torch.arange(width, dtype=vertices.dtype) + 1
    ua, ub = right - xa[..., None], right - xb[..., None]
    steep = (ua - ub).abs() < 1e-7
    mean = torch.where(
        steep,
        (0.5 * (ua + ub)).clamp(0, 1),
        (_integral(ub) - _integral(ua)) / torch.where(steep, torch.ones_like(ua), ub - ua),
    )
    lines = torch.where(flat, torch.zeros_like(ya), yb - ya)
    return (mean * lines[..., None]).sum(0)


def _integral(u: Tensor) -> Tensor:
    """∫ clamp(v, 0, 1) dv from −∞ to u."""
    return torch.where(u < 0, torch.zeros_like(u), torch.where(u < 1, 0.5 * u * u, u - 0.5))


def cover(acc: Tensor, rule: int) -> Tensor:
    size = acc.abs()
    if rule == raster.NONZERO:
        return size.clamp(max=1)
    size = size - 2 * torch.floor(size.detach() / 2)
    return torch.where(size <= 1, size, 2 - size)


def color(program: Program, numbers: Numbers, p: int, height: int, width: int) -> Tensor:
    """Straight RGBA [4,H,W] of a paint; matrices begin at pixels."""
    kind = numbers.data.dtype
    data = numbers.data[p]
    if program.kinds[p] == raster.SOLID:
        one = torch.ones(1, dtype=kind)
        return torch.cat([data[:3], one])[:, None, None].expand(4, height, width)
    m = torch.as_tensor(program.matrices[p], dtype=kind)
    y, x = torch.meshgrid(
        torch.arange(height, dtype=kind) + 0.5, torch.arange(width, dtype=kind) + 0.5, indexing="ij"
    )
    u, v = m[0] * x + m[2] * y + m[4], m[1] * x + m[3] * y + m[5]
    t = _linear(data, u, v) if program.kinds[p] == raster.LINEAR else _radial(data, u, v)
    spread = program.spreads[p]
    if spread == raster.PAD:
        t = t.clamp(0, 1)
    elif spread == raster.REPEAT:
        t = t - torch.floor(t.detach())
    else:
        t = t - 2 * torch.floor(t.detach() / 2)
        t = torch.where(t <= 1, t, 2 - t)
    begin, end = program.stop_spans[p]
    stops = numbers.stops[begin:end]
    found = stops[0, 1:, None, None].expand(4, height, width)
    for left, right in pairwise(stops):
        share = (t - left[0]) / (right[0] - left[0])
        mixed = left[1:, None, None] * (1 - share) + right[1:, None, None] * share
        found = torch.where((t >= left[0]) & (t < right[0]), mixed, found)
    return torch.where(t >= stops[-1, 0], stops[-1, 1:, None, None].expand_as(found), found)


def _linear(data: Tensor, u: Tensor, v: Tensor) -> Tensor:
    axis = data[2:4] - data[:2]
    return ((u - data[0]) * axis[0] + (v - data[1]) * axis[1]) / (axis @ axis)


def _radial(data: Tensor, u: Tensor, v: Tensor) -> Tensor:
    d, dr = data[:2] - data[3:5], data[2] - data[5]
    px, py = u - data[3], v - data[4]
    a = d @ d - dr * dr
    b = px * d[0] + py * d[1] + data[5] * dr
    c = px * px + py * py - data[5] ** 2
    return (b - (b * b - a * c).sqrt()) / a  # the focus lies inside


def twin(
    program: Program,
    numbers: Numbers,
    pieces: list[int],
    height: int,
    width: int,
    background: tuple[float, ...],
) -> Tensor:
    """The image [4,H,W]; points are pixels, and matrices begin at pixels.

    pieces: into how many chords each curve is cut.
    """
    kind = numbers.points.dtype
    ground = torch.tensor(background, dtype=kind)[:, None, None]
    layers = [ground.expand(4, height, width)]
    for op, i in program.ops:
        if op == raster.PUSH:
            layers.append(torch.zeros(4, height, width, dtype=kind))
        elif op == raster.DRAW:
            acc = torch.zeros(height, width, dtype=kind)
            for k in range(program.shapes[i], program.shapes[i + 1]):
                span = slice(program.contours[k], program.contours[k + 1])
                if span.start < span.stop:
                    ring = polygon(numbers.points, program.curves[span], pieces[span])
                    acc = acc + winding(ring, height, width)
            rgba = color(program, numbers, program.paints[i], height, width)
            alpha = cover(acc, program.rules[i]) * numbers.opacities[i] * rgba[3]
            paint = torch.cat([rgba[:3] * alpha, alpha[None]])
            layers[-1] = layers[-1] * (1 - alpha) + paint
        else:
            top = layers.pop()
            if op == raster.POP:
                top = top * numbers.groups[i]
                layers[-1] = layers[-1] * (1 - top[3]) + top
            else:
                layers[-1] = layers[-1] * top[3]
    return layers[0]
