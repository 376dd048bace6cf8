"""What is seen: a source view, the region of a 3D scene, and what a camera sees of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from pds_cli.views.cameras import Camera


@dataclass(frozen=True)
class View:
    """One source view.

    image: [3,H,W] in [0,1], or None where the scene has no image of it.
    camera: the camera it was seen by; None for flat scenes.
    alpha: [1,H,W] in [0,1] where the file had transparency.
    backdrop: the colour that `image` was laid over where it is transparent; None: `image` holds
        the file's own colours.
    mask: [1,H,W], 0 where the image says nothing of the scene and reconstruction leaves it out.
    """

    name: str
    image: Tensor | None = None
    camera: Camera | None = None
    alpha: Tensor | None = None
    mask: Tensor | None = None
    backdrop: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Region:
    """Where in the world a scene of posed views is, in its own units.

    centre, radius: the cube centre ± radius that holds what matters most.
    unbounded: there is more to see outside the cube (it will be contracted).
    near, far: distances along a ray between which anything can be.
    up: the unit vector that points upwards.
    """

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius: float = 1.0
    unbounded: bool = True
    near: float = 0.05
    far: float = 1000.0
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Rendering:
    """What a camera sees of a 3D representation.

    rgb: [3,H,W] in [0,1], over the background.
    depth: [H,W], expected distance along the ray in world units.
    opacity: [H,W] in [0,1], how much of the ray the scene absorbs.
    """

    rgb: Tensor
    depth: Tensor
    opacity: Tensor
