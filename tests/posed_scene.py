"""Grey pictures from three sides, and a NeRF as small as it gets for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pds_cli.scenes.base import Scene
from pds_cli.views.cameras import Camera, look_at
from pds_cli.views.view import Region, View

CENTRE = (1.0, -2.0, 0.5)
GRID = {"levels": 4, "features": 2, "log2_table": 10, "base_resolution": 4, "growth": 1.7}
SMALL: dict[str, Any] = {"grid": GRID, "hidden": 16, "occupancy": 16, "step": 0.1, "rays": 256}


class Posed(Scene):
    """Grey pictures from three sides of a cube that is not at the origin."""

    source_prompt = "a grey thing"

    def __init__(self, unbounded: bool = True, size: int = 16, radius: float = 2.0) -> None:
        self._region = Region(CENTRE, radius, unbounded, near=0.1, far=100.0)
        sides = ((6.0, 0.0, 1.0), (0.0, 6.0, 2.0), (-4.0, -4.0, 0.5))
        self._views = [
            View(f"view_{i}", torch.full((3, size, size), 0.5), seen_from(side, size))
            for i, side in enumerate(sides)
        ]

    @property
    def views(self) -> Sequence[View]:
        return self._views

    @property
    def region(self) -> Region:
        return self._region


def seen_from(
    side: Sequence[float], height: int = 16, width: int | None = None, focal: float = 1.5
) -> Camera:
    """A camera at CENTRE + side that looks at CENTRE."""
    width = width or height
    eye = [c + s for c, s in zip(CENTRE, side, strict=True)]
    pixels = focal * height
    return Camera(look_at(eye, CENTRE), pixels, pixels, width / 2, height / 2, width, height)
