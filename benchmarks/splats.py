"""The splat rasteriser's kernels, forward and with all gradients, and against plain PyTorch.

    python benchmarks/splats.py [repeats=9]

Random Gaussians before a camera, whose sizes fall as their number grows, so that all fill the
picture. Prints milliseconds (median) and, for the smallest, the ratio to the same in plain PyTorch
(`rasterise_torch`), tile by tile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from _timing import median_ms
from numba import get_num_threads
from torch import Tensor

from pds_cli.splats.rasterise import Gaussians, rasterise, rasterise_torch
from pds_cli.views.cameras import Camera, look_at

SCENES = ((5_000, 128, 128, 0.055), (20_000, 288, 512, 0.03), (50_000, 288, 512, 0.02))
"""Gaussians, height, width, and the median of their standard deviations in world units."""


def scene(count: int, height: int, width: int, size: float) -> tuple[Gaussians, Camera]:
    """Gaussians of standard normal centres, four units before the camera."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    scales = torch.tensor(size).log() + 0.5 * normal(count, 3)
    values = torch.rand(count, 4, generator=generator)
    found = (normal(count, 3), normal(count, 4), scales, values[:, 0], values[:, 1:])
    gaussians = Gaussians(*(x.contiguous().requires_grad_() for x in found))
    pose, focal = look_at((0.0, -4.0, 0.0), (0.0, 0.0, 0.0)), 1.2 * width
    return gaussians, Camera(pose, focal, focal, width / 2, height / 2, width, height)


def forward(draw: Any, gaussians: Gaussians, camera: Camera) -> Callable[[], None]:
    """One drawing without a graph."""

    def work() -> None:
        with torch.no_grad():
            draw(gaussians, camera)

    return work


def both(draw: Any, gaussians: Gaussians, camera: Camera) -> Callable[[], None]:
    """One drawing with the gradients of everything."""

    def work() -> None:
        drawn = draw(gaussians, camera)
        (drawn.color.sum() + drawn.depth.sum() + drawn.opacity.sum()).backward()

    return work


def main(argv: list[str]) -> None:
    """Measures and prints a Markdown table."""
    options = {"repeats": "9", **dict(word.split("=", 1) for word in argv)}
    repeats = int(options["repeats"])
    print(f"{get_num_threads()} threads\n")
    print("| Gaussians | pixels | forward ms | with gradients ms | in plain PyTorch |")
    print("|---|---|---|---|---|")
    for number, (count, height, width, size) in enumerate(SCENES):
        seen = scene(count, height, width, size)
        once, whole = (median_ms(kind(rasterise, *seen), repeats) for kind in (forward, both))
        ratio = "–"
        if number == 0:
            ratio = f"{median_ms(both(rasterise_torch, *seen), 3) / whole:.0f} × as long"
        print(f"| {count:,} | {height}×{width} | {once:.1f} | {whole:.1f} | {ratio} |")


if __name__ == "__main__":
    main(sys.argv[1:])
