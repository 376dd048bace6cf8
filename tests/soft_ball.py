"""A ball with known density and colour, as a 3D representation: for tests of what shows such."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pds_cli.representations.spatial import Volumetric
from pds_cli.scenes.saved import SavedScene
from pds_cli.views.cameras import Camera, look_at
from pds_cli.views.poses import IDENTITY
from pds_cli.views.view import Region, Rendering, View

CENTRE = (1.0, -2.0, 0.5)


def ring(
    count: int = 6, size: int = 32, distance: float = 6.0, height: float = 2.0
) -> list[Camera]:
    """Cameras round the ball, evenly, counterclockwise from +x."""
    x, y, z = CENTRE
    level = math.sqrt(distance**2 - height**2)
    angles = [2 * math.pi * i / count for i in range(count)]
    places = [(x + level * math.cos(a), y + level * math.sin(a), z + height) for a in angles]
    return [
        Camera(look_at(place, CENTRE), 1.5 * size, 1.5 * size, size / 2, size / 2, size, size)
        for place in places
    ]


class SoftBall(Volumetric):
    """A ball of `radius` whose density falls from 2·`solid` to 0 about its surface.

    The colour of a point is ½ + ½ · its direction from the centre, times `bright` where it is seen
    along that direction from inside; so a surface seen from outside shows its normal.
    """

    def __init__(self, radius: float = 0.8, solid: float = 20.0, soft: float = 0.02) -> None:
        train = {f"train_{i}": camera for i, camera in enumerate(ring())}
        held_out = {"eval_0": ring(1, height=3.0)[0]}
        region = Region(CENTRE, radius=1.5, near=0.5, far=50.0)
        super().__init__(SavedScene(region, IDENTITY, train, held_out), {})
        self.radius, self.solid, self.soft = radius, solid, soft
        self.others: list[tuple[tuple[float, float, float], float]] = []  # centres and radii

    def density(self, points: Tensor) -> Tensor:
        found = torch.zeros(len(points))
        for centre, radius in [(CENTRE, self.radius), *self.others]:
            depth = radius - (points - torch.tensor(centre)).norm(dim=-1)
            found += 2 * self.solid * torch.sigmoid(depth / self.soft)
        return found

    def color(self, points: Tensor, directions: Tensor) -> Tensor:
        normal = torch.nn.functional.normalize(points - torch.tensor(CENTRE), dim=-1)
        outside = (normal * directions).sum(-1, keepdim=True) < 0
        return (0.5 + 0.5 * normal) * torch.where(outside, 1.0, 0.2)

    def render(self, view: View) -> Tensor:
        """See `render_camera`."""
        assert view.camera is not None
        return self.render_camera(view.camera).rgb[None]

    def render_camera(self, camera: Camera) -> Rendering:
        """By simple marching over white."""
        origins, directions = camera.rays()
        t = torch.linspace(3.0, 9.0, 301)
        points = origins[:, None] + t[None, :, None] * directions[:, None]
        optical = self.density(points.reshape(-1, 3)).reshape(len(origins), -1) * float(t[1] - t[0])
        weights = torch.exp(optical - optical.cumsum(1)) * -torch.expm1(-optical)
        along = directions.repeat_interleave(len(t), 0)
        colors = self.color(points.reshape(-1, 3), along).reshape(*points.shape)
        opacity = weights.sum(1)
        rgb = (weights[..., None] * colors).sum(1) + (1 - opacity)[:, None]
        depth = (weights * t).sum(1) / opacity.clamp_min(1e-6)
        size = (camera.height, camera.width)
        return Rendering(rgb.T.reshape(3, *size), depth.reshape(size), opacity.reshape(size))
