"""Whose a folder is: a lock while a process writes it, a card of its run, a list of what it wrote.

A run never deletes what it did not write. So each file that appears in a run folder is listed
there, in `.pds/files.txt`, before it appears, and replacing a run removes what is listed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from pds_cli.errors import UserError
from pds_cli.files import unfinished, watchers, write_text
from pds_cli.reading import read_object
from pds_cli.runs import layout
from pds_cli.version import __version__

FORMAT = 1  # raise it when run folders of before can no longer be read
PRIVATE = ".pds"
FILES = f"{PRIVATE}/files.txt"
LOCK = f"{PRIVATE}/lock"
OUTCOME = f"{PRIVATE}/outcome.json"
NEXT = f"{PRIVATE}/next.json"
FIRST = (layout.CONFIG, layout.ENVIRONMENT, layout.CARD)  # written in this order
_ALL = "**"  # in the list: a folder with all that is in it; a name that ends in "/" is a run's


def is_free(folder: Path) -> bool:
    """Whether a folder is not there, holds nothing, or only what a run that was killed as it began.

    The card comes last of what a run begins with, so such a folder has none.
    """
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()} - {PRIVATE}
    private = folder / PRIVATE
    if not private.is_dir():
        return not names
    if _notes(private) - {Path(FILES).name}:
        return False
    listed = set(_lines(folder / FILES)) & set(FIRST)
    return all(
        name in listed or name.endswith(".log") or unfinished(name) in FIRST for name in names
    )


def _notes(private: Path) -> set[str]:
    """What `.pds` holds besides locks and a sweep's card that does not count yet."""
    names = {path.name for path in private.iterdir()} - {Path(NEXT).name}
    return {name for name in names if not name.startswith(Path(LOCK).name)}


def card_of(folder: Path | str) -> dict[str, Any] | None:
    """What `run.json` in a folder says; None where there is none that can be read."""
    card = read_object(Path(folder) / layout.CARD, 2**20)
    return card if isinstance(card.get("verb"), str) else None


def choices_of(folder: Path | str) -> dict[str, Any]:
    """The options of config groups that a run was started with, as far as its folder says."""
    choices = read_object(Path(folder) / layout.ENVIRONMENT).get("choices")
    return choices if isinstance(choices, dict) else {}


def check_card(folder: Path | str, key: str, verb: str | None = None) -> dict[str, Any]:
    """The card of a run folder, before anything else of it is looked at.

    Args:
        folder: the folder.
        key: what the user called it, such as `resume`.
        verb: the verb that must have made it; None: any.

    Raises:
        UserError: the folder is none of a run, or of another version or verb.
    """
    if not str(folder).strip():
        raise UserError(f"{key}= is empty: give a run folder.")
    if not Path(folder).is_dir():
        raise UserError(f"{key}={folder} is not a folder: give a run folder.")
    card = card_of(folder)
    if card is None:
        raise UserError(
            f"{key}={folder} holds no {layout.CARD} that can be read: it is not the folder of a "
            f"run of pds {__version__}."
        )
    if card.get("format") != FORMAT or card.get("version") != __version__:
        raise UserError(
            f"{key}={folder} was written by pds {card.get('version')}, this is {__version__}: "
            "use that version, or run it anew."
        )
    if verb is not None and card["verb"] != verb:
        raise UserError(
            f"{key}={folder} is a run of pds {card['verb']}, not of pds {verb}: "
            f"give one of pds {verb}."
        )
    return card


def refuse_taken(folder: Path, overwrite: bool, key: str = "out", *, sweep: bool = False) -> None:
    """Refuses to write where something is, unless it is a run that is to be replaced.

    Raises:
        UserError: with the choices there are.
    """
    if is_free(folder):
        return
    if not folder.is_dir():
        raise UserError(
            f"cannot write to the output folder {folder}: it is a file: "
            "choose another with out=<folder>."
        )
    card = card_of(folder)
    if card is None:
        raise UserError(
            f"{key}={folder} is not empty, and what is there is no run of pds: "
            f"choose another {key}=<folder>."
        )
    if not overwrite:
        how = "give the words it was started with, " if sweep else ""
        if not sweep and card.get("fingerprint"):  # those that can be continued have one
            how = f"go on with it by resume={folder}, "
        what = "something else" if sweep else "a run"
        raise UserError(
            f"{key}={folder} holds {what} already: {how}choose another {key}=<folder>, or "
            "replace it with overwrite=true."
        )


class Claim:
    """A run folder that this process writes, and no other meanwhile.

    As a context: takes the lock and lists every file that is written through `pds_cli.files`.
    Where nothing was begun, leaving takes away what the claim itself made.

    Args:
        folder: of the run; made if missing.
        verb: that writes it.
        overwrite: whether `begin` replaces the run that is there.
        lock: name of the lock; parts of a benchmark may share a folder under several.

    Raises:
        UserError: on entering: another process holds it, or it cannot be written.
    """

    current: ClassVar[list[Claim]] = []

    def __init__(
        self, folder: Path, verb: str, *, overwrite: bool = False, lock: str = LOCK
    ) -> None:
        self.folder, self.verb, self.overwrite = Path(folder).absolute(), verb, overwrite
        self.begun = self.keep = False
        self._lock_name = lock
        self._listed: set[str] = set()

    def __enter__(self) -> Claim:
        from filelock import FileLock, Timeout

        path = self.folder / self._lock_name
        self._fresh = is_free(self.folder)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path, timeout=0)
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.folder} is being written by another pds: wait until that has ended, or "
                "choose another out=<folder>."
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write to the output folder {self.folder} ({error.strerror or error}): "
                "choose another with out=<folder>."
            ) from error
        self._listed = set(_lines(self.folder / FILES))
        watchers.append(self.note)
        Claim.current.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        Claim.current.remove(self)
        watchers.remove(self.note)
        nothing = not self.begun and self._fresh and card_of(self.folder) is None
        if nothing or (self.begun and not self.keep and kind is not None):
            self._take_away()
        self._lock.release()

    def _take_away(self) -> None:
        """Removes what was written before it turned out that nothing would come of it."""
        (self.folder / f"{self.verb}.log").unlink(missing_ok=True)
        remove_unfinished(self.folder)
        remove_listed(self.folder)
        if not _notes(self.folder / PRIVATE):
            shutil.rmtree(self.folder / PRIVATE, ignore_errors=True)

    def note(self, path: Path) -> None:
        """Lists a file that is about to appear, if it lies in the folder and in no claim inside."""
        path = Path(os.path.abspath(path))
        holders = [claim for claim in Claim.current if claim.folder in path.parents]
        if not holders or max(holders, key=lambda c: len(c.folder.parts)) is not self:
            return
        name = path.relative_to(self.folder).as_posix()
        if name in self._listed or name.startswith(f"{PRIVATE}/"):
            return
        self._listed.add(name)
        _append(self.folder / FILES, name)

    def clear(self) -> list[str]:
        """Removes the run that is to be replaced, if one is.

        Returns:
            What was left of its folder, as it was not written by pds.
        """
        if self._fresh:
            remove_unfinished(self.folder)
        if not self.overwrite or self.begun:
            return []
        self._listed.clear()
        return remove_listed(self.folder)

    def begin(self, facts: Mapping[str, Any], *, keep: bool = True) -> None:
        """Writes the card: the run has begun.

        Args:
            facts: what the card says besides its format, version and verb.
            keep: whether what is there when the run fails is worth keeping.
        """
        self.note(self.folder / f"{self.verb}.log")  # what is logged goes there
        write_text(self.folder / layout.CARD, _card(self.verb, facts))
        self.begun, self.keep = True, keep


def _card(verb: str, facts: Mapping[str, Any]) -> str:
    card = {"format": FORMAT, "version": __version__, "verb": verb, **facts}
    return json.dumps(card, indent=2, ensure_ascii=False) + "\n"


def prepare_card(folder: Path, verb: str, facts: Mapping[str, Any]) -> None:
    """Writes a card that does not count until `use_card`."""
    write_text(folder / NEXT, _card(verb, facts))


def use_card(folder: Path) -> None:
    """Makes the prepared card the folder's own; another process may have done so."""
    with suppress(FileNotFoundError):
        os.replace(folder / NEXT, folder / layout.CARD)


def claimed(folder: Path) -> Claim | None:
    """The claim of this process on a folder, if it has one."""
    folder = Path(folder).absolute()
    return next((claim for claim in reversed(Claim.current) if claim.folder == folder), None)


def owns(path: Path) -> None:
    """Lists a file that others than `pds_cli.files` write, or a folder with all that is in it."""
    for watcher in watchers:
        watcher(path / _ALL if path.is_dir() else path)


def adopt(child: Path, parent: Path) -> None:
    """Lists a run folder, or a file, as part of a run folder that this process does not claim.

    It is replaced with that one; a run folder as far as its own list goes.
    """
    if not Path(os.path.abspath(child)).is_relative_to(os.path.abspath(parent)):
        return
    name = Path(os.path.abspath(child)).relative_to(os.path.abspath(parent)).as_posix()
    name += "/" if child.is_dir() else ""
    if name not in _lines(parent / FILES):
        _append(parent / FILES, name)


def _append(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(name.replace("\n", "\\n") + "\n")


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return [line.replace("\\n", "\n") for line in text.split("\n") if line]


def remove_listed(folder: Path) -> list[str]:
    """Removes what the list in a folder names, the runs in it likewise, and folders left empty.

    Returns:
        Names of what is still there, since no list names it.
    """
    root = Path(os.path.realpath(folder))
    for name in _lines(root / FILES):
        path = Path(os.path.normpath(root / name))
        # A list that somebody sent, or a link on the way, must not lead out.
        if root in path.parents and Path(os.path.realpath(path.parent)).is_relative_to(root):
            _remove(path, root, run=name.endswith("/"))
    for name in (FILES, OUTCOME):
        (root / name).unlink(missing_ok=True)
    _prune(root)
    return sorted(path.name for path in root.iterdir() if path.name != PRIVATE)


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes had half written; for who holds the only lock of a folder."""
    for path in folder.rglob(".*.tmp"):
        if unfinished(path.name):
            path.unlink(missing_ok=True)


def _remove(path: Path, root: Path, run: bool) -> None:
    if run and path.is_dir() and not path.is_symlink():
        remove_listed(path)
        shutil.rmtree(path / PRIVATE, ignore_errors=True)
    elif path.name == _ALL and path.parent != root and not path.parent.is_symlink():
        shutil.rmtree(path.parent, ignore_errors=True)
    elif not path.is_dir():
        path.unlink(missing_ok=True)


def _prune(folder: Path) -> None:
    """Removes empty folders below one."""
    for path, _, _ in os.walk(folder, topdown=False):
        if Path(path) != folder and Path(path).name != PRIVATE:
            with suppress(OSError):
                os.rmdir(path)


def write_outcome(folder: Path, outcome: Mapping[str, Any]) -> None:
    """Notes how a job of a sweep ended."""
    write_text(folder / OUTCOME, json.dumps(outcome, ensure_ascii=False))


def read_outcome(folder: Path) -> dict[str, Any]:
    """How a job of a sweep ended; empty where nothing says so."""
    return read_object(folder / OUTCOME)
