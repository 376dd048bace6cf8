"""Points in the plane as a parametric image: θ is their coordinates."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.errors import UserError
from pds_cli.files import atomic_path
from pds_cli.representations.base import Representation
from pds_cli.scenes.toy2d import Toy2DScene
from pds_cli.views.view import View

_SOURCE_INK = (0.72, 0.72, 0.72)
_POINT_INK = (0.84, 0.37, 0.0)


class PointsRepresentation(Representation):
    """N points of the plane, optimised all at once: θ [N,2] is a batch of N latents [2,1,1].

    Unlike an image, `render_latent` returns N samples for the one view, and every point gets
    its own timestep and noise.

    Args:
        scene: a scene with `points` [M,2] and `extent`, such as `toy2d`.
        backbone: a backbone on data [B,2,1,1], such as `mixture`.
        n: how many of the scene's points to take, evenly spaced; None: all.
        raster: side in pixels of the drawing that `render` makes.

    Raises:
        UserError: a scene without points, a backbone of another shape, or n out of range.
    """

    initial: Tensor

    word = "points"

    def __init__(
        self, scene: Toy2DScene, backbone: Backbone, *, n: int | None = None, raster: int = 192
    ) -> None:
        super().__init__()
        points = getattr(scene, "points", None)
        if points is None:
            raise UserError("representation=points needs a scene of points; use scene=toy2d")
        if backbone.latent_shape != (2, 1, 1):
            raise UserError("representation=points needs a backbone on the plane: backbone=mixture")
        if n is not None and not 1 <= n <= len(points):
            raise UserError(f"representation.n={n} must lie between 1 and {len(points)}")
        if n is not None:
            points = points[torch.linspace(0, len(points) - 1, n).round().long()]
        self.extent, self.raster = scene.extent, raster
        points = points.float().to(backbone.device)
        self.register_buffer("initial", points.clone())
        self.points = torch.nn.Parameter(points)

    def render_latent(self, view: View) -> Tensor:
        """All points as a batch of latents [N,2,1,1]."""
        return self.points[:, :, None, None]

    def source_latent(self, view: View) -> Tensor:
        """The points before editing [N,2,1,1]: x_0^src, for a scene whose views have no image."""
        return self.initial[:, :, None, None]

    def render(self, view: View) -> Tensor:
        """A drawing [1,3,raster,raster]: sources grey, points orange, on white; for reports."""
        canvas = self.points.new_ones(3, self.raster, self.raster)
        for points, ink in ((self.initial, _SOURCE_INK), (self.points, _POINT_INK)):
            cover = self._cover(points)
            canvas = canvas * (1 - cover) + cover * canvas.new_tensor(ink)[:, None, None]
        return canvas[None]

    def _cover(self, points: Tensor) -> Tensor:
        """How much ink lies on each pixel [raster,raster], in [0, 1]; y points upwards."""
        x_min, x_max, y_min, y_max = self.extent
        side = max(x_max - x_min, y_max - y_min)
        centre = points.new_tensor([x_min + x_max, y_min + y_max]) / 2
        pixel = (torch.arange(self.raster, device=points.device) + 0.5) / self.raster - 0.5
        x, y = (((points - centre) / side).T)[:, :, None]
        radius = 0.006
        across = torch.exp(-0.5 * ((pixel - x) / radius) ** 2)
        down = torch.exp(-0.5 * ((-pixel - y) / radius) ** 2)
        return 1 - torch.exp(-2 * (down.T @ across))

    def export(self, folder: Path) -> list[Path]:
        """Writes `points.csv`: source and final coordinates of every point."""
        path = folder / "points.csv"
        rows = torch.cat([self.initial, self.points], dim=1).tolist()
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["x_source", "y_source", "x", "y"])
            writer.writerows(rows)
        return [path]
