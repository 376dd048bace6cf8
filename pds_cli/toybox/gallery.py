"""Pictures of the toybox by description: those that ship with the package, else rendered.

The shipped ones are PNG files of square tiles, each with a JSON list of what its tiles show, so
that the demo and the edit benchmark run where PyVista is not installed: `gallery` (the benchmark's
pictures) and `gallery_views` (the posed views of the demo's figure), both 128×128.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pds_cli.pictures.pillow import load_image, write_pillow
from pds_cli.toybox.world import Figure, OrbitCamera

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).parents[1] / "data" / "toybox"
COLUMNS = 8


def _key(figure: Figure, camera: OrbitCamera, size: int) -> str:
    description = {"figure": asdict(figure), "camera": asdict(camera), "size": size}
    if figure.beside not in ("ball", "box"):  # the colour of nothing changes no pixel
        description["figure"] = {**asdict(figure), "beside_color": ""}
    return _canonical(description)


def _canonical(description: dict[str, Any]) -> str:
    """One text for equal descriptions: 20 and 20.0 degrees are the same camera."""
    camera = {k: np.asarray(v, float).tolist() for k, v in description["camera"].items()}
    return json.dumps({**description, "camera": camera}, sort_keys=True)


@functools.cache
def _shipped() -> dict[str, np.ndarray]:
    tiles = {}
    for index in sorted(FOLDER.glob("gallery*.json")):
        keys = json.loads(index.read_text(encoding="utf-8"))
        sheet = np.asarray(load_image(index.with_suffix(".png")).convert("RGB"))
        size = sheet.shape[1] // COLUMNS
        for i, key in enumerate(keys):
            y, x = i // COLUMNS * size, i % COLUMNS * size
            tiles[_canonical(json.loads(key))] = sheet[y : y + size, x : x + size].copy()
    return tiles


@functools.lru_cache(maxsize=2)
def _renderer(size: int) -> Any:
    from pds_cli.toybox.renderer import ToyRenderer

    return ToyRenderer(size)


def picture(figure: Figure, camera: OrbitCamera, size: int = 128) -> np.ndarray:
    """The picture as uint8 [size,size,3].

    Raises:
        UserError: where it is not shipped and PyVista is not installed.
    """
    found = _shipped().get(_key(figure, camera, size))
    return _renderer(size).render(figure, camera) if found is None else found


def picture_tensor(figure: Figure, camera: OrbitCamera, size: int = 128) -> Tensor:
    """The picture as float [3,size,size] in [0,1]; raises what `picture` raises."""
    import torch

    return torch.from_numpy(picture(figure, camera, size)).movedim(-1, 0).float() / 255


def write_gallery(
    wanted: Iterable[tuple[Figure, OrbitCamera]], size: int = 128, name: str = "gallery"
) -> Path:
    """Renders the pictures anew and writes them as a gallery of the package; returns the PNG."""
    tiles: dict[str, np.ndarray] = {}
    for figure, camera in wanted:
        key = _key(figure, camera, size)
        if key not in tiles:
            tiles[key] = _renderer(size).render(figure, camera)
    rows = -(-len(tiles) // COLUMNS)
    sheet = np.zeros((rows * size, COLUMNS * size, 3), np.uint8)
    for i, tile in enumerate(tiles.values()):
        y, x = i // COLUMNS * size, i % COLUMNS * size
        sheet[y : y + size, x : x + size] = tile
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_pillow(FOLDER / f"{name}.png", Image.fromarray(sheet), optimize=True)
    text = json.dumps(list(tiles), indent=0)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return FOLDER / f"{name}.png"
