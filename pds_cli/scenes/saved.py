"""What a 3D result remembers of the scene that it was made from: where, and seen from where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pds_cli.scenes.base import Scene
from pds_cli.views.cameras import Camera
from pds_cli.views.poses import Similarity
from pds_cli.views.view import Region, View


class SavedScene(Scene):
    """Posed views without images, as a file of a result has them."""

    source_prompt = ""

    def __init__(
        self,
        region: Region,
        transform: Similarity,
        train: Mapping[str, Camera],
        held_out: Mapping[str, Camera],
    ) -> None:
        self._region, self.transform = region, transform
        self._views, self._held_out = (
            [View(name, camera=camera) for name, camera in cameras.items()]
            for cameras in (train, held_out)
        )

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> SavedScene:
        """A scene from a file's `region`, `transform` and `cameras`.

        Raises:
            ValueError, LookupError, TypeError, UserError: they are none.
        """
        train, held_out = (_cameras(found["cameras"][part]) for part in ("train", "eval"))
        transform = Similarity.from_dict(found["transform"])
        return cls(_region(found["region"]), transform, train, held_out)

    @property
    def views(self) -> Sequence[View]:
        """The views that it was fitted to."""
        return self._views

    @property
    def eval_views(self) -> Sequence[View]:
        """Those held out."""
        return self._held_out

    @property
    def region(self) -> Region:
        """Where the scene is."""
        return self._region


def _cameras(listed: Any) -> dict[str, Camera]:
    if not isinstance(listed, list) or not all(isinstance(entry["name"], str) for entry in listed):
        raise ValueError("its cameras have no names")
    return {entry["name"]: Camera.from_dict(entry) for entry in listed}


def _region(found: Mapping[str, Any]) -> Region:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
    }
    region = Region(**values)
    numbers = [*region.centre, *region.up, region.radius, region.near, region.far]
    finite = all(abs(float(value)) < 1e12 for value in numbers)
    lengths = len(region.centre) == len(region.up) == 3
    if not (finite and lengths and region.radius > 0 and 0 < region.near < region.far):
        raise ValueError("its region is nowhere")
    if abs(math.hypot(*region.up) - 1) > 1e-3 or not isinstance(region.unbounded, bool):
        raise ValueError("its region has no direction upwards")
    return region
