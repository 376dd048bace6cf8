"""Splat files: what is read, what is written, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.representations.spatial import Place
from pds_cli.representations.splats.representation import Splats
from pds_cli.scenes.splats import SplatScene
from pds_cli.scenes.toybox import ToyboxScene
from pds_cli.splats.ply import SplatFile, read_ply, write_ply
from pds_cli.splats.turning import product, quaternion, turned
from pds_cli.views.harmonics import spherical_harmonics
from pds_cli.views.poses import Similarity, rotations

CPU: Any = Place("cpu")


def rows(count: int = 5, degree: int = 1, kind: str = "f4", seed: int = 0, **more: Any) -> Any:
    """A vertex element as 3DGS writes it, with `more` properties: name → type."""
    rest = 3 * ((degree + 1) ** 2 - 1)
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [*(f"f_rest_{i}" for i in range(rest)), "opacity"]
    names += [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    found = np.zeros(count, [(n, kind) for n in names] + list(more.items()))
    random = np.random.default_rng(seed)
    for name in found.dtype.names or ():
        found[name] = random.normal(size=count) * (50 if name in more else 1)
    return found


def written(path: Path, data: Any, **options: Any) -> Path:
    """A PLY file of a vertex element, and of a further one that is none of ours."""
    other = np.array([(1, 2.5)], [("index", "i4"), ("weight", "f8")])
    elements = [PlyElement.describe(data, "vertex"), PlyElement.describe(other, "trained")]
    PlyData(elements, comments=["made by a test"], **options).write(str(path))
    return path


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("options", [{"text": True}, {"byte_order": "<"}, {"byte_order": ">"}])
def test_what_is_not_edited_goes_back_bit_for_bit(
    degree: int, options: dict[str, Any], tmp_path: Path
) -> None:
    path = written(tmp_path / "in.ply", rows(7, degree, kept="u2"), **options)
    splats = read_ply(path)
    assert (len(splats), splats.degree) == (7, degree)
    write_ply(tmp_path / "out.ply", splats)
    assert (tmp_path / "out.ply").read_bytes() == path.read_bytes()
    splats.tensors["means"][3, 1] = 4.5
    write_ply(tmp_path / "out.ply", splats)
    before, after = (PlyData.read(str(tmp_path / n))["vertex"] for n in ("in.ply", "out.ply"))
    assert after["y"][3] == 4.5
    for name in before.data.dtype.names:
        same = before[name] == after[name]
        assert same.all() if name != "y" else same.sum() == 6


def test_doubles_keep_the_digits_that_nobody_touched(tmp_path: Path) -> None:
    path = written(tmp_path / "in.ply", rows(4, 0, "f8"))
    splats = read_ply(path)
    splats.tensors["opacities"][0] += 1
    write_ply(tmp_path / "out.ply", splats)
    before, after = (PlyData.read(str(tmp_path / n))["vertex"] for n in ("in.ply", "out.ply"))
    assert (before["x"] == after["x"]).all() and (before["opacity"] != after["opacity"]).sum() == 1


def test_each_property_is_where_everyone_has_it(tmp_path: Path) -> None:
    data = rows(2, 2)
    splats = read_ply(written(tmp_path / "in.ply", data))
    held = splats.tensors
    assert held["sh0"][1].tolist() == [data[f"f_dc_{i}"][1] for i in range(3)]
    assert held["quats"][0].tolist() == [data[f"rot_{i}"][0] for i in range(4)]
    assert held["opacities"].tolist() == data["opacity"].tolist()
    # Coefficient 5 of green: channel after channel, eight each.
    assert held["shN"][1, 5, 1] == data["f_rest_13"][1]


def test_splats_of_no_file_are_written_as_3dgs_does(tmp_path: Path) -> None:
    splats = read_ply(written(tmp_path / "in.ply", rows(3, 1)))
    write_ply(tmp_path / "new.ply", SplatFile(splats.tensors))
    again = read_ply(tmp_path / "new.ply")
    assert all(torch.equal(again.tensors[k], v) for k, v in splats.tensors.items())
    header = (tmp_path / "new.ply").read_bytes().partition(b"end_header")[0].decode()
    properties = [line.split()[2] for line in header.splitlines() if line.startswith("property")]
    assert properties == list(rows(1, 1).dtype.names)
    assert "format binary_little_endian 1.0" in header


def test_damaged_files_and_others_get_a_sentence(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.ply", rows(50), byte_order="<").read_bytes()
    text = written(tmp_path / "text.ply", rows(50), text=True).read_bytes()
    infinite = rows(3)
    infinite["scale_1"][1] = np.nan
    mesh = np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "f4")])
    faces = np.array([([0, 1, 2],)], [("vertex_indices", "i4", (3,))])
    PlyData(
        [PlyElement.describe(mesh, "vertex"), PlyElement.describe(faces, "face")]
    ).write(str(tmp_path / "mesh.ply"))  # fmt: skip
    files = {
        "short.ply": (whole[:-9], "cut short"),
        "shorter.ply": (text[: len(text) // 2], "cut short"),
        "vast.ply": (whole.replace(b"vertex 50", b"vertex 1000000000"), "cut short"),
        "vast_text.ply": (text.replace(b"vertex 50", b"vertex 1000000000"), "cut short"),
        "header.ply": (whole[:40], "cannot be read|no points"),
        "none.ply": (whole.replace(b"vertex 50", b"vertex 00"), "no points"),
        "photo.ply": (b"\x89PNG\r\n", "no PLY file"),
        "empty.ply": (b"", "no PLY file"),
        "rest.ply": (whole.replace(b"f_rest_8", b"f_rust_8"), "8 properties f_rest"),
    }
    for name, (content, said) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_ply(tmp_path / name)
    with pytest.raises(UserError, match="scale_1 of 1 of its 3 splats is not finite"):
        read_ply(written(tmp_path / "nan.ply", infinite))
    with pytest.raises(UserError, match=r"it is a mesh.*no f_dc_0"):
        read_ply(tmp_path / "mesh.ply")
    with pytest.raises(UserError, match="no file"):
        read_ply(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_ply(tmp_path / "nowhere.ply")


def test_what_memory_cannot_hold_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "whole.ply", rows(5000, 3), byte_order="<")
    assert len(read_ply(path)) == 5000
    monkeypatch.setattr("pds_cli.splats.ply.memory", lambda: 2**20)
    with pytest.raises(UserError, match=r"whole\.ply needs .* GiB of memory, and this machine has"):
        read_ply(path)
    monkeypatch.setattr("pds_cli.splats.ply.memory", lambda: None)
    assert len(read_ply(path)) == 5000


# --- turning -------------------------------------------------------------------------------------


def rotation(seed: int) -> Tensor:
    """A random rotation [3,3]."""
    q = torch.randn(1, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rotations(q)[0]


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_quaternions_are_their_matrices(seed: int) -> None:
    one, two = rotation(seed), rotation(seed + 1)
    q, r = quaternion(one), quaternion(two)
    torch.testing.assert_close(rotations(q[None])[0], one)
    torch.testing.assert_close(rotations(product(q, r[None]))[0], one @ two)


def test_half_turns_have_quaternions_too() -> None:
    for axis in range(3):
        matrix = -torch.eye(3, dtype=torch.float64)
        matrix[axis, axis] = 1
        torch.testing.assert_close(rotations(quaternion(matrix)[None])[0], matrix)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_colours_turn_with_the_world(degree: int) -> None:
    generator = torch.Generator().manual_seed(degree)
    count = (degree + 1) ** 2 - 1
    held = torch.randn(4, count, 3, generator=generator, dtype=torch.float64)
    along = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    along = torch.nn.functional.normalize(along, dim=1)
    turn = rotation(degree)
    before = spherical_harmonics(along, degree)[:, 1:]
    after = spherical_harmonics(along @ turn.T, degree)[:, 1:]
    expected = torch.einsum("di,nic->ndc", before, held)
    torch.testing.assert_close(torch.einsum("di,nic->ndc", after, turned(held, turn)), expected)
    assert turned(held[:, :0], turn).shape == (4, 0, 3)


def test_what_is_moved_is_seen_by_moved_cameras() -> None:
    pytest.importorskip("pyvista")
    torch.manual_seed(0)
    scene = ToyboxScene(size=32, count=2, held_out=1)
    splats = Splats(scene, CPU, budget=300, sh_degree=2, background="black")
    splats.begin_edit()
    with torch.no_grad():
        splats.shN.normal_()
        splats.opacities.fill_(1.0)
    shift = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    placed = Similarity(torch.cat([rotation(5), shift], 1), 2.5)
    camera = scene.views[0].camera
    assert camera is not None
    expected = splats.render_camera(camera).rgb
    moved = splats.splat_file(placed)
    with torch.no_grad():
        for name, values in moved.tensors.items():
            getattr(splats, name).copy_(values)
    splats.region = dataclasses.replace(splats.region, near=2.5 * splats.region.near)
    pose = placed.poses(camera.camera_to_world[None].double())[0]
    found = splats.render_camera(camera.moved(pose)).rgb
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


def test_a_run_is_exported_for_splat_viewers(pds: Callable[..., Any]) -> None:
    pytest.importorskip("pyvista")
    words = ["fit", "scene=figurine", "scene.size=32", "scene.count=2", "scene.held_out=1",
             "representation=splats", "representation.budget=50", "representation.fit.steps=2",
             "representation.fit.cache=null", "device=cpu"]  # fmt: skip
    assert pds(*words, "out=fitted").code == 0
    answer = pds("export", "run=fitted", "format=splats", "out=files")
    assert answer.code == 0, answer.err
    assert "50 splats" in answer.out and len(read_ply(Path("files/splats.ply"))) == 50
    words = [word for word in words if "budget" not in word and word != "representation=splats"]
    assert pds(*words, "representation=nerf", "out=nerf").code == 0
    refused = pds("export", "run=nerf", "format=splats", "out=none")
    assert refused.code == 2 and "representation=splats" in refused.err


# --- a file as a scene ---------------------------------------------------------------------------


def figure_file(path: Path, count: int = 300) -> Path:
    """A ball of small opaque Gaussians about (1, 2, 3), a few of them far away."""
    data = rows(count, 1)
    random = np.random.default_rng(1)
    for k, name in enumerate("xyz"):
        data[name] = k + 1 + 0.3 * random.normal(size=count)
    data["x"][:5] += 100
    for name in ("scale_0", "scale_1", "scale_2"):
        data[name] = np.log(0.05)
    data["opacity"] = 2.0
    return written(path, data, byte_order="<")


def test_cameras_are_made_where_the_file_has_none(tmp_path: Path) -> None:
    path = figure_file(tmp_path / "ball.ply")
    scene = SplatScene(path, "a ball", count=6, size=48, up="z", elevation=20)
    region = scene.region
    torch.testing.assert_close(
        torch.tensor(region.centre), torch.tensor([1.0, 2.0, 3.0]), atol=0.1, rtol=0
    )
    assert 0.3 < region.radius < 1.5 and region.up == (0.0, 0.0, 1.0)
    assert len(scene.views) == 6
    middle = torch.tensor([region.centre])
    for view in scene.views:
        assert view.camera is not None and view.image is not None
        pixel, depth = view.camera.project(middle)
        torch.testing.assert_close(pixel, torch.tensor([[24.0, 24.0]]), atol=1e-3, rtol=0)
        assert float(view.camera.position[2]) > region.centre[2] and float(depth) > region.radius
        image = view.image
        assert float(image[:, 24, 24].min()) < 0.97 and float(image[:, 0, 0].min()) > 0.99


def test_cameras_beside_the_file_are_3dgs_s(tmp_path: Path) -> None:
    path = figure_file(tmp_path / "ball.ply")
    # Looks along +x of the world from (−4, 2, 3), with y of the image down along −z.
    rotation = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    entry = {"id": 0, "img_name": "a", "width": 96, "height": 64, "position": [-4, 2, 3],
             "rotation": rotation, "fx": 80.0, "fy": 80.0}  # fmt: skip
    (tmp_path / "cameras.json").write_text(json.dumps([entry] * 5))
    scene = SplatScene(path, "a ball", count=3, size=48)
    assert len(scene.views) == 3
    camera = scene.views[0].camera
    assert camera is not None and (camera.width, camera.height, camera.fx) == (48, 32, 40.0)
    pixel, depth = camera.project(torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.5]]))
    torch.testing.assert_close(pixel, torch.tensor([[24.0, 16.0], [24.0, 12.0]]))
    assert depth.tolist() == [5.0, 5.0]
    for change, said in (
        ({"rotation": [[1, 0], [0, 1]]}, "camera 0 is none"),
        ({"fx": "wide"}, "camera 0 is none"),
        ({"rotation": [[2, 0, 0], [0, 2, 0], [0, 0, 2]]}, "camera 0"),
    ):
        (tmp_path / "wrong.json").write_text(json.dumps([entry | change]))
        with pytest.raises(UserError, match=said):
            SplatScene(path, "a ball", cameras=tmp_path / "wrong.json")
    (tmp_path / "wrong.json").write_text("{}")
    with pytest.raises(UserError, match="no list of cameras"):
        SplatScene(path, "a ball", cameras=tmp_path / "wrong.json")


def test_what_is_edited_begins_as_the_file(tmp_path: Path) -> None:
    scene = SplatScene(figure_file(tmp_path / "ball.ply"), "a ball", count=2, size=48)
    splats = Splats(scene, CPU)
    assert splats.fit_settings is None and splats.options["budget"] == 300
    for view in scene.views:
        assert view.image is not None
        torch.testing.assert_close(splats.render_full(view), view.image, atol=2e-3, rtol=0)
    splats.export(tmp_path / "out")
    assert (tmp_path / "out/splats.ply").read_bytes() == (tmp_path / "ball.ply").read_bytes()


def test_a_file_is_edited_from_the_command_line(
    pds: Callable[..., Any], tiny_backbone: Path
) -> None:
    figure_file(Path("ball.ply"))
    words = ["edit", "scene=splats", "scene.path=ball.ply", "scene.count=2", "scene.size=48",
             "source=a photo of a snowman", "prompt=a photo of a robot", "steps=2", "refine=none",
             f"backbone.model={tiny_backbone}", "turntable=0", "render_every=0", "lr=1",
             "device=cpu"]  # fmt: skip
    answer = pds(*words, "out=edited")
    assert answer.code == 0, answer.err
    before, after = (read_ply(Path(p)) for p in ("ball.ply", "edited/exports/splats.ply"))
    assert not torch.equal(before.tensors["means"], after.tensors["means"])
    assert PlyData.read("edited/exports/splats.ply").comments == ["made by a test"]
    for missing in ("scene.path", "source"):
        rest = [word for word in words if not word.startswith(f"{missing}=")]
        refused = pds(*rest, "out=refused")
        assert refused.code == 2 and f"{missing}=… is needed" in refused.err
    assert not Path("refused").exists()


def test_a_nerf_is_fitted_to_a_file_s_renders(pds: Callable[..., Any]) -> None:
    figure_file(Path("ball.ply"))
    answer = pds("fit", "scene=splats", "scene.path=ball.ply", "scene.count=3", "scene.size=24",
                 "source=a ball", "representation=nerf", "representation.fit.steps=2",
                 "representation.fit.cache=null", "device=cpu", "out=fitted")  # fmt: skip
    assert answer.code == 0, answer.err
    assert Path("fitted/exports/result.safetensors").is_file()
