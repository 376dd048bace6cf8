"""The contract of a scene: what is edited, its source views and its source prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from pds_cli.scenes.poses import IDENTITY, Similarity

if TYPE_CHECKING:
    from pds_cli.scenes.cameras import Camera


@dataclass(frozen=True)
class View:
    """One source view.

    image: [3,H,W] in [0,1], or None where the scene has no image of it.
    camera: the camera it was seen by; None for flat scenes.
    alpha: [1,H,W] in [0,1] where the file had transparency.
    backdrop: the colour that `image` was laid over where it is transparent; None: `image` holds
        the file's own colours.
    mask: [1,H,W], 0 where the image says nothing of the scene and reconstruction leaves it out.
    """

    name: str
    image: Tensor | None = None
    camera: Camera | None = None
    alpha: Tensor | None = None
    mask: Tensor | None = None
    backdrop: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Region:
    """Where in the world a scene of posed views is, in its own units.

    centre, radius: the cube centre ± radius that holds what matters most.
    unbounded: there is more to see outside the cube (it will be contracted).
    near, far: distances along a ray between which anything can be.
    up: the unit vector that points upwards.
    """

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius: float = 1.0
    unbounded: bool = True
    near: float = 0.05
    far: float = 1000.0
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)


class Scene(ABC):
    """A sequence of source views with a prompt that describes them."""

    source_prompt: str
    transform: Similarity = IDENTITY
    """From the coordinates of what was captured to the scene's own."""

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
