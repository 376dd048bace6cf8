"""The pictures of docs/svg.md and of the README: drawings, and edits of them by each loss.

    python -m pds_cli.figures.svg_edits outputs/bench/icon_edits [outputs/figures]

Takes what `pds compare benchmark=icon_edits` left.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pds_cli.figures.titles import METHODS
from pds_cli.scripts import paths, run

LOSSES = ("sds", "dds", "pds")
SIDE = 144
FEW = 4


def tiles(bench: Path) -> list[tuple[list[Tensor], list[str]]]:
    """For each edit: pictures [3,SIDE,SIDE] of the source and of each loss, and their labels."""
    from pds_cli.benchmarks.icons import EDITS, final_picture
    from pds_cli.pictures.files import resize

    def shown(folder: Path, which: str) -> Tensor:
        return resize(final_picture(folder, which), SIDE, SIDE)

    found = []
    for edit in EDITS:
        folders = [bench / edit.name.replace(" ", "_") / method for method in LOSSES]
        pictures = [shown(folders[0], "source"), *(shown(f, "result") for f in folders)]
        found.append((pictures, [edit.prompt, *(METHODS[method] for method in LOSSES)]))
    return found


def main(argv: Sequence[str]) -> list[Path]:
    """Writes `svg_edits.webp` (all) and `svg_four.webp` (the first four); returns their paths."""
    from pds_cli.pictures.sheets import contact_sheet, save_image

    bench, out = paths(argv, ("outputs/bench/icon_edits", "outputs/figures"), __doc__)
    found = tiles(bench)
    written = []
    for name, rows in (("svg_edits.webp", found), ("svg_four.webp", found[:FEW])):
        pictures = [picture for row, _ in rows for picture in row]
        labels = [label for _, row in rows for label in row]
        sheet = contact_sheet(pictures, 2 * (1 + len(LOSSES)), labels)
        written.append(save_image(sheet, out / name))
    return written


if __name__ == "__main__":
    sys.exit(run(main))
