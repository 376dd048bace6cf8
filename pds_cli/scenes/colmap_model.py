"""COLMAP's sparse models: `cameras`, `images` and the places of `points3D`, binary or text.

The formats are those of https://colmap.github.io/format.html. Nothing is believed of a file that
its own size does not allow, so that a damaged one ends with a sentence.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.reading import brief
from pds_cli.scenes.lenses import Lens
from pds_cli.views.poses import rotations

# COLMAP's camera models by number: their names and how many parameters they have.
MODELS = (
    *(("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8)),
    *(("OPENCV_FISHEYE", 8), ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4)),
    *(("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12), ("RAD_TAN_THIN_PRISM_FISHEYE", 16)),
    *(("SIMPLE_DIVISION", 4), ("DIVISION", 5), ("SIMPLE_FISHEYE", 3), ("FISHEYE", 4)),
    *(("EUCM", 6), ("EQUIRECTANGULAR", 2)),
)
_LONGEST_NAME = 4096
_LONGEST_LINE = 16 * 2**20  # a line of images.txt has all the points of a photo
_POINT = 24  # bytes of one of a photo's points
_SEEN = 8  # bytes that say where one of the model's points is seen


@dataclass(frozen=True)
class Photo:
    """A registered photo: its name below the image folder, its pose, and its camera.

    world_to_camera: [3,4] float64, x right, y down, z ahead.
    """

    name: str
    world_to_camera: Tensor
    lens: Lens


def read_model(folder: Path) -> Iterator[Photo]:
    """The photos of a model, one after the other; binary files go before text files.

    Raises:
        UserError: a file is missing, truncated, or something else, by its name.
    """
    binary = all((folder / f"{name}.bin").is_file() for name in ("cameras", "images"))
    lenses, photos = (_lenses_bin, _photos_bin) if binary else (_lenses_txt, _photos_txt)
    path = folder / ("cameras.bin" if binary else "cameras.txt")
    try:
        with _opened(path) as file:
            found = dict(lenses(file))
        path = path.with_name("images" + path.suffix)
        with _opened(path) as file:
            for name, pose, number in photos(file):
                if number not in found:
                    raise ValueError(f"{brief(name)} has camera {number}, which is not there")
                yield Photo(name, _matrix(pose, name), found[number])
    except (OSError, ValueError, OverflowError, struct.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} is not a COLMAP model that can be read: {reason}") from error


def photo_count(folder: Path) -> int:
    """How many photos a model says it has; 0 where it cannot be read."""
    path = folder / "images.bin"
    try:
        if path.is_file():
            with path.open("rb") as file:
                return int(_numbers(file, "Q")[0])
        with (folder / "images.txt").open("rb") as file:
            return sum(1 for _ in _photos_txt(file))
    except (OSError, ValueError, struct.error):
        return 0


def read_points(folder: Path) -> tuple[Tensor, Tensor] | None:
    """The points of a model, [N,3] float64 in its world, and their colours [N,3] in [0,1].

    None where there are none.

    Raises:
        UserError: the file is truncated, or something else.
    """
    files = (folder / f"points3D.{suffix}" for suffix in ("bin", "txt"))
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        return None
    try:
        with _opened(path) as file:
            rows = list((_points_bin if path.suffix == ".bin" else _points_txt)(file))
        if not rows:
            return None
        found = torch.tensor(rows, dtype=torch.float64)
        if not bool(found.isfinite().all()):
            raise ValueError("a point lies nowhere (NaN or infinite)")
    except (OSError, ValueError, OverflowError, struct.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} is not a COLMAP model that can be read: {reason}") from error
    return found[:, :3], (found[:, 3:] / 255).float().clamp(0, 1)


def _opened(path: Path) -> IO[bytes]:
    if not path.is_file():
        raise ValueError("there is no such file")
    return path.open("rb")


def _matrix(pose: Sequence[float], name: str) -> Tensor:
    """[3,4] from a quaternion (w, x, y, z), of any length but 0, and a translation."""
    length = math.hypot(*pose[:4])
    if not (1e-9 < length < math.inf and all(map(math.isfinite, pose))):
        raise ValueError(f"{brief(name)} has no pose: its rotation is 0, or NaN or infinite")
    quat = torch.tensor([[value / length for value in pose[:4]]], dtype=torch.float64)
    shift = torch.tensor(pose[4:7], dtype=torch.float64)
    return torch.cat([rotations(quat)[0], shift[:, None]], 1)


# --- binary --------------------------------------------------------------------------------------


def _lenses_bin(file: IO[bytes]) -> Iterator[tuple[int, Lens]]:
    (count,) = _numbers(file, "Q")
    for _ in range(count):
        number, model, width, height = _numbers(file, "IiQQ")
        if not 0 <= model < len(MODELS):
            raise ValueError(f"camera {number} has the model {model}, which is not known")
        kind, parameters = MODELS[model]
        yield number, Lens(kind, width, height, _numbers(file, f"{parameters}d"))


def _photos_bin(file: IO[bytes]) -> Iterator[tuple[str, Sequence[float], int]]:
    size = os.fstat(file.fileno()).st_size
    (count,) = _numbers(file, "Q")
    for _ in range(count):
        _, *pose, number = _numbers(file, "I7dI")
        name = _name(file)
        (points,) = _numbers(file, "Q")
        if points * _POINT > size - file.tell():
            raise ValueError(f"it ends within the {points} points of {brief(name)}")
        file.seek(points * _POINT, os.SEEK_CUR)
        yield name, pose, number


def _points_bin(file: IO[bytes]) -> Iterator[tuple[float, ...]]:
    size = os.fstat(file.fileno()).st_size
    (count,) = _numbers(file, "Q")
    for _ in range(count):
        _, *place, red, green, blue, _, seen = _numbers(file, "Q3d3BdQ")
        if seen * _SEEN > size - file.tell():
            raise ValueError("it is truncated: copy it again")
        file.seek(seen * _SEEN, os.SEEK_CUR)
        yield *place, red, green, blue


def _numbers(file: IO[bytes], form: str) -> tuple[Any, ...]:
    found = file.read(struct.calcsize(f"<{form}"))
    if len(found) < struct.calcsize(f"<{form}"):
        raise ValueError("it is truncated: copy it again")
    return struct.unpack(f"<{form}", found)


def _name(file: IO[bytes]) -> str:
    """A name up to its closing zero."""
    start = file.tell()
    found, end, _ = file.read(_LONGEST_NAME).partition(b"\0")
    if not end:
        raise ValueError("it has a name without an end")
    file.seek(start + len(found) + 1)
    return found.decode("utf-8")


# --- text ----------------------------------------------------------------------------------------


def _lenses_txt(file: IO[bytes]) -> Iterator[tuple[int, Lens]]:
    for line in _lines(file):
        try:
            number, kind, width, height, *parameters = line.split()
            lens = Lens(kind, int(width), int(height), tuple(map(float, parameters)))
            known = dict(MODELS)[kind] == len(parameters)
        except (ValueError, KeyError):
            known = False
        if not known:
            raise ValueError(
                f"{brief(line)} is no camera: a number, a model, a width, a height and the "
                "model's parameters would be right"
            )
        yield int(number), lens


def _photos_txt(file: IO[bytes]) -> Iterator[tuple[str, Sequence[float], int]]:
    for line in _lines(file):
        try:
            _, *pose, number, name = line.split(maxsplit=9)
            found = name, [float(word) for word in pose], int(number)
            complete = len(pose) == 7
        except ValueError:
            complete = False
        if not complete:
            raise ValueError(f"{brief(line)} is no photo: 9 numbers and a name would be right")
        yield found
        file.readline(_LONGEST_LINE)  # the photo's points


def _points_txt(file: IO[bytes]) -> Iterator[tuple[float, ...]]:
    for line in _lines(file):
        words = line.split(maxsplit=7)
        try:
            found = tuple(map(float, words[1:7]))
        except ValueError:
            found = ()
        if len(found) != 6:
            raise ValueError(f"{brief(line)} is no point: a number, a place and a colour are right")
        yield found


def _lines(file: IO[bytes]) -> Iterator[str]:
    """The lines that are neither empty nor comments."""
    while line := file.readline(_LONGEST_LINE):
        text = line.decode("utf-8").strip()
        if text and not text.startswith("#"):
            yield text
