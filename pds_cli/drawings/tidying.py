"""What is left of a document once it was walked through: what was drawn, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lxml import etree

from pds_cli.drawings.cleaning import XLINK_HREF, is_record, remove
from pds_cli.drawings.document import SVG, local
from pds_cli.drawings.values import ratio

# What is written besides: attributes of these say nothing that is drawn, and run nothing.
_KEPT = frozenset(("id", "class", "lang", "role"))
_KEPT_OF = {
    "svg": ("width", "height", "viewBox", "preserveAspectRatio", "version", "opacity", "clip-path"),
    "g": ("opacity", "clip-path"),
    "a": ("opacity", "clip-path", "href", XLINK_HREF, "target"),
    "path": ("d", "opacity", "clip-path", "clip-rule", "fill", "fill-opacity", "fill-rule",
             "stroke"),
    "clipPath": ("clip-path",),
    "linearGradient": ("x1", "y1", "x2", "y2", "gradientUnits", "gradientTransform",
                       "spreadMethod"),
    "radialGradient": ("cx", "cy", "r", "fx", "fy", "fr", "gradientUnits", "gradientTransform",
                       "spreadMethod"),
    "stop": ("offset", "stop-color", "stop-opacity"),
}  # fmt: skip
_KEPT_QUALIFIED = frozenset(
    (
        "{http://www.w3.org/XML/1998/namespace}lang",
        "{http://www.inkscape.org/namespaces/inkscape}label",
        "{http://www.inkscape.org/namespaces/inkscape}groupmode",
    )
)


def tidy(
    root: etree._Element,
    drawn: set[etree._Element],
    used: Mapping[str, Sequence[etree._Element]],
) -> None:
    """Leaves in the document what was drawn, and nothing that could change how it looks.

    Shapes say themselves all that they inherited, so that groups say nothing. Definitions
    that nobody uses go, and what is kept of attributes is listed in `_KEPT_OF`.

    Args:
        drawn: the elements of shapes.
        used: id → the definition of that id and its copies.
    """
    kept = {e for found in used.values() for e in found}
    _gather(root, used)
    waiting = [root]
    while waiting:
        element = waiting.pop()
        _forget_attributes(element)
        for child in list(element):
            name = local(child)
            if name in ("title", "desc"):
                _only_text(child)
            elif name == "metadata":
                _only_records(child)
            elif child in drawn or name in ("g", "a", "defs", "stop") or child in kept:
                waiting.append(child)
            else:
                remove(child)
    for defs in list(root.iter(SVG + "defs")):
        # Groups in it are of templates, and the drawing's own definitions may be in them.
        for element in reversed(list(defs.iter(SVG + "defs", SVG + "g", SVG + "a"))):
            if len(element) == 0:
                remove(element)


def _gather(root: etree._Element, used: Mapping[str, Sequence[etree._Element]]) -> None:
    """Brings definitions that are used out of what is left out."""
    homeless = []
    for found in used.values():
        for element in found:
            around = list(element.iterancestors())
            names = [local(e) for e in around]
            while names and names[0] in ("g", "a"):
                names.pop(0)
            at_home = around and around[-1] is root and names in (["svg"], ["defs", "svg"])
            if not at_home:
                homeless.append(element)
    if homeless:
        defs = etree.Element(SVG + "defs")
        root.insert(0, defs)
        for element in homeless:
            element.tail = None
            defs.append(element)


def _forget_attributes(element: etree._Element) -> None:
    kept = _KEPT.union(_KEPT_OF.get(local(element), ()))
    for key in list(element.attrib):
        name = str(key)
        plain = name in kept or name.startswith(("aria-", "data-")) or name in _KEPT_QUALIFIED
        if not plain:
            del element.attrib[name]
    for name in ("opacity", "fill-opacity"):
        if element.get(name) is not None and ratio(element.get(name)) == 1:
            del element.attrib[name]


def _only_text(element: etree._Element) -> None:
    text = "".join(element.itertext())
    for child in list(element):
        element.remove(child)
    element.text = text
    element.attrib.clear()


def _only_records(element: etree._Element) -> None:
    """Leaves in `metadata` what says whose a drawing is, and its licence."""
    for child in list(element):
        if is_record(child):
            for inner in list(child.iter()):
                if not is_record(inner):
                    remove(inner)
        else:
            remove(child)
    element.attrib.clear()
