"""Frames of a film for structure from motion: sharp ones, spread over the whole of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from pds_cli.errors import UserError, first_line
from pds_cli.interrupts import raise_if_seen
from pds_cli.pictures.pillow import write_pillow

FILMS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
_SMALL = 320  # pixels across, where sharpness is measured
_MIDDLE = 0.6  # of a stretch of the film, from which its frame is taken


def is_film(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a film."""
    return Path(path).suffix.lower() in FILMS


def frame_count(film: Path) -> int:
    """How many frames a film has.

    Raises:
        UserError: no such film, or none that ffmpeg can read.
    """
    import imageio_ffmpeg

    if not film.is_file():
        raise UserError(f"{film} does not exist: give a film, or the folder of the photos")
    try:
        return int(imageio_ffmpeg.count_frames_and_secs(str(film))[0])
    except (RuntimeError, OSError, ValueError) as error:
        raise_if_seen()  # ffmpeg dies of a Ctrl-C too
        raise _unreadable(film, error) from error


def pick_frames(
    film: Path, into: Path, count: int, on_frame: Callable[[int], None] = lambda _: None
) -> list[Path]:
    """Writes frames of a film as `frame_0001.jpg` and so on; returns their paths.

    The film is cut into `count` stretches; of the middle of each the sharpest frame is taken, by
    the mean square of its Laplacian. Of a film with fewer frames all are taken.

    Args:
        on_frame: called with the number of frames looked at, for a progress bar.

    Raises:
        UserError: a film that ffmpeg cannot read, or without frames.
    """
    from PIL import Image

    scores = []
    for frame in _frames(film, "gray", ["-vf", f"scale={_SMALL}:-2"]):
        scores.append(sharpness(frame[..., 0]))
        on_frame(len(scores))
    if not scores:
        raise UserError(f"{film} holds no frames")
    wanted = {number: place for place, number in enumerate(chosen(scores, count), start=1)}
    into.mkdir(parents=True, exist_ok=True)
    written = []
    for number, frame in enumerate(_frames(film, "rgb24", [])):
        if number in wanted:
            path = into / f"frame_{wanted[number]:04d}.jpg"
            written.append(write_pillow(path, Image.fromarray(frame), quality=95))
    return written


def chosen(scores: list[float], count: int) -> list[int]:
    """The numbers of the frames that are taken, by their sharpness.

    >>> chosen([1, 5, 2, 2, 1, 9], 2)
    [1, 3]
    """
    found = []
    for stretch in np.array_split(np.arange(len(scores)), min(count, len(scores))):
        rim = int(len(stretch) * (1 - _MIDDLE) / 2)
        middle = stretch[rim : len(stretch) - rim]
        found.append(int(middle[np.argmax(np.asarray(scores)[middle])]))
    return found


def sharpness(image: np.ndarray) -> float:
    """The mean square of the Laplacian of a grey image [H,W]."""
    x = image.astype(np.float32)
    edges = 4 * x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]
    return float(np.square(edges).mean()) if edges.size else 0.0


def _frames(film: Path, form: str, options: list[str]) -> Iterator[np.ndarray]:
    """All frames [H,W,C] as bytes, upright, one at a time."""
    import imageio_ffmpeg

    channels = 1 if form == "gray" else 3
    try:
        reader: Any = imageio_ffmpeg.read_frames(
            str(film), pix_fmt=form, bits_per_pixel=8 * channels, output_params=options
        )
        with closing(reader):
            width, height = next(reader)["size"]
            for data in reader:
                yield np.frombuffer(data, np.uint8).reshape(height, width, channels)
    except (RuntimeError, OSError, ValueError, KeyError, StopIteration) as error:
        raise_if_seen()
        raise _unreadable(film, error) from error


def _unreadable(film: Path, error: Exception) -> UserError:
    return UserError(f"{film} cannot be read as a film: {first_line(error)}; save it as MP4")
