"""A drawing as an image, differentiable in all of its numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numba import get_num_threads
from torch import Tensor

from pds_cli.drawings.drawing import Drawing
from pds_cli.drawings.values import compose, inverse
from pds_cli.errors import UserError
from pds_cli.kernels import raster

TOLERANCE = 0.03
"""How far a chord may be from its curve, in pixels."""
MOST_MEMORY = 4e9
"""Bytes that the adjoint may hold; more are refused before they are asked for."""


@dataclass(frozen=True)
class Program:
    """What of a drawing does not change: which curves, shapes, paints and layers there are.

    curves: [C,5]; contours: [K+1] where each one's curves begin; shapes: [S+1] where each one's
    contours begin. The others as in `pds_cli.kernels.raster.paint`.
    """

    curves: np.ndarray
    contours: np.ndarray
    shapes: np.ndarray
    rules: np.ndarray
    paints: np.ndarray
    kinds: np.ndarray
    spreads: np.ndarray
    matrices: np.ndarray
    stop_spans: np.ndarray
    ops: np.ndarray
    depth: int


@dataclass(frozen=True)
class Numbers:
    """What of a drawing an edit may change; tensors of one type on the CPU.

    points: [N,2]; opacities: [S]; data: [P,6]; stops: [K,5]; groups: [G]. See
    `pds_cli.kernels.raster.paint`.
    """

    points: Tensor
    opacities: Tensor
    data: Tensor
    stops: Tensor
    groups: Tensor

    def to(self, dtype: torch.dtype) -> Numbers:
        """The same numbers in another type."""
        return Numbers(*(v.to(dtype) for v in vars(self).values()))


def compiled(drawing: Drawing) -> tuple[Program, Numbers]:
    """A drawing as arrays, in its own coordinates (float64)."""
    curves, contours, shapes = [], [0], [0]
    for shape in drawing.shapes:
        for part, _ in shape.outline.contours:
            curves += [[len(c) - 1, *(shape.first + i for i in c)] for c in _closed(part)]
            contours.append(len(curves))
        shapes.append(len(contours) - 1)
    padded = [c + [0] * (5 - len(c)) for c in curves]
    program = Program(
        curves=np.array(padded, np.int32).reshape(-1, 5),
        contours=np.array(contours, np.int32),
        shapes=np.array(shapes, np.int32),
        rules=np.array([s.rule for s in drawing.shapes], np.int32),
        paints=np.array([s.paint for s in drawing.shapes], np.int32),
        depth=_depth(drawing),
        ops=np.array(drawing.ops, np.int32).reshape(-1, 2),
        **_paints(drawing),
    )
    data, stops = _paint_numbers(drawing)
    numbers = Numbers(
        points=torch.from_numpy(drawing.points()),
        opacities=torch.tensor([s.opacity for s in drawing.shapes], dtype=torch.float64),
        data=torch.from_numpy(data),
        stops=torch.from_numpy(stops),
        groups=torch.tensor([opacity for _, opacity in drawing.groups], dtype=torch.float64),
    )
    return program, numbers


def _closed(curves: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """A contour with a line back to its start, where it has none: a fill closes every contour."""
    start, end = curves[0][0], curves[-1][-1]
    return curves if start == end else [*curves, (end, start)]


def _depth(drawing: Drawing) -> int:
    level = most = 1
    for op, _ in drawing.ops:
        level += 1 if op == raster.PUSH else 0 if op == raster.DRAW else -1
        most = max(most, level)
    return most


def _paints(drawing: Drawing) -> dict[str, np.ndarray]:
    kinds, spreads, matrices, spans, count = [], [], [], [], 0
    for paint in drawing.paints:
        gradient = paint.gradient
        kinds.append(raster.SOLID if gradient is None else gradient.kind)
        spreads.append(raster.PAD if gradient is None else gradient.spread)
        back = None if gradient is None else inverse(gradient.matrix)
        matrices.append([1.0, 0.0, 0.0, 1.0, 0.0, 0.0] if back is None else back.T.ravel())
        length = 0 if gradient is None else len(gradient.stops)
        spans.append((count, count + length))
        count += length
    return {
        "kinds": np.array(kinds, np.int32),
        "spreads": np.array(spreads, np.int32),
        "matrices": np.array(matrices, np.float64).reshape(-1, 6),
        "stop_spans": np.array(spans, np.int32).reshape(-1, 2),
    }


def _paint_numbers(drawing: Drawing) -> tuple[np.ndarray, np.ndarray]:
    data = np.zeros((len(drawing.paints), 6))
    stops = [np.zeros((0, 5))]
    for row, paint in zip(data, drawing.paints, strict=True):
        if paint.gradient is None:
            row[:3] = paint.rgb
        else:
            row[:] = paint.gradient.data
            stops.append(paint.gradient.stops)
    return data, np.concatenate(stops)


def rasterise(
    program: Program,
    numbers: Numbers,
    placed: np.ndarray,
    height: int,
    width: int,
    background: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """The image [4,height,width], premultiplied RGBA in [0,1]; differentiable in `numbers`.

    Args:
        placed: [2,3] from the drawing's coordinates to pixels, `Drawing.placed`.
        background: premultiplied RGBA below the drawing.

    Raises:
        ValueError: a point that is not finite.
    """
    kind = numbers.points.dtype
    points = numbers.points @ torch.as_tensor(placed[:, :2].T, dtype=kind) + torch.as_tensor(
        placed[:, 2], dtype=kind
    )
    if not bool(torch.isfinite(points.detach()).all()):
        raise ValueError("a control point is not a finite number")
    back = inverse(placed)
    assert back is not None
    program = replace(program, matrices=_pulled_back(program.matrices, back))
    image: Tensor = _Rasterise.apply(
        points, numbers.opacities, numbers.data, numbers.stops, numbers.groups, program,
        background, height, width,
    )  # fmt: skip
    return image.permute(2, 0, 1)


def _pulled_back(matrices: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Matrices [P,6] that begin at pixels instead of the drawing's coordinates."""
    found = [compose(m.reshape(3, 2).T, back).T.ravel() for m in matrices]
    return np.array(found, np.float64).reshape(-1, 6)


def _check_memory(vertices: np.ndarray, *rest: Any) -> None:
    """UserError where the adjoint would remember too much: every shape's pixels of a band."""
    box, ops, height, width, workers = rest[2], rest[12], *rest[-4:-2], rest[-1]
    length = raster.tape_length(box, ops, height, width)
    held = length * vertices.itemsize * workers
    if held > MOST_MEMORY:
        raise UserError(
            f"an edit of this drawing would need {held / 1e9:.0f} GB at {width}×{height} pixels: "
            "make representation.render_size smaller, or simplify the drawing"
        )


class _Rasterise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        opacities: Tensor,
        data: Tensor,
        stops: Tensor,
        groups: Tensor,
        program: Program,
        background: tuple[float, ...],
        height: int,
        width: int,
    ) -> Tensor:
        arrays = [v.detach().contiguous().numpy() for v in (points, opacities, data, stops, groups)]
        at, opacity, paint, stop, group = arrays
        vertices, origin, where, following, starts = raster.flatten(
            at, program.curves, program.contours, at.dtype.type(TOLERANCE)
        )
        spans = starts[program.shapes]
        box = raster.boxes(vertices, spans, height, width)
        call = (
            vertices, following, spans, box, program.rules, opacity, program.paints,
            program.matrices.astype(at.dtype), program.kinds, program.spreads, paint,
            program.stop_spans, stop, program.ops, group, np.array(background, at.dtype),
            height, width, program.depth, get_num_threads(),
        )  # fmt: skip
        ctx.call, ctx.flat = call, (program.curves, origin, where, len(at))
        return torch.from_numpy(raster.paint(*call))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        _check_memory(*ctx.call)
        found = raster.paint_adjoint(grad.contiguous().numpy(), *ctx.call)
        vertices, opacities, data, stops, groups = found
        curves, origin, where, count = ctx.flat
        points = raster.flatten_adjoint(vertices, curves, origin, where, count)
        tensors = (torch.from_numpy(v) for v in (points, opacities, data, stops, groups))
        return (*tensors, None, None, None, None)
