"""Makes a folder of captioned toybox renders.

The folder's format is the one that `pds pretrain` reads (see `pds_cli.pictures.captioned`):
PNG files and a `captions.jsonl`. Image i depends on the seed and i alone, so an interrupted
build goes on where it stopped, and a larger set begins with the smaller one.

A set of pairs is for a model that edits by instruction: beside a picture lies its source, a figure
that differs in one or two attributes, and the captions are prompts that name the change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pds_cli.files import write_text
from pds_cli.pictures.pillow import write_pillow
from pds_cli.toybox.world import (
    SAYABLE,
    Figure,
    caption,
    random_camera,
    random_figure,
    random_mentions,
)

CAPTIONS_PER_IMAGE = 6


def describe(seed: int, index: int, around: float = 0.0) -> tuple[dict[str, Any], Any, Any]:
    """The JSONL record, figure and camera of image `index`; `around` as in `random_camera`."""
    rng = np.random.default_rng((seed, index))
    figure, camera = random_figure(rng), random_camera(rng, around)
    captions = [caption(figure, random_mentions(figure, rng)) for _ in range(CAPTIONS_PER_IMAGE)]
    record = {
        "file": f"images/{index // 1000:03d}/{index:06d}.png",
        "captions": captions,
        "figure": asdict(figure),
        "camera": asdict(camera),
    }
    return record, figure, camera


CHANGEABLE = ("kind", *SAYABLE)


def describe_pair(seed: int, index: int, around: float = 0.0) -> tuple[dict[str, Any], Any, Any]:
    """As `describe`, of an edit; under `source` the record has its source's file and figure."""
    rng = np.random.default_rng((seed, index, 1))
    source, camera = random_figure(rng), random_camera(rng, around)
    names = rng.choice(CHANGEABLE, size=1 + int(rng.random() < 0.2), replace=False)
    others = random_figure(rng)
    changed = {str(name): getattr(others, str(name)) for name in names}
    if "beside" in changed:
        changed["beside_color"] = others.beside_color
    target = replace(source, **changed)
    said = [name for name in SAYABLE if name in changed]
    more = [*said, str(rng.choice(SAYABLE))]  # a prompt may also name what is there already
    file = f"images/{index // 1000:03d}/{index:06d}"
    record = {
        "file": f"{file}.png",
        "captions": [caption(target, said), caption(target, said), caption(target, more)],
        "figure": asdict(target),
        "camera": asdict(camera),
        "source": {"file": f"{file}_source.png", "figure": asdict(source)},
    }
    return record, target, camera


def make_dataset(
    folder: Path,
    count: int,
    size: int = 64,
    seed: int = 0,
    around: float = 0.0,
    on_image: Callable[[int], None] | None = None,
    pairs: bool = False,
) -> Path:
    """Renders `count` captioned pictures of `size`×`size` pixels into `folder`.

    Args:
        around: share of the pictures that look from anywhere, not from the front, in [0,1].
        pairs: each is an edit, and its source is rendered too.
        on_image: called with the number of pictures done, for a progress bar.

    Returns:
        The path of `captions.jsonl`, which is written last: where it lists `count` pictures,
        the set is complete and nothing is rendered.

    Raises:
        UserError: where PyVista is not installed.
    """
    index_file = folder / "captions.jsonl"
    if index_file.exists():
        with index_file.open(encoding="utf-8") as lines:
            if sum(1 for _ in lines) == count:
                return index_file
    from pds_cli.toybox.renderer import ToyRenderer

    renderer = ToyRenderer(size)
    records = []
    for i in range(count):
        record, figure, camera = (describe_pair if pairs else describe)(seed, i, around)
        shown = {record["file"]: figure}
        if pairs:
            shown[record["source"]["file"]] = Figure(**record["source"]["figure"])
        for name, each in shown.items():
            if not (folder / name).exists():
                write_pillow(folder / name, Image.fromarray(renderer.render(each, camera)))
        records.append(json.dumps(record, ensure_ascii=False))
        if on_image is not None:
            on_image(i + 1)
    renderer.close()
    return write_text(index_file, "\n".join(records) + "\n")
