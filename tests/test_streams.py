"""Pipes that close, streams that know few letters or are not there, and Ctrl-C before anything."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Answer

from pds_cli.errors import UserError
from pds_cli.streams import LastingStream


def run(words: str, folder: Path, before: str = "", **environment: str) -> Any:
    """Runs `pds` in a shell of its own; `words` may hold redirections."""
    path = os.pathsep.join(filter(None, [before, str(ROOT)]))
    command = f"set -o pipefail; {sys.executable} -m pds_cli {words}"
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        ("list loss | head -1", 0, "loss\n", ""),
        ("list loss >&-", 0, "", ""),
        ("lst 2>&-", 2, "", ""),
        ("--version >&- 2>&- <&-", 0, "", ""),
        ("list > /dev/full", 2, "", "pds: cannot use standard output: No space left on device.\n"),
    ],
)
def test_a_stream_that_is_closed_or_full(
    tmp_path: Path, words: str, code: int, out: str, err: str
) -> None:
    if "/dev/full" in words and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    done = run(words, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_letters_that_ascii_lacks_are_written_as_escapes(tmp_path: Path) -> None:
    done = run("", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "pds <verb> key=value \\u2026" in done.stdout
    done = run("list 'scène×'", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and "there is no group 'sc\\xe8ne\\xd7'" in done.stderr


def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("raise KeyboardInterrupt\n")
    done = run("--version", tmp_path, before=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "pds: interrupted.\n")


def test_the_installed_command_begins_there_too() -> None:
    assert "pds = pds_cli.__main__:main" in (ROOT / "setup.cfg").read_text()


def test_a_lasting_stream_drops_what_nobody_reads() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as binary:
        stream = LastingStream(binary, "utf-8", line_buffering=True)
        stream.write("heard\n")
        assert os.read(read, 100) == b"heard\n"
        os.close(read)
        stream.write("x" * 100_000 + "\n")  # more than its buffer, and after it is gone
        stream.write("again\n")
        stream.flush()
        stream.detach()


@pytest.mark.parametrize("end", [None, UserError("no"), KeyboardInterrupt()])
def test_no_log_is_open_after_the_command(
    pds: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: Any
) -> None:
    """What a library logs as the process ends is not of the run, whose folder may be gone."""

    def main(cfg: Any) -> None:
        logging.warning("while it runs")
        if end is not None:
            raise end

    monkeypatch.setattr("pds_cli.verbs.edit.main", main)
    root, log = logging.getLogger(), tmp_path / "run/edit.log"
    before = root.handlers[:], root.level
    code = pds("edit", "prompt=x", "out=run").code
    assert (root.handlers, root.level) == before
    logging.getLogger("a library").error("afterwards")
    assert code == (0 if end is None else 2 if isinstance(end, UserError) else 130)
    assert not log.parent.exists(), "nothing was begun"
