"""Makes a folder of captioned toybox renders.

The folder's format is the one that `pds pretrain` reads (see `pds_cli.pretraining.dataset`):
PNG files and a `captions.jsonl`. Image i depends on the seed and i alone, so an interrupted
build goes on where it stopped, and a larger set begins with the smaller one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pds_cli.files import atomic_path, write_text
from pds_cli.toybox.world import caption, random_camera, random_figure, random_mentions

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


def make_dataset(
    folder: Path,
    count: int,
    size: int = 64,
    seed: int = 0,
    around: float = 0.0,
    on_image: Callable[[int], None] | None = None,
) -> Path:
    """Renders `count` captioned pictures of `size`×`size` pixels into `folder`.

    Args:
        around: share of the pictures that look from anywhere, not from the front, in [0,1].
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
        record, figure, camera = describe(seed, i, around)
        path = folder / record["file"]
        if not path.exists():
            with atomic_path(path) as temporary:
                Image.fromarray(renderer.render(figure, camera)).save(temporary, "PNG")
        records.append(json.dumps(record, ensure_ascii=False))
        if on_image is not None:
            on_image(i + 1)
    renderer.close()
    return write_text(index_file, "\n".join(records) + "\n")
