"""A scene of one SVG drawing."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from pds_cli.drawings.drawing import Drawing
from pds_cli.drawings.reading import read_drawing
from pds_cli.errors import UserError
from pds_cli.scenes.base import Scene
from pds_cli.views.view import View

_MOST_SAID = 20
SAMPLES = Path(__file__).parents[1] / "data" / "svg"


class SVGScene(Scene):
    """One SVG file and a prompt that says what it shows.

    Args:
        path: an SVG file, or the name of a sample of the package (without `.svg`).
        source_prompt: what the drawing shows now; None: its `<title>`.
        size: longer side in pixels of the picture that results are compared with.

    What of the file is not drawn (text, filters, …) is said on stderr.

    Attributes:
        drawing: what the file draws.

    Raises:
        UserError: no path, no source prompt and no title, a file that `read_drawing` refuses, or a
            picture too small to be compared.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        source_prompt: str | None = None,
        size: int = 256,
    ) -> None:
        if path is None or not os.fspath(path).strip():
            raise UserError("scene.path=… is needed: the drawing to edit, e.g. scene.path=cat.svg")
        samples = {sample.stem: sample for sample in SAMPLES.glob("*.svg")}
        self.drawing: Drawing = read_drawing(samples.get(os.fspath(path), path))
        said = self.drawing.title if source_prompt is None else source_prompt.strip()
        if not said:
            raise UserError(
                "source=… is needed, as the drawing has no title: say what it shows now, "
                'e.g. source="a cat face"'
            )
        self.source_prompt = said
        if not self.drawing.shapes:
            raise UserError(f"{path} draws nothing that can be edited: it has no filled shapes")
        warnings = self.drawing.warnings
        more = len(warnings) - _MOST_SAID
        rest = [f"and {more} things more"] if more > 0 else []
        for warning in [*warnings[:_MOST_SAID], *rest]:
            print(f"pds: {path}: {warning}", file=sys.stderr)
        self._views = [View(Path(path).stem, self._picture(size))]

    def _picture(self, size: int) -> torch.Tensor:
        from pds_cli.drawings.rasterise import compiled, rasterise

        width, height = self.drawing.pixels(size)
        program, numbers = compiled(self.drawing)
        placed = self.drawing.placed(width, height)
        return rasterise(program, numbers.to(torch.float32), placed, height, width)[:3]

    @property
    def views(self) -> Sequence[View]:
        """The one view: the drawing over white."""
        return self._views
