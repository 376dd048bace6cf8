"""Ranges of numbers, and those that several keys share.

A number whose key has no range, as in a group from outside, must be finite all the same. Upper
ends that no maths asks for keep a slip of the finger from taking all memory, or the rest of the
year.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

MILLION = 1_000_000


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both allowed unless `above` or `below` leaves them out.

    whole: integers only. Nothing that is not finite lies in a range, and no integer of more than
    64 bits.
    """

    low: float | None = None
    high: float | None = None
    whole: bool = False
    above: bool = False
    below: bool = False

    def holds(self, value: int | float) -> bool:
        """Whether a number lies here."""
        # Comparisons of Python's take integers of any length, where float() would overflow.
        if not abs(value) <= (2**63 - 1 if isinstance(value, int) else sys.float_info.max):
            return False
        if self.whole and not isinstance(value, int):
            return False
        if self.low is not None and (value < self.low or (self.above and value == self.low)):
            return False
        return self.high is None or value < self.high or (value == self.high and not self.below)

    def __str__(self) -> str:
        if self.closed and not self.whole:
            return f"a finite number {self.span}"
        ends = []
        if self.low is not None:
            ends.append(f"{'above' if self.above else 'at least'} {_number(self.low)}")
        if self.high is not None:
            ends.append(f"{'below' if self.below else 'at most'} {_number(self.high)}")
        kind = "a whole number" if self.whole else "a finite number"
        joint = " of " if ends and ends[0].startswith("at") else " "
        return kind + (joint + " and ".join(ends) if ends else "")

    @property
    def short(self) -> str:
        """In few words: an end that only keeps slips of the finger out is left out.

        >>> whole(1, 65_536).short, Range(0, 1, below=True).short, Range(0, above=True).short
        ('whole 1 to 65,536', '0 to below 1', 'above 0')
        """
        kind = "whole " if self.whole else ""
        if self.low is None and self.high is None:
            return f"{kind}number" if kind else "number"
        low = "" if self.low is None else _number(self.low)
        if self.high is None or self.high >= 100 * MILLION:
            return f"{kind}{'above' if self.above else 'at least'} {low}"
        low = f"above {low}" if self.above else low
        return f"{kind}{low} to {'below ' if self.below else ''}{_number(self.high)}"

    @property
    def closed(self) -> bool:
        """Whether it has two ends, and both lie in it."""
        return None not in (self.low, self.high) and not (self.above or self.below)

    @property
    def span(self) -> str:
        """`from 0 to 1`, of a range with two ends."""
        assert self.low is not None and self.high is not None
        return f"from {_number(self.low)} to {_number(self.high)}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def whole(low: int, high: int) -> Range:
    """Integers from `low` to `high`."""
    return Range(low, high, whole=True)


FINITE = Range()
SHARE = Range(0, 1)
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
BELOW_ONE = Range(0, 1, below=True)
TURN = Range(-360_000, 360_000)  # degrees
STEPS = whole(1, 100 * MILLION)
EVERY = whole(0, 100 * MILLION)  # steps; 0: never
BATCH = whole(1, 65_536)
SEED = whole(0, 2**63 - 1)
PIXELS = whole(1, 16_384)
LONGEST_SIDE = whole(1, 100_000)  # pixels
COUNT = whole(1, 100_000)
FEW = whole(0, 10_000)
WIDTH = whole(1, 8192)  # of a network


def shown(value: Any, longest: int = 60) -> str:
    """A value as text in one line, cut where it is long."""
    try:
        text = " ".join(str(value).split())
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= longest else f"{text[: longest // 2]}… ({len(text)} characters)"
