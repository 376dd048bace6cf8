"""Image files as tensors, and the few operations on pixels that everybody shares.

Images are float tensors [3,H,W] in [0,1], in the file's own (sRGB) encoding.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pds_cli.pictures.pillow import decode_image, open_image, write_pillow, written_format
from pds_cli.views.view import View

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)


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
    form = written_format(path)
    picture = _to_pillow(image, alpha if form != "JPEG" else None)
    options = {"quality": 95} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    return write_pillow(path, picture, **options)


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
