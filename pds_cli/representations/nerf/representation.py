"""A NeRF as a representation: rendered by cameras, fitted to images, edited by distillation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.errors import UserError, check_choice
from pds_cli.options.representations import NERF_BACKGROUNDS as BACKGROUNDS
from pds_cli.pictures.files import resize
from pds_cli.representations.base import FitSettings
from pds_cli.representations.nerf import volume
from pds_cli.representations.nerf.encoding import GridLayout
from pds_cli.representations.nerf.field import PIECE, RadianceField
from pds_cli.representations.nerf.occupancy import OccupancyGrid
from pds_cli.representations.nerf.rays import Rays, pixel_rays, recomputed
from pds_cli.representations.spatial import Spatial, Volumetric, check_render_size
from pds_cli.scenes.base import Scene
from pds_cli.scenes.saved import SavedScene
from pds_cli.views.cameras import Camera
from pds_cli.views.view import Rendering, View

_SPARSE = 0.2  # share of occupied cells up to which a step of the fit takes all its rays
_SPREAD = 1024  # rays of a step whose spread light `distortion` weighs
_DARK = 1e-3  # samples that receive less of their ray's light than this are left out


class NeRF(Volumetric):
    """A hash-grid radiance field with volume rendering.

    Mildenhall et al. 2020 (arXiv 2003.08934) with the encoding of Müller et al. 2022
    (arXiv 2201.05989). Empty space is skipped by an occupancy grid that is updated in every
    stage, so it follows the edit.

    Args:
        scene: a scene of posed views; gives the region and the size of renders.
        backbone: only its device is used.
        grid: fields of `GridLayout`.
        encoding: backend of the hash grid: auto, tinycudann, numba or torch.
        hidden, sh_degree, density_bias: see `RadianceField`.
        appearance: whether each view has an appearance vector of its own.
        background: what is behind everything: `learned` colour, `white`, `black`, or `random`
            (another colour at each step; fit images with alpha against it).
        render_size: longer side of the renders that are edited, in pixels; None: the views' own.
        step: a sample's length in radii of the region; longer outside of it (`volume.march`).
        occupancy: cells a side of the occupancy grid.
        explore: part of the empty cells that count as occupied during an edit, so that density
            can grow there.
        density_growth: during an edit the gradient to the raw density is at least as large as at
            this density (per radius), so that empty space has a slope to climb.
        distortion: weight of `volume.distortion` at the end of an edit, against haze and floating
            specks (`penalty`). What is enough depends on the size of the loss's gradient, so on
            the backbone. 0: none, as published.
        fit_distortion: the same weight while it is fitted to images, beside their mean squared
            error: against what floats before the cameras where photos are few.
        update_every: optimiser steps between updates of the occupancy grid.
        rays: rays a step of the fit; at first fewer, while most of space may hold something.
        chunk: rays rendered at once; larger renders are cut into chunks of this size, which
            bounds the memory whatever the image's size.
        network_lr: the networks' step size, as a part of the grid's.
        fit: fields of `FitSettings`: how it is fitted to the scene before an edit.

    Raises:
        UserError: an option out of range, or a scene without posed views.
    """

    word = "nerf"
    steps: Tensor
    background_logit: Tensor

    def __init__(
        self,
        scene: Scene,
        backbone: Backbone,
        *,
        grid: Mapping[str, Any] | None = None,
        encoding: str = "auto",
        hidden: int = 32,
        sh_degree: int = 2,
        density_bias: float = -2.0,
        appearance: bool = False,
        background: str = "learned",
        render_size: int | None = None,
        step: float = 0.03,
        occupancy: int = 96,
        explore: float = 0.0,
        density_growth: float = 0.0,
        distortion: float = 0.0,
        fit_distortion: float = 0.005,
        update_every: int = 16,
        rays: int = 4096,
        chunk: int = 8192,
        network_lr: float = 0.1,
        fit: Mapping[str, Any] | None = None,
    ) -> None:
        options = {k: v for k, v in locals().items() if k in _OPTIONS}
        super().__init__(scene, {**options, "grid": dict(grid or {})})
        self._build(backbone.device)
        self.fit_settings = FitSettings(**(fit or {}))
        self.update_occupancy()

    def _build(self, device: torch.device) -> None:
        options = self.options
        check_choice("representation.background", options["background"], BACKGROUNDS)
        _check(options)
        self.names = list(self.cameras["train"])
        self.background = options["background"]
        self.render_size, self.chunk = options["render_size"], int(options["chunk"])
        self.rays, self.update_every = int(options["rays"]), int(options["update_every"])
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**31)
        self.field = RadianceField(
            GridLayout(**options["grid"]),
            encoding=options["encoding"],
            hidden=options["hidden"],
            sh_degree=options["sh_degree"],
            density_bias=options["density_bias"],
            appearance=len(self.names) if options["appearance"] else 0,
            device=device,
            generator=generator,
        )
        # A cell counts where one step through it takes 1 % of the light.
        self.occupancy = OccupancyGrid(options["occupancy"], 0.01 / options["step"]).to(device)
        learned = options["background"] == "learned"
        self.background_logit = torch.nn.Parameter(torch.zeros(3, device=device), learned)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    # ------------------------------------------------------------------ contract
    def render(self, view: View) -> Tensor:
        """The image [1,3,H,W] in [0,1] that the view's camera sees; differentiable in θ.

        While gradients are recorded, samples are shifted by a jitter that changes with every
        optimiser step.
        """
        assert view.camera is not None
        return self._image(view.camera.with_longer_side(self.render_size), view.name)[None]

    @torch.no_grad()
    def render_full(self, view: View) -> Tensor:
        """See `Representation.render_full`."""
        assert view.camera is not None
        return self._image(view.camera, view.name).clamp(0, 1)

    def _image(self, camera: Camera, name: str) -> Tensor:
        """What a camera sees [3,H,W], with the appearance of the view of this name."""
        rays = self._camera_rays(camera, name, jittered=torch.is_grad_enabled())
        return self._color(rays).T.reshape(3, camera.height, camera.width)

    @torch.no_grad()
    def render_camera(self, camera: Camera) -> Rendering:
        """Colour, depth and opacity as the camera sees them, at the camera's own size."""
        rays = self._camera_rays(camera, None, jittered=False)
        out = torch.cat([self._seen(part) for part in rays.split(self.chunk)])
        picture = out.T.reshape(5, camera.height, camera.width)
        depth = picture[3] * self.region.radius
        return Rendering(picture[:3].clamp(0, 1), depth, picture[4].clamp(0, 1))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The grid, the networks, and the learned background, each with its own step size."""
        grid = [self.field.grid.table]
        rest = [p for name, p in self.field.named_parameters() if name != "grid.table"]
        groups: list[dict[str, Any]] = [{"params": grid}]
        groups.append({"params": rest, "lr_scale": self.options["network_lr"]})
        if self.background_logit.requires_grad:
            groups.append({"params": [self.background_logit], "lr_scale": 2.0})
        return groups

    def begin_edit(self) -> None:
        """Lets density grow in empty space from now on."""
        self.occupancy.explore = self.options["explore"]
        self.field.growth = self.options["density_growth"]

    def fit_options(self) -> dict[str, Any]:
        """All options but those that leave the fit as it is."""
        same = ("encoding", "render_size", "chunk", "explore", "density_growth", "distortion")
        return {k: v for k, v in self.options.items() if k not in same}

    def regularise(self) -> None:
        """Counts optimiser steps, and now and then looks at the occupancy grid anew."""
        self.steps += 1
        if int(self.steps) % self.update_every == 0:
            self.update_occupancy(0.25 if int(self.steps) >= 8 * self.update_every else 1.0)

    def update_occupancy(self, part: float = 1.0) -> None:
        """Looks at a share of the occupancy grid's cells; random numbers follow the step."""
        generator = torch.Generator().manual_seed(int(self.steps))
        self.occupancy.update(lambda x: self.field.density(x)[0], generator, part)

    def reconstruction_loss(
        self, pairs: Sequence[tuple[View, Tensor]], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean squared error of at most `rays` random pixels of the views' images, with a graph.

        With an alpha channel the image is laid over this step's background; a learned one
        becomes what the scene laid it over. `fit_distortion` is added, over the same rays.
        """
        share = max(1, self._affordable_rays() // len(pairs))
        drawn = [self._draw(view, image, share, generator) for view, image in pairs]
        rays = Rays.cat([rays for rays, _ in drawn])
        weight = float(self.options.get("fit_distortion", 0.0))
        seen = self._color(rays, spread=bool(weight))
        loss = (seen[:, :3] - torch.cat([wanted for _, wanted in drawn])).square().mean()
        logs = {"psnr": -10 * math.log10(max(float(loss.detach()), 1e-10))}
        if weight:
            logs["distortion"] = float(seen[:, 3].detach().mean())
            loss = loss + weight * seen[:, 3].mean()
        return loss, logs

    def _affordable_rays(self) -> int:
        """Rays of a step: fewer while much of space is occupied, so that samples stay as many."""
        occupied = float(self.occupancy.occupied.float().mean())
        return int(self.rays * min(1.0, _SPARSE / max(occupied, 1e-6)))

    def _draw(
        self, view: View, image: Tensor, count: int, generator: torch.Generator
    ) -> tuple[Rays, Tensor]:
        """The rays of random pixels of an image, and the colours [count,3] they should have."""
        assert view.camera is not None
        height, width = image.shape[-2:]
        if view.mask is None:
            pixels = torch.randint(height * width, (count,), generator=generator)
        else:
            allowed = (resize(view.mask, height, width)[0].flatten() > 0.5).nonzero()[:, 0]
            pixels = allowed[torch.randint(len(allowed), (count,), generator=generator)]
        rays = self._pixel_rays(view.camera.scaled(height, width), pixels, view.name, generator)
        wanted = image.flatten(1)[:, pixels].T.to(self.device)
        if view.alpha is not None and self.background != "learned":
            left = 1 - resize(view.alpha, height, width).flatten()[pixels, None].to(self.device)
            if view.backdrop is None:
                wanted = wanted * (1 - left) + left * rays.background
            else:
                wanted = wanted + left * (rays.background - wanted.new_tensor(view.backdrop))
        return rays, wanted

    def penalty(self, view: View, progress: float, generator: torch.Generator) -> Tensor | None:
        """How far the light of some random rays of the view is spread, times `distortion`.

        What grows is haze at first, so the weight rises from 0 with the square of the progress.
        """
        weight = float(self.options.get("distortion", 0.0)) * progress**2
        if not weight:
            return None
        assert view.camera is not None
        camera = view.camera.with_longer_side(self.render_size)
        pixels = torch.randint(camera.width * camera.height, (_SPREAD,), generator=generator)
        samples, spots, _ = self._marched(self._pixel_rays(camera, pixels, None, generator))
        return weight * volume.distortion(samples, self.field.density(spots)[0]).mean()

    @torch.no_grad()
    def density(self, points: Tensor) -> Tensor:
        """σ [N] at world points [N,3], per world unit."""
        found = self.field.density(volume.contract(self._framed(points), self.region.unbounded))
        return found[0] / self.region.radius

    @torch.no_grad()
    def color(self, points: Tensor, directions: Tensor) -> Tensor:
        """Colours [N,3] in [0,1] of world points [N,3] seen along unit directions [N,3]."""
        where = volume.contract(self._framed(points), self.region.unbounded)
        return self.field.color(self.field.density(where)[1], directions.to(where))

    @classmethod
    def restored(
        cls,
        scene: SavedScene,
        device: torch.device,
        options: dict[str, Any],
        tensors: Mapping[str, Tensor],
    ) -> NeRF:
        """See `Spatial.restored`; the encoding is the fastest here, as a table fits all."""
        _check_described(options, tensors)
        found = cls.__new__(cls)
        Spatial.__init__(found, scene, {**options, "encoding": "auto"})
        found._build(device)
        return found

    # ------------------------------------------------------------------ rendering
    def _framed(self, points: Tensor) -> Tensor:
        points = points.to(self.device)
        return (points - points.new_tensor(self.region.centre)) / self.region.radius

    def _camera_rays(self, camera: Camera, name: str | None, jittered: bool) -> Rays:
        pixels = torch.arange(camera.width * camera.height)
        generator = torch.Generator().manual_seed(int(self.steps)) if jittered else None
        return self._pixel_rays(camera, pixels, name, generator)

    def _pixel_rays(
        self, camera: Camera, pixels: Tensor, name: str | None, generator: torch.Generator | None
    ) -> Rays:
        known = self.options["appearance"] and name in self.names
        view = self.names.index(name) if known and name else -1
        found = pixel_rays(camera, pixels, self.background, view, generator)
        return replace(found, origins=self._framed(found.origins)).to(self.device)

    def _color(self, rays: Rays, spread: bool = False) -> Tensor:
        """Colours [R,3] with a graph; in chunks that are rendered again for their gradient.

        spread: a fourth column is `volume.distortion`.
        """
        if len(rays.jitter) <= self.chunk or not torch.is_grad_enabled():
            return torch.cat([self._chunk(part, spread) for part in rays.split(self.chunk)])
        parameters = [p for p in self.parameters() if p.requires_grad]
        return recomputed(lambda part: self._chunk(part, spread), rays, self.chunk, parameters)

    def _chunk(self, rays: Rays, spread: bool = False) -> Tensor:
        """`_color` of so few rays that they are rendered at once."""
        samples, spots, index = self._marched(rays)
        sigma, values = self.field(spots, rays.directions[index], rays.view[index])
        color = self._over_background(rays, *volume.composite(samples, sigma, values)[:2])
        if not spread:
            return color
        return torch.cat([color, volume.distortion(samples, sigma)[:, None]], -1)

    def _seen(self, rays: Rays) -> Tensor:
        """Colour, depth in radii and opacity [R,5]."""
        samples, spots, index = self._marched(rays)
        sigma, values = self.field(spots, rays.directions[index], rays.view[index])
        values = torch.cat([values, samples.t[:, None]], -1)
        out, left, _ = volume.composite(samples, sigma, values)
        opacity = 1 - left[:, None]
        depth = out[:, 3:] / opacity.clamp_min(1e-6)
        return torch.cat([self._over_background(rays, out[:, :3], left), depth, opacity], -1)

    def _over_background(self, rays: Rays, color: Tensor, left: Tensor) -> Tensor:
        """Colours [R,3], with what is behind everything seen by the light [R] that is left."""
        behind = rays.background
        if self.background == "learned":
            behind = torch.sigmoid(self.background_logit)
        return color + left[:, None] * behind

    def _marched(self, rays: Rays) -> tuple[volume.Samples, Tensor, Tensor]:
        """The samples that count, their places [S,3] in the grids, and their rays [S]."""
        region = self.region
        nears, fars = volume.limits(
            rays.origins,
            rays.directions,
            region.near / region.radius,
            region.far / region.radius,
            region.unbounded,
        )
        samples = volume.march(
            rays.origins, rays.directions, nears, fars, rays.jitter, self.occupancy.occupied,
            unbounded=region.unbounded, step=self.options["step"],
        )  # fmt: skip
        return self._lit(rays, samples)

    @torch.no_grad()
    def _lit(self, rays: Rays, samples: volume.Samples) -> tuple[volume.Samples, Tensor, Tensor]:
        """Leaves out samples that no light reaches; also returns their places and rays."""
        index = samples.rays
        spots = self._spots(rays, samples, index)
        sigma = torch.cat([self.field.density(part)[0] for part in spots.split(PIECE)])
        lit = volume.visible(samples, sigma, _DARK)
        return samples.keep(lit), spots[lit], index[lit]

    def _spots(self, rays: Rays, samples: volume.Samples, index: Tensor) -> Tensor:
        where = rays.origins[index] + samples.t[:, None] * rays.directions[index]
        return volume.contract(where, self.region.unbounded)


_OPTIONS = (
    "grid", "encoding", "hidden", "sh_degree", "density_bias", "appearance", "background",
    "render_size", "step", "occupancy", "explore", "density_growth", "distortion", "fit_distortion",
    "update_every", "rays", "chunk", "network_lr",
)  # fmt: skip


def _check(options: Mapping[str, Any]) -> None:
    """UserError for a number out of its range."""
    least = {"step": 1e-4, "chunk": 1, "rays": 1, "occupancy": 2, "update_every": 1, "hidden": 1}
    for name, low in least.items():
        if not options[name] >= low:
            raise UserError(f"representation.{name}={options[name]} must be at least {low:g}")
    check_render_size(options["render_size"])
    for name in ("explore", "density_growth", "distortion", "fit_distortion", "network_lr"):
        if not options.get(name, 0) >= 0:
            raise UserError(f"representation.{name}={options[name]} must not be negative")


def _check_described(options: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Compares a file's options with its tensors, before anything of that size is built.

    Raises:
        ValueError, LookupError, TypeError: they are of different sizes, or no options.
    """
    others = {"grid", "encoding", "appearance", "background"}
    if options["render_size"] is None:
        others.add("render_size")
    for name in set(options) - others:
        if name not in _OPTIONS or not math.isfinite(options[name]):
            raise ValueError(f"its {name} is no option")
    if not isinstance(options["appearance"], bool):
        raise ValueError("its appearance is neither true nor false")
    layout = GridLayout(**options["grid"])
    sizes = {
        "field.grid.table": (layout.entries * layout.features,),
        "occupancy.density": (options["occupancy"],) * 3,
    }
    for name, size in sizes.items():
        if tuple(tensors[name].shape) != size:
            raise ValueError(f"its {name} is {list(tensors[name].shape)}, not {list(size)}")
    if len(tensors["field.trunk.0.weight"]) != options["hidden"]:
        raise ValueError("its networks have another width than its options")
