"""Exact scores of a folder of captioned pictures, as a mixture of narrow Gaussians.

x_0 follows Σ_k w_k N(m_k, s² I), with m_k the latent of picture k. A prompt gives the weights w
(`pds_cli.backbones.captions`); without one they are alike. So ε̂_y and ε̂_∅ are what a network
would learn that knew these pictures and nothing else, perfectly: what an edit does with them is
what its loss does, apart from a network's errors.

Source: as `pds_cli.backbones.mixture`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text, resolve_device
from pds_cli.backbones.captions import Matching, matching
from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.mixture import local_mixture_eps, mixture_eps, scaled_linear, with_squares
from pds_cli.backbones.patch_autoencoder import PatchAutoencoder
from pds_cli.backbones.schedule import Schedule
from pds_cli.errors import UserError, check_choice
from pds_cli.options.backbones import MATCHINGS, VIEWS
from pds_cli.pictures.captioned import CaptionedImages, load_captioned_images
from pds_cli.pictures.files import resize
from pds_cli.toybox.world import OrbitCamera
from pds_cli.views.cameras import Camera
from pds_cli.views.view import View

_PATCH, _CHANNELS = 4, 16
_SAMPLE = 2000  # pictures at most that components of patches are fitted to
_CHUNK = 128  # pictures that are encoded together
_SAME = 0.1  # degrees between directions of one camera
_STILL = 1e-5  # a latent's number that changes less from picture to picture is no evidence


@dataclass
class _Mixture:
    """The pictures as components.

    centre: mean latent [D]; means are held less it, so that little cancels.
    moving: indices [C] of the latent's numbers in which the pictures differ.
    points: means less the centre at `moving`, `with_squares`, [K,C+1], float32.
    directions: unit vectors [K,3] in which their cameras look, NaN for those without; None where
        nobody asks.
    """

    matching: Matching
    centre: Tensor
    moving: Tensor
    points: Tensor
    directions: Tensor | None
    _last: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    _places: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def used(self, log_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Components [J,C+1] that some row of log weights [R,K] counts, and the weights [R,J]."""
        used = log_weights.isfinite().any(0)
        if bool(used.all()):
            return self.points, log_weights
        if self._last is None or not torch.equal(self._last[0], used):
            self._last = (used, self.points[used])  # an edit asks for the same again and again
        return self._last[1], log_weights[:, used]

    def places(self, points: Tensor, shape: torch.Size) -> Tensor:
        """Components of which every number moves, place by place: [h·w,J,C] for a shape (C,h,w)."""
        if self._places is None or self._places[0] is not points:
            found = points[:, :-1].unflatten(1, (shape[0], -1)).permute(2, 0, 1).contiguous()
            self._places = (points, found)
        return self._places[1]


class GalleryBackbone(Backbone):
    """Exact ε̂ for the pictures of a folder that `pds pretrain` reads.

    Args:
        path: the folder, with its `captions.jsonl` (`pds_cli.pictures.captioned`).
        size: side in pixels of the working area; pictures are cropped and resized to it.
        std: s, in units of latents, whose variance is about 1; above 0.
        window: side, in places of the latent, of what decides at each place which pictures it
            draws on (`local_mixture_eps`), an odd number; None: all of the latent at once.
        matching: which pictures a prompt speaks of: words, attributes or similarity.
        temperature: of matching=similarity.
        views: which pictures count for a view that has a camera: those of the nearest `camera`,
            those within the `sector`, or `all`. Records then hold a `camera`: what
            `Camera.to_dict` gives, or fields of the toybox's `OrbitCamera`.
        sector: width in degrees of azimuth, half of it to either side.
        model: an embedded backbone whose latents and noise schedule it takes; None: principal
            components of the pictures' own 4×4 patches, and Stable Diffusion's schedule.
        device: auto, cpu, cuda, …
        recommended: suggested settings of a run; kept, not used here.

    Raises:
        UserError: a folder that cannot be read or lacks what the options need, or a size that
            patches do not divide.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        size: int = 64,
        std: float = 0.1,
        window: int | None = None,
        matching: str = "words",
        temperature: float = 0.1,
        views: str = "all",
        sector: float = 45.0,
        model: str | None = None,
        device: str = "auto",
        recommended: Any = None,
    ) -> None:
        super().__init__()
        if path is None:
            raise UserError(
                "backbone=gallery needs a folder of captioned pictures: say backbone.path=<folder>"
            )
        self._set(std, window, matching, temperature, views, sector, recommended)
        where = resolve_device(device)
        data = load_captioned_images(Path(path).expanduser(), size)
        self.data = data
        self._take_latents(model, size)
        if size % self.patch:
            raise UserError(f"backbone.size={size} must be a multiple of {self.patch}")
        if model is None:
            index = torch.arange(0, len(data), -(-len(data) // _SAMPLE))
            self.vae.fit_components(data.batch(index))
        self.to(where).eval().requires_grad_(False)
        _ = self._mixture  # what is wrong with its records is said now

    def _set(
        self,
        std: float,
        window: int | None,
        matching: str,
        temperature: float,
        views: str,
        sector: float,
        recommended: Any,
    ) -> None:
        for name, value in (("std", std), ("temperature", temperature)):
            if not value > 0:
                raise UserError(f"backbone.{name}={value} must be greater than 0")
        if window is not None and (window < 1 or window % 2 == 0):
            raise UserError(f"backbone.window={window} must be an odd number: 1, 3, 5, …, or null")
        check_choice("backbone.matching", matching, MATCHINGS)
        check_choice("backbone.views", views, VIEWS)
        self.std, self.window = std, window
        self.matching, self.temperature = matching, temperature
        self.views, self.sector = views, sector
        self.recommended = dict(recommended or {})

    def _take_latents(self, model: str | None, size: int | None) -> None:
        """The autoencoder, still to be fitted where no model brings it, and the schedule."""
        self.linear = model is None
        if model is None:
            self.vae = PatchAutoencoder(_CHANNELS, _PATCH)
            self.schedule = Schedule(scaled_linear().float())
            self.patch, self.resolution = _PATCH, size or 64
        else:
            base = EmbeddedBackbone(model, device="cpu")
            self.vae, self.schedule, self.patch = base.vae, base.schedule, base.patch
            self.resolution = size or base.resolution

    def pictures(self) -> CaptionedImages:
        """The pictures that the mixture is made of, with their captions and records."""
        return self.data

    @functools.cached_property
    def _mixture(self) -> _Mixture:
        data = self.pictures()
        means = self._latents(data.images)
        centre = means.mean(0)
        least = 0.0 if self.window else _STILL  # places are whole, moving or not
        moving = (means.amax(0) - means.amin(0) >= least).nonzero().squeeze(1)
        points = with_squares(means.sub_(centre)[:, moving])
        directions = None if self.views == "all" else _directions(data.records, self.device)
        matched = matching(self.matching, data, self.temperature)
        return _Mixture(matched, centre, moving, points, directions)

    @torch.no_grad()
    def _latents(self, images: Tensor) -> Tensor:
        """Latents [K,D] in float32 of images uint8 [K,3,S,S]."""
        side = self.resolution
        parts = [
            self.encode_image(resize(part.to(self.device).float() / 255, side, side)).flatten(1)
            for part in images.split(_CHUNK)
        ]
        return torch.cat(parts)

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """The size of the pictures, whatever the image's shape."""
        return self.resolution, self.resolution

    def encode_image(self, image: Tensor) -> Tensor:
        """Maps images [B,3,H,W] in [0,1] to x_0 [B,C,H/p,W/p]; linear."""
        return self.vae.encode(image * 2 - 1)

    def decode_latent(self, x0: Tensor) -> Tensor:
        """Maps x_0 [B,C,h,w] to images [B,3,H,W], not clamped; differentiable."""
        decode = self.vae.decode_linear if self.linear else self.vae.decode
        return (decode(x0) + 1) / 2

    def encode_prompt(self, prompts: Sequence[str], negative: str = "") -> Text:
        """Prompts as log weights of the K pictures: `{"log_weights": [B,K]}`.

        Raises:
            UserError: a prompt that no picture fits.
        """
        weigh = self._mixture.matching.log_weights
        cond = torch.stack([weigh(prompt) for prompt in prompts]).to(self.device)
        null = weigh(negative).to(cond).expand_as(cond)
        return Text({"log_weights": cond}, {"log_weights": null})

    def unknown_words(self, prompt: str) -> dict[str, list[str]]:
        """What of the prompt speaks of no picture, each with the nearest words that do."""
        return self._mixture.matching.unknown(prompt)

    def seen_from(self, text: Text, view: View) -> Text:
        """The prompts with only the pictures that count for `view`, by the option `views`.

        Where none of a prompt's own lies near enough, those nearest to it count.
        """
        looking = self._mixture.directions
        if looking is None or view.camera is None:
            return text
        away = _degrees(looking, view.camera.forward.to(looking), flat=self.views == "sector")
        reach = self.sector / 2 if self.views == "sector" else _SAME
        cond, null = (
            {"log_weights": _within(side["log_weights"], away, reach)}
            for side in (text.cond, text.null)
        )
        return Text(cond, null)

    def predict_eps(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Exact ε̂ [N,C,h,w]; pictures that no row counts cost nothing."""
        mixture, flat = self._mixture, x_t.flatten(1)
        alpha = self.schedule.alpha_bar(t, flat)
        v = alpha * self.std**2 + (1 - alpha)
        offset = flat - alpha.sqrt() * mixture.centre.to(flat)
        points, log_weights = mixture.used(cond["log_weights"])
        if self.window:
            places = mixture.places(points, x_t.shape[1:])
            x_t, log_weights = offset.view_as(x_t), log_weights.to(flat)
            return local_mixture_eps(x_t, alpha, places.to(flat), v, log_weights, self.window)
        eps = (1 - alpha).sqrt() * offset / v  # where all pictures agree, that is all
        eps[:, mixture.moving] = mixture_eps(
            offset[:, mixture.moving], alpha, points.to(flat), v, log_weights.to(flat)
        )
        return eps.view_as(x_t)


def _directions(records: Sequence[Mapping[str, Any]], device: torch.device) -> Tensor:
    """Where the cameras of records look, [K,3].

    Raises:
        UserError: a record has no camera, or none that can be read.
    """
    found = []
    for record in records:
        said = record.get("camera")
        try:
            if not isinstance(said, Mapping):
                raise TypeError("there is none")
            whole = "camera_to_world" in said
            camera = Camera.from_dict(dict(said)) if whole else OrbitCamera(**said).camera(1)
            found.append(camera.forward)
        except (TypeError, ValueError, UserError) as error:
            raise UserError(
                f"backbone.views=camera and sector need the camera of every picture, and that of "
                f"{record.get('file')} cannot be read ({error}): use backbone.views=all"
            ) from error
    return torch.stack(found).float().to(device)


def _degrees(looking: Tensor, forward: Tensor, flat: bool) -> Tensor:
    """Angles [K] in degrees between directions [K,3] and one [3]; flat: of their azimuths."""
    if flat:
        turned = torch.atan2(looking[:, 1], looking[:, 0]) - torch.atan2(forward[1], forward[0])
        return torch.atan2(turned.sin(), turned.cos()).abs().rad2deg()
    # Of the chord's length: the arc cosine has no digits left near 0.
    chord = (looking - forward).norm(dim=1)
    return (2 * torch.asin((chord / 2).clamp(max=1))).rad2deg()


def _within(log_weights: Tensor, away: Tensor, reach: float) -> Tensor:
    """Log weights [B,K] of what lies within `reach` degrees, or else of the nearest of each row."""
    apart = away.expand_as(log_weights).masked_fill(log_weights.isinf(), torch.inf)
    nearest = apart.amin(1, keepdim=True) + _SAME
    left_out = apart > nearest.clamp(min=reach)
    return log_weights.masked_fill(left_out, -torch.inf)
