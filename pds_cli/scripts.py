"""How the scripts of this folder are called: words in, the paths of what they wrote out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pds_cli.errors import UserError


def run(main: Callable[[Sequence[str]], Iterable[Path]], argv: Sequence[str] | None = None) -> int:
    """Calls `main` with the words of the command line and prints a line for each path it wrote.

    Returns:
        The exit code: 0, or 2 after a UserError, whose sentence goes to stderr.
    """
    try:
        for path in main(sys.argv[1:] if argv is None else argv):
            print(path)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def paths(argv: Sequence[str], defaults: Sequence[str], usage: str | None) -> list[Path]:
    """The words as paths, with `defaults` for those that were not given.

    Raises:
        UserError: more words than there are defaults.
    """
    check_words(argv, 0, len(defaults), usage)
    return [Path(word) for word in (*argv, *defaults[len(argv) :])]


def check_words(argv: Sequence[str], least: int, most: int | None, usage: str | None) -> None:
    """UserError with the module's docstring `usage` unless `argv` has `least` to `most` words."""
    if len(argv) < least or (most is not None and len(argv) > most):
        lines = (line.strip() for line in (usage or "").splitlines())
        call = next(line for line in lines if line.startswith("python -m"))
        raise UserError(f"{len(argv)} words were given; call it as {call}")
