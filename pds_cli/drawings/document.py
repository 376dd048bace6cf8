"""Reading an SVG file safely, and bringing it into a form in which drawing it is simple.

After `read_document` every element carries its own declarations as attributes (style sheets and
`style` are merged into them), and every `use` is a group with a copy of what it named.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

from lxml import etree

from pds_cli.drawings.cleaning import SVG, XLINK_HREF, clean, named, remove
from pds_cli.drawings.styles import apply_styles, remember
from pds_cli.drawings.values import length, view_box
from pds_cli.errors import UserError

MAX_BYTES = 16 * 2**20
MAX_ELEMENTS = 50_000
# Characters of all attributes once every `use` is a copy.
_MOST_TEXT = 2 * MAX_BYTES
_DEEPEST = 400


def read_document(path: str | os.PathLike[str]) -> tuple[etree._Element, list[str]]:
    """The root of a file, normalised as the module says, and what was left out of it.

    No entity is expanded, no other file is read and nothing is fetched.

    Raises:
        UserError: no such file, over `MAX_BYTES`, not XML, not SVG, entities, nested too deep, or
            more than `MAX_ELEMENTS` elements once every `use` is a copy.
    """
    return parse_document(_read(os.fspath(path)), os.fspath(path))


def parse_document(text: bytes, path: str) -> tuple[etree._Element, list[str]]:
    """The same for a document in memory; `path` is what errors call it."""
    root = _parse(text, path)
    if root.tag != SVG + "svg":
        if root.tag != "svg":
            raise UserError(f"{path} is XML, but its root is <{root.tag}>, not <svg>")
        _adopt(root)
    if sum(1 for _ in root.iter()) > MAX_ELEMENTS:
        raise UserError(f"{path} has more than {MAX_ELEMENTS} elements: simplify the drawing")
    warnings: list[str] = []
    try:
        removed = clean(root)
        apply_styles(root, warnings, removed)
        _remove_groups_in_clips(root, warnings)
        _resolve_uses(root, path, warnings)
    except RecursionError as error:
        raise UserError(f"{path} is nested too deep: simplify the drawing") from error
    except UserError as error:
        said = str(error)
        raise UserError(said if said.startswith(path) else f"{path}: {said}") from error
    if removed:
        warnings.insert(0, f"removed, as a browser would run or fetch it: {named(removed)}")
    return root, warnings


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


def _read(name: str) -> bytes:
    try:
        return _bytes(Path(name).expanduser())
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name!r} can not be read: {reason}") from error


def _bytes(path: Path) -> bytes:
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


# --- use -----------------------------------------------------------------------------------------


def _remove_groups_in_clips(root: etree._Element, warnings: list[str]) -> None:
    """Takes away groups that clip paths may not have, before uses become groups."""
    for clip in root.iter(SVG + "clipPath"):
        for child in [c for c in clip if local(c) in ("g", "svg", "a", "switch", "symbol")]:
            remember(warnings, f"<{local(child)}> in a clipPath clips nothing, and is left out")
            remove(child)


def _resolve_uses(root: etree._Element, path: str, warnings: list[str]) -> None:
    ids = by_id(root)
    taken = dict.fromkeys(ids, 2)
    whole = _whole(root)
    count, text = _amount(root)
    # Copies can hold uses again; `inside` says from which ids a copy comes, to see circles.
    waiting = [(use, frozenset[str]()) for use in root.iter(SVG + "use")]
    while True:
        if count > MAX_ELEMENTS or text > _MOST_TEXT:
            much = (
                f"{MAX_ELEMENTS} elements" if count > MAX_ELEMENTS else f"{_MOST_TEXT} characters"
            )
            raise UserError(
                f"{path} has more than {much} once what it uses is copied: simplify the drawing"
            )
        if not waiting:
            return
        use, inside = waiting.pop()
        name = href(use)
        target = ids.get(name) if name else None
        around = list(use.iterancestors())
        if len(around) > _DEEPEST:
            raise UserError(f"{path} is nested too deep: simplify the drawing")
        in_clip = bool(around) and local(around[0]) == "clipPath"
        if target is None or name in inside or target is use or target in around:
            what = "what holds it" if target is not None else "what is not there"
            if name:
                remember(warnings, f"<use> of {name!r} is left out: it names {what}")
            remove(use)
        elif in_clip and local(target) in ("g", "svg", "symbol", "a", "switch"):
            remove(use)  # a clip path shows no groups
        else:
            more = _amount(target)
            count, text = count + more[0], text + more[1]
            if count <= MAX_ELEMENTS and text <= _MOST_TEXT:
                copied = _expand(use, target, taken, whole)
                waiting += [(inner, inside | {str(name)}) for inner in copied.iter(SVG + "use")]


def _amount(element: etree._Element) -> tuple[int, int]:
    """How many elements there are, and how many characters in their attributes."""
    count = text = 0
    for inner in element.iter():
        count += 1
        text += sum(len(value) for value in inner.attrib.values())
    return count, text


def _whole(root: etree._Element) -> tuple[float, float]:
    """What percentages of a `use` are of: the width and height that are shown."""
    box = view_box(root.get("viewBox"))
    if box is not None:
        return box[2], box[3]
    return length(root.get("width"), 300.0, 300.0), length(root.get("height"), 150.0, 150.0)


def _expand(
    use: etree._Element,
    target: etree._Element,
    taken: dict[str, int],
    whole: tuple[float, float],
) -> etree._Element:
    """Turns a `use` into a group around a copy of its target; returns the copy."""
    content = copy.deepcopy(target)
    content.tail = None
    for element in content.iter():
        if element.get("id"):
            element.set("id", fresh_id(element.get("id", ""), taken))
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
    shift = length(x, whole[0]), length(y, whole[1])
    if shift != (0.0, 0.0):
        moved = f"translate({shift[0]!r} {shift[1]!r})"
        use.set("transform", f"{use.get('transform', '')} {moved}".strip())
    use.append(content)
    return content


def fresh_id(name: str, taken: dict[str, int]) -> str:
    """An id nobody has, made from one that somebody has.

    Args:
        taken: all ids, each with the number that is tried first for its next copy.
    """
    number = taken.get(name, 2)
    while f"{name}-{number}" in taken:
        number += 1
    taken[name] = number + 1
    taken[f"{name}-{number}"] = 2
    return f"{name}-{number}"
