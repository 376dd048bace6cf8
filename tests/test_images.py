"""Reading and writing image files, and the scene of one image."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.pictures.files import from_over_white, over_white, read_image, resize, write_image
from pds_cli.scenes.image import ImageScene


def pattern(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Bytes that differ from pixel to pixel and channel to channel."""
    index = np.arange(height * width * channels).reshape(height, width, channels)
    return (index * 37 % 256).astype(np.uint8)


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def png_chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def write_png(path: Path, width: int, height: int, depth: int, colour: int, rows: bytes) -> Path:
    """A PNG written by hand: Pillow cannot write 16-bit colour or a header without its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )
    return path


# -- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "tolerance"), [("png", 0.0), ("webp", 0.0), ("jpg", 0.1)])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 48)])
def test_formats_and_sizes(
    suffix: str, tolerance: float, size: tuple[int, int], tmp_path: Path
) -> None:
    smooth = torch.linspace(0, 1, size[0] * size[1]).reshape(1, *size).expand(3, -1, -1)
    view = read_image(write_image(tmp_path / f"a.{suffix}", smooth))
    assert view.name == "a" and view.alpha is None and view.image is not None
    assert view.image.shape == (3, *size) and view.image.dtype == torch.float32
    assert (view.image - smooth).abs().max() <= tolerance + 0.5 / 255 + 1e-6


def test_alpha_is_kept_and_colours_are_not_premultiplied(tmp_path: Path) -> None:
    pixels = pattern(6, 5, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    view = read_image(tmp_path / "a.png")
    assert view.image is not None and view.alpha is not None
    torch.testing.assert_close(torch.cat([view.image, view.alpha]), as_tensor(pixels))


def test_every_exif_rotation_is_undone(tmp_path: Path) -> None:
    upright = Image.fromarray(pattern(4, 7))
    # What a camera stores under each orientation, for the same upright picture.
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation, operation in stored.items():
        picture = upright if operation is None else upright.transpose(operation)
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(tmp_path / "a.png", exif=exif)
        image = read_image(tmp_path / "a.png").image
        assert image is not None
        torch.testing.assert_close(image, as_tensor(np.asarray(upright)))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    Image.fromarray(pattern(4, 7)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").image is not None


def test_sixteen_bit_grey_keeps_its_depth(tmp_path: Path) -> None:
    values = np.array([[0, 1, 255, 256], [4660, 32768, 65534, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png").image
    assert image is not None and image.shape == (3, 2, 4)
    torch.testing.assert_close(image[1], torch.from_numpy(values / 65535.0).float())


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    values = np.array([[[0, 32768, 65535], [4660, 256, 50000]]], dtype=">u2")
    path = write_png(tmp_path / "a.png", 2, 1, 16, 2, b"\0" + values.tobytes())
    image = read_image(path).image
    assert image is not None
    expected = torch.from_numpy((values / 65535.0).astype(np.float32)).permute(2, 0, 1)
    torch.testing.assert_close(image, expected, atol=1 / 255, rtol=0)


def test_grey_palette_and_one_bit(tmp_path: Path) -> None:
    grey = pattern(5, 4, 1)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    image = read_image(tmp_path / "grey.png").image
    assert image is not None
    assert torch.equal(image[0], image[2])
    torch.testing.assert_close(image[0], torch.from_numpy(grey).float() / 255)

    palette = Image.fromarray(pattern(5, 4)).quantize(8)
    palette.save(tmp_path / "palette.png")
    image = read_image(tmp_path / "palette.png").image
    assert image is not None
    torch.testing.assert_close(image, as_tensor(np.asarray(palette.convert("RGB"))))

    Image.fromarray(grey > 128).save(tmp_path / "bits.png")
    image = read_image(tmp_path / "bits.png").image
    assert image is not None and set(image.unique().tolist()) == {0.0, 1.0}


def test_palette_and_grey_transparency_become_alpha(tmp_path: Path) -> None:
    palette = Image.fromarray(pattern(5, 4)).quantize(8)
    palette.save(tmp_path / "palette.png", transparency=3)
    alpha = read_image(tmp_path / "palette.png").alpha
    assert alpha is not None
    assert torch.equal(alpha[0] == 0, torch.from_numpy(np.asarray(palette) == 3))
    Image.fromarray(pattern(5, 4, 2), "LA").save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png").alpha is not None


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg").image
    assert image is not None and image[0].mean() > 0.9 and image[1:].mean() < 0.1


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_gives_its_first_frame_and_a_warning(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black", "red")]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)
    image = read_image(path).image
    assert image is not None and image.min() > 0.95
    assert "only its first frame" in caplog.text


# -- what cannot be read -------------------------------------------------------------------------


def expect_sentence(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_image(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_missing_folder_empty_and_special_files(tmp_path: Path) -> None:
    expect_sentence(tmp_path / "nothing.png", "does not exist")
    expect_sentence(tmp_path, "is a folder")
    (tmp_path / "empty.png").touch()
    expect_sentence(tmp_path / "empty.png", r"is empty \(0 bytes\)")
    os.mkfifo(tmp_path / "pipe.png")
    expect_sentence(tmp_path / "pipe.png", "not an ordinary file")
    expect_sentence(tmp_path / ("x" * 300), "cannot be opened|does not exist")


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("this is no picture\n" * 20)
    expect_sentence(tmp_path / "text.png", "not an image")
    (tmp_path / "draw.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    expect_sentence(tmp_path / "draw.eps", "not an image")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_truncated_files(suffix: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / f"a.{suffix}", torch.rand(3, 64, 64))
    whole = path.read_bytes()
    for part in (0.3, 0.6, 0.95):
        path.write_bytes(whole[: int(len(whole) * part)])
        expect_sentence(path, "truncated or damaged|not an image")


def test_damaged_pixel_data(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", torch.rand(3, 64, 64))
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    expect_sentence(path, "truncated or damaged")


@pytest.mark.parametrize(("side", "shown"), [(30000, "more pixels"), (10000, "10000×10000")])
def test_a_huge_header_is_refused_before_memory_is_taken(
    side: int, shown: str, tmp_path: Path
) -> None:
    path = write_png(tmp_path / "bomb.png", side, side, 8, 2, bytes(1000))
    expect_sentence(path, f"{re.escape(shown)}.*the limit of 80 megapixels")


# -- writing -------------------------------------------------------------------------------------


def test_writing_is_atomic_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_image(tmp_path / "new" / "a.png", torch.zeros(3, 4, 4))
    before = path.read_bytes()

    def fail(self: Image.Image, file: object, **options: object) -> None:
        Path(str(file)).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(UserError, match="No space left on device"):
        write_image(path, torch.ones(3, 4, 4))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_written_files_are_readable_by_others(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", torch.zeros(3, 4, 4))
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_cannot_be_made_is_answered(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_image(tmp_path / "file" / "a.png", torch.zeros(3, 4, 4))


def test_unknown_suffix_is_answered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"written as \.png"):
        write_image(tmp_path / "a.exr", torch.zeros(3, 4, 4))


def test_values_are_rounded_clamped_and_nan_is_black(tmp_path: Path) -> None:
    values = torch.tensor([-1.0, 0.0, 0.5, 0.9979, 1.0, 7.0, float("nan")])
    path = write_image(tmp_path / "a.png", values.expand(3, 1, -1)[None])
    image = read_image(path).image
    assert image is not None
    assert (image[0, 0] * 255).round().tolist() == [0, 0, 128, 254, 255, 255, 0]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**31))
def test_eight_bit_images_survive_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (4, height, width), generator=generator).float() / 255
    path = tmp_path_factory.getbasetemp() / "round_trip.png"
    view = read_image(write_image(path, pixels[:3], pixels[3:]))
    assert view.image is not None and view.alpha is not None
    assert torch.equal(torch.cat([view.image, view.alpha]), pixels)


# -- pixels --------------------------------------------------------------------------------------


def test_resize_is_antialiased_in_range_and_an_identity_at_the_same_size() -> None:
    stripes = (torch.arange(255) % 2).float().expand(3, 255, 255)
    small = resize(stripes, 17, 17)
    # A sampler without antialiasing would return the stripes' own values, 0 or 1.
    assert small.shape == (3, 17, 17) and (small - 0.5).abs().max() < 0.1
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1
    large = resize(edge, 33, 20)
    assert large.shape == (1, 3, 33, 20) and large.min() >= 0 and large.max() <= 1
    assert resize(edge, 33, 20, clamp=False).max() > 1
    assert resize(edge, 8, 8) is edge


def test_laying_over_white_is_undone_where_colour_is_visible() -> None:
    image = torch.rand(3, 5, 8, generator=torch.Generator().manual_seed(0))
    alpha = torch.linspace(0, 1, 8).expand(1, 5, 8)
    shown = over_white(image, alpha)
    assert torch.equal(shown[..., 0], torch.ones(3, 5))
    torch.testing.assert_close(shown[..., -1], image[..., -1])
    torch.testing.assert_close(from_over_white(shown, alpha)[..., 1:], image[..., 1:])
    assert over_white(image, None) is image and from_over_white(image, None) is image


# -- the scene -----------------------------------------------------------------------------------


def test_scene_has_one_view_over_white_with_its_alpha(tmp_path: Path) -> None:
    pixels = pattern(6, 9, 4)
    Image.fromarray(pixels).save(tmp_path / "hat.png")
    scene = ImageScene(str(tmp_path / "hat.png"), "a photo of a hat, (red): 100 %")
    assert scene.source_prompt == "a photo of a hat, (red): 100 %"
    (view,) = scene.views
    assert view.name == "hat" and view.image is not None and view.alpha is not None
    full = as_tensor(pixels)
    torch.testing.assert_close(view.image, full[3:] * full[:3] + 1 - full[3:])
    assert scene.ground_truth("anything") is None


@pytest.mark.parametrize(
    ("path", "prompt", "message"),
    [
        (None, "a hat", r"scene\.path=… is needed"),
        ("  ", "a hat", r"scene\.path=… is needed"),
        ("a.png", None, "source=… is needed"),
        ("a.png", " ", "source=… is needed"),
        ("a.png", "a hat", "does not exist"),
    ],
)
def test_scene_answers_what_is_missing(
    path: str | None, prompt: str | None, message: str, tmp_path: Path
) -> None:
    place = str(tmp_path / path) if path and path.strip() else path
    with pytest.raises(UserError, match=message):
        ImageScene(place, prompt)
