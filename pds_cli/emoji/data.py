"""Makes a folder of captioned pictures of icons.

The folder's format is the one that `pds pretrain` reads (see `pds_cli.pictures.captioned`).
Picture i depends on the seed and i alone.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pds_cli.drawings.rasterise import Numbers, Program, compiled, rasterise
from pds_cli.drawings.reading import parse_drawing
from pds_cli.drawings.values import Matrix, compose
from pds_cli.emoji.icons import SETS, Icon, load_icons
from pds_cli.files import write_text
from pds_cli.pictures.pillow import write_pillow
from pds_cli.progress import Progress

BACKGROUNDS = {
    "red": (0.93, 0.55, 0.52), "orange": (0.97, 0.76, 0.50), "yellow": (0.98, 0.92, 0.60),
    "green": (0.66, 0.85, 0.64), "blue": (0.62, 0.79, 0.94), "purple": (0.78, 0.68, 0.90),
    "pink": (0.97, 0.77, 0.86), "gray": (0.80, 0.80, 0.80), "black": (0.10, 0.10, 0.10),
}  # fmt: skip
_PLAIN = 0.6  # share of pictures on white


def captions(icon: Icon, background: str | None) -> list[str]:
    """What can be said of a picture of an icon, `background` being the name of its colour."""
    name = icon.name
    article = "an" if name[0] in "aeiou" else "a"
    said = [name, f"{article} {name}", f"{article} {name}", f"an icon of {article} {name}"]
    said += [f"{article} {name}, {tag}" for tag in icon.tags[:6] if tag not in name]
    if background is None:
        return [*said, f"{article} {name} on a white background"]
    where = f"on a {background} background"
    return [f"{text} {where}" for text in said] + said[1:2]


def _placement(rng: np.random.Generator, size: int) -> Matrix:
    """A small turn, scale and shift about the middle of the picture."""
    angle = np.deg2rad(rng.uniform(-10, 10)) * (rng.random() < 0.5)
    scale = rng.uniform(0.8, 1.02)
    shift = rng.uniform(-0.05, 0.05, 2) * size
    c, s, half = scale * np.cos(angle), scale * np.sin(angle), size / 2
    linear = np.array([[c, -s], [s, c]])
    offset = half - linear @ [half, half] + shift
    return np.hstack([linear, offset[:, None]])


def _recoloured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Slightly other saturation and brightness, [H,W,3]."""
    gray = image.mean(-1, keepdims=True)
    image = gray + (image - gray) * rng.uniform(0.85, 1.12)
    return np.asarray(np.clip(image * rng.uniform(0.94, 1.04), 0, 1))


def draw_icon(
    parts: tuple[Any, Program, Numbers], rng: np.random.Generator, size: int
) -> tuple[np.ndarray, str | None]:
    """One picture uint8 [size,size,3] of an icon, and the name of its background's colour."""
    drawing, program, numbers = parts
    name = None
    if rng.random() > _PLAIN:
        name = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    red, green, blue = (1.0, 1.0, 1.0) if name is None else BACKGROUNDS[name]
    placed = compose(_placement(rng, size), drawing.placed(size, size))
    layers = rasterise(program, numbers, placed, size, size, (0.0, 0.0, 0.0, 0.0)).numpy()
    alpha = layers[3:].clip(1e-6, 1)
    image = _recoloured((layers[:3] / alpha).transpose(1, 2, 0), rng)
    hue, light, strength = colorsys.rgb_to_hls(red, green, blue)
    light = light if name is None else float(np.clip(light + rng.uniform(-0.05, 0.05), 0, 1))
    ground = np.array(colorsys.hls_to_rgb(hue, light, strength))
    cover = layers[3][..., None]
    image = image * cover + ground * (1 - cover)
    return (image * 255 + 0.5).clip(0, 255).astype(np.uint8), name


def make_dataset(
    folder: Path,
    icons: str | Path,
    per_drawing: int,
    size: int = 64,
    seed: int = 0,
) -> Path:
    """Draws every icon of every set `per_drawing` times, a little differently each time.

    Args:
        icons: the folder of `load_icons`.

    Returns:
        The path of `captions.jsonl`, which is written last.

    Raises:
        UserError: where an icon set is missing.
    """
    found = load_icons(icons)
    index_file = folder / "captions.jsonl"
    total = len(found) * len(SETS) * per_drawing
    if index_file.exists():
        with index_file.open(encoding="utf-8") as lines:
            if sum(1 for _ in lines) == total:
                return index_file
    records: list[dict[str, Any]] = []
    with Progress("drawing icons", total) as progress:
        for icon in found:
            for name in SETS:
                for record in _drawn(folder, icon, name, per_drawing, size, (seed, len(records))):
                    records.append(record)
                    progress.update(len(records))
    # The last ones are held out of training: all icons and sets have to be among them.
    order = np.random.default_rng(seed).permutation(len(records))
    listed = [json.dumps(records[i], ensure_ascii=False) for i in order]
    return write_text(index_file, "\n".join(listed) + "\n")


def _drawn(
    folder: Path, icon: Icon, name: str, count: int, size: int, first: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """Draws one icon of one set some times; `first` is the seed and the first one's number."""
    drawing = parse_drawing(icon.svgs[name].encode(), f"{name}/{icon.code}")
    program, numbers = compiled(drawing)
    parts = (drawing, program, numbers.to(torch.float32))
    seed, begin = first
    for i in range(begin, begin + count):
        image, background = draw_icon(parts, np.random.default_rng((seed, i)), size)
        path = folder / f"images/{i // 1000:03d}/{i:06d}.png"
        write_pillow(path, Image.fromarray(image))
        yield {
            "file": str(path.relative_to(folder)),
            "captions": captions(icon, background),
            "icon": icon.code,
            "name": icon.name,
            "set": name,
        }
