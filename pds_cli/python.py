"""What `pds_cli` offers to Python: `edit`, `load_run`, and the `Run` that both return.

Nothing heavy is imported at the top: reading a run needs neither torch nor Hydra.
"""

from __future__ import annotations

import base64
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pds_cli.errors import UserError, check_choice
from pds_cli.reading import read_bytes
from pds_cli.runs import layout
from pds_cli.runs.ownership import check_card
from pds_cli.runs.record import RunRecord, read_run

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = ("source", "result", "truth")
MOST_SHOWN = 4 * 2**20  # bytes of a strip that is put into a notebook
_running = threading.Lock()


@dataclass(frozen=True)
class Run:
    """What a run folder holds, as it was when it was read.

    path: the folder.
    verb: what made it, such as `edit`.
    status: done, stopped, failed, or incomplete (still running, killed, or files missing).
    config: the settings that were used; empty where `config.yaml` is missing.
    metrics: the final metrics; None where the value is no number.
    log: the lines of `metrics.jsonl`, in order; each has a `step`.
    exports: the files in `exports/`.

    A notebook shows its strip and its metrics.
    """

    path: Path
    verb: str
    prompt: str
    status: str
    config: dict[str, Any] = field(repr=False)
    metrics: dict[str, float | None] = field(repr=False)
    log: list[dict[str, Any]] = field(repr=False)
    exports: list[Path] = field(repr=False)
    _pictures: dict[str, dict[str, Path]] = field(repr=False)

    def images(self, kind: str = "result") -> dict[str, Image]:
        """The final pictures of a kind, by the names of their views; empty where there are none.

        Args:
            kind: `source`, `result`, or `truth`, the true edit where the scene knows it.

        Raises:
            UserError: an unknown kind, or a picture that cannot be read.
        """
        from pds_cli.pictures.files import decode_image, open_image

        check_choice("kind", kind, KINDS)
        found = {}
        for view, path in self._pictures.get(kind, {}).items():
            with open_image(path) as file:
                found[view] = decode_image(file, path).copy()
        return found

    def _repr_html_(self) -> str:
        """The strip and a table of the metrics, for a notebook."""
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{'–' if value is None else f'{value:.4g}'}</td></tr>"
            for name, value in self.metrics.items()
        )
        about = f"{self.prompt} · pds {self.verb}, {self.status} · {self.path}"
        return f"<div>{self._strip()}<p>{escape(about)}</p><table>{rows}</table></div>"

    def _strip(self) -> str:
        try:
            data = read_bytes(self.path / layout.STRIP, MOST_SHOWN)
        except UserError:
            return ""  # a run that is not done has none
        code = base64.b64encode(data).decode("ascii")
        return f'<img src="data:image/png;base64,{code}" style="max-width:100%">'


def load_run(folder: str | os.PathLike[str]) -> Run:
    """Reads a run folder of this version of pds. A file that cannot be read is named on stderr.

    Raises:
        UserError: there is no such folder, or it is none of a run, or of another version.
    """
    path = Path(folder).expanduser().absolute()
    card = check_card(path, "folder")
    found = read_run(path)
    for problem in found.problems:
        print(f"pds: {path}: {problem}", file=sys.stderr)
    return Run(
        path=path,
        verb=card["verb"],
        prompt=found.prompt,
        status=_status(found, card["verb"]),
        config=found.config,
        metrics=found.metrics,
        log=found.records,
        exports=[path / name for name, _ in found.exports],
        _pictures=found.finals,
    )


def _status(found: RunRecord, verb: str) -> str:
    """The record's status; verbs without renders are done when they have written a summary."""
    if verb in ("edit", "fit") or found.error is not None or not found.summary:
        return found.status
    return "stopped" if found.summary.get("status") == "stopped" else "done"


def edit(
    prompt: str,
    *,
    scene: str | None = None,
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Run:
    """Runs what `pds edit` runs, in this process, and reads its run folder.

    Args:
        prompt: what the result should show; any text.
        scene: an option of the group; None: `figurine2d`, or what `experiment` chooses.
        out: the run folder; None: a new one in `outputs/`.
        settings: the keys of `pds edit --help`. A text chooses an option of a group
            (`loss="dds"`), a dict sets keys in it (`loss={"identity": 0.2}`), and so do dots
            (`**{"loss.identity": 0.2}`). Values are texts, paths, numbers, bools, None, and lists
            of these; no text has a special meaning.

    Raises:
        UserError: what `pds edit` would answer with a sentence and exit code 2.
        KeyboardInterrupt: it was stopped; `resume=` goes on with it.
    """
    from pds_cli import cli
    from pds_cli.overrides import words_of

    first = {"prompt": prompt, "scene": scene, "out": out}
    words = words_of({**{k: v for k, v in first.items() if v is not None}, **settings})
    if not _running.acquire(blocking=False):
        raise UserError(
            "an edit runs in this process already: wait until it has ended, or use another process."
        )
    try:
        with _nothing_left_behind():
            folder = cli.call("edit", words)
    finally:
        _running.release()
    return load_run(folder)


@contextmanager
def _nothing_left_behind() -> Iterator[None]:
    """Puts back what Hydra and a run change for the whole process."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    hydra, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    try:
        with warnings.catch_warnings(), _own_randomness():
            yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, config


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Gives torch's random state back, where the process uses torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(list(devices)):
        yield
