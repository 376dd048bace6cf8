"""Scenes in the format of NeRF's synthetic set: `transforms_train.json` and RGBA renders."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from pds_cli.errors import UserError, check_choice
from pds_cli.options.scenes import SPLITS
from pds_cli.scenes.capture import CaptureScene, Frame, looks_like, scene_folder
from pds_cli.scenes.transforms import frames_of, read_transforms
from pds_cli.views.view import Region

log = logging.getLogger(__name__)

_LAYOUT = "transforms_train.json and the images that it names (the synthetic NeRF format)"


class BlenderScene(CaptureScene):
    """An object rendered from all sides, in Blender's own world.

    Args:
        path: the folder with `transforms_train.json`.
        eval_split: the file whose frames are held out for measuring: `test`, `val` or `none`.
        eval_every: of those, only every so-many-th is read; the sets have 200.
        radius: the object lies in the cube ± radius, which is all there is.
        source_url: where the data can be had, for the sentence when it is not there.
        recommended: what a representation takes on the command line; of no use here.
        source_prompt, max_size, background, front: see `CaptureScene`.

    Raises:
        UserError: no such folder, or a frame that cannot be used, with its name and field.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        source_prompt: str | None = None,
        *,
        eval_split: str = "test",
        eval_every: int = 8,
        radius: float = 1.5,
        max_size: int | None = 512,
        background: str | Sequence[float] = "white",
        front: float | str | None = None,
        source_url: str | None = None,
        recommended: Any = None,
    ) -> None:
        check_choice("scene.eval_split", eval_split, SPLITS)
        if eval_every < 1 or not radius > 0:
            raise UserError(
                f"scene.eval_every={eval_every} and scene.radius={radius} must be at least 1 and "
                "above 0"
            )
        folder = scene_folder(path, _LAYOUT, source_url)
        other = looks_like(folder, "scene=blender")
        train = scene_folder(folder / "transforms_train.json", _LAYOUT, source_url, other)
        frames = frames_of(train, read_transforms(train), split="train")
        held_out: list[Frame] = []
        file = folder / f"transforms_{eval_split}.json"
        if file.is_file():
            found = read_transforms(file)
            found["frames"] = found["frames"][::eval_every]
            held_out = frames_of(file, found, split="eval")
        elif eval_split != "none":
            log.warning("%s is not there: no view is held out", file)
        super().__init__(
            [*frames, *held_out],
            source_prompt=source_prompt,
            max_size=max_size,
            orientation="none",
            centre="none",
            auto_scale=False,
            background=background,
            front=front,
        )
        self._radius = float(radius)

    @property
    def region(self) -> Region:
        """The cube around the origin, bounded."""
        return Region(radius=self._radius, unbounded=False)
