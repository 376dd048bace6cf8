"""Icon sets, pictures of them, their similarity model, and the benchmarks, on sets made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, Answer
from PIL import Image

from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.sampling import sample
from pds_cli.benchmarks import icons as benchmark
from pds_cli.benchmarks.icon_names import COMMON
from pds_cli.emoji.data import captions, make_dataset
from pds_cli.emoji.icons import PACKAGES, SETS, load_icons, load_set
from pds_cli.emoji.similarity import (
    IconSimilarity,
    icon_similarity,
    load_similarity,
    save_similarity,
)
from pds_cli.errors import UserError

BODIES = {
    "1f431": '<circle cx="18" cy="18" r="14" fill="#fc0"/><path d="M6 10L4 2L14 5Z" fill="#c80"/>',
    "1f34e": '<circle cx="18" cy="20" r="13" fill="#d22"/><path d="M17 2h2v6h-2z" fill="#531"/>',
    "2b50": '<path d="M18 2L22 14H34L24 21L28 34L18 26L8 34L12 21L2 14H14Z" fill="#fb3"/>',
    "1f1e6": '<rect width="36" height="36" fill="#09f"/>',
}
NAMES = {"1f431": "cat face", "1f34e": "red apple", "2b50": "star", "1f1e6": "regional indicator"}
GROUPS = {"1f431": 12, "1f34e": 42, "2b50": 59, "1f1e6": 97}


@pytest.fixture(scope="session")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `make icons` leaves it, with four icons."""
    folder = tmp_path_factory.mktemp("icons")
    modules = folder / "node_modules"
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 36 36">{}</svg>'
    twemoji = modules / PACKAGES["twemoji"]
    twemoji.mkdir(parents=True)
    for code, body in BODIES.items():
        (twemoji / f"{code}.svg").write_text(svg.format(body))
    for name in ("noto", "fluent"):
        path = modules / PACKAGES[name]
        path.mkdir(parents=True)
        listed = {f"icon-{code}": {"body": body} for code, body in BODIES.items()}
        (path / "icons.json").write_text(json.dumps({"icons": listed, "width": 36, "height": 36}))
        (path / "chars.json").write_text(json.dumps({code: f"icon-{code}" for code in BODIES}))
    names = modules / PACKAGES["names"]
    (names / "en").mkdir(parents=True)
    (names / "meta").mkdir()
    subgroups = {"12": "cat-face", "42": "food-fruit", "59": "sky-weather", "97": "flag"}
    (names / "meta/groups.json").write_text(json.dumps({"subgroups": subgroups}))
    records = [
        {
            "label": NAMES[c],
            "hexcode": c.upper(),
            "tags": ["thing", NAMES[c]],
            "subgroup": GROUPS[c],
        }
        for c in BODIES
    ]
    (names / "en/data.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="session")
def pictures(icons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("icon pictures")
    make_dataset(folder, icons, per_drawing=6, size=16)
    return folder


def test_icons_are_those_of_the_chosen_groups_that_all_sets_have(icons: Path) -> None:
    found = load_icons(icons)
    assert [icon.name for icon in found] == ["cat face", "red apple", "star"]
    assert all(set(icon.svgs) == set(SETS) for icon in found)
    assert found[0].tags == ("thing", "cat face") and found[0].subgroup == "cat-face"
    assert set(load_set(icons, "noto")) == set(BODIES)


def test_missing_sets_are_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make icons"):
        load_icons(tmp_path)


def test_captions_say_what_is_there(icons: Path) -> None:
    cat = load_icons(icons)[0]
    plain, colored = captions(cat, None), captions(cat, "blue")
    assert "a cat face" in plain and "a cat face, thing" in plain
    assert all("cat face" in text for text in plain + colored)
    assert sum("blue background" in text for text in colored) == len(colored) - 1


def test_pictures_depend_on_the_seed_alone(icons: Path, pictures: Path, tmp_path: Path) -> None:
    make_dataset(tmp_path, icons, per_drawing=6, size=16)
    lines = (pictures / "captions.jsonl").read_text().splitlines()
    assert (tmp_path / "captions.jsonl").read_text().splitlines() == lines
    assert len(lines) == 3 * 3 * 6
    files = [json.loads(line)["file"] for line in lines]
    assert sorted(files) == sorted(set(files))
    for name in files[:5]:
        assert (tmp_path / name).read_bytes() == (pictures / name).read_bytes()
    pixels = [np.asarray(Image.open(pictures / name)).astype(int) for name in files]
    assert len({p.tobytes() for p in pixels}) == len(files)


def test_pretraining_on_icons_from_end_to_end(
    pds: Callable[..., Answer], icons: Path, tmp_path: Path
) -> None:
    """Similarity learns three icons in a minute; the backbone's stages write a folder."""
    flat = [
        f"model.{part}={json.dumps(value)}".replace('"', "")
        for part, value in TINY_MODEL.items()
        if isinstance(value, dict)
    ]
    answer = pds(
        *("pretrain", *flat, f"data.icons={icons}", "data.folder=drawn", "data.per_drawing=30"),
        *("size=64", "into=made", "out=run", "stages=[decode,denoise,similarity]"),
        *("decode.steps=2", "denoise.steps=2", "decode.batch_size=4", "denoise.batch_size=4"),
        *("similarity.steps=60", "similarity.batch_size=24", "preview.prompts=[]"),
    )
    assert answer.code == 0, answer.err
    assert "retrieval: " in answer.out
    assert float(answer.out.split("retrieval: ")[1].split()[0]) > 0.8
    assert (tmp_path / "made/similarity.safetensors").is_file()
    names = pds(
        *("compare", "benchmark=icon_names", "backbone=emoji", "backbone.model=made"),
        *("benchmark.names=[cat face,star]", "benchmark.samples=2", "benchmark.steps=2"),
        "out=names",
    )
    assert names.code == 0, names.err
    assert set(json.loads((tmp_path / "names/results.json").read_text())["names"]) == {
        "cat face",
        "star",
    }
    assert (tmp_path / "names/samples.png").is_file()


def test_edits_of_icons_are_scored(
    pds: Callable[..., Answer],
    warm_jobs: None,
    tiny_backbone: Path,
    icons: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edit = benchmark.IconEdit("red apple", "fluent", "a cat face")
    monkeypatch.setattr(benchmark, "EDITS", (edit,))
    save_similarity(IconSimilarity(["a", "red", "cat"]), tiny_backbone / "similarity.safetensors")
    answer = pds(
        *("compare", "benchmark=icon_edits", "backbone=emoji", f"backbone.model={tiny_backbone}"),
        *(f"benchmark.icons={icons}", "out=table", "~benchmark.methods.sds"),
        'benchmark.methods.dds=["loss=dds","steps=3"]',
        'benchmark.methods.pds=["loss=pds","steps=3"]',
    )
    assert answer.code == 0, answer.err
    rows = json.loads((tmp_path / "table/results.json").read_text())["rows"]
    assert set(rows) == {"sources", "dds", "pds"}
    assert rows["sources"][0]["lpips_source"] == 0
    assert rows["pds"][0]["points_moved"] > 0 and rows["pds"][0]["lpips_source"] > 0
    assert "red apple to cat face" in (tmp_path / "table/table.md").read_text()
    assert (tmp_path / "table/edits.png").is_file()


def test_a_similarity_survives_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = IconSimilarity.reading(["a cat face", "a star"]).eval()
    save_similarity(model, tmp_path / "similarity.safetensors")
    again = load_similarity(tmp_path / "similarity.safetensors")
    images = torch.rand(2, 3, 128, 128)
    one, two = (m.score(images, ["a star", "a cat"]) for m in (model, again))
    assert one.shape == (2, 2) and float(one.abs().max()) <= 1.0001
    torch.testing.assert_close(one, two, rtol=0, atol=2e-3)
    (tmp_path / "similarity.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="missing or damaged"):
        load_similarity(tmp_path / "similarity.safetensors")


def test_prompts_of_the_edits_are_names_of_icons() -> None:
    assert len({edit.name for edit in benchmark.EDITS}) == len(benchmark.EDITS) == 12
    assert benchmark.EDITS[0].source == "a cat face"
    assert len(set(COMMON)) == 40


# --- what ships ----------------------------------------------------------------------------------


@torch.no_grad()
def test_the_shipped_backbone_draws_what_it_is_told() -> None:
    """Two samples for each of ten names, found again among the forty by the shipped similarity."""
    names = ["red heart", "blue heart", "red apple", "automobile", "smiling face with sunglasses"]
    names += ["carrot", "grinning face", "rose", "strawberry", "umbrella"]
    backbone = EmbeddedBackbone("emoji", device="cpu")
    judge = icon_similarity("emoji")
    images = torch.cat([sample(backbone, name, 2, steps=15, guidance=3.0) for name in names])
    found = judge.score(images, COMMON).argmax(1)
    wanted = torch.tensor([COMMON.index(name) for name in names]).repeat_interleave(2)
    assert float((found == wanted).float().mean()) >= 0.8


def test_the_default_edit_of_a_drawing(pds: Callable[..., Answer], tmp_path: Path) -> None:
    """scene=cat_icon takes the shipped backbone of icons and its settings; a few steps of it."""
    answer = pds("edit", "scene=cat_icon", "prompt=a dog face", "steps=4", "out=run")
    assert answer.code == 0, answer.err
    assert "never saw" not in answer.err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["backbone"], summary["representation"]) == ("emoji", "svg")
    assert summary["metrics"]["points_moved"] > 0
    assert (tmp_path / "run/exports/result.svg").is_file()
