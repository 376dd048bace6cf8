"""Photos of a small textured world with known cameras, and the file formats written by hand.

Nothing here uses the code under test: cameras are rendered by VTK as ideal pinholes, lenses are
applied to the picture by resampling, and files are written from the formats' descriptions. Needs
PyVista.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Point = tuple[float, float, float]
Lens = tuple[float, float, float, float, float, float]
Array = Any  # numpy arrays; their shapes stand in the docstrings

#: Colour → where a small ball of that colour hangs. z is up.
MARKERS: dict[Point, Point] = {
    (1.0, 0.0, 0.0): (0.0, 0.0, 1.1),
    (0.0, 1.0, 0.0): (0.9, 0.1, 0.8),
    (0.0, 0.0, 1.0): (-0.7, 0.6, 0.9),
    (1.0, 1.0, 0.0): (-0.4, -0.8, 0.7),
    (1.0, 0.0, 1.0): (0.5, 0.8, 0.6),
}
_MARKER_RADIUS = 0.07
_BOXES = (  # centre on the ground, size
    ((0.0, 0.0), (0.7, 0.6, 0.7)),
    ((0.9, 0.1), (0.4, 0.5, 0.4)),
    ((-0.7, 0.6), (0.5, 0.4, 0.5)),
    ((-0.4, -0.8), (0.5, 0.5, 0.3)),
)
_SUPERSAMPLE = 3
_SKY = (0.62, 0.66, 0.70)


@dataclass(frozen=True)
class Shot:
    """One photo's camera: where it stands, what it looks at, and its lens.

    lens: (k1, k2, p1, p2, k3, k4).
    """

    name: str
    eye: Point
    target: Point = (0.0, 0.0, 0.4)
    fx: float = 130.0
    fy: float = 130.0
    cx: float = 64.0
    cy: float = 48.0
    width: int = 128
    height: int = 96
    lens: Lens = (0.0,) * 6

    def axes(self) -> Array:
        """Rows right, down, forward [3,3]: the camera's axes as OpenCV has them."""
        forward = np.subtract(self.target, self.eye)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward])

    def matrix(self) -> list[list[float]]:
        """Camera to world, 4×4, for OpenGL's axes right, up, backward."""
        right, down, forward = self.axes()
        pose = np.eye(4)
        pose[:3] = np.stack([right, -down, -forward, self.eye], axis=1)
        return pose.tolist()


def ring(
    count: int, radius: float = 3.0, z: float = 1.8, arc: float = 360.0, **camera: Any
) -> list[Shot]:
    """Shots from a circle, or an arc in degrees, around the world, a little up and down."""
    shots = []
    for index, angle in enumerate(np.radians(17 + arc * np.arange(count) / count)):
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        up = z + 0.35 * np.sin(3 * angle)
        shots.append(Shot(f"photo_{index:02d}", (float(x), float(y), float(up)), **camera))
    return shots


def mixed(count: int) -> list[Shot]:
    """A ring in which every photo has its own size, focal lengths, centre and lens."""
    shots = []
    for index, shot in enumerate(ring(count)):
        width, height = ((128, 96), (90, 130), (112, 112))[index % 3]
        shots.append(
            replace(
                shot,
                width=width,
                height=height,
                fx=115.0 + 7 * index,
                fy=118.0 + 6 * index,
                cx=width / 2 + 4 - index,
                cy=height / 2 - 3 + index,
                lens=(0.08 - 0.03 * index, -0.03, 0.004, -0.006 + 0.002 * index, 0.01, 0.003),
            )
        )
    return shots


# --- pictures ------------------------------------------------------------------------------------


def photograph(
    shots: Sequence[Shot], *, ground: bool = True, cells: Sequence[int] = (6,)
) -> list[Array]:
    """Pictures as uint8 [h,w,3], or [h,w,4] with a transparent background without `ground`.

    Args:
        cells: how many patches of one tone a texture has along its side; several are mixed.
    """
    import pyvista

    plotter = pyvista.Plotter(off_screen=True, lighting=None)
    _build(plotter, pyvista, ground, cells)
    pictures = [_picture(plotter, shot, transparent=not ground) for shot in shots]
    plotter.close()
    return pictures


def _build(plotter: Any, pyvista: Any, ground: bool, cells: Sequence[int]) -> None:
    plotter.set_background(_SKY)
    if ground:
        plane = pyvista.Plane(i_size=7, j_size=7, i_resolution=1, j_resolution=1)
        plotter.add_mesh(
            plane, texture=_texture(pyvista, 0, [4 * n for n in cells]), lighting=False
        )
    for number, ((x, y), size) in enumerate(_BOXES):
        box = pyvista.Cube(
            center=(x, y, size[2] / 2), x_length=size[0], y_length=size[1], z_length=size[2]
        )
        plotter.add_mesh(box, texture=_texture(pyvista, number + 1, cells), lighting=False)
    for colour, centre in MARKERS.items():
        ball = pyvista.Sphere(
            radius=_MARKER_RADIUS, center=centre, theta_resolution=40, phi_resolution=40
        )
        plotter.add_mesh(ball, color=colour, lighting=False)


def _texture(pyvista: Any, seed: int, cells: Sequence[int]) -> Any:
    """Dull random patches, far from every marker's colour."""
    random = np.random.default_rng(seed)
    side = 512
    mixed_tones = np.zeros((side, side, 3))
    for count in cells:
        tones = random.uniform(0.25, 0.75, (count, count, 1)) + random.uniform(
            -0.1, 0.1, (count, count, 3)
        )
        index = np.arange(side) * count // side
        mixed_tones += tones[index][:, index] / len(cells)
    return pyvista.Texture((mixed_tones.clip(0, 1) * 255).astype(np.uint8))


def _picture(plotter: Any, shot: Shot, transparent: bool) -> Array:
    """An ideal pinhole picture large enough, resampled to the shot's pixels."""
    n = _SUPERSAMPLE
    columns = (np.arange(shot.width * n) + 0.5) / n
    rows = (np.arange(shot.height * n) + 0.5) / n
    x, y = np.meshgrid((columns - shot.cx) / shot.fx, (rows - shot.cy) / shot.fy)
    x, y = _without_lens(x, y, shot.lens)
    reach = 1.02 * max(np.abs(x).max(), np.abs(y).max())
    side = int(np.ceil(2 * reach * n * max(shot.fx, shot.fy)))
    plotter.window_size = [side, side]
    plotter.camera.position, plotter.camera.focal_point = shot.eye, shot.target
    plotter.camera.up = (0, 0, 1)
    plotter.camera.view_angle = float(np.degrees(2 * np.arctan(reach)))
    plotter.camera.clipping_range = (0.1, 50)
    plotter.render()
    ideal = plotter.screenshot(None, return_img=True, transparent_background=transparent)
    ideal = ideal.astype(np.float64)
    sampled = _bilinear(ideal, (y / reach + 1) * side / 2 - 0.5, (x / reach + 1) * side / 2 - 0.5)
    small = sampled.reshape(shot.height, n, shot.width, n, -1).mean((1, 3))
    return np.round(small).astype(np.uint8)


def _without_lens(x: Array, y: Array, lens: Sequence[float]) -> tuple[Array, Array]:
    """Where a ray goes that the lens brings to (x, y), by fixed-point iteration."""
    k1, k2, p1, p2, k3, k4 = lens
    u, v = x, y
    change = 1.0 if any(lens) else 0.0
    while change > 1e-7:
        r2 = u**2 + v**2
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
        before = u
        u, v = (
            (x - 2 * p1 * u * v - p2 * (r2 + 2 * u**2)) / radial,
            (y - p1 * (r2 + 2 * v**2) - 2 * p2 * u * v) / radial,
        )
        change = float(np.abs(u - before).max())
    return u, v


def _bilinear(image: Array, rows: Array, columns: Array) -> Array:
    top = np.clip(np.floor(rows).astype(int), 0, image.shape[0] - 2)
    left = np.clip(np.floor(columns).astype(int), 0, image.shape[1] - 2)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def found_at(image: Array, colour: Point, least: float = 3.0) -> tuple[float, float] | None:
    """Where a marker is in an image [h,w,3] in [0,1], as (column, row); None if not in sight."""
    distance = np.abs(np.asarray(image) - np.asarray(colour)).max(-1)
    weight = np.clip(1 - distance / 0.3, 0, None)
    if weight.sum() < least:
        return None
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return (
        float((weight * columns).sum() / weight.sum()),
        float((weight * rows).sum() / weight.sum()),
    )


# --- files ---------------------------------------------------------------------------------------


def save(
    folder: Path, shots: Sequence[Shot], pictures: Sequence[Array], suffix: str = "png"
) -> None:
    """Writes the pictures as `<folder>/<name>.<suffix>`."""
    folder.mkdir(parents=True, exist_ok=True)
    for shot, picture in zip(shots, pictures, strict=True):
        Image.fromarray(picture).save(folder / f"{shot.name}.{suffix}", quality=97)


def intrinsics(shot: Shot) -> dict[str, Any]:
    """The fields that nerfstudio's format has for a camera."""
    lens = dict(zip(("k1", "k2", "p1", "p2", "k3", "k4"), shot.lens, strict=True))
    camera = {"fl_x": shot.fx, "fl_y": shot.fy, "cx": shot.cx, "cy": shot.cy}
    return {**camera, "w": shot.width, "h": shot.height, **lens}


def write_nerfstudio(
    folder: Path, shots: Sequence[Shot], pictures: Sequence[Array], **fields: Any
) -> Path:
    """A set with intrinsics in every frame; `fields` stand beside the frames."""
    save(folder / "images", shots, pictures)
    frames = [
        {
            "file_path": f"images/{shot.name}.png",
            "transform_matrix": shot.matrix(),
            **intrinsics(shot),
        }
        for shot in shots
    ]
    content = {"camera_model": "OPENCV", **fields, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def write_blender(
    folder: Path, shots: Sequence[Shot], pictures: Sequence[Array], held_out: int = 2
) -> Path:
    """A set of the synthetic kind: one field of view, RGBA, the last few shots for testing."""
    parts = {"train": slice(None, -held_out), "test": slice(-held_out, None)}
    for split, part in parts.items():
        save(folder / split, shots[part], pictures[part])
        content = {
            "camera_angle_x": 2 * np.arctan(shots[0].width / 2 / shots[0].fx),
            "frames": [
                {"file_path": f"./{split}/{shot.name}", "transform_matrix": shot.matrix()}
                for shot in shots[part]
            ],
        }
        (folder / f"transforms_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def write_colmap_text(
    folder: Path,
    shots: Sequence[Shot],
    pictures: Sequence[Array],
    model: str = "OPENCV",
    place: str = "sparse/0",
) -> Path:
    """A COLMAP model in text: world to camera as quaternion and translation, a camera a photo."""
    save(folder / "images", shots, pictures)
    parameters = {
        "SIMPLE_PINHOLE": lambda s: (s.fx, s.cx, s.cy),
        "PINHOLE": lambda s: (s.fx, s.fy, s.cx, s.cy),
        "SIMPLE_RADIAL": lambda s: (s.fx, s.cx, s.cy, s.lens[0]),
        "RADIAL": lambda s: (s.fx, s.cx, s.cy, *s.lens[:2]),
        "OPENCV": lambda s: (s.fx, s.fy, s.cx, s.cy, *s.lens[:4]),
        "OPENCV_FISHEYE": lambda s: (s.fx, s.fy, s.cx, s.cy, *s.lens[:4]),
    }[model]
    cameras, images = [], []
    for number, shot in enumerate(shots, start=1):
        axes = shot.axes()
        translation = -axes @ np.asarray(shot.eye)
        pose = [*_quaternion(axes), *translation]
        cameras.append([number, model, shot.width, shot.height, *parameters(shot)])
        images += [[number, *pose, number, f"{shot.name}.png"], []]
    target = folder / place
    target.mkdir(parents=True, exist_ok=True)
    for name, rows in (("cameras", cameras), ("images", images), ("points3D", [])):
        text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
        (target / f"{name}.txt").write_text(f"# {name}\n{text}", encoding="utf-8")
    return folder


def to_binary(folder: Path) -> Path:
    """Turns a text model into COLMAP's binary form."""
    import pycolmap

    model = pycolmap.Reconstruction(folder)
    for file in folder.glob("*.txt"):
        file.unlink()
    model.write_binary(folder)
    return folder


def _quaternion(rotation: Array) -> tuple[float, float, float, float]:
    """(w, x, y, z) of a rotation [3,3]: the eigenvector of Bar-Itzhack's matrix."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    k = np.array(
        [
            [a - e - i, b + d, c + g, h - f],
            [b + d, e - a - i, f + h, c - g],
            [c + g, f + h, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    x, y, z, w = np.linalg.eigh(k / 3)[1][:, -1].tolist()
    return w, x, y, z
