"""What the benchmarks time with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

_FEWEST = 3


def median_ms(work: Callable[[], object], repeats: int, seconds: float | None = None) -> float:
    """The median time of `work` in milliseconds, after one call to warm up.

    seconds: begin no more repeats after this time, but take at least three.
    """
    work()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < repeats:
        started = time.perf_counter()
        if seconds is not None and len(times) >= _FEWEST and started - begun > seconds:
            break
        work()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)
