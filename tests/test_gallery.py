"""Exact scores of pictures: against the mixture they are, their prompts, views and folders."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import summary
from PIL import Image
from torch import Tensor

from pds_cli.backbones.base import Text
from pds_cli.backbones.captions import Attributes, Similarity
from pds_cli.backbones.gallery import GalleryBackbone
from pds_cli.backbones.mixture import MixtureBackbone, local_mixture_eps, mixture_eps, with_squares
from pds_cli.backbones.toybox_exact import ToyboxExact
from pds_cli.benchmarks.toybox import EditBenchmark
from pds_cli.errors import UserError
from pds_cli.pictures.pillow import load_image
from pds_cli.runs.folder import RunFolder
from pds_cli.toybox.cases import FIGURES
from pds_cli.toybox.variations import kept_pictures, variations
from pds_cli.toybox.world import ATTRIBUTES, Figure, OrbitCamera, parse_caption
from pds_cli.views.view import View

SIDE = 16
CAPTIONS = [
    ["a red car", "a photo of a car in the rain"],
    ["a blue car"],
    ["a red bus"],
    ["a blue bus"],
    ["a red boat at night"],
    ["a blue boat"],
]
AZIMUTHS = [0, 0, 20, 90, 90, 180]


def picture_of(number: int) -> np.ndarray:
    """Noise above; below, what all pictures show."""
    pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
    rng = np.random.default_rng(number)
    pixels[: SIDE // 2] = rng.integers(0, 255, (SIDE // 2, SIDE, 3))
    return pixels


def write_folder(folder: Path, records: Sequence[dict[str, Any]] = ()) -> Path:
    """Six captioned pictures from four sides."""
    folder.mkdir(exist_ok=True)
    lines = []
    for i, captions in enumerate(CAPTIONS):
        Image.fromarray(picture_of(i)).save(folder / f"{i}.png")
        more = records[i] if records else {"camera": {"azimuth": AZIMUTHS[i]}}
        lines.append(json.dumps({"file": f"{i}.png", "captions": captions, **more}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pictures")


def gallery(folder: Path, **options: Any) -> GalleryBackbone:
    return GalleryBackbone(str(folder), size=SIDE, device="cpu", **options)


def images(folder: Path) -> Tensor:
    found = [np.asarray(load_image(folder / f"{i}.png")) for i in range(len(CAPTIONS))]
    return torch.from_numpy(np.stack(found)).movedim(-1, 1).float() / 255


def counted(text: Text) -> list[list[int]]:
    """The pictures that each prompt counts."""
    return [row.isfinite().nonzero()[:, 0].tolist() for row in text.cond["log_weights"]]


# --- the maths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 20, 300, 999])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 7.5])
def test_it_is_the_mixture_of_its_latents(folder: Path, t: int, guidance: float) -> None:
    backbone = gallery(folder)
    means = backbone.encode_image(images(folder))
    colors = [captions[0].split()[1] for captions in CAPTIONS]
    mixture = MixtureBackbone(means, colors, 0.1)
    noise = torch.randn(3, *means.shape[1:], generator=torch.Generator().manual_seed(t))
    steps, prompts = torch.full((3,), t), ["red", "blue", "red"]
    x = backbone.add_noise(means[[0, 3, 4]] + 0.1 * noise, steps, noise)
    found = backbone.predict_noise(x, steps, backbone.encode_prompt(prompts), guidance)
    expected = mixture.predict_noise(x.double(), steps, mixture.encode_prompt(prompts), guidance)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_means_that_weigh_nothing_may_be_passed_over() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(40, 30, generator=generator, dtype=torch.float64)
    x, alpha = means[:2] + 0.1, torch.full((2, 1), 0.99, dtype=torch.float64)
    v, even = 1 - alpha + 1e-2 * alpha, torch.zeros(40, dtype=torch.float64)
    terms = -((x[:, None] - alpha[..., None].sqrt() * means) ** 2).sum(2) / (2 * v)
    mean = terms.softmax(1) @ means
    expected = (1 - alpha).sqrt() * (x - alpha.sqrt() * mean) / v
    found = mixture_eps(x, alpha, with_squares(means), v, even)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_near_pictures_decide_place_by_place(window: int) -> None:
    """Against one mixture a place, of what its window shows."""
    generator = torch.Generator().manual_seed(window)
    means = torch.randn(6, 2, 4, 5, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    alpha, v = torch.tensor([[0.9], [0.5], [0.1]]).double(), torch.tensor([[0.2], [0.5], [0.9]])
    weights = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    weights[1, 2:] = -math.inf
    v, places = v.double(), means.flatten(2).permute(2, 0, 1)
    found = local_mixture_eps(x, alpha, places, v, weights, window)
    reach = window // 2
    for row, y, z in itertools.product(range(3), range(4), range(5)):
        cut = (
            ...,
            slice(max(0, y - reach), y + reach + 1),
            slice(max(0, z - reach), z + reach + 1),
        )
        off = x[row][cut] - alpha[row].sqrt() * means[cut]
        share = (weights[row] - off.flatten(1).square().sum(1) / (2 * v[row])).softmax(0)
        left = x[row, :, y, z] - alpha[row].sqrt() * (share @ means[:, :, y, z])
        torch.testing.assert_close(found[row, :, y, z], (1 - alpha[row]).sqrt() * left / v[row])


def test_a_window_over_everything_is_the_whole_picture(folder: Path) -> None:
    whole, local = gallery(folder), gallery(folder, window=99)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *whole.latent_shape, generator=generator)
    t, text = torch.tensor([100, 800]), whole.encode_prompt(["red", "a blue bus"])
    expected = whole.predict_noise(x, t, text, 2.0)
    found = local.predict_noise(x, t, local.encode_prompt(["red", "a blue bus"]), 2.0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_rows_may_have_weights_of_their_own() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    alpha, v = torch.full((2, 1), 0.5).double(), torch.full((2, 1), 0.6).double()
    rows = torch.tensor([[0, 0, -math.inf, 1, 0], [-math.inf, 0, 0, 0, 2]]).double()
    both = mixture_eps(x, alpha, with_squares(means), v, rows)
    for i in range(2):
        one = mixture_eps(x[[i]], alpha[[i]], with_squares(means), v[[i]], rows[i])
        torch.testing.assert_close(both[[i]], one)


def test_pictures_left_out_are_not_among_the_components(folder: Path) -> None:
    backbone = gallery(folder)
    text = backbone.encode_prompt(["red", "a red bus"])
    points, weights = backbone._mixture.used(text.cond["log_weights"])
    assert len(points) == weights.shape[1] == 3
    assert len(backbone._mixture.used(text.null["log_weights"])[0]) == len(CAPTIONS)


def test_a_gradient_on_latents_reaches_pixels_through_a_constant_matrix(folder: Path) -> None:
    backbone = gallery(folder)

    def pulled_back(image: Tensor) -> Tensor:
        image = image.clone().requires_grad_()
        return torch.autograd.grad(backbone.encode_image(image).sum(), image)[0]

    shown = images(folder)
    torch.testing.assert_close(pulled_back(shown[:1]), pulled_back(shown[1:2]))
    x0 = backbone.encode_image(shown)
    torch.testing.assert_close(backbone.encode_image(backbone.decode_latent(x0)), x0)


# --- prompts -------------------------------------------------------------------------------------


def test_words_take_the_pictures_of_which_one_caption_holds_them_all(folder: Path) -> None:
    backbone = gallery(folder)
    text = backbone.encode_prompt(["A photo of a RED car", "a photo"])
    assert counted(text) == [[0], [0, 1, 2, 3, 4, 5]]
    assert counted(backbone.encode_prompt(["a boat", "a red zebra"])) == [[4, 5], [0, 2, 4]]
    assert backbone.unknown_words("a red boot") == {"boot": ["boat"]}
    assert counted(backbone.encode_prompt(["a car"], "a red thing"))[0] == [0, 1]
    assert torch.equal(
        backbone.encode_prompt(["a car"], "red").null["log_weights"],
        backbone.encode_prompt(["red"]).cond["log_weights"],
    )
    with pytest.raises(UserError, match="no caption holds all of red, rain"):
        backbone.encode_prompt(["red rain"])
    with pytest.raises(UserError, match="no caption holds zebra or stripes"):
        backbone.encode_prompt(["a zebra with stripes"])


def test_attributes_are_those_of_the_records() -> None:
    figures = [{"kind": "man", "hat": "crown"}, {"kind": "robot", "hat": "crown"}]
    matching = Attributes([{"file": "a.png", "figure": figure} for figure in figures])
    assert matching.log_weights("a photo of a robot wearing a crown").tolist() == [-math.inf, 0]
    assert matching.log_weights("").exp().tolist() == [0.5, 0.5]
    assert matching.unknown("a robot in a tuxedo") == {"in a tuxedo": []}
    with pytest.raises(UserError, match="no picture has hat top hat, which the prompt"):
        matching.log_weights("wearing a top hat")
    with pytest.raises(UserError, match="reads nothing in the prompt 'a cat'"):
        matching.log_weights("a cat")
    with pytest.raises(UserError, match=r"that of b\.png has none"):
        Attributes([{"file": "b.png"}])


def test_similarity_weighs_rare_words_more_and_the_likest_more_when_cold() -> None:
    captions = [["a red car"], ["a red zebra"], ["a blue car"]]
    warm, cold = (Similarity(captions, t).log_weights("a red zebra").exp() for t in (1, 0.05))
    assert warm.argsort(descending=True).tolist() == [1, 0, 2]
    assert float(warm.sum()) == pytest.approx(1)
    assert cold[1] > 0.99 > warm[1]
    # Both hold one of the two words, and one of them is in fewer captions.
    found = Similarity([["zebra"], ["red"], ["red"]], 1).log_weights("red zebra")
    assert found[0] > found[1]
    # By the definition, of two documents of two words each, one of which both have.
    rare = math.log(3 / 2) + 1
    weights = Similarity([["a red car"], ["a red bus"]], 0.5).log_weights("the car")
    cosine = rare / math.hypot(1, rare)
    assert float(weights[0] - weights[1]) == pytest.approx(cosine / 0.5)
    with pytest.raises(UserError, match="none is like the prompt"):
        Similarity(captions, 1).log_weights("a boat")


# --- views ---------------------------------------------------------------------------------------


def view(azimuth: float) -> View:
    return View("view", camera=OrbitCamera(azimuth=azimuth, elevation=20).camera(8))


def test_a_view_counts_the_pictures_of_the_nearest_camera(folder: Path) -> None:
    backbone = gallery(folder, views="camera")
    text = backbone.encode_prompt(["", "boat"])
    assert counted(backbone.seen_from(text, view(2))) == [[0, 1], [4]]
    seen = backbone.seen_from(text, view(50))
    assert counted(seen) == [[2], [4]], "each prompt has its own nearest"
    assert counted(Text(seen.null, seen.null)) == [[2], [2]]
    assert backbone.seen_from(text, View("flat")) is text
    assert gallery(folder).seen_from(text, view(50)) is text


@pytest.mark.parametrize(
    ("sector", "azimuth", "expected"),
    [(45, 5, [0, 1, 2]), (45, -15, [0, 1]), (45, 40, [2]), (120, 40, [0, 1, 2, 3, 4]),
     (45, -175, [5]), (45, 250, [5])],
)  # fmt: skip
def test_a_view_counts_the_pictures_of_its_sector(
    folder: Path, sector: float, azimuth: float, expected: list[int]
) -> None:
    """Half of its width to either side, around the circle; else the nearest."""
    backbone = gallery(folder, views="sector", sector=sector)
    text = backbone.seen_from(backbone.encode_prompt([""]), view(azimuth))
    assert counted(text) == [expected]


def test_cameras_are_read_in_both_forms_and_missed_in_a_sentence(tmp_path: Path) -> None:
    cameras = [OrbitCamera(azimuth=a).camera(SIDE).to_dict() for a in AZIMUTHS]
    whole = write_folder(tmp_path / "whole", [{"camera": each} for each in cameras])
    short = write_folder(tmp_path / "short")
    directions = [gallery(f, views="camera")._mixture.directions for f in (whole, short)]
    assert directions[0] is not None and directions[1] is not None
    torch.testing.assert_close(*directions)
    none = write_folder(tmp_path / "none", [{"camera": {"azimut": 3}}] * len(CAPTIONS))
    with pytest.raises(UserError, match=r"that of 0\.png cannot be read .* use .*views=all"):
        gallery(none, views="sector")


# --- folders and the command line ----------------------------------------------------------------


def test_options_that_cannot_be_get_a_sentence(folder: Path) -> None:
    for options, words in (
        ({"size": 10}, "must be a multiple of 4"),
        ({"std": 0.0}, "greater than 0"),
        ({"window": 4}, "window=4 must be an odd number"),
        ({"matching": "guess"}, "matching"),
        ({"matching": "attributes"}, "figure of each record"),
        ({"path": None}, "needs a folder of captioned pictures"),
        ({"path": "nowhere"}, "captions.jsonl is missing"),
    ):
        with pytest.raises(UserError, match=words):
            given: dict[str, Any] = {"path": str(folder), "size": SIDE, "device": "cpu", **options}
            GalleryBackbone(**given)


def test_an_edit_by_exact_scores_ends_at_the_picture_that_fits(
    folder: Path, pds: Callable[..., Any]
) -> None:
    source, told = folder / "0.png", ["backbone=gallery", f"backbone.path={folder}", "device=cpu"]
    words = ["edit", "scene=image", f"scene.path={source}", "source=a red car", *told,
             f"backbone.size={SIDE}", "prompt=a blue boat", "loss=sds", "steps=120", "lr=0.1",
             "render_every=0", "out=boat"]  # fmt: skip
    answer = pds(*words)
    assert answer.code == 0, answer.err
    result = np.asarray(load_image(Path("boat/exports/result.png")), float)
    apart = [np.abs(result - picture_of(i)).mean() for i in range(len(CAPTIONS))]
    assert np.argmin(apart) == 5 and apart[5] < apart[0] / 2
    assert summary("boat")["backbone"] == "gallery"
    refused = pds(*words[:-1], "out=refused", "prompt=a zebra")
    assert refused.code == 2 and "no caption holds zebra" in refused.err
    assert not Path("refused").exists()
    drawn = pds("sample", *told, f"backbone.size={SIDE}", "prompt=a red bus", "n=1", "steps=20",
                "out=drawn")  # fmt: skip
    assert drawn.code == 0, drawn.err
    sample = np.asarray(load_image(Path("drawn/samples/000.png")), float)
    assert np.argmin([np.abs(sample - picture_of(i)).mean() for i in range(len(CAPTIONS))]) == 2


# --- the toybox ----------------------------------------------------------------------------------


class Painter:
    """Stands in for the renderer: a stripe of grey for each attribute's value."""

    def __init__(self) -> None:
        self.drawn: list[Figure] = []
        self.fails_after = 10**6

    def __call__(self, figure: Figure, camera: OrbitCamera, size: int = 64) -> np.ndarray:
        if len(self.drawn) == self.fails_after:
            raise KeyboardInterrupt
        self.drawn.append(figure)
        greys = [30 * ATTRIBUTES[name].index(value) for name, value in vars(figure).items()]
        return np.tile(np.repeat(np.array(greys, np.uint8), size // 8)[:, None, None], (1, size, 3))


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Painter:
    found = Painter()
    monkeypatch.setattr("pds_cli.toybox.variations.picture", found)
    return found


def test_what_is_named_takes_every_value_times_some_of_the_rest() -> None:
    own = Figure(hat="crown", beside="ball", floor="wood")
    few, many = (variations(own, ["pose", "beside_color"], count) for count in (100, 400))
    assert (few.taken, few.possible, len(few.figures)) == (2, 4 * 5 * 8, 80)
    assert list(few.others) == ["kind", "hat", "clothes"]
    assert few.figures == many.figures[:80], "more begin with the fewer"
    assert own in few.figures and len(set(many.figures)) == 400
    assert {figure.floor for figure in many.figures} == {"wood"}
    assert {f.pose for f in few.figures} == set(ATTRIBUTES["pose"])
    everything = variations(own, [], 10**6)
    assert len(everything.figures) == everything.taken == everything.possible == 6400
    assert {f.floor for f in variations(own, ["floor"], 4).figures} == set(ATTRIBUTES["floor"])
    with pytest.raises(UserError, match=r"40 pictures .* of pose, beside.* raise backbone\.count"):
        variations(own, ["pose", "beside"], 39)


def test_renders_are_kept_and_an_interrupted_lot_goes_on(tmp_path: Path, painter: Painter) -> None:
    wanted = [(figure, OrbitCamera()) for figure in variations(Figure(), ["pose"], 8).figures]
    painter.fails_after = 5
    with pytest.raises(KeyboardInterrupt):
        kept_pictures(tmp_path, wanted, 16)
    painter.fails_after = 10**6
    first = kept_pictures(tmp_path, wanted, 16)
    assert len(painter.drawn) == 8
    one = sorted(tmp_path.glob("*/*.png"))[0]
    one.write_bytes(one.read_bytes()[:-20])
    again = kept_pictures(tmp_path, wanted, 16)
    assert len(painter.drawn) == 9, "a damaged one is made anew"
    assert np.array_equal(first, again)
    kept_pictures(tmp_path, [(Figure(), OrbitCamera(azimuth=3))], 16)
    assert len(painter.drawn) == 10, "another camera is another picture"


EXACT = ["backbone=toybox_exact", "backbone.count=32", "backbone.cache=kept", "device=cpu"]


def test_an_edit_takes_figure_camera_and_prompts_from_its_scene(
    pds: Callable[..., Any], painter: Painter
) -> None:
    words = ["scene=figurine2d", "scene.figure.clothes=red", "scene.camera.azimuth=12",
             "source=a photo of a man", "steps=1", "render_every=0"]  # fmt: skip
    answer = pds("edit", *words, *EXACT, "prompt=a photo of a robot", "out=a")
    assert answer.code == 0, answer.err
    assert "backbone.count=32 takes 8 of 1,600 combinations of pose, hat" in answer.err
    assert len(painter.drawn) == 32 and {f.kind for f in painter.drawn} == set(ATTRIBUTES["kind"])
    assert {f.floor for f in painter.drawn} == {"stone"}
    chained = pds("edit", "init=a", "prompt=a photo of a robot wearing a crown", "steps=1",
                  "render_every=0", "out=b")  # fmt: skip
    assert chained.code == 0, chained.err
    assert {f.hat for f in painter.drawn} == set(ATTRIBUTES["hat"])
    with pytest.raises(UserError, match=r"there is none here; backbone\.figure=\{\}"):
        ToyboxExact(device="cpu").encode_prompt(["a robot"])


def test_each_camera_of_the_scene_in_3d_has_its_own_pictures(
    tmp_path: Path, painter: Painter
) -> None:
    backbone = ToyboxExact({}, cameras=6, edit_azimuth=95, prompts=["a robot"], count=32,
                           cache=str(tmp_path), device="cpu", size=128)  # fmt: skip
    assert [c.azimuth for c in backbone.cameras] == [30, 90, 270, 330]
    text = backbone.encode_prompt(["a robot"])
    seen = backbone.seen_from(text, View("v", camera=backbone.cameras[1].camera(64)))
    kinds = [record["figure"]["kind"] for record in backbone.pictures().records]
    assert counted(seen) == [[i for i in range(8, 16) if kinds[i] == "robot"]]
    assert len(painter.drawn) == 32


def test_the_benchmark_gives_each_figure_exact_scores_of_its_own(
    tmp_path: Path, painter: Painter
) -> None:
    methods = {"exact": ["loss=dds", *EXACT[:2], f"backbone.cache={tmp_path}/kept"]}
    benchmark = EditBenchmark(methods, steps=2, edits=["to robot"], figures=2)
    given = ToyboxExact(device="cpu")  # as `pds compare backbone=toybox_exact` builds it
    benchmark.run(given, RunFolder(tmp_path / "run"))
    drawn = {(f.floor, f.background) for f in painter.drawn}
    assert drawn == {(f.floor, f.background) for f, _ in FIGURES[:2]}
    found = json.loads((tmp_path / "run/results.json").read_text())
    assert len(found["rows"]["exact"]) == 2 and len(painter.drawn) == 64
    assert parse_caption("a photo of a robot") == {"kind": "robot"}
