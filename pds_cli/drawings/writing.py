"""From a drawing back to an SVG file."""

from __future__ import annotations

import numpy as np
from lxml import etree

from pds_cli.drawings.document import SVG, local
from pds_cli.drawings.drawing import Drawing, Paint
from pds_cli.drawings.outline import path_data
from pds_cli.drawings.values import IDENTITY, hex_color, number
from pds_cli.kernels import raster


def write_drawing(
    drawing: Drawing,
    points: np.ndarray,
    data: np.ndarray,
    stops: list[np.ndarray],
    opacities: np.ndarray,
    groups: np.ndarray,
) -> bytes:
    """The drawing as SVG with these numbers.

    Args:
        points: [N,2]; data: [P,6] of the paints; stops: [K,5] of each paint, empty for colours;
        opacities: [S] of the shapes; groups: [G] of the groups.
    """
    root = drawing.root
    for index, shape in enumerate(drawing.shapes):
        shape.element.set("d", path_data(points[shape.points], shape.outline))
        inside_clip = any(local(a) == "clipPath" for a in shape.element.iterancestors())
        if inside_clip:
            continue
        if drawing.paints[shape.paint].rgb is not None:
            shape.element.set("fill", hex_color(data[shape.paint, :3]))
        _set_ratio(shape.element, "fill-opacity", opacities[index])
    for (element, _), value in zip(drawing.groups, groups, strict=True):
        if element is not None:
            _set_ratio(element, "opacity", value)
    for paint, numbers_, found in zip(drawing.paints, data, stops, strict=True):
        if paint.gradient is not None:
            _write_gradient(paint, numbers_, found)
    etree.cleanup_namespaces(root)
    return etree.tostring(root, encoding="utf-8", xml_declaration=True)


def _set_ratio(element: etree._Element, name: str, value: float) -> None:
    text = number(float(value))
    if text == "1":
        element.attrib.pop(name, None)
    else:
        element.set(name, text)


def _write_gradient(paint: Paint, data: np.ndarray, stops: np.ndarray) -> None:
    element, gradient = paint.element, paint.gradient
    assert element is not None and gradient is not None
    linear = gradient.kind == raster.LINEAR
    names = ("x1", "y1", "x2", "y2") if linear else ("cx", "cy", "r", "fx", "fy", "fr")
    for name in [n for n in element.attrib if str(n).endswith("href")]:
        del element.attrib[name]
    for name, value in zip(names, data, strict=False):
        element.set(name, number(float(value)))
    element.set("gradientUnits", "userSpaceOnUse")
    spread = {raster.PAD: "pad", raster.REFLECT: "reflect", raster.REPEAT: "repeat"}
    element.set("spreadMethod", spread[gradient.spread])
    element.attrib.pop("gradientTransform", None)
    if not np.array_equal(gradient.matrix, IDENTITY):
        matrix = " ".join(number(float(v), 6) for v in gradient.matrix.T.ravel())
        element.set("gradientTransform", f"matrix({matrix})")
    for child in list(element):
        element.remove(child)
    for offset, red, green, blue, alpha in stops:
        stop = etree.SubElement(element, SVG + "stop")
        stop.set("offset", number(float(offset)))
        stop.set("stop-color", hex_color((red, green, blue)))
        _set_ratio(stop, "stop-opacity", alpha)
