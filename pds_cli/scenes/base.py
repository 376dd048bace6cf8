"""The contract of a scene: what is edited, its source views and its source prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from pds_cli.errors import UserError, did_you_mean
from pds_cli.options.ranges import TURN, shown
from pds_cli.views.poses import IDENTITY, Similarity
from pds_cli.views.view import Region, View


class Scene(ABC):
    """A sequence of source views with a prompt that describes them."""

    source_prompt: str
    transform: Similarity = IDENTITY
    """From the coordinates of what was captured to the scene's own."""
    front: float | str | None = None
    """Where the front of a 3D scene is, as `Compass.of` of `pds_cli.views.directions` takes it."""
    angles: Mapping[str, tuple[float, float]] = MappingProxyType({})
    """Azimuth and elevation in degrees, as of `Compass.angles`, that flat views look from, by their
    names, where that is known."""
    sparse_points: tuple[Tensor, Tensor] | None = None
    """Places [N,3] on what is seen and their colours [N,3] in [0,1], where the capture has some."""

    limits: Mapping[str, Tensor] = MappingProxyType({})
    """A view's name → where an edit may change it, see `read_limits`; empty: everywhere."""

    @property
    @abstractmethod
    def views(self) -> Sequence[View]:
        """All source views."""

    @property
    def edit_views(self) -> Sequence[View]:
        """The views that an edit looks at: all, unless the scene knows better."""
        return self.views

    @property
    def eval_views(self) -> Sequence[View]:
        """Views held out of `views`, for measuring a reconstruction."""
        return []

    @property
    def region(self) -> Region | None:
        """Where the scene is, for scenes of posed views."""
        return None

    def undistort(self) -> None:  # noqa: B027 - optional
        """Makes all views those of pinhole cameras, once and for all.

        For what cannot draw lenses. Where no view has a lens there is nothing to do.
        """

    def ground_truth(self, prompt: str) -> Tensor | None:
        """The true image [3,H,W] of the edit named by `prompt`, where the scene knows it.

        It is seen from the first of `edit_views`.
        """
        return None

    def ground_truth_views(self, prompt: str) -> Sequence[View]:
        """Those of `edit_views` that the scene knows, of the true edit named by `prompt`."""
        truth = self.ground_truth(prompt)
        return [] if truth is None else [replace(self.edit_views[0], image=truth)]

    def ground_truth_note(self, prompt: str) -> str:
        """What a person should know of the true edit named by `prompt`, as why there is none.

        Empty where there is nothing to say, as for scenes that know of no true edits.
        """
        return ""


def checked_front(front: Any, views: Sequence[View]) -> float | str | None:
    """`Scene.front` from an option: degrees, the name of one of the views, or None.

    Raises:
        UserError: something else.
    """
    names = [view.name for view in views]
    number = isinstance(front, int | float) and not isinstance(front, bool)
    if (number and TURN.holds(front)) or front in (None, *names):
        return front  # type: ignore[no-any-return]
    near = did_you_mean(front, names) if isinstance(front, str) else "."
    raise UserError(
        f"scene.front={shown(front)} is neither a number of degrees nor a view of this scene that "
        f"is not held out{near}"
    )
