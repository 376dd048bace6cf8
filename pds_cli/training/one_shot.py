"""One edit of a picture by an editor, as an objective of the trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.editors.base import Editor, check_draws_images
from pds_cli.errors import UserError
from pds_cli.representations.base import Representation
from pds_cli.scenes.base import Scene
from pds_cli.scenes.limits import within
from pds_cli.training.prompts import ViewPrompts
from pds_cli.training.trainer import Idle, Objective


class EditorObjective(Objective):
    """Shows each view to an editor once, and puts what it draws into the representation.

    A stage of one step, for representations that hold pictures (`Representation.show`).

    Raises:
        UserError: a backbone whose data are no images, or a representation that is no picture.
    """

    steps = 1
    group = "editor"

    def __init__(
        self,
        scene: Scene,
        representation: Representation,
        backbone: Backbone,
        editor: Editor,
        text_tgt: Text,
        text_src: Text | None,
    ) -> None:
        check_draws_images(backbone, "an editor")
        if getattr(type(representation), "show", None) is Representation.show:
            raise UserError(
                "editor=… alone edits a picture, and this scene is none: use representation=image, "
                "or loss=dataset_update beside it, which fits a scene to edited views"
            )
        self.views, self.limits = list(scene.edit_views), scene.limits
        self.representation, self.backbone, self.editor = representation, backbone, editor
        self.texts = ViewPrompts(backbone, text_tgt, text_src)

    def idle(self) -> list[Idle]:
        """Whatever is of losses, steps and optimisers; the editor has keys of its own."""
        own = ("guidance", "source_guidance", "steps", "lr")
        rest = ("loss", "batch_size", "hold_view", "views_per_step", "lr_schedule", "warmup")
        return [
            *(Idle(key, instead=f"editor.{key}") for key in own),
            *(Idle(key) for key in (*rest, "early_stop", "optimizer")),
        ]

    def begin(self) -> None:
        self.representation.begin_edit()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.representation.parameter_groups()

    def loss(
        self, step: int, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The edit; a scalar whose gradient is zero, and how far the picture went (RMS)."""
        moved = []
        for view in self.views:
            with torch.no_grad():
                image = self.representation.render(view).detach()
                edited = self.editor.edit(
                    self.backbone, image, image, *self.texts(view), generator=generator
                )
            if (limit := self.limits.get(view.name)) is not None:
                edited = within(limit, edited, image)
            self.representation.show(view, edited)
            moved.append(float((edited - image).square().mean().sqrt()))
        still = sum((p.sum() * 0 for p in self.representation.parameters()), torch.zeros(()))
        return still, {"moved": sum(moved) / len(moved)}

    @torch.no_grad()
    def renders(self) -> dict[str, Tensor]:
        """The first view."""
        view = self.views[0]
        return {view.name: self.representation.render(view)[0].clamp(0, 1).cpu()}

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.representation.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.representation.load_state_dict(state)
