"""Reading an SVG file safely, and bringing it into a form in which drawing it is simple.

After `read_document` every element carries its own declarations as attributes (style sheets and
`style` are merged into them), and every `use` is a group with a copy of what it named.
"""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path
from typing import Any

from lxml import etree

from pds_cli.errors import UserError

SVG = "{http://www.w3.org/2000/svg}"
XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
MAX_BYTES = 16 * 2**20
MAX_ELEMENTS = 50_000
MAX_STYLE_SECONDS = 20  # of this process
# What a style sheet or a `style` attribute may set; everything else in them is dropped.
PROPERTIES = frozenset(
    [
        "clip-path",
        "clip-rule",
        "color",
        "display",
        "fill",
        "fill-opacity",
        "fill-rule",
        "filter",
        "marker-end",
        "marker-mid",
        "marker-start",
        "mask",
        "mix-blend-mode",
        "opacity",
        "overflow",
        "paint-order",
        "stop-color",
        "stop-opacity",
        "stroke",
        "stroke-dasharray",
        "stroke-dashoffset",
        "stroke-linecap",
        "stroke-linejoin",
        "stroke-miterlimit",
        "stroke-opacity",
        "stroke-width",
        "transform",
        "vector-effect",
        "visibility",
    ]
)


def read_document(path: str | os.PathLike[str]) -> etree._Element:
    """The root of a file, normalised as the module says.

    No entity is expanded, no other file is read and nothing is fetched.

    Raises:
        UserError: no such file, over `MAX_BYTES`, not XML, not SVG, entities, or more than
            `MAX_ELEMENTS` elements once every `use` is a copy.
    """
    path = Path(path).expanduser()
    return parse_document(_read(path), str(path))


def parse_document(text: bytes, path: str) -> etree._Element:
    """The same for a document in memory; `path` is what errors call it."""
    root = _parse(text, path)
    if root.tag != SVG + "svg":
        if root.tag != "svg":
            raise UserError(f"{path} is XML, but its root is <{root.tag}>, not <svg>")
        _adopt(root)
    for node in list(root.iter()):
        if not isinstance(node.tag, str):  # comments and processing instructions
            _remove(node)
    try:
        _apply_styles(root, path)
        _resolve_uses(root, path)
    except RecursionError as error:
        raise UserError(f"{path} is nested too deep in its styles: simplify the drawing") from error
    return root


def href(element: etree._Element) -> str | None:
    """The id that an element refers to within its document, if it does."""
    target = element.get("href", element.get(XLINK_HREF, "")).strip()
    return target[1:] if target.startswith("#") else None


def by_id(root: etree._Element) -> dict[str, etree._Element]:
    """The elements that have an id; of two with the same one, the first."""
    found: dict[str, etree._Element] = {}
    for element in root.iter():
        found.setdefault(element.get("id", ""), element)
    found.pop("", None)
    return found


def local(element: etree._Element) -> str:
    """An element's name, "" for one of another vocabulary."""
    tag = element.tag
    return tag[len(SVG) :] if isinstance(tag, str) and tag.startswith(SVG) else ""


# --- parsing -------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    if not path.exists():
        raise UserError(f"no such file: {path}")
    if not path.is_file():
        raise UserError(f"{path} is not a file: name an SVG file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(
            f"{path} has {size / 2**20:.0f} MiB; drawings of up to {MAX_BYTES // 2**20} MiB are "
            "read: simplify it or leave out embedded pictures"
        )
    return path.read_bytes()


def _parse(text: bytes, path: str) -> etree._Element:
    # Neither a DTD nor an entity is loaded, and libxml2's limits on depth and size stay.
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    try:
        tree = etree.fromstring(text, parser).getroottree()
    except (etree.XMLSyntaxError, ValueError) as error:
        raise UserError(f"{path} is not a readable SVG file: {error}") from error
    dtd = tree.docinfo.internalDTD
    if dtd is not None and any(True for _ in dtd.iterentities()):
        raise UserError(
            f"{path} defines XML entities, which are not read for safety's sake: open it in a "
            "drawing program and save it as plain SVG"
        )
    return tree.getroot()


def _adopt(root: etree._Element) -> None:
    """Gives the SVG namespace to a file that forgot it."""
    for element in root.iter():
        if isinstance(element.tag, str) and not element.tag.startswith("{"):
            element.tag = SVG + element.tag


def _remove(node: etree._Element) -> None:
    """Takes a node out of its tree, and nothing beside it."""
    parent = node.getparent()
    if parent is not None:
        node.tail = None
        parent.remove(node)


# --- style sheets --------------------------------------------------------------------------------


def _apply_styles(root: etree._Element, path: str) -> None:
    """Writes what style sheets and `style` attributes say as plain attributes.

    Raises:
        UserError: the rules take more than `MAX_STYLE_SECONDS`, as thousands of them can.
    """
    import cssselect2
    import tinycss2

    matcher = cssselect2.Matcher()
    sheets = [e for e in root.iter(SVG + "style") if e.get("type", "text/css") == "text/css"]
    for sheet in sheets:
        rules = tinycss2.parse_stylesheet(sheet.text or "", True, True)
        for rule in (r for r in rules if r.type == "qualified-rule"):
            try:
                selectors = cssselect2.compile_selector_list(rule.prelude)
            except cssselect2.SelectorError:
                continue
            declared = _declarations(rule.content)
            for selector in selectors:
                if selector.pseudo_element is None:
                    matcher.add_selector(selector, declared)
    rules_exist = bool(matcher.order)
    wrapped = cssselect2.ElementWrapper.from_xml_root(root) if rules_exist else None
    started = time.process_time()
    for item in wrapped.iter_subtree() if wrapped is not None else []:
        if time.process_time() - started > MAX_STYLE_SECONDS:
            raise UserError(
                f"{path} has style sheets that take more than {MAX_STYLE_SECONDS} seconds to "
                "apply: write what they say as attributes"
            )
        for *_, declared in sorted(matcher.match(item), key=lambda match: match[:2]):
            _set(item.etree_element, declared)
    for element in root.iter():
        if element.get("style"):
            _set(element, _declarations(element.get("style")))
            del element.attrib["style"]
    for sheet in list(root.iter(SVG + "style")):
        _remove(sheet)


def _declarations(source: Any) -> dict[str, str]:
    import tinycss2

    found: dict[str, str] = {}
    parsed = tinycss2.parse_blocks_contents(source, True, True)
    # `!important` wins within a block; between blocks it is rare enough to be left out.
    for d in sorted(
        (d for d in parsed if d.type == "declaration"), key=lambda d: bool(d.important)
    ):
        if d.lower_name in PROPERTIES:
            found[d.lower_name] = tinycss2.serialize(d.value).strip()
    return found


def _set(element: etree._Element, declared: dict[str, str]) -> None:
    for name, value in declared.items():
        element.set(name, value)


# --- use -----------------------------------------------------------------------------------------


def _resolve_uses(root: etree._Element, path: str) -> None:
    ids, taken = by_id(root), set(by_id(root))
    count = sum(1 for _ in root.iter())
    # Copies can hold uses again; `inside` says from which ids a copy comes, to see circles.
    waiting = [(use, frozenset[str]()) for use in root.iter(SVG + "use")]
    while True:
        if count > MAX_ELEMENTS:
            raise UserError(
                f"{path} has more than {MAX_ELEMENTS} elements"
                f"{' once what it uses is copied' if taken else ''}: simplify the drawing"
            )
        if not waiting:
            return
        use, inside = waiting.pop()
        name = href(use)
        target = ids.get(name) if name else None
        circular = name in inside or any(a is target for a in use.iterancestors())
        if target is None or circular or target is use:
            _remove(use)
            continue
        copied = _expand(use, target, taken)
        count += sum(1 for _ in copied.iter())
        waiting += [(inner, inside | {str(name)}) for inner in copied.iter(SVG + "use")]


def _expand(use: etree._Element, target: etree._Element, taken: set[str]) -> etree._Element:
    """Turns a `use` into a group around a copy of its target; returns the copy."""
    content = copy.deepcopy(target)
    content.tail = None
    for element in content.iter():
        if element.get("id"):
            element.set("id", fresh_id(element.get("id"), taken))
    # A copied gradient or clip is found under its old name: the original is still there.
    for name in ("href", XLINK_HREF):
        use.attrib.pop(name, None)
    x, y = use.attrib.pop("x", "0"), use.attrib.pop("y", "0")
    width, height = use.attrib.pop("width", None), use.attrib.pop("height", None)
    if local(content) in ("symbol", "svg"):
        content.tag = SVG + "svg"
        for name, value in (("width", width), ("height", height)):
            if value is not None:
                content.set(name, value)
    for child in list(use):
        use.remove(child)
    use.tag = SVG + "g"
    if x not in ("0", "") or y not in ("0", ""):
        shift = f"translate({_plain(x)} {_plain(y)})"
        use.set("transform", f"{use.get('transform', '')} {shift}".strip())
    use.append(content)
    return content


def _plain(text: str) -> str:
    from pds_cli.representations.svg.values import length

    return repr(length(text or "0"))


def fresh_id(name: str, taken: set[str]) -> str:
    """An id nobody has, made from one that somebody has."""
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    taken.add(f"{name}-{number}")
    return f"{name}-{number}"
