"""Edits by several methods, without ground truth: the paper's, or those of a folder of photos."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.benchmarks.jobs import chosen, edit_job
from pds_cli.errors import UserError
from pds_cli.evaluation.scores import RunScores, score_run
from pds_cli.evaluation.table import ScoreTable
from pds_cli.files import write_text
from pds_cli.metrics.clip import Clip
from pds_cli.options.catalogue import catalogue
from pds_cli.overrides import literal_prompt
from pds_cli.pictures.files import read_picture, resize
from pds_cli.pictures.sheets import contact_sheet, save_image
from pds_cli.progress import Progress
from pds_cli.reading import read_yaml
from pds_cli.runs.folder import RunFolder
from pds_cli.runs.record import RunRecord, read_run

LIST = "edits.yaml"


def experiment_edits(pattern: str) -> dict[str, list[str]]:
    """name → words for `pds edit`, of the experiments that a pattern such as `paper/nerf_*` names.

    Raises:
        UserError: there are none.
    """
    names = fnmatch.filter(catalogue().get("experiment", {}), pattern)
    if not names:
        raise UserError(f"benchmark.experiments={pattern} names none of pds list experiment")
    return {name.rpartition("/")[2]: [f"experiment={name}"] for name in names}


def photo_edits(folder: str | Path) -> dict[str, list[str]]:
    """name → words for `pds edit`, of the photos that `edits.yaml` in a folder lists.

    The file is a list of `{image: cat.jpg, source: a photo of a cat, prompt: a photo of a dog}`.

    Raises:
        UserError: no such file, or an entry without these three.
    """
    path = Path(folder).expanduser() / LIST
    entries = read_yaml(path)
    if not entries:
        raise UserError(f"{path} lists no photos")
    keys = ("image", "source", "prompt")
    found = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else [None]):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in keys):
            raise UserError(f"{path}: entry {number} must have {', '.join(keys)}, each a text")
        name = f"{number:02d}_{Path(entry['image']).stem}"
        image = path.parent / entry["image"]
        words = [f"scene.path={image}", f"source={entry['source']}"]
        words.append(literal_prompt(str(entry["prompt"])))
        found[name] = ["scene=image", *words]
    return found


class EditsBenchmark:
    """Edits by several methods, each a `pds edit` of its own, scored as `pds eval` does.

    A job that is done already in the same `out=`, with the same words, is not run again; one that
    was interrupted goes on. What cannot be run, as an edit's data or a method's model is not there,
    is named and left out; an edit that two methods failed at, and none before, is left out whole.

    Args:
        methods: name → words of the command line for `pds edit`.
        edits: name → words, or:
        experiments: a pattern of experiments, see `experiment_edits`, or:
        photos: a folder, see `photo_edits`.
        only: names of methods, where not all of `methods` are to run.
        overrides: words that every job gets, behind those of edit and method.
        clip: CLIP model, hub id or folder; None: no CLIP scores.

    Raises:
        UserError: no methods, not just one of the three kinds of edits, or no CLIP of that name.
    """

    def __init__(
        self,
        methods: Mapping[str, Sequence[str]],
        *,
        edits: Mapping[str, Sequence[str]] | None = None,
        experiments: str | None = None,
        photos: str | None = None,
        only: Sequence[str] | None = None,
        overrides: Sequence[str] = (),
        clip: str | None = None,
    ) -> None:
        if not methods:
            raise UserError("benchmark.methods must leave something to run")
        if sum(kind is not None for kind in (edits, experiments, photos)) != 1:
            raise UserError("give one of benchmark.edits, benchmark.experiments, benchmark.photos")
        self.methods = {name: list(words) for name, words in chosen(methods, only).items()}
        if experiments is not None:
            self.edits = experiment_edits(experiments)
        elif photos is not None:
            self.edits = photo_edits(photos)
        else:
            self.edits = {name: list(words) for name, words in (edits or {}).items()}
        self.overrides = list(overrides)
        self.clip = None if clip is None else Clip(clip)

    def run(self, backbone: Backbone, run: RunFolder) -> Path:
        """Runs every job; writes `table.md`, `results.json` and `edits.png`.

        In an edit's folder, `sources.png` and `<method>.png` show its first views. `backbone` is
        not looked at: each job loads its own.

        Raises:
            UserError: no edit could be run.
        """
        scored: dict[tuple[str, str], RunScores] = {}
        skipped: dict[str, str] = {}
        with Progress("edits", len(self.edits)) as progress:
            for number, edit in enumerate(self.edits):
                found, failed = self._edit(edit, run)
                scored |= {(edit, method): scores for method, scores in found.items()}
                if found:
                    skipped |= {f"{edit}, {method}": reason for method, reason in failed.items()}
                else:
                    skipped[edit] = next(iter(failed.values()))
                progress.update(number + 1)
        if not scored:
            reasons = "\n".join(skipped.values())
            raise UserError(f"no edit could be run:\n{reasons}")
        return self._write(scored, skipped, run)

    def _edit(self, edit: str, run: RunFolder) -> tuple[dict[str, RunScores], dict[str, str]]:
        """method → scores of an edit, and method → why it could not be run."""
        found: dict[str, RunScores] = {}
        failed: dict[str, str] = {}
        for method in self.methods:
            try:
                found[method] = self._job(edit, method, run)
            except UserError as error:
                failed[method] = str(error)
                if len(failed) > 1 and not found:
                    break  # it is the edit's own data, not the method
        return found, failed

    def _job(self, edit: str, method: str, run: RunFolder) -> RunScores:
        """Runs and scores one edit by one method, and keeps its pictures.

        Raises:
            UserError: it cannot be run.
        """
        folder = RunFolder(run.path / edit / method)
        edit_job([*self.edits[edit], *self.methods[method], *self.overrides], folder)
        found = score_run(read_run(folder.path), self.clip)
        save_image(_views(found.record, "source"), run.path / edit / "sources.png")
        save_image(_views(found.record, "result"), run.path / edit / f"{method}.png")
        return found

    def _write(
        self,
        scored: Mapping[tuple[str, str], RunScores],
        skipped: Mapping[str, str],
        run: RunFolder,
    ) -> Path:
        settings = [{"edit": edit, "loss": method} for edit, method in scored]
        found = ScoreTable(list(scored.values()), settings, by=["loss"])
        groups = zip(found.groups, found.scores, strict=True)
        means = {group.values["loss"]: scores for group, scores in groups}
        edits = list(dict.fromkeys(edit for edit, _ in scored))
        run.write_json("results.json", {"methods": means, "edits": edits, "skipped": dict(skipped)})
        self._sheet(scored, run.path / "edits.png")
        text = found.markdown()
        if skipped:
            lines = [f"- {name}: {reason}" for name, reason in skipped.items()]
            text += "\n".join(["\nLeft out:\n", *lines]) + "\n"
        return write_text(run.path / "table.md", text)

    def _sheet(self, scored: Mapping[tuple[str, str], RunScores], path: Path) -> None:
        """A row an edit: its source, and what each method made of it, in the first view."""
        rows = list(dict.fromkeys(edit for edit, _ in scored))
        tiles: list[Any] = []
        for edit in rows:
            runs = [scored.get((edit, method)) for method in self.methods]
            records = [None if found is None else found.record for found in runs]
            tiles.append(next(_views(record, "source", 1) for record in records if record))
            tiles += [record and _views(record, "result", 1) for record in records]
        columns = ["source", *self.methods]
        sheet = contact_sheet(tiles, len(columns), row_labels=rows, column_labels=columns, tile=160)
        save_image(sheet, path)


def _views(record: RunRecord, kind: str, count: int = 4) -> Tensor:
    """The first pictures of a run, side by side: [3,H,W] in [0,1]."""
    paths = [path for _, path in sorted(record.finals[kind].items())[:count]]
    pictures = [read_picture(path) for path in paths]
    height, width = pictures[0].shape[-2:]
    return torch.cat([resize(picture, height, width) for picture in pictures], 2)
