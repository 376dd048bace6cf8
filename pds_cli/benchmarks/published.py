"""Edits by several methods, without ground truth: the paper's, or those of a folder of photos."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pds_cli.benchmarks.jobs import words_in
from pds_cli.benchmarks.runner import EditCase, JobBenchmark, Look, Results
from pds_cli.benchmarks.tables import SOURCES
from pds_cli.errors import UserError
from pds_cli.evaluation.scores import SCORES, RunScores, score_run
from pds_cli.evaluation.table import ScoreTable
from pds_cli.metrics.clip import Clip
from pds_cli.options.catalogue import catalogue
from pds_cli.overrides import literal_prompt
from pds_cli.pictures.files import read_picture, resize
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


@dataclass(frozen=True)
class ScoredLook(Look):
    """A look with all that `pds eval` says of a run."""

    run: RunScores


class EditsBenchmark(JobBenchmark[EditCase]):
    """Edits by several methods, scored as `pds eval` does.

    What cannot be run, as an edit's data or a method's model is not there, is named and left out;
    an edit that two methods failed at, and none before, is left out whole.

    Args:
        methods, overrides, only, seed, seeds: of a `JobBenchmark`.
        edits: name → words, or:
        experiments: a pattern of experiments, see `experiment_edits`, or:
        photos: a folder, see `photo_edits`.
        clip: CLIP model, hub id or folder; None: no CLIP scores.

    Raises:
        UserError: no methods, not just one of the three kinds of edits, or no CLIP of that name.
    """

    columns = SCORES
    by_edit = ("lpips_source",)
    leaves_out = True

    def __init__(
        self,
        methods: Mapping[str, Sequence[str]],
        *,
        edits: Mapping[str, Sequence[str]] | None = None,
        experiments: str | None = None,
        photos: str | None = None,
        only: Sequence[str] | None = None,
        overrides: Sequence[str] = (),
        seed: int = 0,
        seeds: int = 1,
        clip: str | None = None,
    ) -> None:
        super().__init__(methods, overrides=overrides, only=only, seed=seed, seeds=seeds)
        if sum(kind is not None for kind in (edits, experiments, photos)) != 1:
            raise UserError("give one of benchmark.edits, benchmark.experiments, benchmark.photos")
        if experiments is not None:
            self.edits = experiment_edits(experiments)
        elif photos is not None:
            self.edits = photo_edits(photos)
        else:
            self.edits = {k: words_in(f"benchmark.edits.{k}", v) for k, v in (edits or {}).items()}
        self.clip = None if clip is None else Clip(clip)

    def cases(self, run: RunFolder) -> list[EditCase]:
        """The edits that were named."""
        return [EditCase(name, words) for name, words in self.edits.items()]

    def look(self, case: EditCase, job: Path) -> Look:
        """The scores of `pds eval`, and the first views of the result."""
        found = score_run(read_run(job), self.clip)
        return ScoredLook(found.scores, *_views(found.record, "result"), found)

    def references(self, case: EditCase, job: Path) -> dict[str, Look]:
        """The first views of the source, without scores."""
        return {SOURCES: Look({}, *_views(read_run(job), "source"))}

    def table(self, results: Results) -> list[str]:
        """That of `pds eval`, by method."""
        looks = {k: look for k, look in results.looks.items() if isinstance(look, ScoredLook)}
        settings = [
            {"edit": edit, "loss": method, "seed": self.seeds[number]}
            for edit, method, number in looks
        ]
        found = ScoreTable([look.run for look in looks.values()], settings, by=["loss"])
        return [found.markdown().rstrip()]


def _views(record: RunRecord, kind: str, count: int = 4) -> tuple[list[Path], torch.Tensor]:
    """The file of a run's first picture, and the first few side by side: [3,H,W] in [0,1]."""
    paths = [path for _, path in sorted(record.finals[kind].items())[:count]]
    pictures = [read_picture(path) for path in paths]
    height, width = pictures[0].shape[-2:]
    return paths[:1], torch.cat([resize(picture, height, width) for picture in pictures], 2)
