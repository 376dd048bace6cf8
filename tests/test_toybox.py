"""The toybox world: captions, ground truths, shipped pictures and the edit benchmark."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY_MODEL
from hypothesis import given, settings
from hypothesis import strategies as st

import pds_cli.toybox.gallery as gallery_module
from pds_cli.backbones.embedded import EmbeddedBackbone, words_of
from pds_cli.benchmarks.methods import method, sweep_words
from pds_cli.benchmarks.side_by_side import edit_cases
from pds_cli.benchmarks.toybox import EditBenchmark
from pds_cli.benchmarks.toybox_scores import pictures, score_cases
from pds_cli.errors import UserError
from pds_cli.losses.dds import DDS
from pds_cli.metrics.psnr import psnr
from pds_cli.pictures.files import resize
from pds_cli.pretraining.components import build_components
from pds_cli.runs.folder import RunFolder
from pds_cli.scenes.figurine import FigurineScene
from pds_cli.scenes.toybox import ToyboxScene
from pds_cli.toybox.cases import (
    EDITS,
    FIGURES,
    TUNING_FIGURES,
    all_cases,
    gallery,
)
from pds_cli.toybox.gallery import picture
from pds_cli.toybox.probe import Probe, augment, load_probe, probe_labels, save_probe
from pds_cli.toybox.world import (
    ATTRIBUTES,
    SAYABLE,
    Figure,
    OrbitCamera,
    caption,
    edited,
    mentioned,
    parse_caption,
    random_camera,
    random_figure,
    random_mentions,
    true_edit,
    unread,
    vocabulary,
)

FIGURE = st.builds(Figure, **{name: st.sampled_from(v) for name, v in ATTRIBUTES.items()})
SAID = st.lists(st.sampled_from(SAYABLE), unique=True)
CASES = all_cases()


def no_renderer(size: int) -> Any:
    raise UserError("PyVista is not installed")


# --- words ---------------------------------------------------------------------------------------


@given(FIGURE)
def test_a_full_caption_says_everything(figure: Figure) -> None:
    wanted = dataclasses.asdict(figure)
    if figure.beside not in ("ball", "box"):
        del wanted["beside_color"]
    assert parse_caption(caption(figure)) == wanted


@given(FIGURE, SAID)
def test_a_caption_says_what_it_is_told_to(figure: Figure, said: list[str]) -> None:
    found = parse_caption(caption(figure, said))
    labels = {name: ATTRIBUTES[name].index(value) for name, value in found.items()}
    assert labels == mentioned(figure, said)
    assert {"kind", *said} == found.keys() - {"beside_color"}


@given(FIGURE, SAID)
def test_the_vocabulary_covers_every_caption(figure: Figure, said: list[str]) -> None:
    text = caption(figure, said)
    assert set(text.split()) <= set(vocabulary())
    assert words_of(text) == text.split(), "the tokenizer reads a caption word by word"


@given(FIGURE, FIGURE, SAID)
def test_an_edit_changes_only_what_is_named(figure: Figure, other: Figure, said: list[str]) -> None:
    prompt = caption(other, said)
    before, after = dataclasses.asdict(figure), dataclasses.asdict(edited(figure, prompt))
    for name in ATTRIBUTES:
        named = name in parse_caption(prompt)
        assert after[name] == (getattr(other, name) if named else before[name])


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("", {}),
        ("a moustache", {}),
        ("A Photo of a MAN, raising his arms!", {"kind": "man", "pose": "raised"}),
        ("a snowman", {"kind": "snowman"}),
        ("wearing a wizard   hat", {"hat": "wizard hat"}),
        ("without a hat", {"hat": "none"}),
        ("next to a ball", {}),
        ("next to a red tree", {}),
        ("wearing a hat", {}),
        ("in red on sand under a pink sky",
         {"clothes": "red", "floor": "sand", "background": "pink"}),
        ("a robot waving its hand standing alone",
         {"kind": "robot", "pose": "waving", "beside": "none"}),
    ],
)  # fmt: skip
def test_prompts_that_people_type(prompt: str, found: dict[str, str]) -> None:
    assert parse_caption(prompt) == found


@given(FIGURE, SAID)
def test_a_caption_is_understood_whole(figure: Figure, said: list[str]) -> None:
    assert unread(caption(figure, said)) == []
    assert true_edit(figure, caption(figure, said))[0] == figure


@pytest.mark.parametrize(
    ("prompt", "passages"),
    [
        ("a photo of a man in a tuxedo", ["in a tuxedo"]),
        ("A photo of a robot, very happy, in red", ["very happy"]),
        ("a man raising his left arm", ["raising his left arm"]),
        ("a man not wearing a crown", ["not"]),
        ("two bears on sand", ["two bears"]),
        ("3 robots", ["3 robots"]),
        ("a man with a crown", ["with a crown"]),
        # Words of the vocabulary whose meaning would be dropped or made up.
        ("a man next to a red tree", ["next to a red tree"]),
        ("a man next to a ball", ["next to a ball"]),
        ("in red in blue", ["in blue"]),
        ("a man standing alone next to a tree", ["next to a tree"]),
        ("a photo of", ["a photo of"]),
        ("un robot à côté", ["un", "à côté"]),
    ],
)
def test_a_prompt_that_is_not_understood_whole_has_no_truth(
    prompt: str, passages: list[str]
) -> None:
    assert unread(prompt) == passages
    for scene in (FigurineScene(), ToyboxScene()):
        assert scene.ground_truth(prompt) is None
        assert list(scene.ground_truth_views(prompt)) == []
        note = scene.ground_truth_note(prompt)
        assert "no known true edit" in note and all(repr(p) in note for p in passages)


def test_a_prompt_that_says_what_is_there_has_the_source_as_its_truth() -> None:
    scene = FigurineScene()
    truth = scene.ground_truth("a photo of a man in green")
    assert truth is not None and scene.views[0].image is not None
    assert torch.equal(truth, scene.views[0].image)
    assert "its true edit is the source itself" in scene.ground_truth_note("a man in green")
    assert scene.ground_truth_note("a photo of a robot") == ""
    assert scene.ground_truth("") is None and "names nothing" in scene.ground_truth_note("")


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_figure_checks_its_values(name: str) -> None:
    with pytest.raises(UserError, match=f"knows no {name} 'x'.*{ATTRIBUTES[name][-1]}"):
        Figure(**{name: "x"})


def test_colours_without_a_bearer_have_no_label() -> None:
    assert Figure(beside="tree").labels()["beside_color"] == -1
    assert Figure(beside="box", beside_color="blue").labels()["beside_color"] == 2


def test_random_draws_reach_every_value_and_stay_in_range() -> None:
    rng = np.random.default_rng(0)
    figures = [random_figure(rng) for _ in range(300)]
    for name, values in ATTRIBUTES.items():
        assert {getattr(figure, name) for figure in figures} == set(values)
    cameras = [random_camera(rng) for _ in range(200)]
    assert all(abs(c.azimuth) <= 50 and 5 <= c.elevation <= 30 for c in cameras)
    around = [abs(random_camera(rng, around=0.5).azimuth) for _ in range(400)]
    assert max(around) > 170 and np.mean([a <= 50 for a in around]) == pytest.approx(0.64, abs=0.1)
    said = [random_mentions(figure, rng) for figure in figures]
    assert {name for names in said for name in names} == set(SAYABLE)
    hatless = np.mean(["hat" in s for f, s in zip(figures, said, strict=True) if f.hat == "none"])
    hatted = np.mean(["hat" in s for f, s in zip(figures, said, strict=True) if f.hat != "none"])
    assert hatless < hatted


def test_the_camera_stands_where_its_angles_say() -> None:
    level = OrbitCamera(azimuth=0, elevation=0, distance=5, look_at=(0, 0, 1))
    assert level.position() == pytest.approx((0, -5, 1))
    right = OrbitCamera(azimuth=90, elevation=0, distance=5, look_at=(0, 0, 1))
    assert right.position() == pytest.approx((5, 0, 1))
    above = OrbitCamera(elevation=90, distance=5, look_at=(0, 0, 1))
    assert above.position() == pytest.approx((0, 0, 6))


# --- pictures ------------------------------------------------------------------------------------


def test_the_gallery_holds_all_that_demo_and_benchmark_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gallery_module, "_renderer", no_renderer)
    for figure, camera in gallery():
        tile = picture(figure, camera)
        assert tile.shape == (128, 128, 3) and tile.dtype == np.uint8
        assert tile.std() > 5
    scene = FigurineScene()
    assert scene.source_prompt == "a photo of a man"
    truth = scene.ground_truth("a photo of a man wearing a wizard hat")
    assert truth is not None and scene.views[0].image is not None
    assert 0.001 < (truth - scene.views[0].image).square().mean() < 0.1
    assert scene.ground_truth("a man with a moustache") is None
    assert scene.ground_truth("a moustache") is None
    assert scene.ground_truth("on sand under a pink sky") is None, "neither shipped nor rendered"


def test_the_posed_views_ship_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gallery_module, "_renderer", no_renderer)
    scene = ToyboxScene()
    assert len(scene.views) == len(scene.edit_views) == 42 and len(scene.eval_views) == 6
    assert scene.views[0].image is not None and scene.views[0].image.shape == (3, 128, 128)
    assert scene.ground_truth_views("a photo of a robot") == [], "neither shipped nor rendered"
    assert "no scores against the true edit: PyVista is not installed" in capsys.readouterr().err
    front = ToyboxScene(edit_azimuth=50).edit_views
    names = [view.name for view in front]
    assert names == [f"view_{i:02d}" for i in (*range(6), *range(36, 42))], "both sides of 0°"
    with pytest.raises(UserError, match=r"edit_azimuth=1 leaves none of the 42 views"):
        ToyboxScene(edit_azimuth=1)


def test_whole_and_broken_degrees_are_the_same_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "_renderer", no_renderer)
    figure, camera = FIGURES[1]
    assert isinstance(camera.azimuth, int)
    broken = dataclasses.replace(camera, azimuth=float(camera.azimuth))
    assert np.array_equal(picture(figure, broken), picture(figure, camera))
    colourless = dataclasses.replace(FIGURES[0][0], beside_color="green")
    assert np.array_equal(picture(colourless, OrbitCamera()), picture(*FIGURES[0]))


def test_shipped_pictures_are_what_the_renderer_makes() -> None:
    pytest.importorskip("pyvista")
    from pds_cli.toybox.renderer import ToyRenderer

    renderer = ToyRenderer(128)
    for figure, camera in FIGURES[::3] + TUNING_FIGURES[::3]:
        fresh = renderer.render(figure, camera).astype(float)
        # Drivers draw edges a little differently.
        assert np.abs(fresh - picture(figure, camera)).mean() < 2
        other = dataclasses.replace(figure, clothes="black")
        assert np.abs(renderer.render(other, camera) - fresh).mean() > 2
        assert np.array_equal(renderer.render(figure, camera), fresh), "no state is left behind"
    renderer.close()


def test_a_figure_that_cannot_be_rendered_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyvista", None)
    monkeypatch.setattr(gallery_module, "_renderer", gallery_module._renderer.__wrapped__)
    with pytest.raises(UserError, match=r"pip install 'pds\[toybox\]'"):
        FigurineScene({"clothes": "purple", "floor": "wood"})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"figure": {"wings": "two"}}, "wings"),
        ({"figure": {"hat": "fez"}}, "knows no hat 'fez'"),
        ({"camera": {"roll": 3.0}}, "roll"),
    ],
)
def test_a_figurine_that_does_not_exist(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        FigurineScene(**options)


def test_a_written_gallery_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Painter:
        def render(self, figure: Figure, camera: OrbitCamera) -> np.ndarray:
            value = ATTRIBUTES["clothes"].index(figure.clothes) * 30
            return np.full((16, 16, 3), value, np.uint8)

    monkeypatch.setattr(gallery_module, "FOLDER", tmp_path)
    monkeypatch.setattr(gallery_module, "_renderer", lambda size: Painter())
    shipped = gallery_module._shipped
    shipped.cache_clear()
    try:
        wanted = [(Figure(clothes=c), OrbitCamera(azimuth=2)) for c in ATTRIBUTES["clothes"]]
        gallery_module.write_gallery([*wanted, *wanted, (Figure(), OrbitCamera())], 16)
        assert len(json.loads((tmp_path / "gallery.json").read_text())) == 9
        monkeypatch.setattr(gallery_module, "_renderer", no_renderer)
        for number, (figure, camera) in enumerate(wanted):
            assert np.all(picture(figure, camera, 16) == number * 30)
        with pytest.raises(UserError):
            picture(*wanted[0], 32)
    finally:
        shipped.cache_clear()


# --- the benchmark -------------------------------------------------------------------------------


def test_the_benchmark_is_twelve_edits_of_eight_figures() -> None:
    assert len(CASES) == 96
    assert len({(case.kind, case.source) for case in CASES}) == 96
    assert [case.kind for case in CASES[::8]] == list(EDITS)
    tuned = {figure for figure, _ in TUNING_FIGURES}
    assert not tuned & {figure for figure, _ in FIGURES}
    assert not tuned & {case.target for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind} {case.source.kind}")
def test_a_case_changes_one_thing_and_says_so(case: Any) -> None:
    source, target = dataclasses.asdict(case.source), dataclasses.asdict(case.target)
    changed = {name for name in ATTRIBUTES if source[name] != target[name]}
    assert changed and changed <= case.changed.keys()
    assert len(case.changed.keys() - {"beside_color"}) == 1
    assert case.changed.keys() in ({"beside", "beside_color"}, {next(iter(case.changed))})
    assert case.prompt != case.source_prompt
    assert parse_caption(case.prompt).items() >= case.changed.items()
    assert edited(case.source, case.prompt) == case.target
    assert unread(case.prompt) == unread(case.source_prompt) == []
    # The source prompt tells no lies.
    assert parse_caption(case.source_prompt).items() <= source.items()


def test_an_unknown_edit_is_refused() -> None:
    with pytest.raises(UserError, match=r"'fly'.*raise arms"):
        all_cases(edits=["fly"])


# --- the probe -----------------------------------------------------------------------------------


def test_a_probe_comes_back_and_reads_any_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    probe = Probe(8)
    images = torch.rand(3, 3, 64, 64)
    found = probe.classify(images)
    assert [list(f) for f in found] == [list(ATTRIBUTES)] * 3
    enlarged = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert probe.classify(enlarged) == found
    full = Probe()
    save_probe(full, tmp_path / "probe.safetensors")
    back = load_probe(tmp_path / "probe.safetensors")
    weights = dict(back.named_parameters())
    for name, value in full.named_parameters():
        assert torch.equal(weights[name], value.detach().half().float())


def test_a_missing_probe_says_how_to_get_one(tmp_path: Path) -> None:
    for content in (None, b"nonsense"):
        if content:
            (tmp_path / "probe.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=r"pds pretrain stages=\[probe\]"):
            load_probe(tmp_path / "probe.safetensors")


def test_labels_of_records() -> None:
    figure = Figure(hat="crown", beside="tree")
    assert probe_labels([{"figure": dataclasses.asdict(figure)}]).tolist() == [
        list(figure.labels().values())
    ]
    with pytest.raises(UserError, match="leave `probe` out"):
        probe_labels([{"file": "a.png"}])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_augmentation_is_mild_and_repeatable(seed: int) -> None:
    image = torch.full((2, 3, 16, 16), 0.5)
    once, twice = (augment(image, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(once, twice)
    assert once.shape == image.shape
    assert float((once - image).abs().mean()) < 0.3


def test_the_benchmark_page_of_an_unknown_edit(pds: Callable, tiny_backbone: Path) -> None:
    answer = pds("compare", "benchmark=toybox", "benchmark.edits=[fly]",
                 f"backbone.model={tiny_backbone}")  # fmt: skip
    assert answer.code == 2
    assert "no kind of edit 'fly'" in answer.err
    none = pds("compare", "benchmark=toybox_methods", "benchmark.seeds=0")
    assert none.code == 2 and "benchmark.seeds=0 is out of range" in none.err


@pytest.fixture
def untrained_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets benchmarks score with a probe that knows nothing."""
    torch.manual_seed(0)
    save_probe(Probe(), tmp_path / "probe.safetensors")
    for place in ("toybox", "captions"):
        monkeypatch.setattr(
            f"pds_cli.benchmarks.{place}.load_probe",
            lambda: load_probe(tmp_path / "probe.safetensors"),
        )


def test_the_caption_benchmark_runs(
    pds: Callable, tiny_backbone: Path, untrained_probe: None
) -> None:
    answer = pds("compare", "benchmark=captions", "benchmark.count=5", "benchmark.steps=2",
                 "out=bench", f"backbone.model={tiny_backbone}")  # fmt: skip
    assert answer.code == 0, answer.err
    rates = json.loads(Path("bench/results.json").read_text())
    assert rates.keys() == {*ATTRIBUTES, "all"}
    assert all(0 <= rate <= 1 for rate in rates.values())
    assert Path("bench/sheet.png").exists()


def test_the_edit_benchmark_runs(pds: Callable, tiny_backbone: Path, untrained_probe: None) -> None:
    answer = pds("compare", "benchmark=toybox", "benchmark.edits=[crown,add red ball]",
                 "benchmark.figures=2", "benchmark.tuning_figures=1", "benchmark.steps=2",
                 "benchmark.sweep.pds=['guidance=3.0,9.0','loss.identity=2.0']",
                 "benchmark.sweep.sds=['guidance=4.0']", "benchmark.sweep.dds=null", "out=bench",
                 f"backbone.model={tiny_backbone}")  # fmt: skip
    assert answer.code == 0, answer.err
    found = json.loads(Path("bench/results.json").read_text())
    assert found["rows"].keys() == {"sds", "dds", "pds", "true edits"}
    assert [row["edit"] for row in found["rows"]["pds"]] == 2 * ["crown"] + 2 * ["add red ball"]
    tried = [t["words"][-2:] for t in found["sweep"]["pds"]]
    assert tried == [[f"guidance={g}", "loss.identity=2.0"] for g in (3.0, 9.0)]
    assert found["sweep"]["sds"] == [], "one choice is no sweep"
    assert found["words"]["sds"] == ["loss=sds", "guidance=3.0", "guidance=4.0"]
    best = max(found["sweep"]["pds"], key=lambda t: t["balance"])
    assert found["words"]["pds"] == best["words"]
    assert all(row["lpips_truth"] < 1e-4 for row in found["rows"]["true edits"])
    assert "| pds |" in Path("bench/table.md").read_text()


def test_an_interrupted_edit_benchmark_goes_on_where_it_was(
    pds: Callable, tiny_backbone: Path, untrained_probe: None
) -> None:
    words = ("compare", "benchmark=toybox", "benchmark.edits=[crown]", "benchmark.figures=1",
             "benchmark.sweep=null", "benchmark.steps=2", "out=bench",
             f"backbone.model={tiny_backbone}")  # fmt: skip
    assert pds(*words).code == 0
    first = json.loads(Path("bench/results.json").read_text())
    logged = Path("bench/pds/000/metrics.jsonl").read_text()
    Path("bench/results.json").unlink()
    Path("bench/dds/000/checkpoint.safetensors").unlink()  # as if interrupted during dds
    assert pds(*words).code == 0
    again = json.loads(Path("bench/results.json").read_text())
    for name in ("pds", "dds"):  # taken over, and done again
        (before,), (after,) = (found["rows"][name] for found in (first, again))
        assert after["lpips_truth"] == pytest.approx(before["lpips_truth"], rel=1e-4)
    assert again["rows"]["pds"][0]["seconds"] == first["rows"]["pds"][0]["seconds"]
    assert Path("bench/pds/000/metrics.jsonl").read_text() == logged
    assert pds(*words, "benchmark.lr=0.5").code == 0
    other = json.loads(Path("bench/results.json").read_text())
    assert other["rows"]["pds"][0]["seconds"] != first["rows"]["pds"][0]["seconds"], "done anew"


def test_a_stopped_benchmark_keeps_nothing_half_edited(
    stopping: Callable[[str, int], None], tmp_path: Path
) -> None:
    backbone = EmbeddedBackbone("toybox", device="cpu")
    cases = all_cases(FIGURES[:1], ["crown"])
    options: dict[str, Any] = {"key": {"loss": "dds"}, "steps": 3, "lr": 0.01}
    stopping("edit", 1)
    with pytest.raises(KeyboardInterrupt):
        edit_cases(cases, backbone, DDS(guidance=3.0), RunFolder(tmp_path), **options)
    images, _ = edit_cases(cases, backbone, DDS(guidance=3.0), RunFolder(tmp_path), **options)
    whole, _ = edit_cases(cases, backbone, DDS(guidance=3.0), RunFolder(tmp_path / "b"), **options)
    assert torch.equal(images, whole)


def test_a_larger_backbone_edits_and_is_scored_at_its_own_size(tmp_path: Path) -> None:
    pytest.importorskip("pyvista")
    model = TINY_MODEL | {"autoencoder": TINY_MODEL["autoencoder"] | {"patch": 8}}
    parts = build_components(model, 128, [" ".join(vocabulary())])
    parts.autoencoder.fit_components(torch.rand(16, 3, 128, 128) * 2 - 1)
    cases = all_cases(FIGURES[:1], ["crown"])
    options: dict[str, Any] = {"steps": 1, "lr": 1e-9}
    images, _ = edit_cases(
        cases, EmbeddedBackbone.of(parts), DDS(guidance=3.0), RunFolder(tmp_path), **options
    )
    source = pictures(cases, "source", 128)
    assert images.shape == source.shape == (1, 3, 128, 128)
    assert psnr(pictures(cases, "source", 64), resize(source, 64, 64)) > 25
    (score,) = score_cases(source, cases, load_probe())
    assert score["lpips_source"] < 1e-6 < 0.02 < score["lpips_truth"]
    assert (score["success"], score["kept"]) == (0, 1)


def test_every_kind_of_edit_on_one_figure_each() -> None:
    cases = all_cases(rotate=True)
    assert [case.kind for case in cases] == list(EDITS)
    assert [case.source for case in cases] == [FIGURES[i % 8][0] for i in range(12)]


def test_some_methods_alone() -> None:
    methods = {name: [f"loss={name}"] for name in ("sds", "dds", "pds")}
    assert list(EditBenchmark(methods, only=["pds", "sds"]).methods) == ["sds", "pds"]
    with pytest.raises(UserError, match="no method 'pdss'; did you mean pds"):
        EditBenchmark(methods, only=["pdss"])


@pytest.mark.parametrize(
    "words",
    [
        ["loss=pds", "guidance=7.5", "loss.identity=0.2"],
        ["loss=pds_plus"],
        ["loss=sds_bridge", "loss.weighting=none"],
        ["editor=ddpm_inversion", "editor.strength=0.8"],
    ],
)
def test_a_method_is_what_an_edit_makes_of_the_same_words(
    words: list[str], pds: Callable, tiny_backbone: Path
) -> None:
    """Its class and all its options are those in the run folder of such an edit."""
    answer = pds("edit", "scene=figurine2d", "prompt=a robot", "steps=1", "render_every=0",
                 f"backbone.model={tiny_backbone}", *words, "out=run")  # fmt: skip
    assert answer.code == 0, answer.err
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    made = method("mine", words)
    group = words[0].partition("=")[0]
    assert made.node == config[group]
    built = made.build()
    assert f"{type(built).__module__}.{type(built).__name__}" == config[group]["_target_"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["loss=pdss"], "pdss"),
        (["loss.identiti=1"], "identiti"),
        (["loss.identity=inf"], "loss.identity=inf is out of range"),
        (["warmup=3"], "warmup=3 is not followed here"),
        (["loss=dataset_update", "editor=sdedit"], "for scenes of many views"),
        (["editor.steps=3"], "editor.steps=3 needs an editor"),
    ],
)
def test_words_that_a_method_cannot_be_made_of(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=r"benchmark\.methods\.mine=\[.*\]: ") as refusal:
        EditBenchmark({"mine": words})
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_sweep_of_a_method_is_words_with_several_values() -> None:
    swept = sweep_words("pds", ["guidance=5,7.5", "loss.identity=0.1"])
    assert swept == [["guidance=5", "loss.identity=0.1"], ["guidance=7.5", "loss.identity=0.1"]]
    assert sweep_words("pds", None) == [[]]
    with pytest.raises(UserError, match=r"benchmark\.sweep\.pds"):
        sweep_words("pds", ["guidance"])


@pytest.mark.parametrize("wrong", [{"m": 5}, {"m": "loss=pds"}, {"m": [5]}, {"m": {"a": 1}}])
def test_a_method_is_a_list_of_words(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"benchmark\.methods\.m.* for pds edit, such as"):
        EditBenchmark(wrong)
    with pytest.raises(UserError, match=r"benchmark\.sweep\.m.* for pds edit, such as"):
        EditBenchmark({"m": ["loss=pds"]}, wrong)
