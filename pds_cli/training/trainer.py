"""The only optimisation loop: it runs stages, logs, checkpoints and resumes.

Every random number of a step comes from a generator seeded by (seed, stage name, step), so a
resumed run draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, ClassVar

import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.options.verbs import LR_SCHEDULES as SCHEDULES
from pds_cli.progress import Progress
from pds_cli.runs import layout
from pds_cli.runs.checkpoint import (
    check_state,
    fits,
    load_checkpoint,
    pack_optimizer,
    restore_optimizer,
    save_checkpoint,
    under,
    unpack_optimizer,
    with_prefix,
)
from pds_cli.runs.folder import RunFolder
from pds_cli.runs.record import number
from pds_cli.seeds import step_generator

_LOOK = 0.1  # seconds between looks at a stop during a pause


@dataclass(frozen=True)
class Idle:
    """A key of a run that has no effect.

    key: dotted, such as `loss.identity`; it stands for those under it, too.
    because: the setting that makes it so, such as `loss.coefficients=exact`; empty: what edits.
    instead: the key that is looked at in its place, where the run has it.
    """

    key: str
    because: str = ""
    instead: str = ""


class Objective(ABC):
    """What a stage minimises, and the parameters it moves.

    Attributes:
        name: of its stage, in logs and checkpoints.
        steps: how many steps it takes, whatever the run says; None: as many as that.
        group: the config group that it is an option of, where that is not `loss`.
    """

    name: str = "edit"
    steps: int | None = None
    group: ClassVar[str] = "loss"

    def begin(self) -> None:  # noqa: B027 - optional hook
        """Called once before the stage's first step in this process, after state is loaded."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser."""

    @abstractmethod
    def loss(
        self, step: int, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The scalar whose gradient is followed, and what to log beside it.

        Args:
            step: steps done in this stage.
            progress: step / steps, in [0, 1).
            generator: this step's random numbers, on the CPU.
        """

    def after_step(  # noqa: B027 - optional hook
        self, step: int, optimizer: torch.optim.Optimizer
    ) -> None:
        """Called after the optimiser's step, with the number of steps done.

        An objective may put other parameters in the place of those in `optimizer.param_groups`,
        and other moments into `optimizer.state`, as many groups as before. What `state_dict` and
        `parameter_groups` give must then be of those, so that a resumed run is the same.
        """

    def idle(self) -> Sequence[Idle]:
        """The keys that a user may have set and that have no effect on this objective."""
        return []

    def check_state(self, state: dict[str, Tensor]) -> None:
        """Whether `load_state_dict` can take a state; one whose parameters grow says what may.

        Raises:
            ValueError: it cannot.
        """
        check_state(state, self.state_dict())

    def renders(self) -> dict[str, Tensor]:
        """Pictures [3,H,W] in [0,1] of the present state, by name."""
        return {}

    def finish(self) -> None:  # noqa: B027 - optional hook
        """Called once after the stage's last step."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Everything that must survive an interruption, as tensors."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`."""


@dataclass
class EarlyStop:
    """Ends a stage when the loss's moving average has not fallen for a while.

    patience: steps without improvement; 0 switches it off.
    min_delta: what counts as an improvement, relative to the best value.
    """

    patience: int = 0
    min_delta: float = 0.01


@dataclass
class Stage:
    """An objective with its step budget and optimiser settings.

    Attributes:
        optimizer: called with parameter groups, returns a torch optimiser.
        schedule: factor on every learning rate: `constant`, `linear` or `cosine` (to `lr_end`).
        warmup: steps over which the learning rate rises linearly from zero.
        lr_end: the factor that `linear` and `cosine` fall to at the stage's end.
        clip_norm: largest norm of the gradient of all parameters together; None for no limit.
    """

    name: str
    objective: Objective
    steps: int
    optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer]
    schedule: str = "constant"
    warmup: int = 0
    lr_end: float = 0.0
    clip_norm: float | None = None
    early_stop: EarlyStop = field(default_factory=EarlyStop)

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UserError(
                f"there is no learning-rate schedule {self.schedule!r}; "
                f"choose one of {', '.join(SCHEDULES)}"
            )
        if self.warmup < 0:
            raise UserError(f"warmup={self.warmup} must be at least 0 steps")

    def lr_factor(self, step: int) -> float:
        """The factor on the learning rate at `step` (0-based)."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "constant":
            return 1.0
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.schedule == "linear":
            return 1.0 + (self.lr_end - 1.0) * done
        return self.lr_end + (1.0 - self.lr_end) * 0.5 * (1.0 + math.cos(math.pi * done))


def with_lr(groups: Iterable[dict[str, Any]], lr: float) -> list[dict[str, Any]]:
    """Parameter groups with their step size: `lr` times the group's `lr_scale` (1 if unsaid)."""
    return [
        {**{k: v for k, v in group.items() if k != "lr_scale"}, "lr": lr * group.get("lr_scale", 1)}
        for group in groups
    ]


def configured_optimizer(
    node: Any, lr: float, allow_modules: Sequence[str]
) -> Callable[[Iterable[Any]], torch.optim.Optimizer]:
    """A stage's `optimizer`: the one that a config node describes, at the step size `lr`.

    Raises:
        UserError: when it is called: an option that the optimiser refuses.
    """
    from pds_cli.instantiate import instantiate

    def build(groups: Iterable[Any]) -> torch.optim.Optimizer:
        try:
            return instantiate(
                "optimizer", node, with_lr(groups, lr), lr=lr, allow_modules=allow_modules
            )
        except (ValueError, IndexError, TypeError) as error:
            raise UserError(f"the optimizer cannot be made of optimizer.*: {error}") from error

    return build


def check_optimizer(node: Any, lr: float, allow_modules: Sequence[str]) -> None:
    """Builds a config node's optimiser on a stand-in, so that wrong options are refused early.

    Raises:
        UserError: an option that the optimiser refuses.
    """
    stand_in = torch.nn.Parameter(torch.zeros(2, 2))
    configured_optimizer(node, lr, allow_modules)([{"params": [stand_in]}])


Observer = Callable[["Trainer", Stage], None]
"""Called after each step of a stage, with `trainer.step` steps of it done.

It may look, and ask the trainer to stop or to pause; it changes nothing.
"""

observers: list[Observer] = []
"""Those that see the steps of every trainer in this process."""


class Trainer:
    """Runs stages one after the other in a run folder.

    Args:
        stages: run in order; names are unique.
        run: where metrics, renders and the checkpoint go.
        seed: fixes every random number of the run.
        checkpoint_every, render_every, log_every: in steps; 0 switches it off.
        fingerprint: what must be equal in a resumed run; kept in the checkpoint.
        earlier: fingerprints of the same run when it was to take fewer steps; from a checkpoint
            of its end it then goes on.
        loggers: objects with `log(metrics, step)`, `image(name, image, step)`, `close()`.
        observers: see each step, beside the module's `observers`.

    Example:
        >>> Trainer([stage], RunFolder("outputs/x"), seed=0).run()  # doctest: +SKIP
        'done'
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        run: RunFolder,
        *,
        seed: int = 0,
        checkpoint_every: int = 100,
        render_every: int = 0,
        log_every: int = 1,
        fingerprint: str = "",
        earlier: Sequence[str] = (),
        loggers: Sequence[Any] = (),
        observers: Sequence[Observer] = (),
    ) -> None:
        self.observers = list(observers)
        self.earlier = frozenset(earlier)
        self.stages, self.folder, self.seed = list(stages), run, seed
        self.checkpoint_every, self.render_every = checkpoint_every, render_every
        self.log_every, self.fingerprint, self.loggers = max(1, log_every), fingerprint, loggers
        self.stage_index = self.step = self.total_steps = 0
        self.seconds = 0.0
        self._track: dict[str, float] = {}
        self._resumed_optimizer: dict[str, Any] | None = None
        self._proven = True  # False between an optimiser's resumption and its first step
        self._stop = False
        self._going = threading.Event()
        self._going.set()

    # ------------------------------------------------------------------ checkpoints
    def save(
        self, optimizer: torch.optim.Optimizer | None = None, ended: dict[str, Any] | None = None
    ) -> None:
        """Writes the checkpoint: every stage's state, and the optimiser of the present one.

        ended: of a run's end, where its last stage stood, for one that goes on to more steps.
        """
        tensors: dict[str, Tensor] = {}
        for stage in self.stages[: self.stage_index + 1]:
            tensors |= with_prefix(f"stage.{stage.name}", stage.objective.state_dict())
        meta = {
            "stage": self.stage_index,
            "step": self.step,
            "total_steps": self.total_steps,
            "seconds": self.seconds,
            "track": self._track,
            "fingerprint": self.fingerprint,
        }
        if ended is not None:
            meta["ended"] = ended
        if optimizer is not None:
            packed, meta["optimizer"] = pack_optimizer(optimizer.state_dict())
            tensors |= with_prefix("optimizer", packed)
        save_checkpoint(self.folder.checkpoint, tensors, meta)

    def resume(self, *, rewind: bool = True) -> None:
        """Goes back to the checkpoint in the run folder.

        Args:
            rewind: see `rewind`; without it nothing is written, and what could be wrong is found
                out.

        Raises:
            UserError: where there is none, it is corrupt, it was made with another
                configuration, or its state does not fit the stages.
        """
        tensors, meta = load_checkpoint(self.folder.checkpoint)
        if meta.get("fingerprint") not in {self.fingerprint, *self.earlier}:
            raise UserError(
                f"{self.folder.path} was made with another configuration; resume it without "
                "other settings, or start a new run"
            )
        if meta.get("stage") == len(self.stages) and meta.get("fingerprint") in self.earlier:
            meta |= {**(meta.get("ended") or {}), "stage": len(self.stages) - 1}
        with fits(self.folder.checkpoint):
            self._go_to(meta)
            for stage in self.stages[: self.stage_index + 1]:
                state = under(f"stage.{stage.name}", tensors)
                stage.objective.check_state(state)
                stage.objective.load_state_dict(state)
            if "optimizer" in meta and self.stage_index < len(self.stages):
                packed = under("optimizer", tensors)
                self._resumed_optimizer = unpack_optimizer(packed, meta["optimizer"])
        if rewind:
            self.rewind()

    def rewind(self) -> None:
        """Forgets what was logged after the checkpoint that `resume` went back to.

        Raises:
            UserError: the log is damaged.
        """
        names = [stage.name for stage in self.stages]
        if self.stage_index < len(names):
            with fits(self.folder.metrics, wrong="is damaged"):
                self.folder.forget_after(names, names[self.stage_index], self.step)

    def _go_to(self, meta: dict[str, Any]) -> None:
        """Takes over where a checkpoint was.

        Raises:
            ValueError, LookupError, TypeError: it was nowhere in these stages.
        """
        counts = {name: meta[name] for name in ("stage", "step", "total_steps")}
        for name, count in counts.items():
            if type(count) is not int or not 0 <= count < 2**53:
                raise ValueError(f"its {name} is no count")
        if counts["stage"] > len(self.stages):
            raise ValueError(f"its stage is {counts['stage']}, of {len(self.stages)}")
        track = {str(name): float(value) for name, value in meta["track"].items()}
        seconds = number(meta["seconds"])
        finite = all(map(math.isfinite, track.values()))
        if seconds is None or not 0 <= seconds < 2**53 or not finite:
            raise ValueError("its seconds or averages are no numbers")
        if ("best" in track) != ("best_step" in track):
            raise ValueError("its averages are not complete")
        self.stage_index, self.step = counts["stage"], counts["step"]
        self.total_steps, self.seconds, self._track = counts["total_steps"], seconds, track

    # ------------------------------------------------------------------ the loop
    def run(self) -> str:
        """Runs what is left; returns `done`, or `stopped` after Ctrl-C or SIGTERM."""
        found = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        # A handler that is not Python's (None) could not be put back.
        previous = {s: handler for s, handler in found.items() if handler is not None}
        try:
            for number in previous:
                signal.signal(number, self._signalled)
        except ValueError:  # not in the main thread: whoever started us handles signals
            previous = {}
        try:
            while self.stage_index < len(self.stages):
                optimizer = self._run_stage(self.stages[self.stage_index])
                if optimizer is None:
                    return "stopped"
                ended = {"step": self.step, "track": self._track}
                self.stage_index, self.step, self._track = self.stage_index + 1, 0, {}
                # Says that the stage is over: `finish` must not run again when the run goes on.
                if self.checkpoint_every and self.stage_index < len(self.stages):
                    self.save()
                elif self.checkpoint_every:
                    self.save(optimizer, ended)
            return "done"
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def request_stop(self) -> None:
        """Saves and stops after the present step, or before the first. From any thread."""
        self._stop = True

    def request_pause(self) -> None:
        """Waits after the present step, until `request_resume` or a stop. From any thread."""
        self._going.clear()

    def request_resume(self) -> None:
        """Ends a pause. From any thread."""
        self._going.set()

    def _wait(self) -> None:
        while not self._stop and not self._going.wait(_LOOK):
            pass

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.request_stop()

    def _run_stage(self, stage: Stage) -> torch.optim.Optimizer | None:
        """The stage's optimiser where it came to its end, else None."""
        stage.objective.begin()
        optimizer = stage.optimizer(stage.objective.parameter_groups())
        base_lrs = [group["lr"] for group in optimizer.param_groups]
        if self._resumed_optimizer is not None:
            with fits(self.folder.checkpoint):
                restore_optimizer(optimizer, self._resumed_optimizer)
            self._resumed_optimizer, self._proven = None, False
        self._render(stage)
        with Progress(stage.name, stage.steps, self.step) as progress:
            while self.step < stage.steps and not self._early(stage):
                self._wait()
                if self._stop:
                    self.save(optimizer)
                    return None
                started = time.perf_counter()
                self._one_step(stage, optimizer, base_lrs)
                self.seconds += time.perf_counter() - started
                progress.update(self.step, self._track["loss_ema"])
                for observe in (*observers, *self.observers):
                    observe(self, stage)
                if self.checkpoint_every and self.step % self.checkpoint_every == 0:
                    self.save(optimizer)
                if self.render_every and self.step % self.render_every == 0:
                    self._render(stage)
        if not self.render_every or self.step % self.render_every:
            self._render(stage)
        stage.objective.finish()
        return optimizer

    def _one_step(
        self, stage: Stage, optimizer: torch.optim.Optimizer, base_lrs: list[float]
    ) -> None:
        for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
            group["lr"] = lr * stage.lr_factor(self.step)
        generator = step_generator(self.seed, stage.name, self.step)
        optimizer.zero_grad(set_to_none=True)
        loss, logs = stage.objective.loss(self.step, self.step / stage.steps, generator)
        loss.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        limit = math.inf if stage.clip_norm is None else stage.clip_norm
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        value = logs.pop("loss", float(loss.detach()))
        if not math.isfinite(value) or not math.isfinite(norm):
            raise UserError(
                f"the loss became {value} with gradient norm {norm} at step {self.step} of "
                f"{stage.name}; lower lr= or guidance=, or use dtype float32"
            )
        # What does not fit of an optimiser's state is only seen when it is used.
        with nullcontext() if self._proven else fits(self.folder.checkpoint):
            optimizer.step()
        self._proven = True
        self.step += 1
        self.total_steps += 1
        stage.objective.after_step(self.step, optimizer)
        self._remember(value)
        if self.step % self.log_every == 0 or self.step == stage.steps:
            lr = optimizer.param_groups[0]["lr"]
            self._log(stage, {"loss": value, "grad_norm": norm, "lr": lr, **logs})

    def _remember(self, value: float) -> None:
        """Moving average of the loss (bias-corrected), and the best one for early stopping."""
        decay = 0.98
        weight = self._track.get("weight", 0.0) * decay + (1 - decay)
        total = self._track.get("sum", 0.0) * decay + (1 - decay) * value
        self._track |= {"weight": weight, "sum": total, "loss_ema": total / weight}

    def _early(self, stage: Stage) -> bool:
        rule = stage.early_stop
        if rule.patience <= 0 or "loss_ema" not in self._track:
            return False
        average = self._track["loss_ema"]
        best = self._track.get("best", math.inf)
        if average < best - rule.min_delta * abs(best) or not math.isfinite(best):
            self._track |= {"best": average, "best_step": float(self.step)}
            return False
        return self.step - self._track["best_step"] >= rule.patience

    def _log(self, stage: Stage, metrics: dict[str, float]) -> None:
        record: dict[str, Any] = {"stage": stage.name, "step": self.step}
        record |= {"loss_ema": self._track["loss_ema"], **metrics}
        self.folder.log(record)
        for logger in self.loggers:
            logger.log({k: v for k, v in record.items() if k != "step"}, self.step)

    def _render(self, stage: Stage) -> None:
        if not self.render_every:
            return
        for name, image in stage.objective.renders().items():
            self.folder.save_image(layout.frame(stage.name, self.step, name), image)
            for logger in self.loggers:
                logger.image(f"{stage.name}/{name}", image, self.step)
