"""What shapes are filled with: colours, and linear and radial gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lxml import etree

from pds_cli.drawings.document import href, local
from pds_cli.drawings.values import (
    IDENTITY,
    Matrix,
    apply,
    color,
    compose,
    inverse,
    length,
    ratio,
    scale_of,
    transform,
)
from pds_cli.kernels import raster

_SPREADS = {"pad": raster.PAD, "reflect": raster.REFLECT, "repeat": raster.REPEAT}
_LARGEST = 1e7  # a gradient of such a size is one colour wherever one looks
_LONGEST_CHAIN = 100
_LINEAR = {"x1": "0%", "y1": "0%", "x2": "100%", "y2": "0%"}
_RADIAL = {"cx": "50%", "cy": "50%", "r": "50%", "fx": None, "fy": None, "fr": "0%"}


@dataclass
class Gradient:
    """A gradient as one shape uses it.

    kind: `raster.LINEAR` or `raster.RADIAL`; spread: `raster.PAD`, `REFLECT` or `REPEAT`.
    data: [6], x1 y1 x2 y2 0 0, or cx cy r fx fy fr, in its own space.
    matrix: from its own space to the drawing's; it stretches by about one.
    stops: [K,5] offset, r, g, b, alpha; offsets rise.
    """

    kind: int
    spread: int
    data: np.ndarray
    matrix: Matrix
    stops: np.ndarray


def read_gradient(
    element: etree._Element,
    ids: dict[str, etree._Element],
    viewport: tuple[float, float],
    ctm: Matrix,
    box: tuple[float, float, float, float] | None,
    stops: np.ndarray,
) -> Gradient | tuple[float, float, float, float] | None:
    """A gradient as it meets a shape with this matrix and box, or the colour it comes down to.

    None where nothing is painted: no stops, or a box without an area for a gradient in its units.
    `stops`: what `read_stops` found, once for all shapes.
    """
    chain = _chain(element, ids)
    if len(stops) == 0:
        return None
    if len(stops) == 1:
        return tuple(float(v) for v in stops[0, 1:])  # type: ignore[return-value]
    matrix = compose(ctm, IDENTITY)
    whole = viewport
    if _inherited(chain, "gradientUnits") != "userSpaceOnUse":
        if box is None or not (box[2] > box[0] and box[3] > box[1]):
            return None
        size = np.array([[box[2] - box[0], 0.0, box[0]], [0.0, box[3] - box[1], box[1]]])
        matrix, whole = compose(matrix, size), (1.0, 1.0)
    matrix = compose(matrix, transform(_inherited(chain, "gradientTransform")))
    linear = local(element) == "linearGradient"
    data = _linear(chain, whole) if linear else _radial(chain, whole)
    if inverse(matrix) is None or not _has_extent(data, linear):
        return tuple(float(v) for v in stops[-1, 1:])  # type: ignore[return-value]
    # Its own space is brought to the drawing's scale, so that its numbers are of its size.
    data, matrix = _folded_linear(data, matrix) if linear else _folded_radial(data, matrix)
    if not (np.abs(data).max() < _LARGEST and np.abs(matrix).max() < _LARGEST):
        return tuple(float(v) for v in stops[-1, 1:])  # type: ignore[return-value]
    spread = _SPREADS.get(_inherited(chain, "spreadMethod") or "pad", raster.PAD)
    return Gradient(raster.LINEAR if linear else raster.RADIAL, spread, data, matrix, stops)


def _folded_linear(data: np.ndarray, matrix: Matrix) -> tuple[np.ndarray, Matrix]:
    """The same linear gradient in the drawing's own space: its stripes' direction is mapped, and
    its axis is what stands on them."""
    start, axis = apply(matrix, data[None, :2])[0], data[2:4] - data[:2]
    stripe = matrix[:, :2] @ np.array([-axis[1], axis[0]])
    normal = np.array([stripe[1], -stripe[0]])
    end = start + normal * ((matrix[:, :2] @ axis) @ normal) / (normal @ normal)
    return np.array([*start, *end, 0.0, 0.0]), IDENTITY


def _folded_radial(data: np.ndarray, matrix: Matrix) -> tuple[np.ndarray, Matrix]:
    """The same radial gradient with a matrix that only turns a circle into an ellipse."""
    k = scale_of(matrix)
    linear = matrix[:, :2] / k
    if not np.allclose(linear @ linear.T, np.eye(2), atol=1e-6):
        return data * k, np.hstack([linear, matrix[:, 2:]])
    centres = apply(matrix, np.stack([data[:2], data[3:5]]))
    return np.array([*centres[0], data[2] * k, *centres[1], data[5] * k]), IDENTITY


def _has_extent(data: np.ndarray, linear: bool) -> bool:
    return bool(np.any(data[:2] != data[2:4])) if linear else bool(data[2] > 0)


def _chain(element: etree._Element, ids: dict[str, etree._Element]) -> list[etree._Element]:
    """A gradient and those it takes from, nearest first; a circle ends where it began."""
    chain: list[etree._Element] = []
    found: etree._Element | None = element
    while (
        found is not None
        and len(chain) < _LONGEST_CHAIN
        and found not in chain
        and "Gradient" in local(found)
    ):
        chain.append(found)
        found = ids.get(href(found) or "")
    return chain


def _inherited(chain: list[etree._Element], name: str) -> str | None:
    return next((e.get(name) for e in chain if e.get(name) is not None), None)


def _value(chain: list[etree._Element], name: str, default: str | None) -> str | None:
    kind = chain[0].tag
    return next((e.get(name) for e in chain if e.tag == kind and e.get(name) is not None), default)


def _linear(chain: list[etree._Element], whole: tuple[float, float]) -> np.ndarray:
    found = [
        length(_value(chain, name, default), whole[i % 2])
        for i, (name, default) in enumerate(_LINEAR.items())
    ]
    return np.array([*found, 0.0, 0.0])


def _radial(chain: list[etree._Element], whole: tuple[float, float]) -> np.ndarray:
    diagonal = float(np.hypot(*whole) / np.sqrt(2))
    size = {"cx": whole[0], "cy": whole[1], "fx": whole[0], "fy": whole[1]}
    found = {
        name: length(_value(chain, name, default), size.get(name, diagonal), np.nan)
        for name, default in _RADIAL.items()
    }
    for focal, centre in (("fx", "cx"), ("fy", "cy")):
        found[focal] = found[centre] if np.isnan(found[focal]) else found[focal]
    data = np.array([found[n] for n in ("cx", "cy", "r", "fx", "fy", "fr")])
    return np.nan_to_num(data)


def read_stops(element: etree._Element, ids: dict[str, etree._Element]) -> np.ndarray:
    """[K,5] of the nearest gradient that has any; offsets never fall."""
    found, last = [], 0.0
    for gradient in _chain(element, ids):
        for stop in (e for e in gradient if local(e) == "stop"):
            last = max(last, ratio(stop.get("offset"), 0.0))
            rgba = color(stop.get("stop-color", "black"))
            red, green, blue, alpha = rgba or (0.0, 0.0, 0.0, 1.0)
            found.append((last, red, green, blue, alpha * ratio(stop.get("stop-opacity"))))
        if found:
            break
    return np.array(found, dtype=np.float64).reshape(-1, 5)
