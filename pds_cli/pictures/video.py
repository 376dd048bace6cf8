"""Films of pictures: MP4 through ffmpeg, and GIF through Pillow.

Frames are anything `pds_cli.pictures.sheets.to_pil` takes: tensors [3,H,W] in [0,1], arrays, paths
of image files. Paths are read one at a time, so that a long film needs no memory.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pds_cli.errors import UserError, first_line
from pds_cli.files import atomic_path
from pds_cli.interrupts import raise_if_seen

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

FASTEST_GIF = 50.0  # viewers slow faster ones down to 10 frames a second
GIF_SIDE = 480  # longer side in pixels at most; GIFs are many times as large as films
_PALETTE_FRAMES, _PALETTE_SIDE = 16, 96


def write_video(stem: Path, frames: Sequence[Any], fps: float) -> list[Path]:
    """Writes `<stem>.mp4` and `<stem>.gif`; returns what was written.

    Where ffmpeg is missing or fails, the GIF alone is written, and a warning says why.

    Raises:
        UserError: no frames, frames of several sizes, or a place that cannot be written.
    """
    written = []
    try:
        written.append(write_mp4(stem.with_suffix(".mp4"), frames, fps))
    except FfmpegError as error:
        raise_if_seen()  # ffmpeg dies of a Ctrl-C too
        log.warning("%s; the GIF is written all the same", error)
    return [*written, write_gif(stem.with_suffix(".gif"), frames, fps)]


class FfmpegError(UserError):
    """ffmpeg is not there, or could not make the film."""


def write_mp4(path: Path | str, frames: Sequence[Any], fps: float) -> Path:
    """Writes H.264 in yuv420p, which browsers and phones play; whole or not at all.

    That format has even sides: the last row or column of an odd frame is repeated.

    Raises:
        FfmpegError: ffmpeg is not there or fails.
        UserError: no frames, frames of several sizes, or a place that cannot be written.
    """
    pixels = _pixels(frames)
    first = next(pixels)
    with atomic_path(path) as temporary:
        try:
            _encode(temporary, itertools.chain([first], pixels), first.shape, fps)
        except (ImportError, RuntimeError, OSError) as error:
            raise FfmpegError(
                f"{path} cannot be made by ffmpeg ({first_line(error)}): pip install "
                "'imageio[ffmpeg]' brings one, and the disk must have space left"
            ) from error
    return Path(path)


def _encode(path: Path, pixels: Iterable[np.ndarray], shape: tuple[int, ...], fps: float) -> None:
    """Sends frames [H,W,3] to ffmpeg.

    Raises:
        ImportError, RuntimeError, OSError: ffmpeg is not there or fails.
    """
    import imageio_ffmpeg

    encoder = imageio_ffmpeg.write_frames(
        str(path),
        (shape[1], shape[0]),
        fps=fps,
        codec="libx264",
        quality=7,
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-f", "mp4", "-movflags", "+faststart"],
    )
    sent = 0
    with closing(encoder):  # waits for ffmpeg to end, whatever happens
        encoder.send(None)
        for frame in pixels:
            encoder.send(np.ascontiguousarray(frame))
            sent += 1
    # A full disk shows only in what was written.
    there, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    if there != sent:
        raise OSError(f"it wrote {there} of {sent} frames")


def write_gif(path: Path | str, frames: Sequence[Any], fps: float) -> Path:
    """Writes a GIF that loops for ever, at most `GIF_SIDE` pixels long; whole or not at all.

    All frames share one palette of 256 colours, so that what stands still does not flicker.

    Raises:
        UserError: no frames, frames of several sizes, or a place that cannot be written.
    """
    palette = _palette(frames)
    pictures = (_paletted(picture, palette) for picture in _pictures(frames, GIF_SIDE))
    first = next(pictures)
    with atomic_path(path) as temporary:
        first.save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=pictures,
            duration=round(1000 / min(fps, FASTEST_GIF)),
            loop=0,
            optimize=False,
        )
    return Path(path)


def _pictures(frames: Sequence[Any], side: int | None = None) -> Iterator[Image.Image]:
    """The frames in RGB, checked to be of one size, and at most `side` long."""
    from pds_cli.pictures.sheets import resize_box, resize_to_fit, to_pil

    if not frames:
        raise UserError("a film needs at least one picture")
    size = None
    for number, frame in enumerate(frames):
        picture = to_pil(frame)
        size = size or picture.size
        if picture.size != size:
            raise UserError(
                f"the pictures of a film have one size: number {number} has "
                f"{picture.width}×{picture.height} pixels, the first {size[0]}×{size[1]}"
            )
        small = side is not None and max(size) > side
        yield resize_to_fit(picture, *resize_box(picture, side)) if small and side else picture


def _pixels(frames: Sequence[Any]) -> Iterator[np.ndarray]:
    """The frames as uint8 [H,W,3] with even sides."""
    for picture in _pictures(frames):
        pixels = np.asarray(picture)
        odd = [(0, side % 2) for side in pixels.shape[:2]]
        yield np.pad(pixels, [*odd, (0, 0)], mode="edge")


def _palette(frames: Sequence[Any]) -> Image.Image:
    """The 256 colours of some frames, evenly spaced, as an image in mode P."""
    from PIL import Image

    step = max(1, len(frames) // _PALETTE_FRAMES)
    rows = [np.asarray(picture) for picture in _pictures(frames[::step], _PALETTE_SIDE)]
    montage = Image.fromarray(np.concatenate(rows)) if rows else None
    if montage is None:
        raise UserError("a film needs at least one picture")
    return montage.quantize(256, method=Image.Quantize.MEDIANCUT)


def _paletted(picture: Image.Image, palette: Image.Image) -> Image.Image:
    from PIL import Image

    return picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
