"""The toybox edit benchmark: edits whose ground truth is known, scored by a probe.

Twelve kinds of edit on eight figures. Every edit changes one attribute; the ground truth is the
same figure rendered with only that attribute changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pds_cli.errors import UserError
from pds_cli.toybox.world import Figure, OrbitCamera, caption

# What each edit sets. Where a figure has the value already, the alternative is used.
EDITS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "raise arms": ({"pose": "raised"}, {"pose": "out"}),
    "stretch arms": ({"pose": "out"}, {"pose": "raised"}),
    "wizard hat": ({"hat": "wizard hat"}, {"hat": "crown"}),
    "crown": ({"hat": "crown"}, {"hat": "wizard hat"}),
    "cowboy hat": ({"hat": "cowboy hat"}, {"hat": "crown"}),
    "to robot": ({"kind": "robot"}, {"kind": "man"}),
    "to snowman": ({"kind": "snowman"}, {"kind": "man"}),
    "to bear": ({"kind": "bear"}, {"kind": "man"}),
    "red clothes": ({"clothes": "red"}, {"clothes": "orange"}),
    "blue clothes": ({"clothes": "blue"}, {"clothes": "purple"}),
    "add tree": ({"beside": "tree"}, {"beside": "tree"}),
    "add red ball": (
        {"beside": "ball", "beside_color": "red"},
        {"beside": "ball", "beside_color": "red"},
    ),
}

FIGURES: tuple[tuple[Figure, OrbitCamera], ...] = (
    (Figure("man", "down", "none", "green", "none", "red", "blue", "stone"), OrbitCamera()),
    (
        Figure("man", "waving", "top hat", "purple", "box", "yellow", "cream", "grass"),
        OrbitCamera(azimuth=20),
    ),
    (
        Figure("robot", "down", "none", "yellow", "none", "red", "pink", "wood"),
        OrbitCamera(azimuth=-15, elevation=10),
    ),
    (
        Figure("robot", "waving", "top hat", "orange", "box", "green", "blue", "sand"),
        OrbitCamera(azimuth=10, elevation=20),
    ),
    (
        Figure("snowman", "down", "none", "purple", "box", "blue", "green", "stone"),
        OrbitCamera(azimuth=-25),
    ),
    (
        Figure("snowman", "waving", "top hat", "green", "none", "red", "pink", "grass"),
        OrbitCamera(azimuth=5, elevation=8),
    ),
    (
        Figure("bear", "down", "none", "white", "none", "red", "cream", "stone"),
        OrbitCamera(azimuth=25, elevation=12),
    ),
    (
        Figure("bear", "waving", "top hat", "yellow", "box", "red", "blue", "sand"),
        OrbitCamera(azimuth=-10, elevation=18),
    ),
)


# Figures on which settings are chosen; none of them is in the benchmark.
TUNING_FIGURES: tuple[tuple[Figure, OrbitCamera], ...] = (
    (
        Figure("man", "down", "none", "orange", "none", "red", "green", "sand"),
        OrbitCamera(azimuth=-12, elevation=16),
    ),
    (
        Figure("bear", "waving", "none", "green", "box", "yellow", "pink", "stone"),
        OrbitCamera(azimuth=15, elevation=11),
    ),
    (
        Figure("robot", "down", "top hat", "white", "none", "red", "cream", "grass"),
        OrbitCamera(azimuth=8, elevation=22),
    ),
    (
        Figure("snowman", "waving", "none", "yellow", "box", "green", "blue", "wood"),
        OrbitCamera(azimuth=-20, elevation=9),
    ),
)


@dataclass(frozen=True)
class Case:
    """One edit of one figure.

    changed: the attributes that the prompt asks to change, with the wanted value.
    """

    kind: str
    source: Figure
    target: Figure
    camera: OrbitCamera
    changed: dict[str, str]
    source_prompt: str
    prompt: str


def make_case(kind: str, figure: Figure, camera: OrbitCamera) -> Case:
    """The case of one kind of edit on one figure.

    The prompts name the kind of figure and the attribute that changes; the source prompt names
    the attribute's old value where there is something to name.
    """
    first, second = EDITS[kind]
    changed = first if any(getattr(figure, k) != v for k, v in first.items()) else second
    target = replace(figure, **changed)
    attribute = next(iter(changed))
    absent = getattr(figure, attribute) in ("none", "down") or attribute == "kind"
    return Case(
        kind,
        figure,
        target,
        camera,
        changed,
        caption(figure, [] if absent else [attribute]),
        caption(target, [] if attribute == "kind" else [attribute]),
    )


def all_cases(
    figures: Sequence[tuple[Figure, OrbitCamera]] = FIGURES,
    edits: Sequence[str] | None = None,
    *,
    rotate: bool = False,
) -> list[Case]:
    """Every edit of every figure: 12 × 8 unless told otherwise.

    rotate: every edit once, of the figures in turn.

    Raises:
        UserError: a kind of edit that there is none of.
    """
    kinds = list(EDITS) if edits is None else list(edits)
    for kind in kinds:
        if kind not in EDITS:
            raise UserError(f"there is no kind of edit {kind!r}; there are {', '.join(EDITS)}")
    if rotate and figures:
        return [make_case(kind, *figures[i % len(figures)]) for i, kind in enumerate(kinds)]
    return [make_case(kind, figure, camera) for kind in kinds for figure, camera in figures]


def gallery() -> list[tuple[Figure, OrbitCamera]]:
    """Every picture that the demo and the benchmark need, for `write_gallery`."""
    cases = all_cases() + all_cases(TUNING_FIGURES)
    pictures = [(case.source, case.camera) for case in cases]
    return pictures + [(case.target, case.camera) for case in cases]
