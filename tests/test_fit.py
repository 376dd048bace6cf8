"""`pds fit`, its cache, and `pds edit` on a fitted scene, from end to end and through stops.

Pictures, networks and the backbone are tiny: these say nothing about how good a fit is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Answer
from helpers import SMALL_FIGURINE, records, summary

from pds_cli.runs.checkpoint import load_checkpoint

pytest.importorskip("pyvista", reason="PyVista renders the small pictures of these tests")

NERF = "exports/result.safetensors"
Run = Callable[..., Answer]


@pytest.fixture
def fit(pds: Callable[..., Answer]) -> Run:
    """`pds fit` of a tiny scene for a few steps; the cache is in this test's own folder."""
    return lambda *words: pds("fit", *SMALL_FIGURINE, *words)


@pytest.fixture
def edit(pds: Callable[..., Answer], tiny_backbone: Path) -> Run:
    """`pds edit` of that scene on the tiny backbone, for a few steps."""
    words = ["prompt=a photo of a man wearing a wizard hat", f"backbone.model={tiny_backbone}"]
    words += ["representation.render_size=64", "steps=4", "hold_view=2"]
    words += ["refine=none", "turntable=2"]
    return lambda *more: pds("edit", *SMALL_FIGURINE, *words, *more)


def kept() -> list[Path]:
    return sorted(Path("outputs/fits").glob("*.safetensors"))


def same_field(a: Path | str, b: Path | str) -> bool:
    one, other = (load_checkpoint(Path(run) / NERF)[0] for run in (a, b))
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# --- the fit -------------------------------------------------------------------------------------


def test_a_fit_leaves_a_complete_run_folder(fit: Run) -> None:
    answer = fit("out=run", "render_every=6")
    assert answer.code == 0, answer.err
    run = Path("run")
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    wanted = {"config.yaml", "environment.json", "summary.json", "metrics.jsonl", "report.html"}
    wanted |= {"strip.png", NERF, "exports/cameras.json"}
    wanted |= {f"renders/fit_{step:06d}_eval_00.png" for step in (0, 6, 12)}
    wanted |= {f"renders/{kind}_eval_0{i}.png" for kind in ("source", "result") for i in (0, 1)}
    assert wanted <= found, wanted - found
    facts = summary(run)
    assert (facts["verb"], facts["scene"], facts["status"]) == ("fit", "figurine", "done")
    assert (facts["steps"], facts["held_out_views"]) == (12, 2)
    assert facts["metrics"].keys() == {"psnr", "ssim", "lpips"}
    assert "2 held-out views: psnr" in answer.out
    assert [row["step"] for row in records(run)] == list(range(1, 13))
    cameras = json.loads((run / "exports/cameras.json").read_text())
    assert [one["name"] for one in cameras["train"]] == ["view_00", "view_01", "view_02"]
    assert [one["name"] for one in cameras["eval"]] == ["eval_00", "eval_01"]
    assert not list(run.rglob("*.tmp"))


def test_the_measured_psnr_is_that_of_the_saved_pictures(fit: Run) -> None:
    import numpy as np
    from PIL import Image

    assert fit("out=run").code == 0
    values = []
    for i in (0, 1):
        a, b = (
            np.asarray(Image.open(f"run/renders/{kind}_eval_0{i}.png").convert("RGB")) / 255.0
            for kind in ("source", "result")
        )
        values.append(-10 * np.log10(((a - b) ** 2).mean()))
    assert summary("run")["metrics"]["psnr"] == pytest.approx(np.mean(values), abs=0.05)


def test_a_seed_fixes_the_fit(fit: Run) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert fit(f"out={out}", f"seed={seed}", "representation.fit.cache=null").code == 0
    assert same_field("a", "b") and records("a") == records("b")
    assert not same_field("a", "c")
    assert not kept()


def test_the_second_fit_takes_what_is_kept(fit: Run, trained: list[str]) -> None:
    assert fit("out=a").code == 0
    assert len(trained) == 12 and len(kept()) == 1
    trained.clear()
    answer = fit("out=b")
    assert answer.code == 0, answer.err
    assert trained == []
    assert same_field("a", "b")
    assert summary("a")["metrics"] == summary("b")["metrics"]
    assert Path("b/report.html").is_file()


def test_what_changes_the_fit_is_kept_apart_and_the_rest_is_not(
    fit: Run, trained: list[str]
) -> None:
    assert fit("out=run").code == 0
    for count, word in enumerate(
        ["representation.hidden=8", "representation.fit.steps=11", "seed=1", "scene.count=2",
         "scene.figure.hat=crown"],
        start=2,
    ):  # fmt: skip
        trained.clear()
        assert fit("out=run", "overwrite=true", word).code == 0
        assert trained and len(kept()) == count, word
    trained.clear()
    for word in ("representation.chunk=999", "representation.explore=0.5", "render_every=0",
                 "representation.render_size=32", "scene.held_out=1", "source=a toy"):  # fmt: skip
        assert fit("out=run", "overwrite=true", word).code == 0
        assert trained == [], word


def test_a_damaged_fit_in_the_cache_is_said_and_made_anew(fit: Run) -> None:
    assert fit("out=run").code == 0
    (file,) = kept()
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    answer = fit("out=again")
    assert answer.code == 0
    assert "the kept fit is not used" in answer.err and file.name in answer.err
    assert "Traceback" not in answer.err and file.read_bytes() == whole


def test_a_stopped_fit_goes_on_to_the_same_result(
    fit: Run, pds: Run, stopping: Callable[[str, int], None]
) -> None:
    off = "representation.fit.cache=null"
    assert fit("out=whole", off).code == 0
    stopping("fit", 7)
    answer = fit("out=run", off)
    assert answer.code == 130
    assert "stopped; go on with: pds fit resume=" in answer.out
    assert len(records("run")) == 7 and not Path("run/summary.json").exists()
    answer = pds("fit", "resume=run")
    assert answer.code == 0, answer.err
    assert same_field("run", "whole")
    assert records("run") == records("whole")
    assert summary("run")["metrics"] == summary("whole")["metrics"]


def test_a_fit_of_what_needs_none_is_refused(fit: Run) -> None:
    answer = fit("representation=image")
    assert answer.code == 2
    assert answer.err.count("\n") == 1 and "Traceback" not in answer.err


# --- an edit of what was fitted ------------------------------------------------------------------


def test_an_edit_fits_first_and_keeps_the_fit(edit: Run, fit: Run, trained: list[str]) -> None:
    answer = edit("out=run")
    assert answer.code == 0, answer.err
    assert trained == ["fit"] * 12 + ["edit"] * 4
    facts = summary("run")
    assert (facts["verb"], facts["scene"], facts["steps"]) == ("edit", "figurine", 4)
    assert (facts["representation"], facts["backbone"]) == ("nerf", "toybox")
    assert {"psnr_source", "psnr_truth"} <= facts["metrics"].keys()
    assert Path("run/exports/turntable_before.gif").is_file()
    assert Path("run/exports/turntable.gif").is_file()
    assert Path("run", NERF).is_file() and Path("run/renders/result_view_02.png").is_file()
    trained.clear()
    assert edit("out=again", "render_every=0").code == 0
    assert trained == ["edit"] * 4
    assert same_field("run", "again")
    trained.clear()
    assert fit("out=fit").code == 0
    assert trained == [], "pds fit and pds edit share their fits"
    assert not same_field("run", "fit"), "the edit moved the field"


REFINE = ["refine=sdedit", "refine.steps=4", "refine.every=2", "refine.batch_size=2",
          "refine.lr=0.01", "refine.editor.steps=4", "refine.editor.strength=0.5",
          "refine.editor.guidance=2"]  # fmt: skip


@pytest.mark.parametrize(("stage", "step"), [("fit", 5), ("edit", 2), ("refine", 3)])
def test_a_stopped_edit_goes_on_to_the_same_result(
    stage: str, step: int, edit: Run, pds: Run, stopping: Callable[[str, int], None],
    trained: list[str],
) -> None:  # fmt: skip
    off = "representation.fit.cache=null" if stage == "fit" else "checkpoint_every=3"
    assert edit("out=whole", off, *REFINE).code == 0
    assert trained[-8:] == ["edit"] * 4 + ["refine"] * 4
    stopping(stage, step)
    answer = edit("out=run", off, *REFINE)
    assert answer.code == 130, answer.err
    assert "go on with: pds edit resume=" in answer.out
    answer = pds("edit", "resume=run")
    assert answer.code == 0, answer.err
    assert same_field("run", "whole")
    assert records("run") == records("whole")
    assert summary("run")["metrics"] == summary("whole")["metrics"]
    assert summary("run")["status"] == "done"
