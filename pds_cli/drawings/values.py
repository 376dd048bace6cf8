"""SVG's small languages: lengths, numbers, colours, transforms, viewBox."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

Matrix = np.ndarray
"""[2,3] float64: x' = a x + c y + e, y' = b x + d y + f, as [[a, c, e], [b, d, f]]."""

IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LENGTH = re.compile(rf"\s*({_NUMBER})\s*([a-zA-Z]*|%)\s*$")
_UNITS = {
    "": 1.0, "px": 1.0, "pt": 96 / 72, "pc": 16.0, "mm": 96 / 25.4, "cm": 96 / 2.54,
    "in": 96.0, "q": 96 / 101.6, "em": 16.0, "rem": 16.0, "ex": 8.0,
}  # fmt: skip
_LONGEST_TRANSFORM = 10_000
_FUNCTION = re.compile(r"(matrix|translate|scale|rotate|skewX|skewY)\s*\(([^()]*)\)")
_ARGUMENTS = {
    "matrix": (6,), "translate": (1, 2), "scale": (1, 2), "rotate": (1, 3), "skewX": (1,),
    "skewY": (1,),
}  # fmt: skip
# To linear sRGB (the white of D50 is adapted by Bradford); CSS Color 4, and B. Lindbloom.
_FROM_XYZ = {
    "xyz-d65": np.array([[3.2409699, -1.5373832, -0.4986108],
                         [-0.9692436, 1.8759675, 0.0415551],
                         [0.0556301, -0.2039770, 1.0569715]]),
    "xyz-d50": np.array([[3.1338561, -1.6168667, -0.4906146],
                         [-0.9787684, 1.9161415, 0.0334540],
                         [0.0719453, -0.2289914, 1.4052427]]),
}  # fmt: skip


def length(text: str | None, whole: float = 100.0, default: float = 0.0) -> float:
    """A length in user units; percent are of `whole`, and a text that is none is `default`."""
    match = _LENGTH.match(text or "")
    if match is None:
        return default
    value, unit = float(match[1]), match[2].lower()
    if unit == "%":
        value *= whole / 100
    elif unit in _UNITS:
        value *= _UNITS[unit]
    else:
        return default
    return value if math.isfinite(value) else default


def ratio(text: str | None, default: float = 1.0) -> float:
    """A number or percentage, kept within [0,1]."""
    return min(max(length(text, 1.0, default), 0.0), 1.0)


def numbers(text: str | None) -> list[float]:
    """All numbers of a list."""
    return [float(n) for n in re.findall(_NUMBER, text or "")]


def color(text: str, current: str = "black") -> tuple[float, float, float, float] | None:
    """Straight RGBA in [0,1] of a CSS colour; None for what is no colour."""
    import tinycss2.color4

    if text.strip().lower() == "currentcolor":
        text = current
    try:
        found = tinycss2.color4.parse_color(text)
        if found is None or isinstance(found, str):
            return None
        red, green, blue, alpha = _to_srgb(found)
    except (ValueError, AttributeError, NotImplementedError):
        return None
    found = [float(v or 0) for v in (red, green, blue, alpha)]
    if not all(math.isfinite(v) for v in found):
        return None
    red, green, blue, alpha = (min(max(v, 0.0), 1.0) for v in found)
    return red, green, blue, alpha


def _to_srgb(found: Any) -> tuple[float, float, float, float]:
    """A parsed CSS colour in sRGB; Lab and Oklab, and what is like them, by CSS Color 4."""
    lab = {"lab": "xyz-d50", "lch": "xyz-d50", "oklab": "xyz-d65", "oklch": "xyz-d65"}
    if found.space not in lab:
        return tuple(found.to("srgb"))  # type: ignore[return-value]
    space = lab[found.space]
    x, y, z, alpha = (float(v or 0) for v in found.to(space))
    linear = np.clip(_FROM_XYZ[space] @ np.array([x, y, z]), 0.0, 1.0)
    curved = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    )
    return (*(float(v) for v in curved), alpha)  # type: ignore[return-value]


def is_transform(text: str) -> bool:
    """Is this a `transform` attribute that `transform` reads whole?"""
    rest, found = text.strip(), False
    if len(text) > _LONGEST_TRANSFORM:
        return False
    while rest:
        match = _FUNCTION.match(rest)
        if match is None:
            return False
        given = re.findall(_NUMBER, match[2])
        left = re.sub(_NUMBER, " ", match[2])
        if len(given) not in _ARGUMENTS[match[1]] or re.sub(r"px|deg", "", left).strip(", \t\r\n"):
            return False
        if not all(math.isfinite(float(v)) for v in given):
            return False
        rest, found = rest[match.end() :].lstrip(", \t\r\n"), True
    return found


def transform(text: str | None) -> Matrix:
    """The matrix of a `transform` attribute; identity for none, or for one that is damaged."""
    from picosvg.svg_transform import Affine2D

    if not text or not text.strip():
        return IDENTITY
    # CSS writes units that the attribute does not have.
    plain = re.sub(rf"({_NUMBER})(?:px|deg)", r"\1", text)
    try:
        a, b, c, d, e, f = Affine2D.fromstring(plain)
    except (ValueError, TypeError, IndexError, KeyError):
        return IDENTITY
    found = np.array([[a, c, e], [b, d, f]], dtype=np.float64)
    return found if np.isfinite(found).all() else IDENTITY


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """First `inner`, then `outer`."""
    return outer @ np.vstack([inner, [0.0, 0.0, 1.0]])


def inverse(matrix: Matrix) -> Matrix | None:
    """The inverse map, None where there is none, or hardly one."""
    linear = matrix[:, :2]
    # Relative to its size: a map to or from very small units is as good as any.
    if not abs(np.linalg.det(linear)) > 1e-12 * float(np.square(linear).sum()):
        return None
    back = np.linalg.inv(linear)
    return np.hstack([back, -back @ matrix[:, 2:]])


def apply(matrix: Matrix, points: np.ndarray) -> np.ndarray:
    """Points [N,2] mapped."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def scale_of(matrix: Matrix) -> float:
    """By how much a map stretches, as the root of its determinant."""
    return float(math.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def view_matrix(
    box: tuple[float, float, float, float], width: float, height: float, aspect: str | None
) -> Matrix:
    """From a viewBox (x, y, width, height) to a viewport, by `preserveAspectRatio`."""
    sx, sy = width / box[2], height / box[3]
    words = (aspect or "xMidYMid meet").split()
    align = words[0] if words else "xMidYMid"
    if align == "none":
        return np.array([[sx, 0.0, -box[0] * sx], [0.0, sy, -box[1] * sy]])
    scale = max(sx, sy) if "slice" in words else min(sx, sy)
    share = {"Min": 0.0, "Mid": 0.5, "Max": 1.0}
    match = re.fullmatch(r"x(Min|Mid|Max)Y(Min|Mid|Max)", align)
    ax, ay = (share[match[1]], share[match[2]]) if match else (0.5, 0.5)
    x = (width - scale * box[2]) * ax - scale * box[0]
    y = (height - scale * box[3]) * ay - scale * box[1]
    return np.array([[scale, 0.0, x], [0.0, scale, y]])


def view_box(text: str | None) -> tuple[float, float, float, float] | None:
    """A viewBox with a positive size; None for none, or for one that has no meaning."""
    found = numbers(text)
    if len(found) != 4 or not all(math.isfinite(v) for v in found):
        return None
    return (found[0], found[1], found[2], found[3]) if found[2] > 0 and found[3] > 0 else None


def number(value: float, decimals: int = 3) -> str:
    """A number as short as it can be, with at most `decimals` decimals."""
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".") if decimals else f"{value:.0f}"
    if text in ("-0", ""):
        return "0"
    return text


def hex_color(rgb: Any) -> str:
    """#rrggbb of a colour in [0,1]."""
    return "#" + "".join(f"{round(min(max(float(v), 0.0), 1.0) * 255):02x}" for v in rgb)
