"""A toy figure of the toybox, seen from many sides: the 3D scene of the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pds_cli.errors import UserError
from pds_cli.scenes.base import Region, Scene, View
from pds_cli.toybox.gallery import picture_tensor
from pds_cli.toybox.world import Figure, OrbitCamera, caption, edited, parse_caption

# The golden ratio's fractional part spreads any number of elevations evenly.
_GOLDEN = 0.6180339887

# What a camera's picture shows sharply: the figure, what stands beside it, and the near floor.
REGION = Region(centre=(0.25, 0.0, 1.3), radius=2.0, near=3.0, far=60.0)


def orbit(
    count: int, first: float, last: float, *, low: float = 6.0, high: float = 28.0
) -> list[OrbitCamera]:
    """Cameras at evenly spaced azimuths from `first` to `last`, elevations spread low to high."""
    step = (last - first) / max(1, count)
    return [
        OrbitCamera(
            azimuth=round(first + (i + 0.5) * step, 3),
            elevation=round(low + (high - low) * (i * _GOLDEN % 1), 3),
        )
        for i in range(count)
    ]


def shipped_views() -> list[tuple[Figure, OrbitCamera]]:
    """The pictures of the default scene, for `write_gallery(…, size=128, name="gallery_views")`."""
    cameras = [*orbit(24, -50, 50), *orbit(18, 50, 310), *orbit(6, -175, 185)]
    return [(Figure(), camera) for camera in cameras]


class ToyboxScene(Scene):
    """Posed renders of one toy figure.

    Pictures that ship with the package are read from it; others are rendered, which needs the
    extra `pds[toybox]`.

    Args:
        figure: attributes of `Figure`, the rest at their defaults.
        source_prompt: what the pictures show; by default the figure's kind alone.
        size: side of the pictures in pixels.
        front, back: number of views from the front (azimuth within ±50°, where the toybox
            backbone knows figures; these are the views that an edit uses) and from elsewhere.
        held_out: views for measuring a reconstruction, from all sides.

    Raises:
        UserError: an unknown attribute or value, or pictures that can be neither read nor
            rendered.
    """

    def __init__(
        self,
        figure: Mapping[str, str] | None = None,
        source_prompt: str | None = None,
        size: int = 128,
        front: int = 24,
        back: int = 18,
        held_out: int = 6,
    ) -> None:
        try:
            self.figure = Figure(**dict(figure or {}))
        except TypeError as error:
            raise UserError(f"scene.figure has an unknown field: {error}") from error
        self.size = size
        self.source_prompt = source_prompt or caption(self.figure, [])
        self._front = self._seen("front", orbit(front, -50, 50))
        self._back = self._seen("back", orbit(back, 50, 310))
        self._held_out = self._seen("eval", orbit(held_out, -175, 185))

    @property
    def views(self) -> Sequence[View]:
        """All views for reconstruction; those of the front come first."""
        return [*self._front, *self._back]

    @property
    def edit_views(self) -> Sequence[View]:
        """The views of the front."""
        return self._front

    @property
    def eval_views(self) -> Sequence[View]:
        return self._held_out

    @property
    def region(self) -> Region:
        return REGION

    def ground_truth_views(self, prompt: str) -> list[View]:
        """`edit_views` of the edited figure; empty where the toybox cannot know or render it."""
        if not parse_caption(prompt):
            return []
        try:
            return self._seen(
                "front", orbit(len(self._front), -50, 50), edited(self.figure, prompt)
            )
        except UserError:
            return []

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
