"""The walk through a document, which collects what it draws and flattens its transforms."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from lxml import etree

from pds_cli.drawings import paint as paints
from pds_cli.drawings.cleaning import remove
from pds_cli.drawings.document import MAX_ELEMENTS, SVG, by_id, fresh_id, local
from pds_cli.drawings.drawing import Drawing, Paint, Shape
from pds_cli.drawings.outline import (
    SHAPES,
    Outline,
    Stroke,
    bounds,
    forget_geometry,
    from_commands,
    shape_commands,
    stroke_outline,
)
from pds_cli.drawings.styles import INHERITED, reference
from pds_cli.drawings.tidying import tidy
from pds_cli.drawings.values import (
    IDENTITY,
    Matrix,
    apply,
    color,
    compose,
    hex_color,
    inverse,
    length,
    ratio,
    transform,
    view_box,
    view_matrix,
)
from pds_cli.kernels import raster

_CONTAINERS = frozenset(("g", "a", "svg", "switch"))
_DEFINITIONS = frozenset(("clipPath", "linearGradient", "radialGradient"))
# What shows nothing where it stands.
_SILENT = _DEFINITIONS | frozenset(
    ("defs", "symbol", "title", "desc", "metadata", "mask", "pattern", "filter", "marker", "style",
     "view", "cursor", "color-profile", "font", "font-face")
)  # fmt: skip
_IGNORED = {"filter": "filters", "mask": "masks", "mix-blend-mode": "blend modes"}
_MARKERS = ("marker-start", "marker-mid", "marker-end")
# What picosvg raises on path data that make no sense.
_DAMAGED = (ValueError, TypeError, IndexError, ArithmeticError)
# What uses, clips and gradients come to once each has its own copy.
_MOST_SHAPES = 50_000
_MOST_OPS = 500_000
_MOST_POINTS = 1_000_000
_MOST_LOOKS = 50_000


class TooMuchError(Exception):
    """Copies that multiply; says what there is too much of."""


@dataclass(frozen=True)
class _State:
    """What an element has from those around it."""

    ctm: Matrix
    style: dict[str, str]
    viewport: tuple[float, float]

    def entered(self, element: etree._Element) -> _State:
        ctm = compose(self.ctm, transform(element.attrib.pop("transform", None)))
        style = {name: element.get(name) for name in INHERITED if element.get(name)}
        if style.get("color", "").lower() == "currentcolor":
            del style["color"]
        return _State(ctm, {**self.style, **style}, self.viewport)  # type: ignore[dict-item]


class Walk:
    """Collects shapes, paints and operations of a document, and flattens its transforms."""

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        self.ids = by_id(drawing.root)
        # As they were: what is drawn rewrites them on its way.
        self.original = {name: copy.deepcopy(e) for name, e in self.ids.items() if _is_shared(e)}
        self.taken = dict.fromkeys(self.ids, 2)
        self.count = self.copies = self.looks = 0
        self.gradients: dict[Any, int] = {}
        self.stops: dict[str, np.ndarray] = {}
        self.clips: dict[Any, tuple[str, list[tuple[int, int]]]] = {}
        self.clipping: list[str] = []
        self.used: dict[str, list[etree._Element]] = {}

    def run(self, k: float) -> None:
        root = self.drawing.root
        scale = np.array([[k, 0.0, 0.0], [0.0, k, 0.0]])
        box = self.drawing.box
        state = _State(scale, dict(INHERITED), (box[2] / k, box[3] / k))
        inner = state.entered(root)
        self.unsupported(root, "svg")
        group = self.open_group(root, inner, self.clip_of(root, inner, None))
        for child in list(root):
            if root.get("display") == "none":
                self.hidden(child)
            else:
                self.visit(child, inner)
        self.close_group(group)
        drawn = {shape.element for shape in self.drawing.shapes}
        tidy(root, drawn, self.used)

    def visit(self, element: etree._Element, state: _State) -> None:
        name = local(element)
        if name in _SILENT or not name:
            return
        if element.get("display") == "none":
            return self.hidden(element)
        self.unsupported(element, name)
        if name in SHAPES:
            self.shape(element, state.entered(element))
        elif name in _CONTAINERS:
            self.container(element, name, state.entered(element))
        else:
            self.drawing.warn(f"<{name}> is not drawn, and left out of what is written")
            remove(element)

    def hidden(self, element: etree._Element) -> None:
        if local(element) not in _SILENT:
            self.drawing.warn("what is hidden is left out of what is written")
            remove(element)

    def unsupported(self, element: etree._Element, name: str) -> None:
        for key, what in _IGNORED.items():
            value = element.attrib.pop(key, "none").strip()
            if value not in ("none", "normal", ""):
                self.drawing.warn(f"{what} are ignored (<{name}{_called(element)}>)")

    # ------------------------------------------------------------------ containers
    def container(self, element: etree._Element, name: str, state: _State) -> None:
        if name == "switch":
            self.switch(element)
        group = self.open_group(element, state, self.clip_of(element, state, None))
        if name == "svg":
            element, state = self.nested(element, state)
            window = self.open_group(element, state, self.clip_of(element, state, None))
        for child in list(element):
            self.visit(child, state)
        if name == "svg":
            self.close_group(window)
        self.close_group(group)

    def switch(self, element: etree._Element) -> None:
        """A `switch` becomes a group of the first child that can be shown."""
        children = [c for c in element if local(c) and local(c) not in _SILENT]
        if any(child.get("systemLanguage") is not None for child in children):
            self.drawing.warn("a switch by language is taken as if it were read in English")
        first = next((c for c in children if _is_chosen(c)), None)
        for child in children:
            if child is not first:
                remove(child)
        element.tag = SVG + "g"

    def nested(self, element: etree._Element, state: _State) -> tuple[etree._Element, _State]:
        """An inner `svg` becomes a group around one that maps its viewBox to where it lies.

        Returns the inner group, clipped to the window where something could lie beyond it.
        """
        width, height = state.viewport
        w = length(element.get("width", "100%"), width, width)
        h = length(element.get("height", "100%"), height, height)
        x, y = length(element.get("x"), width), length(element.get("y"), height)
        move = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
        box = view_box(element.get("viewBox"))
        ctm, inner = compose(state.ctm, move), (w, h)
        window = (0.0, 0.0, w, h)
        if box is not None and w > 0 and h > 0:
            fit = view_matrix(box, w, h, element.get("preserveAspectRatio"))
            ctm, inner = compose(ctm, fit), (box[2], box[3])
            back = inverse(fit)
            if back is not None:
                corner, end = apply(back, np.array([[0.0, 0.0], [w, h]]))
                window = (*corner, *(end - corner))
        group = etree.Element(SVG + "g")
        for child in list(element):
            group.append(child)
        element.append(group)
        element.tag = SVG + "g"
        if w <= 0 or h <= 0:
            for child in list(group):
                self.hidden(child)
        elif element.get("overflow") not in ("visible", "auto"):
            self.window(group, window)
        return group, _State(ctm, state.style, inner)

    def window(self, group: etree._Element, window: tuple[float, ...]) -> None:
        """Clips a group to a rectangle in its own coordinates."""
        clip = etree.Element(SVG + "clipPath", id=fresh_id("window", self.taken))
        rect = etree.SubElement(clip, SVG + "rect")
        for name, value in zip(("x", "y", "width", "height"), window, strict=True):
            rect.set(name, repr(float(value)))
        group.insert(0, clip)
        self.ids[clip.get("id", "")] = clip
        self.original[clip.get("id", "")] = copy.deepcopy(clip)
        group.set("clip-path", f"url(#{clip.get('id')})")

    def open_group(
        self, element: etree._Element, state: _State, clip: list[tuple[int, int]] | None
    ) -> tuple[int, list[tuple[int, int]] | None] | None:
        opacity = ratio(element.get("opacity"))
        if opacity == 1 and clip is None:
            return None
        self.drawing.groups.append((element if opacity < 1 else None, opacity))
        self.drawing.ops.append((raster.PUSH, 0))
        return len(self.drawing.groups) - 1, clip

    def close_group(self, group: tuple[int, list[tuple[int, int]] | None] | None) -> None:
        if group is None:
            return
        index, clip = group
        self.drawing.ops += clip or []
        if len(self.drawing.ops) > _MOST_OPS:
            raise TooMuchError(f"{_MOST_OPS} steps to draw")
        self.drawing.ops.append((raster.POP, index))

    # ------------------------------------------------------------------ shapes
    def shape(self, element: etree._Element, state: _State) -> None:
        self.children_of_shape(element)
        try:
            commands = shape_commands(element, state.viewport)
            _check_reach(commands, state.ctm)
            box = bounds(commands)
        except _DAMAGED as error:
            self.drawing.warn(f"<{local(element)}{_called(element)}> is damaged: {error}")
            return remove(element)
        if not commands:
            return remove(element)
        if state.style["visibility"] != "visible":
            return self.hidden(element)
        clip = self.clip_of(element, state, box)
        fill = self.paint_of(element, state, "fill", box)
        line = self.paint_of(element, state, "stroke", box)
        stroke = _stroke(state)
        if stroke.width <= 0:
            line = None
        self.said_of_lines(element, state, line is not None)
        outline = None
        if line is not None:
            try:
                outline = stroke_outline(commands, stroke).mapped(state.ctm)
            except _DAMAGED as error:
                self.drawing.warn(
                    f"the stroke of <{local(element)}{_called(element)}> is damaged: {error}"
                )
                line = None
        self.draw_parts(element, state, commands, clip, fill, line, outline)

    def children_of_shape(self, element: etree._Element) -> None:
        for child in list(element):
            if local(child) and local(child) not in _SILENT:
                self.drawing.warn(f"<{local(child)}> is not drawn, and left out of what is written")
                remove(child)

    def said_of_lines(self, element: etree._Element, state: _State, has_stroke: bool) -> None:
        """Warns of what strokes and lines have that is not drawn."""
        name = local(element)
        if name in ("path", "line", "polyline", "polygon") and any(
            state.style[key].strip() not in ("none", "") for key in _MARKERS
        ):
            self.drawing.warn(f"markers are ignored (<{name}{_called(element)}>)")
        if has_stroke and element.get("vector-effect", "none") != "none":
            self.drawing.warn(f"vector-effect is ignored (<{name}{_called(element)}>)")
        if has_stroke and state.style["stroke-dasharray"] != "none" and element.get("pathLength"):
            self.drawing.warn(f"pathLength is ignored (<{name}{_called(element)}>)")

    def draw_parts(
        self,
        element: etree._Element,
        state: _State,
        commands: list[Any],
        clip: list[tuple[int, int]] | None,
        fill: tuple[int, float, str] | None,
        line: tuple[int, float, str] | None,
        stroke: Outline | None,
    ) -> None:
        """Fill and stroke as one path each; a stroke alone takes the element's own place."""
        if fill is None and line is None:
            return remove(element)
        rule = raster.EVENODD if state.style["fill-rule"] == "evenodd" else raster.NONZERO
        opacity, group = ratio(element.get("opacity")), None
        holder = element
        if (fill and line and opacity < 1) or clip is not None:
            if fill and line:  # both under one opacity or clip
                holder = _wrapped(element)
            group = self.open_group(holder, state, clip)
            opacity = 1.0
        else:
            element.attrib.pop("opacity", None)
        forget_geometry(element)
        element.tag = SVG + "path"
        parts = []
        if fill is not None:
            parts.append((element, from_commands(commands).mapped(state.ctm), rule, fill))
        if line is not None and stroke is not None:
            target, below = element, _stroke_comes_first(state)
            if fill is not None:
                target = self.beside(element, below)
            parts.insert(0 if below else 1, (target, stroke, raster.NONZERO, line))
        for target, outline, own_rule, paint in parts:
            self.add(target, outline, own_rule, paint, opacity)
        self.close_group(group)

    def beside(self, element: etree._Element, below: bool) -> etree._Element:
        """A new path for a stroke, after its fill or `below` it, before it."""
        target = etree.Element(SVG + "path")
        if element.get("id"):
            name = f"{element.get('id')}-stroke"
            target.set("id", name if name not in self.taken else fresh_id(name, self.taken))
            self.taken.setdefault(name, 2)
        if element.get("class"):
            target.set("class", element.get("class", ""))
        if below:
            element.addprevious(target)
        else:
            element.addnext(target)
        return target

    def add(
        self,
        element: etree._Element,
        outline: Outline,
        rule: int,
        paint: tuple[int, float, str],
        opacity: float,
    ) -> None:
        index, alpha, written = paint
        for name in list(element.attrib):
            if str(name).startswith("stroke") or name in ("fill-opacity", "fill-rule"):
                del element.attrib[name]
        element.set("stroke", "none")
        element.set("fill", written)
        if rule == raster.EVENODD:
            element.set("fill-rule", "evenodd")
        else:
            element.set("fill-rule", "nonzero")
        self.emit(element, outline, rule, index, alpha * opacity)
        self.drawing.ops.append((raster.DRAW, len(self.drawing.shapes) - 1))

    def emit(
        self, element: etree._Element, outline: Outline, rule: int, paint: int, opacity: float
    ) -> None:
        self.drawing.shapes.append(Shape(element, outline, self.count, rule, paint, opacity))
        self.count += len(outline.points)
        if len(self.drawing.shapes) > _MOST_SHAPES:
            raise TooMuchError(f"{_MOST_SHAPES} shapes")
        if self.count > _MOST_POINTS:
            raise TooMuchError(f"{_MOST_POINTS} control points")

    # ------------------------------------------------------------------ paints
    def paint_of(
        self,
        element: etree._Element,
        state: _State,
        key: str,
        box: tuple[float, float, float, float] | None,
    ) -> tuple[int, float, str] | None:
        """(paint, alpha, how it is written) of a shape's fill or stroke; None for nothing."""
        text, alpha = state.style[key].strip(), ratio(state.style[f"{key}-opacity"])
        named = reference(text)
        rgba: Any = None
        if named is not None:
            name, text = named[0], named[1] or "none"
            server = self.original.get(name)
            if server is not None and local(server).endswith("Gradient"):
                if name not in self.stops:
                    self.stops[name] = paints.read_stops(server, self.original)
                found = paints.read_gradient(
                    server, self.original, state.viewport, state.ctm, box, self.stops[name]
                )
                if isinstance(found, paints.Gradient):
                    index = self.gradient(name, found)
                    return index, alpha, f"url(#{self.drawing.paints[index].element.get('id')})"  # type: ignore[union-attr]
                rgba = found
            elif server is not None or name in self.ids:
                what = local(self.ids[name])
                self.drawing.warn(f"{what}s are not painted (<{local(element)}{_called(element)}>)")
            else:
                self.drawing.warn(f"{key}: there is no #{name} (<{local(element)}>)")
        if rgba is None and text.lower() != "none":
            rgba = color(text, state.style["color"])
        if rgba is None or alpha * rgba[3] <= 0:
            return None
        self.drawing.paints.append(Paint(rgb=rgba[:3]))
        return len(self.drawing.paints) - 1, alpha * rgba[3], hex_color(rgba[:3])

    def gradient(self, name: str, found: paints.Gradient) -> int:
        """The paint of a gradient; one for all that use it alike."""
        key = (name, tuple(np.round(found.matrix.ravel(), 6)), tuple(np.round(found.data, 6)))
        if key not in self.gradients:
            element = self.own(name)
            self.drawing.paints.append(Paint(gradient=found, element=element))
            self.gradients[key] = len(self.drawing.paints) - 1
        return self.gradients[key]

    def own(self, name: str) -> etree._Element:
        """The element of that id for its first use, a copy with an id of its own for others."""
        element = self.ids[name]
        if name not in self.used:
            self.used[name] = [element]
            return element
        twin = copy.deepcopy(self.original[name])
        twin.tail = None
        for inner in twin.iter():
            self.copies += 1
            if inner.get("id"):
                inner.set("id", fresh_id(inner.get("id", ""), self.taken))
        if self.copies > MAX_ELEMENTS:
            raise TooMuchError(f"{MAX_ELEMENTS} elements")
        self.used[name][-1].addnext(twin)
        self.used[name].append(twin)
        return twin

    # ------------------------------------------------------------------ clips
    def clip_of(
        self,
        element: etree._Element,
        state: _State,
        box: tuple[float, float, float, float] | None,
    ) -> list[tuple[int, int]] | None:
        """The operations that clip the present layer, None where nothing does."""
        text = element.attrib.pop("clip-path", "none")
        match = reference(text)
        if match is None:
            if text.strip().lower() not in ("none", ""):
                self.drawing.warn(
                    f"clip-path: {text[:40]!r} is ignored (<{local(element)}{_called(element)}>)"
                )
            return None
        target = self.original.get(match[0])
        if target is None or local(target) != "clipPath" or match[0] in self.clipping:
            self.drawing.warn(f"clip-path: there is no #{match[0]} (<{local(element)}>)")
            return None
        name, ctm = match[0], state.ctm
        if target.get("clipPathUnits") == "objectBoundingBox":
            box = box or self.group_box(element)
            size = [[box[2] - box[0], 0.0, box[0]], [0.0, box[3] - box[1], box[1]]]
            ctm = compose(ctm, np.array(size))
        key = (name, tuple(np.round(ctm.ravel(), 6)))
        if key not in self.clips:
            self.clipping.append(name)
            self.clips[key] = self.clip(name, replace(state, ctm=ctm))
            self.clipping.pop()
        written, ops = self.clips[key]
        element.set("clip-path", f"url(#{written})")
        return ops or None

    def clip(self, name: str, state: _State) -> tuple[str, list[tuple[int, int]]]:
        """The id that a clip path is written under, and its operations; none if all is within."""
        element = self.own(name)
        element.attrib.pop("clipPathUnits", None)
        clean = _State(state.ctm, dict(INHERITED), state.viewport).entered(element)
        before, self.drawing.ops = self.drawing.ops, []
        inner = self.clip_of(element, clean, None)
        self.drawing.ops.append((raster.PUSH, 0))
        for child in list(element):
            self.clip_child(child, clean)
        self.drawing.ops += inner or []
        self.drawing.ops.append((raster.CLIP, 0))
        ops, self.drawing.ops = self.drawing.ops, before
        plain = inner is None and len(ops) == 3 and ops[1][0] == raster.DRAW
        if plain and self.covers_all(self.drawing.shapes[ops[1][1]]):
            ops = []
        return element.get("id", ""), ops

    def clip_child(self, element: etree._Element, state: _State) -> None:
        if local(element) == "g":  # what `use` became
            inner = state.entered(element)
            if element.get("display") == "none":
                return remove(element)
            for child in list(element):
                self.clip_child(child, inner)
            return _unwrap(element)
        if local(element) not in SHAPES or element.get("display") == "none":
            if local(element) in (*_SILENT, ""):
                return None
            if local(element) not in SHAPES:
                self.drawing.warn(f"<{local(element)}> in a clipPath is ignored")
            return remove(element)
        self.children_of_shape(element)
        inner = state.entered(element)
        try:
            commands = shape_commands(element, state.viewport)
            _check_reach(commands, inner.ctm)
            box = bounds(commands)
        except _DAMAGED as error:
            self.drawing.warn(f"a <{local(element)}> in a clipPath is damaged: {error}")
            commands = []
        if not commands or inner.style["visibility"] != "visible":
            return remove(element)
        clip = self.clip_of(element, inner, box)
        group = self.open_group(etree.Element("g"), inner, clip)
        rule = raster.EVENODD if inner.style["clip-rule"] == "evenodd" else raster.NONZERO
        forget_geometry(element)
        element.tag = SVG + "path"
        element.set("clip-rule", "evenodd" if rule == raster.EVENODD else "nonzero")
        self.drawing.paints.append(Paint(rgb=(1.0, 1.0, 1.0)))
        outline = from_commands(commands).mapped(inner.ctm)
        self.emit(element, outline, rule, len(self.drawing.paints) - 1, 1.0)
        self.drawing.ops.append((raster.DRAW, len(self.drawing.shapes) - 1))
        self.close_group(group)

    def covers_all(self, shape: Shape) -> bool:
        """Is this an upright rectangle around everything that is shown?"""
        points, box = shape.outline.points, self.drawing.box
        curves = [curve for contour, _ in shape.outline.contours for curve in contour]
        if len(shape.outline.contours) != 1 or not 3 <= len(curves) <= 4:
            return False
        upright = all(len(c) == 2 and np.any(points[c[0]] == points[c[1]]) for c in curves)
        low, high = points.min(0), points.max(0)
        fits = (
            self.drawing.aspect is None
            and self.drawing.size[0] * box[3] == box[2] * (self.drawing.size[1])
        )
        return bool(
            upright
            and fits
            and low[0] <= box[0]
            and low[1] <= box[1]
            and high[0] >= box[0] + box[2]
            and high[1] >= box[1] + box[3]
        )

    def group_box(self, element: etree._Element) -> tuple[float, float, float, float]:
        """The box of a group's shapes, in its own coordinates."""
        low, high = np.full(2, np.inf), np.full(2, -np.inf)
        for shape, matrix in _shapes_under(element):
            self.looks += 1
            if self.looks > _MOST_LOOKS:
                raise TooMuchError(f"{_MOST_LOOKS} shapes to measure")
            try:
                commands = shape_commands(shape, (100.0, 100.0))
            except _DAMAGED:
                continue
            points = from_commands(commands).mapped(matrix).points
            if len(points):
                low, high = np.minimum(low, points.min(0)), np.maximum(high, points.max(0))
        if not np.isfinite(low).all():
            return 0.0, 0.0, 0.0, 0.0
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _is_chosen(element: etree._Element) -> bool:
    """May a `switch` show this child, to a reader of English?"""
    if element.get("requiredExtensions") is not None:
        return False
    languages = element.get("systemLanguage")
    return languages is None or any(
        word.strip().lower().split("-")[0] == "en" for word in languages.split(",")
    )


def _stroke_comes_first(state: _State) -> bool:
    """Is the stroke below the fill, by `paint-order`?"""
    words = [w for w in state.style["paint-order"].lower().split() if w in ("fill", "stroke")]
    return words[:1] == ["stroke"]


def _check_reach(commands: list[Any], ctm: Matrix) -> None:
    """ValueError where a map throws a shape so far that its numbers lose their meaning."""
    ends = np.array([args[-2:] for _, args in commands if args], dtype=np.float64).reshape(-1, 2)
    if len(ends) and not np.abs(apply(ctm, ends)).max() < 1e12:
        raise ValueError("its transform makes it too large")


def _shapes_under(
    element: etree._Element, matrix: Matrix = IDENTITY
) -> Iterator[tuple[etree._Element, Matrix]]:
    for child in element:
        if local(child) in _SILENT:
            continue
        inner = compose(matrix, transform(child.get("transform")))
        if local(child) in SHAPES:
            yield child, inner
        yield from _shapes_under(child, inner)


def _stroke(state: _State) -> Stroke:
    style, whole = state.style, float(np.hypot(*state.viewport) / np.sqrt(2))
    return Stroke(
        width=length(style["stroke-width"], whole, 1.0),
        cap=style["stroke-linecap"],
        join=style["stroke-linejoin"],
        miter_limit=length(style["stroke-miterlimit"], 1.0, 4.0),
        dashes=tuple(
            length(word, whole)
            for word in re.split(r"[\s,]+", style["stroke-dasharray"].strip())
            if word and word != "none"
        ),
        offset=length(style["stroke-dashoffset"], whole),
    )


def _is_shared(element: etree._Element) -> bool:
    return local(element) in ("clipPath", "linearGradient", "radialGradient", "pattern")


def _called(element: etree._Element) -> str:
    return f" id={element.get('id')!r}" if element.get("id") else ""


def _unwrap(element: etree._Element) -> None:
    """Puts an element's children in its place."""
    parent = element.getparent()
    assert parent is not None
    at = parent.index(element)
    for child in list(element):
        parent.insert(at, child)
        at += 1
    remove(element)


def _wrapped(element: etree._Element) -> etree._Element:
    """A new group around an element, with its opacity and its clip."""
    group = etree.Element(SVG + "g")
    parent = element.getparent()
    assert parent is not None
    parent.replace(element, group)
    group.append(element)
    for name in ("opacity", "clip-path"):
        if element.get(name) is not None:
            group.set(name, element.attrib.pop(name))
    return group
