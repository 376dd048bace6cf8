"""The photos that a capture's file names: where they are, and those that are not there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from pds_cli.errors import UserError
from pds_cli.pictures.pillow import open_image
from pds_cli.reading import brief, label

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_ENDS = (*SUFFIXES, *(end.upper() for end in SUFFIXES))
_FEWEST = 0.5  # of the photos that a file names


class NotThere(UserError):
    """A photo that a file names is missing."""


def say_left_out(missing: Sequence[NotThere], there: int, where: str) -> None:
    """Says how many of a file's photos are missing; they are left out, as other readers do.

    Raises:
        UserError: under half of them are there.
    """
    total = len(missing) + there
    if not missing:
        return
    if not there:
        raise missing[0]
    if there < _FEWEST * total:
        raise UserError(
            f"{where}: only {there} of {total} photos are there, which is under half; the first "
            f"that is not: {missing[0]}"
        )
    print(
        f"pds: {where}: {len(missing)} of {total} frames have no photo and are left out; the "
        f"first: {missing[0]}",
        file=sys.stderr,
    )


def listed(name: str) -> PurePosixPath:
    """A photo's name in a file as a path: of any system, without a drive or a root."""
    plain = re.sub(r"^[A-Za-z]:", "", name.replace("\\", "/")).lstrip("/")
    return PurePosixPath(os.path.normpath(plain))


def image_path(
    root: Path, name: Any, where: str, field: str = "file_path", downscale: int | None = None
) -> Path:
    r"""The image file `name` below the folder `root`.

    A missing suffix is found, and one in other letters; names of Windows (`images\a.jpg`), and
    whole paths of another machine whose end is a path below `root`, or whose name stands below
    it once.

    Args:
        where: the file and the frame, for the sentence.
        field: the field that `name` comes from.
        downscale: take the copy that is so many times smaller, in `images_<downscale>`.

    Raises:
        UserError: not a text, outside `root`, or (`NotThere`) not there.
    """
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{where}: {field} is {brief(name)}: the path of an image would be right")
    inside = Path(os.path.normpath(root))
    places = [place for place in _places(inside, name) if place.is_relative_to(inside)]
    for place in places:
        small = place if downscale is None else _copy_of(inside, place, downscale)
        if (found := _file_like(small, any_suffix=downscale is not None)) is not None:
            return found
    first = Path(os.path.normpath(inside / name))
    if not first.is_relative_to(inside):
        raise UserError(
            f"{where}: {field} {label(name)} leads out of the scene folder {root}, which is "
            "refused: paths below that folder would be right"
        )
    wanted = first if downscale is None else _copy_of(inside, first, downscale)
    hint = "" if downscale is None else f" (scene.downscale={downscale}; null takes the originals)"
    raise NotThere(
        f"{where}: {field} {label(name)} is missing: there is no file {label(str(wanted))}{hint}"
    )


def stored_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file as its pixels are stored, from its header.

    Raises:
        UserError: not an image that can be read.
    """
    with open_image(path) as file:
        return file.size


def _places(root: Path, name: str) -> Iterator[Path]:
    """Where a name may mean, the likeliest first; some of it may lie outside of `root`."""
    yield Path(os.path.normpath(root / name))
    turned = name.replace("\\", "/")
    if turned != name:
        yield Path(os.path.normpath(root / turned))
    if re.match(r"/|[A-Za-z]:", turned):  # of another machine
        parts = listed(name).parts
        for first in range(len(parts)):
            yield Path(os.path.normpath(root.joinpath(*parts[first:])))
        alike = _by_name(root).get(parts[-1].lower(), []) if parts else []
        yield from alike if len(alike) == 1 else ()


@lru_cache(maxsize=4)
def _by_name(root: Path) -> dict[str, list[Path]]:
    """The pictures below a folder, by their names in small letters."""
    found: dict[str, list[Path]] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            if name.lower().endswith(SUFFIXES):
                found.setdefault(name.lower(), []).append(Path(folder, name))
    return found


def _file_like(path: Path, any_suffix: bool) -> Path | None:
    """The file, or one of its name with a suffix where it has none, or in other letters."""
    names = [path, *(Path(f"{path}{end}") for end in _ENDS)]
    if path.name:
        own = path.suffix
        ends = _ENDS if any_suffix else (own.lower(), own.upper()) if own else ()
        names += [path.with_suffix(end) for end in ends]
    return next((file for file in names if _is_file(file)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a NUL
        return False


def _copy_of(root: Path, path: Path, factor: int) -> Path:
    """Where nerfstudio keeps a smaller copy: images/a.jpg has images_4/a.jpg."""
    parts = path.relative_to(root).parts
    folder = parts[0] if len(parts) > 1 else "images"
    return root.joinpath(f"{folder}_{factor}", *(parts[1:] or parts))
