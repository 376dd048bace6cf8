"""Taking out of an SVG document what a browser would run or fetch."""

from __future__ import annotations

import re
from collections import Counter

from lxml import etree

SVG = "{http://www.w3.org/2000/svg}"
XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
XML_BASE = "{http://www.w3.org/XML/1998/namespace}base"
# Vocabularies that say where a drawing is from; nothing of them is ever run.
_RECORDS = (
    "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}",
    "{http://creativecommons.org/ns#}",
    "{http://web.resource.org/cc/}",
    "{http://purl.org/dc/elements/1.1/}",
    "{http://purl.org/dc/terms/}",
)
_EDITORS = (
    "{http://www.inkscape.org/namespaces/inkscape}",
    "{http://sodipodi.sourceforge.net/DTD/sodipodi-0.dtd}",
)
_ACTIVE = frozenset(
    ("script", "handler", "listener", "foreignobject", "iframe", "object", "embed", "audio",
     "video", "canvas", "prefetch", "link", "meta", "base", "form")
)  # fmt: skip
_ANIMATIONS = frozenset(
    ("animate", "set", "animatemotion", "animatetransform", "animatecolor", "animation")
)
_SAFE_SCHEMES = ("http", "https", "mailto")
_MOST_NAMED = 12


def clean(root: etree._Element) -> Counter[str]:
    """Removes scripts, event attributes, links that run or fetch, and what is not SVG.

    Comments and processing instructions go as well; elements of RDF within `metadata` stay.

    Returns:
        What was removed that a browser would run or fetch, by name, with how often it was there.
    """
    found: Counter[str] = Counter()
    for node in [*root.itersiblings(preceding=True), *root.itersiblings(), *root.iter(etree.PI)]:
        if isinstance(node, etree._ProcessingInstruction) and node.target == "xml-stylesheet":
            found["<?xml-stylesheet?>"] += 1
    for node in list(root.iter(etree.Comment, etree.PI, etree.Entity)):
        remove(node)
    _clean_elements(root, found)
    for element in root.iter():
        _clean_attributes(element, found)
    return found


def named(found: Counter[str]) -> str:
    """The names of what `clean` removed, as a list in words."""
    words = [f"{name} ({count}×)" if count > 1 else name for name, count in found.items()]
    more = len(words) - _MOST_NAMED
    return ", ".join(words[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def is_record(element: etree._Element) -> bool:
    """Does this element belong to a vocabulary of licences and authors?"""
    return str(element.tag).startswith(_RECORDS)


def _clean_elements(root: etree._Element, found: Counter[str]) -> None:
    waiting = [root]
    while waiting:
        for child in list(waiting.pop()):
            name = etree.QName(child).localname
            foreign = not str(child.tag).startswith((SVG, *_RECORDS, *_EDITORS))
            if foreign or name.lower() in _ACTIVE or _animates_a_link(child):
                found[f"<{name}>"] += 1
                remove(child)
            else:
                waiting.append(child)


def _animates_a_link(element: etree._Element) -> bool:
    """Is this an animation of a link or an event, which would put back what is removed?"""
    if etree.QName(element).localname.lower() not in _ANIMATIONS:
        return False
    target = element.get("attributeName", "").strip().lower().rpartition(":")[2]
    return target == "href" or target.startswith("on")


def _clean_attributes(element: etree._Element, found: Counter[str]) -> None:
    own = etree.QName(element).localname
    for key, value in list(element.attrib.items()):
        name = etree.QName(key).localname.lower()
        if name.startswith("on") or key == XML_BASE:
            found["xml:base" if key == XML_BASE else name] += 1
        elif name in ("href", "src") and not _is_safe_link(own, value):
            found[f"{name}={_short(value)}"] += 1
        else:
            continue
        del element.attrib[key]


def _is_safe_link(element: str, value: str) -> bool:
    """A link within the document, or one of `a` to a page.

    Browsers skip control characters, spaces and case where they look for a scheme, so any word
    before a colon has to be one of `_SAFE_SCHEMES`.
    """
    text = re.sub(r"[\s\x00-\x20\x7f-\xa0\u200b-\u200f\u2028-\u202e\ufeff]+", "", value).lower()
    if text.startswith("#") or not text:
        return True
    if element == "image" and text.startswith("data:image/"):
        return True  # it is not drawn, and goes with a warning of its own
    scheme = re.match(r"[^/?#]*:", text)
    return element == "a" and (scheme is None or scheme[0][:-1] in _SAFE_SCHEMES)


def _short(value: str) -> str:
    text = " ".join(value.split())
    return repr(text if len(text) <= 40 else text[:39] + "…")


def remove(node: etree._Element) -> None:
    """Takes a node out of its tree, and nothing beside it."""
    parent = node.getparent()
    if parent is None:
        return
    tail, before = node.tail, node.getprevious()
    parent.remove(node)
    if tail and tail.strip():
        if before is None:
            parent.text = (parent.text or "") + tail
        else:
            before.tail = (before.tail or "") + tail
