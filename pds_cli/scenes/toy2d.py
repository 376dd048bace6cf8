"""Two crescents of points in the plane: the scene of the 2D figure."""

from __future__ import annotations

from collections.abc import Sequence

from pds_cli.errors import check_choice
from pds_cli.options.scenes import LABELS
from pds_cli.scenes.base import Scene
from pds_cli.toybox.crescents import crescents
from pds_cli.views.view import View

#: (x_min, x_max, y_min, y_max) of a frame that holds both crescents with room to move.
EXTENT = (-1.75, 2.75, -1.5, 2.0)


class Toy2DScene(Scene):
    """The points of one crescent, to be edited into the other's label.

    Args:
        label: the crescent to start from, `a` or `b`; also the source prompt.
        points: how many points.
        noise: standard deviation of the points around the arc.
        seed: fixes the points; the default is the data that `backbone=mixture` models.

    Attributes:
        points: the source points [points,2], float64.
        extent: the frame (x_min, x_max, y_min, y_max) to draw them in.
    """

    def __init__(
        self, label: str = "a", points: int = 400, noise: float = 0.08, seed: int = 0
    ) -> None:
        check_choice("scene.label", label, LABELS)
        self.source_prompt = label
        self.points = crescents(points, noise, seed)[label]
        self.extent = EXTENT

    @property
    def views(self) -> Sequence[View]:
        """One view without an image: the points are the source."""
        return [View("points")]
