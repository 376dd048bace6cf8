"""Structure from motion: cameras for a folder of photos. Needs the extra `pds[colmap]`."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pds_cli.errors import UserError, check_choice
from pds_cli.files import atomic_path, write_text
from pds_cli.options.verbs import MATCHINGS
from pds_cli.pictures.pillow import HEIC, decode_image, open_image, write_pillow
from pds_cli.progress import Progress
from pds_cli.runs.ownership import owns
from pds_cli.scenes.colmap import PARAMETERS, camera_of
from pds_cli.scenes.colmap_model import Photo
from pds_cli.scenes.film import FILMS, frame_count, is_film, pick_frames
from pds_cli.scenes.lenses import Lens
from pds_cli.scenes.photos import SUFFIXES
from pds_cli.scenes.point_cloud import write_point_cloud
from pds_cli.views.cameras import Camera

_PHOTOS = (*SUFFIXES, *HEIC)
_EXIF_ORIENTATION = 0x0112
_PAIRS_AT_ONCE = 500
POINTS = "sparse_pc.ply"
_LENS = ("k1", "k2", "p1", "p2", "k3", "k4")


@dataclass(frozen=True)
class Imported:
    """What came of an import.

    photos, left_out: names of the photos that have a camera now, and of those that have none.
    points: how many points were triangulated.
    error: mean distance in pixels between where points are seen and where they project to.
    """

    photos: list[str]
    left_out: list[str]
    points: int
    error: float


def import_photos(
    folder: str | os.PathLike[str],
    out: Path,
    *,
    matching: str = "auto",
    overlap: int = 10,
    frames: int = 120,
    camera_model: str = "OPENCV",
    max_size: int | None = 1600,
    seed: int = 0,
    begin: Callable[[], None] = lambda: None,
) -> Imported:
    """Finds the cameras of photos and writes a scene that `scene=nerfstudio` reads.

    `out` gets `images/`, upright copies; `sparse/0/`, the COLMAP model; `sparse_pc.ply`, its points
    (nerfstudio's name); and `transforms.json`, last, so that a folder that has it is complete.

    Args:
        folder: of the photos, one scene from many sides; or a film.
        matching: compare all pairs (`exhaustive`), or each photo with the `overlap` next ones by
            name (`sequential`); `auto`: that for a film, all pairs of photos.
        frames: of a film, how many are taken.
        camera_model: one of the models that `ColmapScene` reads; photos of one size share a
            camera.
        max_size: the longer side of the copies in pixels at most.
        begin: called when the cameras are found, before the scene is written.

    Raises:
        UserError: no photos there, pycolmap is missing, or the photos
            could not be placed.
    """
    _check(matching, camera_model)
    film = is_film(folder)
    if matching == "auto":
        matching = "sequential" if film else "exhaustive"
    photos = [] if film else photo_files(folder)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".import_") as scratch:
        images = Path(scratch) / "images"
        photos = photos or film_frames(Path(folder).expanduser(), Path(scratch) / "film", frames)
        groups = _copies(photos, images, max_size)
        names = sorted(name for group in groups.values() for name in group)
        database = Path(scratch) / "database.db"
        _features(database, images, groups, camera_model, seed)
        _matches(database, list(_pairs(names, overlap if matching == "sequential" else None)))
        model = _mapped(database, images, Path(scratch), names)
        begin()
        return _write(out, images, model, names)


def _check(matching: str, camera_model: str) -> None:
    check_choice("matching", matching, MATCHINGS)
    check_choice("camera_model", camera_model, PARAMETERS)
    pycolmap()  # its absence is said before anything is copied


def photo_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The photos in a folder and the folders in it, by name; hidden ones are passed over.

    Raises:
        UserError: no folder, or fewer than 3 photos.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(
            f"images={folder} is not a folder: give the folder of the photos, or a film "
            f"({', '.join(FILMS)})"
        )
    inner = (file for file in path.rglob("*") if file.suffix.lower() in _PHOTOS and file.is_file())
    photos = sorted(
        file
        for file in inner
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if len(photos) < 3:
        raise UserError(
            f"{path} has {len(photos)} photos ({', '.join(_PHOTOS)}): at least 3 are needed, and "
            "50 to 200 from all sides are usual"
        )
    return photos


def film_frames(film: Path, into: Path, count: int) -> list[Path]:
    """Sharp frames of a film, see `pick_frames`.

    Raises:
        UserError: it cannot be read, or has fewer than 3 frames.
    """
    with Progress("look at the film", frame_count(film)) as progress:
        found = pick_frames(film, into, count, progress.update)
    if len(found) < 3:
        raise UserError(f"{film} has {len(found)} frames: at least 3 are needed")
    return found


def pycolmap() -> Any:
    """The module.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pycolmap as module
    except ImportError as error:
        raise UserError(
            "cameras are found with pycolmap, which is not installed; install it with: "
            "pip install 'pds[colmap]'"
        ) from error
    return module


# --- copies --------------------------------------------------------------------------------------


def _copies(
    photos: Sequence[Path], into: Path, max_size: int | None
) -> dict[tuple[int, int], list[str]]:
    """Writes upright copies, at most `max_size` long; their names by (width, height)."""
    into.mkdir()
    shared = os.path.commonpath([photo.parent for photo in photos])
    stems = ["_".join(photo.relative_to(shared).with_suffix("").parts) for photo in photos]
    groups: dict[tuple[int, int], list[str]] = {}
    with Progress("copy photos", len(photos)) as progress:
        for number, photo in enumerate(photos):
            # Views are named by the stem alone, so a.jpg and a.png must differ in it.
            stem = stems[number]
            stem = stem if stems.count(stem) == 1 else f"{stem}_{photo.suffix[1:]}"
            jpeg = photo.suffix.lower() in (".jpg", ".jpeg", *HEIC)
            name = f"{stem}.jpg" if jpeg else f"{stem}.png"
            groups.setdefault(_copy(photo, into / name, max_size), []).append(name)
            progress.update(number + 1)
    return groups


def _copy(photo: Path, target: Path, max_size: int | None) -> tuple[int, int]:
    """Writes one copy; returns its width and height.

    EXIF is kept, for it holds the focal length that the search starts from.
    """
    from PIL import Image, ImageOps

    try:
        with open_image(photo) as file:
            decode_image(file, photo)
            long = max_size is not None and max(file.size) > max_size
            rotated = file.getexif().get(_EXIF_ORIENTATION, 1) != 1
            if not (long or rotated) and file.format in ("JPEG", "MPO", "PNG"):
                with atomic_path(target) as temporary:
                    shutil.copyfile(photo, temporary)
                return file.size
            picture = ImageOps.exif_transpose(file)
            exif = picture.getexif()
            alpha = picture.has_transparency_data and target.suffix == ".png"
            picture = picture.convert("RGBA" if alpha else "RGB")
    except UserError as error:
        raise UserError(f"{photo} is no photo that can be read ({error}): leave it out") from error
    if max_size is not None:
        picture.thumbnail((max_size, max_size), Image.Resampling.LANCZOS)
    options = {"quality": 95, "exif": exif} if target.suffix == ".jpg" else {}
    write_pillow(target, picture, **options)
    return picture.size


# --- reconstruction ------------------------------------------------------------------------------


def _features(
    database: Path,
    images: Path,
    groups: dict[tuple[int, int], list[str]],
    camera_model: str,
    seed: int,
) -> None:
    """Finds SIFT features; photos of one size get one camera."""
    module = pycolmap()
    module.logging.minloglevel = int(module.logging.FATAL)
    module.set_random_seed(seed)
    done, total = 0, sum(map(len, groups.values()))
    with Progress("find features", total) as progress:
        for number, names in enumerate(groups.values()):
            for name in names:
                options = module.ImageReaderOptions(camera_model=camera_model)
                if name != names[0]:
                    options.existing_camera_id = number + 1
                module.extract_features(
                    database,
                    images,
                    [name],
                    camera_mode=module.CameraMode.SINGLE,
                    reader_options=options,
                )
                done += 1
                progress.update(done)


def _pairs(names: Sequence[str], overlap: int | None) -> Iterator[tuple[str, str]]:
    for index, first in enumerate(names):
        last = len(names) if overlap is None else index + 1 + overlap
        for second in names[index + 1 : last]:
            yield first, second


def _matches(database: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Matches the features of pairs of photos and keeps what one camera motion explains."""
    module = pycolmap()
    file = database.with_name("pairs.txt")
    with Progress("match photos", len(pairs)) as progress:
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            some = pairs[start : start + _PAIRS_AT_ONCE]
            write_text(file, "".join(f"{first} {second}\n" for first, second in some))
            options = module.ImportedPairingOptions(match_list_path=file)
            module.match_image_pairs(database, pairing_options=options)
            progress.update(start + len(some))


def _mapped(database: Path, images: Path, scratch: Path, names: Sequence[str]) -> Any:
    """The largest `pycolmap.Reconstruction` of the photos.

    Raises:
        UserError: there is none.
    """
    module = pycolmap()
    models = scratch / "models"
    models.mkdir()
    with Progress("place photos", len(names)) as progress:
        placed = 2  # the first pair

        def one_more() -> None:
            nonlocal placed
            placed = min(placed + 1, len(names))
            progress.update(placed)

        found = module.incremental_mapping(database, images, models, next_image_callback=one_more)
    best = max(found.values(), key=lambda model: model.num_reg_images(), default=None)
    if best is None or best.num_reg_images() < 3:
        raise UserError(
            f"no cameras were found for these {len(names)} photos: neighbours must share at least "
            "half of what they show, from places a step apart, sharp, of a scene that stands still "
            "and has texture"
        )
    return best


# --- the scene -----------------------------------------------------------------------------------


def _write(out: Path, images: Path, model: Any, names: Sequence[str]) -> Imported:
    placed = {
        image.name: camera_of(_photo(image), image.name)
        for image in model.images.values()
        if image.has_pose
    }
    for name in set(names) - set(placed):
        (images / name).unlink()
    model_folder = out / "sparse" / "0"
    model_folder.mkdir(parents=True, exist_ok=True)
    model.write(model_folder)
    for path in [*model_folder.iterdir(), *(out / "images" / name for name in placed)]:
        owns(path)
    os.replace(images, out / "images")
    points = list(model.points3D.values())
    places = torch.tensor([point.xyz.tolist() for point in points]).view(-1, 3)
    colors = torch.tensor([point.color.tolist() for point in points]).view(-1, 3) / 255
    write_point_cloud(out / POINTS, places, colors)
    transforms = {
        "camera_model": "OPENCV",
        "ply_file_path": POINTS,
        "frames": [_frame(name, placed[name]) for name in sorted(placed)],
    }
    write_text(out / "transforms.json", json.dumps(transforms, indent=2) + "\n")
    return Imported(
        photos=sorted(placed),
        left_out=sorted(set(names) - set(placed)),
        points=int(model.num_points3D()),
        error=float(model.compute_mean_reprojection_error()),
    )


def _photo(image: Any) -> Photo:
    """A `pycolmap.Image` as the model's files have it."""
    pose = torch.tensor(image.cam_from_world().matrix().tolist(), dtype=torch.float64)
    camera, numbers = image.camera, tuple(map(float, image.camera.params))
    lens = Lens(camera.model.name, int(camera.width), int(camera.height), numbers)
    return Photo(image.name, pose, lens)


def _frame(name: str, camera: Camera) -> dict[str, Any]:
    return {
        "file_path": f"images/{name}",
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.fx,
        "fl_y": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        **dict(zip(_LENS, camera.distortion or (0.0,) * 6, strict=True)),
        "transform_matrix": [*camera.camera_to_world.tolist(), [0.0, 0.0, 0.0, 1.0]],
    }
