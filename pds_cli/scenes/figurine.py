"""A toy figure of the toybox, seen from one camera: the quickest scene to edit."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.scenes.base import Scene
from pds_cli.toybox.gallery import picture_tensor
from pds_cli.toybox.world import Figure, OrbitCamera, caption, true_edit
from pds_cli.views.view import View


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
        size: int = 128,
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
        self.angles = {"front": (self.camera.azimuth, self.camera.elevation)}

    @property
    def views(self) -> Sequence[View]:
        """The one view."""
        return self._views

    def ground_truth(self, prompt: str) -> Tensor | None:
        """The same figure [3,H,W] with only what `prompt` names changed.

        None where the toybox does not understand all of the prompt, and, with a word on stderr,
        where the picture is not shipped and cannot be rendered here.
        """
        figure, _ = true_edit(self.figure, prompt)
        if figure is None:
            return None
        try:
            return picture_tensor(figure, self.camera, self.size)
        except UserError as error:
            print(f"pds: there are no scores against the true edit: {error}", file=sys.stderr)
            return None

    def ground_truth_note(self, prompt: str) -> str:
        """Why there is no true edit, or that it is the source itself."""
        return true_edit(self.figure, prompt)[1]
