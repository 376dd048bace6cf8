"""The paper's edits as experiments: each composes, says what the paper says, and runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Answer
from PIL import Image
from rendered_scene import photograph, ring, write_nerfstudio

from pds_cli.benchmarks.published import EditsBenchmark, photo_edits
from pds_cli.config import composed
from pds_cli.errors import UserError
from pds_cli.figures import frontier, paper
from pds_cli.figures.strips import HEIGHT, write_strips
from pds_cli.options.catalogue import catalogue, conf_dir
from pds_cli.scenes.svg import SVGScene
from pds_cli.scripts import run

ROOT = Path(__file__).parents[1]
EDITS = sorted(name for name in catalogue()["experiment"] if name.startswith("paper/"))
NERF = [name for name in EDITS if name.startswith("paper/nerf_")]
SVG = [name for name in EDITS if name.startswith("paper/svg_")]
SCENES = ("yuseung", "fangzhou", "farm", "bear", "plant", "doll", "tree", "drink", "table")


def test_all_published_edits_are_there() -> None:
    assert (len(NERF), len(SVG)) == (31, 7)
    assert set(EDITS) == {*NERF, *SVG, "paper/nerf"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small capture by the name of each published scene, and seven drawings."""
    pytest.importorskip("pyvista", reason="PyVista renders the photos of these tests")
    folder = tmp_path_factory.mktemp("published")
    shots = ring(4, width=48, height=40, fx=45.0, fy=45.0, cx=24.0, cy=20.0)
    capture = write_nerfstudio(folder / "capture", shots, photograph(shots))
    for scene in SCENES:
        (folder / scene).symlink_to(capture)
    (folder / "svg").mkdir()
    for name in SVG:
        drawing = '<path d="M2 2h9v9z" fill="red"/>'
        text = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><title>a {name}</title>'
        )
        file = folder / "svg" / f"{name.removeprefix('paper/svg_')}.svg"
        file.write_text(f"{text}{drawing}</svg>", encoding="utf-8")
    return folder


# One edit of each scene runs; the others differ from it in scene and texts alone.
FIRST = {name.split("_")[1]: name for name in reversed(NERF)}
REST = [name for name in NERF if name not in FIRST.values()]


def said(name: str) -> str:
    """The prompt, as the first line of an experiment's file says it."""
    return catalogue()["experiment"][name].partition(" → ")[2].removesuffix(" (the second)")


@pytest.mark.parametrize("name", REST)
def test_each_published_edit_composes(
    name: str, data: Path, pds: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDS_DATA", str(data))
    one, other = (
        yaml.safe_load((conf_dir() / f"experiment/{each}.yaml").read_text(encoding="utf-8"))
        for each in (name, FIRST[name.split("_")[1]])
    )
    assert one.keys() == other.keys() == {"defaults", "source", "prompt"}
    shown = pds("edit", f"experiment={name}", "--cfg", "job")
    assert shown.code == 0, shown.err
    found = yaml.safe_load(shown.out)["prompt"]
    assert found == ("???" if "famous" in name else f"a photo of {said(name)}")


@pytest.mark.parametrize("name", [*FIRST.values(), *SVG])
def test_each_published_edit_runs(
    name: str,
    data: Path,
    pds: Callable[..., Answer],
    tiny_backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PDS_DATA", str(data))
    words = ["backbone=toybox", f"backbone.model={tiny_backbone}", "steps=2", "render_every=0"]
    if name in NERF:
        words += ["representation.fit.steps=2", "representation.fit.cache=null", "turntable=0"]
        words += ["representation.render_size=16", "scene.max_size=16"]
        # The second stage is the same for all.
        words.append("refine.steps=2" if "bear" in name else "refine=none")
    if "famous" in name:
        refused = pds("edit", f"experiment={name}", *words)
        assert refused.code == 2 and "prompt" in refused.err
        words.append("prompt=a photo of Ada Lovelace")
    answer = pds("edit", f"experiment={name}", *words, f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    done: Any = read(tmp_path / "run/summary.json")
    assert done["status"] == "done"
    # What it did is what the file's first line says.
    config = (tmp_path / "run/config.yaml").read_text(encoding="utf-8")
    if "famous" not in name:
        assert f"{said(name)}\n" in config.partition("prompt:")[2].splitlines(True)[0]


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def made(*words: str) -> subprocess.CompletedProcess[str]:
    """What `make` would run."""
    ours = ("BACKBONE", "DATA", "PDS_DATA", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES")
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    command = ["make", "-n", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, env=kept, check=False)


def test_the_targets_take_a_backbone_and_data() -> None:
    page = "pds_cli.figures.paper outputs/paper {}/paper.md {}"
    plain, told = made("paper").stdout, made("paper", "INTO=docs/figures").stdout
    assert page.format("outputs/figures", "outputs/figures") in plain and "docs/" not in plain
    assert page.format("docs", "docs/figures") in told and "docs/figures/paper/nerf.webp" in told
    real = made("paper", "BACKBONE=sd15", "DATA=/photos").stdout
    assert "benchmark=published_nerf out=outputs/paper/sd15/nerf" in real
    assert "docs/paper.md" not in real and "docs/figures/paper" not in real
    alone = made("figure-image", "DATA=/photos")
    assert alone.returncode and "give BACKBONE=" in alone.stderr


def test_a_drawing_says_what_it_shows(data: Path) -> None:
    said = SVGScene(data / "svg/dog.svg")
    assert said.source_prompt == "a paper/svg_dog"
    assert SVGScene(data / "svg/dog.svg", "a cat").source_prompt == "a cat"
    with pytest.raises(UserError, match="source=… is needed"):
        SVGScene(data / "svg/dog.svg", " ")


# --- edits without ground truth ------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos that edits.yaml lists, and one that is not there."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("cat", "red"), ("tree", "green")):
        Image.new("RGB", (32, 32), colour).save(folder / f"{name}.png")
    entries = [
        {"image": f"{name}.png", "source": f"a photo of a {name}", "prompt": "a photo of a dog"}
        for name in ("cat", "tree", "lost")
    ]
    (folder / "edits.yaml").write_text(yaml.safe_dump(entries), encoding="utf-8")
    return folder


def test_photos_of_a_folder_are_edited_by_every_method_and_scored(
    pds: Callable[..., Answer], photos: Path, tiny_backbone: Path, warm_jobs: None
) -> None:
    words = ["backbone=toybox", f"backbone.model={tiny_backbone}", "steps=2", "render_every=0"]
    answer = pds(
        *("compare", "benchmark=published_image", f"benchmark.photos={photos}", "out=bench"),
        "benchmark.only=[dds,pds]", f"benchmark.overrides={json.dumps(words)}",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = read(Path("bench/results.json"))
    assert found["edits"] == ["00_cat", "01_tree"] and list(found["skipped"]) == ["02_lost"]
    assert set(found["rows"]) == {"dds", "pds"}
    assert [row["edit"] for row in found["rows"]["pds"] if row["lpips_source"]] == found["edits"]
    table = Path("bench/table.md").read_text(encoding="utf-8")
    assert "lost.png" in table and "| pds | 2 |" in table
    assert Path("bench/edits.png").is_file()
    strips = write_strips(Path("strips.png"), Path("bench"), ["dds", "pds", "sds"])
    # Two edits, each with its source and two methods.
    assert Image.open(strips).height > 6 * HEIGHT


def test_a_method_that_fails_leaves_the_others(
    pds: Callable[..., Answer], photos: Path, tiny_backbone: Path, warm_jobs: None
) -> None:
    listed = yaml.safe_load((photos / "edits.yaml").read_text(encoding="utf-8"))
    (photos / "edits.yaml").write_text(yaml.safe_dump(listed[:1]), encoding="utf-8")
    words = ["backbone=toybox", f"backbone.model={tiny_backbone}", "steps=2", "render_every=0"]
    answer = pds(
        *("compare", "benchmark=published_image", f"benchmark.photos={photos}", "out=bench"),
        "benchmark.only=[dds,pds]", 'benchmark.methods.dds=["loss=dds","loss.weighting=odd"]',
        f"benchmark.overrides={json.dumps(words)}",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = read(Path("bench/results.json"))
    assert set(found["rows"]) == {"pds"} and list(found["skipped"]) == ["00_cat, dds"]
    assert "loss.weighting=odd" in Path("bench/table.md").read_text(encoding="utf-8")
    assert Path("bench/00_cat/pds.png").is_file() and Path("bench/edits.png").is_file()


def test_no_edit_that_can_be_run_is_an_error(pds: Callable[..., Answer], photos: Path) -> None:
    answer = pds("compare", "benchmark=published_nerf", "out=bench", "benchmark.only=[pds]",
                 "benchmark.experiments=paper/nerf_plant*")  # fmt: skip
    assert answer.code == 2 and "no edit could be run" in answer.err and "plant" in answer.err
    assert not Path("bench/results.json").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {image: a.png, source: a cat}", "entry 0 must have image, source, prompt"),
        ("image: a.png", "entry 0 must have"),
        ("[", "not a YAML file"),
    ],
)
def test_a_wrong_list_of_photos_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "edits.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        photo_edits(tmp_path)


def test_one_kind_of_edits_at_a_time() -> None:
    wrongs: list[dict[str, Any]] = [{}, {"photos": ".", "experiments": "paper/*"}]
    for wrong in wrongs:
        with pytest.raises(UserError, match=r"one of benchmark\.edits"):
            EditsBenchmark({"pds": []}, **wrong)
    with pytest.raises(UserError, match="names none"):
        EditsBenchmark({"pds": []}, experiments="papers/*")


# --- the page ------------------------------------------------------------------------------------


def test_a_claim_is_judged_by_the_paired_difference() -> None:
    better = [{"kept": value} for value in (0.9, 0.8, 0.95, 0.85)]
    worse = [{"kept": value} for value in (0.5, 0.4, 0.55, 0.5)]
    mixed = [{"kept": value} for value in (0.2, 1.0, 0.9, 0.95)]
    scores = {"pds": better, "dds": worse, "sds": mixed}
    assert paper.paired(scores, "pds", "dds", "kept")[1] == "holds"
    assert paper.paired(scores, "dds", "pds", "kept")[1] == "does not hold"
    lower = {name: [{"lpips_truth": row["kept"]} for row in rows] for name, rows in scores.items()}
    assert paper.paired(lower, "dds", "pds", "lpips_truth")[1] == "holds"
    assert paper.paired(scores, "pds", "sds", "kept")[1] == "holds on average, within the noise"


def test_the_page_follows_the_numbers(tmp_path: Path) -> None:
    def rows(good: float) -> dict[str, float]:
        keys = ("success", "kept", "similarity", "psnr_truth", "consistency", "seconds")
        bad = {"lpips_truth": 1 - good, "lpips_source": 1 - good}
        return {**dict.fromkeys(keys, good), **bad}

    def write(pds: float) -> str:
        names = ("sds", "dds", "ddpm_inversion", "inversion2nerf", "instruct_nerf2nerf")
        found = {name: [rows(0.5)] * 3 for name in names}
        found |= {"pds": [rows(pds)] * 3, "pds_refined": [rows(pds + 0.05)] * 3}
        for part in ("nerf", "svg", "image"):
            (tmp_path / "out" / part).mkdir(parents=True, exist_ok=True)
            (tmp_path / "out" / part / "results.json").write_text(json.dumps({"rows": found}))
        figures = tmp_path / "figures"
        figures.mkdir(exist_ok=True)
        shutil.copy(ROOT / "docs/figures/toy2d.json", figures)
        words = [str(tmp_path / "out"), str(tmp_path / "paper.md"), str(figures)]
        assert run(paper.main, words) == 0
        text = (tmp_path / "paper.md").read_text(encoding="utf-8")
        # In one folder with its pictures the page finds them too.
        assert run(paper.main, [words[0], str(figures / "paper.md"), words[2]]) == 0
        beside = (figures / "paper.md").read_text(encoding="utf-8")
        assert beside == text.replace("](figures/", "](./") and "](figures/" in text
        return text

    good, bad = write(0.9), write(0.1)
    # The plane's three claims and refinement's three do not hang on these numbers.
    assert good.count("| does not hold |") == 0 and good.count("| holds |") > 15
    assert bad.count("| holds |") == 6 and "| does not hold |" in bad


def test_the_page_names_what_was_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(paper.main, [str(tmp_path), str(tmp_path / "paper.md")]) == 2
    assert "make figure-image" in capsys.readouterr().err
    assert not (tmp_path / "paper.md").exists()
    (tmp_path / "image").mkdir()
    for content, words in (
        ('{"rows": {"pds": [{"lpips_source": 0.1}]}}', "models that ship with the package"),
        ('{"edits": []}', "holds no scores by method: run make figure-image"),
    ):
        (tmp_path / "image/results.json").write_text(content)
        assert run(paper.main, [str(tmp_path), str(tmp_path / "paper.md")]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "paper.md").exists()


def test_the_committed_page_is_that_of_its_numbers() -> None:
    text = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    numbers = read(ROOT / "docs/figures/paper/numbers.json")
    assert text == paper.page(numbers, ROOT / "docs/figures")
    told = re.search(r"Of (\d+) claims (\d+) hold, (\d+) hold on average .+ and (\d+) do not", text)
    assert told
    cells = [line.rstrip(" |").rpartition("| ")[2] for line in text.splitlines()]
    counts = [cells.count(verdict) for verdict in paper.VERDICTS]
    assert [sum(counts), *counts] == [int(number) for number in told.groups()]


# --- the dial ------------------------------------------------------------------------------------


def test_the_dial_is_drawn_in_order(tmp_path: Path) -> None:
    def put(place: str, content: Any) -> None:
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "results.json").write_text(json.dumps(content), encoding="utf-8")

    row = {"success": 0.5, "similarity": 0.5, "lpips_source": 0.1, "lpips_truth": 0.2}
    dial = {name: [row] for name in ("id_8", "id_025", "id_0", "exact", "sds", "pds", "sources")}
    put("bench/methods", {"rows": {name: [row] for name in ("sds", "pds", "true edits")}})
    put("frontier/image", {"rows": {name: [row] for name in ("exact", "id_0", "id_8")}})
    put("frontier/svg", {"rows": {n: [{k: v for k, v in r[0].items() if k != "lpips_truth"}]
                                  for n, r in dial.items()}})  # fmt: skip
    put("frontier/nerf", {"rows": dial})
    (tmp_path / "docs").mkdir()
    assert run(frontier.main, [str(tmp_path), str(tmp_path / "docs")]) == 0
    assert "0.5" in (tmp_path / "docs/frontier.json").read_text(encoding="utf-8")
    text = (tmp_path / "docs/frontier.md").read_text(encoding="utf-8")
    drawings = text.split("## drawings")[1].split("##")[0]
    labels = [line.split(" | ")[0].strip("| ") for line in drawings.splitlines()[4:] if line]
    assert labels == ["PDS, exact", "PDS, identity 0", "PDS, identity 0.25", "PDS, identity 8",
                      "sds"]  # fmt: skip
    assert "LPIPS to truth" not in drawings and "LPIPS to truth" in text
    assert (tmp_path / "docs/frontier.webp").stat().st_size > 10_000


def test_the_dial_keeps_what_was_not_measured_again(tmp_path: Path) -> None:
    old = {"drawings": {"dds": {"similarity": 0.1}, "sds": {"similarity": 0.2}},
           "pictures": {"sds": {"success": 0.3}}}  # fmt: skip
    (tmp_path / "frontier/svg").mkdir(parents=True)
    rows = {
        "rows": {"dds": [{"similarity": 0.8, "seconds": 9}, {"similarity": 0.6}], "sources": []}
    }
    (tmp_path / "frontier/svg/results.json").write_text(json.dumps(rows), encoding="utf-8")
    numbers = frontier.merged(old, frontier.measured(tmp_path))
    assert list(numbers) == ["pictures", "drawings"]
    assert numbers["drawings"] == {
        "dds": {"similarity": pytest.approx(0.7)},
        "sds": {"similarity": 0.2},
    }
    with pytest.raises(UserError, match="make figure-frontier"):
        frontier.merged({}, {})


def test_the_published_settings() -> None:
    from omegaconf import OmegaConf

    base: Any = OmegaConf.load(conf_dir() / "experiment/paper/nerf.yaml")
    assert {"override /backbone": "sd15"} in list(base.defaults)
    sd15: Any = composed("edit", ["backbone=sd15"]).backbone.recommended.nerf
    assert (sd15.steps, sd15.guidance.pds) == (30000, 100.0)
