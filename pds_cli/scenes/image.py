"""A scene of one image file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from pds_cli.errors import UserError
from pds_cli.pictures.files import over_white, read_image
from pds_cli.scenes.base import Scene
from pds_cli.views.view import View


class ImageScene(Scene):
    """One image file at its original size, and a prompt that says what it shows.

    Args:
        path: PNG, JPEG or WebP file.
        source_prompt: what the image shows now.

    The view's image lies over white where the file is transparent, and carries the file's alpha,
    which an export puts back.

    Raises:
        UserError: no path, no source prompt, or a file that `read_image` refuses.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, source_prompt: str | None = None
    ) -> None:
        if path is None or not os.fspath(path).strip():
            raise UserError("scene.path=… is needed: the image to edit, e.g. scene.path=photo.jpg")
        if source_prompt is None or not source_prompt.strip():
            raise UserError(
                "source=… is needed: say what the image shows now, e.g. "
                'source="a photo of a man in a blue shirt"'
            )
        self.source_prompt = source_prompt
        view = read_image(path)
        assert view.image is not None
        self._views = [dataclasses.replace(view, image=over_white(view.image, view.alpha))]

    @property
    def views(self) -> Sequence[View]:
        """The one view."""
        return self._views
