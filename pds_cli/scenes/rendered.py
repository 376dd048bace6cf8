"""A 3D scene as an edit left it: the same cameras, with renders of the result for photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from pds_cli.progress import Progress
from pds_cli.scenes.base import Scene
from pds_cli.views.view import Region, View


class RenderedScene(Scene):
    """The views of another scene, their images rendered from a representation as it is now.

    Args:
        scene: whose cameras are taken; its masks and held-out views are not.
        render: a view → its render [3,H,W] in [0,1], at the size of the view's own image.
        source_prompt: what the renders show.
    """

    def __init__(self, scene: Scene, render: Callable[[View], Tensor], source_prompt: str) -> None:
        self.source_prompt, self.transform = source_prompt, scene.transform
        self.front, self.limits = scene.front, scene.limits
        self._region = scene.region
        edited = {view.name for view in scene.edit_views}
        self._views = []
        with Progress("renders of the start", len(scene.views)) as progress:
            for number, view in enumerate(scene.views, 1):
                image = render(view).clamp(0, 1).cpu()
                self._views.append(replace(view, image=image, alpha=None, mask=None))
                progress.update(number)
        self._edit_views = [view for view in self._views if view.name in edited]

    @property
    def views(self) -> Sequence[View]:
        """The views, each with a render [3,H,W] in [0,1]."""
        return self._views

    @property
    def edit_views(self) -> Sequence[View]:
        """Those that an edit of the other scene looks at."""
        return self._edit_views

    @property
    def region(self) -> Region | None:
        """Where the scene is."""
        return self._region
