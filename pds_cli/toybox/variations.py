"""Pictures of a figure with some of its attributes varied, rendered once and kept on disk."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pds_cli.errors import UserError
from pds_cli.pictures.pillow import load_image, write_pillow
from pds_cli.progress import Progress
from pds_cli.toybox.gallery import picture
from pds_cli.toybox.world import ATTRIBUTES, BESIDE_COLORS, Figure, OrbitCamera

if TYPE_CHECKING:
    from torch import Tensor

_FORMAT = 1  # raise it when the same figure would be drawn differently
OPEN = ("kind", "pose", "hat", "clothes", "beside")
"""What varies beside the attributes that a text names; background and floor stay the scene's."""


@dataclass(frozen=True)
class Variations:
    """Figures, and how many combinations of the attributes that no text names they leave out.

    others: those attributes.
    taken, possible: the combinations of them that there are here, and at all.
    """

    figures: Sequence[Figure]
    others: Sequence[str]
    taken: int
    possible: int


def variations(figure: Figure, named: Iterable[str], count: int) -> Variations:
    """The figure with every value of the attributes named, times values of the others in `OPEN`.

    As many combinations of the others are taken as fit into `count`: the figure's own first, then
    the rest in a fixed order at random, so that more begin with the fewer.

    Args:
        named: names of attributes; the thing beside and its colour are one.
        count: figures at most.

    Raises:
        UserError: the attributes named alone have more combinations.
    """
    named = {"beside" if name == "beside_color" else name for name in named}
    names = [name for name in dict.fromkeys([*OPEN, *ATTRIBUTES]) if name in named]
    others = [name for name in OPEN if name not in named]
    grid = _combinations(names)
    if len(grid) > count:
        raise UserError(
            f"{len(grid):,} pictures show every combination of {', '.join(names)}, which the "
            f"prompts name, and there is room for {count:,} of each camera: raise backbone.count"
        )
    all_others = [replace(figure, **each) for each in _combinations(others)]
    rest = [each for each in all_others if each != figure]
    order = np.random.default_rng(0).permutation(len(rest))
    bases = [figure, *(rest[i] for i in order)]
    taken = bases[: max(1, count // len(grid))]
    figures = [replace(base, **each) for base in taken for each in grid]
    return Variations(list(dict.fromkeys(figures)), others, len(taken), len(bases))


def _combinations(names: Sequence[str]) -> list[dict[str, str]]:
    """Every combination of the attributes' values."""
    several = [_values(name) for name in names]
    return [
        {key: value for part in each for key, value in part.items()}
        for each in itertools.product(*several)
    ]


def _values(name: str) -> list[dict[str, str]]:
    if name != "beside":
        return [{name: value} for value in ATTRIBUTES[name]]
    colored = itertools.product(("ball", "box"), BESIDE_COLORS)
    things = [{"beside": thing, "beside_color": color} for thing, color in colored]
    return [{"beside": "none"}, {"beside": "tree"}, *things]


def kept_pictures(
    cache: Path, wanted: Sequence[tuple[Figure, OrbitCamera]], size: int
) -> list[np.ndarray]:
    """Pictures uint8 [size,size,3] from the folder `cache`; those not there are rendered into it.

    A picture is a file by itself, so what was interrupted goes on.

    Raises:
        UserError: one has to be rendered, and PyVista is not installed.
    """
    paths = [_path(cache, *each, size) for each in wanted]
    found = [_read(path, size) for path in paths]
    missing = [i for i, each in enumerate(found) if each is None]
    if missing:
        done = len(paths) - len(missing)
        with Progress("rendering", len(paths), done) as progress:
            for number, i in enumerate(missing, done + 1):
                drawn = picture(*wanted[i], size)
                write_pillow(paths[i], Image.fromarray(drawn))
                found[i] = drawn
                progress.update(number)
    return [each for each in found if each is not None]


def _path(cache: Path, figure: Figure, camera: OrbitCamera, size: int) -> Path:
    """A folder for each camera and size, a file for each figure that looks like no other."""
    facts = json.dumps([_FORMAT, size, asdict(camera)], sort_keys=True)
    values = asdict(figure)
    if figure.labels()["beside_color"] < 0:
        values["beside_color"] = "any"
    name = "-".join(value.replace(" ", "_") for value in values.values())
    return cache / hashlib.sha256(facts.encode()).hexdigest()[:20] / f"{name}.png"


def _read(path: Path, size: int) -> np.ndarray | None:
    """A kept picture; None where it is not there, or damaged."""
    if not path.is_file():
        return None
    try:
        found = np.asarray(load_image(path).convert("RGB"))
    except UserError:
        return None
    return found if found.shape == (size, size, 3) else None


def stacked(pictures: Sequence[np.ndarray]) -> Tensor:
    """Pictures [S,S,3] as one tensor uint8 [N,3,S,S]."""
    import torch

    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).contiguous()
