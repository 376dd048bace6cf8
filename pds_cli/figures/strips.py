"""What methods made of each edit, seen from several sides: a row of views each.

python -m pds_cli.figures.strips <out.png> <folder of pds compare benchmark=…> <method> …
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pds_cli.errors import UserError
from pds_cli.figures.paper import TITLES
from pds_cli.pictures.files import open_image
from pds_cli.pictures.sheets import contact_sheet, save_image
from pds_cli.reading import read_json
from pds_cli.runs import layout
from pds_cli.scripts import check_words, run

HEIGHT = 96


def write_strips(out: Path, bench: Path, methods: Sequence[str]) -> Path:
    """Under each edit's source a row a method; an edit that a method has not is left out of it.

    Raises:
        UserError: the folder holds no finished benchmark, or no picture of these methods.
    """
    try:
        found: Any = read_json(bench / layout.RESULTS)
        edits = [str(edit).replace(" ", "_") for edit in found["edits"]]
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"{bench} holds no finished benchmark ({error})") from error
    rows: list[tuple[str, Path]] = []
    for edit in edits:
        mine = [(TITLES.get(m, m), bench / edit / f"{m}.png") for m in methods]
        mine = [(title, path) for title, path in mine if path.is_file()]
        if mine:
            words = edit.replace("_", " ")
            rows += [(f"{words}: source", bench / edit / "sources.png"), *mine]
    if not rows:
        raise UserError(f"{bench} has no pictures of {', '.join(methods)}")
    pictures = []
    for _, path in rows:
        with open_image(path) as file:
            picture = file.convert("RGB")
        width = round(picture.width * HEIGHT / picture.height)
        pictures.append(picture.resize((width, HEIGHT), Image.Resampling.LANCZOS))
    longest = max(picture.width for picture in pictures)
    sheet = contact_sheet(pictures, 1, row_labels=[label for label, _ in rows], tile=longest)
    return save_image(sheet, out)


def main(argv: Sequence[str]) -> list[Path]:
    """Writes the picture; returns its path."""
    check_words(argv, 3, None, __doc__)
    return [write_strips(Path(argv[0]), Path(argv[1]), argv[2:])]


if __name__ == "__main__":
    sys.exit(run(main))
