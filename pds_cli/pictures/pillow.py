"""The one reader and writer of image files, as Pillow has them; imports no torch."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from pds_cli.errors import UserError
from pds_cli.files import atomic_path
from pds_cli.reading import MAX_PIXELS

READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
HEIC = (".heic", ".heif")  # what phones write; read where pillow-heif is
# Of PNG: numbers a pixel, by the colour type; first column, first row and steps of the passes.
_PNG_NUMBERS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_PASSES = {
    0: ((0, 0, 1, 1),),
    1: (
        *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
        *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
    ),
}
WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """An image file that is not too large, before it is decoded.

    Raises:
        UserError: no such file, a directory, empty, truncated, not an image, or over
            `MAX_PIXELS`; also for what goes wrong with the file's content within the block.
    """
    path = Path(path).expanduser()
    _check_file(path)
    try:
        with warnings.catch_warnings():
            # Pillow only warns about sizes just over its limit; ours is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_formats(path)) as file:
                width, height = file.size
                if width * height > MAX_PIXELS:
                    raise UserError(_too_large(path, f"is {width}×{height} pixels"))
                yield file
    except Image.DecompressionBombError as error:
        raise UserError(_too_large(path, "has far more pixels")) from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path} is not an image that can be read: PNG, JPEG or WebP would be right"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): save it again") from error


def _formats(path: Path) -> tuple[str, ...]:
    """Pillow's names of what may be in a file.

    Raises:
        UserError: it is named as HEIC, and what reads that is not installed.
    """
    if path.suffix.lower() not in HEIC:
        return READABLE
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise UserError(
            f"{path} is a HEIC photo: install what reads it with pip install 'pds[heic]', or save "
            "it as JPEG"
        ) from error
    register_heif_opener()
    return (*READABLE, "HEIF")


def decode_image(file: Image.Image, path: Path) -> Image.Image:
    """Decodes the pixels of an opened file.

    Raises:
        UserError: a PNG whose rows end before its picture does; Pillow fills them with black.
        OSError, ValueError, SyntaxError: it is damaged otherwise.
    """
    file.load()
    if file.format == "PNG" and _png_ends_early(path):
        raise UserError(f"{path} is truncated: rows of its picture are missing; save it again")
    return file


def _png_ends_early(path: Path) -> bool:
    """Whether a PNG that Pillow decodes holds fewer bytes of rows than its size asks for."""
    inflate, wanted, found = zlib.decompressobj(), 0, 0
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"IHDR":
                wanted = _png_bytes(file.read(length))
            elif head[4:] == b"IDAT":
                data = file.read(length)
                while found < wanted and (rows := inflate.decompress(data, 1 << 20)):
                    found, data = found + len(rows), inflate.unconsumed_tail
            else:
                file.seek(length, os.SEEK_CUR)
            file.seek(4, os.SEEK_CUR)  # the checksum
    return found < wanted


def _png_bytes(header: bytes) -> int:
    """Bytes of a PNG's filtered rows, by its header (PNG specification, sections 7.2 and 8.1)."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * _PNG_NUMBERS[header[9]]
    total = 0
    for left, top, across, down in _PNG_PASSES[header[12]]:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """The decoded image of a file, as it is stored.

    Raises:
        UserError: see `open_image` and `decode_image`.
    """
    path = Path(path).expanduser()
    with open_image(path) as file:
        return decode_image(file, path).copy()


def written_format(path: Path) -> str:
    """Pillow's name of the format that a file's suffix asks for.

    Raises:
        UserError: images are not written under such a name.
    """
    form = WRITABLE.get(path.suffix.lower())
    if form is None:
        raise UserError(f"{path}: images are written as {', '.join(WRITABLE)}")
    return form


def write_pillow(path: str | os.PathLike[str], picture: Image.Image, **options: Any) -> Path:
    """Writes an image in the format of the file's suffix, whole or not at all.

    options: of Pillow's writer, such as `quality`.

    Raises:
        UserError: unknown suffix, or the place cannot be written (full disk, permissions).
    """
    path = Path(path).expanduser()
    form = written_format(path)
    with atomic_path(path) as temporary:
        picture.save(temporary, format=form, **options)
    return path


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise UserError(
                f"{path} is a folder: give an image file, for example {path / 'photo.png'}"
            )
        exists = path.exists()
        if exists and not path.is_file():
            raise UserError(f"{path} is not an ordinary file: give an image file")
        if exists and path.stat().st_size == 0:
            raise UserError(f"{path} is empty (0 bytes): give a PNG, JPEG or WebP image")
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror or error})") from error
    if not exists:
        raise UserError(f"{path} does not exist: check the path (from {Path.cwd()})")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be opened: you have no permission to read it")


def _too_large(path: Path, what: str) -> str:
    return (
        f"{path} {what}, more than the limit of {MAX_PIXELS // 1_000_000} megapixels: make it "
        "smaller first"
    )
