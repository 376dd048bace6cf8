"""A drawing: its shapes, paints and groups in the order of painting."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from lxml import etree

from pds_cli.drawings import paint as paints
from pds_cli.drawings.outline import Outline
from pds_cli.drawings.styles import remember
from pds_cli.drawings.values import Matrix, view_matrix


@dataclass
class Shape:
    """One filled outline.

    element: the `path` element that it is written to.
    first: where its points begin among those of the drawing.
    opacity: of its fill, all of its own opacities multiplied.
    """

    element: etree._Element
    outline: Outline
    first: int
    rule: int
    paint: int
    opacity: float

    @property
    def points(self) -> slice:
        """Its points among those of the drawing."""
        return slice(self.first, self.first + len(self.outline.points))


@dataclass
class Paint:
    """A colour (`rgb`) or a gradient, and the element that says so."""

    rgb: tuple[float, float, float] | None = None
    gradient: paints.Gradient | None = None
    element: etree._Element | None = None


@dataclass
class Drawing:
    """What a file draws.

    root: the document; shapes' `d` and paints are brought up to date by `write`.
    box: the part of the drawing's coordinates that is shown (x, y, width, height).
    size: of the picture, in its own units; only its proportions matter here.
    aspect: how the box fits into the picture, SVG's `preserveAspectRatio`.
    ops: [O,2], see `pds_cli.kernels.raster`.
    groups: the elements with an opacity of their own, and that opacity; None for those that only
        clip.
    """

    root: etree._Element
    box: tuple[float, float, float, float]
    size: tuple[float, float]
    aspect: str | None
    shapes: list[Shape] = field(default_factory=list)
    paints: list[Paint] = field(default_factory=list)
    ops: list[tuple[int, int]] = field(default_factory=list)
    groups: list[tuple[etree._Element | None, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Remembers, once, what is not drawn as the file says."""
        remember(self.warnings, text)

    @property
    def title(self) -> str | None:
        """What the file says that it shows, its `<title>`; None where it says nothing."""
        found = self.root.find("{*}title")
        words = " ".join((found.text or "").split()) if found is not None else ""
        return words or None

    def placed(self, width: int, height: int) -> Matrix:
        """From the drawing's coordinates to pixels of a picture [height,width]."""
        fit = view_matrix(self.box, *self.size, self.aspect)
        stretch = np.diag([width / self.size[0], height / self.size[1]])
        return np.asarray(stretch @ fit)

    def pixels(self, size: int) -> tuple[int, int]:
        """Width and height of a picture with that longer side."""
        longer = max(self.size)
        return tuple(max(1, round(size * side / longer)) for side in self.size)  # type: ignore[return-value]

    def points(self) -> np.ndarray:
        """[N,2] the points of all shapes, in the drawing's coordinates."""
        parts = [shape.outline.points for shape in self.shapes]
        return np.concatenate(parts) if parts else np.zeros((0, 2))
