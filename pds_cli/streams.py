"""What a process prints and logs into: streams that outlive their readers, and its own logging."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, TextIO


class LastingStream(io.TextIOWrapper):
    """A text stream that goes quiet, and does not fail, once its reader (head, less) has gone.

    What runs goes on: a result must not be lost with the window that showed its progress.
    """

    def write(self, text: str) -> int:
        """Writes; or drops the text where nobody reads."""
        try:
            return super().write(text)
        except BrokenPipeError:
            self._silence()
            return len(text)

    def flush(self) -> None:
        """Flushes; or drops what is left where nobody reads."""
        try:
            super().flush()
        except BrokenPipeError:
            self._silence()
            with suppress(OSError):
                super().flush()

    def _silence(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def lasting_streams() -> None:
    """Makes this process's standard streams such that printing cannot fail for who reads them.

    A closed stream (`>&-`) becomes the null device, for children too: else the next file that is
    opened gets its number, and is printed into. A letter that the stream's encoding lacks is
    written as its escape (ASCII: "×" is "\\xd7").
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number free
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)


def _lasting(stream: TextIO | None, number: int) -> TextIO:
    binary: BinaryIO
    if isinstance(stream, io.TextIOWrapper):
        encoding, by_line, through = stream.encoding, stream.line_buffering, stream.write_through
        binary = stream.detach()
    else:
        encoding, by_line, through = "utf-8", True, False
        binary = open(number, "wb", closefd=False)  # noqa: SIM115
    return LastingStream(
        binary, encoding, "backslashreplace", line_buffering=by_line, write_through=through
    )


@contextmanager
def own_logging() -> Iterator[None]:
    """Keeps the process's log handlers from being closed, and Hydra's from outliving the command.

    A library that logs as the process ends would otherwise write into a run folder that is done,
    or make a log in one that was given back. `logging.config.dictConfig` closes every handler in
    logging's own list, so that list is empty meanwhile.
    """
    root, known = logging.getLogger(), getattr(logging, "_handlerList", [])
    handlers, level, all_known = root.handlers[:], root.level, known[:]
    named = dict(getattr(logging, "_handlers", {}))
    known.clear()
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        known[:0] = all_known
        getattr(logging, "_handlers", {}).update(named)
