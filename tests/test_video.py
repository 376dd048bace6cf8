"""Films and depth pictures: what other programs read back from them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.pictures.colormap import depth_picture, depth_range, viridis
from pds_cli.pictures.files import write_image
from pds_cli.pictures.video import GIF_SIDE, FfmpegError, write_gif, write_mp4, write_video
from pds_cli.views.view import Rendering


def moving_square(count: int = 7, height: int = 48, width: int = 64) -> list[Tensor]:
    """A red square that goes right over a grey ramp."""
    frames = []
    for number in range(count):
        frame = torch.linspace(0, 1, width).expand(3, height, width).clone()
        frame[:, 8:24, 4 + 5 * number : 20 + 5 * number] = torch.tensor([1.0, 0, 0])[:, None, None]
        frames.append(frame)
    return frames


def frames_of_film(path: Path) -> list[np.ndarray]:
    from imageio.v2 import get_reader

    film: Any
    with get_reader(path) as film:
        return [np.asarray(frame) for frame in film]


def frames_of_gif(path: Path) -> list[np.ndarray]:
    frames = []
    with Image.open(path) as file:
        for number in range(getattr(file, "n_frames", 1)):
            file.seek(number)
            frames.append(np.asarray(file.convert("RGB")))
    return frames


# --- MP4 -----------------------------------------------------------------------------------------


def test_a_film_has_its_frames_its_size_its_rate_and_its_colours(tmp_path: Path) -> None:
    from imageio.v2 import get_reader

    frames = moving_square()
    path = write_mp4(tmp_path / "new" / "film.mp4", frames, fps=12)
    read = frames_of_film(path)
    assert len(read) == len(frames)
    assert read[0].shape == (48, 64, 3)
    for seen, frame in zip(read, frames, strict=True):
        error = seen.astype(float) - 255 * frame.movedim(0, -1).numpy()
        assert abs(error).mean() < 6
    film: Any
    with get_reader(path) as film:
        meta = film.get_meta_data()
    assert meta["fps"] == 12
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p")
    assert [p.name for p in path.parent.iterdir()] == ["film.mp4"]


def test_odd_sides_are_made_even(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "film.mp4", moving_square(3, 47, 63), fps=10)
    assert frames_of_film(path)[0].shape == (48, 64, 3)


def test_frames_may_be_files(tmp_path: Path) -> None:
    frames = moving_square(3)
    files = [write_image(tmp_path / f"{i}.png", frame) for i, frame in enumerate(frames)]
    write_video(tmp_path / "files", files, fps=10)
    write_video(tmp_path / "tensors", frames, fps=10)
    for suffix in (".mp4", ".gif"):
        films = [(tmp_path / name).with_suffix(suffix) for name in ("files", "tensors")]
        assert films[0].read_bytes() == films[1].read_bytes()


# --- GIF -----------------------------------------------------------------------------------------


def test_a_gif_loops_and_has_its_frames_and_its_rate(tmp_path: Path) -> None:
    frames = moving_square()
    path = write_gif(tmp_path / "film.gif", frames, fps=20)
    read = frames_of_gif(path)
    assert len(read) == len(frames)
    for seen, frame in zip(read, frames, strict=True):
        assert abs(seen.astype(float) - 255 * frame.movedim(0, -1).numpy()).mean() < 6
    with Image.open(path) as file:
        assert file.info["loop"] == 0
        for number in range(len(frames)):
            file.seek(number)
            assert file.info["duration"] == 50


def test_what_stands_still_keeps_its_colours_in_a_gif(tmp_path: Path) -> None:
    """One palette: rows that never change are the same in every frame, bit for bit."""
    read = frames_of_gif(write_gif(tmp_path / "film.gif", moving_square(), fps=20))
    for frame in read[1:]:
        assert (frame[:8] == read[0][:8]).all()


def test_a_large_gif_is_made_smaller(tmp_path: Path) -> None:
    frames = moving_square(2, height=GIF_SIDE, width=2 * GIF_SIDE)
    assert frames_of_gif(write_gif(tmp_path / "x.gif", frames, 10))[0].shape == (240, 480, 3)


def test_one_frame_is_a_film_too(tmp_path: Path) -> None:
    mp4, gif = write_video(tmp_path / "one", moving_square(1), fps=20)
    assert len(frames_of_film(mp4)) == len(frames_of_gif(gif)) == 1


# --- what can go wrong ---------------------------------------------------------------------------


def test_without_ffmpeg_there_is_a_gif_and_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import imageio_ffmpeg

    def missing(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("No ffmpeg exe could be found.\nmore words")

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", missing)
    with caplog.at_level(logging.WARNING):
        written = write_video(tmp_path / "film", moving_square(2), fps=20)
    assert [path.name for path in written] == ["film.gif"]
    assert "No ffmpeg exe could be found" in caplog.text and "imageio[ffmpeg]" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["film.gif"]
    with pytest.raises(FfmpegError, match="ffmpeg"):
        write_mp4(tmp_path / "film.mp4", moving_square(2), fps=20)


def test_an_ffmpeg_that_fails_leaves_the_film_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mp4(tmp_path / "film.mp4", moving_square(2), fps=20)
    before = path.read_bytes()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    with pytest.raises(FfmpegError, match=r"film\.mp4"):
        write_mp4(path, moving_square(3), fps=20)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize("write", [write_mp4, write_gif])
def test_frames_must_be_there_and_of_one_size(write: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one"):
        write(tmp_path / "x", [], 20)
    with pytest.raises(UserError, match="number 1 has 62×48"):
        write(tmp_path / "x", [*moving_square(1), *moving_square(1, width=62)], 20)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_sentence(small_disk: Path) -> None:
    noise = [torch.rand(3, 512, 512, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    for write in (write_mp4, write_gif):
        with pytest.raises(UserError, match="film"):
            write(small_disk / "film", noise, 20)
        assert not list(small_disk.iterdir())


# --- depth ---------------------------------------------------------------------------------------


def test_the_colour_map_is_viridis() -> None:
    from matplotlib import colormaps

    values = torch.linspace(0, 1, 256)
    wanted = torch.tensor(colormaps["viridis"].colors)  # type: ignore[attr-defined]
    assert (viridis(values).T - wanted).abs().max() < 0.06
    assert viridis(torch.tensor([[-3.0, 2.0, float("nan")]])).shape == (3, 1, 3)


def test_lightness_rises_all_the_way() -> None:
    light = torch.tensor([0.2126, 0.7152, 0.0722]) @ viridis(torch.linspace(0, 1, 200))
    assert (light.diff() > 0).all()


def a_wall(opacity: float = 1.0) -> Rendering:
    """Depth from 2 at the left to 10 at the right."""
    depth = torch.linspace(2, 10, 101).expand(5, 101)
    return Rendering(torch.zeros(3, 5, 101), depth, torch.full((5, 101), opacity))


def test_near_is_bright_and_nothing_is_black() -> None:
    picture = depth_picture(a_wall(), 2.0, 10.0)
    assert (picture.sum(0)[0].diff() < 0).all()
    assert torch.allclose(picture[:, 0, 0], viridis(torch.tensor(1.0)))
    assert torch.allclose(picture[:, 0, -1], viridis(torch.tensor(0.0)), atol=1e-5)
    assert torch.allclose(depth_picture(a_wall(0.5), 2.0, 10.0), picture / 2)
    assert not depth_picture(a_wall(0.0), 2.0, 10.0).any()


def test_the_range_of_depth_leaves_out_what_is_not_there() -> None:
    near, far = depth_range([a_wall()])
    assert (near, far) == pytest.approx((2.08, 9.92), abs=0.02)
    ghost = Rendering(torch.zeros(3, 1, 1), torch.tensor([[900.0]]), torch.tensor([[0.1]]))
    assert depth_range([a_wall(), ghost]) == (near, far)
    assert depth_range([ghost]) == (1.0, 1.0)
    assert depth_picture(ghost, 1.0, 1.0).isfinite().all()
