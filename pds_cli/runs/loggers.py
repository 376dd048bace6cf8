"""Where a run's numbers and pictures go besides its folder: nowhere, TensorBoard, or W&B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pds_cli.errors import UserError, check_choice
from pds_cli.options.runs import WANDB_MODES
from pds_cli.runs.ownership import owns
from pds_cli.runs.record import number


@runtime_checkable
class Logger(Protocol):
    """What the trainer calls.

    log: metrics of one step; values that are no numbers are left out, and a `stage` among them
        prefixes the names (`edit/loss`), so that stages which count from 0 stay apart.
    image: a picture [3,H,W] in [0,1] (tensor or array), PIL image or path.
    close: writes what is buffered; may be called twice.

    One that also has `begin()` writes nothing before that is called: when it is built, the run
    may still be refused.
    """

    def log(self, metrics: Mapping[str, Any], step: int) -> None: ...

    def image(self, name: str, image: Any, step: int) -> None: ...

    def close(self) -> None: ...


def begin_logger(logger: Any) -> None:
    """Lets a logger begin to write, if it waits for that."""
    if hasattr(logger, "begin"):
        logger.begin()


class NullLogger:
    """Writes nothing: the run folder has all there is."""

    def __init__(
        self, folder: Path | str | None = None, config: Mapping[str, Any] | None = None
    ) -> None:
        pass

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Nothing."""

    def image(self, name: str, image: Any, step: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class TensorBoardLogger:
    """Event files in `<folder>/tensorboard`; look at them with `tensorboard --logdir outputs`.

    folder: the run folder. config: the resolved config, shown as text.
    flush_secs: seconds after which buffered numbers are written.
    Raises UserError where the package tensorboard is missing.
    """

    def __init__(
        self,
        folder: Path | str,
        config: Mapping[str, Any] | None = None,
        flush_secs: int = 30,
    ) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_package("tensorboard", "tensorboard") from error
        self._make: Any = SummaryWriter
        self._writer: Any = None
        self._closed = False
        self._folder, self._config, self._flush_secs = Path(folder), config, flush_secs

    def begin(self) -> None:
        """Makes the folder of event files.

        Raises:
            UserError: it cannot be written.
        """
        place = self._folder / "tensorboard"
        try:
            self._writer = self._make(str(place), flush_secs=self._flush_secs)
        except OSError as error:
            raise UserError(
                f"cannot write TensorBoard's files into {place}: {error.strerror or error}"
            ) from error
        owns(place)
        if self._config:
            self._writer.add_text("config", _indented(self._config), 0)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        if self._open():
            for name, value in numbers(metrics).items():
                self._writer.add_scalar(name, value, step)

    def image(self, name: str, image: Any, step: int) -> None:
        if self._open():
            self._writer.add_image(name, _channels_last(image), step, dataformats="HWC")

    def _open(self) -> bool:
        if self._writer is None and not self._closed:
            self.begin()
        return not self._closed

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._closed = None, True


class WandbLogger:
    """Weights & Biases; by default offline, so that nothing leaves the machine unasked.

    folder: the run folder; files go to `<folder>/wandb`. config: the resolved config.
    mode: offline (upload later with `wandb sync`), online, or disabled.
    project, name, entity, tags: as W&B has them; name None lets W&B invent one.
    Raises UserError where the package wandb is missing.
    """

    def __init__(
        self,
        folder: Path | str,
        config: Mapping[str, Any] | None = None,
        project: str = "pds",
        name: str | None = None,
        entity: str | None = None,
        tags: Sequence[str] = (),
        mode: str = "offline",
    ) -> None:
        check_choice("logger.mode", mode, WANDB_MODES)
        try:
            import wandb
        except ImportError as error:
            raise missing_package("wandb", "wandb") from error
        self._wandb: Any = wandb
        self._run: Any = None
        self._closed = False
        self._folder = Path(folder)
        self._options: dict[str, Any] = {
            "project": project,
            "name": name,
            "entity": entity,
            "tags": list(tags) or None,
            "mode": mode,
            "config": dict(config or {}),
        }
        self._stages: set[str] = set()

    def begin(self) -> None:
        """Starts W&B's run.

        Raises:
            UserError: it refuses to.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = self._wandb.init(dir=str(self._folder), **self._options)
        except Exception as error:  # wandb's own classes differ from version to version
            raise UserError(
                f"Weights & Biases did not start: {error}; run `wandb login` first, "
                "or use logger.mode=offline"
            ) from error
        if (place := self._folder / "wandb").is_dir():
            owns(place)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        self._send(numbers(metrics), step, _stage(metrics))

    def image(self, name: str, image: Any, step: int) -> None:
        if not self._closed:
            self._send({name: self._wandb.Image(_channels_last(image))}, step, "renders")

    def _send(self, values: dict[str, Any], step: int, stage: str) -> None:
        if self._closed or not values:
            return
        if self._run is None:
            self.begin()
        # W&B drops values of an earlier step than the last; a step of their own lets stages
        # restart from 0 and a resumed run repeat a few.
        key = f"{stage}/step" if stage else "step"
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/*" if stage else "*", step_metric=key)
        self._run.log({**values, key: step})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
        self._run, self._closed = None, True


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numeric values of `metrics`, without `step`, prefixed with the stage if there is one."""
    stage = _stage(metrics)
    out: dict[str, float] = {}
    for name, value in metrics.items():
        if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
            value = value.item()
        found = number(value)
        if found is not None and name != "step":
            out[f"{stage}/{name}" if stage else name] = found
    return out


def _stage(metrics: Mapping[str, Any]) -> str:
    stage = metrics.get("stage")
    return stage if isinstance(stage, str) else ""


def missing_package(logger: str, package: str) -> UserError:
    """The sentence for a logger whose package is not installed."""
    return UserError(
        f"logger={logger} needs the package {package}, which is not installed; "
        f"get it with: pip install {package}"
    )


def _channels_last(image: Any) -> Any:
    """uint8 [H,W,3], from anything `sheets.to_pil` takes."""
    import numpy as np

    from pds_cli.pictures.sheets import to_pil

    return np.asarray(to_pil(image))


def _indented(config: Mapping[str, Any]) -> str:
    """The config as a Markdown code block."""
    import yaml

    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    return "\n".join("    " + line for line in text.splitlines())
