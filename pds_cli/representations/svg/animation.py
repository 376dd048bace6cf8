"""An edit of a drawing as an animation: SVG that moves by itself, or a film of its renders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lxml import etree

from pds_cli.drawings.document import SVG
from pds_cli.drawings.drawing import Drawing
from pds_cli.drawings.outline import path_data
from pds_cli.drawings.values import hex_color

SECONDS = 3.0


def animated(drawing: Drawing, frames: Sequence[tuple[np.ndarray, np.ndarray]]) -> bytes:
    """The drawing as SVG whose outlines and colours go through the frames, and stay at the last.

    Its structure never changes, so every outline has the same commands in every frame, which is
    what SVG's `animate` needs. Gradients and opacities stand still, as they are in the document.

    Args:
        frames: at least one; points [N,2] and paints' data [P,6], see
            `pds_cli.drawings.drawing.write_drawing`.
    """
    added: list[etree._Element] = []
    for shape in drawing.shapes:
        outlines = [path_data(points[shape.points], shape.outline) for points, _ in frames]
        _animate(shape.element, "d", outlines, added)
        if drawing.paints[shape.paint].rgb is not None and shape.element.get("fill"):
            colors = [hex_color(data[shape.paint, :3]) for _, data in frames]
            _animate(shape.element, "fill", colors, added)
    try:
        return etree.tostring(drawing.root, encoding="utf-8", xml_declaration=True)
    finally:
        for element in added:
            parent = element.getparent()
            if parent is not None:
                parent.remove(element)


def _animate(
    element: etree._Element, name: str, values: list[str], added: list[etree._Element]
) -> None:
    if len(set(values)) < 2:
        return
    child = etree.SubElement(element, SVG + "animate")
    child.set("attributeName", name)
    child.set("values", ";".join(values))
    child.set("dur", f"{SECONDS:g}s")
    child.set("fill", "freeze")
    added.append(child)
