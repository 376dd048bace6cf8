"""Contact sheets and strips of images, with captions."""

from __future__ import annotations

import os
import textwrap
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor, ImageDraw, ImageFont

from pds_cli.errors import UserError
from pds_cli.pictures.pillow import load_image, write_pillow

INK, FAINT, PAPER, EMPTY = "#1d2126", "#6b727b", "#ffffff", "#eef0f2"
# The faces tried, in order, for text that Pillow's own font cannot write.
FACES = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "msyh.ttc",
    "PingFang.ttc",
    "unifont.otf",
)
QUALITY = 90  # of WebP and JPEG, in [0,100]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def save_image(image: Any, path: Path | str) -> Path:
    """Save anything `to_pil` takes, in the format of `path`'s suffix, whole or not at all.

    WebP and JPEG are written with losses that the eye does not see: sheets are for looking.
    """
    return write_pillow(path, to_pil(image), quality=QUALITY)


def to_pil(image: Any) -> Image.Image:
    """An RGB PIL image from a PIL image, a path, or a tensor or array.

    image: [3,H,W], [1,H,W] or [4,H,W] (or channels last, or [H,W]); floats in [0,1] (clipped; NaN
        is black) or uint8. Transparency is laid over white.
    Raises UserError for an unreadable file or another shape.
    """
    if isinstance(image, (str, os.PathLike)):
        image = load_image(image)
    if not isinstance(image, Image.Image):
        image = _from_array(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_array(image: Any) -> Image.Image:
    import numpy as np

    if hasattr(image, "detach"):  # a tensor, of any device and dtype (bfloat16 has no numpy twin)
        image = image.detach().cpu()
        image = image.float().numpy() if image.is_floating_point() else image.numpy()
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise UserError(f"an image has shape [3,H,W], not {list(array.shape)}")
    if array.dtype != np.uint8:
        array = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=1.0, neginf=0.0)
        array = (np.clip(array, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))


def resize_to_fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale to the largest size inside width x height; small renders are enlarged smoothly."""
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size == image.size:
        return image
    # LANCZOS rings around the hard edges of toy renders when it enlarges; BICUBIC hardly does.
    kernel = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    return image.resize(size, kernel)


# ---------------------------------------------------------------------------- text


@lru_cache(maxsize=256)
def _face(name: str, size: int) -> Font | None:
    if name == "":
        return ImageFont.load_default(size)
    with suppress(OSError):
        return ImageFont.truetype(name, size)
    spec = find_spec("matplotlib")  # it carries DejaVu; looked up, not imported
    if name == "DejaVuSans.ttf" and spec is not None and spec.origin:
        with suppress(OSError):
            face = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / name
            return ImageFont.truetype(str(face), size)
    return None


@lru_cache(maxsize=4096)
def _can_write(name: str, character: str) -> bool:
    font = _face(name, 16)
    if font is None:
        return False
    # A face draws the same box for every character that it lacks.
    missing, glyph = font.getmask("\U0010fffd"), font.getmask(character)
    return (glyph.size, bytes(glyph)) != (missing.size, bytes(missing))


@lru_cache(maxsize=1024)
def font_for(text: str, size: int) -> Font:
    """The first font that can write all of `text`, else the one that lacks fewest characters."""
    letters = {c for c in text if not c.isspace() and ord(c) > 126}
    default = ImageFont.load_default(size)
    if not letters:
        return default
    best, fewest = default, len(letters) + 1
    for name in ("", *FACES):
        font = _face(name, size)
        lacking = sum(not _can_write(name, c) for c in letters) if font is not None else fewest
        if font is not None and lacking < fewest:
            best, fewest = font, lacking
        if fewest == 0:
            break
    return best


def _printable(text: Any) -> str:
    text = "".join(" " if c.isspace() else c for c in str(text))
    return "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cs", "Cn"))


def wrap_text(text: str, font: Font, width: int, lines: int) -> list[str]:
    """Break `text` into at most `lines` lines of at most `width` pixels; the rest becomes `…`."""
    words = [piece for word in _printable(text).split() for piece in textwrap.wrap(word, 24)]
    out: list[str] = []
    for word in words:
        joined = f"{out[-1]} {word}" if out else word
        if out and font.getlength(joined) <= width:
            out[-1] = joined
        else:
            out.append(word)
    cut = len(out) > lines
    out = out[:lines]
    for i, line in enumerate(out):
        last = cut and i == len(out) - 1
        shown = line
        while shown and font.getlength(shown + ("…" if last or shown != line else "")) > width:
            shown = shown[:-1]
        out[i] = shown + "…" if last or shown != line else shown
    return out


class _Label:
    """A wrapped text and its height in pixels."""

    def __init__(self, text: str, width: int, size: int, lines: int = 3) -> None:
        self.font = font_for(text, size)
        self.lines = wrap_text(text, self.font, width, lines)
        self.step = round(size * 1.3)

    @property
    def height(self) -> int:
        return self.step * len(self.lines)

    def draw(
        self, pen: ImageDraw.ImageDraw, x: float, y: float, fill: str, centre: int = 0
    ) -> None:
        for i, line in enumerate(self.lines):
            left = x + max(0.0, (centre - self.font.getlength(line)) / 2)
            pen.text((left, y + i * self.step), line, fill=fill, font=self.font)


# ---------------------------------------------------------------------------- sheets


def contact_sheet(
    images: Sequence[Any],
    columns: int,
    labels: Sequence[str] | None = None,
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
    tile: int | None = None,
    gap: int = 8,
    background: str = PAPER,
    font_size: int = 12,
) -> Image.Image:
    """Lay images out in a grid, row by row.

    images: anything `to_pil` takes, or None for an empty cell; each is fitted into its cell.
    columns: number of columns, at least 1.
    labels: a caption for each image, below it.
    row_labels, column_labels: captions of the rows (left) and columns (above).
    tile: the longer side of a cell in pixels; None: that of the largest image, in [96, 512].
    Raises UserError for no images, columns < 1, or lists of labels of another length.
    """
    if columns < 1 or not images:
        raise UserError("a contact sheet needs at least one image and one column")
    pictures = [None if image is None else to_pil(image) for image in images]
    rows = -(-len(pictures) // columns)
    for name, texts, n in (
        ("labels", labels, len(pictures)),
        ("row_labels", row_labels, rows),
        ("column_labels", column_labels, columns),
    ):
        if texts is not None and len(texts) != n:
            raise UserError(f"a contact sheet of {n} {name} was given {len(texts)} of them")
    cell = _cell_size([p for p in pictures if p is not None], tile)
    captions = [_Label(text, cell[0], font_size) for text in labels or []]
    heads = [_Label(text, cell[0], font_size) for text in column_labels or []]
    sides = [_Label(text, max(120, cell[0]), font_size, lines=6) for text in row_labels or []]
    return _draw_sheet(
        pictures, columns, cell, gap, background, captions, heads, sides, title, font_size
    )


def _cell_size(pictures: list[Image.Image], tile: int | None) -> tuple[int, int]:
    if not pictures:
        return (tile or 128, tile or 128)
    longest = max(max(p.size) for p in pictures)
    side = tile or min(512, max(96, longest))
    scaled = [resize_box(p, side) for p in pictures]
    return max(w for w, _ in scaled), max(h for _, h in scaled)


def resize_box(image: Image.Image, side: int) -> tuple[int, int]:
    """Width and height of `image` when its longer side is `side` pixels."""
    scale = side / max(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _draw_sheet(
    pictures: list[Image.Image | None],
    columns: int,
    cell: tuple[int, int],
    gap: int,
    background: str,
    captions: list[_Label],
    heads: list[_Label],
    sides: list[_Label],
    title: str | None,
    font_size: int,
) -> Image.Image:
    rows = -(-len(pictures) // columns)
    drawn = [line for side in sides for line in side.lines]
    side_width = max((int(s.font.getlength(t)) for s in sides for t in s.lines), default=0)
    left = gap + (side_width + 2 * gap if drawn else 0)
    width = left + columns * (cell[0] + gap)
    heading = _Label(title or "", width - 2 * gap, round(font_size * 1.35), lines=3)
    head_height = max((h.height for h in heads), default=0)
    top = gap + (heading.height + gap if heading.lines else 0) + (head_height and head_height + gap)
    per_row = [captions[r * columns : (r + 1) * columns] for r in range(rows)]
    caption_heights = [max((c.height for c in row), default=0) for row in per_row]
    steps = [cell[1] + (h and h + gap // 2) + gap for h in caption_heights]
    sheet = Image.new("RGB", (width, top + sum(steps)), ImageColor.getrgb(background))
    pen = ImageDraw.Draw(sheet)
    heading.draw(pen, gap, gap, INK)
    for c, head in enumerate(heads):
        y = top - gap - head.height
        head.draw(pen, left + c * (cell[0] + gap), y, INK, centre=cell[0])
    y = top
    for r, step in enumerate(steps):
        if sides:
            sides[r].draw(pen, gap, y + max(0, (cell[1] - sides[r].height) // 2), INK)
        for c in range(columns):
            index, x = r * columns + c, left + c * (cell[0] + gap)
            if index < len(pictures):
                _paste(sheet, pen, pictures[index], x, y, cell)
            if index < len(captions):
                captions[index].draw(pen, x, y + cell[1] + gap // 2, FAINT, centre=cell[0])
        y += step
    return sheet


def _paste(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    picture: Image.Image | None,
    x: int,
    y: int,
    cell: tuple[int, int],
) -> None:
    if picture is None:
        pen.rectangle((x, y, x + cell[0] - 1, y + cell[1] - 1), fill=EMPTY)
        return
    fitted = resize_to_fit(picture, *cell)
    sheet.paste(fitted, (x + (cell[0] - fitted.width) // 2, y + (cell[1] - fitted.height) // 2))


def strip(
    images: Sequence[Any],
    labels: Sequence[str] | None = None,
    *,
    height: int | None = None,
    gap: int = 8,
    background: str = PAPER,
) -> Image.Image:
    """One row of images of one height, e.g. before | after | truth.

    images: anything `to_pil` takes; height in pixels (None: that of the tallest, at most 1024).
    Without labels there is no border, so that equal images of one size stay pixel-exact.
    Raises UserError for no images or another number of labels.
    """
    if not images:
        raise UserError("a strip needs at least one image")
    pictures = [to_pil(image) for image in images]
    tall = height or min(1024, max(p.height for p in pictures))
    pictures = [resize_to_fit(p, 10**6, tall) for p in pictures]
    if labels is not None and len(labels) != len(pictures):
        raise UserError(f"a strip of {len(pictures)} images was given {len(labels)} labels")
    texts = [_Label(t, p.width, 12) for t, p in zip(labels or [], pictures, strict=False)]
    foot = max((text.height for text in texts), default=0)
    width = sum(p.width for p in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, tall + (foot and foot + 6)), ImageColor.getrgb(background))
    pen, x = ImageDraw.Draw(sheet), 0
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (x, 0))
        if texts:
            texts[i].draw(pen, x, tall + 4, FAINT, centre=picture.width)
        x += picture.width + gap
    return sheet
