"""Tables of scores: means over runs, with intervals by bootstrap, and differences of pairs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pds_cli.errors import UserError
from pds_cli.evaluation.groups import Group, group_runs, key_names, rivals, said, unit_keys
from pds_cli.evaluation.latex import latex_table
from pds_cli.evaluation.scores import SCORES, RunScores
from pds_cli.markdown import table
from pds_cli.metrics.names import COSTS, metric, title
from pds_cli.results.outcome import mean_scores
from pds_cli.runs.differences import Settings, all_settings, is_edit, position

RESAMPLES = 2000
MOST_PAIRS = 40  # differences that table.md shows
Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Pair:
    """Two groups of the same edits; `scores` has the mean difference first − second of each."""

    first: Group
    second: Group
    scores: Scores


def bootstrap(
    values: Sequence[float], *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of the mean of `values` under resampling.

    One value, or values that are all the same, give an interval of no width.

    Source: Efron, Bootstrap Methods, Annals of Statistics 7(1), 1979.

    >>> bootstrap([1.0, 1.0])
    (1.0, 1.0)
    """
    data = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    means = data[generator.integers(0, len(data), (RESAMPLES, len(data)))].mean(1)
    tail = 50 * (1 - level)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def one_clip(runs: Sequence[RunScores]) -> dict[str, str]:
    """The CLIP model behind the scores of all these runs; empty without CLIP scores.

    Raises:
        UserError: there are several: their numbers must not stand in one table.
    """
    models = {run.clip["fingerprint"]: run.clip["name"] for run in runs if run.clip}
    if len(models) > 1:
        names = ", ".join(f"{name} ({mark})" for mark, name in sorted(models.items()))
        raise UserError(
            f"these runs were scored with different CLIP models: {names}; say clip=<model> to "
            "score all of them with one"
        )
    found = next((run.clip for run in runs if run.clip), {})
    without = [run for run in runs if not run.clip]
    if found and without:
        raise UserError(
            f"{without[0].record.path} has no CLIP scores, and others have some of "
            f"{found['name']}; say clip={found['name']} to score all of them"
        )
    return found


class ScoreTable:
    """Groups of runs with their mean scores, and groups of the same edits set against each other.

    Args:
        runs: scored runs.
        settings: each run's, flat; None: what its configuration says.
        by: keys that make the groups, see `key_names`; None: all that differs but the seed.

    Raises:
        UserError: CLIP scores of different models, or a key that the runs do not have.
    """

    def __init__(
        self,
        runs: Sequence[RunScores],
        settings: Sequence[Settings] | None = None,
        by: object = None,
    ) -> None:
        self.runs, self.clip = list(runs), one_clip(runs)
        records = [run.record for run in runs]
        self.settings = all_settings(records) if settings is None else list(settings)
        self.by = key_names(by, self.settings)
        self.grouping = group_runs(self.settings, self.by)
        self.groups, self.keys = self.grouping.groups, self.grouping.keys
        self.scores = [self._means(group) for group in self.groups]
        self.pairs = list(self._pairs())

    def _means(self, group: Group) -> Scores:
        """score → mean, low, high and n, over the runs of a group that have the score."""
        found: Scores = {}
        for key in SCORES:
            values = [self.runs[i].scores[key] for i in group.members if key in self.runs[i].scores]
            if values:
                found[key] = _mean(values)
        return found

    def _pairs(self) -> Iterator[Pair]:
        """Groups that share edits and seeds, and what each of their runs differs by."""
        units = unit_keys(self.settings, self.keys)
        for one, other in rivals(self.grouping):
            means = [self._by_unit(group, units) for group in (one, other)]
            scores: Scores = {}
            for key in SCORES:
                a, b = ({unit: row[key] for unit, row in m.items() if key in row} for m in means)
                if key not in COSTS and (both := [a[unit] - b[unit] for unit in a if unit in b]):
                    scores[key] = _mean(both)
            if scores:
                yield Pair(one, other, scores)

    def _by_unit(self, group: Group, units: Sequence[str]) -> dict[Any, dict[str, float]]:
        """(edit, seed) → the mean scores of a group's runs of it."""
        rows: dict[Any, list[dict[str, float]]] = {}
        for i in group.members:
            rows.setdefault(position(self.settings[i], units), []).append(self.runs[i].scores)
        return {unit: mean_scores(found) for unit, found in rows.items()}

    # --- how it is written -----------------------------------------------------------------------

    def results(self) -> dict[str, Any]:
        """Everything, for `results.json`."""
        return {
            "clip": self.clip,
            "by": self.keys,
            "mixed": self.grouping.mixed,
            "groups": [
                {**group.values, "runs": len(group.members), "scores": scores}
                for group, scores in zip(self.groups, self.scores, strict=True)
            ],
            "pairs": [
                {"first": p.first.values, "second": p.second.values, "differences": p.scores}
                for p in self.pairs
            ],
            "runs": [
                {
                    "run": str(run.record.path), "method": run.method, "seed": node.get("seed"),
                    "views": run.views, **run.scores,
                }
                for run, node in zip(self.runs, self.settings, strict=True)
            ],
        }  # fmt: skip

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """The table of groups: its head, and a row a group."""
        shown = [key for key in SCORES if any(key in scores for scores in self.scores)]
        head = [*map(_title, self.keys), "runs", *map(title, shown)]
        rows = [
            [*group.values.values(), str(len(group.members)), *(_interval(k, s) for k in shown)]
            for group, s in zip(self.groups, self.scores, strict=True)
        ]
        return head, rows

    def markdown(self) -> str:
        """A table of groups, one of differences, one of runs, and how they were made."""
        parts = [table(*self.cells())]
        if self.pairs:
            parts += ["Differences between methods, over the edits and seeds that both have:"]
            parts += [self._differences()]
        if len(self.pairs) > MOST_PAIRS:
            parts += [f"{len(self.pairs) - MOST_PAIRS} more differences are in results.json."]
        return "\n\n".join([*parts, self._each(), " ".join(self.notes())]) + "\n"

    def _differences(self) -> str:
        edits = [key for key in self.keys if is_edit(key)]
        others = [key for key in self.keys if key not in edits]
        shown = [key for key in SCORES if any(key in pair.scores for pair in self.pairs)]
        head = [*map(_title, edits), "difference", "pairs", *map(title, shown)]
        rows = []
        for pair in self.pairs[:MOST_PAIRS]:
            names = f"{pair.first.label(others)} − {pair.second.label(others)}"
            count = max(score["n"] for score in pair.scores.values())
            cells = [_interval(key, pair.scores, "+") for key in shown]
            rows.append([*(pair.first.values[key] for key in edits), names, f"{count}", *cells])
        return table(head, rows)

    def _each(self) -> str:
        """A row a run."""
        shown = [key for key in SCORES if any(key in run.scores for run in self.runs)]
        group_of = {i: group for group in self.groups for i in group.members}
        rows = []
        for i, run in enumerate(self.runs):
            numbers = [metric(k).number(run.scores[k]) if k in run.scores else "–" for k in shown]
            rows.append([str(run.record.path), *group_of[i].values.values(), *numbers])
        return table(["run", *map(_title, self.keys), *map(title, shown)], rows)

    def notes(self) -> list[str]:
        """How the numbers were made, and what is pooled in them."""
        found = self.grouping
        notes = [
            "Means over a run's views, then over a group's runs; in brackets 95 % intervals by "
            "bootstrap over these runs, or over the pairs."
        ]
        for leader, keys in found.along.items():
            notes.append(f"With {_title(leader)} goes {', '.join(keys)}.")
        if found.mixed:
            notes.append(
                f"Pooled within a group though they differ: {said(found.mixed)}; such an interval "
                "is one of this mixture."
            )
        if found.repeated:
            notes.append(
                f"{found.repeated} of the runs repeat another in every setting and the seed, so "
                "they say nothing new and make intervals too narrow."
            )
        model = (
            f"CLIP: {self.clip['name']}, fingerprint {self.clip['fingerprint']}."
            if self.clip
            else "No CLIP scores: give clip=<hub id or folder>."
        )
        return [*notes, model]

    def csv(self) -> str:
        """The table of groups with all digits: each score's mean, interval and number of runs."""
        shown = [key for key in SCORES if any(key in scores for scores in self.scores)]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        numbers = [f"{key}{end}" for key in shown for end in ("", "_low", "_high", "_n")]
        writer.writerow([*map(_title, self.keys), "runs", *numbers])
        for group, scores in zip(self.groups, self.scores, strict=True):
            found = [scores.get(key, {}) for key in shown]
            cells = [s.get(part, "") for s in found for part in ("mean", "low", "high", "n")]
            writer.writerow([*group.values.values(), len(group.members), *cells])
        return text.getvalue()

    def latex(self) -> str:
        """The table of groups for LaTeX with the package booktabs."""
        head, rows = self.cells()
        columns = "l" * len(self.keys) + "r" * (len(head) - len(self.keys))
        return latex_table(head, rows, columns, self.notes())


def _title(key: str) -> str:
    return "method" if key == "loss" else key


def _mean(values: Sequence[float]) -> dict[str, float]:
    low, high = bootstrap(values)
    return {"mean": sum(values) / len(values), "low": low, "high": high, "n": len(values)}


def _interval(key: str, scores: Mapping[str, Mapping[str, float]], sign: str = "") -> str:
    """A mean with its interval, where there is one."""
    if key not in scores:
        return "–"
    score = scores[key]
    if score["n"] < 2:
        return metric(key).number(score["mean"], sign)
    return metric(key).interval(score["mean"], score["low"], score["high"], sign)
