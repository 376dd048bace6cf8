"""A folder of captioned images: `captions.jsonl` beside the image files.

Each line is a JSON object with `file` (a path inside the folder) and `caption` (a string) or
`captions` (several for the same picture, one of which is drawn at each use). A picture that is an
edit of another has a `source` with that one's `file`; all have one, or none. Other keys are kept
in `records`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.pictures.pillow import decode_image, open_image
from pds_cli.reading import MAX_BYTES, parse_json, read_text


@dataclass
class CaptionedImages:
    """Images uint8 [N,3,S,S] with the captions and the raw record of each.

    sources: what each was edited from, uint8 [N,3,S,S]; None for images that are no edits.
    """

    images: Tensor
    captions: list[list[str]]
    records: list[dict[str, Any]]
    sources: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def advance(self, step: int) -> Tensor:
        """Makes them those of a step of training; returns the places [M] that changed: none."""
        return torch.empty(0, dtype=torch.long)

    def batch(self, index: Tensor) -> Tensor:
        """Images [B,3,S,S] in [−1,1]."""
        return self.images[index].float() / 127.5 - 1

    def source_batch(self, index: Tensor) -> Tensor:
        """Sources [B,3,S,S] in [−1,1]."""
        assert self.sources is not None
        return self.sources[index].float() / 127.5 - 1

    def part(self, chosen: slice) -> CaptionedImages:
        """Some of them."""
        sources = None if self.sources is None else self.sources[chosen]
        return CaptionedImages(
            self.images[chosen], self.captions[chosen], self.records[chosen], sources
        )

    def draw_captions(self, index: Tensor, generator: torch.Generator) -> list[str]:
        """One caption for each image, drawn at random from its own."""
        pick = torch.randint(0, 2**31, (len(index),), generator=generator).tolist()
        own = [self.captions[i] for i in index.tolist()]
        return [texts[p % len(texts)] for texts, p in zip(own, pick, strict=True)]


@dataclass
class Drawn:
    """One captioned image uint8 [3,S,S], with what it is an edit of, if it is one."""

    image: Tensor
    captions: list[str]
    record: dict[str, Any]
    source: Tensor | None = None


class DrawnImages(CaptionedImages):
    """Captioned images that are drawn without end: at each step some take the oldest ones' place.

    Which they are at a step depends on its number alone, so a training that goes on finds those
    that it left.

    Args:
        images: N of those that are there, as they are at step 0.
        draw: makes image number i again, or anew: that of place i for i < N.
        fresh: how many are new at a step.
        first: the number of the first new one, at least N.
    """

    def __init__(
        self, images: CaptionedImages, draw: Callable[[int], Drawn], fresh: int, first: int
    ) -> None:
        sources = None if images.sources is None else images.sources.clone()
        super().__init__(images.images.clone(), [*images.captions], [*images.records], sources)
        self.draw, self.fresh, self.first = draw, fresh, first
        self._numbers = self.numbers(0)

    def numbers(self, step: int) -> Tensor:
        """Which image is in each place [N] at a step."""
        place, count = torch.arange(len(self)), len(self)
        rounds = -((place - self.fresh * step) // count)  # how often each was taken so far
        return torch.where(rounds <= 0, place, self.first + place + (rounds - 1) * count)

    def advance(self, step: int) -> Tensor:
        """Makes them those of a step; returns the places [M] that changed."""
        numbers = self.numbers(step)
        changed = (numbers != self._numbers).nonzero()[:, 0]
        for place in changed.tolist():
            drawn = self.draw(int(numbers[place]))
            self.images[place] = drawn.image
            self.captions[place], self.records[place] = drawn.captions, drawn.record
            if self.sources is not None and drawn.source is not None:
                self.sources[place] = drawn.source
        self._numbers = numbers
        return changed


def _record(folder: Path, number: int, line: str) -> tuple[list[Path], list[str], dict[str, Any]]:
    """The image and its source, if it has one; its captions; everything."""
    where = f"line {number} of {folder / 'captions.jsonl'}"
    try:
        record = parse_json(line)
        name = record["file"]
        texts = record["captions"] if "captions" in record else [record["caption"]]
        names = [name] + ([record["source"]["file"]] if "source" in record else [])
        if not all(isinstance(each, str) for each in names) or not isinstance(texts, list):
            raise TypeError("file must be a text, captions a list")
        if any("\0" in each for each in names):
            raise ValueError("a NUL in file")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{where} is not an object like {{"file": "a.png", "caption": "…"}} ({error!r})'
        ) from error
    paths = [(folder / each).resolve() for each in names]
    for path, each in zip(paths, names, strict=True):
        if not path.is_relative_to(folder.resolve()):
            raise UserError(f"{where} names {each!r}, which lies outside the folder")
    if not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise UserError(f"{where} has an empty caption")
    return paths, texts, record


def load_captioned_images(folder: str | Path, size: int) -> CaptionedImages:
    """Reads the whole folder into memory, centre-cropped and resized to `size`×`size`.

    Raises:
        UserError: where `captions.jsonl` is missing or empty, a line is malformed, or an image
            is missing or unreadable; says which line.
    """
    folder = Path(folder)
    index_file = folder / "captions.jsonl"
    if not index_file.is_file():
        raise UserError(
            f"{index_file} is missing; it should hold one JSON object a line, "
            'like {"file": "a.png", "caption": "a photo of a cat"}'
        )
    lines = read_text(index_file, 8 * MAX_BYTES).split("\n")
    images, sources, captions, records = [], [], [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        paths, texts, record = _record(folder, number, line)
        where = f"line {number} of {index_file}"
        images.append(_read(paths[0], where, size))
        sources += [_read(path, where, size) for path in paths[1:]]
        captions.append(texts)
        records.append(record)
    if not images:
        raise UserError(f"{index_file} lists no images")
    if sources and len(sources) < len(images):
        raise UserError(f"in {index_file} some images have a source and some have none")
    return CaptionedImages(_stack(images), captions, records, _stack(sources) if sources else None)


def read_square(path: Path, size: int) -> Tensor:
    """An image file's middle square as uint8 [3,size,size].

    Raises:
        UserError: it is missing or damaged.
    """
    return _stack([_pixels(path, size)])[0]


def _read(path: Path, where: str, size: int) -> np.ndarray:
    try:
        return _pixels(path, size)
    except UserError as error:
        raise UserError(f"{path}, named in {where}, cannot be read ({error})") from error


def _pixels(path: Path, size: int) -> np.ndarray:
    with open_image(path) as image:
        return _square(decode_image(image, path).convert("RGB"), size)


def _stack(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).movedim(-1, 1).contiguous()


def _square(image: Image.Image, size: int) -> np.ndarray:
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(image)
