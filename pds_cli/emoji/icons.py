"""Open icon sets as npm packages lay them out, and the names that Unicode gives to icons.

The folder is an npm prefix: `node_modules` with the packages of `PACKAGES`. `make icons` fills it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pds_cli.errors import UserError
from pds_cli.reading import MAX_BYTES, read_json, read_text

PACKAGES = {
    "twemoji": "@twemoji/svg",
    "noto": "@iconify-json/noto",
    "fluent": "@iconify-json/fluent-emoji-flat",
    "names": "emojibase-data",
}
SETS = ("twemoji", "noto", "fluent")
# Unicode's subgroups of which all icons are taken, and single ones of others.
_SUBGROUPS = (
    "face-smiling face-affection face-tongue face-hat face-glasses face-costume "
    "cat-face heart animal-mammal animal-bird animal-amphibian animal-reptile "
    "animal-marine animal-bug plant-flower plant-other food-fruit food-vegetable "
    "food-sweet drink sky-weather"
)
SUBGROUPS = tuple(_SUBGROUPS.split())
_NAMES = (
    "monkey face; thinking face; neutral face; sleeping face; crying face; angry face; "
    "frowning face; astonished face; bread; croissant; pretzel; pancakes; cheese wedge; "
    "hamburger; french fries; pizza; hot dog; taco; egg; popcorn; sushi; house; castle; "
    "school; hospital; locomotive; train; bus; ambulance; fire engine; police car; "
    "taxi; automobile; pickup truck; delivery truck; tractor; racing car; motorcycle; "
    "bicycle; stop sign; anchor; sailboat; ship; airplane; helicopter; rocket; flying "
    "saucer; jack-o-lantern; christmas tree; balloon; wrapped gift; ribbon; soccer "
    "ball; baseball; basketball; volleyball; american football; glasses; sunglasses; "
    "necktie; t-shirt; jeans; dress; crown; top hat; graduation cap; ring; gem stone; "
    "trumpet; guitar; violin; drum; television; camera; candle; light bulb; locked; "
    "key; hammer; bomb; shield; magnet; door; window; bed; chair; shopping cart"
)
NAMES = tuple(_NAMES.split("; "))


@dataclass(frozen=True)
class Icon:
    """One icon by its Unicode name.

    name: CLDR's short name in lower case; tags: CLDR's keywords; subgroup: Unicode's.
    svgs: the drawing in each set that has one, by the set's name.
    """

    code: str
    name: str
    tags: tuple[str, ...]
    subgroup: str
    svgs: dict[str, str]


def load_icons(folder: str | Path) -> list[Icon]:
    """The icons of `SUBGROUPS` and `NAMES` that all sets have, in Unicode's order.

    Raises:
        UserError: where a package is missing or damaged.
    """
    modules = Path(folder).expanduser() / "node_modules"
    missing = [p for p in PACKAGES.values() if not (modules / p).is_dir()]
    if missing:
        raise UserError(
            f"{modules} has no {', '.join(missing)}: run make icons, or "
            f"npm install --prefix {folder} {' '.join(missing)}"
        )
    try:
        return _common(modules)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{modules} holds other files than these packages have ({error!r}): run make icons anew"
        ) from error


def _common(modules: Path) -> list[Icon]:
    sets = {name: _set(modules / PACKAGES[name]) for name in SETS}
    names = modules / PACKAGES["names"]
    numbers = read_json(names / "meta" / "groups.json")["subgroups"]
    found = []
    for record in read_json(names / "en" / "data.json"):
        subgroup = numbers.get(str(record.get("subgroup")), "")
        svgs = {name: _get(icons, record["hexcode"]) for name, icons in sets.items()}
        name = record["label"].lower().replace("“", "").replace("”", "").replace(":", "")
        if (subgroup in SUBGROUPS or name in NAMES) and all(svgs.values()):
            tags = tuple(tag.lower() for tag in record.get("tags", ()))
            found.append(Icon(record["hexcode"].lower(), name, tags, subgroup, _drawn(svgs)))
    return found


def load_set(folder: str | Path, name: str) -> dict[str, str]:
    """Every drawing of one set as SVG text, by code.

    Raises:
        UserError: where the package is missing.
    """
    path = Path(folder).expanduser() / "node_modules" / PACKAGES[name]
    if not path.is_dir():
        raise UserError(f"{path} is missing: run make icons")
    icons = _set(path)
    return {code: svg for code in icons if (svg := _drawn({"": icons[code]})[""])}


def _get(icons: dict[str, Any], code: str) -> Any:
    code = code.lower()
    return icons.get(code) or icons.get(code.replace("-fe0f", ""))


def _set(path: Path) -> dict[str, Any]:
    """Drawings by code: a file, or the body of one with its size."""
    if not (path / "icons.json").is_file():
        return {file.stem: file for file in sorted(path.glob("*.svg"))}
    icons = read_json(path / "icons.json", 8 * MAX_BYTES)
    codes = read_json(path / "chars.json")
    size = icons.get("width", 16), icons.get("height", 16)
    found = {}
    for code, name in codes.items():
        if name in icons["icons"]:
            icon = icons["icons"][name]
            found[code] = (icon["body"], icon.get("width", size[0]), icon.get("height", size[1]))
    return found


def _drawn(icons: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name, icon in icons.items():
        if isinstance(icon, Path):
            found[name] = read_text(icon)
        else:
            body, width, height = icon
            found[name] = (
                '<svg xmlns="http://www.w3.org/2000/svg" '
                'xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="0 0 {width} {height}">{body}</svg>'
            )
    return found
