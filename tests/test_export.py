"""`pds export` and `pds render`: what they write is the scene, as other programs read it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from conftest import Answer
from PIL import Image
from soft_ball import CENTRE, SoftBall, ring
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.representations.spatial import Place
from pds_cli.results.exporting import (
    back_project,
    surface,
    write_cameras,
    write_mesh,
    write_point_cloud,
)
from pds_cli.results.path_rendering import render_path, write_renders, write_turntable
from pds_cli.scenes.base import Scene
from pds_cli.scenes.nerfstudio import NerfstudioScene
from pds_cli.views.cameras import Camera
from pds_cli.views.paths import camera_path, read_cameras
from pds_cli.views.view import Region, View

# The ball's density is `solid` on its surface; a region's radius makes a threshold of it.
THRESHOLD = 20.0 * 1.5
MESH: dict[str, Any] = {"resolution": 40, "threshold": THRESHOLD}


def gltf_of(path: Path) -> tuple[dict[str, Any], Callable[[int], np.ndarray]]:
    """A GLB's JSON, and its accessors of floats as arrays."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    tree = json.loads(data[20 : 20 + length])
    binary = data[28 + length :]

    def floats(index: int) -> np.ndarray:
        accessor = tree["accessors"][index]
        view = tree["bufferViews"][accessor["bufferView"]]
        assert accessor["componentType"] == 5126
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        width = {"VEC3": 3, "SCALAR": 1}[accessor["type"]]
        flat = np.frombuffer(binary, "<f4", width * accessor["count"], start)
        return flat.reshape(-1, width)

    return tree, floats


def loaded(path: Path) -> Any:
    """What trimesh makes of a file, its vertices as they are."""
    return trimesh.load(path, process=False)


def normals_of(vertices: np.ndarray) -> np.ndarray:
    offsets = vertices - np.array(CENTRE)
    return offsets / np.linalg.norm(offsets, axis=1, keepdims=True)


# --- mesh ----------------------------------------------------------------------------------------


def test_the_mesh_of_a_ball_has_its_place_its_radius_and_its_colours(tmp_path: Path) -> None:
    (ply, glb), words = write_mesh(tmp_path, SoftBall(), **MESH)
    mesh = loaded(ply)
    radii = np.linalg.norm(mesh.vertices - np.array(CENTRE), axis=1)
    assert abs(radii - 0.8).max() < 0.02
    assert str(len(mesh.faces)) in words and glb.is_file()
    colors = mesh.visual.vertex_colors[:, :3] / 255
    assert abs(colors - (0.5 + 0.5 * normals_of(mesh.vertices))).max() < 0.05


def test_the_mesh_is_closed_and_its_outside_is_outside(tmp_path: Path) -> None:
    vertices, faces = surface(SoftBall(), **MESH)
    mesh = trimesh.Trimesh(vertices, faces)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.02)


def test_a_lower_threshold_lies_further_outside() -> None:
    """Where σ·radius is the threshold, which the logistic profile tells in closed form."""
    ball = SoftBall(soft=0.1)
    for threshold in (10.0, 30.0, 50.0):
        part = threshold / (2 * ball.solid * ball.region.radius)
        wanted = ball.radius - ball.soft * np.log(part / (1 - part))
        vertices, _ = surface(ball, resolution=40, threshold=threshold)
        assert np.linalg.norm(vertices - CENTRE, axis=1).mean() == pytest.approx(wanted, abs=0.01)


def test_the_glb_is_unlit_linear_and_upright_and_its_vertices_stay(tmp_path: Path) -> None:
    ball = SoftBall()
    ball.region = Region(CENTRE, radius=1.5, up=(0.0, 0.6, 0.8))
    (ply, glb), _ = write_mesh(tmp_path, ball, **MESH)
    tree, floats = gltf_of(glb)
    (node,) = [node for node in tree["nodes"] if "mesh" in node]
    (primitive,) = tree["meshes"][node["mesh"]]["primitives"]
    mesh = loaded(ply)
    assert np.allclose(floats(primitive["attributes"]["POSITION"]), mesh.vertices, atol=1e-6)
    colors = floats(primitive["attributes"]["COLOR_0"])
    srgb = mesh.visual.vertex_colors[:, :3] / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    assert abs(colors - linear).max() < 0.005
    assert "KHR_materials_unlit" in tree["materials"][primitive["material"]]["extensions"]
    turn = np.array(node["matrix"]).reshape(4, 4).T  # glTF stores columns
    assert np.allclose(turn[:3, :3] @ [0, 0.6, 0.8], [0, 1, 0], atol=1e-6)
    assert np.allclose(turn[:3, :3] @ turn[:3, :3].T, np.eye(3), atol=1e-6)


def test_only_the_largest_parts_are_kept(tmp_path: Path) -> None:
    ball = SoftBall(radius=0.6)
    ball.others = [((1.0, -2.0, 1.7), 0.2), ((2.1, -2.0, 0.5), 0.3)]

    def parts(components: int | None) -> list[float]:
        write_mesh(tmp_path, ball, components=components, resolution=60, threshold=THRESHOLD)
        pieces = loaded(tmp_path / "mesh.ply").split(only_watertight=True)
        return sorted(((3 * p.volume / 4 / np.pi) ** (1 / 3) for p in pieces), reverse=True)

    assert parts(None) == pytest.approx([0.6, 0.3, 0.2], rel=0.05)
    assert parts(2) == pytest.approx([0.6, 0.3], rel=0.05)
    assert parts(1) == pytest.approx([0.6], rel=0.05)


def test_a_larger_extent_shows_more(tmp_path: Path) -> None:
    ball = SoftBall()
    ball.others = [((3.5, -2.0, 0.5), 0.5)]  # outside of the region's cube
    near, far = (surface(ball, resolution=60, threshold=THRESHOLD, extent=e)[0] for e in (1, 2.2))
    assert near[:, 0].max() < 1.9 and 3.9 < far[:, 0].max() < 4.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 1e6}, r"threshold=1e\+06.* between"),
        ({"resolution": 1}, "resolution=1"),
        ({"resolution": 5000}, "resolution=5000"),
    ],
)
def test_what_has_no_surface_is_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        surface(SoftBall(), **{**MESH, **options})


# --- points --------------------------------------------------------------------------------------


def points_of(path: Path) -> np.ndarray:
    """Rows of a binary PLY as its own header describes them."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    kinds = {"float": "<f4", "uchar": "u1"}
    fields = [line.split()[1:] for line in head.decode().splitlines() if "property" in line]
    return np.frombuffer(body, [(name, kinds[kind]) for kind, name in fields])


def test_the_points_lie_on_the_ball_and_have_its_colours(tmp_path: Path) -> None:
    (path,), words = write_point_cloud(
        tmp_path, SoftBall(), points=420, threshold=5.0, opacity=0.97
    )
    rows = points_of(path)
    assert len(rows) == 420 and words == "420 points from 6 cameras"
    places = np.stack([rows[axis] for axis in "xyz"], 1)
    assert abs(np.linalg.norm(places - CENTRE, axis=1) - 0.8).max() < 0.06
    colors = np.stack([rows[name] for name in ("red", "green", "blue")], 1) / 255
    assert abs(colors - (0.5 + 0.5 * normals_of(places))).max() < 0.08
    assert rows["confidence"].min() >= 0.97
    # From all sides, and as other programs read it.
    assert (places - CENTRE)[:, :2].min(0).tolist() == pytest.approx([-0.8, -0.8], abs=0.1)
    cloud = loaded(path)
    assert np.allclose(cloud.vertices, places) and len(cloud.colors) == 420


def test_points_that_float_or_are_far_away_are_left_out(tmp_path: Path) -> None:
    ball = SoftBall()
    ball.others = [((1.0, -2.0, -1.3), 0.5)]  # its lower part is below the cube
    lowest = []
    for extent in (1.0, 2.0):
        (path,), _ = write_point_cloud(tmp_path, ball, points=2000, threshold=5.0, extent=extent)
        lowest.append(float(points_of(path)["z"].min()))
    assert -1.0 <= lowest[0] < -0.9 and lowest[1] < -1.4
    (path,), _ = write_point_cloud(tmp_path, SoftBall(), points=500, threshold=5.0, opacity=0.99)
    assert points_of(path)["confidence"].min() >= 0.99
    with pytest.raises(UserError, match="threshold"):
        write_point_cloud(tmp_path, SoftBall(), points=500, threshold=1e5)


@pytest.mark.parametrize("lens", [None, (0.2, 0.05, 0.02, -0.02, 0.0, 0.0)])
def test_points_project_back_to_the_pixels_that_they_come_from(
    lens: tuple[float, float, float, float, float, float] | None,
) -> None:
    camera = replace(ring(1, 16)[0], distortion=lens, cx=7.0)
    depth = torch.linspace(2.0, 9.0, 256).reshape(16, 16)
    points = back_project(camera, depth)
    distances = (points - camera.position).norm(dim=-1)
    assert torch.allclose(distances, depth.flatten(), atol=1e-4), "along the ray"
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    centres = torch.stack([columns, rows], -1).reshape(-1, 2) + 0.5
    assert torch.allclose(camera.project(points)[0], centres, atol=1e-3)


def test_the_seed_fixes_the_points(tmp_path: Path) -> None:
    files = []
    for seed in (0, 0, 1):
        (path,), _ = write_point_cloud(tmp_path, SoftBall(), points=99, threshold=5.0, seed=seed)
        files.append(path.read_bytes())
    assert files[0] == files[1] != files[2]


# --- cameras -------------------------------------------------------------------------------------


def test_the_cameras_are_a_path_and_a_nerfstudio_scene(tmp_path: Path) -> None:
    ball = SoftBall()
    lens = (0.05, 0.0, 0.01, 0.0, 0.002, 0.0)
    first = ball.cameras["train"]["train_0"]
    ball.cameras["train"]["train_0"] = Camera(**{**vars(first), "distortion": lens, "cx": 15.0})
    files, words = write_cameras(tmp_path, ball, pictures=True)
    assert words == "7 cameras" and all(file.is_file() for file in files)
    known = [*ball.cameras["train"].values(), *ball.cameras["eval"].values()]
    for camera, wanted in zip(read_cameras(tmp_path / "cameras.json"), known, strict=True):
        assert torch.allclose(camera.camera_to_world, wanted.camera_to_world, atol=1e-6)
    scene = NerfstudioScene(tmp_path, orientation="none", centre="none", auto_scale=False)
    assert len(scene.views) == 6 and len(scene.eval_views) == 1
    for view, wanted in zip([*scene.views, *scene.eval_views], known, strict=True):
        assert view.camera is not None and view.image is not None
        assert torch.allclose(view.camera.camera_to_world, wanted.camera_to_world, atol=1e-6)
        found, as_known = view.camera.to_dict(), wanted.to_dict()
        for field in ("fx", "fy", "cx", "cy", "width", "height", "distortion"):
            assert found.get(field) == pytest.approx(as_known.get(field))
        seen = ball.render_camera(wanted).rgb
        assert (view.image - seen).abs().max() < 0.01


def test_without_cameras_there_is_a_sentence(tmp_path: Path) -> None:
    ball = SoftBall()
    ball.cameras = {"train": {}, "eval": {}}
    for write in (write_cameras, write_point_cloud):
        with pytest.raises(UserError, match="knows no cameras"):
            write(tmp_path, ball)


# --- renders -------------------------------------------------------------------------------------


def test_renders_are_pictures_depth_and_films(tmp_path: Path) -> None:
    cameras = camera_path("turntable", ring(4, 24), frames=4)
    films = write_renders(tmp_path, SoftBall(), cameras, fps=10)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{kind}_{i:04d}.png" for kind in ("rgb", "depth") for i in range(4)} | {
        "video.mp4", "video.gif", "depth.mp4", "depth.gif"
    }  # fmt: skip
    assert {film.name for film in films} == {n for n in names if not n.endswith(".png")}
    with Image.open(tmp_path / "depth_0000.png") as file:
        depth = np.asarray(file).astype(int)
    assert not depth[0].any(), "black where nothing is"
    assert depth[12, 12].sum() > depth[12, 8].sum() > 0, "the ball's middle is nearest"
    other = tmp_path / "other"
    write_renders(other, SoftBall(), cameras[:2], fps=10, depth=False)
    assert {path.name for path in other.iterdir()} == {
        "rgb_0000.png", "rgb_0001.png", "video.mp4", "video.gif"
    }  # fmt: skip


def test_a_turntable_is_written_under_any_name(tmp_path: Path) -> None:
    films = write_turntable(tmp_path / "before", SoftBall(), frames=3, size=16, elevation=10.0)
    assert [film.name for film in films] == ["before.mp4", "before.gif"]
    with Image.open(films[1]) as file:
        assert file.size == (16, 16) and getattr(file, "n_frames", 1) == 3


def test_renders_come_one_at_a_time() -> None:
    """A long path is not rendered before its first picture is used."""
    ball, seen = SoftBall(), []
    original = ball.render_camera
    ball.render_camera = lambda camera: seen.append(camera) or original(camera)  # type: ignore
    renders = render_path(ball, ring(5, 8))
    next(renders)
    assert len(seen) == 1


# --- the verbs -----------------------------------------------------------------------------------


class Ring(Scene):
    """Grey pictures from the cameras of a ring."""

    source_prompt = "a ball"

    @property
    def views(self) -> list[View]:
        image: Tensor = torch.full((3, 16, 16), 0.5)
        return [View(f"view_{i}", image, camera) for i, camera in enumerate(ring(3, 16))]

    @property
    def region(self) -> Region:
        return Region(CENTRE, radius=1.5, near=0.5, far=50.0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the export of a NeRF that nobody has trained: a random fog."""
    from pds_cli.representations.nerf.representation import NeRF

    backbone: Any = Place("cpu")
    grid = {"levels": 2, "features": 2, "log2_table": 8, "base_resolution": 4, "growth": 1.7}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        nerf = NeRF(Ring(), backbone, grid=grid, hidden=16, occupancy=8, step=0.2)
        nerf.field.grid.table.normal_()
    nerf.export(tmp_path / "my run" / "exports")
    return tmp_path / "my run"


@pytest.mark.parametrize("path", ["turntable", "orbit", "train", "cameras"])
def test_render_from_the_command_line(pds: Callable[..., Answer], run: Path, path: str) -> None:
    given = run / "exports" / "cameras.json" if path == "cameras" else path
    answer = pds("render", f"run={run}", f"path={given}", "frames=3", "size=18", "fps=5")
    assert answer.code == 0, answer.err
    folder = run / f"renders_{path}"
    assert str(folder / "video.mp4") in answer.out and "3 pictures of 18×18" in answer.out
    assert len(list(folder.glob("rgb_*.png"))) == len(list(folder.glob("depth_*.png"))) == 3
    with Image.open(folder / "rgb_0002.png") as file:
        assert file.size == (18, 18)
    assert json.loads((folder / "summary.json").read_text())["status"] == "done"
    assert not Path("outputs").exists()


def test_render_uses_the_folder_that_out_names(pds: Callable[..., Answer], run: Path) -> None:
    words = ["frames=1", "size=8", "depth=false", "elevation=30", "sweep=90", "out=here it is"]
    answer = pds("render", f"run={run}", *words)
    assert answer.code == 0, answer.err
    assert {p.name for p in Path("here it is").iterdir()} >= {"rgb_0000.png", "video.gif"}
    assert not list(run.glob("renders_*"))


def test_export_from_the_command_line(pds: Callable[..., Answer], run: Path) -> None:
    made = {
        "mesh": (["resolution=12", "threshold=0.13"], ["mesh.ply", "mesh.glb"]),
        "pointcloud": (["threshold=1e-4", "opacity=0.01", "extent=100"], ["pointcloud.ply"]),
        "cameras": ([], ["cameras.json", "transforms.json"]),
    }
    for form, (words, files) in made.items():
        answer = pds("export", f"run={run}", f"format={form}", *words)
        assert answer.code == 0, answer.err
        for file in files:
            assert str(run / f"exports_{form}" / file) in answer.out
            assert (run / f"exports_{form}" / file).stat().st_size > 0


def test_both_verbs_show_the_ball(
    pds: Callable[..., Answer], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pds_cli.results.path_rendering.load_result", lambda *args: SoftBall())
    assert pds("render", f"run={run}", "frames=2", "size=24").code == 0
    with Image.open(run / "renders_turntable" / "rgb_0000.png") as file:
        pixels = np.asarray(file).astype(int)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[12, 12, 0] > 220, "seen from +x, the normal's x is red"
    assert pds("export", f"run={run}", "resolution=24", "threshold=30").code == 0
    mesh = loaded(run / "exports_mesh" / "mesh.ply")
    assert np.allclose(mesh.bounds.mean(0), CENTRE, atol=0.01)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["render"], ["run is missing"]),
        (["export"], ["run is missing"]),
        (["render", "run=nowhere"], ["run=nowhere is not a folder"]),
        (["render", "run=flat"], ["run=flat holds no 3D result", "exports/result.safetensors"]),
        (["render", "-m", "run=flat", "fps=1,2"], ["run=flat holds no 3D result"]),
        (["render", "run=my run", "path=trun"], ["path=trun", "did you mean train?"]),
        (["render", "run=my run", "frames=0"], ["frames=0", "at least 1"]),
        (["render", "run=my run", "fps=-1"], ["fps=-1", "above 0"]),
        (["render", "run=my run", "elevation=steep"], ["elevation=steep is not a number"]),
        (["render", "run=my run", "elevation=91"], ["elevation=91", "89"]),
        (["export", "run=my run", "format=msh"], ["format=msh", "did you mean mesh?"]),
        (["export", "run=my run", "resolution=0"], ["resolution=0", "at least 1"]),
        (["export", "run=my run", "threshold=0"], ["threshold=0", "above 0"]),
        (["export", "run=my run", "threshold=1e9"], ["no surface at threshold=1e+09"]),
        (["export", "run=my run", "components=0"], ["components=0", "at least 1"]),
        (["export", "run=my run", "opacity=2"], ["opacity=2", "from 0 to 1"]),
        (["export", "run=my run", "opacity=nan"], ["opacity=nan", "from 0 to 1"]),
        (["export", "run=my run", "formt=mesh"], ["did you mean format?"]),
    ],
)
def test_bad_words_get_a_sentence(
    pds: Callable[..., Answer], run: Path, words: list[str], parts: list[str]
) -> None:
    (run.parent / "flat" / "exports").mkdir(parents=True)
    answer = pds(*words)
    assert answer.code == 2
    for part in parts:
        assert part in answer.err
    assert "Traceback" not in answer.err
    assert not Path("nowhere").exists() and not list(Path("flat").glob("renders_*"))
    assert not list(run.glob("exports_*")), "what failed leaves no folder"


def test_a_damaged_result_is_a_sentence(pds: Callable[..., Answer], run: Path) -> None:
    (run / "exports" / "result.safetensors").write_bytes(b"nonsense")
    answer = pds("render", f"run={run}")
    assert answer.code == 2 and "result.safetensors" in answer.err


@pytest.mark.parametrize("verb", ["render", "export"])
def test_showing_the_configuration_needs_no_run(pds: Callable[..., Answer], verb: str) -> None:
    assert pds(verb, "--help").code == 0
    assert pds(verb, "run=not there", "--cfg", "job").code == 0
    assert not Path("not there").exists()
