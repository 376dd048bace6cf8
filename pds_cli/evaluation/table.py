"""Tables of scores: means over runs, with intervals by bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pds_cli.errors import UserError
from pds_cli.evaluation.scores import TITLES, RunScores
from pds_cli.markdown import table

RESAMPLES = 2000


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


def summary(
    runs: Sequence[RunScores], methods: Sequence[str] | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """method → score → mean, low, high and n, over the runs of the method that have the score.

    methods: as of `markdown`.
    """
    names = [run.method for run in runs] if methods is None else list(methods)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method in dict.fromkeys(names):
        mine = [run for run, name in zip(runs, names, strict=True) if name == method]
        scores: dict[str, dict[str, float]] = {}
        for key in TITLES:
            values = [run.scores[key] for run in mine if key in run.scores]
            if values:
                low, high = bootstrap(values)
                mean = sum(values) / len(values)
                scores[key] = {"mean": mean, "low": low, "high": high, "n": len(values)}
        found[method] = scores
    return found


def markdown(runs: Sequence[RunScores], methods: Sequence[str] | None = None) -> str:
    """A table of methods, then one of runs, and what they were measured with.

    methods: the name of each run's method; None: what the run says.
    """
    clip = one_clip(runs)
    names = [run.method for run in runs] if methods is None else list(methods)
    means = summary(runs, names)
    keys = [key for key in TITLES if any(key in scores for scores in means.values())]
    head = ["method", "runs", *(TITLES[key] for key in keys)]
    methods_table = table(
        head,
        (
            [method, str(names.count(method)), *(_interval(scores.get(k)) for k in keys)]
            for method, scores in means.items()
        ),
    )
    runs_table = table(
        ["run", "method", *(TITLES[key] for key in keys)],
        (
            [str(run.record.path), method,
             *(f"{run.scores[k]:.4g}" if k in run.scores else "–" for k in keys)]
            for run, method in zip(runs, names, strict=True)
        ),
    )  # fmt: skip
    model = (
        f"CLIP: {clip['name']}, fingerprint {clip['fingerprint']}."
        if clip
        else "No CLIP scores: give clip=<hub id or folder>."
    )
    note = (
        "Means over a run's views, then over a method's runs; in brackets 95 % intervals by "
        f"bootstrap over runs. {model}"
    )
    return "\n\n".join([methods_table, runs_table, note]) + "\n"


def _interval(score: Mapping[str, float] | None) -> str:
    if score is None:
        return "–"
    if score["n"] < 2:
        return f"{score['mean']:.4g}"
    return f"{score['mean']:.4g} [{score['low']:.4g}, {score['high']:.4g}]"
