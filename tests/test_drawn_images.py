"""Pictures that are drawn without end: which there are at a step, and training on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, Answer
from helpers import records, words_of_config
from hypothesis import given
from hypothesis import strategies as st

from pds_cli.pictures.captioned import CaptionedImages, Drawn, DrawnImages
from pds_cli.toybox.data import ToyPainter, describe, describe_pair
from pds_cli.toybox.world import OrbitCamera, view_words


def numbered(number: int) -> Drawn:
    """A picture that shows its number."""
    image = torch.full((3, 2, 2), number % 256, dtype=torch.uint8)
    return Drawn(image, [f"picture {number}"], {"number": number}, image + 1)


def window(count: int, fresh: int, first: int) -> DrawnImages:
    there = [numbered(i) for i in range(count)]
    images, sources = (torch.stack([getattr(d, k) for d in there]) for k in ("image", "source"))
    found = CaptionedImages(images, [d.captions for d in there], [d.record for d in there], sources)
    return DrawnImages(found, numbered, fresh, first)


def numbers(data: DrawnImages) -> list[int]:
    return [record["number"] for record in data.records]


@given(st.integers(1, 9), st.integers(0, 12), st.integers(0, 5), st.lists(st.integers(0, 30)))
def test_the_newest_are_there_whatever_came_before(
    count: int, fresh: int, held_out: int, steps: list[int]
) -> None:
    """A window of `count`: those held out in between are never seen."""
    first, data = count + held_out, window(count, fresh, count + held_out)
    for step in [*steps, 0]:
        data.advance(step)
        endless = [*range(count), *range(first, first + fresh * step)]
        assert sorted(numbers(data)) == endless[-count:]
        for place, number in enumerate(numbers(data)):
            assert data.captions[place] == [f"picture {number}"]
            assert int(data.images[place, 0, 0, 0]) == number % 256
            assert data.sources is not None
            assert int(data.sources[place, 0, 0, 0]) == (number + 1) % 256
    assert numbers(data) == list(range(count))


def test_a_step_draws_only_what_is_new() -> None:
    data, drawn = window(5, 2, 7), list[int]()

    def draw(number: int) -> Drawn:
        drawn.append(number)
        return numbered(number)

    data.draw = draw
    changed = [data.advance(step).tolist() for step in (0, 1, 1, 2, 3)]
    assert changed == [[], [0, 1], [], [2, 3], [0, 4]]
    assert sorted(drawn) == [7, 8, 9, 10, 11, 12]
    data.advance(40)
    assert len(drawn) == 6 + 5  # no more than there is room for


def test_pictures_that_nobody_draws_stay() -> None:
    images = CaptionedImages(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), [["a"], ["b"]], [{}, {}])
    assert len(images.advance(100)) == 0


class Painter:
    """In place of PyVista: each picture has a colour of its own."""

    drawn = 0

    def __init__(self, size: int, **quality: int) -> None:
        self.size = size

    def render(self, figure: Any, camera: Any) -> np.ndarray:
        Painter.drawn += 1
        seed = abs(hash((figure, round(camera.azimuth, 6)))) % 2**32
        color = np.random.default_rng(seed).integers(0, 255, 3)
        return np.broadcast_to(color, (self.size, self.size, 3)).astype(np.uint8)

    def close(self) -> None:
        pass


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> type[Painter]:
    monkeypatch.setattr("pds_cli.toybox.renderer.ToyRenderer", Painter)
    monkeypatch.setattr(Painter, "drawn", 0)
    return Painter


@pytest.mark.parametrize("pairs", [False, True])
def test_a_picture_is_drawn_once(pairs: bool, tmp_path: Path, painter: type[Painter]) -> None:
    paint = ToyPainter(tmp_path, 8, seed=3, around=0.5, pairs=pairs)
    one, other = paint(4), paint(5)
    assert painter.drawn == (4 if pairs else 2)
    assert (one.source is not None) == pairs and not torch.equal(one.image, other.image)
    again = ToyPainter(tmp_path, 8, seed=3, around=0.5, pairs=pairs)(4)
    assert painter.drawn == (4 if pairs else 2)
    assert torch.equal(again.image, one.image) and again.captions == one.captions
    paint.close()


def test_a_share_of_the_captions_says_from_where_a_picture_looks() -> None:
    every = [describe(3, index, around=1, views=1)[0] for index in range(40)]
    for record in every:
        words = view_words(OrbitCamera(**record["camera"]))
        assert all(text.endswith(f", {words}") for text in record["captions"])
    assert len({text.partition(", ")[2] for record in every for text in record["captions"]}) == 8
    none = [describe(3, index, around=1)[0] for index in range(40)]
    assert [r["figure"] for r in none] == [r["figure"] for r in every]
    assert [[c.partition(", ")[0] for c in r["captions"]] for r in every] == [
        r["captions"] for r in none
    ]
    some = [describe_pair(3, index, views=0.5)[0]["captions"] for index in range(100)]
    said = [" view" in text for texts in some for text in texts]
    assert 0.4 < sum(said) / len(said) < 0.6


@pytest.fixture
def pretrain(pds: Callable[..., Answer], tmp_path: Path) -> Callable[..., Answer]:
    words = [
        *words_of_config({"model": TINY_MODEL}), "size=16", "data.toybox=true", "data.images=6",
        "preview.prompts=[]", "log_every=1", "checkpoint_every=2", "render_every=0",
        *(f"{stage}.{key}={value}" for stage in ("probe", "decode", "denoise")
          for key, value in (("steps", 4), ("batch_size", 2))),
    ]  # fmt: skip
    return lambda *more: pds("pretrain", *words, *more)


def test_a_stopped_run_goes_on_with_the_same_pictures(
    pretrain: Callable[..., Answer], pds: Callable[..., Answer], tmp_path: Path,
    painter: type[Painter], stopping: Callable[[str, int], None],
) -> None:  # fmt: skip
    words = ["stages=[decode,denoise]", "data.pairs=true", "data.fresh=3"]
    whole = pretrain(*words, "data.folder=one", "out=whole", "into=whole/made")
    assert whole.code == 0, whole.err
    assert len((tmp_path / "one/captions.jsonl").read_text().splitlines()) == 6
    assert len(list(Path("one").rglob("*.png"))) == 2 * (6 + 3 * 3)  # with their sources
    stopping("denoise", 3)
    assert pretrain(*words, "data.folder=two", "out=part", "into=part/made").code != 0
    gone_on = pds("pretrain", "resume=part")
    assert gone_on.code == 0, gone_on.err
    assert [r["loss"] for r in records("part")] == [r["loss"] for r in records("whole")]


def test_other_pictures_are_not_drawn(
    pretrain: Callable[..., Answer], painter: type[Painter]
) -> None:
    refused = pretrain("data.fresh=1", "data.icons=icons", "data.folder=x", "out=run")
    assert refused.code == 2 and "data.fresh=1 draws further toybox pictures" in refused.err
    assert not Path("run").exists() and not Path("x").exists()
