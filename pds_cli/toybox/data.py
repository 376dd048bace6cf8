"""Makes a folder of captioned toybox renders.

The folder's format is the one that `pds pretrain` reads (see `pds_cli.pictures.captioned`):
PNG files and a `captions.jsonl`. Image i depends on the seed and i alone, so an interrupted
build goes on where it stopped, and a larger set begins with the smaller one.

A set of pairs is for a model that edits by instruction: beside a picture lies its source, a figure
that differs in one or two attributes, and the captions are prompts that name the change.

python -m pds_cli.toybox.data outputs/data/toybox128 12000 128 0.5 0.5

renders that many pictures of that size, with these shares `around` and `views`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pds_cli.errors import UserError
from pds_cli.files import write_text
from pds_cli.pictures.captioned import Drawn, read_square
from pds_cli.pictures.pillow import write_pillow
from pds_cli.progress import Progress
from pds_cli.scripts import check_words, run
from pds_cli.toybox.world import (
    SAYABLE,
    Figure,
    OrbitCamera,
    caption,
    random_camera,
    random_figure,
    random_mentions,
    view_words,
)

CAPTIONS_PER_IMAGE = 6


def describe(
    seed: int, index: int, around: float = 0.0, views: float = 0.0
) -> tuple[dict[str, Any], Any, Any]:
    """The JSONL record, figure and camera of image `index`.

    Args:
        around: as in `random_camera`.
        views: share of the captions that say from where the camera looks, in [0,1].
    """
    rng = np.random.default_rng((seed, index))
    figure, camera = random_figure(rng), random_camera(rng, around)
    captions = [caption(figure, random_mentions(figure, rng)) for _ in range(CAPTIONS_PER_IMAGE)]
    record = {
        "file": f"images/{index // 1000:03d}/{index:06d}.png",
        "captions": _with_views(captions, camera, rng, views),
        "figure": asdict(figure),
        "camera": asdict(camera),
    }
    return record, figure, camera


CHANGEABLE = ("kind", *SAYABLE)


def _with_views(
    captions: list[str], camera: OrbitCamera, rng: np.random.Generator, share: float
) -> list[str]:
    said = rng.random(len(captions)) < share
    return [f"{c}, {view_words(camera)}" if s else c for c, s in zip(captions, said, strict=True)]


def describe_pair(
    seed: int, index: int, around: float = 0.0, views: float = 0.0
) -> tuple[dict[str, Any], Any, Any]:
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
    captions = [caption(target, said), caption(target, said), caption(target, more)]
    file = f"images/{index // 1000:03d}/{index:06d}"
    record = {
        "file": f"{file}.png",
        "captions": _with_views(captions, camera, rng, views),
        "figure": asdict(target),
        "camera": asdict(camera),
        "source": {"file": f"{file}_source.png", "figure": asdict(source)},
    }
    return record, target, camera


class ToyPainter:
    """Draws captioned picture i of a set into its folder, where it is not there yet.

    Args: see `make_dataset`. PyVista is asked for at the first picture that is missing.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        seed: int = 0,
        around: float = 0.0,
        views: float = 0.0,
        pairs: bool = False,
    ) -> None:
        self.folder, self.size, self.seed = folder, size, seed
        self.around, self.views, self.pairs = around, views, pairs
        self._renderer: Any = None

    def described(self, index: int) -> tuple[dict[str, Any], Figure, OrbitCamera]:
        """Its JSONL record, and what it shows."""
        describe_one = describe_pair if self.pairs else describe
        return describe_one(self.seed, index, self.around, self.views)

    def record(self, index: int) -> dict[str, Any]:
        """Its JSONL record, when its file is there, and its source's if it is an edit."""
        record, figure, camera = self.described(index)
        shown = {record["file"]: figure}
        if self.pairs:
            shown[record["source"]["file"]] = Figure(**record["source"]["figure"])
        for name, each in shown.items():
            if not (self.folder / name).exists():
                write_pillow(self.folder / name, Image.fromarray(self._render(each, camera)))
        return record

    def __call__(self, index: int) -> Drawn:
        """The picture itself."""
        record = self.record(index)
        files = [record["file"], *([record["source"]["file"]] if self.pairs else [])]
        images = [read_square(self.folder / file, self.size) for file in files]
        return Drawn(images[0], record["captions"], record, *images[1:])

    def _render(self, figure: Figure, camera: OrbitCamera) -> Any:
        if self._renderer is None:
            from pds_cli.toybox.renderer import ToyRenderer

            self._renderer = ToyRenderer(self.size, multisamples=0)  # there are very many
        return self._renderer.render(figure, camera)

    def close(self) -> None:
        """Frees the renderer's window."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def make_dataset(
    folder: Path,
    count: int,
    size: int = 64,
    seed: int = 0,
    around: float = 0.0,
    on_image: Callable[[int], None] | None = None,
    pairs: bool = False,
    views: float = 0.0,
) -> Path:
    """Renders `count` captioned pictures of `size`×`size` pixels into `folder`.

    Args:
        around: share of the pictures that look from anywhere, not from the front, in [0,1].
        pairs: each is an edit, and its source is rendered too.
        views: share of the captions that say from where a picture looks, in [0,1].
        on_image: called with the number of pictures done, for a progress bar.

    Returns:
        The path of `captions.jsonl`, which is written last: where it lists `count` pictures,
        the set is complete and nothing is rendered.

    Raises:
        UserError: where PyVista is not installed, or the folder holds pictures of another seed,
            share or kind, or somebody's own.
    """
    index_file = folder / "captions.jsonl"
    painter, records = ToyPainter(folder, size, seed, around, views, pairs), []
    if index_file.exists():
        lines = index_file.read_text(encoding="utf-8").splitlines()
        if lines and lines[0] != json.dumps(painter.described(0)[0], ensure_ascii=False):
            raise UserError(
                f"{folder} holds other pictures than data.seed, around, views and pairs ask for: "
                "give another data.folder, or data.toybox=false if they are your own"
            )
        if len(lines) == count:
            return index_file
    for i in range(count):
        records.append(json.dumps(painter.record(i), ensure_ascii=False))
        if on_image is not None:
            on_image(i + 1)
    painter.close()
    return write_text(index_file, "\n".join(records) + "\n")


def main(argv: Sequence[str]) -> list[Path]:
    """Renders what the words say; returns the path of `captions.jsonl`."""
    check_words(argv, 5, 5, __doc__)
    try:
        count, size = int(argv[1]), int(argv[2])
        around, views = float(argv[3]), float(argv[4])
        if count < 1 or size < 8 or not (0 <= around <= 1 and 0 <= views <= 1):
            raise ValueError
    except ValueError:
        raise UserError(
            f"{' '.join(argv[1:])}: two whole numbers, of pictures and of pixels from 8 on, and "
            "two shares from 0 to 1 would be right"
        ) from None
    with Progress("rendering", count) as progress:
        return [
            make_dataset(
                Path(argv[0]), count, size, around=around, views=views, on_image=progress.update
            )
        ]


if __name__ == "__main__":
    sys.exit(run(main))
