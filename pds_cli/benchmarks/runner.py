"""The runner of benchmarks whose edits are jobs: edits × methods × seeds, each a `pds edit`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.backbones.gallery import GalleryBackbone
from pds_cli.benchmarks.jobs import check_seeds, chosen, edit_job, seed_folder, words_in
from pds_cli.benchmarks.tables import SOURCES, save_sheet, tables
from pds_cli.errors import UserError
from pds_cli.files import write_text
from pds_cli.pictures.sheets import save_image
from pds_cli.progress import Progress
from pds_cli.runs import layout
from pds_cli.runs.folder import RunFolder


@dataclass(frozen=True)
class EditCase:
    """An edit that every method makes: its name, and its words for `pds edit`."""

    name: str
    words: Sequence[str]

    @property
    def folder(self) -> str:
        """Where its jobs are, in the benchmark's folder."""
        return self.name.replace(" ", "_")


Case = TypeVar("Case", bound=EditCase)


@dataclass(frozen=True)
class Look:
    """What is seen of an edit: its scores, and pictures of it.

    tiles: pictures, or files of them, for the sheet of all edits; as many for every method.
    strip: [3,H,W] in [0,1] for a file of its own; None once that is written.
    """

    scores: Mapping[str, float]
    tiles: Sequence[Any]
    strip: Tensor | None


@dataclass
class Results:
    """What came of a benchmark.

    rows: method → a row an edit and seed.
    looks: (edit, method, number of the seed) → how that was seen.
    skipped: what could not be run → why.
    """

    rows: dict[str, list[dict[str, Any]]]
    looks: dict[tuple[str, str, int], Look] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def edits(self) -> list[str]:
        """Those that some method made."""
        return list(dict.fromkeys(edit for edit, _, _ in self.looks))

    def shown(self) -> dict[str, dict[str, Sequence[Any]]]:
        """edit → column → its tiles, under the first seed."""
        found: dict[str, dict[str, Sequence[Any]]] = {edit: {SOURCES: ()} for edit in self.edits}
        for (edit, name, number), look in self.looks.items():
            if number == 0:
                found[edit][name] = look.tiles
        return found


class JobBenchmark(ABC, Generic[Case]):
    """Edits by several methods; every job is a `pds edit` of its own, as a user would run it.

    A job that is done already in the same `out=`, with the same words, is not run again; one that
    was interrupted goes on. A subclass says which edits there are, and how a result is scored.

    Args:
        methods: name → words of the command line for `pds edit`.
        overrides: words that every job gets, behind those of edit and method.
        only: names of methods, where not all of `methods` are to run.
        seed, seeds: of the first edit, and how many; scores are means over them, and beside the
            means stand intervals by bootstrap over edits and seeds.

    Raises:
        UserError: no methods, a name in `only` that is none, or no seed.
    """

    columns: ClassVar[Sequence[str]]
    """The scores of `table.md`."""
    by_edit: ClassVar[Sequence[str]]
    """Those that it shows of every edit."""
    leaves_out: ClassVar[bool] = False
    """Whether what cannot be run is named and left out; else it ends the benchmark."""

    def __init__(
        self,
        methods: Mapping[str, Sequence[str]],
        *,
        overrides: Sequence[str] = (),
        only: Sequence[str] | None = None,
        seed: int = 0,
        seeds: int = 1,
    ) -> None:
        check_seeds(seeds)
        self.methods, self.seeds = chosen(methods, only), range(seed, seed + seeds)
        self.overrides = words_in("benchmark.overrides", overrides)

    @abstractmethod
    def cases(self, run: RunFolder) -> list[Case]:
        """The edits; files that their words name are written now."""

    @abstractmethod
    def look(self, case: Case, job: Path) -> Look:
        """Scores the result of a job, from its folder."""

    @abstractmethod
    def references(self, case: Case, job: Path) -> dict[str, Look]:
        """What stands beside the results of an edit: `SOURCES`, and `TRUTHS` where they are known.

        job: folder of any of the edit's jobs.
        """

    def run(self, backbone: Backbone, run: RunFolder) -> Path:
        """Runs every job; writes `table.md`, `results.json` and `edits.png`.

        In an edit's folder, `sources.png` and `<method>.png` show it under the first seed.
        `backbone` is not looked at: each job loads its own.

        Raises:
            UserError: a job failed; where such are left out, all of them. Or `backbone` is one
                that jobs would not get.
        """
        if isinstance(backbone, GalleryBackbone):
            raise UserError(
                "each edit of this benchmark loads a backbone of its own: give exact scores among "
                "the words of a method, as in "
                "'+benchmark.methods.exact=[loss=pds,backbone=toybox_exact]'"
            )
        cases = self.cases(run)
        results = Results({name: [] for name in self.methods})
        with Progress("edits", len(cases) * len(self.methods)) as progress:
            for number, case in enumerate(cases):
                self._edit(case, run, results, progress, number * len(self.methods))
        if not results.looks:
            reasons = "\n".join(results.skipped.values())
            raise UserError(f"no edit could be run:\n{reasons}")
        results.rows = {name: rows for name, rows in results.rows.items() if rows}
        found = {"edits": results.edits, "rows": results.rows, "skipped": results.skipped}
        run.write_json(layout.RESULTS, found)
        save_sheet(results.shown(), run.path / "edits.png")
        return write_text(run.path / layout.TABLE, "\n\n".join(self._text(results)) + "\n")

    def table(self, results: Results) -> list[str]:
        """The paragraphs of `table.md`."""
        return tables(results.rows, self.columns, self.by_edit)

    def _text(self, results: Results) -> list[str]:
        left_out = "\n".join(f"- {name}: {reason}" for name, reason in results.skipped.items())
        return [*self.table(results), *(["Left out:", left_out] if left_out else [])]

    def _edit(
        self, case: Case, run: RunFolder, results: Results, progress: Progress, before: int
    ) -> None:
        """Every method's jobs of one edit, and what stands beside them."""
        place = run.path / case.folder
        done: list[Path] = []
        failed: dict[str, str] = {}
        for number, method in enumerate(self.methods):
            try:
                done.append(self._jobs(case, method, place, results))
            except UserError as error:
                if not self.leaves_out:
                    raise
                failed[method] = str(error)
                if len(failed) > 1 and not done:
                    break  # it is the edit's own data, not the method
            progress.update(before + number + 1)
        if not done:
            results.skipped[case.name] = next(iter(failed.values()))
            return
        results.skipped |= {f"{case.name}, {method}": why for method, why in failed.items()}
        for name, look in self.references(case, done[0]).items():
            self._keep(case, name, 0, look, results, place)
            if look.scores:
                results.rows.setdefault(name, []).append({"edit": case.name, **look.scores})

    def _jobs(self, case: Case, method: str, place: Path, results: Results) -> Path:
        """One edit by one method under each seed; returns the folder of the first.

        Raises:
            UserError: it cannot be run.
        """
        for number, seed in enumerate(self.seeds):
            job = RunFolder(seed_folder(place / method, number))
            words = [*case.words, *self.methods[method], *self.overrides, f"seed={seed}"]
            cost = edit_job(words, job)
            look = self.look(case, job.path)
            row = {"edit": case.name, "seed": seed, **cost, **look.scores}
            results.rows[method].append(row)
            self._keep(case, method, number, look, results, place)
        return place / method

    def _keep(
        self, case: Case, name: str, number: int, look: Look, results: Results, place: Path
    ) -> None:
        if number == 0:
            save_image(look.strip, place / f"{name}.png")
        results.looks[case.name, name, number] = replace(look, strip=None)
