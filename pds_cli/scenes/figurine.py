"""A toy figure of the toybox, seen from one camera: the quickest scene to edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.scenes.base import Scene, View
from pds_cli.toybox.gallery import picture_tensor
from pds_cli.toybox.world import Figure, OrbitCamera, caption, edited, parse_caption


class FigurineScene(Scene):
    """One rendered toy figure.

    Pictures that ship with the package are read from it; any other figure or camera is rendered,
    which needs the extra `pds[toybox]`.

    Args:
        figure: attributes of `Figure`, the rest at their defaults.
        camera: fields of `OrbitCamera`, the rest at their defaults.
        source_prompt: what the picture shows; by default the figure's kind alone.
        size: side of the picture in pixels.

    Raises:
        UserError: an unknown attribute or value, or a picture that can be neither read nor
            rendered.
    """

    def __init__(
        self,
        figure: Mapping[str, str] | None = None,
        camera: Mapping[str, Any] | None = None,
        source_prompt: str | None = None,
        size: int = 64,
    ) -> None:
        try:
            self.figure = Figure(**dict(figure or {}))
            self.camera = OrbitCamera(**dict(camera or {}))
        except TypeError as error:
            raise UserError(
                f"scene.figure or scene.camera has an unknown field: {error}"
            ) from error
        self.size = size
        self.source_prompt = source_prompt or caption(self.figure, [])
        self._views = [View("front", picture_tensor(self.figure, self.camera, size))]

    @property
    def views(self) -> Sequence[View]:
        """The one view."""
        return self._views

    def ground_truth(self, prompt: str) -> Tensor | None:
        """The same figure [3,H,W] with only what `prompt` names changed.

        None where the prompt names nothing that the toybox knows, or the picture is not shipped
        and cannot be rendered here.
        """
        if not parse_caption(prompt):
            return None
        try:
            return picture_tensor(edited(self.figure, prompt), self.camera, self.size)
        except UserError:
            return None
