"""Reading and writing image files, and the few operations on pixels that everybody shares.

Images are float tensors [3,H,W] in [0,1], in the file's own (sRGB) encoding.
"""

from __future__ import annotations

import logging
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.files import atomic_path
from pds_cli.reading import MAX_PIXELS
from pds_cli.views.view import View

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
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


def read_image(path: str | os.PathLike[str]) -> View:
    """Reads PNG, JPEG, WebP, GIF or BMP of any size, depth and colour mode.

    The EXIF rotation is applied. Of an animation the first frame is taken, with a warning.
    Colour files with 16 bits a channel are read at 8 bits (grey ones keep 16).

    Returns:
        A view named after the file, with `image` [3,H,W] in [0,1] and `alpha` [1,H,W] in [0,1],
        None where the file has no transparency. Colours are not multiplied by alpha.

    Raises:
        UserError: no such file, a directory, empty, truncated, not an image, or over `MAX_PIXELS`.
    """
    path = Path(path).expanduser()
    with open_image(path) as file:
        if getattr(file, "is_animated", False) and file.format != "MPO":
            log.warning("%s is animated: only its first frame is used", path)
        return _to_view(decode_image(file, path), path.stem)


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """An image file that is not too large, before it is decoded.

    Raises:
        UserError: see `read_image`; also for what goes wrong with the file's content within the
            block.
    """
    path = Path(path).expanduser()
    _check_file(path)
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow only warns about sizes just over its limit; ours is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=READABLE) as file:
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


def read_picture(path: str | os.PathLike[str]) -> Tensor:
    """The image [3,H,W] in [0,1] of a file, see `read_image`."""
    image = read_image(path).image
    assert image is not None
    return image


def write_image(path: str | os.PathLike[str], image: Tensor, alpha: Tensor | None = None) -> Path:
    """Writes [3,H,W] (or [1,3,H,W]) in [0,1] as PNG, JPEG or WebP, by the file's suffix.

    The file appears complete or not at all: it is written beside its place and renamed. Values
    are clamped to [0,1], NaN becomes 0; `alpha` [1,H,W] is stored where the format can (not JPEG).

    Raises:
        UserError: unknown suffix, or the place cannot be written (full disk, permissions).
    """
    path = Path(path).expanduser()
    form = WRITABLE.get(path.suffix.lower())
    if form is None:
        raise UserError(f"{path}: images are written as {', '.join(WRITABLE)}")
    picture = _to_pillow(image, alpha if form != "JPEG" else None)
    options = {"quality": 95} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    with atomic_path(path) as temporary:
        picture.save(temporary, format=form, **options)
    return path


def resize(image: Tensor, height: int, width: int, *, clamp: bool = True) -> Tensor:
    """Bicubic, antialiased resampling of [C,H,W] or [B,C,H,W]; unchanged if the size fits.

    Bicubic weights overshoot at edges, so the result is clamped to [0,1] unless `clamp` is off.
    """
    if image.shape[-2:] == (height, width):
        return image
    batch = image if image.ndim == 4 else image[None]
    out = torch.nn.functional.interpolate(
        batch, (height, width), mode="bicubic", antialias=True, align_corners=False
    )
    out = out.clamp(0, 1) if clamp else out
    return out if image.ndim == 4 else out[0]


def over_white(image: Tensor, alpha: Tensor | None) -> Tensor:
    """Lays an image [3,H,W] with alpha [1,H,W] over white: what a viewer shows."""
    return image if alpha is None else alpha * image + (1 - alpha)


def from_over_white(shown: Tensor, alpha: Tensor | None) -> Tensor:
    """Inverse of `over_white`; where alpha is 0 the colour is unknown and stays as shown."""
    if alpha is None:
        return shown
    colour = (shown - (1 - alpha)) / alpha.clamp(min=1e-6)
    return torch.where(alpha > 0, colour, shown).clamp(0, 1)


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


def _to_view(file: Image.Image, name: str) -> View:
    picture = _upright(file)
    if picture.mode.startswith("I") or picture.mode == "F":
        return View(name, image=_deep_grey(picture))
    if picture.has_transparency_data:
        pixels = _to_tensor(picture.convert("RGBA"))
        return View(name, image=pixels[:3].contiguous(), alpha=pixels[3:].contiguous())
    return View(name, image=_to_tensor(picture.convert("RGB")))


def _upright(file: Image.Image) -> Image.Image:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(file)
    except Exception as error:  # damaged EXIF fails in many ways, and the pixels are fine
        log.warning("EXIF rotation cannot be read and is ignored (%s)", error)
        return file


def _deep_grey(picture: Image.Image) -> Tensor:
    """16-bit grey, which Pillow's own conversion would cut off at 255; [3,H,W]."""
    values = torch.from_numpy(np.asarray(picture).astype(np.float32)) / 65535
    return values.clamp(0, 1).expand(3, -1, -1).contiguous()


def _to_tensor(picture: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8))
    return pixels.permute(2, 0, 1).contiguous().float() / 255


def _to_pillow(image: Tensor, alpha: Tensor | None) -> Image.Image:
    from PIL import Image

    image = image.detach().float().cpu()
    image = image[0] if image.ndim == 4 else image
    if alpha is not None:
        image = torch.cat([image, alpha.detach().float().cpu()])
    pixels = (torch.nan_to_num(image).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
