"""Which job of a sweep a line is from, where jobs run side by side."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig


class LabelledStream:
    """A text stream that writes whole lines, each behind a label, and is no terminal.

    A line goes out in one piece, so that lines of several processes do not run into each other.
    Everything else is the stream's own.
    """

    def __init__(self, stream: TextIO, label: str) -> None:
        self.stream, self.label, self._begun = stream, label, ""

    def write(self, text: str) -> int:
        """Keeps what follows the last line's end until that line ends, too."""
        *lines, self._begun = (self._begun + text).split("\n")
        if lines:
            self._print("".join(f"{self.label}{line}\n" for line in lines))
        return len(text)

    def _print(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except BrokenPipeError:
            pass  # nobody reads: the job goes on

    def close_line(self) -> None:
        """Writes what is left of a line that never ended."""
        if self._begun:
            self.write("\n")

    def isatty(self) -> bool:
        """A bar that moves would overwrite other jobs' lines."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class JobLabels(Callback):
    """Hydra's callback that puts `[number]` before what a job prints, where several run at once."""

    streams: tuple[TextIO, TextIO] | None = None

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Says which settings the number stands for, and begins to label."""
        launcher = str(config.hydra.launcher._target_)
        if config.hydra.mode != RunMode.MULTIRUN or launcher.endswith("BasicLauncher"):
            return
        self.streams = sys.stdout, sys.stderr
        for stream in self.streams:
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        label = f"[{config.hydra.job.num}] "
        sys.stdout, sys.stderr = (LabelledStream(s, label) for s in self.streams)  # type: ignore
        self._redirect(self.streams[1], sys.stderr)
        print(" ".join(config.hydra.overrides.task))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Gives the streams back."""
        if self.streams is None:
            return
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, LabelledStream):
                stream.close_line()
        self._redirect(sys.stderr, self.streams[1])
        (sys.stdout, sys.stderr), self.streams = self.streams, None

    @staticmethod
    def _redirect(before: Any, after: Any) -> None:
        """Points the loggers' handlers at another stream."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                handler.setStream(after)
