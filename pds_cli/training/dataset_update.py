"""Iterative dataset update: a scene is fitted to images of it that an editor keeps redrawing.

With SDEdit at low noise this is the refinement after an edit; with another editor it is an
editing method of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.shared_attention import self_attentions, shared_attention
from pds_cli.editors.base import Editor, check_draws_images, decode, encode
from pds_cli.errors import UserError, check_choice
from pds_cli.options.losses import UPDATE_INITIALS as INITIALS
from pds_cli.options.losses import UPDATE_INPUTS as INPUTS
from pds_cli.pictures.files import resize
from pds_cli.progress import Progress
from pds_cli.representations.base import Representation
from pds_cli.runs.checkpoint import under, with_prefix
from pds_cli.scenes.base import Scene
from pds_cli.scenes.limits import within
from pds_cli.seeds import step_generator
from pds_cli.training.prompts import ViewPrompts
from pds_cli.training.trainer import Idle, Objective
from pds_cli.views.view import View


class DatasetUpdateObjective(Objective):
    """Fits a representation to one image a view, and redraws some of the images now and then.

    Every `every` steps, beginning with the first, the images of `together` of the scene's
    `edit_views` are replaced by edits, in one call of the editor. They take turns, in an order
    that is drawn anew for each round. Each step then minimises
    `representation.reconstruction_loss` on the images that some random views have at present.

    Images are kept with 8 bits a channel, as a file would: 3HW bytes a view for what was
    redrawn, and as much for the renders of the stage's beginning.

    Args:
        scene: its views are the training set.
        representation: what is fitted.
        backbone: the diffusion prior that the editor asks.
        editor: makes the images.
        text_tgt, text_src: the encoded prompts, one each; see `ViewPrompts`.
        every: steps between calls of the editor.
        together: distinct views that one call redraws; all of them where there are fewer. What
            the editor draws once a call, such as a strength, they have in common.
        sharing: how much of the self-attention of the editor's network sees the other views of
            the call, in [0, 1] (`shared_attention`); 0: each view is drawn by itself.
        batch_size: distinct views a step; all of them where there are fewer.
        input: what the editor is given: `stage`, the view's render at the stage's beginning, as
            PDS's published refinement does; or `current`, its render at this step.
        initial: what a view shows until its first edit: `renders`, those of the stage's
            beginning, or `source`, the scene's images.
        keep_detail: views are rendered at the size of their own images, and a redrawn one is
            x + edit(x) − D(E(x)) with the VAE's encoder E and decoder D: only what the editor
            changed is added, so that detail the latents do not hold stays. Otherwise it is
            edit(x), at the size of the renders that were edited, as published.
        seed: the run's seed; fixes the order of the views.
        group: the config group that the options stand in: `loss`, or `refine` for a stage after
            an edit.

    Raises:
        UserError: no editor, an unknown option, `initial=source` for views without an image, a
            backbone whose data are no images, or one without the self-attention that is to be
            shared.

    Source: Haque et al., Instruct-NeRF2NeRF, ICCV 2023, arXiv 2303.12789, section 4.2; for views
    that are redrawn together, Chen et al., DGE, arXiv 2404.18929.
    """

    def __init__(
        self,
        scene: Scene,
        representation: Representation,
        backbone: Backbone,
        editor: Editor | None,
        text_tgt: Text,
        text_src: Text | None,
        *,
        every: int = 10,
        together: int = 1,
        sharing: float = 1.0,
        batch_size: int = 8,
        input: str = "current",
        initial: str = "source",
        keep_detail: bool = False,
        seed: int = 0,
        group: str = "loss",
    ) -> None:
        self.views: Sequence[View] = list(scene.views)
        self.limits = scene.limits
        edited = {view.name for view in scene.edit_views}
        self.redrawable = [i for i, view in enumerate(self.views) if view.name in edited]
        if editor is None:
            raise UserError(
                "loss=dataset_update redraws views with an editor: add editor=ddpm_inversion, or "
                "another (pds list editor)"
            )
        check_choice(f"{group}.input", input, INPUTS)
        check_choice(f"{group}.initial", initial, INITIALS)
        for name, value in (("every", every), ("together", together), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"{group}.{name}={value} must be a whole number of at least 1")
        if not 0 <= sharing <= 1:
            raise UserError(f"{group}.sharing={sharing} must lie between 0 and 1")
        check_draws_images(backbone, "a dataset update" if group == "loss" else "refinement")
        without = [view.name for view in self.views if view.image is None]
        if initial == "source" and without:
            raise UserError(
                f"{group}.initial=source needs an image of every view, and {without[0]} has none: "
                f"use {group}.initial=renders"
            )
        if together > 1 and sharing and not self_attentions(editor.asks(backbone)):
            raise UserError(
                f"{group}.sharing={sharing:g} shares the self-attention of a UNet, and this "
                f"backbone has none: use {group}.sharing=0"
            )
        self.representation, self.backbone, self.editor = representation, backbone, editor
        self.texts = ViewPrompts(backbone, text_tgt, text_src)
        self.prefix, self.name = group, "edit" if group == "loss" else group
        self.every, self.batch_size, self.seed = every, batch_size, seed
        self.together, self.sharing = min(together, len(self.redrawable)), sharing
        self.input, self.initial, self.keep_detail = input, initial, keep_detail
        self._beginning: dict[int, Tensor] = {}
        self._edited: dict[int, Tensor] = {}

    def idle(self) -> list[Idle]:
        """Guidance is the editor's, and a batch is one of views; one view shares nothing."""
        found = []
        if self.together == 1:
            single = len(self.redrawable) == 1
            why = "an edit of a single view" if single else f"{self.prefix}.together=1"
            keys = ("together", "sharing") if single else ("sharing",)
            found = [Idle(f"{self.prefix}.{key}", why) for key in keys]
        if self.prefix == "refine":
            return found
        guidance = ("guidance", "source_guidance")
        return [
            *found,
            *(Idle(key, instead=f"editor.{key}") for key in guidance),
            Idle("batch_size", instead="loss.batch_size"),
            Idle("hold_view"),
            Idle("views_per_step"),
        ]

    def begin(self) -> None:
        """Renders every view, unless a checkpoint brought the renders or nothing needs them."""
        self.representation.begin_edit()
        if self._beginning or (self.input == "current" and self.initial == "source"):
            return
        with Progress("renders of all views", len(self.views)) as progress:
            for index, view in enumerate(self.views):
                self._beginning[index] = _to_bytes(self._render(view))
                progress.update(index + 1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.representation.parameter_groups()

    def loss(
        self, step: int, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        if step % self.every == 0:
            self._redraw(self.turn(step // self.every), generator)
        chosen = torch.randperm(len(self.views), generator=generator)[: self.batch_size].tolist()
        pairs = [(self._fitted_view(index), self.training_image(index)) for index in chosen]
        scalar, logs = self.representation.reconstruction_loss(pairs, generator)
        return scalar, {**logs, "redrawn": float(len(self._edited))}

    def turn(self, edit: int) -> list[int]:
        """Which views the editor's call number 0, 1, … is of: each view once in a round.

        Views that are drawn together are a random one of each of `together` parts of the scene,
        in the order that it has them in: they come from all along a camera's path. The last call
        of a round has what is left.
        """
        parts = torch.tensor(self.redrawable).tensor_split(self.together)
        calls = len(parts[0])  # the first parts are the longest
        generator = step_generator(self.seed, "rounds of views", edit // calls)
        orders = [part[torch.randperm(len(part), generator=generator)].tolist() for part in parts]
        return [order[edit % calls] for order in orders if edit % calls < len(order)]

    def training_image(self, index: int) -> Tensor:
        """The image [3,H,W] in [0,1] that a view is fitted to at present."""
        if index in self._edited:
            return self._edited[index].float() / 255
        if self.initial == "source":
            image = self.views[index].image
            assert image is not None
            return image
        return self._beginning[index].float() / 255

    def _fitted_view(self, index: int) -> View:
        """The view, without the source's transparency where its image is not the source's.

        What an edit adds may lie where the source was transparent.
        """
        own = self.initial == "source" and index not in self._edited
        return self.views[index] if own else replace(self.views[index], alpha=None)

    @torch.no_grad()
    def _redraw(self, indices: Sequence[int], generator: torch.Generator) -> None:
        """Replaces the images of some views by edits; they have the first one's size for it."""
        own = [self._given(index) for index in indices]
        image = self._batch(own, own[0])
        source = self._batch([self._source(index) for index in indices], own[0])
        texts, sources = zip(*(self.texts(self.views[index]) for index in indices), strict=True)
        text_src = None if sources[0] is None else Text.cat(sources)
        network = self.editor.asks(self.backbone)
        with shared_attention(network, len(indices), self.sharing):
            edited = self.editor.edit(
                self.backbone, image, source, Text.cat(texts), text_src, generator=generator
            )
        if self.keep_detail:
            same = decode(self.backbone, encode(self.backbone, image), image)
        for k, (index, before) in enumerate(zip(indices, own, strict=True)):
            size = before.shape[-2:]
            found = resize(edited[k], *size)
            if self.keep_detail:
                found = before.to(found) + found - resize(same[k], *size)
            if (limit := self.limits.get(self.views[index].name)) is not None:
                found = within(limit, found, before)
            self._edited[index] = _to_bytes(found)

    def _given(self, index: int) -> Tensor:
        """What the editor is given of a view, [3,H,W] in [0,1]."""
        if self.input == "current":
            return self._render(self.views[index])
        return self._beginning[index].float() / 255

    def _source(self, index: int) -> Tensor:
        """What a view was before any edit, [3,H,W] in [0,1]."""
        image = self.views[index].image
        # A view that has no image was first seen as the stage's beginning showed it.
        return self._beginning[index].float() / 255 if image is None else image

    def _batch(self, images: Sequence[Tensor], like: Tensor) -> Tensor:
        """[B,3,H,W] on the backbone's device, in the size of `like`."""
        size, device = like.shape[-2:], self.backbone.device
        return torch.stack([resize(image.to(device, like.dtype), *size) for image in images])

    @torch.no_grad()
    def _render(self, view: View) -> Tensor:
        if self.keep_detail:
            return self.representation.render_full(view).cpu()
        return self.representation.render(view)[0].clamp(0, 1).cpu()

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        self.representation.after_step(optimizer)

    def renders(self) -> dict[str, Tensor]:
        """The first of the edited views, so that the filmstrip goes on where the edit's ended."""
        view = self.views[self.redrawable[0]]
        return {view.name: self._render(view)}

    def state_dict(self) -> dict[str, Tensor]:
        """θ, the renders of the stage's beginning and the images redrawn since."""
        state = with_prefix("representation", dict(self.representation.state_dict()))
        for name, images in (("beginning", self._beginning), ("edited", self._edited)):
            state |= with_prefix(name, {str(index): image for index, image in images.items()})
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.representation.load_state_dict(under("representation", state))
        self._beginning = self._images(under("beginning", state))
        self._edited = self._images(under("edited", state))
        if self._beginning and len(self._beginning) != len(self.views):
            raise ValueError(f"it has {len(self._beginning)} of {len(self.views)} views")

    def _images(self, state: Mapping[str, Tensor]) -> dict[int, Tensor]:
        found = {int(index): image for index, image in state.items()}
        for index, image in found.items():
            right = image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3
            if not (0 <= index < len(self.views) and right and image.numel()):
                raise ValueError(f"its image of view {index} is none of this scene")
        return found


def _to_bytes(image: Tensor) -> Tensor:
    """[3,H,W] in [0,1] as uint8 on the CPU."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
