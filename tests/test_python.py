"""From Python: `pds_cli.edit` and `pds_cli.load_run`."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import pds_cli
from pds_cli import Run, UserError, edit, load_run
from pds_cli.options.catalogue import conf_dir
from pds_cli.overrides import words_of

PAGE = Path(__file__).resolve().parent.parent / "docs/python.md"
PROMPT = "a photo of a robot"
NASTY = [
    'a man, smiling (close-up): 50% "happy" it\'s [x] {y: 1} a=b',
    "${prompt} $5 \\${x} \\\\ \\' \\",
    "@home",
    "@@home",
    "null",
    "true",
    "007",
    "  spaces\tand\nlines  ",
    "'quoted','twice'",
    "été 日本 🙂",
    "",
    "~a -m --cfg job",
    "sds,dds",
    "range(3)",
]


@pytest.fixture
def tiny(tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of an edit of two steps, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return {"backbone": {"model": tiny_backbone}, "steps": 2, "render_every": 0}


# --- the interface -------------------------------------------------------------------------------


def test_importing_is_light() -> None:
    code = (
        "import sys, pds_cli\n"
        "assert 'edit' in dir(pds_cli) and not hasattr(pds_cli, 'nothing')\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'numpy', 'PIL', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "pds_cli.load_run\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_exported_is_there_and_typed() -> None:
    assert set(pds_cli.__all__) == {"Run", "UserError", "__version__", "edit", "load_run"}
    for name in pds_cli.__all__:
        assert getattr(pds_cli, name) is not None
    assert (Path(pds_cli.__file__).parent / "py.typed").is_file()


# --- settings ------------------------------------------------------------------------------------


def composed(settings: dict[str, Any]) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("edit", words_of({"prompt": PROMPT, **settings}))


@pytest.mark.parametrize("first", range(0, len(NASTY), 6))
def test_texts_arrive_as_they_are(first: int) -> None:
    keys = ["prompt", "suffix", "negative", "source", "scene.path", "scene.source_prompt"]
    texts = dict(zip(keys, NASTY[first:] + NASTY[:first], strict=False))
    cfg = composed({"scene": "image", **texts, "allow_modules": NASTY[first : first + 6]})
    assert {key: OmegaConf.select(cfg, key) for key in keys} == texts
    assert list(cfg.allow_modules) == NASTY[first : first + 6]


def test_values_arrive_with_their_types() -> None:
    cfg = composed(
        {
            "loss": "dds",
            "loss.guidance": np.float32(0.5),
            "loss.timesteps": (0.1, 0.9),
            "early_stop": {"patience": np.int64(3), "min_delta": 1e-20},
            "guidance": 1e16,
            "source": None,
            "debug": True,
            "out": Path("a, b"),
            "seed": 7,
        }
    )
    assert cfg.loss._target_.endswith("dds.DDS") and cfg.loss.guidance == 0.5
    assert list(cfg.loss.timesteps) == [0.1, 0.9]
    assert cfg.early_stop == {"patience": 3, "min_delta": 1e-20}
    assert (cfg.guidance, cfg.source, cfg.debug, cfg.out, cfg.seed) == (1e16, None, True, "a, b", 7)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stpes": 2}, "did you mean steps?"),
        ({"loss": "nothing"}, "nothing"),
        ({"loss": "sds,dds"}, "sds,dds"),
        ({"steps": "abc"}, "steps"),
        ({"steps": 0}, "steps=0"),
        ({"steps": float("nan")}, "steps"),
        ({"steps": 10**5000}, "steps is out of range"),
        ({"suffix": "a \ud800"}, r"suffix='a \ud800' holds half a letter"),
        ({"steps": object()}, "steps is of the type object"),
        ({"steps": [{}]}, "steps is of the type dict"),
        ({"loss": {"identity": 1}, "loss.identity": 2}, "loss.identity is given twice"),
        ({"loss": {"x=1 y": 1}}, "is not a key"),
        ({"hydra.mode": "MULTIRUN"}, "hydra.mode is a setting of Hydra's"),
        ({"hydra/launcher": "joblib"}, "hydra/launcher is a setting of Hydra's"),
        ({"hydra.searchpath": ["file://nowhere"]}, "nowhere is not a folder"),
        ({"device": "tpu"}, "tpu"),
        ({"resume": "nowhere"}, "resume=nowhere is not a folder"),
        ({"out": ""}, "out"),
    ],
)
def test_what_is_refused_is_a_user_error(
    settings: dict[str, Any], said: str, tiny: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as caught:
        edit(PROMPT, **{**tiny, **settings})
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert list(Path.cwd().iterdir()) == []
    assert capfd.readouterr().err == ""


# --- a run ---------------------------------------------------------------------------------------


def test_an_edit_gives_its_run(tiny: dict[str, Any]) -> None:
    nasty = f"{PROMPT}, <b>smiling</b> ${{x}}"
    mine = Path("groups/loss/mine.yaml")
    mine.parent.mkdir(parents=True)
    mine.write_text("# mine\n_target_: pds_cli.losses.dds.DDS\nguidance: null\n")
    settings = {**tiny, "loss": "mine", "loss.guidance": 3, "scene.size": 64}
    settings |= {"hydra.searchpath": ["file://groups"]}
    run = edit(nasty, out="a run", **settings)
    assert isinstance(run, Run) and run.path == Path("a run").absolute()
    assert (run.verb, run.prompt, run.status) == ("edit", nasty, "done")
    assert run.config["loss"]["guidance"] == 3 and run.config["steps"] == 2
    assert [record["step"] for record in run.log] == [1, 2]
    assert run.metrics["psnr_source"] is not None
    assert run.exports and all(path.is_file() for path in run.exports)
    (view,) = run.images()
    assert run.images()[view].size == run.images("source")[view].size
    with pytest.raises(UserError, match="kind=before is unknown; choose one of source"):
        run.images("before")
    html = run._repr_html_()
    assert "data:image/png;base64," in html and "psnr_source" in html
    assert "<b>" not in html and "&lt;b&gt;" in html
    assert load_run("a run") == run
    assert "psnr" not in repr(run)


def test_a_picture_that_is_none_is_a_user_error(tiny: dict[str, Any]) -> None:
    run = edit(PROMPT, out="run", **tiny)
    (run.path / "strip.png").unlink()
    (picture,) = (run.path / "renders").glob("result_*.png")
    picture.write_bytes(b"nothing")
    assert "<img" not in run._repr_html_()
    with pytest.raises(UserError, match="not an image"):
        run.images()


def test_runs_of_other_verbs_are_read(tiny: dict[str, Any], pds: Callable) -> None:
    model = f"backbone.model={tiny['backbone']['model']}"
    assert pds("sample", f"prompt={PROMPT}", model, "n=1", "steps=1", "out=run").code == 0
    run = load_run("run")
    assert (run.verb, run.prompt, run.status, run.images()) == ("sample", PROMPT, "done", {})
    (run.path / "summary.json").unlink()
    assert load_run("run").status == "incomplete"


def test_a_folder_that_is_no_run_is_a_user_error(tmp_path: Path) -> None:
    for folder, said in ((tmp_path, "run.json"), (tmp_path / "none", "is not a folder")):
        with pytest.raises(UserError, match=said):
            load_run(folder)


def test_a_stopped_edit_is_an_interrupt_and_goes_on(
    tiny: dict[str, Any], stopping: Callable[[str, int], None]
) -> None:
    stopping("edit", 1)
    with pytest.raises(KeyboardInterrupt):
        edit(PROMPT, out="run", **tiny)
    assert load_run("run").status == "stopped"
    assert edit(PROMPT, resume="run").status == "done"
    assert [record["step"] for record in load_run("run").log] == [1, 2]


def test_a_defect_is_raised_as_it_is(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from pds_cli.training.trainer import Trainer

    monkeypatch.setattr(Trainer, "run", None)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        edit(PROMPT, **tiny)


def test_the_page_runs(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ((_, code),) = re.findall(r"^```python file=(\S+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert len(code.splitlines()) <= 12

    def quickly(prompt: str, **settings: Any) -> Run:
        return edit(prompt, **{**settings, **tiny})

    monkeypatch.setattr(pds_cli, "edit", quickly)
    capsys.readouterr()
    names: dict[str, Any] = {}
    exec(compile(code, "notebook.py", "exec"), names)
    run = names["run"]
    assert run.config["loss"]["_target_"].endswith("DDS") and names["again"] == run
    assert sorted(path.name for path in Path.cwd().glob("*.png")) == [
        f"{v}.png" for v in run.images()
    ]
    assert f"{run.path} done " in capsys.readouterr().out


# --- what is left in the process -----------------------------------------------------------------


def state() -> dict[str, Any]:
    import torch

    root = logging.getLogger()
    return {
        "handlers": root.handlers[:],
        "level": root.level,
        "words": sys.argv[:],
        "folder": Path.cwd(),
        "filters": warnings.filters[:],
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "hydra": GlobalHydra.instance().hydra,
        "config": HydraConfig.instance().cfg,
        "random": torch.get_rng_state().tolist(),
    }


def test_nothing_is_left_behind(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.FileHandler(tmp_path / "mine.log", mode="w")
    log.set_name("mine")
    logging.getLogger().addHandler(log)
    own = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            before = state()
            first, second = edit(PROMPT, **tiny), edit(PROMPT, **tiny)
            with pytest.raises(UserError):
                edit(PROMPT, steps=-1)
            assert state() == before
            assert logging._handlers["mine"] is log  # type: ignore[attr-defined]
        logging.getLogger().warning("still open")
    finally:
        signal.signal(signal.SIGTERM, own)
        logging.getLogger().removeHandler(log)
        log.close()
    assert "still open" in (tmp_path / "mine.log").read_text()
    assert first.path != second.path and first.path.parent == second.path.parent
    assert first.metrics == second.metrics
    assert (first.path / "run.json").is_file() and not (tmp_path / "edit.log").exists()


def test_handlers_that_are_not_pythons_are_left_alone(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed: list[Any] = []
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", lambda *words: changed.append(words))
    assert edit(PROMPT, **tiny).status == "done"
    assert changed == []


def test_the_command_line_gives_the_same_afterwards(tiny: dict[str, Any], pds: Callable) -> None:
    run = edit(PROMPT, out="python", **tiny)
    model = tiny["backbone"]["model"]
    words = [f"prompt={PROMPT}", f"backbone.model={model}", "steps=2", "render_every=0"]
    assert pds("edit", *words, "out=shell").code == 0
    refused = pds("edit", *words, "stpes=1")
    assert refused.code == 2 and "did you mean steps?" in refused.err
    other = load_run("shell")
    assert (other.metrics, other.prompt) == (run.metrics, run.prompt)
    assert {**other.config, "out": None} == {**run.config, "out": None}


def test_it_runs_beside_the_main_thread_and_once_at_a_time(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pds_cli.training.trainer import Trainer

    found: list[Any] = []
    original = Trainer.run

    def run(self: Any) -> str:
        with pytest.raises(UserError, match="an edit runs in this process already"):
            edit(PROMPT, **tiny)
        return original(self)

    monkeypatch.setattr(Trainer, "run", run)
    thread = threading.Thread(target=lambda: found.append(edit(PROMPT, **tiny)))
    thread.start()
    thread.join()
    assert [run.status for run in found] == ["done"]
