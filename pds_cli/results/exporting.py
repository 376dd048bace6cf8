"""A 3D result for other programs: surface, points and cameras.

They are in the scene's coordinates, or in those of the capture that it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.files import atomic_path, write_text
from pds_cli.pictures.files import write_image
from pds_cli.progress import Progress
from pds_cli.representations.spatial import Spatial, Volumetric
from pds_cli.results.path_rendering import render_path
from pds_cli.views.cameras import Camera
from pds_cli.views.poses import IDENTITY, Similarity
from pds_cli.views.view import Region, Rendering

if TYPE_CHECKING:
    from trimesh import Trimesh

_PIECE = 1 << 17  # points asked for at once
_FEWEST_PIXELS = 128**2  # of a picture that points are taken from
_FINEST = 1024  # samples along a side of the cube: 4 GiB of densities
_OUTSIDE, _INSIDE, _PER_CELL = 1.0, 3.0, 3  # cells along the normal whose radiance is gathered


def placement(representation: Spatial, units: str) -> Similarity:
    """From the scene's coordinates to those of `units`, one of `UNITS`."""
    return IDENTITY if units == "scene" else representation.transform.inverse()


def write_transform(folder: Path, representation: Spatial, units: str = "scene") -> Path:
    """Writes `dataparser_transforms.json`, which has nerfstudio's names and direction.

    A point p of the capture is at scale · (transform[:, :3] p + transform[:, 3]) in the files
    beside it; with `units` capture that is the identity.

    Raises:
        UserError: no place to write.
    """
    found = representation.transform if units == "scene" else IDENTITY
    text = json.dumps(found.to_dict(), indent=1)
    return write_text(folder / "dataparser_transforms.json", text + "\n")


# --- surface -------------------------------------------------------------------------------------


def write_mesh(
    folder: Path,
    representation: Spatial,
    *,
    resolution: int = 192,
    threshold: float = 10.0,
    extent: float = 1.0,
    components: int | None = None,
    units: str = "scene",
) -> tuple[list[Path], str]:
    """Writes `mesh.ply` and `mesh.glb`; returns them, and what they hold in words.

    The PLY has the colours as renders have them. The GLB has them linear and unlit, as glTF asks,
    and a node that turns the scene's up to glTF's y.

    Args:
        resolution, threshold, extent: see `surface`.
        components: keep so many connected parts, those of the most triangles; None: all.
        units: coordinates of the vertices, one of `UNITS`.

    Raises:
        UserError: an option out of range, no surface at this threshold, or no place to write.
    """
    import trimesh
    from trimesh.exchange.ply import export_ply

    representation = _volumetric(representation)
    vertices, faces = surface(
        representation, resolution=resolution, threshold=threshold, extent=extent
    )
    if components is not None:
        vertices, faces = _largest(vertices, faces, components)
    bare = trimesh.Trimesh(vertices, faces, process=False)
    cell = 2 * extent * representation.region.radius / (resolution - 1)
    colors = _radiance(representation, vertices, np.array(bare.vertex_normals), cell)
    placed = placement(representation, units)
    vertices = placed.points(torch.from_numpy(vertices.astype(np.float64))).numpy()
    bare = trimesh.Trimesh(vertices, faces, process=False)
    painted = trimesh.Trimesh(
        vertices,
        faces,
        vertex_colors=np.round(255 * colors).astype(np.uint8),
        process=False,
    )
    ply, glb = folder / "mesh.ply", folder / "mesh.glb"
    _write_bytes(ply, export_ply(painted))
    bare.vertex_attributes["_color"] = _linear(colors).astype(np.float32)
    up = placed.matrix[:, :3] @ placed.matrix.new_tensor(representation.region.up)
    _write_bytes(glb, _glb(bare, up.numpy()))
    return [ply, glb], f"a surface of {len(faces)} triangles and {len(vertices)} vertices"


def _volumetric(representation: Spatial) -> Volumetric:
    if not isinstance(representation, Volumetric):
        raise UserError(
            f"format=mesh asks how dense the scene is at any point, which a "
            f"{type(representation).__name__} does not say: format=pointcloud and format=cameras "
            "need no such answer"
        )
    return representation


def surface(
    representation: Volumetric,
    *,
    resolution: int = 192,
    threshold: float = 10.0,
    extent: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Where density passes a threshold, by marching cubes (Lewiner et al. 2003).

    Args:
        resolution: samples along each side of the cube, at least 2.
        threshold: density times the region's radius: the surface is where a layer 1/threshold
            of that radius thick lets 1/e = 37 % of light through. The scene's scale cancels.
        extent: side of the cube round the region's centre, in the region's sides.

    Returns:
        Vertices [V,3] in world units and triangles [F,3], counterclockwise as seen from where
        there is less density. The surface is open where it leaves the cube.

    Raises:
        UserError: an option out of range, or no surface at this threshold.
    """
    from skimage.measure import marching_cubes

    if not 2 <= resolution <= _FINEST:
        raise UserError(f"resolution={resolution} is out of range: use 2 to {_FINEST}")
    region, half = representation.region, extent * representation.region.radius
    grid = _density_grid(representation, resolution, half) * region.radius
    low, high = float(grid.min()), float(grid.max())
    if not low < threshold < high:
        raise UserError(
            f"there is no surface at threshold={threshold:g}: in this cube the values lie between "
            f"{low:.3g} and {high:.3g}"
        )
    vertices, faces, _, _ = marching_cubes(
        grid, threshold, spacing=(2 * half / (resolution - 1),) * 3, gradient_direction="ascent"
    )
    return vertices + np.array(region.centre) - half, faces


def _density_grid(representation: Volumetric, resolution: int, half: float) -> np.ndarray:
    """Densities [n,n,n] at the nodes of the cube, axes x, y, z."""
    centre = representation.region.centre
    x, y, z = (torch.linspace(c - half, c + half, resolution) for c in centre)
    grid = np.empty((resolution,) * 3, dtype=np.float32)
    with Progress("density", resolution) as progress:
        for i in range(resolution):
            points = torch.stack(torch.meshgrid(x[i : i + 1], y, z, indexing="ij"), -1)
            found = _density(representation, points.reshape(-1, 3))
            grid[i] = found.reshape(resolution, resolution).numpy()
            progress.update(i + 1)
    return np.nan_to_num(grid)


def _density(representation: Volumetric, points: Tensor) -> Tensor:
    """Densities [N] of world points [N,3], on the CPU."""
    return torch.cat([representation.density(part).cpu() for part in points.split(_PIECE)])


def _largest(vertices: np.ndarray, faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` connected parts with the most triangles, with the vertices that they use."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = np.concatenate([faces[:, :2], faces[:, 1:]])
    ones = np.ones(len(pairs), dtype=bool)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(len(vertices),) * 2)
    part = connected_components(graph, directed=False)[1][faces[:, 0]]
    kept = np.isin(part, np.argsort(-np.bincount(part), kind="stable")[:count])
    used, faces = np.unique(faces[kept], return_inverse=True)
    return vertices[used], faces.reshape(-1, 3)


def _radiance(
    representation: Volumetric, vertices: np.ndarray, normals: np.ndarray, cell: float
) -> np.ndarray:
    """The colours [V,3] in [0,1] that rays against the normals meet about the vertices.

    They gather radiance by volume rendering from a little outside to a little inside, so a
    vertex in the haze before a surface has the surface's colour.
    """
    steps = torch.arange(-_OUTSIDE, _INSIDE, 1 / _PER_CELL) * cell
    gathered = []
    points, inward = (torch.from_numpy(a.astype(np.float32)) for a in (vertices, -normals))
    pieces = list(zip(*(a.split(_PIECE // len(steps)) for a in (points, inward)), strict=True))
    with Progress("colours", len(pieces)) as progress:
        for done, (origin, direction) in enumerate(pieces, 1):
            spots = (origin[:, None] + steps[None, :, None] * direction[:, None]).reshape(-1, 3)
            along = direction.repeat_interleave(len(steps), 0)
            sigma = _density(representation, spots).reshape(-1, len(steps)) * cell / _PER_CELL
            seen = representation.color(spots, along).cpu().reshape(-1, len(steps), 3)
            left = torch.exp(sigma - sigma.cumsum(1))
            weights = left * -torch.expm1(-sigma) + 1e-9
            weights = weights / weights.sum(1, keepdim=True)
            gathered.append((weights[..., None] * seen).sum(1))
            progress.update(done)
    return torch.cat(gathered).clamp(0, 1).numpy()


def _linear(colors: np.ndarray) -> np.ndarray:
    """sRGB values in [0,1] to linear ones (IEC 61966-2-1)."""
    low = colors / 12.92
    return np.asarray(np.where(colors <= 0.04045, low, ((colors + 0.055) / 1.055) ** 2.4))


def _glb(mesh: Trimesh, up: np.ndarray) -> bytes:
    """Binary glTF with `_color` as its colours, unlit: radiance holds the light already."""
    import trimesh
    from trimesh.exchange.gltf import export_glb

    def unlit(tree: dict[str, Any]) -> None:
        primitive = tree["meshes"][0]["primitives"][0]
        attributes = primitive["attributes"]
        (name,) = [name for name in attributes if name.lower() == "_color"]
        attributes["COLOR_0"] = attributes.pop(name)
        flat = {"metallicFactor": 0, "roughnessFactor": 1}
        tree["materials"] = [
            {
                "pbrMetallicRoughness": flat,
                "extensions": {"KHR_materials_unlit": {}},
                "doubleSided": True,
            }
        ]
        tree["extensionsUsed"] = ["KHR_materials_unlit"]
        primitive["material"] = 0

    scene = trimesh.Scene()
    scene.add_geometry(mesh, node_name="scene", geom_name="surface", transform=_upright(up))
    written: bytes = export_glb(scene, include_normals=True, tree_postprocessor=unlit)
    return written


def _upright(up: np.ndarray) -> np.ndarray:
    """The rotation [4,4] by the smallest angle that takes `up` to +y."""
    from trimesh.transformations import rotation_matrix

    axis = np.cross(up, (0.0, 1.0, 0.0))
    angle = np.arctan2(np.linalg.norm(axis), up[1])
    return np.asarray(rotation_matrix(angle, axis if np.any(axis) else (1.0, 0.0, 0.0)))


# --- points --------------------------------------------------------------------------------------


def write_point_cloud(
    folder: Path,
    representation: Spatial,
    *,
    points: int = 200_000,
    threshold: float = 10.0,
    extent: float = 1.0,
    opacity: float = 0.8,
    seed: int = 0,
    units: str = "scene",
) -> tuple[list[Path], str]:
    """Writes `pointcloud.ply`: what the train cameras see, in space, with colours.

    Each vertex has x, y, z, red, green, blue, and `confidence`, its pixel's opacity. Pixels are
    drawn at random, evenly over the cameras.

    Args:
        points: at most so many.
        threshold: points where density times the region's radius is lower are left out: at
            edges depth is the mean of two surfaces, and such a point floats between them. Of a
            scene that says no densities, none is left out.
        extent: points outside of the cube round the region's centre are left out; its side is so
            many of the region's.
        opacity: pixels less opaque than this are left out.
        seed: of the draw.
        units: coordinates of the points, one of `UNITS`.

    Returns:
        The file, and what it holds in words.

    Raises:
        UserError: no cameras, nothing that opaque in the cube, or no place to write.
    """
    cameras = list(representation.cameras["train"].values())
    if not cameras:
        raise UserError("the run knows no cameras: points come from them")
    share = -(-points // len(cameras))
    generator, found = torch.Generator().manual_seed(seed), []
    # Four pixels for each point that is wanted leave enough after the sorting out.
    small = [_with_pixels(camera, max(4 * share, _FEWEST_PIXELS)) for camera in cameras]
    for camera, seen in zip(small, render_path(representation, small, "points"), strict=True):
        rows = _seen_points(camera, seen, representation.region, extent, opacity)
        if isinstance(representation, Volumetric):
            solid = _density(representation, rows[:, :3]) * representation.region.radius
            rows = rows[solid >= threshold]
        found.append(rows[torch.randperm(len(rows), generator=generator)[:share]])
    table = torch.cat(found)[:points]
    if not len(table):
        raise UserError(
            f"the {len(cameras)} cameras see nothing in the region of opacity {opacity:g} and "
            f"density {threshold:g}: choose a lower opacity= or threshold=, or a larger extent="
        )
    places = placement(representation, units).points(table[:, :3].double())
    table = torch.cat([places.to(table), table[:, 3:]], -1)
    path = folder / "pointcloud.ply"
    _write_bytes(path, _ply(table))
    return [path], f"{len(table)} points from {len(cameras)} cameras"


def _seen_points(
    camera: Camera, seen: Rendering, region: Region, extent: float, opacity: float
) -> Tensor:
    """Rows of place, colour in [0,255] and opacity [N,7] of pixels in the cube, opaque enough."""
    spots, sure = back_project(camera, seen.depth), seen.opacity.flatten()
    inside = (spots - spots.new_tensor(region.centre)).abs().amax(-1) <= extent * region.radius
    colors = seen.rgb.flatten(1).T.clamp(0, 1) * 255
    return torch.cat([spots, colors, sure[:, None]], -1)[inside & (sure >= opacity)]


def back_project(camera: Camera, depth: Tensor) -> Tensor:
    """World points [H·W,3] at distances `depth` [H,W] along the rays of a camera of that size."""
    origins, directions = camera.rays()
    return (origins + depth.flatten()[:, None].to(directions) * directions).cpu()


def _with_pixels(camera: Camera, pixels: int) -> Camera:
    """The camera with so many pixels, unless it has fewer."""
    ratio = min(1.0, (pixels / (camera.width * camera.height)) ** 0.5)
    return camera.scaled(*(max(1, round(ratio * s)) for s in (camera.height, camera.width)))


def _ply(table: Tensor) -> bytes:
    """Rows of x, y, z, red, green, blue in [0,255] and confidence, as a binary PLY."""
    floats, bytes_ = ("x", "y", "z"), ("red", "green", "blue")
    kinds = [(n, "<f4") for n in floats] + [(n, "u1") for n in bytes_] + [("confidence", "<f4")]
    rows = np.empty(len(table), dtype=kinds)
    for column, (name, kind) in enumerate(kinds):
        values = table[:, column].numpy()
        rows[name] = values.round() if kind == "u1" else values
    words = {"<f4": "float", "u1": "uchar"}
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(table)}",
        *(f"property {words[kind]} {name}" for name, kind in kinds),
        "end_header",
    ]
    return "".join(f"{line}\n" for line in lines).encode() + rows.tobytes()


# --- splats --------------------------------------------------------------------------------------


def write_splats(
    folder: Path, representation: Spatial, *, format: str = "splats", units: str = "scene"
) -> tuple[list[Path], str]:
    """Writes `splats.ply` as 3DGS does, or `splats.splat` or `splats.spz`.

    What lies behind everything is not in it.

    Args:
        format: of `WRITERS`.

    Raises:
        UserError: the scene is not made of splats, or no place to write.
    """
    from pds_cli.representations.splats.representation import Splats
    from pds_cli.splats.files import WRITERS

    if not isinstance(representation, Splats):
        raise UserError(
            f"format={format} writes the Gaussians of a run with representation=splats, and this "
            f"one is a {type(representation).__name__}: format=mesh and format=pointcloud write it"
        )
    found = representation.splat_file(placement(representation, units))
    name, write = WRITERS[format]
    lost = "; .splat has no place for how colours depend on the direction"
    what = f"{len(found):,} splats{lost if format == 'splat' and found.degree else ''}"
    return [write(folder / name, found)], what


# --- cameras -------------------------------------------------------------------------------------


def write_cameras(
    folder: Path, representation: Spatial, *, pictures: bool = False, units: str = "scene"
) -> tuple[list[Path], str]:
    """Writes `cameras.json`, a list that `pds render path=…` reads, and `transforms.json`.

    The latter is nerfstudio's format; held-out cameras stand in its `val_filenames`. Its frames
    name pictures `images/<name>.png`; with `pictures` these are rendered, and the folder is a
    scene for `scene=nerfstudio` and other programs. In the scene's units it says how the capture's
    world became the scene's (`applied_transform`, `applied_scale`); both files hold the cameras in
    `units`, one of `UNITS`.

    Returns:
        The files, and what they hold in words.

    Raises:
        UserError: no cameras, or no place to write.
    """
    listed = [
        (part, name, camera)
        for part in ("train", "eval")
        for name, camera in representation.cameras[part].items()
    ]
    if not listed:
        raise UserError("the run knows no cameras: there is none to write")
    placed = placement(representation, units)
    moved = [(part, name, _placed(camera, placed)) for part, name, camera in listed]
    entries = [
        {"name": name, "part": part, "units": units, **camera.to_dict()}
        for part, name, camera in moved
    ]
    files = [folder / "cameras.json", folder / "transforms.json"]
    write_text(files[0], json.dumps(entries, indent=1) + "\n")
    found: dict[str, Any] = {
        "camera_model": "OPENCV",
        "frames": [_frame(name, camera) for _, name, camera in moved],
    }
    if units == "scene":
        applied = representation.transform.to_dict()
        found |= {"applied_transform": applied["transform"], "applied_scale": applied["scale"]}
    for field, part in (("train_filenames", "train"), ("val_filenames", "eval")):
        found[field] = [_picture(name) for of, name, _ in listed if of == part]
    write_text(files[1], json.dumps(found, indent=1) + "\n")
    if pictures:
        files += list(_write_pictures(folder, representation, listed))
    return files, f"{len(listed)} cameras"


def _placed(camera: Camera, placed: Similarity) -> Camera:
    return camera.moved(placed.poses(camera.camera_to_world[None].double().cpu())[0])


def _frame(name: str, camera: Camera) -> dict[str, Any]:
    """A camera as nerfstudio has it; its axes are ours."""
    pose = [*camera.camera_to_world.tolist(), [0.0, 0.0, 0.0, 1.0]]
    lens = dict(zip(("k1", "k2", "p1", "p2", "k3", "k4"), camera.distortion or (), strict=False))
    return {
        "file_path": _picture(name),
        "fl_x": camera.fx,
        "fl_y": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        "w": camera.width,
        "h": camera.height,
        **lens,
        "transform_matrix": pose,
    }


def _picture(name: str) -> str:
    return f"images/{name.replace('/', '_')}.png"


def _write_pictures(
    folder: Path, representation: Spatial, listed: list[tuple[str, str, Camera]]
) -> Iterator[Path]:
    renders = render_path(representation, [camera for _, _, camera in listed], "pictures")
    for (_, name, _), seen in zip(listed, renders, strict=True):
        yield write_image(folder / _picture(name), seen.rgb)


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
