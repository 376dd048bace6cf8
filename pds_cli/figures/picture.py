"""A picture that a run wrote, as the small one that a page shows.

python -m pds_cli.figures.picture outputs/bench/methods/edits.png outputs/figures/methods.webp
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pds_cli.pictures.sheets import save_image
from pds_cli.scripts import check_words, run


def main(argv: Sequence[str]) -> list[Path]:
    """Writes the picture in the format of the second word's suffix; returns its path."""
    check_words(argv, 2, 2, __doc__)
    return [save_image(argv[0], Path(argv[1]))]


if __name__ == "__main__":
    sys.exit(run(main))
