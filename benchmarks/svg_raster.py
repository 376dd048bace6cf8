"""The SVG rasteriser's kernels over icons, and against the same in plain PyTorch.

    python benchmarks/svg_raster.py [icons=outputs/data/icons] [repeats=7]

Prints milliseconds (median over 30 drawings of the median over repeats) of forward and of
forward with the gradients of all numbers, and for a few drawings at 64 pixels the ratio to the
twin that the tests use. Without icon sets (`make icons`) the samples of the package are drawn.
"""

from __future__ import annotations

import random
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from _timing import median_ms
from numba import get_num_threads

from pds_cli.drawings.drawing import Drawing
from pds_cli.drawings.rasterise import TOLERANCE, Numbers, compiled, rasterise
from pds_cli.drawings.reading import parse_drawing
from pds_cli.drawings.values import IDENTITY, apply
from pds_cli.emoji.icons import load_set
from pds_cli.kernels import raster
from pds_cli.scenes.svg import SAMPLES

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def drawings(folder: str) -> list[Drawing]:
    """30 icons drawn at random from Twemoji, or what the package has."""
    if (Path(folder) / "node_modules").is_dir():
        icons = load_set(folder, "twemoji")
        texts = [icons[code].encode() for code in random.Random(0).sample(sorted(icons), 30)]
    else:
        texts = [path.read_bytes() for path in sorted(SAMPLES.glob("*.svg"))]
    return [parse_drawing(text) for text in texts]


def ours(drawing: Drawing, size: int, repeats: int) -> tuple[float, float]:
    """Milliseconds of forward, and of forward and backward."""
    program, numbers = compiled(drawing)
    placed = drawing.placed(size, size)
    numbers = numbers.to(torch.float32)
    free = Numbers(*(v.clone().requires_grad_() for v in vars(numbers).values()))
    forward = median_ms(lambda: rasterise(program, numbers, placed, size, size), repeats)
    both = median_ms(lambda: rasterise(program, free, placed, size, size).sum().backward(), repeats)
    return forward, both


def against_twin(drawing: Drawing, size: int, repeats: int) -> tuple[float, float]:
    """Milliseconds of forward and backward with plain PyTorch, and with the kernels."""
    from raster_twin import twin

    program, numbers = compiled(drawing)
    scale = drawing.placed(size, size)
    points = torch.from_numpy(apply(scale, numbers.points.numpy())).float()
    held = [points, *list(vars(numbers.to(torch.float32)).values())[1:]]
    free = Numbers(*(v.clone().requires_grad_() for v in held))
    _, origin, *_ = raster.flatten(points.numpy(), program.curves, program.contours, TOLERANCE)
    pieces = np.bincount(origin, minlength=len(program.curves)).tolist()
    white = (1.0, 1.0, 1.0, 1.0)
    slow = median_ms(lambda: twin(program, free, pieces, size, size, white).sum().backward(), 3)
    fast = median_ms(
        lambda: rasterise(program, free, IDENTITY, size, size).sum().backward(), repeats
    )
    return slow, fast


def main(argv: list[str]) -> None:
    """Measures and prints Markdown tables."""
    options = {"icons": "outputs/data/icons", "repeats": "7"}
    options |= dict(word.split("=", 1) for word in argv)
    repeats, found = int(options["repeats"]), drawings(options["icons"])
    shapes = sorted(len(d.shapes) for d in found)
    points = sorted(len(d.points()) for d in found)
    print(f"{get_num_threads()} threads, {len(found)} drawings", end=" ")
    print(f"({shapes[0]}–{shapes[-1]} shapes, {points[0]}–{points[-1]} points)\n")
    print("| pixels | forward, ms | forward + backward, ms | slowest drawing, ms |")
    print("|---|---|---|---|")
    for size in (128, 256, 512):
        times = [ours(drawing, size, repeats) for drawing in found]
        forward, both = (statistics.median(column) for column in zip(*times, strict=True))
        worst = max(pair[1] for pair in times)
        print(f"| {size} | {forward:.2f} | {both:.2f} | {worst:.2f} |")
    small = [d for d in found if not any(p.gradient for p in d.paints)][:5]
    pairs = [against_twin(drawing, 64, repeats) for drawing in small]
    slow, fast = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"\nAt 64 pixels, {len(small)} of them, forward + backward: plain PyTorch {slow:.1f} ms,")
    print(f"the kernels {fast:.2f} ms, {slow / fast:.0f} times.")


if __name__ == "__main__":
    main(sys.argv[1:])
