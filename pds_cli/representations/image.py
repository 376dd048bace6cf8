"""A flat image: raw pixels, or the backbone's latent."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.errors import UserError, check_choice
from pds_cli.options.representations import INITIALS, PARAMETRISATIONS
from pds_cli.pictures.files import from_over_white, resize, write_image
from pds_cli.representations.base import Representation
from pds_cli.runs import layout
from pds_cli.scenes.base import Scene
from pds_cli.scenes.limits import within
from pds_cli.views.view import View

# A change of this size (of 1, blurred) replaces the original's fine detail altogether.
_FULL_CHANGE = 0.25


class ImageRepresentation(Representation):
    """One image θ at the size the backbone works at, exported at the source's own size.

    The working size is `backbone.image_size` of the source: the aspect ratio is kept as far as
    the backbone's steps and limits allow, and the rest is squeezed, which the export undoes.

    Args:
        scene: a scene with one view that has an image.
        backbone: gives the working size and, for `latent`, the encoder and decoder.
        parametrisation: `pixels` (θ [1,3,h,w] in [0,1]) or `latent` (θ = x_0 [1,C,h',w']).
            The latent moves faster and more coherently, but what the VAE cannot express (small
            text, faces of a few pixels, exact colours) is lost in the render.
        initial: `source`, or `noise` to start from nothing.
        export_detail: add what the edit changed to the original pixels, so that fine detail
            survives where nothing changed; only with `initial=source`. Off: export the enlarged
            render as it is.

    Raises:
        UserError: an unknown option, or a scene that is not one image.
    """

    start: Tensor

    word = "image"

    def __init__(
        self,
        scene: Scene,
        backbone: Backbone,
        *,
        parametrisation: str = "pixels",
        initial: str = "source",
        export_detail: bool = True,
    ) -> None:
        super().__init__()
        check_choice("representation.parametrisation", parametrisation, PARAMETRISATIONS)
        check_choice("representation.initial", initial, INITIALS)
        self.view = _only_view(scene)
        self._scene = scene
        self.parametrisation = parametrisation
        self.export_detail = export_detail and initial == "source"
        # The backbone is a tool here, not a part: it stays out of parameters and checkpoints.
        self._backbone = [backbone]
        with torch.no_grad():
            self.theta = torch.nn.Parameter(self._first(initial))
            # What θ shows before any edit; for a latent that is the VAE's version of the source.
            start = self.render(self.view).detach().clone()
            self.register_buffer("start", start, persistent=False)

    @property
    def backbone(self) -> Backbone:
        """The backbone given at construction."""
        return self._backbone[0]

    def render(self, view: View) -> Tensor:
        """The image [1,3,h,w] in [0,1] at the working size; differentiable in θ."""
        if self.parametrisation == "pixels":
            return self.theta
        return self.backbone.decode_latent(self.theta).clamp(0, 1)

    @torch.no_grad()
    def render_full(self, view: View) -> Tensor:
        """See `Representation.render_full`; at the working size."""
        return self._limited(super().render_full(view))

    def render_latent(self, view: View) -> Tensor | None:
        """θ itself, x_0 [1,C,h',w'], for `latent`; None for `pixels`."""
        return self.theta if self.parametrisation == "latent" else None

    @torch.no_grad()
    def show(self, view: View, image: Tensor) -> None:
        """Takes an image [1,3,H,W] in [0,1] for θ; a latent takes what the VAE makes of it."""
        size = self.backbone.image_size(*self.view_size)
        wanted = resize(image.to(self.theta.device), *size)
        latent = self.parametrisation == "latent"
        self.theta.copy_(self.backbone.encode_image(wanted) if latent else wanted)

    @property
    def view_size(self) -> tuple[int, int]:
        """Height and width of the source in pixels."""
        assert self.view.image is not None
        height, width = self.view.image.shape[-2:]
        return height, width

    @torch.no_grad()
    def regularise(self) -> None:
        """Brings pixels back into [0,1]; latents have no bounds."""
        if self.parametrisation == "pixels":
            self.theta.clamp_(0, 1)

    @torch.no_grad()
    def export(self, folder: Path) -> list[Path]:
        """Writes `result.png` at the source's size, with its alpha channel; returns its path."""
        assert self.view.image is not None
        shown = self.full_size().cpu()
        colour = from_over_white(shown, self.view.alpha)
        return [write_image(Path(folder) / layout.RESULT_PICTURE.name, colour, self.view.alpha)]

    @torch.no_grad()
    def full_size(self) -> Tensor:
        """The edited image [3,H,W] in [0,1] at the source's size, over white where transparent.

        With `export_detail`: enlarged render + m · (source − enlarged start), m falling from 1
        where nothing changed to 0 where the change is large, so that no edge of the removed
        content shines through what was painted over it. Outside of the scene's limits it is the
        source itself.
        """
        source = self.view.image
        assert source is not None
        source = source.to(self.theta.device)
        height, width = source.shape[-2:]
        render = self.render(self.view)
        result = resize(render, height, width, clamp=False)[0]
        if self.export_detail:
            detail = source - resize(self.start, height, width, clamp=False)[0]
            change = (render - self.start).abs().amax(dim=1, keepdim=True)
            change = torch.nn.functional.avg_pool2d(
                change, 3, stride=1, padding=1, count_include_pad=False
            )
            keep = (1 - resize(change, height, width) / _FULL_CHANGE).clamp(0, 1)[0]
            result = result + keep * detail
        return self._limited(result.clamp(0, 1))

    def _limited(self, image: Tensor) -> Tensor:
        """An image [3,H,W], with the source's own pixels where nothing may change."""
        limit, source = self._scene.limits.get(self.view.name), self.view.image
        if limit is None:
            return image
        assert source is not None
        return within(limit, image, resize(source.to(image), *image.shape[-2:]))

    def _first(self, initial: str) -> Tensor:
        backbone, source = self.backbone, self.view.image
        assert source is not None
        height, width = backbone.image_size(*source.shape[-2:])
        image = resize(source, height, width)[None].to(backbone.device)
        if initial == "noise":
            drawn = torch.randn(image.shape).to(image)  # on the CPU: the same for every device
            image = (0.5 + 0.1 * drawn).clamp(0, 1)
        if self.parametrisation == "latent":
            return backbone.encode_image(image).detach().clone()
        return image.clone()


def _only_view(scene: Scene) -> View:
    views = scene.views
    if len(views) != 1 or views[0].image is None:
        raise UserError(
            f"representation=image edits one image, but this scene has {len(views)} views"
            f"{'' if len(views) != 1 else ' without an image'}: use another representation (pds "
            "list representation), or scene=image scene.path=…"
        )
    return views[0]
