"""Shapes as outlines: contours of lines and Béziers over shared points, and back to path data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from lxml import etree

from pds_cli.drawings.document import local
from pds_cli.drawings.values import (
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
_LARGEST = 1e9
_LONGEST = 2_000_000
# Outlines of longer strokes are left as they are where they cross themselves.
_LONG_STROKE = 500

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
        ValueError: damaged or too long path data, or numbers beyond `_LARGEST`.
    """
    from picosvg.svg_path_iter import parse_svg_path

    text = _path_text(element, viewport)
    if len(text) > _LONGEST:
        raise ValueError(f"its path data are longer than {_LONGEST} characters")
    found = _absolute(parse_svg_path(text, exploded=True))
    if not all(abs(a) < _LARGEST for _, args in found for a in args):
        raise ValueError("a coordinate is too large")
    return found


def _absolute(commands: Iterable[Command]) -> list[Command]:
    """Any path commands as absolute M, L, Q, C and Z."""
    found: list[Command] = []
    at = start = (0.0, 0.0)
    control = {"C": at, "Q": at}  # what S and T mirror: the last control point of their own kind
    for letter, args in commands:
        command, args = _placed(letter, args, at)
        if command in ("S", "T"):
            command = "C" if command == "S" else "Q"
            args = (2 * at[0] - control[command][0], 2 * at[1] - control[command][1], *args)
        if command == "Z":
            found.append(("Z", ()))
            at = start
        elif command == "A":
            found += _arc(at, args)
        else:
            found.append((command, args))
        if args:
            at = (args[-2], args[-1])
        start = at if command == "M" else start
        control = dict.fromkeys(control, at)
        if command in control:
            control[command] = (args[-4], args[-3])
    return found


def _placed(letter: str, args: tuple[float, ...], at: tuple[float, float]) -> Command:
    """One command in absolute coordinates; H and V become L."""
    command = letter.upper()
    x, y = at if letter.islower() else (0.0, 0.0)
    if command == "H":
        return "L", (args[0] + x, at[1])
    if command == "V":
        return "L", (at[0], args[0] + y)
    if command == "A":
        return "A", (*args[:5], args[5] + x, args[6] + y)
    return command, tuple(float(a) + (y if i % 2 else x) for i, a in enumerate(args))


def _arc(at: tuple[float, float], args: tuple[float, ...]) -> list[Command]:
    """An elliptical arc as cubics."""
    from picosvg.arc_to_cubic import arc_to_cubic

    rx, ry, turn, large, sweep, x, y = args
    found: list[Command] = []
    for a, b, end in arc_to_cubic(at, rx, ry, turn, int(large), int(sweep), (x, y)):
        if a is None or b is None:
            found.append(("L", (end[0], end[1])))
        else:
            found.append(("C", (a[0], a[1], b[0], b[1], end[0], end[1])))
    return found


def _path_text(element: etree._Element, viewport: tuple[float, float]) -> str:
    """The path data of any shape, "" for one without an area to fill or a line to draw."""
    if local(element) == "path":
        text = " ".join((element.get("d") or "").split())
        return "" if text == "none" else text
    path = _as_path(element, viewport)
    return "" if path is None else str(path.d)


def _as_path(element: etree._Element, viewport: tuple[float, float]):  # type: ignore[no-untyped-def]
    from picosvg import svg_types

    name, (width, height) = local(element), viewport
    diagonal = math.hypot(width, height) / math.sqrt(2)

    def get(key: str, whole: float, default: float = 0.0) -> float:
        return length(element.get(key), whole, default)

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
    where = np.array([a for _, args in commands for a in args], dtype=np.float64)
    size = max(float(np.ptp(where)) if len(where) else 0.0, stroke.width, 1e-12)
    k = _STROKER_SIZE / size
    scaled = [(command, tuple(a * k for a in args)) for command, args in commands]
    dashes = _dashes(stroke, commands)
    found = _stroked(scaled, stroke, k, [d * k for d in dashes])
    outline = from_commands((command, tuple(a / k for a in args)) for command, args in found)
    return outline


def _stroked(
    commands: list[Command], stroke: Stroke, k: float, dashes: list[float]
) -> Iterable[Command]:
    """The outline by Skia's stroker, without overlaps where that takes no time."""
    import pathops
    from picosvg import svg_pathops

    caps = {"round": pathops.LineCap.ROUND_CAP, "square": pathops.LineCap.SQUARE_CAP}
    joins = {"round": pathops.LineJoin.ROUND_JOIN, "bevel": pathops.LineJoin.BEVEL_JOIN}
    path = svg_pathops.skia_path(commands, "nonzero")
    path.stroke(
        stroke.width * k,
        caps.get(stroke.cap, pathops.LineCap.BUTT_CAP),
        joins.get(stroke.join, pathops.LineJoin.MITER_JOIN),
        max(stroke.miter_limit, 1.0),
        dashes,
        stroke.offset * k,
    )
    path.convertConicsToQuads(0.05)
    if len(commands) <= _LONG_STROKE:
        whole = pathops.Path(path)
        try:
            path.simplify(fix_winding=True)
        except pathops.PathOpsError:
            path = whole
    return svg_pathops.svg_commands(path)  # type: ignore[no-any-return]


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
    found = svg_pathops.bounding_box(commands)
    if found is None:
        return None
    x0, y0, x1, y1 = found
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
