"""The optimisation loop: stages, schedules, stopping, checkpoints and resuming."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import StopAt, records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.runs.folder import RunFolder
from pds_cli.seeds import step_generator
from pds_cli.training.trainer import EarlyStop, Objective, Observer, Stage, Trainer

LR = 0.05


class Noisy(Objective):
    """Pulls θ towards a noisy target; `finish` must run exactly once, so it changes θ."""

    def __init__(self, on_step: Callable[[int], None] | None = None, size: int = 3) -> None:
        self.theta = torch.nn.Parameter(torch.zeros(size))
        self.on_step = on_step
        self.calls: list[str] = []

    def begin(self) -> None:
        self.calls.append("begin")

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.theta]}]

    def loss(
        self, step: int, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        self.calls.append(f"loss {step}")
        if self.on_step:
            self.on_step(step)
        target = 1 + torch.randn(self.theta.shape, generator=generator)
        return (self.theta - target).square().sum(), {"progress": progress}

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        self.calls.append(f"after {step}")

    def renders(self) -> dict[str, Tensor]:
        return {"view": self.theta.detach()[:, None, None].expand(3, 4, 4).clamp(0, 1)}

    def finish(self) -> None:
        self.calls.append("finish")
        with torch.no_grad():
            self.theta.mul_(2)

    def state_dict(self) -> dict[str, Tensor]:
        return {"theta": self.theta.detach()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.theta.copy_(state["theta"])


class Scripted(Noisy):
    """Reports given loss values; the gradient is constant."""

    def __init__(self, values: list[float], gradient: float = 0.0) -> None:
        super().__init__()
        self.values, self.gradient = values, gradient

    def loss(
        self, step: int, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        return (self.theta * self.gradient).sum(), {"loss": self.values[step]}


def adam(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=LR)


def run_one(folder: Path, objective: Objective, steps: int, **options: Any) -> str:
    stage = Stage("edit", objective, steps, options.pop("optimizer", adam), **options)
    return Trainer([stage], RunFolder(folder)).run()


# --- stages --------------------------------------------------------------------------------------


def test_stages_run_in_order_and_call_their_hooks(tmp_path: Path) -> None:
    first, second = Noisy(), Noisy()
    trainer = Trainer([Stage("fit", first, 2, adam), Stage("edit", second, 1, adam)],
                      RunFolder(tmp_path))  # fmt: skip
    assert trainer.run() == "done"
    assert first.calls == ["begin", "loss 0", "after 1", "loss 1", "after 2", "finish"]
    assert second.calls == ["begin", "loss 0", "after 1", "finish"]
    assert [(r["stage"], r["step"]) for r in records(tmp_path)] == [
        ("fit", 1), ("fit", 2), ("edit", 1)
    ]  # fmt: skip
    assert [r["progress"] for r in records(tmp_path)] == [0.0, 0.5, 0.0]
    assert trainer.total_steps == 3


def test_random_numbers_depend_on_seed_stage_and_step_only() -> None:
    def draw(*key: Any) -> float:
        return float(torch.randn((), generator=step_generator(*key)))

    assert draw(1, "edit", 5) == draw(1, "edit", 5)
    assert len({draw(1, "edit", 5), draw(2, "edit", 5), draw(1, "fit", 5), draw(1, "edit", 6)}) == 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 1, 1, 1]),
        ({"schedule": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"schedule": "linear", "lr_end": 0.6}, [1, 0.9, 0.8, 0.7]),
        ({"schedule": "cosine"}, [0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]),
        ({"warmup": 4}, [0.25, 0.5, 0.75, 1]),
        ({"warmup": 2, "schedule": "linear"}, [0.5, 1, 1, 0.5]),
    ],
)
def test_learning_rate_schedules(
    tmp_path: Path, options: dict[str, Any], expected: list[float]
) -> None:
    run_one(tmp_path, Noisy(), 4, **options)
    assert [r["lr"] for r in records(tmp_path)] == pytest.approx([LR * f for f in expected])


def test_an_unknown_schedule_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"'cosin'.*constant, linear, cosine"):
        Stage("edit", Noisy(), 100, adam, schedule="cosin", warmup=50)


def test_every_parameter_group_keeps_its_own_rate(tmp_path: Path) -> None:
    a, b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))

    class Two(Noisy):
        def parameter_groups(self) -> list[dict[str, Any]]:
            return [{"params": [a], "lr": 1.0}, {"params": [b], "lr": 0.1}]

        def loss(self, *_: Any) -> tuple[Tensor, dict[str, float]]:
            return (a + b).sum(), {}

    run_one(tmp_path, Two(), 2, optimizer=torch.optim.SGD, schedule="linear")
    assert a.item() == pytest.approx(-1.5)
    assert b.item() == pytest.approx(-0.15)


# --- loss, gradient, stopping --------------------------------------------------------------------


def test_the_moving_average_is_bias_corrected(tmp_path: Path) -> None:
    values = [5.0, 1.0, -2.0, 7.0]
    run_one(tmp_path, Scripted(values), 4)
    for n, record in enumerate(records(tmp_path), 1):
        weights = [0.98 ** (n - 1 - i) for i in range(n)]
        mean = sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights)
        assert record["loss"] == values[n - 1]
        assert record["loss_ema"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ([1.0] * 100, 31),  # the first value stays the best
        ([1.0, *[0.999] * 99], 31),  # an improvement, but of less than 1 %
        ([1.0] * 20 + [-50.0] + [60.0] * 100, 21 + 30),
    ],
)
def test_a_stage_ends_when_its_loss_no_longer_falls(
    tmp_path: Path, values: list[float], steps: int
) -> None:
    run_one(tmp_path, Scripted(values), len(values), early_stop=EarlyStop(30, 0.01))
    assert len(records(tmp_path)) == steps


def test_a_falling_loss_is_not_stopped_early(tmp_path: Path) -> None:
    falling = [100 * 0.9**i for i in range(60)]
    run_one(tmp_path, Scripted(falling), 60, early_stop=EarlyStop(5, 0.01))
    assert len(records(tmp_path)) == 60
    run_one(tmp_path / "off", Scripted([1.0] * 60), 60)
    assert len(records(tmp_path / "off")) == 60


def test_clipping_limits_the_step_and_logs_the_norm_before_it(tmp_path: Path) -> None:
    def sgd(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=1.0)

    objective = Scripted([0.0], gradient=100.0)
    objective.finish = lambda: None  # type: ignore[method-assign]
    run_one(tmp_path, objective, 1, optimizer=sgd, clip_norm=0.5)
    assert float(objective.theta.detach().norm()) == pytest.approx(0.5, rel=1e-4)
    assert records(tmp_path)[0]["grad_norm"] == pytest.approx(100 * math.sqrt(3))


@pytest.mark.parametrize(("value", "gradient"), [(math.nan, 1.0), (math.inf, 1.0), (0.0, math.inf)])
def test_a_loss_that_blows_up_ends_the_run_with_a_sentence(
    tmp_path: Path, value: float, gradient: float
) -> None:
    objective = Scripted([1.0, value], gradient=1.0)
    original = objective.loss

    def loss(step: int, *rest: Any) -> tuple[Tensor, dict[str, float]]:
        objective.gradient = gradient if step == 1 else 1.0
        return original(step, *rest)

    objective.loss = loss  # type: ignore
    with pytest.raises(UserError, match=r"at step 1 of edit; lower lr="):
        run_one(tmp_path, objective, 2)
    assert torch.isfinite(objective.theta).all()
    assert len(records(tmp_path)) == 1


# --- renders and loggers -------------------------------------------------------------------------


def test_renders_and_loggers(tmp_path: Path) -> None:
    heard: list[tuple[str, int]] = []

    class Logger:
        def log(self, metrics: dict[str, Any], step: int) -> None:
            assert "step" not in metrics
            heard.append((metrics["stage"], step))

        def image(self, name: str, image: Tensor, step: int) -> None:
            assert image.shape == (3, 4, 4)
            heard.append((name, step))

    stage = Stage("edit", Noisy(), 5, adam)
    Trainer([stage], RunFolder(tmp_path), render_every=2, log_every=2, loggers=[Logger()]).run()
    names = sorted(path.name for path in (tmp_path / "renders").iterdir())
    assert names == [f"edit_{step:06d}_view.png" for step in (0, 2, 4, 5)]
    assert [h for h in heard if h[0] == "edit"] == [("edit", 2), ("edit", 4), ("edit", 5)]
    assert [h[1] for h in heard if h[0] == "edit/view"] == [0, 2, 4, 5]


def test_no_renders_where_none_are_wanted(tmp_path: Path) -> None:
    run_one(tmp_path, Noisy(), 3)
    assert not (tmp_path / "renders").exists()


# --- interruption --------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": adam,
    "amsgrad": lambda groups: torch.optim.AdamW(groups, lr=LR, amsgrad=True, weight_decay=0.1),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True),
}
BUDGETS = (7, 9)


def two_stages(
    folder: Path,
    on_step: Callable[[str, int], None] = lambda stage, step: None,
    optimizer: str = "adam",
    **options: Any,
) -> tuple[Trainer, list[Noisy]]:
    """A `fit` of 7 and an `edit` of 9 steps, with a warm-up and a schedule."""
    objectives = [Noisy(lambda step, name=name: on_step(name, step)) for name in ("fit", "edit")]  # type: ignore[misc]
    stages = [
        Stage(name, objective, steps, OPTIMIZERS[optimizer], schedule="cosine", warmup=2)
        for name, objective, steps in zip(("fit", "edit"), objectives, BUDGETS, strict=True)
    ]
    options = {"checkpoint_every": 3, "seed": 4, **options}
    return Trainer(stages, RunFolder(folder), **options), objectives


class Crash(Exception):
    """Stands for a process that ends without a word."""


def outcome(folder: Path, objectives: list[Noisy]) -> tuple[list[list[float]], str]:
    return [o.theta.detach().tolist() for o in objectives], (folder / "metrics.jsonl").read_text()


def resumed_outcome(
    folder: Path, at: tuple[str, int], how: str, optimizer: str = "adam"
) -> tuple[list[list[float]], str]:
    """Ends a run at a step of a stage by a signal or a crash, goes on in new objects."""

    def end(stage: str, step: int) -> None:
        if (stage, step) == at:
            if how == "crash":
                raise Crash
            os.kill(os.getpid(), getattr(signal, how))

    trainer, _ = two_stages(folder, end, optimizer)
    if how == "crash":
        with pytest.raises(Crash):
            trainer.run()
    else:
        assert trainer.run() == "stopped"
    trainer, objectives = two_stages(folder, optimizer=optimizer)
    trainer.resume()
    assert trainer.run() == "done"
    assert trainer.total_steps == sum(BUDGETS)
    return outcome(folder, objectives)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = {}
    for name in OPTIMIZERS:
        folder = tmp_path_factory.mktemp(name)
        trainer, objectives = two_stages(folder, optimizer=name)
        assert trainer.run() == "done"
        found[name] = outcome(folder, objectives)
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "at", [("fit", 3), ("fit", 6), ("edit", 0), ("edit", 2), ("edit", 5)], ids=str
)
def test_a_crashed_run_resumes_to_the_same_result(
    tmp_path: Path, uninterrupted: dict[str, Any], at: tuple[str, int], optimizer: str
) -> None:
    assert resumed_outcome(tmp_path, at, "crash", optimizer) == uninterrupted[optimizer]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("at", [("fit", 0), ("fit", 6), ("edit", 4)], ids=str)
def test_a_stopped_run_resumes_to_the_same_result(
    tmp_path: Path, uninterrupted: dict[str, Any], at: tuple[str, int], how: str
) -> None:
    assert resumed_outcome(tmp_path, at, how) == uninterrupted["adam"]


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(stop=st.lists(st.integers(0, sum(BUDGETS) - 2), min_size=1, max_size=4))
def test_any_number_of_interruptions_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, uninterrupted: dict[str, Any], stop: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("stops")
    pending = set(stop)

    def end(stage: str, step: int) -> None:
        done = step + (BUDGETS[0] if stage == "edit" else 0)
        if done in pending:
            pending.discard(done)
            os.kill(os.getpid(), signal.SIGTERM)

    status, resume = "stopped", False
    while status == "stopped":
        trainer, objectives = two_stages(folder, end, checkpoint_every=100)
        if resume:
            trainer.resume()
        status, resume = trainer.run(), True
    assert not pending
    assert outcome(folder, objectives) == uninterrupted["adam"]


def test_resuming_a_finished_run_does_nothing_more(
    tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    trainer, _ = two_stages(tmp_path)
    trainer.run()
    trainer, objectives = two_stages(tmp_path)
    trainer.resume()
    assert trainer.run() == "done"
    assert [o.calls for o in objectives] == [[], []]
    assert outcome(tmp_path, objectives) == uninterrupted["adam"]


def test_early_stopping_survives_an_interruption(tmp_path: Path) -> None:
    def trainer(folder: Path, crash_at: int | None = None) -> Trainer:
        objective = Scripted([5.0] * 4 + [1.0] * 100)
        original = objective.loss

        def loss(step: int, *rest: Any) -> tuple[Tensor, dict[str, float]]:
            if step == crash_at:
                raise Crash
            return original(step, *rest)

        objective.loss = loss  # type: ignore
        stage = Stage("edit", objective, 100, adam, early_stop=EarlyStop(10, 0.2))
        return Trainer([stage], RunFolder(folder), checkpoint_every=4)

    whole = trainer(tmp_path / "a")
    whole.run()
    assert whole.total_steps < 100
    with pytest.raises(Crash):
        trainer(tmp_path / "b", whole.total_steps - 2).run()
    rest = trainer(tmp_path / "b")
    rest.resume()
    rest.run()
    assert records(tmp_path / "b") == records(tmp_path / "a")


def test_signal_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run_one(tmp_path, Noisy(), 1)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    def impatient(step: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_one(tmp_path, Noisy(impatient), 3)


def test_it_runs_outside_the_main_thread(tmp_path: Path) -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(run_one(tmp_path, Noisy(), 2)))
    thread.start()
    thread.join()
    assert found == ["done"]


def test_another_configuration_is_not_resumed(tmp_path: Path) -> None:
    two_stages(tmp_path, fingerprint="a")[0].run()
    with pytest.raises(UserError, match="another configuration"):
        two_stages(tmp_path, fingerprint="b")[0].resume()


def test_lines_past_the_checkpoint_and_half_lines_are_dropped(tmp_path: Path) -> None:
    two_stages(tmp_path)[0].run()
    lines = (tmp_path / "metrics.jsonl").read_text()
    folder = RunFolder(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(lines + '{"stage": "edit", "st')
    folder.forget_after(["fit", "edit"], "edit", 2)
    kept = [(r["stage"], r["step"]) for r in records(tmp_path)]
    assert kept == [("fit", n) for n in range(1, 8)] + [("edit", 1), ("edit", 2)]


# --- observers, and parameters that are replaced -------------------------------------------------


def test_an_observer_sees_every_step_and_may_stop_the_run(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    stages = [Stage("fit", Noisy(), 2, adam), Stage("edit", Noisy(), 9, adam)]
    look: Observer = lambda trainer, stage: seen.append((stage.name, trainer.step))  # noqa: E731
    trainer = Trainer(stages, RunFolder(tmp_path), observers=[look, StopAt(3)])
    assert trainer.run() == "stopped" and trainer.step == 3
    assert seen == [("fit", 1), ("fit", 2), ("edit", 1), ("edit", 2), ("edit", 3)]


def test_a_paused_run_waits_and_goes_on_or_stops(tmp_path: Path) -> None:
    def paused(folder: Path, then: Callable[[Trainer], None]) -> tuple[str, int]:
        waiting = threading.Event()

        def pause(trainer: Trainer, stage: Stage) -> None:
            if trainer.step == 2:
                trainer.request_pause()
                waiting.set()

        trainer = Trainer([Stage("edit", Noisy(), 4, adam)], RunFolder(folder), observers=[pause])
        status: list[str] = []
        thread = threading.Thread(target=lambda: status.append(trainer.run()))
        thread.start()
        assert waiting.wait(60)
        time.sleep(0.3)
        assert trainer.step == 2 and thread.is_alive()
        then(trainer)
        thread.join(60)
        return status[0], trainer.step

    assert paused(tmp_path / "on", lambda trainer: trainer.request_resume())[0] == "done"
    assert paused(tmp_path / "off", lambda trainer: trainer.request_stop()) == ("stopped", 2)
    assert len(records(tmp_path / "on")) == 4


class Growing(Noisy):
    """Doubles its parameters after every third step; the new ones' moments begin at zero."""

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        if step % 3:
            return
        old, group = self.theta, optimizer.param_groups[0]
        self.theta = torch.nn.Parameter(torch.cat([old.detach(), 0.5 * old.detach()]))
        moments = optimizer.state.pop(old)
        optimizer.state[self.theta] = {
            name: torch.cat([value, torch.zeros_like(value)]) if value.ndim else value
            for name, value in moments.items()
        }
        group["params"] = [self.theta]

    def check_state(self, state: dict[str, Tensor]) -> None:
        if len(state["theta"]) < len(self.theta):
            raise ValueError("it has fewer than at the beginning")

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.theta = torch.nn.Parameter(state["theta"].clone())


@pytest.mark.parametrize("at", [1, 3, 4, 7])
def test_parameters_that_an_objective_replaces_resume_to_the_same_result(
    at: int, tmp_path: Path
) -> None:
    def run(folder: Path, *watching: Any, resume: bool = False) -> tuple[str, Tensor]:
        objective = Growing()
        trainer = Trainer(
            [Stage("edit", objective, 8, adam)], RunFolder(folder), seed=5, observers=watching
        )
        if resume:
            trainer.resume()
        return trainer.run(), objective.theta.detach()

    status, whole = run(tmp_path / "whole")
    assert status == "done" and whole.shape == (12,)
    assert run(tmp_path / "part", StopAt(at))[0] == "stopped"
    status, resumed = run(tmp_path / "part", resume=True)
    assert status == "done"
    # Noise of a step is drawn in the parameters' shape, so equality says the shapes were, too.
    assert torch.equal(resumed, whole)
