"""The contract of 3D: a representation from outside is fitted, edited, shown, exported, scored."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
import yaml
from conftest import Answer
from helpers import records, summary
from PIL import Image
from safetensors import safe_open

from pds_cli.errors import UserError
from pds_cli.instantiate import check_target
from pds_cli.options.catalogue import shipped_targets
from pds_cli.representations.spatial import Place, Spatial, load_spatial

pytest.importorskip("pyvista", reason="PyVista renders the small pictures of these tests")

BALLS = '''
import torch

from pds_cli.representations.base import FitSettings
from pds_cli.representations.spatial import Spatial
from pds_cli.views.view import Rendering


class Balls(Spatial):
    """Soft coloured balls over white; each ray takes them in the order of their distance."""

    word = "balls"

    def __init__(self, scene, backbone, *, count=6, size=0.25, fit=None):
        super().__init__(scene, {"count": count, "size": size})
        middle = torch.tensor(self.region.centre, device=backbone.device)
        around = torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) - 0.5
        self.places = torch.nn.Parameter(middle + self.region.radius * around.to(middle))
        self.paints = torch.nn.Parameter(torch.zeros(count, 3, device=backbone.device))
        self.size = size * self.region.radius
        self.fit_settings = FitSettings(**(fit or {}))

    def _seen(self, camera):
        origins, directions = (part.to(self.places) for part in camera.rays())
        toward = self.places[None] - origins[:, None]
        depth = (toward * directions[:, None]).sum(-1)
        off = toward.square().sum(-1) - depth.square()
        opacity = 0.95 * torch.exp(-0.5 * off / self.size**2) * (depth > 0)
        order = depth.argsort(1)
        opacity, near = opacity.gather(1, order), depth.gather(1, order)
        left = torch.cat([torch.ones_like(opacity[:, :1]), (1 - opacity).cumprod(1)], 1)
        weights = opacity * left[:, :-1]
        colors = torch.sigmoid(self.paints)[order]
        rgb = (weights[..., None] * colors).sum(1) + left[:, -1:]
        return rgb, (weights * near).sum(1), 1 - left[:, -1]

    def render(self, view):
        camera = view.camera.scaled(64, 64)
        return self._seen(camera)[0].T.reshape(1, 3, 64, 64)

    @torch.no_grad()
    def render_camera(self, camera):
        rgb, depth, opacity = self._seen(camera)
        size = (camera.height, camera.width)
        return Rendering(rgb.T.reshape(3, *size), depth.reshape(size), opacity.reshape(size))
'''
YAML = (
    "# soft coloured balls\n_target_: coloured_balls.Balls\ncount: 6\nfit: {steps: 25, lr: 0.05}\n"
)
SCENE = ["scene=figurine", "scene.size=64", "scene.count=4", "scene.held_out=2", "device=cpu"]
OURS = ["--config-dir", "groups", "representation=mine", "allow_modules=[coloured_balls]"]
Pds = Callable[..., Answer]


@pytest.fixture
def balls(pds: Pds, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch) -> Pds:
    """`pds` in a folder with a representation of somebody's own, and a run of each verb on it."""
    Path("coloured_balls.py").write_text(BALLS)
    Path("groups/representation").mkdir(parents=True)
    Path("groups/representation/mine.yaml").write_text(YAML)
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "coloured_balls", raising=False)
    assert (answer := pds("fit", *SCENE, *OURS, "out=fitted")).code == 0, answer.err
    words = [*SCENE, *OURS, "prompt=a photo of a robot", f"backbone.model={tiny_backbone}"]
    words += [
        "+backbone.recommended.balls={steps: 7}",
        "turntable=4",
        "fit=fitted",
        "lr=0.1",
        "refine=none",
    ]
    assert (answer := pds("edit", *words, "out=edited")).code == 0, answer.err
    return pds


def test_a_representation_from_outside_goes_through_every_verb(balls: Pds) -> None:
    fitted = [record["psnr"] for record in records("fitted") if "psnr" in record]
    assert fitted[-1] > fitted[0] + 1, "the balls find the figure"
    assert summary("edited")["steps"] == 7, "the backbone recommends by the class's own word"
    assert yaml.safe_load(Path("edited/config.yaml").read_text())["steps"] == 7
    for name in ("turntable_before", "turntable"):
        assert list(Path("edited/exports").glob(f"{name}.*")), name
    before, after = (load(folder) for folder in ("fitted", "edited"))
    moved = (after.state_dict()["paints"] - before.state_dict()["paints"]).abs().max()
    assert 0.01 < float(moved) < 1

    allow = "allow_modules=[coloured_balls]"
    answer = balls("render", "run=edited", "frames=3", "size=32", "device=cpu", allow)
    assert answer.code == 0, answer.err
    camera = next(iter(after.cameras["train"].values()))
    assert balls("render", "run=edited", "path=train", "out=seen", "device=cpu", allow).code == 0
    shown = np.asarray(Image.open("seen/rgb_0000.png"), np.float32) / 255
    wanted = after.render_camera(camera).rgb.movedim(0, -1).numpy()
    assert np.abs(shown - wanted).max() < 0.01

    words = ["run=edited", "format=pointcloud", "points=500", "threshold=1", allow]
    answer = balls("export", *words)
    assert answer.code == 0, answer.err
    cloud: Any = trimesh.load("edited/exports_pointcloud/pointcloud.ply")
    assert 100 < len(cloud.vertices) <= 500
    assert balls("export", "run=edited", "format=cameras", allow).code == 0
    mesh = balls("export", "run=edited", "format=mesh", allow, "out=none")
    assert mesh.code == 2 and "how dense the scene is" in mesh.err and "pointcloud" in mesh.err
    assert not list(Path().glob("none/*.ply"))

    answer = balls("eval", "edited", allow, "out=scores")
    assert answer.code == 0, answer.err
    assert "consistency" in json.loads(Path("edited/eval.json").read_text())["scores"]


def test_a_result_is_read_by_no_class_that_the_user_did_not_allow(balls: Pds) -> None:
    for words in (["render", "run=edited"], ["export", "run=edited", "format=cameras"]):
        answer = balls(*words, "device=cpu", "out=x")
        assert answer.code == 2 and "allow_modules=[coloured_balls]" in answer.err
    answer = balls("eval", "edited", "out=x")
    assert answer.code == 2 and "allow_modules=[coloured_balls]" in answer.err
    follow = ["edit", "init=edited", "prompt=a photo of a man", "steps=1", "turntable=0"]
    follow.append("refine=none")
    answer = balls(*follow, "out=second")
    assert answer.code == 2 and "coloured_balls" in answer.err and not Path("second").exists()
    assert balls(*follow, "allow_modules=[coloured_balls]", "out=second").code == 0
    assert summary("second")["representation"] == "mine"


def test_a_result_of_another_class_is_none(balls: Pds, tmp_path: Path) -> None:
    path = Path("fitted/exports/result.safetensors")
    with safe_open(str(path), "pt") as file:
        meta = json.loads(file.metadata()["pds"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    from pds_cli.runs.checkpoint import save_checkpoint

    for name, said in (
        ("pds_cli.representations.image.ImageRepresentation", "is flat"),
        ("pds_cli.losses.pds.PDS", "it is a loss, not a representation"),
        ("os.system", "allow_modules=[os]"),
        (None, "is not a dotted path"),
    ):
        save_checkpoint(tmp_path / "x.safetensors", tensors, {**meta, "class": name})
        with pytest.raises(UserError) as caught:
            load_spatial(tmp_path / "x.safetensors", "cpu")
        assert said in str(caught.value) and "fit or edit anew" in str(caught.value)
    save_checkpoint(tmp_path / "x.safetensors", tensors, {**meta, "options": {"counts": 6}})
    with pytest.raises(UserError, match="no 3D result of this version"):
        load_spatial(tmp_path / "x.safetensors", "cpu", ["coloured_balls"])


def test_every_shipped_representation_has_the_word_of_its_option() -> None:
    for target, options in shipped_targets("representation").items():
        kind = check_target("representation", target)
        assert getattr(kind, "word", None) in options


def test_what_a_backbone_is_asked_for_beside_its_device_is_said() -> None:
    place = Place("cpu")
    assert place.device == torch.device("cpu")
    with pytest.raises(UserError, match="without a backbone, so there is no encode_image"):
        place.encode_image(torch.zeros(1))


def load(folder: str) -> Spatial:
    return load_spatial(Path(folder) / "exports/result.safetensors", "cpu", ["coloured_balls"])


def test_the_file_is_all_that_a_result_needs(balls: Pds) -> None:
    shutil.copy("edited/exports/result.safetensors", "alone.safetensors")
    alone = load_spatial("alone.safetensors", "cpu", ["coloured_balls"])
    other = load("edited")
    assert alone.region == other.region and alone.cameras.keys() == {"train", "eval"}
    assert len(alone.cameras["train"]) == 4 and len(alone.cameras["eval"]) == 2
    camera = next(iter(alone.cameras["eval"].values()))
    assert torch.equal(alone.render_camera(camera).rgb, other.render_camera(camera).rgb)
