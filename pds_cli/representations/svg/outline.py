"""Shapes as outlines: contours of lines and Béziers over shared points, and back to path data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from lxml import etree

from pds_cli.representations.svg.document import local
from pds_cli.representations.svg.values import (
    Matrix,
    apply,
    length,
    number,
    numbers,
)

SHAPES = frozenset(["path", "rect", "circle", "ellipse", "line", "polyline", "polygon"])
_GEOMETRY = [
    "d",
    "x",
    "y",
    "width",
    "height",
    "rx",
    "ry",
    "cx",
    "cy",
    "r",
    "x1",
    "y1",
    "x2",
    "y2",
    "points",
    "pathLength",
]
# Skia's stroker is as fine as its units: outlines are made at about this size.
_STROKER_SIZE = 4096.0
_MOST_DASHES = 5000

Command = tuple[str, tuple[float, ...]]


@dataclass
class Outline:
    """Contours over points [N,2].

    contours: a list of (curves, closed). A curve is a tuple of 2, 3 or 4 indices into `points`: a
        line, a quadratic or a cubic Bézier; each begins at the point where the last one ended.
        `closed`: the source says so, and the last curve ends where the first begins.
    """

    points: np.ndarray
    contours: list[tuple[list[tuple[int, ...]], bool]]

    def mapped(self, matrix: Matrix) -> Outline:
        """The same outline under an affine map."""
        return Outline(apply(matrix, self.points), self.contours)


class _Builder:
    """Collects absolute commands into an outline."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self.contours: list[tuple[list[tuple[int, ...]], bool]] = []
        self.curves: list[tuple[int, ...]] = []
        self.start = self.last = -1

    def add(self, command: str, args: Sequence[float]) -> None:
        if command == "M":
            self.finish(closed=False)
            self.start = self.last = self._point(args)
        elif command == "Z":
            self.close()
        elif self.last >= 0:
            new = [self._point(args[i : i + 2]) for i in range(0, len(args), 2)]
            self.curves.append((self.last, *new))
            self.last = new[-1]

    def _point(self, at: Sequence[float]) -> int:
        self.points.append((float(at[0]), float(at[1])))
        return len(self.points) - 1

    def _share_end(self) -> bool:
        """Lets the last curve end in the very point where the first began, if it does."""
        if self.points[self.last] != self.points[self.start] or self.last == self.start:
            return self.last == self.start
        self.curves[-1] = (*self.curves[-1][:-1], self.start)
        self.last = self.start
        return True

    def close(self) -> None:
        if self.last < 0:
            return
        if self.curves and not self._share_end():
            self.curves.append((self.last, self.start))
        begin = self.points[self.start]
        self.finish(closed=True)
        # What follows without a new "M" begins where this contour did, at a point of its own.
        self.start = self.last = self._point(begin)

    def finish(self, closed: bool) -> None:
        if self.curves:
            if not closed:
                self._share_end()
            self.contours.append((self.curves, closed))
        self.curves = []

    def outline(self) -> Outline:
        self.finish(closed=False)
        points = np.array(self.points, dtype=np.float64).reshape(-1, 2)
        used = sorted({i for curves, _ in self.contours for curve in curves for i in curve})
        new = {old: i for i, old in enumerate(used)}
        renamed = [
            ([tuple(new[i] for i in curve) for curve in curves], closed)
            for curves, closed in self.contours
        ]
        return Outline(points[used], renamed)


def from_commands(commands: Iterable[Command]) -> Outline:
    """An outline from absolute M, L, Q, C and Z."""
    builder = _Builder()
    for command, args in commands:
        builder.add(command.upper(), args)
    return builder.outline()


def shape_commands(element: etree._Element, viewport: tuple[float, float]) -> list[Command]:
    """A shape element as absolute M, L, Q, C and Z, in its own coordinates.

    Raises:
        ValueError: damaged path data, a negative radius or a number that is none.
    """
    path = _as_path(element, viewport)
    if path is None:
        return []
    path.explicit_lines(inplace=True)
    path.absolute(inplace=True)
    path.update_path(_without_shorthand(iter(path)), inplace=True)
    path.arcs_to_cubics(inplace=True)
    found = [(command, tuple(float(a) for a in args)) for command, args in path.as_cmd_seq()]
    if not all(math.isfinite(a) for _, args in found for a in args):
        raise ValueError("a coordinate is not a finite number")
    return found


def _without_shorthand(commands: Iterable[Command]) -> list[Command]:
    """Absolute commands with S and T as C and Q.

    picosvg mirrors the last control point of either kind of curve; SVG has S follow only C, and T
    only Q.
    """
    found: list[Command] = []
    at = start = (0.0, 0.0)
    control = {"C": at, "Q": at}
    for command, args in commands:
        if command in ("S", "T"):
            command = "C" if command == "S" else "Q"
            mirror = (2 * at[0] - control[command][0], 2 * at[1] - control[command][1])
            args = (*mirror, *args)
        end = start if command == "Z" else (args[-2], args[-1])
        start = end if command == "M" else start
        control = dict.fromkeys(control, end)
        if command in control:
            control[command] = (args[-4], args[-3])
        found.append((command, tuple(args)))
        at = end
    return found


def _as_path(element: etree._Element, viewport: tuple[float, float]):  # type: ignore[no-untyped-def]
    from picosvg import svg_types

    name, (width, height) = local(element), viewport
    diagonal = math.hypot(width, height) / math.sqrt(2)

    def get(key: str, whole: float, default: float = 0.0) -> float:
        return length(element.get(key), whole, default)

    if name == "path":
        text = " ".join((element.get("d") or "").split())
        return svg_types.SVGPath(d=text) if text and text != "none" else None
    if name == "line":
        return svg_types.SVGLine(
            x1=get("x1", width), y1=get("y1", height), x2=get("x2", width), y2=get("y2", height)
        ).as_path()
    if name in ("polyline", "polygon"):
        found = numbers(element.get("points"))
        pairs = " ".join(repr(v) for v in found[: len(found) // 2 * 2])
        kind = svg_types.SVGPolygon if name == "polygon" else svg_types.SVGPolyline
        return kind(points=pairs).as_path() if pairs else None
    if name == "rect":
        return _rect(element, width, height)
    cx, cy = get("cx", width), get("cy", height)
    if name == "circle":
        r = get("r", diagonal)
        return svg_types.SVGCircle(cx=cx, cy=cy, r=r).as_path() if r > 0 else None
    rx, ry = get("rx", width, -1), get("ry", height, -1)
    rx, ry = (ry if rx < 0 else rx), (rx if ry < 0 else ry)
    if rx <= 0 or ry <= 0:
        return None
    return svg_types.SVGEllipse(cx=cx, cy=cy, rx=rx, ry=ry).as_path()


def _rect(element: etree._Element, width: float, height: float):  # type: ignore[no-untyped-def]
    from picosvg import svg_types

    w, h = length(element.get("width"), width), length(element.get("height"), height)
    if w <= 0 or h <= 0:
        return None
    rx = length(element.get("rx"), width, -1)
    ry = length(element.get("ry"), height, -1)
    rx, ry = (ry if rx < 0 else rx), (rx if ry < 0 else ry)
    return svg_types.SVGRect(
        x=length(element.get("x"), width),
        y=length(element.get("y"), height),
        width=w,
        height=h,
        rx=min(max(rx, 0.0), w / 2),
        ry=min(max(ry, 0.0), h / 2),
    ).as_path()


def forget_geometry(element: etree._Element) -> None:
    """Takes away the attributes that said what a shape's outline is."""
    for name in _GEOMETRY:
        element.attrib.pop(name, None)


# --- strokes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stroke:
    """How a line is drawn, in the units of its shape."""

    width: float
    cap: str = "butt"
    join: str = "miter"
    miter_limit: float = 4.0
    dashes: tuple[float, ...] = ()
    offset: float = 0.0


def stroke_outline(commands: list[Command], stroke: Stroke) -> Outline:
    """The area that a stroke covers; to be filled nonzero."""
    from picosvg import svg_pathops

    where = np.array([a for _, args in commands for a in args], dtype=np.float64)
    size = max(float(np.ptp(where)) if len(where) else 0.0, stroke.width, 1e-12)
    k = _STROKER_SIZE / size
    scaled = [(command, tuple(a * k for a in args)) for command, args in commands]
    dashes = _dashes(stroke, commands)
    found = svg_pathops.stroke(
        scaled,
        stroke.cap if stroke.cap in ("butt", "round", "square") else "butt",
        stroke.join if stroke.join in ("miter", "round", "bevel") else "miter",
        stroke.width * k,
        max(stroke.miter_limit, 1.0),
        0.05,
        [d * k for d in dashes],
        stroke.offset * k,
    )
    outline = from_commands((command, tuple(a / k for a in args)) for command, args in found)
    return outline


def _dashes(stroke: Stroke, commands: list[Command]) -> tuple[float, ...]:
    """The dash pattern with an even count; none where it has no meaning or no end."""
    dashes = stroke.dashes
    if not dashes or min(dashes) < 0 or sum(dashes) <= 0:
        return ()
    ends = np.array([args[-2:] for _, args in commands if args], dtype=np.float64)
    way = float(np.abs(np.diff(ends, axis=0)).sum()) * 2
    if way / sum(dashes) * len(dashes) > _MOST_DASHES:
        return ()
    return dashes if len(dashes) % 2 == 0 else dashes * 2


# --- measuring and writing -----------------------------------------------------------------------


def bounds(commands: list[Command]) -> tuple[float, float, float, float] | None:
    """The tight box (x0, y0, x1, y1) of an outline; None for an empty one."""
    from picosvg import svg_pathops

    if not commands:
        return None
    x0, y0, x1, y1 = svg_pathops.bounding_box(commands)
    return float(x0), float(y0), float(x1), float(y1)


def path_data(points: np.ndarray, outline: Outline, decimals: int = 3) -> str:
    """The `d` of an outline with new points [N,2]."""
    letter = {2: "L", 3: "Q", 4: "C"}
    words: list[str] = []

    def at(index: int) -> str:
        x, y = points[index]
        return f"{number(x, decimals)} {number(y, decimals)}"

    for curves, closed in outline.contours:
        words.append(f"M{at(curves[0][0])}")
        for i, curve in enumerate(curves):
            if closed and i == len(curves) - 1 and len(curve) == 2 and i > 0:
                break  # the closing line is what Z draws
            words.append(letter[len(curve)] + " ".join(at(j) for j in curve[1:]))
        if closed:
            words.append("Z")
    return "".join(words)
