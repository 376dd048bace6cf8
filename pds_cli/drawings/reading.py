"""From an SVG file to a drawing: its size, and the walk through it."""

from __future__ import annotations

import math
import os

import numpy as np
from lxml import etree

from pds_cli.drawings.document import parse_document, read_document
from pds_cli.drawings.drawing import Drawing
from pds_cli.drawings.values import inverse, length, number, view_box
from pds_cli.drawings.walk import TooMuchError, Walk
from pds_cli.errors import UserError

# Numbers are written with three decimals: a smaller drawing's units are made smaller.
_LEAST_SIZE = 32.0
_SIZES = (1e-6, 1e9)


def read_drawing(path: str | os.PathLike[str]) -> Drawing:
    """Reads an SVG file.

    Raises:
        UserError: as `read_document`, or a picture without an area.
    """
    return _read(*read_document(path), str(path))


def parse_drawing(text: bytes, name: str = "the drawing") -> Drawing:
    """The same for a document in memory; `name` is what errors call it."""
    return _read(*parse_document(text, name), name)


def _read(root: etree._Element, warnings: list[str], path: str) -> Drawing:
    box = view_box(root.get("viewBox"))
    if root.get("viewBox") and box is None:
        raise UserError(
            f'{path}: viewBox="{root.get("viewBox")}" shows nothing; it has to be four numbers '
            "x y width height, the last two above 0"
        )
    width, height = _size(root, box, path)
    if not (width > 0 and height > 0):
        raise UserError(f"{path} is {width:g}×{height:g} units large: it shows nothing")
    box = box or (0.0, 0.0, width, height)
    odd = [v for v in (width, height, *box[2:]) if not _SIZES[0] <= v <= _SIZES[1]]
    odd += [v for v in box[:2] if abs(v) > _SIZES[1]]
    if odd:
        raise UserError(
            f"{path}: its size or its viewBox has the number {odd[0]:g}; "
            f"sizes lie between {_SIZES[0]:g} and {_SIZES[1]:g}"
        )
    k = max(1.0, 10.0 ** math.ceil(math.log10(_LEAST_SIZE / max(box[2], box[3]))))
    scaled = (box[0] * k, box[1] * k, box[2] * k, box[3] * k)
    drawing = Drawing(
        root, scaled, (width, height), root.get("preserveAspectRatio"), warnings=warnings
    )
    if inverse(drawing.placed(100, 100)) is None:
        raise UserError(f"{path}: its size and its viewBox do not make a picture")
    root.set("viewBox", " ".join(number(v) for v in scaled))
    try:
        # What overflows is found where it would be drawn.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            Walk(drawing).run(k)
    except RecursionError as error:
        raise UserError(f"{path} is nested too deep: simplify the drawing") from error
    except TooMuchError as error:
        raise UserError(
            f"{path} has more than {error}, once what it uses is copied: simplify the drawing"
        ) from error
    return drawing


def _size(
    root: etree._Element, box: tuple[float, float, float, float] | None, path: str
) -> tuple[float, float]:
    """The picture's size: what is said of it, completed by the viewBox's proportions.

    Percentages are of the viewBox, as with resvg: there is no window that they could be of.
    """
    whole = (300.0, 150.0) if box is None else box[2:]
    width = _side(root, "width", whole[0], path)
    height = _side(root, "height", whole[1], path)
    if box is not None:
        if width is None and height is None:
            return box[2], box[3]
        if width is None:
            width = (height or 0.0) * box[2] / box[3]
        if height is None:
            height = width * box[3] / box[2]
    return (300.0 if width is None else width), (150.0 if height is None else height)


def _side(root: etree._Element, name: str, whole: float, path: str) -> float | None:
    """The width or the height that a file says; None where it leaves it open."""
    text = root.get(name, "").strip()
    if text in ("", "auto"):
        return None
    found = length(text, whole, math.nan)
    if math.isnan(found):
        raise UserError(f"{path}: {name}={text[:40]!r} is no size; it has to be a number above 0")
    return found
