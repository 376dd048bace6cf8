"""Edits as jobs of a benchmark: each is a `pds edit` of its own, as a user would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pds_cli.catalogue import did_you_mean
from pds_cli.errors import UserError
from pds_cli.reading import read_json
from pds_cli.runs.folder import RunFolder, megabytes

JOB_FILE = "job.json"


def chosen(methods: Mapping[str, Any], only: Sequence[str] | None) -> dict[str, Any]:
    """The methods named by `only`, in the order of `methods`; None: all.

    Raises:
        UserError: a name that is none of them.
    """
    for name in only or ():
        if name not in methods:
            raise UserError(
                f"benchmark.only: there is no method {name!r}"
                f"{did_you_mean(name, list(methods))} There are {', '.join(methods)}."
            )
    return {name: node for name, node in methods.items() if only is None or name in only}


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
    facts, summary = _read(run.path / JOB_FILE), _read(run.path / "summary.json")
    same = facts.get("words") == list(words)
    memory = float(facts.get("memory_mb", 0.0)) if same else 0.0
    if not (same and summary.get("status") == "done"):
        goes_on = same and run.checkpoint.is_file()
        run.write_json(JOB_FILE, {"words": list(words), "memory_mb": memory})
        start = [f"resume={run.path}"] if goes_on else [*words, f"out={run.path}"]
        memory = max(memory, _run(start, run.path))
        run.write_json(JOB_FILE, {"words": list(words), "memory_mb": memory})
        summary = _read(run.path / "summary.json")
    return {"seconds": float(summary.get("seconds", 0.0)), "memory_mb": memory}


def _run(words: Sequence[str], folder: Path) -> float:
    """Runs `pds edit` with these words; returns the peak of its memory in MB."""
    log = folder / "edit.log"
    with log.open("w", encoding="utf-8") as output:
        command = [sys.executable, "-m", "pds_cli", "edit", *words]
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except KeyboardInterrupt:
            child.wait()  # it was interrupted too, and writes its checkpoint
            raise
    child.returncode = status
    if os.WIFSIGNALED(status):
        raise UserError(f"pds edit {' '.join(words)} was stopped by signal {os.WTERMSIG(status)}")
    if status:
        last = log.read_text(encoding="utf-8", errors="replace").strip().split("\n")[-1]
        raise UserError(f"pds edit {' '.join(words)} failed; {log} ends with: {last}")
    return megabytes(usage.ru_maxrss)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}
