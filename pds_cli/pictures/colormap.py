"""Colours for numbers: depth as a picture, on a map of even perceptual steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pds_cli.views.view import Rendering

# Tenths of the map viridis (S. van der Walt and N. Smith, CC0); colours in between are mixed
# linearly, which stays within 0.06 of it.
_VIRIDIS = (
    (0.267, 0.005, 0.329),
    (0.282, 0.143, 0.460),
    (0.254, 0.265, 0.530),
    (0.206, 0.374, 0.553),
    (0.164, 0.471, 0.558),
    (0.128, 0.565, 0.551),
    (0.135, 0.659, 0.518),
    (0.263, 0.747, 0.443),
    (0.478, 0.821, 0.318),
    (0.736, 0.873, 0.153),
    (0.993, 0.906, 0.144),
)


def viridis(values: Tensor) -> Tensor:
    """Colours [3,…] of values […] in [0,1]: from dark violet to bright yellow."""
    table = torch.tensor(_VIRIDIS, device=values.device)
    place = torch.nan_to_num(values).clamp(0, 1) * (len(table) - 1)
    below = place.floor().clamp(max=len(table) - 2).long()
    part = (place - below)[..., None]
    return torch.lerp(table[below], table[below + 1], part).movedim(-1, 0)


def depth_range(renderings: Sequence[Rendering], opaque: float = 0.5) -> tuple[float, float]:
    """The depths between which nearly all of what is seen lies: 1st to 99th percentile.

    Pixels less opaque than `opaque` do not count; (1, 1) where there are no others.
    """
    seen = [r.depth[r.opacity > opaque].flatten() for r in renderings]
    depths = torch.cat(seen).float().cpu().sort().values
    if not len(depths):
        return 1.0, 1.0
    near, far = (float(depths[round(q * (len(depths) - 1))]) for q in (0.01, 0.99))
    return near, far


def depth_picture(rendering: Rendering, near: float, far: float) -> Tensor:
    """Depth as a picture [3,H,W] in [0,1]: near is bright, and black is where nothing is.

    Colours go by 1/depth, which also tells near things apart where some are very far.

    near, far: depths that get the first and the last colour (`depth_range`).
    """
    inverse = 1 / rendering.depth.float().clamp_min(1e-6)
    low, high = 1 / max(far, 1e-6), 1 / max(near, 1e-6)
    shade = (inverse - low) / max(high - low, 1e-9)
    return viridis(shade) * rendering.opacity.clamp(0, 1)
