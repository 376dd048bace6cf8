"""Gaussian splats as a representation: rendered by cameras, fitted to images, edited."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.errors import UserError, check_choice
from pds_cli.options.representations import NERF_BACKGROUNDS as BACKGROUNDS
from pds_cli.options.representations import SPLAT_PARAMETERS
from pds_cli.pictures.files import resize
from pds_cli.pictures.ssim import ssim
from pds_cli.representations.base import FitSettings
from pds_cli.representations.spatial import Spatial, check_render_size
from pds_cli.representations.splats.relocation import faded, relocate, scatter, wander
from pds_cli.representations.splats.start import points_about, seen_points, starting_points
from pds_cli.scenes.base import Scene
from pds_cli.scenes.saved import SavedScene
from pds_cli.splats.ply import SplatFile, write_ply
from pds_cli.splats.rasterise import Drawn, Gaussians, rasterise, seen_colors
from pds_cli.splats.turning import product, quaternion, turned
from pds_cli.views.cameras import Camera
from pds_cli.views.harmonics import BASE
from pds_cli.views.poses import IDENTITY, Similarity
from pds_cli.views.view import Rendering, View

NAMES = ("means", "scales", "quats", "opacities", "sh0", "shN")
_SETTLED = 0.8  # part of an edit after which what is scattered could neither grow nor fade
STEP_SIZES = {
    "means": 1.6e-4, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3,
    "shN": 2.5e-3 / 20,
}  # fmt: skip
"""Adam's, as published (3DGS, appendix); that of the means in radii of the region."""


@dataclass(frozen=True)
class SplatFit(FitSettings):
    """`FitSettings` of splats; `lr` multiplies the published step sizes."""

    steps: int = 1200
    lr: float = 5.0
    views_per_step: int = 1


class Splats(Spatial):
    """Gaussians in space, drawn nearest first.

    Kerbl et al. 2023 (arXiv 2308.04079). Their number is fixed: those that fade are moved to where
    there is something (3DGS-MCMC, `pds_cli.representations.splats.relocation`), while the scene is
    fitted and while it is edited. They begin where structure from motion found points, else at
    random. Photos through a lens are straightened first (`Scene.undistort`).

    Args:
        scene: a scene of posed views; gives the region and the size of renders.
        backbone: only its device is used.
        budget: how many Gaussians.
        sh_degree: how far colours depend on the direction they are seen from, 0 to 3.
        sh_every: steps of the fit after which the degree in use rises by one, from 0 on.
        background: what is behind everything: `learned` colour, `white`, `black`, or `random`.
        render_size: longer side of the renders that are edited, in pixels; None: the views' own.
        antialias: see `rasterise`.
        dssim: weight of 1 − SSIM in the fit, beside 1 − dssim of the mean absolute error.
        opacity_cost, scale_cost: weights of the mean opacity and of the mean standard deviation
            (in radii of the region): what is not needed fades, and can be moved.
        relocate_every: steps between relocations; 0: never.
        seeds: share of the Gaussians, the faintest, that are scattered as an edit begins.
        explore: of those that fade during an edit, the share that is scattered about others
            instead of laid upon them (`scatter`).
        reach: how far about them, in radii of the region.
        noise: how far centres wander while the scene is fitted, as a part of what is published.
        initial: a run of the same scene with a 3D result, such as a fitted NeRF: Gaussians begin
            on what its cameras see; None: at the scene's points, or at random.
        parameters: what an edit may change, some of `SPLAT_PARAMETERS`; unless it is all of them,
            Gaussians are not relocated.
        anchor: weight of `moved` in every step of an edit (GaussianEditor's idea, arXiv 2311.14521,
            section 4.2, without its generations); 0: they move freely.
        fit: fields of `SplatFit`.

    Raises:
        UserError: an option out of range, or a scene without posed views.
    """

    word = "splats"
    Fit = SplatFit
    steps: Tensor
    background_logit: Tensor
    means: Tensor
    scales: Tensor
    quats: Tensor
    opacities: Tensor
    sh0: Tensor
    shN: Tensor

    def __init__(
        self,
        scene: Scene,
        backbone: Backbone,
        *,
        budget: int = 10_000,
        sh_degree: int = 0,
        sh_every: int = 300,
        background: str = "learned",
        render_size: int | None = None,
        antialias: bool = False,
        dssim: float = 0.2,
        opacity_cost: float = 0.01,
        scale_cost: float = 0.01,
        relocate_every: int = 50,
        seeds: float = 0.2,
        explore: float = 0.7,
        reach: float = 0.12,
        noise: float = 1.0,
        initial: str | None = None,
        parameters: Sequence[str] = SPLAT_PARAMETERS,
        anchor: float = 0.0,
        fit: Mapping[str, Any] | None = None,
    ) -> None:
        options = {k: v for k, v in locals().items() if k in _OPTIONS}
        options["parameters"] = list(parameters)
        scene.undistort()
        super().__init__(scene, options)
        held: SplatFile | None = getattr(scene, "splats", None)
        if held is not None:  # a file is what it is; its own renders are edited, without a fit
            self.options |= {"budget": len(held), "sh_degree": held.degree}
        self._build(backbone.device)
        self._source = None if held is None else held.source
        if held is not None:
            self._take(held, scene.backdrop)  # type: ignore[attr-defined]
            return
        self._scatter(seen_points(initial, self.region) if initial else scene.sparse_points)
        self.fit_settings = SplatFit(**(fit or {}))
        self.fitting = True

    def _build(self, device: torch.device) -> None:
        """The tensors of the budget's size, all zero."""
        options = self.options
        check_choice("representation.background", options["background"], BACKGROUNDS)
        _check(options)
        count, bands = options["budget"], (options["sh_degree"] + 1) ** 2 - 1
        shapes = {
            "means": (count, 3), "scales": (count, 3), "quats": (count, 4), "opacities": (count,),
            "sh0": (count, 3), "shN": (count, bands, 3),
        }  # fmt: skip
        for name, shape in shapes.items():
            setattr(self, name, torch.nn.Parameter(torch.zeros(shape, device=device)))
        learned = options["background"] == "learned"
        self.background_logit = torch.nn.Parameter(torch.zeros(3, device=device), learned)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.fitting = False
        self._began = 0
        self._progress: float | None = None  # of a distillation; a fit to pictures has none
        self._start: str | None = None
        self._source_of_edit: dict[str, Tensor] = {}

    @torch.no_grad()
    def _scatter(self, found: tuple[Tensor, Tensor] | None) -> None:
        """Gaussians as wide as they lie apart: where points were found, or the cameras look."""
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**31)
        count, colors = len(self.means), None
        if found is None:
            cameras = list(self.cameras["train"].values())
            points, apart = starting_points(self.region, cameras, count, generator)
        else:
            points, colors, apart = points_about(*found, count, generator)
        self.means.copy_(points)
        self.scales.copy_(apart.log()[:, None].expand(-1, 3))
        self.quats.copy_(torch.randn(len(points), 4, generator=generator))
        self.opacities.fill_(torch.logit(torch.tensor(0.1)))
        if colors is None:
            self.sh0.copy_(torch.rand(count, 3, generator=generator) - 0.5)
        else:
            self.sh0.copy_((colors - 0.5) / BASE)
        if found is not None:
            self._start = hashlib.sha256(self.means.cpu().numpy().tobytes()).hexdigest()

    @torch.no_grad()
    def _take(self, held: SplatFile, backdrop: Tensor) -> None:
        """The Gaussians of a file, before a background of this colour [3]."""
        for name in NAMES:
            getattr(self, name).copy_(held.tensors[name])
        self.background_logit.copy_(torch.logit(backdrop.clamp(1e-3, 1 - 1e-3)))

    # ------------------------------------------------------------------ contract
    def render(self, view: View) -> Tensor:
        """The image [1,3,H,W] that the view's camera sees; differentiable in θ.

        Colours are at least 0; a little above 1 they keep their gradient.
        """
        assert view.camera is not None
        return self._image(view.camera.with_longer_side(self.options["render_size"]))[None]

    @torch.no_grad()
    def render_full(self, view: View) -> Tensor:
        """See `Representation.render_full`."""
        assert view.camera is not None
        return self._image(view.camera).clamp(0, 1)

    @torch.no_grad()
    def render_camera(self, camera: Camera) -> Rendering:
        """Colour, depth and opacity as the camera sees them, at the camera's own size."""
        drawn = self._drawn(camera)
        rgb = self._over_background(drawn, None).clamp(0, 1)
        _, directions = camera.rays()
        slant = (directions @ camera.forward.to(directions)).view_as(drawn.depth)
        depth = drawn.depth / drawn.opacity.clamp_min(1e-6) / slant.to(drawn.depth)
        return Rendering(rgb, depth, drawn.opacity)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """A group a kind of parameter, each with its published step size."""
        scales = {**STEP_SIZES, "means": STEP_SIZES["means"] * self.region.radius}
        names = [name for name in NAMES if self.fitting or self._may_change(name)]
        groups = [{"params": [getattr(self, name)], "lr_scale": scales[name]} for name in names]
        if self.background_logit.requires_grad and (self.fitting or self._may_change("sh0")):
            groups.append({"params": [self.background_logit], "lr_scale": 1e-2})
        return groups

    def _all_move(self) -> bool:
        return all(name in self.options["parameters"] for name in SPLAT_PARAMETERS)

    def _may_change(self, name: str) -> bool:
        return ("colors" if name in ("sh0", "shN") else name) in self.options["parameters"]

    def begin_edit(self) -> None:
        """Centres no longer wander, and all harmonics are in use."""
        self.fitting, self._progress = False, None

    def hold_source(self) -> None:
        """When the edit began, and what the anchor holds to where there is one."""
        self._began = int(self.steps)
        if self.options["anchor"]:
            self._source_of_edit = {n: getattr(self, n).detach().clone() for n in NAMES}

    def penalty(self, view: View, progress: float, generator: torch.Generator) -> Tensor | None:
        """`anchor` times `moved`; None without an anchor."""
        self._progress = progress
        return self.options["anchor"] * self.moved() if self._source_of_edit else None

    def moved(self) -> Tensor:
        """Mean squared change of the Gaussians since the edit began, each kind in its own measure.

        Centres in their own standard deviations, scales and opacities as logarithms and logits,
        quaternions as they are, colours in [0,1]; the five means are added. One that was relocated
        counts as if it had moved.
        """
        source = self._source_of_edit
        away = {name: getattr(self, name) - before for name, before in source.items()}
        away["means"] = away["means"] / source["scales"].exp().mean(1, keepdim=True)
        away["sh0"] = away["sh0"] * BASE
        return torch.stack([away[n].square().mean() for n in NAMES if n != "shN"]).sum()

    def fit_options(self) -> dict[str, Any]:
        """What shapes a fit, and where points were found."""
        edit = ("render_size", "parameters", "anchor", "seeds", "explore", "reach")
        options = {k: v for k, v in self.options.items() if k not in edit}
        return options if self._start is None else {**options, "start": self._start}

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Moves what has faded, and lets the centres wander; random numbers follow the step."""
        self.steps += 1
        generator = torch.Generator().manual_seed(int(self.steps))
        if not self.fitting:
            if self._all_move():
                self._move_in_edit(optimizer, generator)
            return
        every = self.options["relocate_every"]
        if every and int(self.steps) % every == 0:
            relocate(self._parameters_held(), optimizer, generator)
        if self.options["noise"]:
            lr = float(optimizer.param_groups[0]["lr"]) * self.options["noise"]
            lr /= self.region.radius**2  # published for scenes of radius 1; covariances are areas
            wander(self.means, self.quats, self.scales, self.opacities, lr, generator)

    def _parameters_held(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in NAMES}

    @torch.no_grad()
    def _move_in_edit(self, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """Scatters Gaussians as the edit begins, and then moves those that fade."""
        held, options, age = self._parameters_held(), self.options, int(self.steps) - self._began
        reach, every = options["reach"] * self.region.radius, options["relocate_every"]
        grows = self._progress is not None and self._progress < _SETTLED
        if every and grows and age == 1:
            count = round(options["seeds"] * len(self.means))
            faintest = self.opacities.argsort()[:count]
            scatter(held, optimizer, generator, faintest, reach)
        elif every and age % every == 0:
            gone, share = faded(held), options["explore"] if grows else 0.0
            anew = torch.rand(len(gone), generator=generator).to(self.means) < share
            scatter(held, optimizer, generator, gone[anew], reach)
            relocate(held, optimizer, generator, gone[~anew], pulled=True)

    def reconstruction_loss(
        self, pairs: Sequence[tuple[View, Tensor]], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """(1 − dssim) · mean |g − x| + dssim · (1 − SSIM), and the two costs, with a graph.

        With an alpha channel the image is laid over this step's background.
        """
        losses, errors = [], []
        for view, image in pairs:
            assert view.camera is not None
            height, width = image.shape[-2:]
            drawn = self._drawn(view.camera.scaled(height, width))
            behind = self._behind(generator)
            found = self._over_background(drawn, behind)
            wanted = self._wanted(view, image.to(found), behind)
            if view.mask is not None:
                mask = resize(view.mask.to(found), height, width)
                found, wanted = found * mask, wanted * mask
            likeness = ssim(found[None], wanted[None]).mean()
            part = self.options["dssim"]
            losses.append((1 - part) * (found - wanted).abs().mean() + part * (1 - likeness))
            errors.append(float((found.detach() - wanted).square().mean()))
        loss = torch.stack(losses).mean()
        opacity = torch.sigmoid(self.opacities).mean()
        size = self.scales.exp().mean() / self.region.radius
        loss = loss + self.options["opacity_cost"] * opacity + self.options["scale_cost"] * size
        error = sum(errors) / len(errors)
        return loss, {"psnr": -10 * math.log10(max(error, 1e-10))}

    @classmethod
    def restored(
        cls,
        scene: SavedScene,
        device: torch.device,
        options: dict[str, Any],
        tensors: Mapping[str, Tensor],
    ) -> Splats:
        """See `Spatial.restored`."""
        if set(options) != set(_OPTIONS):
            raise ValueError("its options are not those of splats")
        if len(tensors["means"]) != options["budget"]:
            raise ValueError("it holds another number of Gaussians than its budget")
        found = cls.__new__(cls)
        Spatial.__init__(found, scene, options)
        found._build(device)
        found._source = None
        return found

    @torch.no_grad()
    def splat_file(self, placed: Similarity = IDENTITY) -> SplatFile:
        """The Gaussians as files have them, moved by a similarity of the scene's coordinates."""
        held = {name: getattr(self, name).detach().cpu().clone() for name in NAMES}
        turn = placed.matrix[:, :3]
        if placed is not IDENTITY:
            held["means"] = placed.points(held["means"].double()).float()
            held["scales"] += math.log(placed.scale)
            held["quats"] = product(quaternion(turn), held["quats"].double()).float()
            held["shN"] = turned(held["shN"].double(), turn).float()
        return SplatFile(held, self._source)

    def export(self, folder: Path) -> list[Path]:
        """Writes the result as every 3D scene does, and the Gaussians as `splats.ply`."""
        return [*super().export(folder), write_ply(folder / "splats.ply", self.splat_file())]

    # ------------------------------------------------------------------ rendering
    def gaussians(self, camera: Camera) -> Gaussians:
        """The Gaussians with the colours that a camera sees."""
        degree = self.options["sh_degree"]
        if self.fitting:
            degree = min(degree, int(self.steps) // self.options["sh_every"])
        return Gaussians(
            self.means,
            self.quats,
            self.scales,
            torch.sigmoid(self.opacities),
            seen_colors(self.means, self.sh0, self.shN, camera, degree),
        )

    def _drawn(self, camera: Camera) -> Drawn:
        near, antialias = self.region.near, self.options["antialias"]
        return rasterise(self.gaussians(camera), camera, near=near, antialias=antialias)

    def _image(self, camera: Camera) -> Tensor:
        """What a camera sees [3,H,W]; a random background follows the step."""
        generator = torch.Generator().manual_seed(int(self.steps))
        behind = self._behind(generator) if torch.is_grad_enabled() else None
        return self._over_background(self._drawn(camera), behind)

    def _behind(self, generator: torch.Generator) -> Tensor | None:
        """This step's background [3]; None: the one that pictures have."""
        if self.options["background"] != "random":
            return None
        return torch.rand(3, generator=generator).to(self.means)

    def _plain(self) -> Tensor:
        """Black [3], or what pictures have behind them otherwise: white."""
        return torch.full_like(self.background_logit, float(self.options["background"] != "black"))

    def _over_background(self, drawn: Drawn, behind: Tensor | None) -> Tensor:
        if behind is None:
            learned = self.options["background"] == "learned"
            behind = torch.sigmoid(self.background_logit) if learned else self._plain()
        return drawn.color + (1 - drawn.opacity) * behind[:, None, None]

    def _wanted(self, view: View, image: Tensor, behind: Tensor | None) -> Tensor:
        """The image [3,H,W] of a view, over this step's background where it is transparent."""
        if view.alpha is None or self.options["background"] == "learned":
            return image
        behind = self._plain() if behind is None else behind
        left = 1 - resize(view.alpha.to(image), *image.shape[-2:])
        if view.backdrop is None:
            return image * (1 - left) + left * behind[:, None, None]
        return image + left * (behind - image.new_tensor(view.backdrop))[:, None, None]


_OPTIONS = (
    "budget", "sh_degree", "sh_every", "background", "render_size", "antialias", "dssim",
    "opacity_cost", "scale_cost", "relocate_every", "seeds", "explore", "reach", "noise",
    "parameters", "anchor",
)  # fmt: skip


def _check(options: Mapping[str, Any]) -> None:
    """UserError for a number out of its range."""
    least: dict[str, float] = {"budget": 1, "sh_degree": 0, "sh_every": 1, "relocate_every": 0}
    least |= {"opacity_cost": 0, "scale_cost": 0, "noise": 0, "dssim": 0, "anchor": 0}
    least |= {"seeds": 0, "explore": 0, "reach": 1e-6}
    for name, low in least.items():
        if not options[name] >= low:
            raise UserError(f"representation.{name}={options[name]} must be at least {low}")
    for name, high in (("sh_degree", 3), ("dssim", 1), ("seeds", 1), ("explore", 1)):
        if not options[name] <= high:
            raise UserError(f"representation.{name}={options[name]} must be at most {high}")
    unknown = [name for name in options["parameters"] if name not in SPLAT_PARAMETERS]
    if unknown or not options["parameters"]:
        raise UserError(
            f"representation.parameters={options['parameters']}: choose from "
            f"{', '.join(SPLAT_PARAMETERS)}"
        )
    check_render_size(options["render_size"])
