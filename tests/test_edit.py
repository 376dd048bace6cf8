"""`pds edit` from end to end: run folders, determinism, interruption, sweeps, losses of others.

The backbone is tiny and untrained, so these say nothing about how good an edit is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT, Answer
from helpers import records, summary
from PIL import Image

from pds_cli.verbs.edit import main as edit_main

PROMPT = "prompt=a photo of a man wearing a wizard hat"
Edit = Callable[..., Answer]


@pytest.fixture
def edit(pds: Callable[..., Answer], tiny_backbone: Path) -> Edit:
    """`pds edit` on the tiny backbone, for a few steps."""

    def run(*words: str, prompt: str = PROMPT) -> Answer:
        return pds("edit", prompt, f"backbone.model={tiny_backbone}", "steps=6", *words)

    return run


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def result(folder: Path | str) -> tuple[bytes, str]:
    folder = Path(folder)
    return (folder / "exports/result.png").read_bytes(), (folder / "metrics.jsonl").read_text()


# --- one run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["sds", "dds", "pds"])
@pytest.mark.parametrize("parametrisation", ["pixels", "latent"])
def test_an_edit_leaves_a_complete_run_folder(edit: Edit, loss: str, parametrisation: str) -> None:
    answer = edit(
        f"loss={loss}", f"representation.parametrisation={parametrisation}", "out=run",
        "render_every=4", "lr=0.04", "scene.size=64",  # the tiny backbone's
    )  # fmt: skip
    assert answer.code == 0, answer.err
    run = Path("run")
    assert f"report: {run.absolute()}" in answer.out or "report: run/report.html" in answer.out
    found = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    renders = ["source_front", "result_front", "truth_front", *(f"edit_{s:06d}_front" for s in
               (0, 4, 6))]  # fmt: skip
    wanted = {"run.json", "config.yaml", "environment.json", "metrics.jsonl", "summary.json",
              "report.html", "strip.png", "checkpoint.safetensors", "exports/result.png",
              "exports/masks/front.png",
              *(f"renders/{name}.png" for name in renders)}  # fmt: skip
    assert {f for f in found if not f.startswith(".pds/") and not f.endswith(".log")} == wanted
    listed = set((run / ".pds/files.txt").read_text().splitlines())
    assert listed == wanted | {"edit.log"}
    assert [(r["stage"], r["step"]) for r in records(run)] == [("edit", n) for n in range(1, 7)]
    assert {"loss", "loss_ema", "grad_norm", "lr"} <= records(run)[0].keys()
    facts = summary(run)
    assert (facts["verb"], facts["scene"], facts["loss"]) == ("edit", "figurine2d", loss)
    assert (facts["status"], facts["steps"]) == ("done", 6)
    assert facts["source_prompt"] == "a photo of a man"
    assert facts["metrics"].keys() == {
        f"{m}_{r}" for m in ("psnr", "ssim", "lpips") for r in ("source", "truth")
    }
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    recommended = config["backbone"]["recommended"]["guidance"]
    assert config["guidance"] == config["loss"]["guidance"] == recommended[loss]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["seed"] == 0 and environment["versions"]["torch"] != "not installed"
    assert "wizard hat" in (run / "report.html").read_text(encoding="utf-8")
    if parametrisation == "pixels":
        # Adam moves a pixel by about lr a step at first.
        moved = pixels(run / "exports/result.png") - pixels(run / "renders/source_front.png")
        assert 0 < np.abs(moved).max() < 255 * 0.25


@pytest.mark.parametrize(
    ("prompt", "suffix", "passage"),
    [
        ("a photo of a man in a tuxedo", "", "'in a tuxedo'"),
        ("a photo of a robot", ", oil painting", "'oil painting'"),
    ],
)
def test_a_prompt_that_is_not_understood_whole_is_not_scored_against_a_truth(
    edit: Edit, prompt: str, suffix: str, passage: str
) -> None:
    answer = edit(f"suffix={suffix}", "steps=1", "out=run", prompt=f"prompt={prompt}")
    assert answer.code == 0, answer.err
    assert f"no known true edit: the toybox does not understand {passage}" in answer.err
    assert not Path("run/renders/truth_front.png").exists()
    assert summary("run")["metrics"].keys() == {"psnr_source", "ssim_source", "lpips_source"}


def test_a_prompt_that_asks_for_nothing_is_said_to(edit: Edit) -> None:
    answer = edit("steps=1", "out=run", prompt="prompt=a photo of a man in green")
    assert answer.code == 0 and "its true edit is the source itself" in answer.err
    found = summary("run")["metrics"]
    assert found["lpips_truth"] == found["lpips_source"]


def test_a_photo_is_exported_at_its_own_size(edit: Edit, tmp_path: Path) -> None:
    x, y = np.meshgrid(np.arange(150), np.arange(90))
    photo = np.stack([x, y * 2, 255 - x], -1).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "my photo.jpg", quality=95)
    answer = edit("scene=image", f"scene.path={tmp_path}/my photo.jpg", "out=run",
                  "source=a photo of a robot", "steps=2")  # fmt: skip
    assert answer.code == 0, answer.err
    with Image.open("run/exports/result.png") as exported:
        assert exported.size == (150, 90)
    # Two small steps: the picture is still the photo.
    assert np.abs(pixels("run/exports/result.png") - photo).mean() < 25
    assert summary("run")["source_prompt"] == "a photo of a robot"
    assert "psnr_truth" not in summary("run")["metrics"]


def test_a_seed_fixes_the_result(edit: Edit) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert edit(f"out={out}", f"seed={seed}", "representation.initial=noise").code == 0
    assert result("a") == result("b")
    assert result("a")[0] != result("c")[0]


def test_a_second_run_in_a_folder_replaces_the_first(edit: Edit) -> None:
    assert edit("out=run", "steps=9", "render_every=3").code == 0
    Path("run/notes.txt").write_text("mine")
    refused = edit("out=run", "steps=3", "render_every=3")
    assert refused.code == 2 and "resume=run" in refused.err and "overwrite=true" in refused.err
    assert len(records(Path("run"))) == 9
    assert edit("out=run", "steps=3", "render_every=3", "overwrite=true").code == 0
    assert len(records("run")) == 3
    assert not Path("run/renders/edit_000009_front.png").exists()
    assert Path("run/notes.txt").exists(), "only what pds wrote is removed"


def test_early_stopping_is_said_in_the_summary(edit: Edit) -> None:
    assert edit("out=run", "steps=40", "early_stop={patience: 2, min_delta: 0.9}").code == 0
    assert summary("run")["steps"] == len(records("run")) < 40


def test_recommended_settings_fill_what_was_not_said(edit: Edit) -> None:
    assert edit("loss=dds", "guidance=2", "loss.source_guidance=4", "out=run").code == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert (config["loss"]["guidance"], config["loss"]["source_guidance"]) == (2.0, 4.0)
    recommended = config["backbone"]["recommended"]
    assert config["lr"] == recommended["lr"]
    assert config["source_guidance"] == recommended["source_guidance"]
    assert config["lr_schedule"] == recommended["lr_schedule"]
    assert config["representation"]["parametrisation"] == recommended["parametrisation"]


def test_an_option_of_a_loss_takes_what_is_recommended_for_that_loss(edit: Edit) -> None:
    told = ["backbone.recommended.guidance.pds_plus=4"]
    for out, words in (("own", told), ("kin", ["~backbone.recommended.guidance.pds_plus"])):
        assert edit("steps=1", "loss=pds_plus", *words, f"out={out}").code == 0
    own, kin = (yaml.safe_load(Path(f"{out}/config.yaml").read_text()) for out in ("own", "kin"))
    recommended = own["backbone"]["recommended"]["guidance"]
    assert own["loss"]["guidance"] == recommended["pds_plus"] != recommended["pds"]
    assert kin["loss"]["guidance"] == recommended["pds"]
    settings = own["backbone"]["recommended"]
    assert own["loss"]["identity"] == settings["pds_plus"]["identity"] != settings["identity"]


def test_a_loss_follows_the_recommended_identity_unless_told(edit: Edit) -> None:
    assert edit("steps=1", "out=run").code == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["loss"]["identity"] == config["backbone"]["recommended"]["identity"] != 2.0
    assert edit("steps=1", "loss.identity=2", "out=told").code == 0
    assert yaml.safe_load(Path("told/config.yaml").read_text())["loss"]["identity"] == 2.0


@pytest.mark.parametrize("words", [[], ["out=run", "loss=dds"]], ids=["default", "out"])
def test_where_a_run_goes(edit: Edit, words: list[str]) -> None:
    assert edit("steps=1", *words).code == 0
    base = Path("run") if words else Path("outputs/edit/figurine2d/pds")
    found = [path.parent for path in Path().rglob("summary.json")]
    assert found == [base] if words else found[0].parent == base


def test_unknown_words_are_named_with_the_nearest_known_ones(
    edit: Edit, pds: Callable[..., Answer], tiny_backbone: Path
) -> None:
    answer = edit("steps=1", prompt="prompt=a photo of a robott with a moustache")
    assert answer.code == 0
    assert "'robott'; the nearest it knows: robot" in answer.err
    assert "'moustache'" in answer.err
    assert "backbone=sd15" in answer.err
    assert "'photo'" not in answer.err
    answer = pds("sample", "prompt=a wizzard", f"backbone.model={tiny_backbone}", "n=1", "steps=1")
    assert answer.code == 0
    assert "'wizzard'; the nearest it knows: wizard" in answer.err
    assert "backbone=sd15" in answer.err
    assert "backbone=sd15" not in edit("steps=1").err


def test_a_text_that_looks_like_an_interpolation_is_a_text(edit: Edit) -> None:
    text = "a robot ${prompt} at $5 \\${x}"
    assert edit("out=run", prompt=f"prompt={text}").code == 0
    assert summary("run")["prompt"] == text
    assert edit("resume=run", prompt=f"prompt={text}").code == 0
    assert summary("run")["prompt"] == text


# --- interruption --------------------------------------------------------------------------------

WAITING_LOSS = '''
import time
from pathlib import Path
from pds_cli.losses.dds import DDS

class Waiting(DDS):
    """DDS that waits for the test to do something to the process at half time, once."""
    def __call__(self, *args, progress=0.0, **kwargs):
        if progress == 0.5 and not Path("reached").exists():
            Path("reached").touch()
            while not Path("go").exists():
                time.sleep(0.01)
        return super().__call__(*args, progress=progress, **kwargs)
'''
LOSS_YAML = "# A loss of the test\n_target_: {target}\nguidance: null\nsource_guidance: null\n"


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], list[str]]:
    """Puts a module and a YAML for it outside the package; returns the words that use it."""

    def put(module: str, source: str) -> list[str]:
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / "elsewhere"
        (folder / "conf/loss").mkdir(parents=True)
        (folder / f"{module}.py").write_text(textwrap.dedent(source))
        target = f"{module}.{source.split('class ')[1].split('(')[0]}"
        (folder / f"conf/loss/{module}.yaml").write_text(LOSS_YAML.format(target=target))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{folder}")
        monkeypatch.delitem(sys.modules, module, raising=False)
        return ["--config-dir", str(folder / "conf"), f"loss={module}"]

    return put


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits for a condition while the process lives."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the process hangs"
        time.sleep(0.02)


def start(words: list[str]) -> subprocess.Popen[str]:
    """`pds edit` in a process of its own, which has come to the middle of the run."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pds_cli", "edit", "out=killed", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(Path("reached").exists, process)
    return process


@pytest.fixture
def waiting(outside: Callable[[str, str], list[str]], tiny_backbone: Path) -> list[str]:
    return [*outside("waiting", WAITING_LOSS), PROMPT, f"backbone.model={tiny_backbone}",
            "steps=12", "checkpoint_every=5", "render_every=4", "seed=3", "guidance=3",
            "allow_modules=[waiting]"]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_resumes_to_the_same_result(
    number: signal.Signals, pds: Callable[..., Answer], waiting: list[str]
) -> None:
    process = start(waiting)
    process.send_signal(number)
    if number == signal.SIGTERM:
        Path("go").touch()
    out, err = process.communicate(timeout=120)
    killed = Path("killed")
    assert "Traceback" not in err
    assert not list(killed.rglob("*.tmp"))
    if number == signal.SIGTERM:
        assert process.returncode == 130
        assert "stopped at step 7; go on with: pds edit resume=" in out
        assert (summary(killed)["status"], summary(killed)["steps"]) == ("stopped", 7)
        assert (killed / "report.html").exists()
    else:
        assert process.returncode == -signal.SIGKILL
        assert not (killed / "summary.json").exists()
    # The loss, its guidance and the prompt are in the folder; which modules to trust is not.
    Path("go").touch()
    answer = pds("edit", f"resume={killed}", "allow_modules=[waiting]")
    assert answer.code == 0, answer.err
    assert pds("edit", "out=whole", *waiting).code == 0
    assert result("killed") == result("whole")
    same = ("scene", "loss", "prompt", "status", "steps", "metrics")
    assert {k: summary("killed")[k] for k in same} == {k: summary("whole")[k] for k in same}
    renders = sorted(path.name for path in Path("whole/renders").iterdir())
    assert {"edit_000004_front.png", "edit_000008_front.png"} <= set(renders)
    for name in renders:
        mine, other = (Path(run, "renders", name).read_bytes() for run in ("killed", "whole"))
        assert mine == other, name


def test_ctrl_c_stops_at_the_next_step(waiting: list[str]) -> None:
    process = start(waiting)
    process.send_signal(signal.SIGINT)
    Path("go").touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped at step 7; go on with: pds edit resume=" in out
    assert "Traceback" not in err
    assert Path("killed/checkpoint.safetensors").exists()


def test_a_full_disk_midway_keeps_the_last_checkpoint(
    edit: Edit, pds: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    import pds_cli.runs.checkpoint as checkpoint

    assert edit("out=whole", "checkpoint_every=2").code == 0
    write, calls = checkpoint.save_file, []

    def full(content: Any, name: str, **options: Any) -> None:
        calls.append(name)
        if len(calls) == 2:
            Path(name).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(content, name, **options)

    monkeypatch.setattr(checkpoint, "save_file", full)
    answer = edit("out=run", "checkpoint_every=2")
    assert answer.code == 2
    assert "No space left on device" in answer.err.splitlines()[-1]
    assert checkpoint.load_checkpoint(Path("run/checkpoint.safetensors"))[1]["step"] == 2
    assert not [p for p in Path("run").rglob("*") if p.name.endswith(".tmp")]
    assert "No space left" in Path("run/error.txt").read_text()
    assert pds("edit", "resume=run").code == 0
    assert result("run") == result("whole")
    assert not Path("run/error.txt").exists()


# --- resuming with other settings ----------------------------------------------------------------


def test_resume_accepts_what_changes_nothing_and_refuses_the_rest(
    edit: Edit, pds: Callable[..., Answer]
) -> None:
    assert edit("out=run", "loss=dds", "guidance=3").code == 0
    before = result("run")
    for words in (["checkpoint_every=3"], ["loss=dds", "guidance=3"], ["render_every=0"]):
        assert pds("edit", "resume=run", *words).code == 0, words
    assert summary("run")["loss"] == "dds", "the option's name is the first command line's"
    for word in ("steps=7", "loss=pds", "loss.weighting=sigma", "prompt=a photo of a bear",
                 "seed=1", "scene.figure.hat=crown", "optimizer=sgd"):  # fmt: skip
        answer = pds("edit", "resume=run", word)
        assert answer.code == 2, word
        assert answer.err.count("\n") == 1
        assert f"{word.split('=')[0]} differs from the run in" in answer.err
    assert result("run") == before


# --- sweeps --------------------------------------------------------------------------------------


def test_a_sweep_makes_a_page_and_survives_a_failed_job(edit: Edit) -> None:
    answer = edit("-m", "loss=sds,dds,pds", "guidance=3,7.5", "steps=2", "out=sweep")
    assert answer.code == 0, answer.err
    assert "6 of 6 jobs done" in answer.out
    jobs = sorted(path.parent for path in Path("sweep").glob("*/summary.json"))
    assert [job.name for job in jobs] == list("012345")
    found = [(summary(job)["loss"], yaml.safe_load((job / "config.yaml").read_text())["guidance"])
             for job in jobs]  # fmt: skip
    assert found == [(loss, g) for loss in ("sds", "dds", "pds") for g in (3.0, 7.5)]
    page = next(Path("sweep").glob("*.html")).read_text(encoding="utf-8")
    for text in ("SDS", "DDS", "PDS", "guidance 3", "guidance 7.5"):
        assert text in page

    answer = edit("-m", "scene.figure.hat=crown,fez,none", "steps=1", "out=partly")
    assert answer.code == 2
    assert "2 of 3 jobs done" in answer.out
    assert "job 1 failed: the toybox knows no hat 'fez'" in answer.err
    assert "Traceback" not in answer.err
    assert "fez" in Path("partly/1/error.txt").read_text()
    assert (summary("partly/0")["status"], summary("partly/2")["status"]) == ("done", "done")
    assert "fez" in next(Path("partly").glob("*.html")).read_text(encoding="utf-8")


# --- extension from outside ----------------------------------------------------------------------

CONSTANT_LOSS = """
    import torch
    from pds_cli.losses.pds import PDS

    class Darker(PDS):
        def gradient(self, branches):
            return torch.ones_like(branches.x0_tgt), {"mine": 42.0}
"""


def test_a_loss_from_outside_the_package(
    edit: Edit, outside: Callable[[str, str], list[str]]
) -> None:
    words = outside("darker", CONSTANT_LOSS)
    refused = edit(*words, "out=refused")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "darker.Darker is refused" in refused.err
    assert "allow_modules=[darker]" in refused.err
    answer = edit(*words, "out=run", "allow_modules=[darker]")
    assert answer.code == 0, answer.err
    assert [r["mine"] for r in records("run")] == [42.0] * 6
    assert summary("run")["loss"] == "darker"


def test_the_verb_returns_the_report(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    returned = []
    monkeypatch.setattr("pds_cli.verbs.edit.main", lambda cfg: returned.append(edit_main(cfg)))
    assert edit("out=run", "steps=1").code == 0
    assert returned == [Path("run/report.html")] or returned == [Path.cwd() / "run/report.html"]
