"""A fit proves a loader's conventions: only with the right cameras do photos agree with each other.

Each format's set holds the same world, photographed by VTK with known cameras; a small NeRF that
is fitted to some of the photos must predict the held-out ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rendered_scene import (
    Shot,
    photograph,
    ring,
    write_blender,
    write_colmap_text,
    write_nerfstudio,
)

from pds_cli.representations.nerf.representation import NeRF
from pds_cli.representations.spatial import Place
from pds_cli.runs.folder import RunFolder
from pds_cli.scenes.base import Scene
from pds_cli.scenes.blender import BlenderScene
from pds_cli.scenes.capture import CaptureScene
from pds_cli.scenes.colmap import ColmapScene
from pds_cli.scenes.nerfstudio import NerfstudioScene
from pds_cli.training.fit import ensure_fit, measure
from pds_cli.views.view import View

pytest.importorskip("pyvista", reason="PyVista renders the photos of these tests")

FIELD: dict[str, Any] = {"hidden": 32, "occupancy": 40, "step": 0.05, "fit_distortion": 0.005}
STEPS = 150
SIZE = 48  # the longer side of the views in pixels


def psnr(scene: Scene, folder: Path, **options: Any) -> float:
    """Of held-out views after a fit to the others."""
    torch.manual_seed(0)
    found = NeRF(scene, Place("cpu"), **FIELD, **options, fit={"steps": STEPS})  # type: ignore[arg-type]
    assert ensure_fit(scene, found, RunFolder(folder / "run"), 0, checkpoint_every=0)
    assert len(scene.eval_views) >= 2
    return measure(found, scene.eval_views)["psnr"]


def blank(scene: Scene) -> float:
    """The PSNR of the best single colour: what a fit that learned nothing would have."""
    images = [view.image for view in scene.eval_views if view.image is not None]
    colour = torch.stack([image.mean((-1, -2)) for image in images]).mean(0)[:, None, None]
    errors = [float((image - colour).square().mean()) for image in images]
    return sum(-10 * torch.log10(torch.tensor(error)).item() for error in errors) / len(errors)


class Turned(Scene):
    """A scene whose cameras are wrong in one way."""

    source_prompt = ""

    def __init__(self, scene: CaptureScene, flip: Sequence[float]) -> None:
        self.scene, self.flip = scene, torch.tensor([*flip, 1.0])

    def _wrong(self, views: Sequence[View]) -> list[View]:
        found = []
        for view in views:
            assert view.camera is not None
            pose = view.camera.camera_to_world * self.flip
            found.append(replace(view, camera=view.camera.moved(pose)))
        return found

    @property
    def views(self) -> Sequence[View]:
        return self._wrong(self.scene.views)

    @property
    def eval_views(self) -> Sequence[View]:
        return self._wrong(self.scene.eval_views)

    @property
    def region(self) -> Any:
        return self.scene.region


def shots() -> list[Shot]:
    return ring(32)


@pytest.fixture(scope="module")
def pictures() -> list[Any]:
    return photograph(shots(), cells=(3,))


@pytest.fixture(scope="module")
def nerfstudio(pictures: list[Any], tmp_path_factory: pytest.TempPathFactory) -> NerfstudioScene:
    folder = write_nerfstudio(tmp_path_factory.mktemp("nerfstudio"), shots(), pictures)
    return NerfstudioScene(folder, max_size=SIZE, centre="focus")


def test_a_fit_to_a_nerfstudio_set_predicts_held_out_photos(
    nerfstudio: NerfstudioScene, tmp_path: Path
) -> None:
    assert psnr(nerfstudio, tmp_path) > blank(nerfstudio) + 5


def test_a_fit_to_mirrored_cameras_does_not(nerfstudio: NerfstudioScene, tmp_path: Path) -> None:
    """The measure above notices a wrong convention."""
    wrong = Turned(nerfstudio, (1.0, -1.0, 1.0))
    assert psnr(wrong, tmp_path) < blank(nerfstudio) + 1


def test_a_fit_to_a_colmap_model_predicts_held_out_photos(
    pictures: list[Any], tmp_path: Path
) -> None:
    pytest.importorskip("pycolmap", reason="pycolmap reads COLMAP models")
    scene = ColmapScene(
        write_colmap_text(tmp_path, shots(), pictures), max_size=SIZE, centre="focus"
    )
    assert psnr(scene, tmp_path) > blank(scene) + 5


def test_a_fit_to_a_blender_set_predicts_its_test_photos(tmp_path: Path) -> None:
    pictures = photograph(shots(), ground=False, cells=(3,))
    scene = BlenderScene(
        write_blender(tmp_path, shots(), pictures, held_out=3), max_size=SIZE, eval_every=1
    )
    assert psnr(scene, tmp_path, background="white") > blank(scene) + 7
