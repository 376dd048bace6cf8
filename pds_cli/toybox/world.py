"""What can be in a toybox picture: typed descriptions, cameras, and the caption grammar."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from pds_cli.errors import UserError
from pds_cli.options.view_prompts import VIEW_WORDS

if TYPE_CHECKING:
    from pds_cli.views.cameras import Camera

KINDS = ("man", "robot", "snowman", "bear")
POSES = ("down", "raised", "out", "waving")
HATS = ("none", "top hat", "wizard hat", "crown", "cowboy hat")
CLOTHES = ("red", "green", "blue", "yellow", "orange", "purple", "black", "white")
BESIDES = ("none", "ball", "box", "tree")
BESIDE_COLORS = ("red", "green", "blue", "yellow")
BACKGROUNDS = ("blue", "green", "pink", "cream")
FLOORS = ("grass", "sand", "stone", "wood")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "pose": POSES,
    "hat": HATS,
    "clothes": CLOTHES,
    "beside": BESIDES,
    "beside_color": BESIDE_COLORS,
    "background": BACKGROUNDS,
    "floor": FLOORS,
}
"""Every attribute with its values, in the order of `Figure`'s fields."""

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.10, 0.10),
    "green": (0.13, 0.55, 0.20),
    "blue": (0.12, 0.30, 0.80),
    "yellow": (0.95, 0.80, 0.12),
    "orange": (0.95, 0.48, 0.08),
    "purple": (0.50, 0.18, 0.65),
    "black": (0.10, 0.10, 0.11),
    "white": (0.93, 0.93, 0.92),
}
BACKGROUND_COLORS = {
    "blue": (0.70, 0.83, 0.95),
    "green": (0.78, 0.90, 0.78),
    "pink": (0.93, 0.78, 0.86),
    "cream": (0.96, 0.91, 0.78),
}
FLOOR_COLORS = {
    "grass": (0.36, 0.52, 0.27),
    "sand": (0.84, 0.70, 0.46),
    "stone": (0.52, 0.54, 0.58),
    "wood": (0.50, 0.35, 0.25),
}


# The golden ratio's fractional part spreads any number of elevations evenly.
_GOLDEN = 0.6180339887


@dataclass(frozen=True)
class Figure:
    """One toy figure and its surroundings; each field takes a value of `ATTRIBUTES`.

    `beside_color` says nothing where `beside` is `none` or `tree` (trees are green).

    Raises:
        UserError: for a value that the attribute does not have.
    """

    kind: str = "man"
    pose: str = "down"
    hat: str = "none"
    clothes: str = "green"
    beside: str = "none"
    beside_color: str = "yellow"
    background: str = "blue"
    floor: str = "stone"

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value not in ATTRIBUTES[name]:
                raise UserError(
                    f"the toybox knows no {name} {value!r}; it knows {', '.join(ATTRIBUTES[name])}"
                )

    def labels(self) -> dict[str, int]:
        """The index of each attribute's value in `ATTRIBUTES`; −1 for a colour without a bearer."""
        found = {f.name: ATTRIBUTES[f.name].index(getattr(self, f.name)) for f in fields(self)}
        if self.beside not in ("ball", "box"):
            found["beside_color"] = -1
        return found


@dataclass(frozen=True)
class OrbitCamera:
    """A camera on a sphere around the figure.

    azimuth, elevation: degrees; azimuth 0 looks the figure in the face.
    distance: from the look-at point, in world units (a figure is about 2.3 units tall).
    field_of_view: vertical, degrees.
    """

    azimuth: float = 0.0
    elevation: float = 14.0
    distance: float = 6.4
    field_of_view: float = 30.0
    look_at: tuple[float, float, float] = (0.2, 0.0, 1.25)

    @property
    def aside(self) -> float:
        """Degrees of azimuth away from the front, 0 to 180."""
        return abs((self.azimuth + 180) % 360 - 180)

    def position(self) -> tuple[float, float, float]:
        """The camera centre in world coordinates (z up, the figure faces −y)."""
        azimuth, elevation = np.deg2rad(self.azimuth), np.deg2rad(self.elevation)
        direction = (
            np.sin(azimuth) * np.cos(elevation),
            -np.cos(azimuth) * np.cos(elevation),
            np.sin(elevation),
        )
        x, y, z = (c + self.distance * d for c, d in zip(self.look_at, direction, strict=True))
        return float(x), float(y), float(z)

    def camera(self, size: int) -> Camera:
        """The same camera as the rest of the package describes one, for pictures size × size."""
        from pds_cli.views.cameras import Camera, look_at

        focal = 0.5 * size / float(np.tan(np.deg2rad(self.field_of_view) / 2))
        pose = look_at(self.position(), self.look_at)
        return Camera(pose, focal, focal, size / 2, size / 2, size, size)


def orbit(
    count: int, first: float, last: float, *, low: float = 6.0, high: float = 28.0
) -> list[OrbitCamera]:
    """Cameras at evenly spaced azimuths from `first` to `last`, elevations spread low to high."""
    step = (last - first) / max(1, count)
    return [
        OrbitCamera(
            azimuth=round(first + (i + 0.5) * step, 3),
            elevation=round(low + (high - low) * (i * _GOLDEN % 1), 3),
        )
        for i in range(count)
    ]


def random_figure(rng: np.random.Generator) -> Figure:
    """Draws each attribute independently and uniformly."""
    return Figure(**{name: str(rng.choice(values)) for name, values in ATTRIBUTES.items()})


def random_camera(rng: np.random.Generator, around: float = 0.0) -> OrbitCamera:
    """Draws azimuth in ±50°, elevation in 5–30°, distance within ±6 %.

    With chance `around` the azimuth is any instead, so that backs are seen too.
    """
    anywhere = around > 0 and rng.random() < around
    return OrbitCamera(
        azimuth=float(rng.uniform(-180, 180) if anywhere else rng.uniform(-50, 50)),
        elevation=float(rng.uniform(5, 30)),
        distance=float(rng.uniform(6.0, 6.8)),
    )


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _phrase(figure: Figure, attribute: str) -> str:
    """The words that say one attribute of the figure; empty where there is nothing to say."""
    possessive = "his" if figure.kind == "man" else "its"
    if attribute == "pose":
        return {
            "down": f"with {possessive} arms down",
            "raised": f"raising {possessive} arms",
            "out": f"stretching {possessive} arms out",
            "waving": f"waving {possessive} hand",
        }[figure.pose]
    if attribute == "hat":
        return "without a hat" if figure.hat == "none" else f"wearing {_article(figure.hat)}"
    if attribute == "clothes":
        return f"in {figure.clothes}"
    if attribute == "background":
        return f"under a {figure.background} sky"
    if attribute == "floor":
        return f"on {figure.floor}"
    return {"none": "standing alone", "tree": "next to a tree"}.get(
        figure.beside, f"next to {_article(f'{figure.beside_color} {figure.beside}')}"
    )


SAYABLE = ("clothes", "hat", "pose", "beside", "floor", "background")
"""The attributes a caption may name beside the kind, in the order in which it names them."""

# How often a random caption names each attribute.
_MENTION = {
    "clothes": 0.6,
    "hat": 0.6,
    "pose": 0.6,
    "beside": 0.6,
    "floor": 0.45,
    "background": 0.45,
}


def caption(
    figure: Figure, said: Sequence[str] = SAYABLE, camera: OrbitCamera | None = None
) -> str:
    """The caption that names the kind, the attributes in `said`, and from where a camera looks.

    The last in the words, and behind the comma, of the view-dependent prompts of `pds edit`.

    >>> caption(Figure(hat="crown"), ["hat", "clothes"])
    'a photo of a man in green wearing a crown'
    >>> caption(Figure(), [], OrbitCamera(azimuth=50))
    'a photo of a man, front left view'
    """
    words = [f"a photo of {_article(figure.kind)}"]
    words += [_phrase(figure, name) for name in SAYABLE if name in said]
    return " ".join(words) + ("" if camera is None else f", {view_words(camera)}")


def view_words(camera: OrbitCamera) -> str:
    """The words of the direction, out of nine, that a camera looks from.

    >>> view_words(OrbitCamera(azimuth=170)), view_words(OrbitCamera(elevation=80))
    ('back view', 'overhead view')
    """
    from pds_cli.views.directions import direction

    return VIEW_WORDS[direction(camera.azimuth, camera.elevation)]


def random_mentions(figure: Figure, rng: np.random.Generator) -> list[str]:
    """A random subset of `SAYABLE`; absences (no hat, alone) are named half as often."""
    said = []
    for name, chance in _MENTION.items():
        absent = name in ("hat", "beside") and getattr(figure, name) == "none"
        if rng.random() < chance * (0.5 if absent else 1.0):
            said.append(name)
    return said


def mentioned(figure: Figure, said: Sequence[str]) -> dict[str, int]:
    """Labels (see `Figure.labels`) of what a caption with these mentions names."""
    labels = figure.labels()
    names = ["kind", *said] + (["beside_color"] if "beside" in said else [])
    return {name: labels[name] for name in names if labels[name] >= 0}


@lru_cache(maxsize=1)
def _grammar() -> dict[tuple[str, ...], dict[str, str]]:
    """Every phrase of `caption`, as words, with the attributes that it says.

    From where a camera looks says none of the figure.
    """
    found: dict[str, dict[str, str]] = {words: {} for words in VIEW_WORDS.values()}
    for kind in KINDS:
        noun = _article(kind)
        found |= {noun: {"kind": kind}, kind: {"kind": kind}, f"a photo of {noun}": {"kind": kind}}
        for name in SAYABLE:
            for value in ATTRIBUTES[name]:
                colors = BESIDE_COLORS if value in ("ball", "box") else ("",)
                for color in colors:
                    said = {name: value} | ({"beside_color": color} if color else {})
                    found[_phrase(replace(Figure(kind=kind), **said), name)] = said
    return {tuple(phrase.split()): said for phrase, said in found.items()}


def _read(text: str) -> tuple[dict[str, str], list[str]]:
    """The attributes that a text says, and its passages that the grammar does not read."""
    words, grammar = re.findall(r"\w+", text.lower()), _grammar()
    longest = max(map(len, grammar))
    said: dict[str, str] = {}
    unread: list[str] = []
    i, gap = 0, True
    while i < len(words):
        lengths = range(min(longest, len(words) - i), 0, -1)
        phrase = next((p for n in lengths if (p := tuple(words[i : i + n])) in grammar), None)
        meant = grammar[phrase] if phrase else None
        if phrase and meant is not None and all(said.get(k, v) == v for k, v in meant.items()):
            said |= meant
            i, gap = i + len(phrase), True
            continue
        passage = " ".join(phrase or (words[i],))
        unread = [*unread, passage] if gap else [*unread[:-1], f"{unread[-1]} {passage}"]
        i, gap = i + len(phrase or passage.split()), False
    return said, unread


def parse_caption(text: str) -> dict[str, str]:
    """The attributes a caption of this grammar names, by name.

    The inverse of `caption` for prompts typed by a person, whose phrases may stand in any order;
    words outside the grammar are passed over (`unread` names them), so an empty dictionary means
    that nothing was recognised.
    """
    return _read(text)[0]


def unread(text: str) -> list[str]:
    """The passages of a text that this grammar does not read, or that contradict what stands first.

    >>> unread("a photo of a man in a tuxedo, on sand")
    ['in a tuxedo']
    """
    return _read(text)[1]


def edited(figure: Figure, prompt: str) -> Figure:
    """The figure with only what `prompt` names changed: the true edit, if all of it is read."""
    return replace(figure, **parse_caption(prompt))


def true_edit(figure: Figure, prompt: str) -> tuple[Figure | None, str]:
    """The one figure that an edit by `prompt` should give, and what is to be said of it.

    Returns:
        (None, why) where the prompt is not understood whole: a part of it would be left out, and
        doing nothing might score best; (figure, "") else, with a note instead of "" where the
        figure is the source itself.
    """
    if passages := unread(prompt):
        names = ", ".join(repr(passage) for passage in passages)
        return None, f"this prompt has no known true edit: the toybox does not understand {names}"
    if not parse_caption(prompt):
        return None, "this prompt has no known true edit: it names nothing"
    found = edited(figure, prompt)
    note = "the prompt names nothing that the source does not show: its true edit is the source "
    return found, f"{note}itself, and to change nothing scores best" if found == figure else ""


def vocabulary() -> list[str]:
    """Every word that a caption can contain, sorted."""
    words = {"his", "its", *" ".join(VIEW_WORDS.values()).split()}
    for name, values in ATTRIBUTES.items():
        for value in values:
            figure = replace(Figure(beside="ball"), **{name: value})
            words.update(caption(figure).split())
    return sorted(words)
