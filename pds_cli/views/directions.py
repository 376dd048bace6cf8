"""From which side a camera looks at a scene: azimuth, elevation, and the name of that direction.

Angles are degrees. Azimuths turn about the scene's `up` and are counted from its front,
counterclockwise as seen from above: at 90 a camera sees the left side of who looks to the front.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.options.view_prompts import ABOVE, OVERHEAD, SIDES
from pds_cli.views.cameras import Camera
from pds_cli.views.paths import look_at_point
from pds_cli.views.poses import mean_up, rotation_to_z
from pds_cli.views.view import Region

log = logging.getLogger(__name__)

# Below this length a mean of unit directions says no side: an even arc of 270° has 0.3.
_SCATTERED = 0.3


def direction(
    azimuth: float, elevation: float = 0.0, sectors: int = 8, overhead: float = OVERHEAD
) -> str:
    """The name of a direction: `above`, or a side out of `SIDES`.

    Args:
        azimuth: from the front; each side is the middle of its sector.
        sectors: how many sides there are: 8, or 4 for every second of them.
        overhead: elevations above this are `above`.

    >>> direction(0), direction(-50), direction(100, 20, sectors=4), direction(100, 80)
    ('front', 'front_right', 'left', 'above')
    """
    if elevation > overhead:
        return ABOVE
    return SIDES[:: len(SIDES) // sectors][math.floor(azimuth * sectors / 360 + 0.5) % sectors]


def towards(azimuth: float, up: Tensor) -> Tensor:
    """The unit direction [3] across the unit vector `up` [3] at an azimuth in the world.

    Where up is +z, 0 is −y, as in Blender's front view, and 90 is +x. Another `up` takes both
    along by the smallest rotation from +z: where it is +y, 0 is +z, as in glTF.
    """
    axis = rotation_to_z(up).T @ up.new_tensor([0.0, -1.0, 0.0])
    angle = math.radians(azimuth)
    return math.cos(angle) * axis + math.sin(angle) * torch.linalg.cross(up, axis)


@dataclass(frozen=True)
class Compass:
    """Where a scene is, where up is, and where its front.

    Attributes:
        centre: the point [3] that is looked at.
        up, front: unit vectors [3] at right angles; a camera in the front's direction looks the
            scene in the face.
    """

    centre: Tensor
    up: Tensor
    front: Tensor

    @classmethod
    def of(
        cls,
        cameras: Mapping[str, Camera],
        region: Region | None = None,
        front: float | str | None = None,
        edited: Collection[str] | None = None,
    ) -> Compass:
        """The compass of a scene that cameras look at.

        Args:
            cameras: at least one, by their views' names; what they look at together is the centre.
            region: where the scene is and where up; without one, up is what the cameras call so.
            front: an azimuth for `towards`, or the name of a view that looks from there. None:
                where the edited views look from on average; or, where they are all around, so
                that no side is meant, the first of them, with a warning.
            edited: the names of those views; None: all.

        Raises:
            UserError: cameras that look at nothing together, or from right above so that no front
                can be told.
        """
        poses = torch.stack([camera.camera_to_world for camera in cameras.values()]).double().cpu()
        centre = look_at_point(list(cameras.values()), region)
        up = centre.new_tensor(mean_up(poses) if region is None else region.up)
        up = up / up.norm()
        if isinstance(front, int | float):
            return cls(centre, up, towards(front, up))
        places = {name: camera.position.to(up) - centre for name, camera in cameras.items()}
        if front is not None:
            return cls(centre, up, _side({front: places[front]}, up))
        return cls(centre, up, _side({name: places[name] for name in edited or cameras}, up))

    def angles(self, camera: Camera) -> tuple[float, float]:
        """The azimuth in [0, 360) and the elevation in [−90, 90] that a camera looks from."""
        offset = camera.position.to(self.centre) - self.centre
        ahead, rise = float(offset @ self.front), float(offset @ self.up)
        aside = float(offset @ torch.linalg.cross(self.up, self.front))
        azimuth = math.degrees(math.atan2(aside, ahead)) % 360 % 360  # −1e−20 % 360 is 360
        return azimuth, math.degrees(math.atan2(rise, math.hypot(ahead, aside)))


def _side(places: Mapping[str, Tensor], up: Tensor) -> Tensor:
    """The mean unit direction [3] across `up` of places [3], by name; of the first if none is."""
    across = {name: place - (place @ up) * up for name, place in places.items()}
    sides = {
        name: level / level.norm()
        for name, level in across.items()
        if float(level.norm()) > 1e-3 * float(places[name].norm())
    }
    if not sides:
        raise UserError(
            f"{next(iter(places))} would be the front, seen from right above: give "
            "scene.front=<degrees>"
        )
    mean = torch.stack(list(sides.values())).mean(0)
    if float(mean.norm()) < _SCATTERED:
        name, mean = next(iter(sides.items()))
        log.warning(
            "the views look from all around: the front is taken to be where %s looks from; "
            "scene.front=<view or degrees> says otherwise",
            name,
        )
    return mean / mean.norm()
