"""Loggers, against stand-ins of the optional packages, and against the real one if installed."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pds_cli.errors import UserError
from pds_cli.runs.loggers import Logger, NullLogger, TensorBoardLogger, WandbLogger, numbers


class FakeWriter:
    def __init__(self, folder: str, flush_secs: int) -> None:
        self.folder, self.flush_secs, self.closed = folder, flush_secs, 0
        self.calls: list[tuple] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.calls.append((name, value, step))

    def add_image(self, name: str, image: Any, step: int, dataformats: str) -> None:
        self.calls.append((name, image, step, dataformats))

    def add_text(self, name: str, text: str, step: int) -> None:
        self.calls.append((name, text, step))

    def close(self) -> None:
        self.closed += 1


class FakeRun:
    def __init__(self) -> None:
        self.logged: list[dict] = []
        self.defined: list[tuple[str, str]] = []
        self.finished = 0

    def define_metric(self, name: str, step_metric: str) -> None:
        self.defined.append((name, step_metric))

    def log(self, values: dict) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def fake_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = FakeWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module: Any = types.ModuleType("wandb")
    module.run, module.Image = FakeRun(), lambda array: ("image", array.shape, array.dtype)

    def init(**kwargs: Any) -> FakeRun:
        module.kwargs = kwargs
        return module.run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_numbers_takes_what_is_a_number() -> None:
    metrics = {
        "stage": "edit",
        "step": 4,
        "loss": torch.tensor(0.5),
        "lr": np.float32(0.25),
        "flag": True,
        "word": "x",
        "n": 3,
    }
    assert numbers(metrics) == {"edit/loss": 0.5, "edit/lr": 0.25, "edit/n": 3.0}
    assert numbers({"loss": 1}) == {"loss": 1.0}


def test_all_loggers_keep_the_protocol(
    tmp_path: Path, fake_tensorboard: None, fake_wandb: types.ModuleType
) -> None:
    config = {"prompt": "a man", "loss": {"identity": 1.0}}
    for kind in (NullLogger, TensorBoardLogger, WandbLogger):
        logger = kind(folder=tmp_path / "run", config=config)
        assert isinstance(logger, Logger)
        logger.log({"stage": "edit", "step": 1, "loss": 2.0}, 1)
        logger.image("result", torch.rand(3, 8, 9), 1)
        logger.close()
        logger.close()
        logger.log({"loss": 1.0}, 2)  # after the end: ignored, not a crash


def test_tensorboard_gets_scalars_images_and_the_config(
    tmp_path: Path, fake_tensorboard: None
) -> None:
    logger = TensorBoardLogger(tmp_path, config={"prompt": "é"}, flush_secs=5)
    logger.log({"stage": "fit", "loss": 2.0}, 7)
    logger.image("result", torch.ones(3, 8, 9), 7)
    writer = logger._writer
    assert writer.folder == str(tmp_path / "tensorboard") and writer.flush_secs == 5
    text, scalar, image = writer.calls
    assert "    prompt: é" in text[1]
    assert scalar == ("fit/loss", 2.0, 7)
    assert image[1].shape == (8, 9, 3) and image[1].min() == 255 and image[3] == "HWC"
    logger.close()
    assert writer.closed == 1


def test_wandb_is_offline_unless_told_and_keeps_stages_apart(
    tmp_path: Path, fake_wandb: Any
) -> None:
    logger = WandbLogger(tmp_path, config={"a": 1}, tags=["t"])
    assert not hasattr(fake_wandb, "kwargs")  # until the run is sure to begin
    logger.begin()
    assert fake_wandb.kwargs["mode"] == "offline"
    assert fake_wandb.kwargs["config"] == {"a": 1} and fake_wandb.kwargs["tags"] == ["t"]
    logger.log({"stage": "fit", "loss": 1.0}, 9)
    logger.log({"stage": "edit", "loss": 2.0}, 0)
    logger.log({"stage": "edit", "loss": 3.0}, 1)
    logger.image("view", torch.rand(3, 4, 4), 1)
    run = fake_wandb.run
    assert run.logged[1] == {"edit/loss": 2.0, "edit/step": 0}
    assert run.defined[:2] == [("fit/*", "fit/step"), ("edit/*", "edit/step")]
    assert run.logged[3]["view"] == ("image", (4, 4, 3), np.uint8)
    with pytest.raises(UserError, match="offline"):
        WandbLogger(tmp_path, mode="sometimes")


def test_wandb_that_does_not_start_is_a_sentence(tmp_path: Path, fake_wandb: Any) -> None:
    def init(**kwargs: Any) -> None:
        raise RuntimeError("no API key")

    fake_wandb.init = init
    with pytest.raises(UserError, match=r"no API key.*wandb login"):
        WandbLogger(tmp_path, mode="online").begin()


@pytest.mark.parametrize(
    ("kind", "module", "package"),
    [
        (TensorBoardLogger, "torch.utils.tensorboard", "tensorboard"),
        (WandbLogger, "wandb", "wandb"),
    ],
)
def test_a_missing_package_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # makes the import raise ImportError
    with pytest.raises(UserError, match=f"pip install {package}$"):
        kind(tmp_path)


def test_real_tensorboard_writes_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    logger = TensorBoardLogger(tmp_path)
    assert not list(tmp_path.iterdir())  # until the run is sure to begin
    logger.begin()
    logger.log({"loss": 1.0}, 1)
    logger.image("result", torch.rand(3, 8, 8), 1)
    logger.close()
    assert list((tmp_path / "tensorboard").glob("events*"))
