"""Run folders: what is deleted, what is refused, what a folder of somebody else may do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Answer

from pds_cli.errors import UserError
from pds_cli.files import atomic_path, write_text
from pds_cli.runs import layout
from pds_cli.runs.outputs import Folders
from pds_cli.runs.ownership import (
    FILES,
    Claim,
    adopt,
    card_of,
    check_card,
    is_free,
    owns,
    remove_listed,
)

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "prompt=a photo of a robot"


def content(folder: Path | str) -> dict[str, bytes]:
    """Every file below a folder but for locks, whose being there says nothing."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in paths if path.name != "lock"}


# --- the list of what was written ----------------------------------------------------------------


def test_only_what_a_run_wrote_is_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Claim(run, "edit") as claim:
        claim.begin({})
        write_text(run / "renders/a.png", "a")
        (run / "events").mkdir()
        (run / "events/0").touch()
        owns(run / "events")
        write_text(tmp_path / "elsewhere.txt", "not in the folder")
    for name in ("notes.txt", "renders/mine.png"):
        (run / name).write_text("mine")
    listed = set((run / FILES).read_text().splitlines())
    assert listed == {layout.CARD, "edit.log", "renders/a.png", "events/**"}
    assert remove_listed(run) == ["notes.txt", "renders"]
    left = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert left - {".pds/lock"} == {"notes.txt", "renders/mine.png"}
    assert (tmp_path / "elsewhere.txt").exists()


@pytest.mark.parametrize("name", ["../outside", "link/outside", "/etc/outside", "**", "a/../../o"])
def test_a_list_that_leads_out_removes_nothing(tmp_path: Path, name: str) -> None:
    run, outside = tmp_path / "run", tmp_path / "other/outside"
    for folder in (run / ".pds", outside.parent):
        folder.mkdir(parents=True)
    for path in (outside, tmp_path / "outside", tmp_path / "o", run / "mine"):
        path.write_text("mine")
    (run / "link").symlink_to(outside.parent)
    (run / FILES).write_text(f"{name}\n")
    remove_listed(run)
    assert outside.exists() and (tmp_path / "outside").exists() and (tmp_path / "o").exists()
    assert (run / "mine").exists()


def test_runs_inside_a_run_go_with_it_by_their_own_lists(tmp_path: Path) -> None:
    run, child, guest = tmp_path / "run", tmp_path / "run/child", tmp_path / "run/guest"
    with Claim(run, "compare") as claim:
        claim.begin({})
        for inner in (child, guest):
            with Claim(inner, "edit") as own:
                own.begin({})
                write_text(inner / "result.png", "x")
    adopt(child, run)
    (child / "mine.txt").write_text("mine")
    assert remove_listed(run) == ["child", "guest"]
    assert {path.name for path in child.iterdir()} == {"mine.txt"}
    assert (guest / "result.png").exists(), "somebody's run, only put there"


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with Claim(tmp_path, "edit"):
        code = (
            "import sys; from pathlib import Path; from pds_cli.runs.ownership import Claim\n"
            f"with Claim(Path({str(tmp_path)!r}), 'edit'): pass"
        )
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
        assert "is being written by another pds" in done.stderr
    with Claim(tmp_path, "edit"):
        pass  # the lock is free again
    assert is_free(tmp_path)


def test_a_part_of_a_benchmark_that_is_refused_leaves_nothing(pds: Callable[..., Answer]) -> None:
    words = ["compare", "benchmark=toybox_methods", "benchmark.only=[nothing]", "out=bench"]
    answer = pds(*words)
    assert answer.code == 2 and "there is no method 'nothing'" in answer.err
    assert not Path("bench").exists()


def test_cards_say_whose_a_folder_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resume= is empty"):
        check_card("", "resume")
    with pytest.raises(UserError, match=r"holds no run\.json"):
        check_card(tmp_path, "resume")
    with Claim(tmp_path, "fit") as claim:
        claim.begin({})
    assert check_card(tmp_path, "resume", "fit")["verb"] == "fit"
    with pytest.raises(UserError, match="is a run of pds fit, not of pds edit"):
        check_card(tmp_path, "resume", "edit")
    card = card_of(tmp_path)
    assert card is not None
    for change in ({"version": "0.0.1"}, {"format": 99}):
        (tmp_path / layout.CARD).write_text(json.dumps(card | change))
        with pytest.raises(UserError, match="was written by pds"):
            check_card(tmp_path, "resume", "fit")
    (tmp_path / layout.CARD).write_text("[" * 100_000)
    assert card_of(tmp_path) is None


# --- out= and overwrite= -------------------------------------------------------------------------

WRITES = """
from pds_cli.files import write_text
from pds_cli.runs.folder import RunFolder
if cfg.seed == 13: raise UserError("no such hat")
run = RunFolder(run_folder())
run.begin(cfg)
write_text(run.path / f"seed_{cfg.seed}", "x")
if cfg.seed == 14: raise UserError("too late")
"""


def test_out_is_refused_where_something_is(pds: Callable[..., Answer], verb: Callable) -> None:
    verb("fake", WRITES)
    Path("photos").mkdir()
    for name in ("summary.json", "report.html", "rgb_0001.png", "config.yaml"):
        Path("photos", name).write_text("mine")
    assert pds("fake", "prompt=x", "out=run").code == 0
    before = content(".")
    for words, said in [
        (["out=photos"], "no run of pds"),
        (["out=photos", "overwrite=true"], "no run of pds"),
        (["out="], "out= is empty"),
        (["out=  "], "out= is empty"),
        (["out=."], "no run of pds"),
        (["out=run"], "overwrite=true"),
        (["out=run", "seed=13", "overwrite=true"], "no such hat"),
        (["out=run", "steps=0", "overwrite=true"], "steps=0"),
        (["-m", "out=run", "seed=1,2"], "overwrite=true"),
        (["out=new/a/b", "seed=13"], "no such hat"),
        (["seed=13"], "no such hat"),
    ]:
        answer = pds("fake", "prompt=x", *words)
        assert answer.code == 2 and said in answer.err, (words, answer)
        assert content(".") == before, words
    assert {path.name for path in Path().iterdir()} == {"photos", "run", "verbs_of_the_test"}


def test_overwriting_keeps_what_pds_did_not_write(
    pds: Callable[..., Answer], verb: Callable
) -> None:
    verb("fake", WRITES)
    assert pds("fake", "prompt=x", "out=run", "seed=1").code == 0
    Path("run/notes.txt").write_text("mine")
    answer = pds("fake", "prompt=x", "out=run", "seed=2", "overwrite=true")
    assert answer.code == 0
    assert "kept in" in answer.err and "notes.txt" in answer.err
    names = {path.name for path in Path("run").iterdir()}
    assert names == {".pds", "run.json", "config.yaml", "seed_2", "notes.txt"}


def test_a_run_that_fails_later_stays(pds: Callable[..., Answer], verb: Callable) -> None:
    verb("fake", WRITES)
    assert pds("fake", "prompt=x", "out=run", "seed=14").code == 2
    assert Path("run/seed_14").exists()
    verb("once", WRITES.replace("begin(cfg)", "begin(cfg, keep=False)"))
    assert pds("once", "prompt=x", "out=other", "seed=14").code == 2
    assert not Path("other").exists()


def test_folders_that_a_command_made_are_taken_away(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    Folders.made.clear()
    Folders.make(tmp_path / "there/a/b")
    Folders.make(tmp_path / "there/c")
    (tmp_path / "there/c/file").touch()
    Folders.tidy()
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"c"}


# --- what is refused, is refused first -----------------------------------------------------------


@pytest.fixture
def finished(pds: Callable[..., Answer], tiny_backbone: Path) -> list[str]:
    words = [PROMPT, f"backbone.model={tiny_backbone}", "steps=2", "render_every=0"]
    assert pds("edit", *words, "out=run").code == 0
    return words


def test_what_can_be_refused_is_refused_before_anything_is_written(
    pds: Callable[..., Answer], finished: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    before = content(".")
    for word, said in {
        "device=cuda": "no CUDA",
        "lr_schedule=foo": "choose one of constant, linear, cosine",
        "warmup=-1": "warmup=-1",
        "optimizer.betas=[2,0.9]": "optimizer",
        "logger=tensorboard": "pip install tensorboard",
        "logger=wandb": "pip install wandb",
        "backbone.model=nowhere": "nowhere",
        "editor=instruct_pix2pix editor.model=nowhere": "nowhere",
        "scene=image source=x scene.path=nowhere.png": "nowhere.png",
        "loss.timesteps=[0.3]": "timesteps",
        "loss=dataset_update": "editor",
        "representation.parametrisation=foo": "foo",
    }.items():
        for out in ("out=run", "out=new"):
            answer = pds("edit", *finished, *word.split(), out, "overwrite=true")
            assert answer.code == 2 and said in answer.err, (word, answer)
            assert content(".") == before, (word, out)
    assert not Path("new").exists()


def test_a_fit_that_cannot_be_edited_is_left_alone(
    pds: Callable[..., Answer], finished: list[str]
) -> None:
    card = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps(card | {"verb": "fit"}))
    before = content("run")
    for words in (["resume=run"], ["resume=run", "steps=5"]):
        answer = pds("edit", *words)
        assert answer.code == 2 and "is a run of pds fit" in answer.err
        assert content("run") == before
    answer = pds("edit", "resume=")
    assert answer.code == 2 and "resume=" in answer.err


def test_a_run_without_a_checkpoint_begins_again(
    pds: Callable[..., Answer], finished: list[str]
) -> None:
    metrics, result = Path("run/metrics.jsonl"), Path("run/exports/result.png")
    whole = metrics.read_text(), result.read_bytes()
    for name in ("checkpoint.safetensors", "summary.json", "report.html"):
        Path("run", name).unlink()
    metrics.write_text(whole[0].splitlines()[0] + "\n")  # killed after a step
    answer = pds("edit", "resume=run")
    assert answer.code == 0, answer
    assert "no checkpoint yet" in answer.err
    assert (metrics.read_text(), result.read_bytes()) == whole


# --- a folder that somebody sent -----------------------------------------------------------------


def test_a_folder_that_was_sent_runs_no_code(
    pds: Callable[..., Answer], finished: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published attack, and its kind; also by somebody who mends the fingerprint."""
    from pds_cli.instantiate import literal_config
    from pds_cli.runs.settings import fingerprint

    write = {"_target_": "pds_cli.files.write_text", "path": "evil.py", "text": "print(1)"}
    job = {"_target_": "pds_cli.benchmarks.jobs.edit_job", "words": ["allow_modules=[evil]"]}
    partial = {"_target_": "pds_cli.scenes.image.ImageScene", "path": write, "source_prompt": "x"}
    own = {"_target_": "evil.Loss"}
    changes: list[tuple[dict[str, Any], str]]
    Path("evil.py").write_text("open('ran', 'w')")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    changes = [
        ({"scene": write}, "write_text"),
        ({"scene": write, "backbone": job}, "write_text"),
        ({"backbone": job}, "edit_job"),
        ({"logger": write}, "write_text"),
        ({"scene": partial}, "write_text"),
        ({"refine": {"editor": write}}, "write_text"),
        ({"optimizer": {"_target_": "torch.hub.load"}}, "torch.hub.load"),
        ({"loss": own, "allow_modules": ["evil"]}, "allow_modules=[evil]"),
        ({"loss": own}, "evil.Loss"),
        ({"scene": {"_target_": "pds_cli.losses.sds.SDS"}}, "is a loss, not a scene"),
        ({"steps": "many"}, "steps"),
        ({"steps": -3}, "steps=-3"),
        ({"guidance": float("nan")}, "guidance"),
    ]
    for change, said in changes:
        shutil.rmtree("sent", ignore_errors=True)
        shutil.copytree("run", "sent")
        saved = yaml.safe_load(Path("run/config.yaml").read_text()) | change
        Path("sent/config.yaml").write_text(yaml.safe_dump(saved))
        if not change.keys() <= {"logger", "allow_modules"}:  # which may change when a run goes on
            answer = pds("edit", "resume=sent")
            assert answer.code == 2 and "not what the run began with" in answer.err, answer
        card = json.loads(Path("run/run.json").read_text())
        card["fingerprint"] = fingerprint(literal_config(saved))
        Path("sent/run.json").write_text(json.dumps(card))
        before = content(".")
        answer = pds("edit", "resume=sent")
        assert answer.code == 2 and said in answer.err, (change, answer)
        assert answer.err.count("\n") == 1, answer.err
        assert content(".") == before
    assert not Path("ran").exists()


# --- signals -------------------------------------------------------------------------------------

SIGNALLED = """
import os, signal, sys, time
from pathlib import Path
from typing import Any
from pds_cli.cli import main
import pds_cli.verbs.list as verb

def slow(argv):
    Path("reached").touch()
    time.sleep(60)

import pds_cli.verbs.sample as sample
sample.main = lambda cfg: slow([])
sys.exit(main(["sample", "prompt=x", "out=run"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_outside_the_trainer_end_with_130(tmp_path: Path, number: signal.Signals) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    # Whoever runs the tests in the background may have them ignore Ctrl-C.
    process = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED],
        cwd=tmp_path,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "reached").exists():
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_film_that_a_signal_breaks_is_no_failure(
    pds: Callable[..., Answer],
    verb: Callable,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """ffmpeg dies of the Ctrl-C first, so what arrives may be its broken pipe."""
    import pds_cli.pictures.video as video

    def encode(*args: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise BrokenPipeError("ffmpeg is gone") from None

    monkeypatch.setattr(video, "_encode", encode)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, ours))
    body = (
        "import torch\nfrom pathlib import Path\nfrom pds_cli.pictures.video import write_video\n"
    )
    body += "write_video(Path('film'), [torch.zeros(3, 8, 8)] * 2, 10.0)\n"
    verb("fake", body)
    answer = pds("fake", "prompt=x")
    assert answer.code == 130 and not list(Path().glob("film*")), answer
    monkeypatch.setattr(video, "_encode", lambda *args: (_ for _ in ()).throw(OSError("gone")))
    assert pds("fake", "prompt=x").code == 0 and Path("film.gif").exists()


def test_writing_lists_a_file_before_it_appears(tmp_path: Path) -> None:
    with Claim(tmp_path, "edit"):
        with pytest.raises(RuntimeError), atomic_path(tmp_path / "half.txt"):
            raise RuntimeError
        assert not (tmp_path / FILES).exists()
        write_text(tmp_path / "whole.txt", "x")
        assert (tmp_path / FILES).read_text() == "whole.txt\n"


def test_a_run_that_was_killed_as_it_began_is_started_by_the_same_words(
    pds: Callable[..., Answer], verb: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card comes last; without it, what a run begins with is no reason to refuse the folder."""
    verb("fake", WRITES)
    original = Claim.begin
    monkeypatch.setattr(Claim, "begin", lambda *args, **options: os._exit(9))
    if os.fork() == 0:
        pds("fake", "prompt=x", "out=run", "seed=1")
        os._exit(1)
    _, status = os.wait()
    assert os.waitstatus_to_exitcode(status) == 9
    monkeypatch.setattr(Claim, "begin", original)
    Path("run/.run.json.123.tmp").touch()  # or killed a little later
    assert {path.name for path in Path("run").iterdir()} == {
        ".pds", "config.yaml", ".run.json.123.tmp",
    }  # fmt: skip
    assert pds("fake", "prompt=x", "out=run", "seed=13").code == 2
    assert pds("fake", "prompt=x", "out=run", "seed=1").code == 0
    Path("run/run.json").unlink()
    assert pds("fake", "prompt=x", "out=run", "seed=1").code == 2, "it had begun"
    Path("mine").mkdir()
    Path("mine/config.yaml").write_text("mine")
    assert pds("fake", "prompt=x", "out=mine", "seed=1").code == 2
    assert Path("mine/config.yaml").read_text() == "mine"
