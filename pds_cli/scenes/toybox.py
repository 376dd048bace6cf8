"""A toy figure of the toybox, seen from many sides: the 3D scene of the demo."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.scenes.base import Scene, checked_front
from pds_cli.toybox.gallery import picture_tensor
from pds_cli.toybox.world import Figure, OrbitCamera, caption, orbit, true_edit
from pds_cli.views.view import Region, View

TRAINING, HELD_OUT = 42, 6  # pictures of each kind that ship with the package

# What a camera's picture shows sharply: the figure, what stands beside it, and the near floor.
REGION = Region(centre=(0.25, 0.0, 1.3), radius=2.0, near=3.0, far=60.0)


def shipped_views() -> list[tuple[Figure, OrbitCamera]]:
    """The pictures of the default scene, for `write_gallery(…, size=128, name="gallery_views")`."""
    cameras = [*orbit(TRAINING, 0, 360), *orbit(HELD_OUT, -175, 185)]
    return [(Figure(), camera) for camera in cameras]


class ToyboxScene(Scene):
    """Posed renders of one toy figure.

    Pictures that ship with the package are read from it; others are rendered, which needs the
    extra `pds[toybox]`.

    Args:
        figure: attributes of `Figure`, the rest at their defaults.
        source_prompt: what the pictures show; by default the figure's kind alone.
        size: side of the pictures in pixels.
        count: views, evenly spaced around the figure.
        edit_azimuth: an edit looks at the views within so many degrees of the front.
        held_out: views for measuring a reconstruction, from all sides.
        front: where the front is, see `Scene.front`; at 0 it is where the figure looks.

    Raises:
        UserError: an unknown attribute or value, or pictures that can be neither read nor
            rendered.
    """

    def __init__(
        self,
        figure: Mapping[str, str] | None = None,
        source_prompt: str | None = None,
        size: int = 128,
        count: int = TRAINING,
        edit_azimuth: float = 180.0,
        held_out: int = HELD_OUT,
        front: float | str | None = 0,
    ) -> None:
        try:
            self.figure = Figure(**dict(figure or {}))
        except TypeError as error:
            raise UserError(f"scene.figure has an unknown field: {error}") from error
        self.size = size
        self.source_prompt = source_prompt or caption(self.figure, [])
        self._cameras = orbit(count, 0, 360)
        self._views = self._seen("view", self._cameras)
        self.front = checked_front(front, self._views)
        self._held_out = self._seen("eval", orbit(held_out, -175, 185))
        self._edited = [i for i, c in enumerate(self._cameras) if c.aside <= edit_azimuth]
        if not self._edited:
            raise UserError(
                f"scene.edit_azimuth={edit_azimuth} leaves none of the {count} views to edit; "
                "180 leaves all"
            )

    @property
    def views(self) -> Sequence[View]:
        return self._views

    @property
    def edit_views(self) -> Sequence[View]:
        """The views within `edit_azimuth` of the front."""
        return [self._views[i] for i in self._edited]

    @property
    def eval_views(self) -> Sequence[View]:
        return self._held_out

    @property
    def region(self) -> Region:
        return REGION

    def ground_truth(self, prompt: str) -> Tensor | None:
        """The first of `ground_truth_views`, [3,H,W]."""
        views = self.ground_truth_views(prompt)
        return views[0].image if views else None

    def ground_truth_views(self, prompt: str) -> list[View]:
        """`edit_views` of the figure with only what `prompt` names changed.

        Empty where the toybox does not understand all of the prompt, and, with a word on stderr,
        where a picture is not shipped and cannot be rendered here.
        """
        figure, _ = true_edit(self.figure, prompt)
        if figure is None:
            return []
        try:
            truths = self._seen("view", self._cameras, figure)
        except UserError as error:
            print(f"pds: there are no scores against the true edit: {error}", file=sys.stderr)
            return []
        return [truths[i] for i in self._edited]

    def ground_truth_note(self, prompt: str) -> str:
        """Why there is no true edit, or that it is the source itself."""
        return true_edit(self.figure, prompt)[1]

    def _seen(
        self, name: str, cameras: Sequence[OrbitCamera], figure: Figure | None = None
    ) -> list[View]:
        return [
            View(
                f"{name}_{i:02d}",
                picture_tensor(figure or self.figure, camera, self.size),
                camera.camera(self.size),
            )
            for i, camera in enumerate(cameras)
        ]
