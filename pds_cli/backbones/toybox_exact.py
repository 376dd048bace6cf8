"""Exact scores of a figure of the toybox: renders of it with its attributes varied."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pds_cli.backbones.base import resolve_device
from pds_cli.backbones.gallery import GalleryBackbone
from pds_cli.errors import UserError
from pds_cli.pictures.captioned import CaptionedImages
from pds_cli.toybox.variations import Variations, kept_pictures, stacked, variations
from pds_cli.toybox.world import Figure, OrbitCamera, caption, orbit, parse_caption


class ToyboxExact(GalleryBackbone):
    """A gallery of one figure from one camera, or from each of those of `scene=figurine`.

    Every attribute that `prompts` name takes all its values; of the others in
    `pds_cli.toybox.variations.OPEN` as many combinations are taken as `count` has room for;
    background and floor stay. Renders are made when they are first asked for, and kept.

    Args:
        figure: attributes of the scene's figure; None: of none.
        camera: fields of `OrbitCamera` of the one camera.
        cameras: number of cameras evenly around it, as in `scene=figurine`; None: the one.
        edit_azimuth: only those within so many degrees of the front.
        size: side in pixels of the scene's pictures; they are resized to the model's.
        prompts: what is said of the edit; None stands for nothing.
        count: pictures at most, of all cameras together.
        cache: the folder where renders are kept.
        std, window, views, sector, model, device, recommended: as in `GalleryBackbone`.

    Raises:
        UserError: an unknown attribute or value. When the pictures are asked for: there is no
            figure, too small a `count`, or something to render and no PyVista.
    """

    def __init__(
        self,
        figure: Mapping[str, str] | None = None,
        camera: Mapping[str, Any] | None = None,
        *,
        cameras: int | None = None,
        edit_azimuth: float = 180.0,
        size: int = 128,
        prompts: Sequence[str | None] = (),
        count: int = 6400,
        cache: str = "outputs/galleries",
        std: float = 0.1,
        window: int | None = None,
        views: str = "camera",
        sector: float = 45.0,
        model: str = "toybox",
        device: str = "auto",
        recommended: Any = None,
    ) -> None:
        super(GalleryBackbone, self).__init__()
        self._set(std, window, "attributes", 1.0, views, sector, recommended)
        try:
            self.figure = None if figure is None else Figure(**dict(figure))
            self.cameras = [OrbitCamera(**dict(camera or {}))]
        except TypeError as error:
            raise UserError(f"backbone.figure or camera has an unknown field: {error}") from error
        if cameras is not None:
            self.cameras = [c for c in orbit(cameras, 0, 360) if c.aside <= edit_azimuth]
        if not self.cameras:
            raise UserError(
                f"backbone.edit_azimuth={edit_azimuth} leaves no camera; 180 leaves all"
            )
        self.size, self.prompts = size, [text for text in prompts if text]
        self.settings: dict[str, Any] = {
            "count": count, "cache": cache, "std": std, "window": window, "views": views,
            "sector": sector, "model": model, "device": device, "recommended": recommended,
        }  # fmt: skip
        """What is the same for every figure, as keywords."""
        where = resolve_device(device)
        self._take_latents(model, None)
        self.to(where).eval().requires_grad_(False)

    def about(self, figure: Figure, camera: OrbitCamera, prompts: Sequence[str]) -> ToyboxExact:
        """The same settings for another figure from one camera, at the model's own size."""
        told = {"size": self.resolution, "prompts": prompts, **self.settings}
        return ToyboxExact(asdict(figure), asdict(camera), **told)

    def pictures(self) -> CaptionedImages:
        """The renders, in the order of their cameras; says what was left out."""
        if self.figure is None:
            raise UserError(
                "backbone=toybox_exact renders the figure of scene=figurine2d or scene=figurine, "
                "and there is none here; backbone.figure={} is the default one"
            )
        found = self._figures(self.figure)
        shown = [(figure, camera) for camera in self.cameras for figure in found.figures]
        images = stacked(kept_pictures(Path(self.settings["cache"]), shown, self.size))
        captions = [[caption(figure)] for figure, _ in shown]
        records = [
            {"file": f"{i}.png", "figure": asdict(figure), "camera": asdict(camera)}
            for i, (figure, camera) in enumerate(shown)
        ]
        return CaptionedImages(images, captions, records)

    def _figures(self, figure: Figure) -> Variations:
        named = {name for text in self.prompts for name in parse_caption(text)}
        count = self.settings["count"]
        found = variations(figure, named, count // len(self.cameras))
        if found.taken < found.possible:
            print(
                f"pds: exact scores of {len(found.figures):,} pictures of each camera: backbone."
                f"count={count} takes {found.taken:,} of {found.possible:,} combinations of "
                f"{', '.join(found.others)}",
                file=sys.stderr,
            )
        return found
