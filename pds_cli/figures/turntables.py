"""Turntables of edits as one picture: the source above, one row an edit below.

python -m pds_cli.figures.turntables outputs/figures/turntables.webp <run folder of pds edit> …
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import imageio_ffmpeg
from PIL import Image

from pds_cli.runs import layout
from pds_cli.scripts import check_words, run

COLUMNS = 8
TILE = 128


def frames(path: Path) -> list[Image.Image]:
    """Evenly spaced frames of an MP4."""
    with closing(imageio_ffmpeg.read_frames(str(path))) as film:
        size = next(film)["size"]
        found = [Image.frombytes("RGB", size, frame) for frame in film]
    return found[:: max(1, len(found) // COLUMNS)][:COLUMNS]


def write_turntables(out: Path, runs: Sequence[Path]) -> Path:
    """The turntable before the first run's edit, and those after each; labelled with the prompts.

    Raises:
        UserError: a folder that no `pds edit` wrote, or one without turntables.
    """
    from pds_cli.errors import UserError
    from pds_cli.pictures.sheets import contact_sheet, save_image
    from pds_cli.runs.record import read_run

    first = read_run(runs[0])
    rows = [(first.source_prompt, first.path / layout.TURNTABLE_BEFORE.with_suffix(".mp4"))]
    rows += [(read_run(run).prompt, run / layout.TURNTABLE.with_suffix(".mp4")) for run in runs]
    missing = [str(path) for _, path in rows if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]} is missing: name finished runs of pds edit on a 3D scene")
    tiles = [frame for _, path in rows for frame in frames(path)]
    sheet = contact_sheet(tiles, COLUMNS, row_labels=[label for label, _ in rows], tile=TILE)
    return save_image(sheet, out)


def main(argv: Sequence[str]) -> list[Path]:
    """Writes the picture; returns its path."""
    check_words(argv, 2, None, __doc__)
    out, *runs = map(Path, argv)
    return [write_turntables(out, runs)]


if __name__ == "__main__":
    sys.exit(run(main))
