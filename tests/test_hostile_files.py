"""Damaged and hostile files end with a sentence, soon, wherever a file is read."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Answer
from helpers import StopAt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from small_capture import capture, run_of
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.pictures.files import read_image
from pds_cli.representations.nerf.representation import NeRF
from pds_cli.representations.spatial import load_spatial
from pds_cli.runs.folder import RunFolder
from pds_cli.scenes.capture import CaptureScene
from pds_cli.scenes.colmap import ColmapScene, camera_of
from pds_cli.scenes.colmap_model import read_model
from pds_cli.scenes.nerfstudio import NerfstudioScene
from pds_cli.training.trainer import Objective, Stage, Trainer
from pds_cli.views.paths import camera_path

Pds = Callable[..., Answer]


def refused(answer: Answer, *parts: str) -> None:
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err and answer.err.count("\n") == 1, answer.err
    for part in parts:
        assert part in answer.err


# --- pictures ------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: bytes, width: int, height: int, *, interlaced: bool = False) -> bytes:
    """A PNG of 8-bit grey with these filtered rows, complete or not."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlaced)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_a_png_short_of_its_last_row_is_refused(tmp_path: Path) -> None:
    """Pillow fills it with black, and says nothing."""
    rows = b"".join(b"\0" + os.urandom(20) for _ in range(12))
    path = tmp_path / "p.png"
    path.write_bytes(png(rows, 20, 12))
    assert read_image(path).image is not None
    path.write_bytes(png(rows[:-21], 20, 12))
    with pytest.raises(UserError, match=r"p\.png is truncated: rows of its picture are missing"):
        read_image(path)


@pytest.mark.parametrize(("width", "height"), [(20, 12), (1, 1), (5, 3)])
def test_the_rows_of_interlaced_pngs_are_counted_too(
    tmp_path: Path, width: int, height: int
) -> None:
    rows = b""
    for left, top, across, down in (
        *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
        *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
    ):
        columns = len(range(left, width, across))
        rows += (b"\0" + b"\x80" * columns) * (len(range(top, height, down)) if columns else 0)
    path = tmp_path / "p.png"
    path.write_bytes(png(rows, width, height, interlaced=True))
    assert (read_image(path).image == 128 / 255).all()  # type: ignore[union-attr]
    path.write_bytes(png(rows[: -(width + 1)], width, height, interlaced=True))
    with pytest.raises(UserError, match="truncated"):
        read_image(path)


def test_more_rows_than_the_picture_has_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(b"\0" * 100_000_000, 20, 12))
    assert read_image(path).image.shape == (3, 12, 20)  # type: ignore[union-attr]


DRAWING = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">
<rect width="5" height="5" fill="red"/></svg>"""


@pytest.mark.parametrize("words", [
    ["scene=image", "scene.path=icon.png", "representation.parametrisation=pixels"],
    ["scene=svg", "scene.path=icon.svg", "scene.size=8", "representation=svg",
     "representation.animation=0"],
])  # fmt: skip
def test_small_pictures_and_drawings_are_edited(
    pds: Pds, tiny_backbone: Path, words: list[str]
) -> None:
    Image.new("RGB", (8, 8), (200, 30, 60)).save("icon.png")
    Path("icon.svg").write_text(DRAWING)
    answer = pds(
        "edit", *words, "source=a man", "prompt=a photo of a robot",
        f"backbone.model={tiny_backbone}", "steps=1", "render_every=0", "out=run",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    metrics = json.loads(Path("run/summary.json").read_text())["metrics"]
    assert math.isfinite(metrics["ssim_source"])


def test_captures_of_small_photos_are_fitted_and_measured(pds: Pds, tmp_path: Path) -> None:
    folder, _ = capture(tmp_path / "capture", size=(8, 6))
    grid = "{levels: 2, features: 2, log2_table: 8, base_resolution: 4, growth: 1.7}"
    answer = pds(
        "fit", "scene=nerfstudio", f"scene.path={folder}", f"representation.grid={grid}",
        "representation.hidden=16", "representation.occupancy=8", "representation.fit.steps=1",
        "representation.fit.cache=null", "render_every=0", "out=run",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert math.isfinite(json.loads(Path("run/summary.json").read_text())["metrics"]["ssim"])


@pytest.mark.parametrize(
    "inside",
    ["<style>rect{fill:" + "(" * 5000 + "}</style>", '<rect style="fill:' + "f(" * 5000 + '"/>'],
)
def test_a_drawing_of_deep_styles_is_refused(tmp_path: Path, inside: str) -> None:
    from pds_cli.drawings.drawing import read_drawing

    path = tmp_path / "d.svg"
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">{inside}</svg>')
    with pytest.raises(UserError, match=r"d\.svg is nested too deep"):
        read_drawing(path)


# --- captures ------------------------------------------------------------------------------------

ODD = [
    *(None, True, "x", "", "a\0b", "\n\n", "../..", "x" * 3000, "\ud800", [], {}, [1], {"a": 1}),
    *(0, -1, 1.5, 1e-308, 1e308, -1e308, 10**300, 2**64, math.nan, math.inf, [[1] * 4] * 3),
]


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places in a JSON value, containers and their entries alike."""
    yield path
    entries = node.items() if isinstance(node, dict) else enumerate(node[:2])
    for key, value in entries if isinstance(node, dict | list) else ():
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def changed(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    found = copy.deepcopy(node)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


TRANSFORMS = {
    "camera_model": "OPENCV",
    "fl_x": 14.0,
    "fl_y": 14.0,
    "cx": 8.0,
    "cy": 6.0,
    "w": 16,
    "h": 12,
    "k1": 0.01,
    "applied_scale": 2.0,
    "applied_transform": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
    "train_filenames": ["images/0.png", "images/1.png"],
    "val_filenames": ["images/2.png"],
    "frames": [
        {
            "file_path": f"images/{i}.png",
            "mask_path": "images/3.png",
            "transform_matrix": [[1, 0, 0, i], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]],
        }
        for i in range(3)
    ],
}
CAMERAS = [
    {
        "name": "a",
        "units": "capture",
        "camera_to_world": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]],
        "distortion": [0.1, 0, 0, 0, 0, 0],
        **{"fx": 14.0, "fy": 14.0, "cx": 8.0, "cy": 6.0, "width": 16, "height": 12},
    }
    for _ in range(2)
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(tmp_path_factory.mktemp("photos") / "capture")[0]


def assert_usable(scene: CaptureScene) -> None:
    for view in [*scene.views, *scene.eval_views]:
        assert view.camera is not None and view.image is not None
        assert all(bool(part.isfinite().all()) for part in (*view.camera.rays(), view.image))
    assert math.isfinite(scene.region.radius) and scene.region.radius > 0


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(list(leaves(TRANSFORMS))), st.sampled_from(ODD))
def test_a_transforms_file_works_or_is_one_sentence(
    photos: Path, path: tuple[Any, ...], value: Any
) -> None:
    text = json.dumps(changed(TRANSFORMS, path, value))
    (photos / "transforms.json").write_text(text)
    try:
        scene = NerfstudioScene(photos)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 700
    else:
        assert_usable(scene)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(list(leaves(CAMERAS))), st.sampled_from(ODD))
def test_a_file_of_cameras_works_or_is_one_sentence(
    photos: Path, path: tuple[Any, ...], value: Any
) -> None:
    file = photos / "cameras.json"
    file.write_text(json.dumps(changed(CAMERAS, path, value)))
    try:
        cameras = camera_path(file, [], size=16)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 700
    else:
        assert all(bool(part.isfinite().all()) for camera in cameras for part in camera.rays())


@pytest.mark.parametrize("background", ["7", "[1,2]", "[a,b,c]", "[1,1,1,1]", "[.nan,0,0]", "{}"])
def test_a_background_that_is_none(pds: Pds, photos: Path, background: str) -> None:
    (photos / "transforms.json").write_text(json.dumps(TRANSFORMS))
    words = ["scene=nerfstudio", f"scene.path={photos}", f"scene.background={background}"]
    refused(pds("fit", *words, "out=run"), "scene.background", "numbers from 0 to 1")


# --- COLMAP --------------------------------------------------------------------------------------

LENSES = struct.pack("<QIiQQ4d", 1, 1, 1, 16, 12, 14.0, 14.0, 8.0, 6.0)


def photo(number: int, name: bytes = b"", pose: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)) -> bytes:
    head = struct.pack("<I7dI", number, *pose, float(number), 0.0, 1.0, 1)
    points = struct.pack("<QddQ", 1, 1.0, 2.0, 3)
    return head + (name or f"{number}.png".encode()) + b"\0" + points


def photos_bin(*photos: bytes) -> bytes:
    return struct.pack("<Q", len(photos)) + b"".join(photos)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a binary COLMAP model of two photos, and the photos."""
    (tmp_path / "images").mkdir()
    for number in (1, 2):
        Image.new("RGB", (16, 12)).save(tmp_path / f"images/{number}.png")
    (tmp_path / "sparse/0").mkdir(parents=True)
    (tmp_path / "sparse/0/cameras.bin").write_bytes(LENSES)
    (tmp_path / "sparse/0/images.bin").write_bytes(photos_bin(photo(1), photo(2)))
    assert_usable(ColmapScene(tmp_path, eval_interval=0))
    return tmp_path / "sparse/0"


@pytest.mark.parametrize("part", ["cameras", "images"])
def test_a_truncated_colmap_model_ends(model: Path, part: str) -> None:
    whole = (model / f"{part}.bin").read_bytes()
    for length in range(len(whole)):
        (model / f"{part}.bin").write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"{part}\.bin is not a COLMAP model"):
            list(read_model(model))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (struct.pack("<Q", 2**63) + photo(1)[:64] + b"x" * 10_000, "a name without an end"),
        (struct.pack("<Q", 2**63) + photo(1), "truncated"),
        (photos_bin(photo(1)[:-32] + struct.pack("<Q", 2**60)), "points of '1.png'"),
        (photos_bin(photo(1, pose=(0.0, 0.0, 0.0, 0.0))), "its rotation is 0"),
        (photos_bin(photo(1, pose=(math.nan, 0.0, 0.0, 0.0))), "NaN"),
        (photos_bin(photo(1)[:60] + struct.pack("<I", 9) + photo(1)[64:]), "camera 9"),
        (photos_bin(photo(1, b"\xff.png")), "utf-8"),
    ],
)
def test_a_colmap_model_with_impossible_photos(model: Path, content: bytes, says: str) -> None:
    (model / "images.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"images\.bin is not a COLMAP model") as caught:
        list(read_model(model))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_random_damage_to_a_colmap_model(model: Path) -> None:
    source = random.Random(0)
    for part in ("cameras", "images"):
        whole = (model / f"{part}.bin").read_bytes()
        for _ in range(120):
            damaged = bytearray(whole)
            for _ in range(source.choice([1, 1, 4])):
                damaged[source.randrange(len(damaged))] = source.choice([0, 127, 255])
            (model / f"{part}.bin").write_bytes(damaged)
            try:
                cameras = [camera_of(found, "photo") for found in read_model(model)]
            except UserError as error:
                assert "\n" not in str(error)
            else:
                for camera in cameras:
                    last = torch.tensor([0, camera.width * camera.height - 1])
                    assert bool(camera.rays(last)[1].isfinite().all())
        (model / f"{part}.bin").write_bytes(whole)


def test_colmap_text_that_is_none(model: Path) -> None:
    for file in model.glob("*.bin"):
        file.unlink()
    good = {"cameras": "1 PINHOLE 16 12 14 14 8 6\n", "images": "1 1 0 0 0 0 0 1 1 1.png\n\n"}
    for part, text in good.items():
        (model / f"{part}.txt").write_text(text)
    assert len(list(read_model(model))) == 1
    for part, text in good.items():
        for number in range(len(text.split(" "))):
            for wrong in ("x", "", "nan", "9" * 5000, "-1"):
                words = text.split(" ")
                words[number] = wrong
                (model / f"{part}.txt").write_text(" ".join(words))
                try:
                    [camera_of(found, "photo") for found in read_model(model)]
                except UserError as error:
                    assert "\n" not in str(error) and len(str(error)) < 500
        (model / f"{part}.txt").write_text(text)


# --- checkpoints ---------------------------------------------------------------------------------


class Walk(Objective):
    """Four numbers that go to zero."""

    def __init__(self) -> None:
        self.theta = torch.nn.Parameter(torch.ones(4))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.theta]}]

    def loss(
        self, step: int, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        return self.theta.square().sum(), {}

    def state_dict(self) -> dict[str, Tensor]:
        return {"theta": self.theta.detach()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.theta.data.copy_(state["theta"])


def walk(folder: Path, steps: int) -> Trainer:
    stage = Stage("walk", Walk(), steps, lambda groups: torch.optim.Adam(groups, lr=0.1))
    return Trainer([stage], RunFolder(folder), checkpoint_every=1)


class Saved:
    """A checkpoint of the second of four steps, to be changed."""

    def __init__(self, folder: Path) -> None:
        self.path, self.folder = folder / "checkpoint.safetensors", folder
        trainer = walk(folder, 4)
        trainer.observers.append(StopAt(2, "walk"))
        assert trainer.run() == "stopped"
        with safe_open(str(self.path), "pt") as file:
            self.meta = json.loads(file.metadata()["pds"])
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def resumed(self, tensors: dict[str, Tensor], meta: Any) -> str:
        save_file(tensors, str(self.path), {"pds": json.dumps(meta)})
        trainer = walk(self.folder, 4)
        trainer.resume()
        return trainer.run()


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    return Saved(tmp_path / "run")


def test_a_checkpoint_that_fits_is_resumed(saved: Saved) -> None:
    assert saved.resumed(saved.tensors, saved.meta) == "done"


TENSORS = ["stage.walk.theta", "optimizer.0.exp_avg", "optimizer.0.exp_avg_sq"]


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize(
    "wrong", [None, torch.ones(3), torch.ones(1), torch.ones(4, dtype=torch.int32),
              torch.full((4,), math.nan), torch.full((4,), math.inf)],
)  # fmt: skip
def test_tensors_that_do_not_fit(saved: Saved, name: str, wrong: Tensor | None) -> None:
    tensors = {key: value for key, value in saved.tensors.items() if key != name}
    with pytest.raises(
        UserError, match=r"checkpoint\.safetensors .*; start the run anew"
    ) as caught:
        saved.resumed(tensors if wrong is None else {**tensors, name: wrong}, saved.meta)
    assert "\n" not in str(caught.value)
    assert "does not fit this run" in str(caught.value) or "holds NaN" in str(caught.value)


@pytest.mark.parametrize("key", ["stage", "step", "total_steps", "seconds", "track", "optimizer"])
def test_metadata_that_does_not_fit(saved: Saved, key: str) -> None:
    for wrong in (None, "x", -1, math.nan, [], [1], {"a": "b"}, {"best": 1.0}, 10**40):
        with pytest.raises(UserError, match="does not fit this run") as caught:
            saved.resumed(saved.tensors, {**saved.meta, key: wrong})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line", ["[" * 100_000, "[]", "null", '{"stage": "walk", "step": "x"}', "\xff"]
)
def test_damaged_metrics_are_said(saved: Saved, line: str) -> None:
    saved.folder.joinpath("metrics.jsonl").write_bytes(line.encode("latin-1") + b"\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged: ") as caught:
        saved.resumed(saved.tensors, saved.meta)
    assert "\n" not in str(caught.value)


def test_an_optimiser_of_other_settings_does_not_fit(saved: Saved) -> None:
    packed = saved.meta["optimizer"]
    (group,) = packed["param_groups"]
    for wrong in ({"betas": ["a", "b"]}, {"eps": None}, {"lr": "x"}, {"params": [3]}):
        meta = {**saved.meta, "optimizer": {**packed, "param_groups": [{**group, **wrong}]}}
        with pytest.raises(UserError, match="does not fit this run"):
            saved.resumed(saved.tensors, meta)


def test_a_damaged_kept_fit_is_made_anew(tmp_path: Path, photos: Path) -> None:
    from types import SimpleNamespace

    from pds_cli.training.fit import ensure_fit, fit_key

    (photos / "transforms.json").write_text(json.dumps(TRANSFORMS))
    scene = NerfstudioScene(photos)
    backbone: Any = SimpleNamespace(device=torch.device("cpu"))
    grid = {"levels": 2, "features": 2, "log2_table": 8, "base_resolution": 4, "growth": 1.7}
    fit = {"steps": 1, "cache": str(tmp_path / "cache")}
    nerf = NeRF(scene, backbone, grid=grid, hidden=16, occupancy=8, rays=64, fit=fit)
    kept = tmp_path / "cache" / f"{fit_key(scene, nerf, 0)}.safetensors"
    kept.parent.mkdir()
    save_file({"steps": torch.zeros(())}, str(kept), {"pds": "{}"})
    assert ensure_fit(scene, nerf, RunFolder(tmp_path / "run"), 0)
    with safe_open(str(kept), "pt") as file:
        assert "field.grid.table" in file.keys()  # noqa: SIM118


# --- results -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("result")
    return run_of(capture(folder / "capture")[0], folder / "run")


def test_a_3d_result_that_is_none(result: Path, tmp_path: Path) -> None:
    source = result / "exports/result.safetensors"
    with safe_open(str(source), "pt") as file:
        meta = json.loads(file.metadata()["pds"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    path = tmp_path / "result.safetensors"

    def sentence(found: dict[str, Tensor], words: Any) -> str:
        save_file(found, str(path), {"pds": json.dumps(words)})
        with pytest.raises(UserError, match=r"result\.safetensors .*fit or edit anew") as caught:
            load_spatial(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    save_file(tensors, str(path), {"pds": json.dumps(meta)})
    assert load_spatial(path).transform.scale == meta["transform"]["scale"]
    odd: list[Any] = [None, "x", [], math.nan, {"a": 1}]
    for place in leaves(meta):
        for wrong in odd:
            fine = place == ("options", "encoding")  # it is chosen anew
            fine |= place == ("options", "render_size") and wrong is None
            fine |= place[-1:] == ("name",) and wrong == "x"
            fine |= place[:1] == ("cameras",) and len(place) == 2 and wrong == []
            if not fine:
                sentence(tensors, changed(meta, place, wrong))
    # What would ask for gigabytes is seen before it is built.
    grid = {"levels": 32, "features": 8, "log2_table": 24}
    for name, wrong in (("grid", grid), ("hidden", 10**6), ("occupancy", 10**4)):
        options = {**meta["options"], name: wrong}
        assert "is no 3D result of this version" in sentence(tensors, {**meta, "options": options})
    for name, value in tensors.items():
        sentence({k: v for k, v in tensors.items() if k != name}, meta)
        sentence({**tensors, name: torch.zeros(3, 5, 7)}, meta)
        if value.is_floating_point() and name != "occupancy.density":
            sentence({**tensors, name: torch.full_like(value, math.inf)}, meta)


def test_render_from_nowhere(pds: Pds, result: Path) -> None:
    refused(pds("render", f"run={result}", "start=inf", "out=r"), "start=inf", "finite")
    assert not Path("r/rgb_0000.png").exists()


# --- answers, scores and runs --------------------------------------------------------------------


def test_answers_that_are_no_files_of_answers(pds: Pds) -> None:
    key = {"study": "s", "options": {"m": {"method": "pds"}}, "questions": {"q": {"options": []}}}
    Path("key.json").write_text(json.dumps(key))
    Path("deep.json").write_text("[" * 100_000)
    os.mkfifo("pipe")
    for name in ("/dev/zero", "deep.json", "pipe", "."):
        answer = pds("study", f"collect=[{name}]", "key=key.json", "out=study")
        refused(answer, "there are no answers")
    for name in ("/dev/zero", "deep.json", "pipe"):
        refused(pds("study", "collect=[a.json]", f"key={name}", "out=study"), "is no key")
    odd: list[Any] = [{**key, "options": []}, {**key, "questions": {"q": 3}}, [], {"study": 1}]
    for wrong in odd:
        Path("wrong.json").write_text(json.dumps(wrong))
        refused(pds("study", "collect=[a.json]", "key=wrong.json", "out=study"), "is no key")


def test_a_run_folder_of_pipes_and_holes_is_reported(tmp_path: Path) -> None:
    """Readers that tolerate damage go on, and say what they could not read."""
    from pds_cli.runs.record import read_run

    os.mkfifo(tmp_path / "metrics.jsonl")
    (tmp_path / "summary.json").symlink_to("/dev/zero")
    (tmp_path / "environment.json").write_text('{"a": ' + "9" * 5000 + "}")
    bomb = "a: &a [x]\n" + "".join(f"{c}: &{c} [*a, *a]\n" for c in "bcd")
    (tmp_path / "config.yaml").write_text(bomb)
    run = read_run(tmp_path)
    assert (run.config, run.summary, run.records, run.environment) == ({}, {}, [], {})
    problems = " ".join(run.problems)
    for name in ("config.yaml", "summary.json", "metrics.jsonl", "environment.json"):
        assert name in problems
    assert run.status == "incomplete"


def test_weights_of_a_backbone_that_are_none(tiny_backbone: Path, tmp_path: Path) -> None:
    from pds_cli.backbones.embedded import EmbeddedBackbone

    def said(change: Callable[[dict[str, Tensor]], Any]) -> str:
        folder = tmp_path / "backbone"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tiny_backbone, folder)
        file = folder / "unet/diffusion_pytorch_model.safetensors"
        with safe_open(str(file), "pt") as weights:
            tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
        change(tensors)
        save_file(tensors, str(file), {"format": "pt"})
        with pytest.raises(UserError, match=r"the backbone in .* is damaged") as caught:
            EmbeddedBackbone(str(folder))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "hold NaN or infinity" in said(lambda t: t["conv_in.bias"].fill_(math.nan))
    assert "conv_in.bias" in said(lambda t: t.pop("conv_in.bias"))
    said(lambda t: t.update({"conv_in.bias": torch.zeros(3)}))


def test_pretraining_data_that_are_none(pds: Pds) -> None:
    from pds_cli.pictures.captioned import load_captioned_images

    Path("data").mkdir()
    Path("data/a.png").write_bytes(png(b"\0" * 10, 20, 12))
    deep, pixel = "[" * 100_000, np.zeros((4, 4, 3), np.uint8)
    Image.fromarray(pixel).save("data/b.png")
    for line, says in (
        (b'{"file": "a.png", "caption": "x"}', "a.png, named in line 1"),
        (b'{"file": "b\\u0000.png", "caption": "x"}', "line 1"),
        (deep.encode(), "line 1"),
        (b"\xff", "UTF-8"),
    ):
        Path("data/captions.jsonl").write_bytes(line)
        with pytest.raises(UserError, match=says):
            load_captioned_images("data", 16)
