"""The hash grid's CPU kernels against the same encoding in plain PyTorch.

    python benchmarks/hash_grid.py [points=131072] [repeats=7]

Prints milliseconds (median) of forward and of forward with the table's gradient, and the ratios.
"""

from __future__ import annotations

import sys

import torch
from _timing import median_ms

from pds_cli.representations.nerf.encoding import GridLayout, HashGrid


def main(argv: list[str]) -> None:
    """Measures and prints a Markdown table."""
    options = {"points": "131072", "repeats": "7", **dict(word.split("=", 1) for word in argv)}
    repeats = int(options["repeats"])
    points = torch.rand(int(options["points"]), 3, generator=torch.Generator().manual_seed(0))
    layouts = {
        "8 levels × 2, 2^15 entries": GridLayout(levels=8, features=2, log2_table=15),
        "16 levels × 2, 2^19 entries": GridLayout(levels=16, features=2, log2_table=19, growth=1.4),
    }
    print(f"{torch.get_num_threads()} threads, {len(points)} points\n")
    print("| grid | what | torch, ms | numba, ms | ratio |")
    print("|---|---|---|---|---|")
    for name, layout in layouts.items():
        grids = {backend: HashGrid(layout, backend) for backend in ("torch", "numba")}

        def forward(grid: HashGrid) -> None:
            with torch.no_grad():
                grid(points)

        def both(grid: HashGrid) -> None:
            grid(points).sum().backward()

        for what, work in (("forward", forward), ("forward + backward", both)):
            slow, fast = (
                median_ms(lambda: work(grids[backend]), repeats)  # noqa: B023
                for backend in ("torch", "numba")
            )
            print(f"| {name} | {what} | {slow:.1f} | {fast:.1f} | {slow / fast:.1f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
