"""Edits that begin where another run ended, and runs that go on to more steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Answer
from helpers import summary
from PIL import Image

Pds = Callable[..., Answer]
HAT, CROWN = "a photo of a man wearing a wizard hat", "a photo of a man wearing a crown"


def config(folder: str) -> dict[str, Any]:
    return yaml.safe_load((Path(folder) / "config.yaml").read_text(encoding="utf-8"))


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def content(folder: str) -> dict[str, bytes]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in paths if path.name != "lock"}


@pytest.fixture
def first(pds: Pds, tiny_backbone: Path) -> list[str]:
    """A finished edit of a picture in `first`; returns the words of another such."""
    words = [f"backbone.model={tiny_backbone}", "render_every=0", "lr_schedule=constant",
             "loss.schedule=uniform", "steps=3"]  # fmt: skip
    assert pds("edit", f"prompt={HAT}", *words, "out=first", "suffix=, at night").code == 0
    return words


# --- init= ---------------------------------------------------------------------------------------


def test_a_picture_is_edited_further(pds: Pds, first: list[str]) -> None:
    before = content("first")
    answer = pds("edit", "init=first", f"prompt={CROWN}", "steps=2", "render_every=0")
    assert answer.code == 0, answer.err
    assert content("first") == before
    (folder,) = Path("outputs/edit/figurine2d/pds").iterdir()
    facts, settings = summary(str(folder)), config(str(folder))
    assert facts["source_prompt"] == f"{HAT}, at night" and facts["init"] == "first"
    assert (facts["scene"], facts["representation"]) == ("figurine2d", "image")
    assert settings["backbone"] == config("first")["backbone"]
    assert settings["suffix"] == "" and settings["loss"]["guidance"] is not None
    source = next((folder / "renders").glob("source_*.png"))
    assert np.array_equal(pixels(str(source)), pixels("first/exports/result.png"))
    assert "psnr_truth" not in facts["metrics"], "the true edit is of another source"
    said = pds("edit", "init=first", f"prompt={CROWN}", "source=a man", "steps=1", "out=said")
    assert said.code == 0 and summary("said")["source_prompt"] == "a man"
    third = pds("edit", "init=said", f"prompt={HAT}", "loss=dds", "steps=1", "out=third")
    assert third.code == 0 and summary("third")["source_prompt"] == CROWN
    assert summary("third")["scene"] == "figurine2d"
    Path("said/checkpoint.safetensors").unlink(missing_ok=True)
    assert pds("edit", "resume=third").code == 0


def test_a_drawing_is_edited_further(pds: Pds, tiny_backbone: Path) -> None:
    Path("drawing.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">'
        '<circle id="sun" cx="32" cy="32" r="20" fill="#c33"/></svg>'
    )
    words = ["scene=svg", "scene.path=drawing.svg", "source=a cat", "backbone=toybox"]
    words += [f"backbone.model={tiny_backbone}", "steps=1", "render_every=0", "out=first"]
    assert pds("edit", "prompt=a dog", *words).code == 0
    answer = pds("edit", "init=first", "prompt=a bear", "steps=1", "out=second")
    assert answer.code == 0, answer.err
    scene = config("second")["scene"]
    assert scene["path"] == "first/exports/result.svg"
    assert scene["size"] == config("first")["scene"]["size"]
    assert summary("second")["source_prompt"] == "a dog"
    assert (summary("second")["scene"], summary("second")["representation"]) == ("svg", "svg")
    assert 'id="sun"' in Path("second/exports/result.svg").read_text()


def test_what_is_no_finished_edit_is_no_beginning(
    pds: Pds, first: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("empty").mkdir()
    ours = [f"prompt={CROWN}", "out=new", "steps=1"]
    for words, said in [
        (["init=nowhere"], "init=nowhere is not a folder"),
        (["init="], "init="),
        (["init=empty"], "holds no run.json"),
        (["init=first", "scene=toy2d"], "leave out scene="),
        (["init=first", "scene.source_prompt=x"], "leave out scene="),
        (["init=first", "fit=first"], "leave out scene="),
        (["fit=first"], "fit=first is for 3D scenes"),
    ]:
        answer = pds("edit", *ours, *words)
        assert answer.code == 2 and said in answer.err, (words, answer)
    settings = Path("first/config.yaml")
    settings.write_text(settings.read_text().replace("lr: ", "lr: 1"))
    assert "not what the run began with" in pds("edit", *ours, "init=first").err
    Path("first/exports/result.png").unlink()
    assert not Path("new").exists()


# --- more steps ----------------------------------------------------------------------------------


def test_more_steps_give_what_a_longer_run_gives(pds: Pds, first: list[str]) -> None:
    words = [*first[:4], f"prompt={HAT}", "suffix=, at night", "checkpoint_every=2"]
    assert pds("edit", *words, "steps=7", "out=whole").code == 0
    fewer = pds("edit", "resume=first", "steps=2")
    assert fewer.code == 2 and "2 is less than its 3" in fewer.err
    for steps in (5, 7):
        answer = pds("edit", "resume=first", f"steps={steps}")
        assert answer.code == 0, answer.err
        assert f"goes on to {steps} steps" in answer.err
        assert summary("first")["steps"] == steps == config("first")["steps"]
    lines = Path("first/metrics.jsonl").read_text(), Path("whole/metrics.jsonl").read_text()
    assert lines[0] == lines[1]
    results = [Path(run, "exports/result.png").read_bytes() for run in ("first", "whole")]
    assert results[0] == results[1]
    again = pds("edit", "resume=first")
    assert again.code == 0 and "goes on" not in again.err
    assert Path("first/metrics.jsonl").read_text() == lines[1]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lr_schedule=cosine", "lr_schedule=cosine"),
        ("loss=pds_plus lr_schedule=constant", "loss.schedule=annealed"),
        ("refine=sdedit lr_schedule=constant loss.schedule=uniform", "a refinement follows"),
    ],
)
def test_a_run_that_depends_on_its_end_has_no_more_steps(
    pds: Pds, tiny_backbone: Path, word: str, said: str
) -> None:
    words = [
        f"prompt={HAT}",
        f"backbone.model={tiny_backbone}",
        "steps=2",
        "out=run",
        *word.split(),
    ]
    words += ["refine.steps=1", "refine.editor.steps=1"] if "refine" in word else []
    assert pds("edit", *words, "render_every=0").code == 0
    before = content("run")
    answer = pds("edit", "resume=run", "steps=4")
    assert answer.code == 2 and said in answer.err and "init=" in answer.err
    assert content("run") == before


# --- 3D ------------------------------------------------------------------------------------------

FIELD = [
    "representation.grid={levels: 4, features: 2, log2_table: 10, base_resolution: 8, growth: 1.7}",
    "representation.hidden=16", "representation.occupancy=16", "representation.step=0.1",
    "representation.rays=128", "representation.update_every=4", "representation.fit.steps=6",
    "representation.fit.views_per_step=2", "scene=figurine", "representation=nerf", "scene.size=64",
    "scene.count=3",
    "scene.held_out=1", "device=cpu",
]  # fmt: skip


def test_a_named_fit_and_an_edit_of_an_edit(
    pds: Pds, tiny_backbone: Path, trained: list[str]
) -> None:
    pytest.importorskip("pyvista", reason="PyVista renders the small pictures of this test")
    stages = trained
    assert pds("fit", *FIELD, "out=fit", "representation.fit.cache=null").code == 0
    assert stages == ["fit"] * 6
    edit = [f"backbone.model={tiny_backbone}", "representation.render_size=64", "steps=2"]
    edit += ["refine=none", "turntable=0", "render_every=0", "representation.fit.cache=null"]
    words = [*FIELD, *edit]
    answer = pds("edit", *words, f"prompt={HAT}", "fit=fit", "out=first")
    assert answer.code == 0, answer.err
    assert "fit: fit/exports/result.safetensors" in answer.out
    assert summary("first")["fit"] == "fit/exports/result.safetensors"
    assert stages == ["fit"] * 6 + ["edit"] * 2
    other = pds("edit", *words, f"prompt={HAT}", "fit=fit", "out=x", "representation.hidden=8")
    assert other.code == 2 and "does not fit this edit" in other.err and not Path("x").exists()
    fewer = pds("edit", *words, f"prompt={HAT}", "fit=fit", "out=x", "scene.count=2")
    assert fewer.code == 2 and "other views" in fewer.err
    wrong = pds("edit", *words, f"prompt={HAT}", "fit=first", "out=x")
    assert wrong.code == 2 and "is a run of pds edit, not of pds fit" in wrong.err

    more = ["init=first", f"prompt={CROWN}", "steps=1", "turntable=0", "render_every=0"]
    answer = pds("edit", *more, "out=second")
    assert answer.code == 0, answer.err
    assert stages[8:] == ["edit"]
    facts = summary("second")
    assert facts["source_prompt"] == HAT and facts["scene"] == "figurine"
    assert facts["fit"] == "first/exports/result.safetensors"
    for source in Path("second/renders").glob("source_*.png"):
        result = Path("first/renders") / source.name.replace("source", "result")
        assert np.abs(pixels(str(source)) - pixels(str(result))).max() <= 1
    assert list(Path("second/renders").glob("source_*.png"))
