"""A run's turntables as one picture: before the edit above, after it below.

python -m pds_cli.figures.turntables <run folder of pds edit> [docs/figures/nerf.png]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

COLUMNS = 8


def frames(path: Path) -> list[np.ndarray]:
    """Evenly spaced frames of a GIF, uint8 [H,W,3] each."""
    with Image.open(path) as film:
        found = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    return found[:: max(1, len(found) // COLUMNS)][:COLUMNS]


def main(argv: list[str]) -> Path:
    """Writes the picture; returns its path."""
    exports = Path(argv[0]) / "exports"
    out = Path(argv[1] if len(argv) > 1 else "docs/figures/nerf.png")
    rows = [np.concatenate(frames(exports / f"{name}.gif"), 1) for name in
            ("turntable_before", "turntable")]  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(out, optimize=True)
    return out


if __name__ == "__main__":
    print(main(sys.argv[1:]))
