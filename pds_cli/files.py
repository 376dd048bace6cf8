"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pds_cli.errors import UserError

# Told of each file before it takes its name: see `pds_cli.runs.ownership`.
watchers: list[Callable[[Path], None]] = []
_TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp", re.DOTALL)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to; it becomes `path` if the block succeeds.

    What was written is flushed to disk before it takes the name, so that even a crash of the
    machine leaves either the old file or the new one.

    Raises:
        UserError: the folder cannot be written or the disk is full; an earlier file at `path`
            stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        for watcher in watchers:
            watcher(path)
        os.replace(temporary, path)
    except OSError as error:
        kept = "; the file that was there is kept" if path.is_file() else ""
        raise UserError(
            f"cannot write {path}: {error.strerror or error}{kept}; "
            "choose a folder that can be written and has space left"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def unfinished(name: str) -> str | None:
    """The name that a file was to have whose process was killed while it wrote it; else None."""
    match = _TEMPORARY.fullmatch(name)
    return match[1] if match else None


def write_text(path: Path | str, text: str) -> Path:
    """Writes `text` as UTF-8; characters that UTF-8 cannot hold become `?`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))
    return Path(path)
