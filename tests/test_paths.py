"""Camera paths: where their cameras stand, what they look at, and files of cameras."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from soft_ball import CENTRE, ring
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.views.cameras import Camera, look_at
from pds_cli.views.paths import (
    camera_path,
    fitted,
    listed,
    look_at_point,
    orbit,
    read_cameras,
    turntable,
)
from pds_cli.views.view import Region

MIDDLE = torch.tensor(CENTRE)
LENS = (0.1, 0.0, 0.01, 0.0, 0.0, 0.0)


def positions(cameras: list[Camera]) -> Tensor:
    return torch.stack([camera.position for camera in cameras])


def azimuths(cameras: list[Camera]) -> list[float]:
    """Degrees about +z through the middle, from the first camera's, in (−180,180]."""
    flat = positions(cameras) - MIDDLE
    angles = torch.rad2deg(torch.atan2(flat[:, 1], flat[:, 0]))
    turned = (angles - angles[0] + 180) % 360 - 180
    return turned.tolist()


def same_path(found: list[Camera], wanted: list[Camera]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a.camera_to_world, b.camera_to_world, atol=1e-4)
        assert replace(a, camera_to_world=b.camera_to_world) == b


# --- turntable -----------------------------------------------------------------------------------


def test_a_turntable_is_the_circle_that_the_train_cameras_stand_on() -> None:
    train = ring(8, distance=6.0, height=2.0)
    path = turntable(train, frames=12)
    offsets = positions(path) - MIDDLE
    assert torch.allclose(offsets.norm(dim=-1), torch.tensor(6.0), atol=1e-4)
    assert torch.allclose(offsets[:, 2], torch.tensor(2.0), atol=1e-4)
    assert azimuths(path)[1:6] == pytest.approx([30, 60, 90, 120, 150], abs=1e-2)
    assert torch.allclose(path[0].position, train[0].position, atol=1e-4)


def test_turntable_cameras_look_at_the_middle_and_stand_upright() -> None:
    for camera in turntable(ring(5), frames=7, elevation=40.0):
        pixel, depth = camera.project(MIDDLE[None])
        assert pixel[0].tolist() == pytest.approx([camera.width / 2, camera.height / 2], abs=1e-3)
        assert float(depth) > 0
        assert abs(float(camera.camera_to_world[2, 0])) < 1e-6, "right is level"
        assert float(camera.camera_to_world[2, 1]) > 0, "up is up"
        assert math.degrees(math.asin(float(-camera.forward[2]))) == pytest.approx(40, abs=1e-3)


def test_distance_elevation_and_field_of_view_are_medians() -> None:
    train = [*ring(3, distance=6.0, height=2.0), *ring(2, distance=9.0, height=5.0)]
    train[1] = replace(train[1], fx=200.0, fy=200.0)
    (camera,) = turntable(train, frames=1)
    assert float((camera.position - MIDDLE).norm()) == pytest.approx(6.0, abs=1e-4)
    assert camera.fx == pytest.approx(48.0)


def test_the_lens_and_an_off_centre_principal_point_are_left_behind() -> None:
    train = [replace(camera, distortion=LENS, cx=3.0) for camera in ring(4)]
    (camera,) = turntable(train, frames=1, size=64)
    assert camera.distortion is None
    assert (camera.cx, camera.cy, camera.fx) == (32.0, 32.0, 96.0)


def test_an_arc_is_swung_along_and_back() -> None:
    path = turntable(ring(6), frames=16, sweep=80.0)
    angles = azimuths(path)
    assert angles[8] == pytest.approx(80, abs=1e-2)
    assert angles[:9] == sorted(angles[:9])
    assert angles[1:8] == pytest.approx(angles[:8:-1], abs=1e-2)
    first = turntable(ring(6), frames=1, start=-90.0)[0]
    assert azimuths([ring(6)[0], first])[1] == pytest.approx(-90, abs=1e-2)


def test_a_negative_sweep_turns_the_other_way() -> None:
    assert azimuths(turntable(ring(6), frames=8, sweep=-360.0))[1] == pytest.approx(-45, abs=1e-2)


@settings(max_examples=20, deadline=None)
@given(st.floats(-math.pi, math.pi), st.floats(-2, 2), st.floats(0.2, 5), st.integers(3, 9))
def test_paths_follow_their_world(angle: float, tilt: float, scale: float, count: int) -> None:
    """Turning, moving and scaling the train cameras does the same to each path."""
    c, s = math.cos(angle), math.sin(angle)
    d, t = math.cos(tilt), math.sin(tilt)
    turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ torch.tensor(
        [[1, 0, 0], [0, d, -t], [0, t, d]]
    )

    def moved(camera: Camera) -> Camera:
        place = scale * (turn @ camera.position) + torch.tensor([1.0, -3.0, 0.5])
        return camera.moved(torch.cat([turn @ camera.camera_to_world[:, :3], place[:, None]], -1))

    train = ring(count)
    options: dict[str, Any] = {"frames": 5, "size": 40}
    for make in (turntable, orbit):
        wanted = [moved(camera) for camera in make(train, **options)]
        found = make([moved(camera) for camera in train], **options)
        for a, b in zip(found, wanted, strict=True):
            assert torch.allclose(a.camera_to_world, b.camera_to_world, atol=2e-3 * max(1, scale))


def test_the_regions_up_is_the_axis() -> None:
    up = (0.0, -1.0, 0.0)
    path = turntable(ring(6), Region(CENTRE, up=up), frames=6, elevation=10.0)
    rise = (positions(path) - MIDDLE) @ torch.tensor(up)
    assert torch.allclose(rise, rise[0].expand(6), atol=1e-4)
    assert float(rise[0]) == pytest.approx(6 * math.sin(math.radians(10)), abs=1e-3)


def test_cameras_side_by_side_circle_the_regions_centre_or_what_is_ahead() -> None:
    row = [
        Camera(look_at((x, -5.0, 0.0), (x, 0.0, 0.0)), 40.0, 40.0, 16.0, 16.0, 32, 32)
        for x in (-1.0, 0.0, 1.0)
    ]
    assert look_at_point(row, Region((0.0, 1.0, 0.0))).tolist() == pytest.approx([0, 1, 0])
    behind = look_at_point(row, Region((0.0, -9.0, 0.0), radius=3.0))
    assert behind.tolist() == pytest.approx([0, -2, 0], abs=1e-5)


def test_cameras_that_look_outwards_cannot_be_circled() -> None:
    outwards = [
        camera.moved(look_at(camera.position.tolist(), (2 * camera.position - MIDDLE).tolist()))
        for camera in ring(6, height=0.0)
    ]
    with pytest.raises(UserError, match="path=train"):
        turntable(outwards, Region(CENTRE, radius=3.0))


@pytest.mark.parametrize(
    ("name", "value"),
    [("sweep", 0.0), ("sweep", 361.0), ("elevation", 90.0), ("elevation", float("nan"))],
)
def test_angles_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{name}="):
        camera_path("turntable", ring(4), **{name: value})  # type: ignore[arg-type]


# --- orbit ---------------------------------------------------------------------------------------


def test_an_orbit_stays_by_the_first_camera_and_looks_where_it_looks() -> None:
    train = ring(6)
    path = orbit(train, frames=24, sweep=20.0)
    drift = (positions(path) - train[0].position).norm(dim=-1)
    assert float(drift.max()) == pytest.approx(6 * math.tan(math.radians(10)), abs=1e-3)
    assert torch.allclose(positions(path).mean(0), train[0].position, atol=1e-4), "it is closed"
    for camera in path:
        pixel, _ = camera.project(MIDDLE[None])
        assert pixel[0].tolist() == pytest.approx([16.0, 16.0], abs=1e-2)


@pytest.mark.parametrize("sweep", [0.0, -20.0, 121.0])
def test_an_orbit_has_a_sensible_sweep(sweep: float) -> None:
    with pytest.raises(UserError, match="sweep="):
        camera_path("orbit", ring(4), sweep=sweep)


# --- cameras in a list ---------------------------------------------------------------------------


def test_train_is_the_train_cameras_in_order() -> None:
    train = ring(6)
    same_path(camera_path("train", train), train)
    same_path(camera_path("train", train, frames=3), [train[0], train[2], train[4]])
    same_path(camera_path("train", train, frames=99), train)
    assert {(c.width, c.height) for c in camera_path("train", train, size=50)} == {(50, 50)}


def test_portrait_and_landscape_share_one_canvas_that_shows_all_of_both() -> None:
    wide = replace(ring(1)[0], width=60, height=40, cx=30.0, cy=18.0)
    tall = replace(ring(1)[0], width=40, height=60, cx=20.0, cy=30.0, distortion=LENS)
    first, second = listed([wide, tall], size=120)
    assert (first.width, first.height) == (second.width, second.height) == (120, 80)
    corners = torch.tensor([0, 39, 59 * 40, 59 * 40 + 39])
    origins, directions = replace(tall, distortion=None).rays(corners)
    pixels, _ = second.project(origins + directions)
    wanted = 80 / 60 * torch.tensor([[-19.5, -29.5], [19.5, -29.5], [-19.5, 29.5], [19.5, 29.5]])
    assert torch.allclose(pixels - torch.tensor([60.0, 40.0]), wanted, atol=1e-3)
    assert second.distortion is None, "a lens is unknown beyond its picture"
    assert listed([tall], size=30)[0].distortion == LENS


@pytest.mark.parametrize(("width", "height", "size"), [(33, 47, None), (640, 361, 101), (9, 9, 1)])
def test_sides_are_even(width: int, height: int, size: int | None) -> None:
    camera = fitted(replace(ring(1)[0], width=width, height=height), size)
    assert camera.width % 2 == camera.height % 2 == 0
    assert min(camera.width, camera.height) >= 2
    if size is not None:
        assert abs(max(camera.width, camera.height) - size) <= 1


def test_too_large_pictures_and_no_frames_are_refused() -> None:
    with pytest.raises(UserError, match="megapixels"):
        camera_path("train", ring(3), size=20_000)
    with pytest.raises(UserError, match="frames=0"):
        camera_path("turntable", ring(3), frames=0)
    with pytest.raises(UserError, match="knows no cameras"):
        camera_path("turntable", [])


# --- files ---------------------------------------------------------------------------------------


def test_cameras_come_back_from_a_file(tmp_path: Path) -> None:
    cameras = [replace(camera, distortion=LENS) for camera in ring(3)]
    entries = [{"name": f"n{i}", **camera.to_dict()} for i, camera in enumerate(cameras)]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    (tmp_path / "run.json").write_text(json.dumps({"train": entries, "eval": entries[:1]}))
    for name in ("list.json", "run.json"):
        same_path(read_cameras(tmp_path / name), cameras)
        same_path(camera_path(tmp_path / name, []), cameras)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fx": 0}, ["entry 1 (second)", "fx"]),
        ({"width": "wide"}, ["entry 1 (second)", "width"]),
        ({"camera_to_world": [[1, 2], [3, 4]]}, ["entry 1 (second)", "camera_to_world"]),
        ({"camera_to_world": [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]}, ["entry 1", "rotation"]),
        ({"distortion": [1, 2]}, ["entry 1 (second)", "distortion"]),
        ({"cx": float("nan")}, ["entry 1 (second)", "cx"]),
    ],
)
def test_a_wrong_entry_is_named_with_its_field(
    change: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    entries = [camera.to_dict() for camera in ring(2)]
    entries[1] |= {"name": "second", **change}
    file = tmp_path / "cameras.json"
    file.write_text(json.dumps(entries))
    with pytest.raises(UserError) as caught:
        read_cameras(file)
    for word in [str(file), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"frames": []}'])
def test_what_is_no_list_of_cameras_is_a_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json"):
        camera_path(tmp_path / "x.json", ring(2))


def test_an_unknown_path_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean turntable"):
        camera_path("turntabel", ring(2))
