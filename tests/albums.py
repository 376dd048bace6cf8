"""A scene of several small pictures and its representation, for tests of many-view objectives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pds_cli.backbones.base import Text
from pds_cli.backbones.mixture import MixtureBackbone
from pds_cli.representations.base import Representation
from pds_cli.scenes.base import Scene
from pds_cli.views.view import View

SIDE = 4


class Album(Scene):
    """`count` random pictures [3,SIDE,SIDE], or views without a picture."""

    source_prompt = "a"

    def __init__(self, count: int = 3, pictures: bool = True, side: int = SIDE) -> None:
        generator = torch.Generator().manual_seed(11)
        images = torch.rand(count, 3, side, side, generator=generator)
        self._views = [
            View(f"view{i}", image if pictures else None) for i, image in enumerate(images)
        ]

    @property
    def views(self) -> Sequence[View]:
        return self._views


class Pages(Representation):
    """θ [V,3,SIDE,SIDE] is one picture a view, all grey at first; counts its renders."""

    def __init__(self, scene: Album, side: int = SIDE) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.full((len(scene.views), 3, side, side), 0.5))
        self.rendered: list[str] = []

    def render(self, view: View) -> Tensor:
        self.rendered.append(view.name)
        index = int(view.name.removeprefix("view"))
        return self.theta[index : index + 1]

    def export(self, folder: Path) -> list[Path]:
        return []


class Counting(MixtureBackbone):
    """Two Gaussians `a` and `b` over pictures; keeps the number of rows of every call."""

    rows: list[int]

    def predict_eps(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.rows.append(len(x_t))
        return super().predict_eps(x_t, t, cond)


def gaussians(std: float = 0.1, side: int = SIDE) -> Counting:
    """The backbone of the album: `a` is dark, `b` is bright."""
    means = torch.stack([torch.full((3, side, side), value) for value in (0.35, 0.65)])
    backbone = Counting(means, ["a", "b"], std)
    backbone.rows = []
    return backbone


def texts(backbone: MixtureBackbone) -> tuple[Text, Text]:
    """The target prompt `b` and the source prompt `a`, encoded."""
    return backbone.encode_prompt(["b"]), backbone.encode_prompt(["a"])
