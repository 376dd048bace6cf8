"""Edits as jobs of a benchmark: each is a `pds edit` of its own, as a user would run it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pds_cli.errors import UserError, did_you_mean
from pds_cli.overrides import quoted_words
from pds_cli.reading import read_object
from pds_cli.runs import layout
from pds_cli.runs.folder import RunFolder, megabytes
from pds_cli.runs.ownership import Claim, adopt, card_of, owns

JOB_FILE = "job.json"


def words_in(key: str, value: Any) -> list[str]:
    """The words for `pds edit` that a key of a benchmark has; none for null.

    Raises:
        UserError: it is no list of texts.
    """
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UserError(f"{key}={value} is no list of words for pds edit, such as [loss=pds].")
    for word in value:
        if not isinstance(word, str):
            raise UserError(f"{key}: {word} is no word for pds edit, such as loss=pds.")
    return list(value)


def chosen(methods: Mapping[str, Any], only: Sequence[str] | None) -> dict[str, list[str]]:
    """The words of the methods named by `only`, in the order of `methods`; None: of all.

    Raises:
        UserError: there are no methods, a name is none of them, or one is no list of words.
    """
    if not methods or (only is not None and not only):
        raise UserError("benchmark.methods and benchmark.only must leave something to run")
    for name in only or ():
        if name not in methods:
            raise UserError(
                f"benchmark.only: there is no method {name!r}"
                f"{did_you_mean(name, list(methods))} There are {', '.join(methods)}."
            )
    return {
        name: words_in(f"benchmark.methods.{name}", words)
        for name, words in methods.items()
        if only is None or name in only
    }


def check_seeds(seeds: int) -> None:
    """Refuses a benchmark without a seed.

    Raises:
        UserError: it has none.
    """
    if seeds < 1:
        raise UserError(f"benchmark.seeds={seeds} must be at least 1")


def seed_folder(place: Path, number: int) -> Path:
    """Where a benchmark's edit under its number-th seed is: the first in `place` itself.

    >>> seed_folder(Path("bench/pds"), 2).as_posix()
    'bench/pds/seed_2'
    """
    return place if number == 0 else place / f"seed_{number}"


def edit_job(words: Sequence[str], run: RunFolder) -> dict[str, float]:
    """Runs `pds edit` in a process of its own, unless it was.

    A job that is done already in the same folder, with the same words, is not run again; one that
    was interrupted goes on.

    Args:
        words: of the command line, without `out=`.

    Returns:
        `seconds` of training and `memory_mb`, the most that the process held.

    Raises:
        UserError: the job failed, or was killed.
    """
    card, summary = card_of(run.path), read_object(run.path / layout.SUMMARY)
    same = (
        card is not None
        and card.get("verb") == "edit"
        and _words(card) == quoted_words(words, "edit")
    )
    if not (same and summary.get("status") == "done"):
        if Claim.current:
            adopt(run.path, Claim.current[-1].folder)
        start = [*words, f"out={run.path}", *(["overwrite=true"] if card else [])]
        memory = _run([f"resume={run.path}"] if same else start, run.path)
        before = float(read_object(run.path / JOB_FILE).get("memory_mb", 0.0)) if same else 0.0
        run.write_json(JOB_FILE, {"memory_mb": max(before, memory)})
        adopt(run.path / JOB_FILE, run.path)
        summary = read_object(run.path / layout.SUMMARY)
    memory = float(read_object(run.path / JOB_FILE).get("memory_mb", 0.0))
    return {"seconds": float(summary.get("seconds", 0.0)), "memory_mb": memory}


def _words(card: Mapping[str, Any]) -> list[str]:
    """The words that a run was started with, but for its folder."""
    words = card.get("words")
    kept = [str(word) for word in words] if isinstance(words, list) else []
    return [word for word in kept if not word.startswith(("out=", "overwrite=", "resume="))]


def _run(words: Sequence[str], folder: Path) -> float:
    """Runs `pds edit` with these words; returns the peak of its memory in MB."""
    log = folder.with_name(f"{folder.name}.log")  # beside it: the folder is the edit's own
    owns(log)
    with log.open("w", encoding="utf-8") as output:
        command = [sys.executable, "-m", "pds_cli", "edit", *words]
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except KeyboardInterrupt:
            child.send_signal(signal.SIGTERM)  # SIGTERM may have come to us alone
            child.wait()  # it writes its checkpoint
            raise
    child.returncode = status
    if os.WIFSIGNALED(status):
        raise UserError(f"pds edit {' '.join(words)} was stopped by signal {os.WTERMSIG(status)}")
    if os.WEXITSTATUS(status) == 130:
        raise KeyboardInterrupt
    if status:
        last = log.read_text(encoding="utf-8", errors="replace").strip().split("\n")[-1]
        raise UserError(f"pds edit {' '.join(words)} failed; {log} ends with: {last}")
    return megabytes(usage.ru_maxrss)
