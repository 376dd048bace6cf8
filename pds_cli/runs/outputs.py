"""Where a command writes: the folders behind `hydra.run.dir`, and a run's 3D result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from pds_cli.errors import UserError
from pds_cli.options.job import key_of
from pds_cli.options.schemas import FREE
from pds_cli.runs.layout import RESULT_3D
from pds_cli.runs.ownership import Claim, card_of, choices_of, refuse_taken


class Folders:
    """How this process turns `hydra.run.dir` and `hydra.sweep.dir` into folders.

    reserve: check and make the folder at once, so that two runs started in the same second cannot
        share it; off while a config is only shown.
    made: folders that were made, to be taken away where nothing comes of the command.
    sweep: the claim on a sweep's folder.
    """

    reserve = False
    made: ClassVar[list[Path]] = []
    sweep: ClassVar[Any] = None

    @classmethod
    def make(cls, folder: Path) -> None:
        """Makes a folder and those around it, remembering which were not there."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        cls.made += reversed(missing)

    @classmethod
    def tidy(cls) -> None:
        """Takes away the folders that this command made and nothing is in."""
        for folder in reversed(cls.made):
            with suppress(OSError):
                folder.rmdir()
        cls.made.clear()


def output_folder(
    out: str | None,
    resume: str | None,
    base: str,
    overwrite: bool = False,
    benchmark: str | None = None,
) -> str:
    """The folder of a run: `resume`, else `out`, else a new `<base>/<time>`.

    A folder of the same `benchmark` is taken again: those go on by themselves.

    Raises:
        UserError: the folder to resume is not there, `out` is taken (see
            `pds_cli.runs.ownership.refuse_taken`), or the new one cannot be made.
    """
    if resume is not None:
        if not str(resume).strip() or not Path(resume).is_dir():
            raise UserError(f"resume={resume} is not a folder: give the run folder to continue.")
        return str(resume)
    if out is not None and Folders.reserve:
        _check_named(out)
        card = card_of(Path(out)) or {}
        if not benchmark or (card.get("verb"), card.get("benchmark")) != ("compare", benchmark):
            refuse_taken(Path(out), overwrite)
    return _made(out, base)


def sweep_folder(
    out: str | None, base: str, overwrite: bool, verb: str, words: Sequence[str]
) -> str:
    """The folder of a sweep: `out`, else a new `<base>/<time>`; claimed by this process.

    A folder in which the same words were swept before is taken again.

    Raises:
        UserError: `out` holds something else, or another process writes it.
    """
    if out is not None and Folders.reserve:
        _check_named(out)
        card = card_of(Path(out)) or {}
        if (card.get("verb"), card.get("sweep")) != (verb, sweep_words(words)):
            refuse_taken(Path(out), overwrite, sweep=True)
    folder = _made(out, base)
    if Folders.reserve:
        Folders.sweep = Claim(Path(folder), verb)
        Folders.sweep.__enter__()
    return folder


def sweep_words(words: Sequence[str]) -> list[str]:
    """The words of a sweep, without those that change no result."""
    return [word for word in words if key_of(word) not in FREE]


def _check_named(out: str) -> None:
    if not str(out).strip():
        raise UserError("out= is empty: name the output folder, or leave out= away.")


def _made(out: str | None, base: str) -> str:
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if not Folders.reserve:
        return str(out) if out is not None else f"{base}/{stamp}"
    try:
        if out is not None:
            Folders.make(Path(out))
            _probe(Path(out))
            return str(out)
        return str(_new_folder(Path(base), stamp))
    except OSError as error:
        where = out if out is not None else base
        raise UserError(
            f"cannot write to the output folder {where} ({error.strerror or error}): "
            "choose another with out=<folder>."
        ) from error


def check_writable(folder: Path, key: str) -> None:
    """Refuses a folder where no file can be made; it is made, if only to find that out.

    Raises:
        UserError: naming the key.
    """
    try:
        Folders.make(folder)
        _probe(folder)
    except OSError as error:
        raise UserError(
            f"cannot write to {key}={folder} ({error.strerror or error}): choose another folder."
        ) from error


def _new_folder(base: Path, stamp: str) -> Path:
    Folders.make(base)
    for name in _names(stamp):
        try:
            (base / name).mkdir()
        except FileExistsError:
            continue
        Folders.made.append(base / name)
        return base / name
    raise AssertionError("unreachable")


def _names(stamp: str) -> Iterable[str]:
    yield stamp
    number = 2
    while True:
        yield f"{stamp}_{number}"
        number += 1


def _probe(folder: Path) -> None:
    """Fails where no file can be made; permission bits alone say little (root, mounts)."""
    probe = folder / ".pds_probe"
    probe.touch()
    probe.unlink(missing_ok=True)


def result_of(run: Path | str, key: str = "run") -> Path:
    """The 3D result in a run folder; `key` is what the user called that.

    Raises:
        UserError: the folder is not there or has none.
    """
    if not Path(run).is_dir():
        raise UserError(
            f"{key}={run} is not a folder: give one that pds fit, or pds edit of a 3D scene, wrote."
        )
    found = Path(run) / RESULT_3D
    if not found.is_file():
        raise UserError(
            f"{key}={run} holds no 3D result ({RESULT_3D}): give a finished pds fit, or a pds edit "
            "of a 3D scene with representation=nerf or splats, by this version of pds."
        )
    return found


def result_folder(prefix: str, key: str, *, _root_: DictConfig) -> str:
    """`out`, or else the folder `<prefix><key's value>` in the run folder `run`.

    Raises:
        UserError: no run is named, or it has no 3D result.
    """
    if OmegaConf.is_missing(_root_, "run"):
        raise UserError("run is missing: say which result, for example run=outputs/fit/… .")
    run, out = Path(_root_.run), OmegaConf.select(_root_, "out")
    if Folders.reserve:
        result_of(run)
    name = prefix + Path(str(OmegaConf.select(_root_, key))).stem
    place = str(run / name) if out is None else str(out)
    return output_folder(place, None, "", bool(OmegaConf.select(_root_, "overwrite")))


def scene_name(init: str | None, scene: str) -> str:
    """The scene's name for folders: the chosen option, or that of the run that `init` names."""
    if init is None:
        return scene
    # What is wrong with it is said when it is used.
    return Path(str(choices_of(init).get("scene", "init"))).name
