"""How like resvg's our pictures of drawings nobody here drew are; `make fidelity`.

    python benchmarks/fidelity_svg.py [icons=outputs/data/icons] [count=1000]

1,000 icons of each open set (`make icons`) at 256 pixels over white, against resvg, an
independent rasteriser: median PSNR, and every icon below 25 dB.
"""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pds_cli.drawings.rasterise import compiled, rasterise
from pds_cli.drawings.reading import parse_drawing
from pds_cli.emoji.icons import SETS, load_set

SIZE = 256
LOW = 25.0


def by_resvg(text: str, width: int) -> np.ndarray:
    """[H,W,3] in [0,1] over white."""
    import resvg_py

    data = bytes(
        resvg_py.svg_to_bytes(
            svg_string=text, width=width, background="#ffffff", skip_system_fonts=True, dpi=96
        )
    )
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32) / 255


def by_pds(text: str, height: int, width: int) -> tuple[np.ndarray, list[str]]:
    """The same by our rasteriser, and what it says it leaves out."""
    drawing = parse_drawing(text.encode())
    program, numbers = compiled(drawing)
    placed = drawing.placed(width, height)
    image = rasterise(program, numbers.to(torch.float32), placed, height, width)
    return image[:3].permute(1, 2, 0).numpy(), drawing.warnings


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """In dB; 100 for equal pictures."""
    return float(-10 * np.log10(max(float(np.square(a - b).mean()), 1e-10)))


def main(argv: list[str]) -> None:
    """Measures and prints a Markdown table, and what is behind its last columns."""
    options = {"icons": "outputs/data/icons", "count": "1000"}
    options |= dict(word.split("=", 1) for word in argv)
    if not (Path(options["icons"]) / "node_modules").is_dir():
        sys.exit(f"{options['icons']} has no icon sets: run make icons first")
    print("| set | drawings | median, dB | 1st percentile, dB | below 25 dB | failed |")
    print("|---|---|---|---|---|---|")
    notes = []
    for name in SETS:
        icons = load_set(options["icons"], name)
        chosen = random.Random(0).sample(sorted(icons), min(int(options["count"]), len(icons)))
        scores, failed = [], 0
        for code in chosen:
            reference = by_resvg(icons[code], SIZE)
            try:
                picture, warnings = by_pds(icons[code], *reference.shape[:2])
            except Exception as error:  # a crash is what is counted here
                failed += 1
                notes.append(f"{name} {code}: {error!r}")
                continue
            scores.append(psnr(picture, reference))
            if scores[-1] < LOW:
                notes.append(f"{name} {code}: {scores[-1]:.1f} dB {'; '.join(warnings)}")
        low = sum(score < LOW for score in scores)
        median, first = np.percentile(scores, [50, 1])
        print(f"| {name} | {len(chosen)} | {median:.1f} | {first:.1f} | {low} | {failed} |")
    print()
    for note in notes:
        print(f"- {note}")


if __name__ == "__main__":
    main(sys.argv[1:])
