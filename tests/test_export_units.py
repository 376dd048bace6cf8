"""Exports in the capture's coordinates are where the capture was, and say how they came there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from conftest import Answer
from PIL import Image
from small_capture import capture, run_of
from soft_ball import CENTRE, SoftBall, ring

from pds_cli.errors import UserError
from pds_cli.results.exporting import write_cameras, write_mesh, write_point_cloud, write_transform
from pds_cli.scenes.nerfstudio import NerfstudioScene
from pds_cli.views.cameras import Camera
from pds_cli.views.paths import read_cameras
from pds_cli.views.poses import IDENTITY, Similarity

TURN = torch.tensor([[0.0, -0.6, 0.8], [1.0, 0.0, 0.0], [0.0, 0.8, 0.6]], dtype=torch.float64)
PLACED = Similarity(torch.cat([TURN, torch.tensor([[3.0], [-7.0], [2.0]])], -1).double(), 0.25)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_similarity_has_a_way_back() -> None:
    points = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for there in (PLACED, PLACED.inverse(), PLACED.after(PLACED)):
        assert torch.allclose(there.inverse().points(there.points(points)), points, atol=1e-12)
        again = Similarity.from_dict(json.loads(json.dumps(there.to_dict())))
        assert torch.equal(again.matrix, there.matrix) and again.scale == there.scale


@pytest.mark.parametrize("applied", [False, True])
def test_cameras_come_back_to_where_the_photos_were_taken(
    pds: Callable[..., Answer], tmp_path: Path, applied: bool
) -> None:
    fields: dict[str, Any] = {
        "applied_transform": PLACED.matrix.tolist(),
        "applied_scale": PLACED.scale,
    }
    folder, poses = capture(tmp_path / "capture", **(fields if applied else {}))
    origin = PLACED.inverse() if applied else IDENTITY
    run = run_of(folder, tmp_path / "run")
    wanted = origin.poses(torch.stack(poses).double())
    for units in ("capture", "scene"):
        words = [f"run={run}", "format=cameras", f"units={units}", f"out=in_{units}"]
        assert pds("export", *words).code == 0
        frames = read(Path(f"in_{units}") / "transforms.json")["frames"]
        named = {frame["file_path"]: torch.tensor(frame["transform_matrix"]) for frame in frames}
        found = torch.stack([named[f"images/{i}.png"][:3] for i in range(6)]).double()
        beside = Similarity.from_dict(read(Path(f"in_{units}") / "dataparser_transforms.json"))
        scale = float(wanted[:, :, 3].abs().max())
        # The file beside takes the photos' own poses to those that are written.
        assert torch.allclose(found, beside.poses(wanted), atol=1e-5 * scale)
        if units == "capture":
            assert torch.allclose(found, wanted, atol=1e-5 * scale)
            assert beside.scale == 1
        else:
            assert float(found[:, :, 3].abs().max()) == pytest.approx(1, abs=1e-5)
    # As a path both are the same cameras, and the scene's file leads back to the capture.
    rendered = []
    for units in ("capture", "scene"):
        path = Path(f"in_{units}") / "cameras.json"
        assert pds("render", f"run={run}", f"path={path}", "size=8", f"out=r_{units}").code == 0
        with Image.open(f"r_{units}/rgb_0003.png") as file:
            rendered.append(np.asarray(file).astype(int))
    assert abs(rendered[0] - rendered[1]).max() <= 2
    assert np.ptp(rendered[0]) > 10


def test_the_mesh_and_the_points_are_related_by_the_transform(tmp_path: Path) -> None:
    ball = SoftBall()
    ball.transform = PLACED
    back = PLACED.inverse()
    options: dict[str, Any] = {"resolution": 30, "threshold": 30.0}
    vertices, colors, points = {}, {}, {}
    for units in ("scene", "capture"):
        folder = tmp_path / units
        folder.mkdir()
        write_mesh(folder, ball, units=units, **options)
        mesh: Any = trimesh.load(folder / "mesh.ply", process=False)
        vertices[units], colors[units] = np.array(mesh.vertices), mesh.visual.vertex_colors
        assert mesh.volume > 0, "what is outside stays outside"
        write_point_cloud(folder, ball, points=200, threshold=5.0, units=units)
        cloud: Any = trimesh.load(folder / "pointcloud.ply")
        points[units] = np.array(cloud.vertices)
    for found in (vertices, points):
        moved = back.points(torch.from_numpy(found["scene"])).numpy()
        assert np.allclose(found["capture"], moved, atol=1e-4)
    assert (colors["scene"] == colors["capture"]).all()
    middle = back.points(torch.tensor([CENTRE], dtype=torch.float64))[0].numpy()
    radii = np.linalg.norm(vertices["capture"] - middle, axis=1)
    assert radii.mean() == pytest.approx(0.8 / PLACED.scale, rel=0.02)


def test_the_glb_stands_upright_in_the_capture_too(tmp_path: Path) -> None:
    ball = SoftBall()
    ball.transform = PLACED
    write_mesh(tmp_path, ball, units="capture", resolution=30, threshold=30.0)
    scene: Any = trimesh.load(tmp_path / "mesh.glb")
    turn = scene.graph.get(scene.graph.nodes_geometry[0])[0][:3, :3]
    up = PLACED.inverse().matrix[:, :3] @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    assert np.allclose(turn @ up.numpy(), [0, 1, 0], atol=1e-6)


def test_the_exported_scene_knows_the_capture(tmp_path: Path) -> None:
    """A scene made of an export has the transform of the scene that was exported."""
    ball = SoftBall()
    ball.transform = PLACED
    write_cameras(tmp_path, ball, pictures=True)
    scene = NerfstudioScene(tmp_path, orientation="none", centre="none", auto_scale=False)
    assert torch.allclose(scene.transform.matrix, PLACED.matrix, atol=1e-6)
    assert scene.transform.scale == pytest.approx(PLACED.scale)
    assert write_transform(tmp_path, ball).name == "dataparser_transforms.json"
    assert read(tmp_path / "dataparser_transforms.json")["scale"] == PLACED.scale


def test_a_path_in_units_that_nobody_knows_is_a_sentence(
    pds: Callable[..., Answer], tmp_path: Path
) -> None:
    camera: Camera = ring(1)[0]
    (tmp_path / "c.json").write_text(json.dumps([{**camera.to_dict(), "units": "feet"}]))
    with pytest.raises(UserError, match="entry 0 is not a camera: its units are 'feet'"):
        read_cameras(tmp_path / "c.json")
    folder, _ = capture(tmp_path / "capture")
    run = run_of(folder, tmp_path / "run")
    answer = pds("export", f"run={run}", "units=meters")
    assert (
        answer.code == 2 and "units=meters is unknown; choose one of scene, capture" in answer.err
    )
