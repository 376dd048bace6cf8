"""Style of an SVG document: style sheets, `style` and presentation attributes become attributes.

As in a browser a declaration that is not understood is ignored, so that the one behind it, what is
inherited, or the property's initial value applies; it is named in a warning.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

from pds_cli.drawings.cleaning import SVG, remove
from pds_cli.drawings.values import color, is_transform, length
from pds_cli.errors import UserError

INHERITED = {
    "color": "black", "fill": "black", "fill-opacity": "1", "fill-rule": "nonzero",
    "clip-rule": "nonzero", "stroke": "none", "stroke-opacity": "1", "stroke-width": "1",
    "stroke-linecap": "butt", "stroke-linejoin": "miter", "stroke-miterlimit": "4",
    "stroke-dasharray": "none", "stroke-dashoffset": "0", "visibility": "visible",
    "paint-order": "normal", "marker-start": "none", "marker-mid": "none", "marker-end": "none",
}  # fmt: skip
"""Properties that an element has from those around it, and what they are at first."""
_OWN = {
    "clip-path": "none", "display": "inline", "filter": "none", "mask": "none",
    "mix-blend-mode": "normal", "opacity": "1", "overflow": "hidden", "stop-color": "black",
    "stop-opacity": "1", "transform": "none", "vector-effect": "none",
}  # fmt: skip
PROPERTIES = {**INHERITED, **_OWN}
"""What a style sheet or a `style` attribute may set; the rest says nothing about what is drawn,
but for `_IGNORED`."""
_IGNORED = frozenset(
    ("animation", "animation-name", "background", "background-color", "background-image", "clip",
     "cx", "cy", "d", "mask-image", "offset-path", "r", "rotate", "rx", "ry", "scale",
     "transform-box", "transform-origin", "translate", "x", "y", "zoom")
)  # fmt: skip
_WORDS = {
    "fill-rule": ("nonzero", "evenodd"),
    "clip-rule": ("nonzero", "evenodd"),
    "stroke-linecap": ("butt", "round", "square"),
    "stroke-linejoin": ("miter", "round", "bevel"),
    "visibility": ("visible", "hidden", "collapse"),
    "overflow": ("visible", "hidden", "scroll", "auto", "clip"),
    "vector-effect": ("none", "non-scaling-stroke"),
}
_WIDE = frozenset(("inherit", "initial", "unset", "revert", "revert-layer"))
_URL = re.compile(r"url\(\s*['\"]?\s*#([^'\")]+?)\s*['\"]?\s*\)\s*(.*)", re.I | re.S)
_OUTSIDE = re.compile(r"url\(\s*['\"]?\s*(?!#|data:|['\")])", re.I)
_VAR = re.compile(r"var\(\s*(--[\w-]+)\s*(?:,([^()]*(?:\([^()]*\)[^()]*)*))?\)")
# Matching is refused where it could take minutes: selectors, times what each may have to look at.
_MOST_LOOKS = 50_000_000
_LONGEST_VALUE = 10_000
_TOO_MUCH_STYLE = "its style sheet is too large to match: simplify it"
_MOST_MATCHES = 500_000
_MOST_WARNINGS = 200


def remember(warnings: list[str], text: str) -> None:
    """Adds a sentence on a drawing, once, and while there are not too many to be read."""
    if len(warnings) < _MOST_WARNINGS and text not in warnings:
        warnings.append(text)


def reference(text: str) -> tuple[str, str] | None:
    """The id that `url(#id) fallback` names, and the fallback; None for another text."""
    match = _URL.match(text.strip())
    return (match[1], match[2].strip()) if match else None


# --- what is understood --------------------------------------------------------------------------


def understood(name: str, text: str) -> bool:
    """Can this value of a property be drawn?"""
    value = text.strip().lower()
    if value in _WIDE or (name not in PROPERTIES and name != "gradientTransform"):
        return True
    if name in _WORDS:
        return value in _WORDS[name]
    check = _CHECKS.get(name)
    return check is None or check(text.strip())


def _is_paint(text: str) -> bool:
    found = reference(text)
    rest = text if found is None else found[1] or "none"
    return rest.lower() == "none" or color(rest) is not None


def _is_length(text: str) -> bool:
    return length(text, 1.0, float("nan")) == length(text, 1.0, float("nan"))


def _is_dashes(text: str) -> bool:
    words = [w for w in re.split(r"[\s,]+", text) if w]
    return text == "none" or all(length(w, 1.0, -1.0) >= 0 for w in words)


def _is_painting_order(text: str) -> bool:
    words = text.lower().split()
    known = len(set(words)) == len(words) and set(words) <= {"fill", "stroke", "markers"}
    return text.lower() == "normal" or (bool(words) and known)


_CHECKS: dict[str, Callable[[str], bool]] = {
    "fill": _is_paint,
    "stroke": _is_paint,
    "color": lambda text: color(text) is not None,
    "stop-color": lambda text: color(text) is not None,
    "stroke-width": lambda text: length(text, 1.0, -1.0) >= 0,
    "stroke-miterlimit": lambda text: length(text, 1.0, -1.0) >= 1,
    "stroke-dasharray": _is_dashes,
    "paint-order": _is_painting_order,
    "transform": lambda text: text == "none" or is_transform(text),
    "gradientTransform": is_transform,
    **dict.fromkeys(
        ("fill-opacity", "stroke-opacity", "opacity", "stop-opacity", "stroke-dashoffset"),
        _is_length,
    ),
}


# --- the cascade ---------------------------------------------------------------------------------


@dataclass
class _Styles:
    """What is found on the way.

    warnings: sentences; outside: what would be fetched, as `cleaning.clean` counts it; custom:
    the custom properties that an element declares.
    """

    warnings: list[str]
    outside: Counter[str]
    custom: dict[etree._Element, dict[str, str]] = field(default_factory=dict)

    def warn(self, text: str) -> None:
        remember(self.warnings, text)

    def set(self, element: etree._Element, declared: dict[str, str]) -> None:
        for name, value in declared.items():
            if name.startswith("--"):
                self.custom.setdefault(element, {})[name] = value
            else:
                element.set(name, value)

    def accepts(self, name: str, value: str) -> bool:
        """Is a declaration understood? If not, says so."""
        if _OUTSIDE.search(value):
            self.outside[f"{name}={_short(value)}"] += 1
            return False
        if "var(" in value.lower() or understood(name, value):
            return True
        self.warn(f"{name}: {_short(value)} is not understood, and ignored")
        return False


def apply_styles(root: etree._Element, warnings: list[str], outside: Counter[str]) -> None:
    """Writes what style sheets and `style` attributes say as plain attributes.

    Afterwards every attribute that is a property is understood, none says `inherit`, `initial` or
    `var()`, and stops and clip paths have what they inherit from where they are.

    Args:
        warnings: takes sentences on what is ignored.
        outside: takes what would be fetched: `@import`, and `url()` of other files.
    """
    styles = _Styles(warnings, outside)
    for element in root.iter():
        for name in [n for n in element.attrib if n in PROPERTIES or n == "gradientTransform"]:
            if not styles.accepts(str(name), element.attrib[name]):
                del element.attrib[name]
        for key in ("transform-origin", "transform-box"):
            if element.get(key):
                styles.warn(f"{key} is ignored")
    sheets = _matches(root, styles)
    inline = []
    for element in root.iter():
        if element.get("style"):
            # The picture's own size may be said here too, which its proportions do not need.
            ignored = _IGNORED if element is root else _IGNORED | {"width", "height"}
            inline.append((element, _declarations(element.attrib.pop("style"), styles, ignored)))
    for found in (sheets, inline):
        for element, (normal, _) in found:
            styles.set(element, normal)
    for found in (sheets, inline):
        for element, (_, important) in found:
            styles.set(element, important)
    for element in root.iter():
        _compute(element, styles)
    for element in [e for e in root.iter(SVG + "stop", SVG + "clipPath")]:
        _take_from_around(element)


_Declared = tuple[dict[str, str], dict[str, str]]


def _matches(root: etree._Element, styles: _Styles) -> list[tuple[etree._Element, _Declared]]:
    """What style sheets say of which elements, the weakest first."""
    import cssselect2

    matcher, looks = cssselect2.Matcher(), 0
    count, depth = _extent(root)
    for selectors, declared in _rules(root, styles):
        for selector, combinators in selectors:
            hashed = selector.id or selector.class_name or selector.local_name
            if combinators or not hashed:
                looks += count * depth ** min(combinators, 12)
            if looks > _MOST_LOOKS:
                raise UserError(_TOO_MUCH_STYLE)
            if selector.pseudo_element is None:
                matcher.add_selector(selector, declared)
    for sheet in list(root.iter(SVG + "style")):
        remove(sheet)
    if not matcher.order:
        return []
    found = []
    for item in cssselect2.ElementWrapper.from_xml_root(root).iter_subtree():
        for *_, declared in sorted(matcher.match(item), key=lambda match: match[:2]):
            found.append((item.etree_element, declared))
        if len(found) > _MOST_MATCHES:
            raise UserError(_TOO_MUCH_STYLE)
    return found


def _extent(root: etree._Element) -> tuple[int, int]:
    """How many elements there are, and how deep the deepest lies."""
    count, deepest, waiting = 0, 1, [(root, 1)]
    while waiting:
        element, depth = waiting.pop()
        count, deepest = count + 1, max(deepest, depth)
        waiting += [(child, depth + 1) for child in element]
    return count, deepest


def _rules(
    root: etree._Element, styles: _Styles
) -> Iterator[tuple[list[tuple[Any, int]], _Declared]]:
    """The rules of all style sheets: selectors with their count of combinators, declarations."""
    import cssselect2
    import tinycss2

    for sheet in root.iter(SVG + "style"):
        if sheet.get("type", "text/css").strip().lower() not in ("", "text/css"):
            styles.warn(f"a style sheet of type {sheet.get('type')!r} is ignored")
            continue
        if sheet.get("media", "").strip().lower() not in ("", "all", "screen"):
            styles.warn(f"a style sheet for {sheet.get('media')!r} is ignored")
            continue
        for rule in tinycss2.parse_stylesheet(sheet.text or "", True, True):
            if rule.type == "at-rule":
                _at_rule(rule, styles)
            if rule.type != "qualified-rule":
                if rule.type == "error":
                    styles.warn("a part of its style sheet is not understood, and ignored")
                continue
            declared = _declarations(rule.content, styles)
            try:
                compiled = cssselect2.compile_selector_list(rule.prelude)
            except cssselect2.SelectorError:
                text = _short(tinycss2.serialize(rule.prelude))
                styles.warn(f"the selector {text} is not understood, and ignored")
                continue
            combinators = _combinators(rule.prelude)
            yield [(selector, combinators) for selector in compiled], declared


def _combinators(tokens: list[Any]) -> int:
    """How many steps through the tree the longest selector of a list may take."""
    most = count = 0
    for token in tokens:
        inside = getattr(token, "arguments", None) or getattr(token, "content", None)
        if inside:
            count += _combinators(inside) + 1
        elif token.type == "literal" and token.value == ",":
            most, count = max(most, count), 0
        elif token.type == "whitespace" or (token.type == "literal" and token.value in ">+~:"):
            count += 1
    return max(most, count)


def _at_rule(rule: Any, styles: _Styles) -> None:
    import tinycss2

    if rule.lower_at_keyword == "import":
        styles.outside[f"@import {_short(tinycss2.serialize(rule.prelude))}"] += 1
    elif rule.lower_at_keyword not in ("charset", "namespace"):
        if _OUTSIDE.search(tinycss2.serialize(rule.content or [])):
            styles.outside[f"url() in @{rule.lower_at_keyword}"] += 1
        styles.warn(f"@{rule.lower_at_keyword} in its style sheet is ignored")


def _declarations(source: Any, styles: _Styles, ignored: frozenset[str] = _IGNORED) -> _Declared:
    """A block's declarations that are understood, without and with `!important`."""
    import tinycss2

    found: _Declared = ({}, {})
    for item in tinycss2.parse_blocks_contents(source, True, True):
        if item.type in ("error", "qualified-rule"):
            styles.warn("a part of a style is not understood, and ignored")
        if item.type != "declaration":
            continue
        value = tinycss2.serialize(item.value).strip()
        if item.name.startswith("--"):
            found[bool(item.important)][item.name] = value[:_LONGEST_VALUE]
            continue
        name = item.lower_name
        if _OUTSIDE.search(value):
            styles.outside[f"{name}={_short(value)}"] += 1
            continue
        if name in ignored:
            styles.warn(f"{name} in a style is ignored")
        for each in ("marker-start", "marker-mid", "marker-end") if name == "marker" else (name,):
            if each in PROPERTIES and styles.accepts(each, value):
                found[bool(item.important)].pop(each, None)
                found[bool(item.important)][each] = value
    return found


# --- computed values -----------------------------------------------------------------------------


def _compute(element: etree._Element, styles: _Styles) -> None:
    """Resolves `var()` and the keywords that every property has; parents come first."""
    parent = element.getparent()
    around = styles.custom.get(parent, {}) if parent is not None else {}
    if around or element in styles.custom:
        own = styles.custom.get(element)
        styles.custom[element] = {**around, **own} if own else around
    for name in [n for n in element.attrib if n in PROPERTIES]:
        value = element.attrib[name]
        if "var(" in value.lower():
            text = _substituted(value, styles.custom.get(element, {}))
            if text is None or not styles.accepts(str(name), text):
                if text is None:
                    styles.warn(f"{name}: {_short(value)} is not understood, and ignored")
                del element.attrib[name]
                continue
            element.set(name, text)
            value = text
        word = value.strip().lower()
        if word in _WIDE:
            del element.attrib[name]
            if word == "initial" and name in INHERITED:
                element.set(name, INHERITED[str(name)])
            elif word == "inherit" and name in _OWN and parent is not None and parent.get(name):
                element.set(name, parent.get(name, ""))
        elif name in _WORDS or word in ("none", "normal"):
            element.set(name, word)


def _substituted(text: str, custom: dict[str, str]) -> str | None:
    """A value without `var()`; None where a variable is missing, or they never end."""
    for _ in range(50):
        match = _VAR.search(text)
        if match is None:
            return None if "var(" in text.lower() else text.strip()
        value = custom.get(match[1], match[2])
        if value is None or len(text) > _LONGEST_VALUE:
            return None
        text = text[: match.start()] + value + text[match.end() :]
    return None


def _take_from_around(element: etree._Element) -> None:
    """Gives a stop its `currentColor`, and a clip path what it inherits from where it lies."""
    lines = (element, *element.iterancestors())
    if element.tag == SVG + "clipPath":
        for name in ("clip-rule", "visibility"):
            value = next((e.get(name) for e in lines if e.get(name)), None)
            if value:
                element.set(name, value)
    elif element.get("stop-color", "").strip().lower() == "currentcolor":
        words = (e.get("color", "").strip() for e in lines)
        found = next((w for w in words if w and w.lower() != "currentcolor"), "black")
        element.set("stop-color", found)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 40 else text[:39] + "…")
