"""The error a person at the shell sees: one sentence and exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """What was wrong, where, and what would be right, in one sentence.

    `pds` prints the message and leaves with exit code 2; a traceback is shown only with
    `debug=true` or `HYDRA_FULL_ERROR=1`.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """UserError unless `value` is one of `choices`; `key` is what the user calls the option."""
    choices = list(choices)
    if value not in choices:
        near = nearest(str(value), choices)
        meant = f"; did you mean {near}?" if near else ""
        raise UserError(f"{key}={value} is unknown; choose one of {', '.join(choices)}{meant}")


def nearest(word: str, words: Sequence[str]) -> str | None:
    """The word most like `word`, or None where nothing is alike."""
    found = difflib.get_close_matches(word, list(words), 1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(word: str, words: Sequence[str]) -> str:
    """`; did you mean x?`, or a full stop."""
    near = nearest(word, words)
    return f"; did you mean {near}?" if near else "."
