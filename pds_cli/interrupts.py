"""Ctrl-C and SIGTERM: both end a command alike, and neither is mistaken for a failure of a part.

A signal reaches programs that we wait for, too. When ffmpeg dies of it, what arrives is a broken
pipe; `raise_if_seen` tells that from a pipe that broke by itself.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_seen: list[int] = []


def _interrupt(number: int, frame: FrameType | None) -> None:
    _seen.append(number)
    raise KeyboardInterrupt


@contextmanager
def as_keyboard_interrupt() -> Iterator[None]:
    """Within it SIGINT and SIGTERM raise KeyboardInterrupt, and are remembered."""
    _seen.clear()
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Who ignores a signal (nohup, a background job) goes on ignoring it; a handler that is
            # not Python's (None) could not be put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, _interrupt)
    except ValueError:  # not in the main thread: whoever started us handles signals
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_if_seen() -> None:
    """KeyboardInterrupt if a signal came since `as_keyboard_interrupt` was entered."""
    if _seen:
        raise KeyboardInterrupt
