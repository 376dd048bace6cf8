"""Edits of toy pictures by several methods, side by side, against the true edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.backbones.toybox_exact import ToyboxExact
from pds_cli.benchmarks.jobs import check_seeds, chosen, seed_folder
from pds_cli.benchmarks.methods import Method, method, sweep_words
from pds_cli.benchmarks.side_by_side import edit_cases
from pds_cli.benchmarks.tables import SOURCES, TRUTHS, means, save_sheet, tables
from pds_cli.benchmarks.toybox_scores import BY_EDIT, COLUMNS, balance, pictures, score_cases
from pds_cli.errors import UserError
from pds_cli.files import write_text
from pds_cli.markdown import table
from pds_cli.metrics.names import metric, title
from pds_cli.pictures.sheets import contact_sheet, save_image
from pds_cli.runs import layout
from pds_cli.runs.folder import RunFolder
from pds_cli.toybox.cases import FIGURES, TUNING_FIGURES, Case, all_cases
from pds_cli.toybox.probe import Probe, load_probe

Scores = list[dict[str, Any]]


class EditBenchmark:
    """Twelve kinds of edit on eight figures for several losses, each at its best settings.

    A sweep on figures that the benchmark does not use picks each method's settings by the
    harmonic mean of success and kept attributes; then all 96 cases are edited and scored.

    A run that was interrupted goes on where it was when it is started again with the same `out=`.

    Args:
        methods: name → words of the command line for `pds edit`: a loss or an editor, and
            a backbone where it is not the benchmark's.
        sweep: name → words to try, as for `pds edit -m`, behind those of the method; None: take
            `methods` as they are.
        steps, lr: Adam steps of an edit, and the step size.
        edits: kinds of edit to run; None: all.
        figures: how many of the eight figures to run.
        rotate: each kind of edit on one of them, a figure further each time; else on all of them.
        only: names of methods, where not all of `methods` are to run.
        tuning_figures: how many tuning figures the sweep uses.
        seed: of every edit, and of the sweep's.
        seeds: how many seeds the cases are edited with, from `seed` on; scores are means over
            them, with intervals by bootstrap over cases and seeds.
        lr_schedule: of the step size: constant, linear or cosine.
        allow_modules: modules of your own that a method may come from.

    Raises:
        UserError: nothing to run, or a method's words that cannot be followed.
    """

    def __init__(
        self,
        methods: Mapping[str, Sequence[str]],
        sweep: Mapping[str, Sequence[str]] | None = None,
        *,
        steps: int = 200,
        lr: float = 0.03,
        edits: Sequence[str] | None = None,
        figures: int = 8,
        rotate: bool = False,
        only: Sequence[str] | None = None,
        tuning_figures: int = 2,
        seed: int = 0,
        seeds: int = 1,
        lr_schedule: str = "constant",
        allow_modules: Sequence[str] = (),
    ) -> None:
        check_seeds(seeds)
        self.seeds = range(seed, seed + seeds)
        self.cases = all_cases(FIGURES[:figures], edits, rotate=rotate)
        self.tuning = all_cases(TUNING_FIGURES[:tuning_figures], edits)
        budget = {"steps": steps, "lr": lr, "lr_schedule": lr_schedule}
        self.methods: dict[str, list[Method]] = {
            name: [
                method(name, [*words, *more], budget, allow_modules)
                for more in sweep_words(name, (sweep or {}).get(name))
            ]
            for name, words in chosen(methods, only).items()
        }
        """Of each its settings: one, or those to choose from."""
        if not self.cases:
            raise UserError("benchmark.edits and benchmark.figures must leave something to run")

    def run(self, backbone: Backbone, run: RunFolder) -> Path:
        """Runs everything; writes `table.md`, `results.json`, `edits.png` and a sheet a method."""
        probe = load_probe()
        tried: dict[str, Scores] = {}
        rows: dict[str, Scores] = {}
        words: dict[str, list[str]] = {}
        edited: dict[str, Tensor] = {}
        for name, several in self.methods.items():
            best, tried[name] = self._tune(name, several, backbone, probe, run)
            words[name] = list(best.words)
            edited[name], rows[name] = self._score(name, best, backbone, probe, run)
            self._sheet(edited[name], run.path / name / "sheet.png")
        truths = pictures(self.cases, "target", backbone.resolution)
        rows[TRUTHS] = self._rows(score_cases(truths, self.cases, probe))
        self._overview(edited, run.path / "edits.png")
        edits = list(dict.fromkeys(case.kind for case in self.cases))
        run.write_json(
            layout.RESULTS, {"edits": edits, "rows": rows, "words": words, "sweep": tried}
        )
        parts = tables(rows, COLUMNS, BY_EDIT, words)
        if any(tried.values()):
            parts += ["The sweep, on the tuning figures:", _sweep_table(tried)]
        return write_text(run.path / layout.TABLE, "\n\n".join(parts) + "\n")

    def _score(
        self, name: str, chosen: Method, backbone: Backbone, probe: Probe, run: RunFolder
    ) -> tuple[Tensor, Scores]:
        """The images under the first seed, and the scores under all."""
        images: list[Tensor] = []
        rows: Scores = []
        for number, seed in enumerate(self.seeds):
            folder = RunFolder(seed_folder(run.path / name, number))
            found, seconds = self._edit(self.cases, chosen, backbone, folder, seed)
            images.append(found)
            each = {"seed": seed, "seconds": seconds / len(self.cases)}
            rows += self._rows(score_cases(found, self.cases, probe), **each)
        return images[0], rows

    def _rows(self, scores: Sequence[Mapping[str, float]], **more: float) -> Scores:
        """Scores with the kind of edit that they are of."""
        pairs = zip(self.cases, scores, strict=True)
        return [{"edit": case.kind, **more, **score} for case, score in pairs]

    def _tune(
        self,
        name: str,
        several: Sequence[Method],
        backbone: Backbone,
        probe: Probe,
        run: RunFolder,
    ) -> tuple[Method, Scores]:
        """The best of a method's settings, and everything that was tried."""
        tried: Scores = []
        if len(several) < 2:
            return several[0], tried
        for number, each in enumerate(several):
            folder = RunFolder(run.path / "sweep" / f"{name}_{number:02d}")
            images, _ = self._edit(self.tuning, each, backbone, folder, self.seeds[0])
            score = means(score_cases(images, self.tuning, probe), COLUMNS)
            tried.append({"words": list(each.words), **score, "balance": balance(score)})
            save_image(contact_sheet(list(images), 12), folder.path / "sheet.png")
            run.write_json("sweep.json", {name: tried})
        best = max(range(len(tried)), key=lambda i: float(tried[i]["balance"]))
        return several[best], tried

    def _edit(
        self,
        cases: Sequence[Case],
        chosen: Method,
        backbone: Backbone,
        run: RunFolder,
        seed: int,
    ) -> tuple[Tensor, float]:
        made, backbone = chosen.build(), chosen.backbone(backbone)
        key: dict[str, Any] = {"method": chosen.node, "weights": _weights(backbone)}
        if isinstance(backbone, ToyboxExact):
            key["exact"] = backbone.settings
        if isinstance(own := getattr(made, "model", None), torch.nn.Module):
            key["own_weights"] = _weights(own)
        options = {"seed": seed, **chosen.where, **chosen.budget}
        return edit_cases(cases, backbone, made, run, key=key, **options)

    def _pictures(self, size: int) -> tuple[Tensor, Tensor]:
        """Sources and true edits [N,3,size,size] of the cases."""
        return pictures(self.cases, "source", size), pictures(self.cases, "target", size)

    def _sheet(self, images: Tensor, path: Path) -> None:
        """Source, result and truth of every case, a row a kind of edit."""
        sources, truths = self._pictures(images.shape[-1])
        shown = [picture for trio in zip(sources, images, truths, strict=True) for picture in trio]
        per_kind = len(self.cases) // len({case.kind for case in self.cases})
        save_image(contact_sheet(shown, 3 * per_kind), path)

    def _overview(self, edited: Mapping[str, Tensor], path: Path) -> None:
        """One case a kind of edit, a figure further each time: source, methods, truth."""
        per_kind = len(self.cases) // len({case.kind for case in self.cases})
        picked = [i for i in range(len(self.cases)) if i % per_kind == i // per_kind % per_kind]
        sources, truths = self._pictures(max(images.shape[-1] for images in edited.values()))
        columns = {SOURCES: sources, **edited, TRUTHS: truths}
        found = {
            self.cases[i].kind: {name: [images[i]] for name, images in columns.items()}
            for i in picked
        }
        save_sheet(found, path)


def _weights(module: torch.nn.Module) -> float:
    """A number that differs where the weights do."""
    return float(sum(p.double().sum() for p in module.parameters()))


def _sweep_table(tried: Mapping[str, Scores]) -> str:
    shown = ("success", "kept", "lpips_truth", "balance")
    return table(
        ["method", "words", *map(title, shown)],
        (
            [name, " ".join(row["words"]), *(metric(key).number(row[key]) for key in shown)]
            for name, rows in tried.items()
            for row in rows
        ),
    )
