"""Captures: every format's cameras see what the photos show, and wrong files are named."""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from rendered_scene import (
    MARKERS,
    Shot,
    found_at,
    mixed,
    photograph,
    ring,
    save,
    to_binary,
    write_blender,
    write_colmap_text,
    write_nerfstudio,
)
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.pictures.pillow import load_image
from pds_cli.pictures.video import write_mp4
from pds_cli.scenes.blender import BlenderScene
from pds_cli.scenes.capture import CaptureScene
from pds_cli.scenes.colmap import ColmapScene
from pds_cli.scenes.film import frame_count, is_film, pick_frames
from pds_cli.scenes.nerfstudio import NerfstudioScene
from pds_cli.scenes.point_cloud import write_point_cloud
from pds_cli.scenes.sfm import import_photos, photo_files
from pds_cli.views.cameras import Camera, look_at
from pds_cli.views.poses import IDENTITY, Similarity, checked_pose, focus, normalisation
from pds_cli.views.undistorting import undistorted
from pds_cli.views.view import View

pytest.importorskip("pyvista", reason="PyVista renders the photos of these tests")

POINTS = torch.tensor(list(MARKERS.values()))


@dataclass(frozen=True)
class Photos:
    """Shots and what they show."""

    shots: list[Shot]
    pictures: list[Any]


@pytest.fixture(scope="module")
def plain() -> Photos:
    """Nine photos of one pinhole camera."""
    shots = ring(9)
    return Photos(shots, photograph(shots))


@pytest.fixture(scope="module")
def varied() -> Photos:
    """Six photos, portrait, landscape and square, each with its own intrinsics and lens."""
    shots = mixed(6)
    return Photos(shots, photograph(shots))


@pytest.fixture(scope="module")
def cut_out() -> Photos:
    """Six photos of the boxes and balls alone, transparent around them."""
    shots = ring(6)
    return Photos(shots, photograph(shots, ground=False))


def needs_pycolmap() -> None:
    pytest.importorskip("pycolmap", reason="pycolmap reads and makes COLMAP models")


# --- conventions ---------------------------------------------------------------------------------


def misses(views: Sequence[View], markers: Tensor) -> list[float]:
    """Distances in pixels between where markers [N,3] are seen and where cameras put them."""
    found = []
    for view in views:
        assert view.image is not None and view.camera is not None
        image = view.image.movedim(0, -1).numpy()
        height, width = image.shape[:2]
        pixels, depth = view.camera.project(markers)
        assert (view.camera.height, view.camera.width) == (height, width)
        for index, colour in enumerate(MARKERS):
            x, y = pixels[index].tolist()
            others = (pixels - pixels[index]).norm(dim=-1) < 16
            inside = 8 < x < width - 8 and 8 < y < height - 8
            seen = found_at(image, colour)
            if others.sum() > 1 or not inside or seen is None:
                continue
            found.append(math.dist(seen, (x, y)) if depth[index] > 0 else math.inf)
    return found


def assert_seen(scene: CaptureScene, *, least: int = 15) -> None:
    markers = scene.transform.points(POINTS)
    found = misses([*scene.views, *scene.eval_views], markers)
    assert len(found) >= least, "too few markers are in sight to prove anything"
    assert max(found) < 0.25, sorted(found)


def test_nerfstudio_cameras_see_the_markers_through_lenses(varied: Photos, tmp_path: Path) -> None:
    """Per-frame intrinsics, six distortion coefficients, portrait and landscape."""
    folder = write_nerfstudio(tmp_path, varied.shots, varied.pictures)
    scene = NerfstudioScene(folder)
    assert {tuple(view.image.shape) for view in scene.views if view.image is not None} == {
        (3, 96, 128),
        (3, 130, 90),
        (3, 112, 112),
    }
    assert_seen(scene)


def test_what_is_seen_through_lenses_can_be_straightened(varied: Photos, tmp_path: Path) -> None:
    """Pinhole cameras of the same intrinsics see the markers in the straightened photos."""
    folder = write_nerfstudio(tmp_path, varied.shots, varied.pictures)
    scene = NerfstudioScene(folder)
    bent = list(scene.views)
    scene.undistort()
    assert all(v.camera and v.camera.distortion is None for v in all_views(scene))
    assert_seen(scene)
    for before, after in zip(bent, scene.views, strict=True):
        assert before.image is not None and after.image is not None
        assert before.image.shape == after.image.shape and before.camera is not None
        assert after.camera == replace(before.camera, distortion=None)
        if before.camera.distortion is not None:
            assert float((before.image - after.image).abs().max()) > 0.05
    straight = NerfstudioScene(folder)
    straight.undistort()
    straight.undistort()  # there is nothing left to do
    for once, twice in zip(scene.views, straight.views, strict=True):
        assert torch.equal(once.image, twice.image)  # type: ignore[arg-type]


BENT = {
    "OPENCV_FISHEYE": (0, 1, 2, 3, 0.05, -0.01, 0.002, 0.0),
    "SIMPLE_RADIAL_FISHEYE": (0, 2, 3, 0.06),
    "FULL_OPENCV": (0, 1, 2, 3, 0.2, 0.05, 0.01, -0.005, 0.0, 0.12, 0.0, 0.0),
    "THIN_PRISM_FISHEYE": (0, 1, 2, 3, 0.04, 0.0, 0.004, -0.003, 0.0, 0.0, 0.01, -0.01),
}
"""Camera model → its parameters; whole numbers stand for fx, fy, cx, cy."""


def bent(shot: Shot, picture: Any, kind: str) -> tuple[Any, list[float]]:
    """A pinhole photo as a lens of this kind would have taken it, and the lens's parameters."""
    import pycolmap

    plain = (shot.fx, shot.fy, shot.cx, shot.cy)
    numbers = [plain[n] if isinstance(n, int) else n for n in BENT[kind]]
    lens = pycolmap.Camera(model=kind, width=shot.width, height=shot.height, params=numbers)
    across, down = np.meshgrid(np.arange(shot.width) + 0.5, np.arange(shot.height) + 0.5)
    places = np.stack([across, down], -1).reshape(-1, 2)
    rays = np.asarray(lens.cam_from_img(places))[:, :2]
    pixels = rays * plain[:2] + plain[2:]
    grid = torch.from_numpy(2 * pixels / [shot.width, shot.height] - 1)
    image = torch.from_numpy(np.ascontiguousarray(picture)).movedim(-1, 0)[None].double()
    seen = torch.nn.functional.grid_sample(
        image, grid.view(1, shot.height, shot.width, 2), align_corners=False
    )
    return seen[0].movedim(0, -1).round().byte().numpy(), numbers


@pytest.mark.parametrize("kind", BENT)
def test_photos_through_other_lenses_are_straightened(
    plain: Photos, tmp_path: Path, kind: str
) -> None:
    """What pycolmap knows of a lens, it tells of the photo; the camera is a pinhole one."""
    needs_pycolmap()
    pairs = [bent(s, p, kind) for s, p in zip(plain.shots, plain.pictures, strict=True)]
    folder = write_colmap_text(tmp_path, plain.shots, [picture for picture, _ in pairs])
    lines = [
        f"{i} {kind} {s.width} {s.height} {' '.join(map(str, numbers))}"
        for i, (s, (_, numbers)) in enumerate(zip(plain.shots, pairs, strict=True), start=1)
    ]
    (folder / "sparse/0/cameras.txt").write_text("\n".join(lines) + "\n")
    scene = ColmapScene(folder)
    found = misses(all_views(scene), scene.transform.points(POINTS))
    assert len(found) >= 15 and max(found) < 0.5, sorted(found)
    assert all(view.camera and view.camera.distortion is None for view in scene.views)
    if kind == "OPENCV_FISHEYE":
        content = read_json(write_nerfstudio(tmp_path / "ours", plain.shots, [p for p, _ in pairs]))
        for frame in content["frames"]:
            frame |= dict(zip(("k1", "k2", "k3", "k4"), BENT[kind][4:], strict=True))
        write_json(tmp_path / "ours", content | {"camera_model": kind})
        ours = NerfstudioScene(tmp_path / "ours")
        found = misses(all_views(ours), ours.transform.points(POINTS))
        assert len(found) >= 15 and max(found) < 0.5, sorted(found)


def test_without_pycolmap_its_lenses_are_named(
    plain: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_nerfstudio(tmp_path, plain.shots[:3], plain.pictures[:3], is_fisheye=True)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(UserError, match=r"model OPENCV_FISHEYE is read with pycolmap.*undistort"):
        NerfstudioScene(folder)


def test_what_a_lens_does_not_show_is_masked() -> None:
    """A lens that magnifies: the straight picture's corners lie outside of the photo."""
    pose = look_at((0.0, -4.0, 1.0), (0.0, 0.0, 1.0)).float()
    camera = Camera(pose, 40.0, 40.0, 32.0, 32.0, 64, 64, (0.4, 0.0, 0.0, 0.0, 0.0, 0.0))
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    counted = torch.ones(1, 64, 64)
    counted[:, :, :10] = 0
    view = undistorted(View("a", image, camera, alpha=image[:1], mask=counted))
    assert view.mask is not None and view.image is not None and view.alpha is not None
    assert torch.equal(view.alpha, view.image[:1])
    assert float(view.mask[0, 32, 32]) == 1 and float(view.mask[0, 0, 0]) == 0
    assert float(view.mask[0, 32, 4]) == 0  # masked in the photo
    assert 0.3 < float(view.mask.mean()) < 0.8
    # A lens so strong that its polynomial turns back shows each place once.
    folded = replace(camera, fx=8.0, fy=8.0, distortion=(-0.2, 0.0, 0.0, 0.0, 0.0, 0.0))
    mask = undistorted(View("b", image, folded)).mask
    assert mask is not None and float(mask[0, 32, 32]) == 1 and float(mask[0, 0, 0]) == 0
    assert undistorted(View("c", image)).image is image


def test_a_wrong_convention_would_be_noticed(varied: Photos, tmp_path: Path) -> None:
    """The check above fails without the lens, at half a pixel's shift, and for OpenCV's axes."""
    folder = write_nerfstudio(tmp_path, varied.shots, varied.pictures)
    scene = NerfstudioScene(folder)
    markers = scene.transform.points(POINTS)

    def worst(**changes: Any) -> float:
        views = [
            replace(
                view,
                camera=replace(
                    view.camera,  # type: ignore[type-var]
                    **{key: value(view.camera) for key, value in changes.items()},
                ),
            )
            for view in scene.views
        ]
        return max(misses(views, markers), default=math.inf)

    assert worst() < 0.5
    assert worst(distortion=lambda camera: None) > 0.5
    assert worst(cx=lambda camera: camera.cx + 0.5) > 0.5
    flip = torch.tensor([1.0, -1.0, -1.0, 1.0])
    assert worst(camera_to_world=lambda camera: camera.camera_to_world * flip) == math.inf


@pytest.mark.parametrize("orientation", ["up", "pca", "none"])
@pytest.mark.parametrize("centre", ["poses", "focus", "none"])
@pytest.mark.parametrize("auto_scale", [True, False])
def test_normalisation_moves_cameras_and_world_together(
    plain: Photos, tmp_path: Path, orientation: str, centre: str, auto_scale: bool
) -> None:
    folder = write_nerfstudio(tmp_path, plain.shots, plain.pictures)
    scene = NerfstudioScene(
        folder, orientation=orientation, centre=centre, auto_scale=auto_scale, max_size=64
    )
    assert max(misses(scene.views, scene.transform.points(POINTS)), default=1) < 0.5
    centres = torch.stack([view.camera.position for view in all_views(scene) if view.camera])
    region = scene.region
    assert float(centres.abs().max()) == pytest.approx(region.radius, rel=1e-5)
    assert (region.radius == pytest.approx(1, rel=1e-5)) or not auto_scale
    assert region.unbounded and region.near == pytest.approx(0.05 * region.radius)
    if centre == "poses":
        assert centres.mean(0).norm() < 1e-5
    if centre == "focus":
        target = scene.transform.points(torch.tensor([plain.shots[0].target]))
        assert target.norm() < 1e-5
    up = scene.transform.poses(torch.eye(4)[None, :3])[0, :, 2]
    assert float(up @ torch.tensor(region.up)) > 0.99


def all_views(scene: CaptureScene) -> list[View]:
    return [*scene.views, *scene.eval_views]


def test_global_intrinsics_a_field_of_view_and_missing_sizes(plain: Photos, tmp_path: Path) -> None:
    """camera_angle_x stands beside the frames, and w, h are those of the images."""
    save(tmp_path / "images", plain.shots, plain.pictures)
    shot = plain.shots[0]
    frames = [
        {"file_path": f"images/{one.name}.png", "transform_matrix": one.matrix()[:3]}
        for one in plain.shots
    ]
    angle = 2 * math.atan(shot.width / 2 / shot.fx)
    write_json(tmp_path, {"camera_angle_x": angle, "frames": frames})
    assert_seen(NerfstudioScene(tmp_path))


def write_json(folder: Path, content: Any, name: str = "transforms.json") -> Path:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def read_json(folder: Path, name: str = "transforms.json") -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_an_applied_transform_is_undone_in_the_scenes_transform(
    plain: Photos, tmp_path: Path
) -> None:
    """Markers are known in the world before it: `transform` starts there."""
    turn = torch.tensor(look_at((1.0, 2.0, 3.0), (0.3, 0.1, 0.0)).tolist(), dtype=torch.float64)
    applied = Similarity(turn, 0.4)
    poses = torch.tensor([shot.matrix() for shot in plain.shots], dtype=torch.float64)
    moved = applied.poses(poses[:, :3])
    folder = write_nerfstudio(
        tmp_path,
        plain.shots,
        plain.pictures,
        applied_transform=turn.tolist(),
        applied_scale=0.4,
    )
    content = read_json(folder)
    for frame, pose in zip(content["frames"], moved, strict=True):
        frame["transform_matrix"] = pose.tolist()
    write_json(folder, content)
    assert_seen(NerfstudioScene(folder))


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize(
    ("model", "place"),
    [
        ("OPENCV", "sparse/0"),
        ("RADIAL", "sparse"),
        ("SIMPLE_RADIAL", "colmap/sparse/0"),
        ("PINHOLE", "sparse/0"),
        ("SIMPLE_PINHOLE", "."),
    ],
)
def test_colmap_cameras_see_the_markers(
    model: str, place: str, binary: bool, colmap_photos: dict[str, Photos], tmp_path: Path
) -> None:
    needs_pycolmap()
    photos = colmap_photos[model]
    folder = tmp_path / "capture"
    write_colmap_text(folder, photos.shots, photos.pictures, model, place)
    if binary:
        to_binary(folder / place)
    assert_seen(ColmapScene(folder), least=10)


@pytest.fixture(scope="module")
def colmap_photos(plain: Photos) -> dict[str, Photos]:
    """For each camera model, photos through a lens that it can describe."""
    lenses: dict[str, tuple[float, float, float, float]] = {
        "OPENCV": (0.1, -0.04, 0.005, -0.008),
        "RADIAL": (0.12, -0.05, 0.0, 0.0),
        "SIMPLE_RADIAL": (-0.1, 0.0, 0.0, 0.0),
    }
    found = {"SIMPLE_PINHOLE": plain}
    for model, lens in lenses.items():
        fy = 121.0 if model == "OPENCV" else 130.0
        shots = [replace(shot, lens=(*lens, 0.0, 0.0), fy=fy, cx=61.0, cy=50.5) for shot in ring(4)]
        found[model] = Photos(shots, photograph(shots))
    shots = [replace(shot, fx=125.0, fy=140.0, cx=70.0) for shot in ring(4)]
    found["PINHOLE"] = Photos(shots, photograph(shots))
    return found


def test_blender_sets_lie_over_their_background(cut_out: Photos, tmp_path: Path) -> None:
    folder = write_blender(tmp_path, cut_out.shots, cut_out.pictures)
    white = BlenderScene(folder, eval_every=1)
    black = BlenderScene(folder, background="black", eval_split="none")
    grey = BlenderScene(folder, background=[0.2, 0.4, 0.6])
    assert_seen(white)
    assert_seen(grey, least=10)
    assert torch.equal(white.transform.matrix, IDENTITY.matrix) and white.transform.scale == 1
    assert [len(white.views), len(white.eval_views)] == [4, 2]
    assert [len(black.eval_views), len(grey.eval_views)] == [0, 1]
    assert (white.region.radius, white.region.unbounded) == (1.5, False)
    for number, view in enumerate(white.views):
        assert view.image is not None and view.alpha is not None
        outside = view.alpha[0] == 0
        assert 0.2 < outside.float().mean() < 0.95
        assert (view.image[:, outside] == 1).all()
        behind = grey.views[number].image
        assert behind is not None
        assert torch.allclose(behind[:, outside].mean(-1), torch.tensor([0.2, 0.4, 0.6]))
        inside = view.alpha[0] == 1
        assert torch.equal(behind[:, inside], view.image[:, inside])


@pytest.mark.parametrize("size", [64, 100, 1000, None])
def test_photos_of_any_size_are_resized_with_their_cameras(
    varied: Photos, tmp_path: Path, size: int | None
) -> None:
    folder = write_nerfstudio(tmp_path, varied.shots, varied.pictures)
    scene = NerfstudioScene(folder, max_size=size, eval_interval=0)
    for view, shot in zip(scene.views, varied.shots, strict=True):
        assert view.image is not None
        longest = max(shot.width, shot.height)
        assert max(view.image.shape[-2:]) == min(longest, size or longest)
        ratio = view.image.shape[-1] / view.image.shape[-2]
        assert ratio == pytest.approx(shot.width / shot.height, rel=0.02)
    assert max(misses(scene.views, scene.transform.points(POINTS))) < 0.5


def test_smaller_copies_are_read_where_they_are_asked_for(varied: Photos, tmp_path: Path) -> None:
    """images_2 holds halves, rounded down; the intrinsics are still those of the originals."""
    folder = write_nerfstudio(tmp_path, varied.shots, varied.pictures)
    halves = []
    for picture in varied.pictures:
        size = (picture.shape[1] // 2, picture.shape[0] // 2)
        halves.append(np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX)))
    save(folder / "images_2", varied.shots, halves)
    shutil.rmtree(folder / "images")  # the originals need not be there
    scene = NerfstudioScene(folder, downscale=2, eval_interval=0)
    assert {max(view.image.shape[-2:]) for view in scene.views if view.image is not None} == {
        64,
        65,
        56,
    }
    assert max(misses(scene.views, scene.transform.points(POINTS))) < 0.5
    with pytest.raises(UserError, match=r"photo_00\.png is missing.*images_4.*downscale=4"):
        NerfstudioScene(folder, downscale=4)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_exif_rotation_does_not_turn_the_photo_away_from_its_camera(
    varied: Photos, tmp_path: Path, orientation: int
) -> None:
    """Structure from motion reads pixels as they are stored, whatever EXIF says of them."""
    folder = write_nerfstudio(tmp_path, varied.shots, varied.pictures)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for file in (folder / "images").iterdir():
        Image.open(file).save(file, exif=exif)
    assert_seen(NerfstudioScene(folder))


def test_masks_are_read_and_resized(plain: Photos, tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, plain.shots, plain.pictures)
    content = read_json(folder)
    mask = np.full((96, 128), 255, np.uint8)
    mask[:, :64] = 0
    (folder / "masks").mkdir()
    Image.fromarray(mask).save(folder / "masks/first.png")
    content["frames"][0]["mask_path"] = "masks/first.png"
    write_json(folder, content)
    first, second = NerfstudioScene(folder, max_size=32, eval_interval=0).views[:2]
    assert first.mask is not None and first.mask.shape == (1, 24, 32)
    assert (first.mask[..., :16] == 0).all() and (first.mask[..., 16:] == 1).all()
    assert second.mask is None


def test_colmap_masks_stand_beside_the_images(plain: Photos, tmp_path: Path) -> None:
    needs_pycolmap()
    write_colmap_text(tmp_path, plain.shots, plain.pictures)
    (tmp_path / "masks").mkdir()
    for shot in plain.shots:
        Image.new("L", (128, 96), 255).save(tmp_path / f"masks/{shot.name}.png.png")
    scene = ColmapScene(tmp_path, masks="masks")
    assert all(view.mask is not None and bool(view.mask.all()) for view in scene.views)
    (tmp_path / "masks/photo_03.png.png").unlink()
    with pytest.raises(UserError, match=r"image photo_03\.png: mask"):
        ColmapScene(tmp_path, masks="masks")


# --- train and eval ------------------------------------------------------------------------------


def test_every_so_many_th_photo_is_held_out(plain: Photos, tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, plain.shots, plain.pictures)
    names = [shot.name for shot in plain.shots]
    for interval, held in ((8, [0, 8]), (4, [0, 4, 8]), (0, []), (100, [0])):
        scene = NerfstudioScene(folder, eval_interval=interval, max_size=16)
        assert [view.name for view in scene.eval_views] == [names[index] for index in held]
        rest = [name for index, name in enumerate(names) if index not in held]
        assert [view.name for view in scene.views] == rest
    content = read_json(folder)
    content["frames"] = content["frames"][:1]
    scene = NerfstudioScene(write_json(folder, content), max_size=16)
    assert [len(scene.views), len(scene.eval_views)] == [1, 0]


def test_the_files_own_lists_come_first(plain: Photos, tmp_path: Path) -> None:
    folder = write_nerfstudio(
        tmp_path,
        plain.shots,
        plain.pictures,
        train_filenames=["images/photo_02.png", "./images/photo_04.png"],
        val_filenames=["images/photo_01.png"],
        test_filenames=["images/photo_07.png", "images/photo_01.png"],
    )
    scene = NerfstudioScene(folder, max_size=16)
    assert [view.name for view in scene.views] == ["photo_02", "photo_04"]
    assert [view.name for view in scene.eval_views] == ["photo_01", "photo_07"]
    assert len(NerfstudioScene(folder, max_size=16, eval_interval=0).views) == 4


def test_names_of_views_are_short_sorted_and_differ(plain: Photos, tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, plain.shots, plain.pictures)
    content = read_json(folder)
    for number, frame in enumerate(content["frames"]):
        path = f"images/{'left' if number % 2 else 'right'}/r.{number // 2 * 9}.png"
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copy(folder / frame["file_path"], folder / path)
        frame["file_path"] = path.removesuffix(".png")
    scene = NerfstudioScene(write_json(folder, content), max_size=16, eval_interval=0)
    left = [f"left_r.{number}" for number in (0, 9, 18, 27)]
    assert [view.name for view in scene.views] == [
        *left,
        *(f"right_r.{number}" for number in (0, 9, 18, 27, 36)),
    ]


def test_a_prompt_is_asked_for_only_where_it_is_needed(plain: Photos, tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, plain.shots[:2], plain.pictures[:2])
    assert NerfstudioScene(folder, "a photo of boxes", max_size=16).source_prompt
    scene = NerfstudioScene(folder, max_size=16)
    assert scene.views
    with pytest.raises(UserError, match="source=… is needed"):
        _ = scene.source_prompt


# --- the world -----------------------------------------------------------------------------------

COORDINATE = st.floats(-5, 5)
POSES = st.lists(
    st.tuples(COORDINATE, COORDINATE, st.floats(0.5, 4)).filter(
        lambda p: math.hypot(p[0], p[1]) > 0.5
    ),
    min_size=3,
    max_size=8,
    unique=True,
).map(lambda eyes: torch.stack([look_at(eye, (0.1, 0.2, 0.0)) for eye in eyes]).double())


@settings(max_examples=40, deadline=None)
@given(
    POSES,
    st.sampled_from(["up", "pca"]),
    st.sampled_from(["poses", "focus"]),
    st.tuples(COORDINATE, COORDINATE, COORDINATE),
    st.floats(0.1, 10),
)
def test_normalisation_does_not_depend_on_where_the_file_put_the_world(
    poses: Tensor, orientation: str, centre: str, shift: tuple[float, float, float], scale: float
) -> None:
    """Up to a turn about the vertical, which no camera can know, and mirrored axes of `pca`."""
    assume(float(torch.cdist(poses[:, :, 3], poses[:, :, 3]).max()) > 0.1)
    turn = torch.tensor(look_at(shift, (9.0, 9.0, 9.0)).tolist(), dtype=torch.float64)
    moved = Similarity(turn, scale).poses(poses)
    here = normalisation(poses, orientation, centre, False).poses(poses)
    there = normalisation(moved, orientation, centre, False).poses(moved)
    gaps, wanted = (torch.cdist(p[:, :, 3], p[:, :, 3]) for p in (there, here))
    assert torch.allclose(gaps, scale * wanted, atol=1e-4 * scale)
    heights = [p[:, 2, 3] - p[:, 2, 3].mean() for p in (there, here)]
    if orientation == "up":
        assert torch.allclose(heights[0], scale * heights[1], atol=1e-4 * scale)
        ups = [p[:, :, 1].mean(0) for p in (there, here)]
        for up in ups:
            assert up[:2].norm() < 1e-6 and up[2] > 0
    turns = normalisation(moved, orientation, centre, True)
    assert torch.linalg.det(turns.matrix[:, :3]) == pytest.approx(1, abs=1e-9)
    assert float(turns.poses(moved)[:, :, 3].abs().max()) == pytest.approx(1, abs=1e-9)


def test_the_focus_is_what_most_cameras_look_at() -> None:
    eyes = [(3.0, 0.0, 1.0), (0.0, 3.0, 1.0), (-3.0, 0.5, 1.0), (0.3, -3.0, 2.0)]
    poses = [look_at(eye, (0.2, 0.3, 0.4)) for eye in eyes]
    poses.append(look_at((2.0, 2.0, 1.0), (5.0, 5.0, 1.5)))  # looks away
    assert torch.allclose(
        focus(torch.stack(poses).double()),
        torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64),
        atol=1e-5,
    )
    parallel = torch.stack([look_at((x, 0.0, 0.0), (x, 5.0, 0.0)) for x in (0.0, 1.0, 2.0)])
    assert torch.allclose(focus(parallel.double())[0], torch.ones(()).double())


def test_cameras_with_nothing_to_tell_apart_are_left_where_they_are() -> None:
    """One camera has no extent, and ups that cancel have no mean."""
    pose = look_at((3.0, 0.0, 0.0), (0.0, 0.0, 0.0))[None].double()
    for orientation in ("up", "pca"):
        found = normalisation(pose, orientation, "poses", True)
        assert found.scale == 1 and found.poses(pose).isfinite().all()
    upside_down = pose.clone()
    upside_down[:, :, :2] *= -1
    both = torch.cat([pose, upside_down])
    assert torch.equal(
        normalisation(both, "up", "none", False).matrix[:, :3], torch.eye(3).double()
    )
    turned = normalisation(upside_down, "up", "none", False).poses(upside_down)
    assert torch.allclose(turned[0, :, 1], torch.tensor([0.0, 0.0, 1.0]).double(), atol=1e-6)


def test_maps_follow_one_another() -> None:
    first = Similarity(look_at((1.0, 2.0, 3.0), (0.0, 0.0, 0.0)).double(), 0.5)
    then = Similarity(look_at((-2.0, 1.0, 0.5), (1.0, 0.0, 0.0)).double(), 3.0)
    points = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(then.after(first).points(points), then.points(first.points(points)))


def test_rounding_in_a_rotation_is_cleaned_away() -> None:
    pose = look_at((1.0, 2.0, 3.0), (0.0, 0.0, 0.0)).double()
    rough = torch.round(pose * 1000) / 1000
    clean = checked_pose(rough.tolist(), "here")
    assert torch.allclose(clean[:, :3].T @ clean[:, :3], torch.eye(3).double(), atol=1e-12)
    assert (clean - pose).abs().max() < 1e-3


# --- points --------------------------------------------------------------------------------------


def sparse_points(folder: Path) -> None:
    """The markers as a COLMAP model's points, two of them seen in photos."""
    rows = []
    for number, (colour, place) in enumerate(MARKERS.items(), start=1):
        row = [number, *place, *(round(255 * c) for c in colour), 0.5, 1, number, 2, 7]
        rows.append(" ".join(map(str, row)))
    (folder / "points3D.txt").write_text("# points\n" + "\n".join(rows) + "\n")


@pytest.mark.parametrize("binary", [False, True])
def test_points_of_a_colmap_model_lie_on_what_is_seen(
    plain: Photos, tmp_path: Path, binary: bool
) -> None:
    folder = write_colmap_text(tmp_path, plain.shots[:4], plain.pictures[:4])
    model = folder / "sparse/0"
    assert ColmapScene(folder).sparse_points is None  # an empty file
    sparse_points(model)
    if binary:
        needs_pycolmap()
        data = struct.pack("<Q", len(MARKERS))
        for number, (colour, place) in enumerate(MARKERS.items()):
            data += struct.pack(
                "<Q3d3BdQ", number, *place, *(round(255 * c) for c in colour), 0.5, 2
            ) + bytes(16)
        (model / "points3D.txt").write_text("")
        to_binary(model)
        (model / "points3D.bin").write_bytes(data)
    scene = ColmapScene(folder)
    assert scene.sparse_points is not None
    places, colours = scene.sparse_points
    torch.testing.assert_close(places, scene.transform.points(POINTS))
    torch.testing.assert_close(colours, torch.tensor(list(MARKERS)))
    file = model / f"points3D.{'bin' if binary else 'txt'}"
    file.write_bytes(file.read_bytes()[:-20] if binary else b"1 2 3\n")
    with pytest.raises(UserError, match=r"points3D.* is not a COLMAP model"):
        ColmapScene(folder)


def test_points_that_a_transforms_file_names_are_read(plain: Photos, tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, plain.shots, plain.pictures, ply_file_path="sparse_pc.ply")
    colours = torch.tensor(list(MARKERS))
    write_point_cloud(folder / "sparse_pc.ply", POINTS, colours)
    scene = NerfstudioScene(folder)
    assert scene.sparse_points is not None
    torch.testing.assert_close(scene.sparse_points[0], scene.transform.points(POINTS))
    torch.testing.assert_close(scene.sparse_points[1], colours)
    (folder / "sparse_pc.ply").write_bytes(b"ply\nformat nonsense\n")
    with pytest.raises(UserError, match=r"sparse_pc\.ply is no PLY file of points"):
        NerfstudioScene(folder)
    (folder / "sparse_pc.ply").unlink()
    with pytest.raises(UserError, match=r"ply_file_path sparse_pc\.ply is missing"):
        NerfstudioScene(folder)


# --- wrong files ---------------------------------------------------------------------------------


def frame_change(number: int = 2, **fields: Any) -> Callable[[Any], None]:
    """Changes a frame: the third, unless told otherwise."""

    def change(content: Any) -> None:
        content["frames"][number].update(fields)

    return change


def without(field: str) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        del content["frames"][2][field]

    return change


def everywhere(**fields: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        content.update(fields)

    return change


def both(*changes: Callable[[Any], None]) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for one in changes:
            one(content)

    return change


def pose_with(row: int, column: int, value: float) -> list[list[float]]:
    pose = np.eye(4).tolist()
    pose[row][column] = value
    return pose


THIRD = r"transforms\.json: frame images/photo_02\.png: "
WRONG: dict[str, tuple[Callable[[Any], None], str]] = {
    "images missing": (
        both(*(frame_change(number, file_path="images/none.png") for number in range(3))),
        r"frame images/none\.png: file_path images/none\.png is missing",
    ),
    "image unnamed": (without("file_path"), "frame number 2: file_path is None"),
    "outside": (frame_change(file_path="../secret.png"), r"file_path \.\./secret\.png leads out"),
    "absolute": (frame_change(file_path="/etc/passwd"), "file_path /etc/passwd leads out"),
    "mask missing": (frame_change(mask_path="masks/m.png"), THIRD + r"mask_path masks/m\.png is m"),
    "mask outside": (
        frame_change(mask_path="../m.png"),
        THIRD + r"mask_path \.\./m\.png leads out",
    ),
    "scaled": (
        frame_change(transform_matrix=(2 * np.eye(4)).tolist()),
        THIRD + "transform_matrix is not a rotation",
    ),
    "mirrored": (
        frame_change(transform_matrix=pose_with(0, 0, -1.0)),
        THIRD + "transform_matrix mirrors",
    ),
    "nan": (
        frame_change(transform_matrix=pose_with(1, 3, math.nan)),
        THIRD + "transform_matrix holds NaN",
    ),
    "no pose": (without("transform_matrix"), THIRD + "transform_matrix is not a matrix"),
    "half a pose": (
        frame_change(transform_matrix=[[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        THIRD + "transform_matrix is not a matrix",
    ),
    "ragged pose": (
        frame_change(transform_matrix=[[1, 2], [3]]),
        THIRD + "transform_matrix is not",
    ),
    "focal zero": (frame_change(fl_x=0), THIRD + "fl_x is 0"),
    "focal negative": (frame_change(fl_y=-3.5), THIRD + r"fl_y is -3\.5"),
    "focal text": (frame_change(fl_x="wide"), THIRD + "fl_x is 'wide'"),
    "focal nan": (frame_change(fl_x=math.nan), THIRD + "fl_x is nan"),
    "no focal": (without("fl_x"), THIRD + r"fl_x \(or camera_angle_x\) is missing"),
    "angle": (
        both(without("fl_x"), everywhere(camera_angle_x=60.0)),
        THIRD + "camera_angle_x is 60",
    ),
    "no width": (frame_change(w=0), THIRD + "w, h is 0"),
    "centre": (frame_change(cx=math.inf), THIRD + "cx is inf"),
    "lens": (frame_change(k1="round"), THIRD + "k1 is 'round'"),
    "panorama": (everywhere(camera_model="EQUIRECTANGULAR"), "camera_model EQUIRECTANGULAR"),
    "turned": (frame_change(w=96, h=128), r"frame images/photo_02\.png: image .* 128×96 .* 96×128"),
    "twice": (
        frame_change(file_path="images/photo_01.png"),
        r"images/photo_01\.png and images/photo_01\.png are both named photo_01",
    ),
    "empty": (everywhere(frames=[]), "has no frames"),
    "no frames": (everywhere(frames=None), "no list `frames`"),
    "frames of text": (everywhere(frames=["a"]), "no list `frames`"),
    "list of strangers": (
        everywhere(test_filenames=["images/x.png"]),
        r"test_filenames names images/x\.png",
    ),
    "list of numbers": (everywhere(train_filenames=[1]), "train_filenames must be a list"),
    "all held out": (everywhere(test_filenames=["images/photo_00.png"]), "hold out all"),
    "no one's list": (everywhere(train_filenames=[]), "no frames"),
    "applied": (everywhere(applied_transform=[[1]]), "applied_transform is not a matrix"),
    "applied scale": (everywhere(applied_scale=0), "applied_scale is 0: a number above 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_transforms_file_is_one_sentence(
    case: str, plain: Photos, tmp_path: Path
) -> None:
    change, says = WRONG[case]
    folder = write_nerfstudio(tmp_path / "capture", plain.shots[:3], plain.pictures[:3])
    Image.new("RGB", (128, 96)).save(tmp_path / "secret.png")
    content = read_json(folder)
    change(content)
    write_json(folder, content)
    with pytest.raises(UserError, match=says) as caught:
        NerfstudioScene(folder)
    assert "\n" not in str(caught.value)


def test_frames_without_a_photo_are_left_out_and_that_is_said(
    plain: Photos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_nerfstudio(tmp_path / "capture", plain.shots, plain.pictures)
    content = read_json(folder)
    content |= {"train_filenames": [frame["file_path"] for frame in content["frames"]]}
    write_json(folder, content)
    for number in (2, 5):
        (folder / f"images/photo_{number:02d}.png").unlink()
    scene = NerfstudioScene(folder)
    assert len(all_views(scene)) == 7
    said = capsys.readouterr().err
    assert "2 of 9 frames have no photo and are left out; the first: " in said
    assert "images/photo_02.png is missing" in said and said.count("left out") == 1
    assert_seen(scene)
    model = write_colmap_text(tmp_path / "model", plain.shots, plain.pictures)
    (model / "images/photo_03.png").unlink()
    assert len(all_views(ColmapScene(model))) == 8
    assert "1 of 9 frames have no photo" in capsys.readouterr().err
    shutil.rmtree(model / "images")
    with pytest.raises(UserError, match=r"photo_00\.png is missing"):
        ColmapScene(model)


def test_under_half_of_the_photos_is_refused(plain: Photos, tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, plain.shots, plain.pictures)
    for number in range(5):
        (folder / f"images/photo_{number:02d}.png").unlink()
    with pytest.raises(UserError, match=r"only 4 of 9 photos are there.*photo_00\.png is missing"):
        NerfstudioScene(folder)


def renamed(content: Any, change: Callable[[str], str]) -> None:
    for frame in content["frames"]:
        frame["file_path"] = change(frame["file_path"])


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"./{name}",
        lambda name: name.replace("/", "\\"),
        lambda name: f"/home/somebody/capture/{name}",
        lambda name: "C:\\Users\\me\\capture\\" + name.replace("/", "\\"),
        lambda name: f"/data/raw/{name.rpartition('/')[2]}",
        lambda name: name.removesuffix(".png"),
        lambda name: name.replace(".png", ".PNG"),
    ],
)
def test_photos_are_found_however_other_programs_name_them(
    plain: Photos, tmp_path: Path, change: Callable[[str], str]
) -> None:
    folder = write_nerfstudio(tmp_path, plain.shots, plain.pictures)
    content = read_json(folder)
    renamed(content, change)
    (folder / "transforms.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    scene = NerfstudioScene(folder)
    assert sorted(view.name for view in all_views(scene)) == [f"photo_{i:02d}" for i in range(9)]
    assert_seen(scene)


def test_suffixes_in_capitals_are_found(plain: Photos, tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, plain.shots, plain.pictures)
    for file in (folder / "images").iterdir():
        file.rename(file.with_suffix(".PNG"))
    assert len(all_views(NerfstudioScene(folder))) == 9


def test_photos_that_differ_in_their_suffix_alone_keep_it(plain: Photos, tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, plain.shots, plain.pictures)
    content = read_json(folder)
    content["frames"][1]["file_path"] = "images/photo_00.jpg"
    Image.open(folder / "images/photo_01.png").save(folder / "images/photo_00.jpg", quality=97)
    write_json(folder, content)
    names = {view.name for view in all_views(NerfstudioScene(folder))}
    assert {"photo_00_png", "photo_00_jpg", "photo_02"} <= names and len(names) == 9


def test_the_largest_of_several_models_is_taken(
    plain: Photos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_colmap_text(tmp_path, plain.shots, plain.pictures, place="sparse/1")
    assert len(all_views(ColmapScene(tmp_path))) == 9  # a lone one needs no number 0
    assert "models" not in capsys.readouterr().err
    write_colmap_text(tmp_path, plain.shots[:3], plain.pictures[:3])
    assert len(all_views(ColmapScene(tmp_path))) == 9
    said = capsys.readouterr().err
    assert "2 COLMAP models; sparse/1 with 9 photos is taken, and not sparse/0 (3)" in said
    needs_pycolmap()
    to_binary(tmp_path / "sparse/1")
    assert len(all_views(ColmapScene(tmp_path))) == 9


def test_a_folder_of_another_format_is_known(
    plain: Photos, cut_out: Photos, tmp_path: Path
) -> None:
    ours = write_nerfstudio(tmp_path / "ours", plain.shots[:3], plain.pictures[:3])
    blender = write_blender(tmp_path / "blender", cut_out.shots, cut_out.pictures)
    model = write_colmap_text(tmp_path / "model", plain.shots[:3], plain.pictures[:3])
    with pytest.raises(UserError, match="it looks like one for scene=blender"):
        NerfstudioScene(blender)
    with pytest.raises(UserError, match="it looks like one for scene=colmap"):
        NerfstudioScene(model)
    with pytest.raises(UserError, match="it looks like one for scene=nerfstudio"):
        BlenderScene(ours)
    with pytest.raises(UserError, match="it looks like one for scene=nerfstudio"):
        ColmapScene(ours)


def test_a_lens_without_an_inverse_is_refused(plain: Photos, tmp_path: Path) -> None:
    """Coefficients that were accepted once, and sent rays up to 10²⁰ pixels away."""
    folder = write_nerfstudio(tmp_path, plain.shots[:3], plain.pictures[:3])
    content = read_json(folder)
    content["frames"][1] |= {"fl_x": 521.1, "fl_y": 521.1, "k1": -44.85, "k2": 1017.4, "k3": 0.0,
                             "k4": 0.0, "p1": 0.62, "p2": 0.94}  # fmt: skip
    write_json(folder, content)
    with pytest.raises(UserError, match=r"photo_01\.png: lens .* cannot be inverted"):
        NerfstudioScene(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"{", "not a JSON file"), (b"\xff\xfe\x00", "not UTF-8 text"), (b"[]", "no list `frames`")],
)
def test_what_is_no_transforms_file_is_said(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "transforms.json").write_bytes(content)
    with pytest.raises(UserError, match=says):
        NerfstudioScene(tmp_path)


def test_a_damaged_image_is_named(plain: Photos, tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, plain.shots[:3], plain.pictures[:3])
    file = folder / "images/photo_01.png"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match=r"photo_01\.png is truncated"):
        NerfstudioScene(folder)


def test_missing_data_says_what_is_expected_and_where_it_is(tmp_path: Path) -> None:
    for kind, layout in (
        (NerfstudioScene, "transforms.json"),
        (BlenderScene, "transforms_train.json"),
        (ColmapScene, "sparse/0"),
    ):
        with pytest.raises(UserError, match=rf"nowhere does not exist.*{layout}.*https://a\.org"):
            kind(tmp_path / "nowhere", source_url="https://a.org")
        with pytest.raises(UserError, match=r"scene\.path=… is needed"):
            kind()
    with pytest.raises(UserError, match=r"transforms\.json does not exist"):
        NerfstudioScene(tmp_path)
    with pytest.raises(UserError, match="has no COLMAP model"):
        ColmapScene(tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"orientation": "down"}, "scene.orientation=down is unknown"),
        ({"centre": "middle"}, "scene.centre=middle is unknown"),
        ({"background": "green"}, "scene.background=green is unknown"),
        ({"background": [0, 2, 0]}, "3 numbers from 0 to 1"),
        ({"eval_interval": 1}, "eval_interval=1 would hold out every photo"),
    ],
)
def test_options_out_of_range_are_named(
    options: dict[str, Any], says: str, plain: Photos, tmp_path: Path
) -> None:
    folder = write_nerfstudio(tmp_path, plain.shots[:2], plain.pictures[:2])
    with pytest.raises(UserError, match=says):
        NerfstudioScene(folder, **options)


def test_colmap_models_that_cannot_be_used_are_named(plain: Photos, tmp_path: Path) -> None:
    needs_pycolmap()
    shots, pictures = plain.shots[:3], plain.pictures[:3]
    wide = write_colmap_text(tmp_path / "wide", shots, pictures)
    file = wide / "sparse/0/cameras.txt"
    file.write_text(
        re.sub(r"OPENCV (\d+) (\d+) .*", r"EQUIRECTANGULAR \1 \2 1 1", file.read_text())
    )
    with pytest.raises(UserError, match=r"photo_0\d\.png: .* is no EQUIRECTANGULAR"):
        ColmapScene(wide)
    gone = write_colmap_text(tmp_path / "gone", shots, pictures)
    for file in (gone / "images").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"image photo_00\.png: file images/photo_00\.png is m"):
        ColmapScene(gone)
    broken = write_colmap_text(tmp_path / "broken", shots, pictures)
    file = to_binary(broken / "sparse/0") / "images.bin"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UserError, match="not a COLMAP model that can be read"):
        ColmapScene(broken)
    outside = write_colmap_text(tmp_path / "outside", shots, pictures)
    file = outside / "sparse/0/images.txt"
    file.write_text(file.read_text().replace("photo_02.png", "../../photo_02.png"))
    with pytest.raises(UserError, match="leads out of the scene folder"):
        ColmapScene(outside)
    flat = write_colmap_text(tmp_path / "flat", [replace(shots[0], fx=0.0)], pictures[:1])
    with pytest.raises(UserError, match=r"photo_00\.png: focal length 0"):
        ColmapScene(flat)


def test_a_missing_pycolmap_is_said(
    plain: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    write_colmap_text(tmp_path, plain.shots[:2], plain.pictures[:2])
    assert len(ColmapScene(tmp_path, eval_interval=0).views) == 2  # models are read without it
    with pytest.raises(UserError, match=r"pip install 'pds\[colmap\]'"):
        import_photos(tmp_path / "images", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the command line ----------------------------------------------------------------------------


def test_wrong_captures_leave_with_code_2_and_a_sentence(
    pds: Callable[..., Any], plain: Photos, tmp_path: Path
) -> None:
    missing = pds("edit", "scene=bear", "prompt=a photo of a panda")
    assert missing.code == 2
    assert "data/bear" in missing.err and "instruct-nerf2nerf.github.io" in missing.err
    assert "Traceback" not in missing.err
    folder = write_nerfstudio(tmp_path / "my (own) capture", plain.shots, plain.pictures)
    content = read_json(folder)
    frame_change(fl_x=0)(content)
    write_json(folder, content)
    wrong = pds("edit", "scene=nerfstudio", f"scene.path={folder}", "prompt=x", "source=y")
    assert wrong.code == 2
    assert "frame images/photo_02.png: fl_x is 0" in wrong.err and "Traceback" not in wrong.err


def test_source_goes_before_a_scenes_own_prompt(pds: Callable[..., Any]) -> None:
    own = pds("edit", "scene=face", "prompt=x", "--cfg", "job", "--resolve")
    assert "source_prompt: a photo of a face of a man" in own.out
    said = pds("edit", "scene=face", "prompt=x", "source=a, b", "--cfg", "job", "--resolve")
    assert "source_prompt: a, b" in said.out


# --- structure from motion -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos_on_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Shot]]:
    """Twelve photos of a textured world in half a circle, through a mild lens, as JPEG files."""
    needs_pycolmap()
    lens = (0.05, -0.02, 0.0, 0.0, 0.0, 0.0)
    camera = {"width": 320, "height": 240, "fx": 330.0, "fy": 330.0, "cx": 160.0, "cy": 120.0}
    shots = ring(12, z=2.6, arc=180, lens=lens, **camera)
    folder = tmp_path_factory.mktemp("photos")
    save(folder, shots, photograph(shots, cells=(4, 9, 23)), "jpg")
    return folder, shots


@pytest.fixture(scope="module")
def imported(
    photos_on_disk: tuple[Path, list[Shot]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What `pds import` makes of them."""
    from pds_cli.cli import main

    out = tmp_path_factory.mktemp("imported") / "scene"
    assert main(["import", f"images={photos_on_disk[0]}", f"out={out}"]) == 0
    return out


def triangulated(views: Sequence[View], colour: tuple[float, float, float]) -> Tensor:
    """The point [3] nearest to the rays through where a marker is seen."""
    rows, right = torch.zeros(3, 3), torch.zeros(3)
    for view in views:
        assert view.image is not None and view.camera is not None
        seen = found_at(view.image.movedim(0, -1).numpy(), colour)
        if seen is None:
            continue
        width = view.camera.width
        pixel = torch.tensor([int(seen[1]) * width + int(seen[0])])
        centre = int(seen[0]) + 0.5, int(seen[1]) + 0.5
        # The ray through the very place: shift the principal point by what the centre misses.
        exact = replace(
            view.camera,
            cx=view.camera.cx + centre[0] - seen[0],
            cy=view.camera.cy + centre[1] - seen[1],
        )
        origin, direction = exact.rays(pixel)
        across = torch.eye(3) - direction[0, :, None] * direction[0, None, :]
        rows, right = rows + across, right + across @ origin[0]
    return torch.linalg.solve(rows, right)


def test_imported_cameras_see_the_markers(imported: Path) -> None:
    """Each marker is one point, in the new world, for all the photos."""
    scene = NerfstudioScene(imported, eval_interval=0)
    markers = torch.stack([triangulated(scene.views, colour) for colour in MARKERS])
    found = misses(scene.views, markers)
    assert len(found) > 30 and max(found) < 1.0, sorted(found)


def test_imported_cameras_are_the_true_ones_up_to_a_similarity(
    imported: Path, photos_on_disk: tuple[Path, list[Shot]]
) -> None:
    shots = {shot.name: shot for shot in photos_on_disk[1]}
    scene = NerfstudioScene(imported, eval_interval=0)
    assert len(scene.views) >= 10
    cameras = [view.camera for view in scene.views if view.camera is not None]
    true = torch.tensor([shots[view.name].matrix() for view in scene.views])
    found = torch.stack([camera.position for camera in cameras])
    gaps = torch.cdist(found, found), torch.cdist(true[:, :3, 3], true[:, :3, 3])
    scale = float(gaps[1].sum() / gaps[0].sum())
    assert torch.allclose(gaps[0] * scale, gaps[1], atol=0.03)
    turns = torch.stack([camera.camera_to_world[:, :3] for camera in cameras])
    relative = turns[0].T @ turns, true[0, :3, :3].T @ true[:, :3, :3]
    assert torch.allclose(relative[0], relative[1], atol=0.02)
    assert all(camera.fx == pytest.approx(330, rel=0.02) for camera in cameras)


def test_an_import_says_what_it_did_and_holds_the_model(imported: Path) -> None:
    summary = read_json(imported, "summary.json")
    assert summary["photos"] == sorted(summary["photos"]) and summary["status"] == "done"
    assert len(summary["photos"]) + len(summary["left_out"]) == 12
    assert 0 < summary["error"] < 1 and summary["points"] > 200
    assert {file.name for file in (imported / "images").iterdir()} == set(summary["photos"])
    assert not list(imported.glob(".import_*"))
    by_model, by_json = ColmapScene(imported), NerfstudioScene(imported)
    assert [view.name for view in by_model.views] == [view.name for view in by_json.views]
    for one, other in zip(by_model.views, by_json.views, strict=True):
        assert one.camera is not None and other.camera is not None
        assert torch.allclose(one.camera.camera_to_world, other.camera.camera_to_world, atol=1e-5)
        assert one.camera.fx == pytest.approx(other.camera.fx)


def test_an_import_does_not_touch_what_is_there(
    pds: Callable[..., Any], imported: Path, photos_on_disk: tuple[Path, list[Shot]]
) -> None:
    before = (imported / "transforms.json").read_bytes()
    answer = pds("import", f"images={photos_on_disk[0]}", f"out={imported}")
    assert answer.code == 2 and "holds a run already" in answer.err
    assert (imported / "transforms.json").read_bytes() == before


def test_photos_without_anything_in_common_are_refused_in_a_sentence(
    pds: Callable[..., Any], tmp_path: Path
) -> None:
    needs_pycolmap()
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(3):
        tones = random.integers(0, 255, (12, 16, 3)).astype(np.uint8)
        picture = Image.fromarray(tones).resize((160, 120), Image.Resampling.NEAREST)
        picture.save(tmp_path / f"photos/{number}.png")
    answer = pds("import", "images=photos", "out=scene", "matching=sequential")
    assert answer.code == 2 and "no cameras were found for these 3 photos" in answer.err
    assert not (tmp_path / "scene/images").exists() and not list(tmp_path.glob("scene/.import_*"))


def test_photos_of_one_size_share_a_camera(plain: Photos, varied: Photos, tmp_path: Path) -> None:
    needs_pycolmap()
    import pycolmap

    from pds_cli.scenes.sfm import _features

    save(tmp_path, varied.shots, varied.pictures)
    groups: dict[tuple[int, int], list[str]] = {}
    for shot in varied.shots:
        groups.setdefault((shot.width, shot.height), []).append(f"{shot.name}.png")
    _features(tmp_path / "database.db", tmp_path, groups, "RADIAL", 0)
    database = pycolmap.Database.open(tmp_path / "database.db")
    cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
    assert len(cameras) == 3
    for image in database.read_all_images():
        camera = cameras[image.camera_id]
        assert image.name in groups[camera.width, camera.height]
        assert camera.model.name == "RADIAL"


@pytest.mark.parametrize("option", ["matching=all", "camera_model=FOV"])
def test_options_of_an_import_are_checked(pds: Callable[..., Any], option: str) -> None:
    answer = pds("import", "images=photos", "out=scene", option)
    assert answer.code == 2 and f"{option} is unknown; choose one of" in answer.err


def test_folders_that_hold_no_capture_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        photo_files(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has 0 photos"):
        photo_files(tmp_path)


def test_copies_of_photos_are_upright_smaller_and_keep_the_focal_length(tmp_path: Path) -> None:
    from pds_cli.scenes.sfm import _copies

    source, into = tmp_path / "photos", tmp_path / "copies"
    source.mkdir()
    turned = np.zeros((40, 60, 3), np.uint8)
    turned[:, :10] = 255  # upright, this is the top
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA405] = 28  # FocalLengthIn35mmFilm
    Image.fromarray(turned).save(source / "a.jpg", exif=exif, quality=95)
    Image.new("RGBA", (60, 40), (255, 0, 0, 128)).save(source / "a.png")
    Image.new("RGB", (20, 20)).save(source / "b.webp")
    groups = _copies(sorted(source.iterdir()), into, 30)
    assert groups == {(20, 30): ["a_jpg.jpg"], (30, 20): ["a_png.png"], (20, 20): ["b.png"]}
    copy = Image.open(into / "a_jpg.jpg")
    assert copy.size == (20, 30)
    assert np.asarray(copy)[:4].mean() > 240 and np.asarray(copy)[8:].mean() < 15
    assert copy.getexif().get(0x0112, 1) == 1
    assert copy.getexif().get_ifd(0x8769)[0xA405] == 28
    assert Image.open(into / "a_png.png").mode == "RGBA"


def test_photos_of_phones_and_in_folders_are_found(tmp_path: Path) -> None:
    from pds_cli.scenes.sfm import _copies

    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    for name in ("a/1.png", "b/1.png", "b/2.tif", ".hidden/3.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 16), (200, 30, 30)).save(tmp_path / "photos" / name)
    Image.new("RGB", (24, 16), (200, 30, 30)).save(tmp_path / "photos/IMG_4.HEIC", format="HEIF")
    found = photo_files(tmp_path / "photos")
    names = [file.relative_to(tmp_path / "photos").as_posix() for file in found]
    assert names == ["IMG_4.HEIC", "a/1.png", "b/1.png", "b/2.tif"]
    groups = _copies(found, tmp_path / "copies", None)
    assert groups == {(24, 16): ["IMG_4.jpg", "a_1.png", "b_1.png", "b_2.png"]}
    for file in (tmp_path / "copies").iterdir():
        pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
        assert np.abs(pixels - (200, 30, 30)).max() < 12, file.name


def test_a_phone_s_photo_names_what_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"HEIC photo: install .* pip install 'pds\[heic\]'"):
        load_image(tmp_path / "IMG_1.HEIC")


# --- films ---------------------------------------------------------------------------------------


def test_the_sharp_frames_of_a_film_are_taken(tmp_path: Path) -> None:
    """Every fourth frame is sharp, the others are blurred; each shows its number in its grey."""
    texture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    frames = []
    for number in range(32):
        image = Image.fromarray(texture // 2 + np.uint8(4 * number))
        blurred = image.filter(ImageFilter.GaussianBlur(3))
        frames.append(np.asarray(image if number % 4 == 2 else blurred))
    film = write_mp4(tmp_path / "walk.mp4", frames, fps=10)
    assert is_film(film) and not is_film(tmp_path) and frame_count(film) == 32
    seen: list[int] = []
    found = pick_frames(film, tmp_path / "frames", 4, seen.append)
    assert [path.name for path in found] == [f"frame_{i:04d}.jpg" for i in (1, 2, 3, 4)]
    assert seen[-1] == 32
    tones = [float(np.asarray(Image.open(path)).mean()) for path in found]
    numbers = [(tone - texture.mean() / 2) / 4 for tone in tones]
    for stretch, number in enumerate(numbers):
        assert abs(number - round(number)) < 0.45 and round(number) % 4 == 2
        assert 8 * stretch <= round(number) < 8 * stretch + 8
    assert len(pick_frames(film, tmp_path / "all", 99)) == 32
    for name, content in (("none.mp4", None), ("broken.mp4", b"no film")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"does not exist|cannot be read as a film"):
            frame_count(tmp_path / name)


def test_a_film_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A walk round the scene, as `pds import` takes it: neighbours are compared, no more."""
    needs_pycolmap()
    shots = ring(10)
    film = write_mp4(tmp_path / "walk.mp4", list(photograph(shots)), fps=5)
    pairs: list[Any] = []
    monkeypatch.setattr("pds_cli.scenes.sfm._matches", lambda _, found: pairs.extend(found))
    monkeypatch.setattr("pds_cli.scenes.sfm._features", lambda *_: None)

    def mapped(database: Any, images: Path, *_: Any) -> Any:
        assert len(list(images.iterdir())) == 5
        raise UserError("far enough")

    monkeypatch.setattr("pds_cli.scenes.sfm._mapped", mapped)
    with pytest.raises(UserError, match="far enough"):
        import_photos(film, tmp_path / "scene", frames=5, overlap=1)
    assert len(pairs) == 4 and pairs[0] == ("frame_0001.jpg", "frame_0002.jpg")
    assert not list((tmp_path / "scene").iterdir())
    with pytest.raises(UserError, match=r"none\.mp4 does not exist"):
        import_photos(tmp_path / "none.mp4", tmp_path / "scene")
