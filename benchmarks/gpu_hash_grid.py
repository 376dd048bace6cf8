"""The hash grid on a GPU: whether it agrees with its plain twin, and how fast it is.

    python benchmarks/gpu_hash_grid.py [device=cuda] [points=131072] [repeats=20] [json=<file>]

What `encoding=auto` means on the device (tinycudann where it is installed, else PyTorch) is
compared with the plain PyTorch encoding on the CPU in double precision: features, and the
gradients to the table and to the positions; the largest difference of each is given in parts of
the largest number. Speed is against Numba's kernels on this machine's CPU. Prints Markdown, and
ends with exit code 1 where something differs by more than single precision explains.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _timing import median_ms
from _words import number, options, refuse, write_json
from torch import Tensor

from pds_cli.representations.nerf.encoding import GridLayout, HashGrid, hash_grid_torch

LAYOUTS = {
    "8 levels × 2, 2^15 entries": GridLayout(levels=8, features=2, log2_table=15),
    "16 levels × 2, 2^19 entries": GridLayout(levels=16, features=2, log2_table=19, growth=1.4),
}
CHECKED = 4096  # points of the comparison
# A position is rounded by up to 2⁻²⁵ of the 2,500 cells of the finest level, 7e-5 of a cell.
MOST = 1e-3


def answers(encode: Callable[[Tensor], Tensor], table: Tensor, points: Tensor) -> list[Tensor]:
    """Features, and the gradients of a fixed scalar to the table and the positions, on the CPU."""
    found = encode(points)
    weights = torch.linspace(0.5, 1.5, found.shape[1], dtype=found.dtype, device=found.device)
    to_table, to_points = torch.autograd.grad((found * weights).sum(), (table, points))
    return [value.detach().double().cpu() for value in (found, to_table, to_points)]


def difference(layout: GridLayout, device: str) -> dict[str, float]:
    """The largest differences between the device's grid and the plain twin."""
    generator = torch.Generator().manual_seed(0)
    grid = HashGrid(layout, device=device, generator=generator)
    points = torch.rand(CHECKED, 3, generator=generator)
    # A gradient to the positions jumps where a cell ends, and rounding decides on which side.
    cells = points[..., None].double() * torch.as_tensor(layout.scales) + 0.5
    inner = ((cells - cells.round()).abs() > 1e-2).flatten(1).all(1)
    points = points[inner]
    table = grid.table.detach().double().cpu().requires_grad_()
    exact = points.double().requires_grad_()
    wanted = answers(lambda x: hash_grid_torch(x, table, layout), table, exact)
    found = answers(grid, grid.table, points.to(device).requires_grad_())
    names = ("features", "to the table", "to the positions")
    return {
        name: float((a - b).abs().max() / b.abs().max())
        for name, a, b in zip(names, found, wanted, strict=True)
    }


def speed(layout: GridLayout, device: str, count: int, repeats: int) -> dict[str, float]:
    """Milliseconds of forward, and of forward and backward, on the device and on the CPU."""
    points = torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
    found: dict[str, float] = {}
    for place in dict.fromkeys((device, "cpu")):
        grid, there = HashGrid(layout, device=place), points.to(place)
        cuda = torch.device(place).type == "cuda"

        def forward(grid: HashGrid = grid, there: Tensor = there, cuda: bool = cuda) -> None:
            with torch.no_grad():
                grid(there)
            if cuda:
                torch.cuda.synchronize()

        def both(grid: HashGrid = grid, there: Tensor = there, cuda: bool = cuda) -> None:
            grid(there).sum().backward()
            if cuda:
                torch.cuda.synchronize()

        found[f"forward, {place}"] = median_ms(forward, repeats, seconds=4)
        found[f"forward + backward, {place}"] = median_ms(both, repeats, seconds=4)
    return found


def main(argv: list[str]) -> None:
    """Compares, measures, and prints two Markdown tables."""
    found = options(argv, {"device": "cuda", "points": "131072", "repeats": "20", "json": ""})
    device, count, repeats = found["device"], number(found, "points"), number(found, "repeats")
    if device == "cuda" and not torch.cuda.is_available():
        refuse("this benchmark needs a CUDA GPU; device=cpu tries the script itself")
    rows: list[dict[str, Any]] = []
    for name, layout in LAYOUTS.items():
        backend = HashGrid(layout, device=device).backend
        row: dict[str, Any] = {"grid": name, "backend": backend, "points": count}
        row |= {"difference": difference(layout, device)}
        row |= {"ms": speed(layout, device, count, repeats)}
        rows.append(row)
        if found["json"]:
            write_json(Path(found["json"]), {"device": device, "rows": rows})
        print(markdown(row, first=len(rows) == 1), flush=True)
    worst = max(max(row["difference"].values()) for row in rows)
    if not worst <= MOST:
        print(f"they differ by {worst:.2g}, more than {MOST:g}", file=sys.stderr)
        sys.exit(1)


def markdown(row: dict[str, Any], first: bool) -> str:
    """A row, under the table's head where it is the first."""
    heads, cells = ["grid", "backend"], [row["grid"], row["backend"]]
    for name, value in row["difference"].items():
        heads.append(f"differs, {name}")
        cells.append(f"{value:.1e}")
    for name, value in row["ms"].items():
        heads.append(f"{name}, ms")
        cells.append(f"{value:.2f}")
    line = f"| {' | '.join(cells)} |"
    return f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n{line}" if first else line


if __name__ == "__main__":
    main(sys.argv[1:])
