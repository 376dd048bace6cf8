"""`pds render` on a NeRF's export: its pictures are the field's, and its films are the pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Answer
from PIL import Image

from pds_cli.representations.nerf.representation import NeRF
from pds_cli.representations.spatial import load_spatial
from pds_cli.scenes.base import Scene
from pds_cli.views.cameras import Camera, look_at
from pds_cli.views.paths import camera_path
from pds_cli.views.view import Region, View

MIDDLE = (0.4, -0.3, 0.2)
SIZE = 24


class FourSides(Scene):
    """Grey pictures from four sides; `up` is −y, as in captures that nobody has turned."""

    source_prompt = "a thing"

    @property
    def views(self) -> list[View]:
        views = []
        for i in range(4):
            angle = math.pi * i / 2
            eye = (MIDDLE[0] + 3 * math.cos(angle), MIDDLE[1] - 1, MIDDLE[2] + 3 * math.sin(angle))
            pose = look_at(eye, MIDDLE, self.region.up)
            camera = Camera(pose, 1.5 * SIZE, 1.5 * SIZE, SIZE / 2, SIZE / 2, SIZE, SIZE)
            views.append(View(f"side_{i}", torch.full((3, SIZE, SIZE), 0.5), camera))
        return views

    @property
    def region(self) -> Region:
        return Region(MIDDLE, radius=1.2, near=0.3, far=20.0, up=(0.0, -1.0, 0.0))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exports of an untrained NeRF, with structure enough to tell its sides apart."""
    backbone: Any = SimpleNamespace(device=torch.device("cpu"))
    grid = {"levels": 2, "features": 2, "log2_table": 8, "base_resolution": 4, "growth": 1.7}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        nerf = NeRF(FourSides(), backbone, grid=grid, hidden=16, occupancy=16, step=0.1)
        nerf.field.grid.table.normal_()
        nerf.field.density_bias = 0.0
        nerf.options["density_bias"] = 0.0
        nerf.update_occupancy()
    folder = tmp_path_factory.mktemp("run")
    nerf.export(folder / "exports")
    return folder


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Path:
    """A run folder of this test's own with that export."""
    folder = tmp_path / "my run" / "exports"
    folder.mkdir(parents=True)
    for file in (exported / "exports").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder.parent


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB")).astype(float)


def film(path: Path) -> list[np.ndarray]:
    from imageio.v2 import get_reader

    reader: Any
    with get_reader(path) as reader:
        return [np.asarray(frame).astype(float) for frame in reader]


@pytest.mark.parametrize("path", ["turntable", "orbit", "train"])
def test_pictures_are_what_the_field_shows_along_the_path(
    pds: Callable[..., Answer], run: Path, path: str
) -> None:
    answer = pds("render", f"run={run}", f"path={path}", "frames=4", "depth=false", "device=cpu")
    assert answer.code == 0, answer.err
    nerf = load_spatial(run / "exports" / "result.safetensors", "cpu")
    cameras = camera_path(path, list(nerf.cameras["train"].values()), nerf.region, frames=4)
    pictures = sorted((run / f"renders_{path}").glob("rgb_*.png"))
    for camera, file in zip(cameras, pictures, strict=True):
        wanted = 255 * nerf.render_camera(camera).rgb.clamp(0, 1).movedim(0, -1).numpy()
        assert wanted.std() > 5, "the field has something to show"
        assert abs(pixels_of(file) - wanted).max() < 0.51, "rounded to bytes, and no more"


def test_a_turntable_of_four_passes_the_four_train_cameras(
    pds: Callable[..., Answer], run: Path
) -> None:
    """The scene's own up is the axis: the circle is the one that the photos stand on."""
    for path in ("turntable", "train"):
        words = [f"path={path}", "frames=4", "depth=false", "device=cpu"]
        assert pds("render", f"run={run}", *words).code == 0
    names = [f"rgb_{i:04d}.png" for i in range(4)]
    turned, seen = (
        [pixels_of(run / f"renders_{path}" / n) for n in names] for path in ("turntable", "train")
    )
    # Counterclockwise about −y is from +x to +z (−y × x = z), as the sides are listed.
    for picture, wanted in zip(turned, seen, strict=True):
        assert abs(picture - wanted).mean() < 0.5
    assert abs(turned[1] - seen[3]).mean() > 5, "the other way round would be seen"


def test_films_read_back_as_the_pictures(pds: Callable[..., Answer], run: Path) -> None:
    answer = pds("render", f"run={run}", "frames=5", "size=40", "fps=8", "device=cpu")
    assert answer.code == 0, answer.err
    folder = run / "renders_turntable"
    for name, kind in (("video", "rgb"), ("depth", "depth")):
        frames = film(folder / f"{name}.mp4")
        pictures = [pixels_of(file) for file in sorted(folder.glob(f"{kind}_*.png"))]
        assert [frame.shape for frame in frames] == [(40, 40, 3)] * 5
        for frame, picture in zip(frames, pictures, strict=True):
            assert abs(frame - picture).mean() < 12
        with Image.open(folder / f"{name}.gif") as file:
            assert file.size == (40, 40) and getattr(file, "n_frames", 1) == 5
        assert str(folder / f"{name}.mp4") in answer.out
        assert str(folder / f"{name}.gif") in answer.out


def test_the_same_words_make_the_same_pictures(pds: Callable[..., Answer], run: Path) -> None:
    for out in ("a", "b"):
        assert pds("render", f"run={run}", "frames=2", "device=cpu", f"out={out}").code == 0
    files = sorted(path.name for path in Path("a").glob("*.*") if path.suffix in (".png", ".gif"))
    assert len(files) == 6
    for name in files:
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


def test_a_shorter_path_leaves_nothing_of_a_longer_one(
    pds: Callable[..., Answer], run: Path
) -> None:
    words = ["render", f"run={run}", "device=cpu"]
    assert pds(*words, "frames=4").code == 0
    refused = pds(*words, "frames=2")
    assert refused.code == 2 and "overwrite=true" in refused.err
    assert pds(*words, "frames=2", "overwrite=true").code == 0
    folder = run / "renders_turntable"
    assert len(list(folder.glob("*.png"))) == 4
    assert len(film(folder / "video.mp4")) == 2


def test_without_ffmpeg_a_warning_and_the_gifs(
    pds: Callable[..., Answer], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    answer = pds("render", f"run={run}", "frames=2", "device=cpu")
    assert answer.code == 0, answer.err
    folder = run / "renders_turntable"
    assert {path.name for path in folder.glob("*.gif")} == {"video.gif", "depth.gif"}
    assert not list(folder.glob("*.mp4")) and ".mp4\nfilm" not in answer.out
    assert "ffmpeg" in answer.out + answer.err and "Traceback" not in answer.err


def test_a_wrong_entry_of_a_camera_file_is_named(pds: Callable[..., Answer], run: Path) -> None:
    listed = json.loads((run / "exports" / "cameras.json").read_text())["train"]
    listed[2]["fx"] = "wide"
    Path("mine.json").write_text(json.dumps(listed))
    answer = pds("render", f"run={run}", "path=mine.json", "device=cpu")
    assert answer.code == 2
    for word in ("mine.json", "entry 2", "side_2", "fx"):
        assert word in answer.err
    assert "Traceback" not in answer.err and not list(run.rglob("*.png"))


def test_the_file_of_cameras_is_for_others_and_can_be_a_path(
    pds: Callable[..., Answer], run: Path
) -> None:
    (run / "exports" / "cameras.json").rename("mine.json")
    for path in ("train", "mine.json"):
        words = [f"path={path}", "frames=2", "depth=false", "device=cpu"]
        assert pds("render", f"run={run}", *words).code == 0
    pictures = [sorted((run / f"renders_{p}").glob("rgb_*.png")) for p in ("train", "mine")]
    assert len(pictures[0]) == 2
    for one, other in zip(*pictures, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_what_is_not_our_own_in_the_folder_stays(pds: Callable[..., Answer], run: Path) -> None:
    folder = Path("mine")
    folder.mkdir()
    mine = ["video.mov", "rgb_holiday.png", "depth_notes.png"]
    for name in mine:
        (folder / name).write_text("mine")
    refused = pds("render", f"run={run}", "frames=1", "device=cpu", "out=mine")
    assert refused.code == 2 and "no run of pds" in refused.err
    assert {path.name for path in folder.iterdir()} == set(mine)
    assert all((folder / name).read_text() == "mine" for name in mine)
