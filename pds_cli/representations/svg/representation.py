"""An SVG drawing whose points, colours, opacities and gradients are moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.drawings.rasterise import Numbers, compiled, rasterise
from pds_cli.drawings.writing import write_drawing
from pds_cli.errors import UserError
from pds_cli.files import atomic_path
from pds_cli.kernels import raster
from pds_cli.options.representations import PARAMETERS
from pds_cli.pictures.files import write_image
from pds_cli.pictures.video import write_video
from pds_cli.representations.base import Representation
from pds_cli.representations.svg import regularisers
from pds_cli.representations.svg.animation import SECONDS, animated
from pds_cli.runs import layout
from pds_cli.scenes.base import Scene
from pds_cli.views.view import View

CANVAS = 512
"""Points are measured in this many parts of the drawing's longer side, as in the literature."""


# Part of a drawing → the option that is its step size.
_STEP_SIZES = {
    "points": "point_lr",
    "colors": "color_lr",
    "opacities": "opacity_lr",
    "gradients": "gradient_lr",
}


class SVG(Representation):
    """The numbers of a drawing, in the order and structure of its file.

    Args:
        scene: a scene with a `drawing` (`pds_cli.scenes.svg.SVGScene`).
        backbone: gives the size of renders and the device they are brought to.
        parameters: what an edit may change, some of `PARAMETERS`: control points; colours (fills
            and gradients' stops); opacities (of fills, stops and groups); gradients (where they
            lie, and their stops' offsets).
        render_size: longer side of edited renders in pixels; None: what the backbone asks for.
        background: red, green, blue below the drawing, in [0,1].
        point_lr, color_lr, opacity_lr, gradient_lr: step sizes as multiples of the run's; those of
            points and gradients are in 512ths of the drawing's longer side.
        max_move: how far a point may go from where it was, in the same unit; None: anywhere.
        symmetry: weight of `regularisers.symmetry`; xing: weight of `regularisers.xing`.
        animation: steps between the frames of an animation of the edit; 0: none is made.

    Raises:
        UserError: a scene without a drawing, or parameters that do not exist.
    """

    points: Tensor
    colors: Tensor
    opacities: Tensor
    gradients: Tensor
    groups: Tensor
    offsets: Tensor
    stop_colors: Tensor
    stop_opacities: Tensor
    first_points: Tensor
    first_colors: Tensor
    first_stop_colors: Tensor
    steps: Tensor
    frames: Tensor

    word = "svg"

    def __init__(
        self,
        scene: Scene,
        backbone: Backbone,
        *,
        parameters: Sequence[str] = ("points", "colors"),
        render_size: int | None = None,
        background: Sequence[float] = (1.0, 1.0, 1.0),
        point_lr: float = 40.0,
        color_lr: float = 0.5,
        opacity_lr: float = 0.5,
        gradient_lr: float = 40.0,
        max_move: float | None = None,
        symmetry: float = 0.0,
        xing: float = 0.0,
        animation: int = 0,
    ) -> None:
        super().__init__()
        drawing = getattr(scene, "drawing", None)
        if drawing is None:
            raise UserError("representation=svg edits a drawing: use scene=svg scene.path=….svg")
        unknown = [p for p in parameters if p not in PARAMETERS]
        if unknown or not parameters:
            raise UserError(
                f"representation.parameters={list(parameters)}: choose from {', '.join(PARAMETERS)}"
            )
        if len(background) != 3:
            raise UserError(
                f"representation.background={list(background)} must be three numbers, "
                "for example [1,1,1]"
            )
        self.drawing, self.view = drawing, scene.views[0]
        self.chosen = tuple(parameters)
        red, green, blue = (float(v) for v in background)
        self.background = (red, green, blue, 1.0)
        self.scales = dict(
            points=point_lr, colors=color_lr, opacities=opacity_lr, gradients=gradient_lr
        )
        self.max_move, self.symmetry, self.xing = max_move, symmetry, xing
        self._backbone = [backbone]
        self._size = self._render_size(render_size)
        self._take(drawing)
        self.animation = animation
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("frames", self._vector()[None])

    def _take(self, drawing: Any) -> None:
        """Makes parameters of what may change, and buffers of the rest."""
        self.program, numbers = compiled(drawing)
        self.unit = max(drawing.box[2:]) / CANVAS
        origin = torch.tensor(drawing.box[:2], dtype=torch.float64)
        self.origin = origin
        kinds = torch.as_tensor(self.program.kinds)
        clip = torch.ones(len(self.program.rules), dtype=torch.bool)
        clip[[int(i) for i in _painted(self.program.ops)]] = False
        solid = kinds == raster.SOLID
        self.solid, self.gradient, self.clip = solid, ~solid, clip
        parts = {
            "points": ["points"],
            "colors": ["colors", "stop_colors"],
            "opacities": ["opacities", "stop_opacities", "groups"],
            "gradients": ["gradients", "offsets"],
        }
        values = {
            "points": (numbers.points - origin) / self.unit,
            "colors": numbers.data[solid, :3],
            "gradients": numbers.data[~solid] / self.unit,
            "opacities": numbers.opacities,
            "groups": numbers.groups,
            "offsets": numbers.stops[:, 0],
            "stop_colors": numbers.stops[:, 1:4],
            "stop_opacities": numbers.stops[:, 4],
        }
        self.parts = {key: names for key, names in parts.items() if key in self.chosen}
        free = {name for names in self.parts.values() for name in names}
        for name, value in values.items():
            value = value.to(torch.float32).clone()
            self.register_buffer(f"first_{name}", value.clone(), persistent=False)
            if name in free and value.numel():
                setattr(self, name, torch.nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        if next(self.parameters(), None) is None:
            raise UserError(
                f"representation.parameters={list(self.chosen)}: this drawing has none of these; "
                f"choose from {', '.join(PARAMETERS)}"
            )
        self.pairs = regularisers.mirrored(self.points.detach()) if self.symmetry else None

    def _render_size(self, size: int | None) -> tuple[int, int]:
        image = self.view.image
        assert image is not None
        height, width = image.shape[-2:]
        if size is not None:
            return tuple(max(1, round(size * v / max(height, width))) for v in (height, width))  # type: ignore[return-value]
        return self._backbone[0].image_size(height, width)

    # ------------------------------------------------------------------ rendering
    def numbers(self) -> Numbers:
        """θ as the rasteriser takes it, in the drawing's own coordinates; differentiable."""
        data = self.points.new_zeros(len(self.solid), 6)
        colors = torch.nn.functional.pad(self.colors, (0, 3))
        data = data.index_put((self.solid.nonzero()[:, 0],), colors)
        data = data.index_put((self.gradient.nonzero()[:, 0],), self.gradients * self.unit)
        stops = torch.cat(
            [self.offsets[:, None], self.stop_colors, self.stop_opacities[:, None]], 1
        )
        return Numbers(
            self.points * self.unit + self.origin.to(self.points),
            torch.where(self.clip, torch.ones_like(self.opacities), self.opacities),
            data,
            stops,
            self.groups,
        )

    def image(self, height: int, width: int) -> Tensor:
        """The drawing [3,height,width] in [0,1] over its background; differentiable."""
        placed = self.drawing.placed(width, height)
        return rasterise(self.program, self.numbers(), placed, height, width, self.background)[:3]

    def render(self, view: View) -> Tensor:
        """The image [1,3,h,w] in [0,1] at the working size, on the backbone's device."""
        return self.image(*self._size)[None].to(self._backbone[0].device)

    @torch.no_grad()
    def render_full(self, view: View) -> Tensor:
        """The image [3,H,W] in [0,1] at the size of the view's own."""
        assert view.image is not None
        return self.image(*view.image.shape[-2:]).clamp(0, 1)

    # ------------------------------------------------------------------ optimisation
    def parameter_groups(self) -> list[dict[str, Any]]:
        """A group for each of `parameters`, with its own step size."""
        groups = []
        for key, names in self.parts.items():
            found = [p for n in names if isinstance(p := getattr(self, n), torch.nn.Parameter)]
            if found:
                groups.append({"params": found, "lr_scale": self.scales[key]})
        return groups

    def idle(self) -> dict[str, str]:
        """Step sizes of what is not among `parameters`, too."""
        why = f"representation.parameters=[{','.join(self.chosen)}]"
        unused = [name for key, name in _STEP_SIZES.items() if key not in self.chosen]
        return super().idle() | {f"representation.{name}": why for name in unused}

    @torch.no_grad()
    def regularise(self) -> None:
        """Brings colours, opacities and offsets back into range, and points within `max_move`."""
        self._bring_back()
        self.steps += 1
        if self.animation and int(self.steps) % self.animation == 0:
            self.frames = torch.cat([self.frames, self._vector()[None]])

    def _bring_back(self) -> None:
        for name in ("colors", "stop_colors", "opacities", "stop_opacities", "groups", "offsets"):
            getattr(self, name).clamp_(0, 1)
        for begin, end in self.program.stop_spans:
            if end > begin:
                self.offsets[begin:end] = torch.cummax(self.offsets[begin:end], 0).values
        radii = self.program.kinds[self.gradient.numpy()] == raster.RADIAL
        self.gradients[torch.as_tensor(radii), 2] = self.gradients[torch.as_tensor(radii), 2].clamp(
            min=0.01
        )
        if self.max_move is not None:
            move = self.points - self.first_points
            length = move.norm(dim=1, keepdim=True).clamp(min=1e-9)
            self.points.copy_(self.first_points + move * (self.max_move / length).clamp(max=1))

    def _vector(self) -> Tensor:
        """All that an edit may change, in a row."""
        return torch.nn.utils.parameters_to_vector(list(self.parameters())).detach().clone()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        if prefix + "frames" in state_dict:  # as many as there were
            self.frames = torch.empty_like(state_dict[prefix + "frames"])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def penalty(self, view: View, progress: float, generator: torch.Generator) -> Tensor | None:
        """What `symmetry` and `xing` ask for, times their weights."""
        total = None
        if self.symmetry and self.pairs is not None:
            total = self.symmetry * regularisers.symmetry(self.points, *self.pairs)
        if self.xing:
            found = self.xing * regularisers.xing(self.points, self.program.curves)
            total = found if total is None else total + found
        return total

    # ------------------------------------------------------------------ results
    @torch.no_grad()
    def changes(self) -> dict[str, float]:
        """Mean distance that control points moved (512ths), and change of colours (of 255)."""
        moved = (self.points - self.first_points).norm(dim=1)
        shown = self._shown_colors()
        colors = torch.cat([(self.colors - self.first_colors)[shown],
                            self.stop_colors - self.first_stop_colors])  # fmt: skip
        found = {"points_moved": float(moved.mean()) if len(moved) else 0.0}
        found["colors_changed"] = 255 * float(colors.abs().mean()) if len(colors) else 0.0
        return found

    def _shown_colors(self) -> Tensor:
        """Which colours are painted, and not those of clips, [P'] of bool."""
        used = torch.zeros(len(self.solid), dtype=torch.bool)
        used[self.program.paints[(~self.clip).numpy()].astype(np.int64)] = True
        return used[self.solid]

    @torch.no_grad()
    def svg(self) -> bytes:
        """The drawing as SVG text, with the structure of its source."""
        numbers = Numbers(*(v.detach().double() for v in vars(self.numbers()).values()))
        stops = [numbers.stops[a:b].numpy() for a, b in self.program.stop_spans]
        return write_drawing(
            self.drawing,
            numbers.points.numpy(),
            numbers.data.numpy(),
            stops,
            numbers.opacities.numpy(),
            numbers.groups.numpy(),
        )

    def export(self, folder: Path) -> list[Path]:
        """Writes `result.svg` and `result.png`; returns their paths.

        With `animation`, `animation.svg`, `animation.mp4` and `animation.gif` too.
        """
        folder = Path(folder)
        films = self._film(folder) if self.animation else []
        with atomic_path(folder / layout.RESULT_DRAWING.name) as temporary:
            temporary.write_bytes(self.svg())
        assert self.view.image is not None
        height, width = self.view.image.shape[-2:]
        factor = CANVAS / max(height, width)
        with torch.no_grad():
            picture = self.image(round(height * factor), round(width * factor))
        picture_path = write_image(folder / layout.RESULT_PICTURE.name, picture.clamp(0, 1))
        return [folder / layout.RESULT_DRAWING.name, picture_path, *films]

    @torch.no_grad()
    def _film(self, folder: Path) -> list[Path]:
        """The frames as SVG that moves by itself, and as films."""
        now, numbers, pictures = self._vector(), [], []
        assert self.view.image is not None
        size = self.view.image.shape[-2:]
        for frame in (*self.frames, now):
            torch.nn.utils.vector_to_parameters(frame, list(self.parameters()))
            found = self.numbers()
            numbers.append((found.points.double().numpy(), found.data.double().numpy()))
            pictures.append(self.image(*size).clamp(0, 1))
        self.svg()  # leaves the document as it is at the end
        with atomic_path(folder / layout.ANIMATION.name) as temporary:
            temporary.write_bytes(animated(self.drawing, numbers))
        fps = min(25.0, max(1.0, len(pictures) / SECONDS))
        return [folder / layout.ANIMATION.name, *write_video(folder / "animation", pictures, fps)]


def _painted(ops: np.ndarray) -> list[int]:
    """The shapes that are seen, and do not only clip: those outside of a mask's layer."""
    found: list[int] = []
    layers: list[list[int]] = [[]]
    for op, i in ops:
        if op == raster.PUSH:
            layers.append([])
        elif op == raster.DRAW:
            layers[-1].append(int(i))
        elif op == raster.POP:
            inner = layers.pop()
            layers[-1] += inner
        else:
            layers.pop()  # a mask
    for layer in layers:
        found += layer
    return found
