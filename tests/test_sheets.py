"""Contact sheets, strips, GIFs and atomic files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pds_cli.errors import UserError
from pds_cli.files import atomic_path, write_text
from pds_cli.pictures import sheets

RED, BLUE = (200, 30, 30), (20, 40, 220)


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.new("RGB", size, colour)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tensors_become_the_picture_they_describe(dtype: torch.dtype) -> None:
    image = torch.zeros(3, 4, 6, dtype=dtype, requires_grad=True)
    with torch.no_grad():
        image[0] = 1.0
        image[1, 0, 0] = float("nan")
        image[2, 0, 0] = 7.0
    picture = sheets.to_pil(image)
    assert picture.size == (6, 4)
    assert picture.getpixel((5, 3)) == (255, 0, 0)
    assert picture.getpixel((0, 0)) == (255, 0, 255)


def test_arrays_of_every_layout_agree() -> None:
    array = np.arange(3 * 5 * 7, dtype=np.uint8).reshape(5, 7, 3)
    expected = np.asarray(sheets.to_pil(array))
    assert (expected == array).all()
    assert (np.asarray(sheets.to_pil(array.transpose(2, 0, 1))) == array).all()
    grey = sheets.to_pil(array[..., :1].transpose(2, 0, 1))
    assert grey.mode == "RGB" and grey.getpixel((3, 2)) == (array[2, 3, 0],) * 3


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (2, 2), (9, 9, 9, 0))
    assert sheets.to_pil(clear).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("shape", [(2, 5, 5), (3, 0, 4), (1, 3, 4, 4), (7,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"\[3,H,W\]"):
        sheets.to_pil(np.zeros(shape))


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_unreadable_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.png"
    if content is None:  # a torn PNG
        plain(RED).save(path)
        path.write_bytes(path.read_bytes()[:60])
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.png"):
        sheets.to_pil(path)


def test_contact_sheet_places_cells_row_by_row() -> None:
    images = [plain(RED), plain(BLUE), plain(BLUE), None, plain(RED)]
    sheet = sheets.contact_sheet(images, 2, tile=40, gap=4)
    assert sheet.size == (4 + 2 * 44, 4 + 3 * 44)
    centres = [[sheet.getpixel((24 + 44 * c, 24 + 44 * r)) for c in range(2)] for r in range(3)]
    assert centres[0] == [RED, BLUE]
    assert centres[1][0] == BLUE and centres[1][1] not in (RED, BLUE)
    assert centres[2] == [RED, (255, 255, 255)]


def test_labels_take_room_and_leave_ink() -> None:
    images = [plain(RED), plain(BLUE)]
    bare = sheets.contact_sheet(images, 2, tile=96)
    full = sheets.contact_sheet(
        images,
        2,
        ["one", "two"],
        row_labels=["PDS"],
        column_labels=["guidance 7.5", "guidance 30"],
        title="a man – с усами",
        tile=96,
    )
    assert full.width > bare.width and full.height > bare.height + 40
    foot = np.asarray(full.convert("L"))[-16:]
    assert (foot < 200).any()


def test_text_is_drawn_by_a_font_that_has_its_letters() -> None:
    sure = sheets.font_for("Ψ χ ≥", 14)
    assert sure.getmask("Ψ").getbbox() is not None
    drawn = {bytes(sure.getmask(c)) for c in "Ψχ≥"}
    assert len(drawn) == 3, "different letters must not all be the missing-glyph box"


@given(st.text(max_size=200), st.integers(8, 300))
@settings(max_examples=80, deadline=None)
def test_wrapped_text_always_fits(text: str, width: int) -> None:
    font = sheets.font_for("", 12)
    lines = sheets.wrap_text(text, font, width, 3)
    assert len(lines) <= 3
    # One ellipsis may be wider than the narrowest boxes; nothing else may stick out.
    assert all(font.getlength(line) <= width or line == "…" for line in lines)


@pytest.mark.parametrize(
    "kwargs", [{"columns": 0}, {"columns": 2, "labels": ["a"]}, {"columns": 1, "row_labels": []}]
)
def test_sheets_that_make_no_sense_are_refused(kwargs: dict) -> None:
    with pytest.raises(UserError):
        sheets.contact_sheet([plain(RED), plain(BLUE)], **kwargs)


def test_strip_of_equal_images_keeps_every_pixel() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8)
    joined = sheets.strip([noise, noise, plain(RED, (15, 10))], gap=2)
    assert joined.size == (30 + 2 + 30 + 2 + 30, 20)
    assert (np.asarray(joined)[:, 32:62] == noise.transpose(1, 2, 0)).all()
    labelled = sheets.strip([noise, noise], ["before", "after"])
    assert labelled.height > 20


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "grid.png"
    sheets.save_image(plain(RED), path)
    before = path.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="No space left"):
        sheets.save_image(plain(BLUE), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]


def test_a_crash_while_writing_is_passed_on_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_writing_below_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_text(tmp_path / "file" / "table.md", "x")
    with pytest.raises(UserError, match="images are written as"):
        sheets.save_image(plain(RED), tmp_path / "picture.what")


def test_lone_surrogates_do_not_stop_a_page(tmp_path: Path) -> None:
    assert write_text(tmp_path / "t", "a\ud800b").read_text("utf-8") == "a?b"
