"""Cameras: rays and projection are inverse, lenses follow OpenCV's formula, files round trip."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.views.cameras import Camera, distort, look_at, undistort

Lens = tuple[float, float, float, float, float, float]
NUMBER = st.floats(-1, 1)


def does_not_fold(lens: Lens) -> bool:
    """Whether what lies further out also appears further out, to 1.6 focal lengths."""
    k1, k2, _, _, k3, k4 = lens
    radii = [step / 50 for step in range(81)]
    slopes = (1 + 3 * k1 * r**2 + 5 * k2 * r**4 + 7 * k3 * r**6 + 9 * k4 * r**8 for r in radii)
    return min(slopes) > 0.3


LENSES = st.tuples(
    st.floats(-0.15, 0.15),  # k1
    st.floats(-0.03, 0.03),  # k2
    st.floats(-0.01, 0.01),  # p1
    st.floats(-0.01, 0.01),  # p2
    st.floats(-0.01, 0.01),  # k3
    st.floats(-0.002, 0.002),  # k4
).filter(does_not_fold)


def rotation_of(quaternion: tuple[float, float, float, float]) -> Tensor:
    w, x, y, z = torch.nn.functional.normalize(
        torch.tensor(quaternion, dtype=torch.float64), dim=0
    ).tolist()
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )


@st.composite
def cameras(draw: st.DrawFn, lenses: st.SearchStrategy[Lens | None] | None = None) -> Camera:
    """Cameras in float64 at any pose, up to 100° wide, the centre off the middle."""
    quaternion = draw(
        st.tuples(NUMBER, NUMBER, NUMBER, NUMBER).filter(lambda q: sum(x * x for x in q) > 0.01)
    )
    position = torch.tensor(draw(st.tuples(NUMBER, NUMBER, NUMBER)), dtype=torch.float64)
    width, height = draw(st.integers(8, 60)), draw(st.integers(8, 60))
    camera = Camera(
        torch.cat([rotation_of(quaternion), 5 * position[:, None]], -1),
        fx=width * draw(st.floats(0.45, 3)),
        fy=height * draw(st.floats(0.45, 3)),
        cx=width * draw(st.floats(0.4, 0.6)),
        cy=height * draw(st.floats(0.4, 0.6)),
        width=width,
        height=height,
        distortion=draw(lenses) if lenses is not None else None,
    )
    assume(camera.distortion is None or corner_of(camera) < 0.95 * edge_of(camera.distortion))
    return camera


def corner_of(camera: Camera) -> float:
    """How far the corner is that lies farthest from the axis, in focal lengths."""
    across = max(camera.cx, camera.width - camera.cx) / camera.fx
    down = max(camera.cy, camera.height - camera.cy) / camera.fy
    return math.hypot(across, down)


def edge_of(lens: Lens) -> float:
    """Where the lens shows what is 1.6 focal lengths from the axis; it may fold beyond."""
    k1, k2, _, _, k3, k4 = lens
    return 1.6 * (1 + k1 * 1.6**2 + k2 * 1.6**4 + k3 * 1.6**6 + k4 * 1.6**8)


def a_camera(**changes: Any) -> Camera:
    pose = look_at((3.0, -2.0, 1.5), (0.0, 0.0, 0.5))
    return dataclasses.replace(Camera(pose, 50.0, 55.0, 31.0, 25.0, 64, 48), **changes)


# --- rays and pixels -----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(cameras(st.one_of(st.none(), LENSES)), st.floats(0.1, 50))
def test_rays_and_projection_are_inverse(camera: Camera, distance: float) -> None:
    """Every pixel's ray comes back to that pixel's centre, at any distance."""
    origins, directions = camera.rays()
    assert torch.allclose(directions.norm(dim=-1), torch.ones(()).double())
    assert torch.equal(origins, camera.position.expand_as(origins))
    found, depth = camera.project(origins + distance * directions)
    index = torch.arange(camera.width * camera.height)
    centres = torch.stack([index % camera.width, index // camera.width], -1) + 0.5
    assert (depth > 0).all()
    assert torch.allclose(depth, distance * (directions @ camera.forward))
    assert (found - centres).abs().max() < 1e-4


@settings(max_examples=30, deadline=None)
@given(cameras(LENSES), st.data())
def test_rays_of_some_pixels_are_those_of_all(camera: Camera, data: st.DataObject) -> None:
    some = data.draw(st.lists(st.integers(0, camera.width * camera.height - 1), min_size=1))
    pixels = torch.tensor(some)
    assert torch.allclose(camera.rays(pixels)[1], camera.rays()[1][pixels])


def test_the_axes_are_opengls() -> None:
    """The identity looks along −z: right is +x, up is +y, and rows count downwards."""
    camera = Camera(torch.eye(4)[:3], 100.0, 100.0, 32.0, 24.0, 64, 48)
    points = torch.tensor([[0.0, 0.0, -2.0], [0.2, 0.0, -2.0], [0.0, 0.2, -2.0]])
    pixels, depth = camera.project(points)
    assert pixels.tolist() == [[32.0, 24.0], [42.0, 24.0], [32.0, 14.0]]
    assert depth.tolist() == [2.0, 2.0, 2.0]
    assert camera.forward.tolist() == [0.0, 0.0, -1.0]
    assert camera.project(torch.tensor([[0.0, 0.0, 1.0]]))[1] < 0


@settings(max_examples=30, deadline=None)
@given(cameras(LENSES), st.integers(1, 3), st.integers(1, 3))
def test_a_resized_image_is_seen_along_the_same_rays(camera: Camera, tall: int, wide: int) -> None:
    """A pixel of the small image lies in the middle of the large image's pixels."""
    large = camera.scaled(camera.height * tall, camera.width * wide)
    origins, directions = camera.rays()
    points = origins + directions
    small_pixels, _ = camera.project(points)
    large_pixels, _ = large.project(points)
    assert torch.allclose(large_pixels, small_pixels * torch.tensor([wide, tall]), atol=1e-9)
    back = large.scaled(camera.height, camera.width)
    assert torch.allclose(back.rays()[1], camera.rays()[1])
    assert (back.width, back.height) == (camera.width, camera.height)


def test_a_moved_camera_keeps_its_intrinsics() -> None:
    camera = a_camera(distortion=(0.1, 0.0, 0.01, 0.0, 0.0, 0.0))
    pose = look_at((0.0, -4.0, 0.0), (0.0, 0.0, 0.0))
    moved = camera.moved(pose)
    assert torch.equal(moved.camera_to_world, pose)
    assert moved.moved(camera.camera_to_world).to_dict() == camera.to_dict()


# --- lenses --------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(LENSES, st.floats(-1, 1), st.floats(-1, 1))
def test_the_lens_is_opencvs(lens: Lens, x: float, y: float) -> None:
    """A direct reading of OpenCV's documentation, with the radial series carried on to r⁸.

    OpenCV's own sixth coefficient and on stand in a denominator; none of our formats has those.
    """
    k1, k2, p1, p2, k3, k4 = lens
    r = math.hypot(x, y)
    radial = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6 + k4 * r**8
    wanted_x = x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2)
    wanted_y = y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y
    ideal = torch.tensor([x, y], dtype=torch.float64)
    found_x, found_y = distort(ideal[0], ideal[1], lens)
    assert math.isclose(float(found_x), wanted_x, abs_tol=1e-12)
    assert math.isclose(float(found_y), wanted_y, abs_tol=1e-12)


@settings(max_examples=60, deadline=None)
@given(LENSES)
def test_undistorting_is_the_inverse_of_distorting(lens: Lens) -> None:
    side = torch.linspace(-0.9, 0.9, 15, dtype=torch.float64)
    x, y = (axis.flatten() for axis in torch.meshgrid(side, side, indexing="ij"))
    back_x, back_y = undistort(*distort(x, y, lens), lens)
    assert max((back_x - x).abs().max(), (back_y - y).abs().max()) < 1e-6


def test_no_lens_changes_nothing() -> None:
    bare, glass = a_camera(), a_camera(distortion=(0.0,) * 6)
    assert torch.allclose(bare.rays()[1], glass.rays()[1])


# --- poses ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.tuples(NUMBER, NUMBER, NUMBER), st.tuples(NUMBER, NUMBER, st.floats(-1, 1)))
def test_a_camera_that_looks_at_a_point_has_it_in_the_middle(
    position: tuple[float, float, float], target: tuple[float, float, float]
) -> None:
    offset = [a - b for a, b in zip(position, target, strict=True)]
    if math.hypot(offset[0], offset[1]) < 0.05:
        return  # straight up or down
    pose = look_at(position, target)
    camera = Camera(pose, 100.0, 100.0, 32.0, 24.0, 64, 48)
    pixels, depth = camera.project(torch.tensor([target]))
    assert torch.allclose(pixels, torch.tensor([[32.0, 24.0]]), atol=1e-2)
    assert float(depth) == pytest.approx(math.dist(position, target), abs=1e-5)
    assert torch.allclose(pose[:, :3].T @ pose[:, :3], torch.eye(3), atol=1e-5)
    assert float(torch.linalg.det(pose[:, :3])) == pytest.approx(1, abs=1e-5)
    assert pose[2, 1] > 0  # its up is upwards
    assert abs(float(pose[2, 0])) < 1e-6  # its right is level


@pytest.mark.parametrize("target", [(1.0, 2.0, 3.0), (1.0, 2.0, 7.0)])
def test_a_camera_that_cannot_look_there_says_so(target: tuple[float, float, float]) -> None:
    with pytest.raises(UserError, match="cannot look at"):
        look_at((1.0, 2.0, 3.0), target)


def test_another_up_can_be_named() -> None:
    pose = look_at((0.0, 0.0, 5.0), (0.0, 0.0, 0.0), up=(0.0, 1.0, 0.0))
    assert torch.allclose(pose[:, :3], torch.eye(3), atol=1e-6)


# --- files ---------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(cameras(st.one_of(st.none(), LENSES)))
def test_a_camera_goes_through_json(camera: Camera) -> None:
    single = camera.moved(camera.camera_to_world.float())
    read = Camera.from_dict(json.loads(json.dumps(single.to_dict())))
    assert read.to_dict() == single.to_dict()
    assert torch.equal(read.camera_to_world, single.camera_to_world)


def test_a_pose_with_a_fourth_row_is_read() -> None:
    found = a_camera().to_dict()
    found["camera_to_world"].append([0, 0, 0, 1])
    assert torch.equal(Camera.from_dict(found).camera_to_world, a_camera().camera_to_world)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fx", None),
        ("height", None),
        ("camera_to_world", None),
        ("fy", "wide"),
        ("width", [64]),
        ("cx", math.nan),
        ("fx", 0.0),
        ("height", -3),
        ("camera_to_world", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ("camera_to_world", [[1, 0, 0, 0], [0, 1, 0], [0, 0, 1, 0]]),
        ("camera_to_world", [[math.nan] * 4] * 3),
        ("camera_to_world", "up"),
        ("distortion", [0.1, 0.2]),
        ("distortion", 3),
    ],
)
def test_what_is_no_camera_is_named(field: str, value: Any) -> None:
    found = a_camera().to_dict()
    found[field] = value
    if value is None:
        del found[field]
    with pytest.raises(UserError, match=f"not a camera: {field} must"):
        Camera.from_dict(found)


def test_a_camera_is_an_object() -> None:
    with pytest.raises(UserError, match="not a camera"):
        Camera.from_dict([1, 2])  # type: ignore[arg-type]
