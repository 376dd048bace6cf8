"""The scores of one finished run, from the pictures and facts in its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pds_cli.errors import UserError
from pds_cli.files import write_text
from pds_cli.metrics.clip import Clip
from pds_cli.metrics.consistency import consistency
from pds_cli.pictures.files import read_picture, resize
from pds_cli.reading import read_json
from pds_cli.results.outcome import mean_scores, similarity
from pds_cli.results.path_rendering import load_result, render_path
from pds_cli.runs import layout
from pds_cli.runs.layout import RESULT_3D
from pds_cli.runs.ownership import adopt
from pds_cli.runs.record import RunRecord, number, read_run
from pds_cli.views.paths import turntable

TITLES = {
    "clip_score": "CLIP score ↑",
    "clip_direction": "CLIP direction ↑",
    "lpips_source": "LPIPS to source ↓",
    "psnr_source": "PSNR to source, dB",
    "ssim_source": "SSIM to source",
    "lpips_truth": "LPIPS to truth ↓",
    "psnr_truth": "PSNR to truth, dB ↑",
    "ssim_truth": "SSIM to truth ↑",
    "consistency": "view consistency, dB ↑",
    "seconds": "s",
    "memory_mb": "MB",
    "gpu_memory_mb": "GPU MB",
}

# Renders that view consistency compares: so many on a circle, of so many pixels.
TURNTABLE = (16, 128)
FACTS = ("seconds", "memory_mb", "gpu_memory_mb")


@dataclass
class RunScores:
    """Scores of a run, means over its views.

    clip: `name` and `fingerprint` of the model behind the CLIP scores; empty without any.
    """

    record: RunRecord
    scores: dict[str, float]
    views: int
    clip: dict[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """What edited: the loss, the editor, or a dataset update with one."""
        return self.record.choice("loss")


def find_runs(names: Sequence[str]) -> tuple[list[RunRecord], list[str]]:
    """The finished edits in the named folders, and a sentence for each that cannot be used.

    A folder that is no finished edit itself, such as a sweep's, stands for those below it.
    """
    found: dict[Path, RunRecord] = {}
    wrong: list[str] = []
    for name in names:
        folder = Path(name).expanduser()
        try:
            records = [read_run(folder)]
            reason = _unusable(records[0])
        except UserError as error:
            records, reason = [], str(error)
        if reason is not None:
            records = _below(folder) or records
            if not records:
                wrong.append(reason)
        for record in records:
            reason = _unusable(record)
            if reason is None:
                found[record.path.resolve()] = record
            else:
                wrong.append(f"{record.path}: {reason}")
    return list(found.values()), wrong


def _below(folder: Path) -> list[RunRecord]:
    """The edits below a folder, finished or not."""
    names = (layout.SUMMARY, layout.ERROR, layout.CONFIG)
    places = {path.parent for name in names for path in folder.rglob(name)} - {folder}
    # What an edit fitted first lies within it.
    places = {place for place in places if (place.name != "fit" or place.parent not in places)}
    return [record for record in map(read_run, sorted(places)) if _is_edit(record)]


def _is_edit(record: RunRecord) -> bool:
    """Whether `pds edit` made a run; one that left no summary is known by its configuration."""
    if "verb" in record.summary:
        return bool(record.summary["verb"] == "edit")
    return bool(record.summary) or record.error is not None or "prompt" in record.config


def _unusable(record: RunRecord) -> str | None:
    """Why a run cannot be scored, or None."""
    if record.status == "failed":
        return f"failed: {record.error_line()}"
    if not _is_edit(record):
        verb = record.summary.get("verb")
        maker = "not made by pds edit" if verb is None else f"made by pds {verb}"
        return f"was {maker}, and only edits are scored"
    if record.problems:
        return record.problems[0]
    if record.summary.get("status") != "done":
        return f"unfinished: go on with pds edit resume={record.path}"
    if not record.finals.get("result"):
        return "has no pictures of its result"
    if not record.finals.get("source"):
        return "has no pictures of its source"
    return None


def score_run(record: RunRecord, clip: Clip | None, allow_modules: Sequence[str] = ()) -> RunScores:
    """Scores a run, and keeps the scores in its folder as `eval.json`.

    Every view that the run rendered at its end counts alike, at the size it was rendered,
    without crops other than CLIP's own. A 3D scene is rendered again for its view consistency,
    by a class of pds or of `allow_modules`. Without a CLIP model, CLIP scores that an earlier
    evaluation left are taken over.

    Raises:
        UserError: a picture or the 3D scene of the run is damaged.
    """
    rows: list[dict[str, float]] = []
    texts = None if clip is None else clip.text([record.prompt, record.source_prompt])
    for view, path in sorted(record.finals["result"].items()):
        result = read_picture(path)
        row: dict[str, float] = {}
        for kind in ("source", "truth"):
            other = record.final(kind, view)
            if other is None:
                continue
            reference = resize(read_picture(other), *result.shape[-2:])
            row |= similarity(result, reference, kind)
            if kind == "source" and clip is not None and texts is not None:
                row |= clip.scores(result, reference, texts)
        rows.append(row)
    scores = mean_scores(rows) | _view_consistency(record, allow_modules) | _facts(record)
    found = RunScores(record, scores, len(rows))
    if clip is not None:
        found.clip = {"name": clip.name, "fingerprint": clip.fingerprint}
    else:
        _take_over(found)
    kept = {"clip": found.clip, "views": found.views, "scores": found.scores}
    write_text(record.path / layout.SCORES, json.dumps(kept, indent=2) + "\n")
    adopt(record.path / layout.SCORES, record.path)
    return found


def _view_consistency(record: RunRecord, allow_modules: Sequence[str]) -> dict[str, float]:
    """How well neighbouring renders of a turntable agree; nothing for what is not in 3D."""
    if not (record.path / RESULT_3D).is_file():
        return {}
    representation = load_result(record.path, allow_modules=allow_modules)
    frames, size = TURNTABLE
    train = list(representation.cameras["train"].values())
    cameras = turntable(train, representation.region, frames=frames, size=size)
    found = consistency(list(render_path(representation, cameras)), cameras).psnr
    return {} if math.isnan(found) else {"consistency": found}


def _facts(record: RunRecord) -> dict[str, float]:
    """Time and memory, where the run says them."""
    found = {key: number(record.summary.get(key)) for key in FACTS}
    return {key: value for key, value in found.items() if value is not None}


def _take_over(found: RunScores) -> None:
    """CLIP scores of an earlier evaluation of the same run."""
    try:
        kept: dict[str, Any] = read_json(found.record.path / layout.SCORES)
        clip = {str(k): str(v) for k, v in dict(kept["clip"]).items()}
        scores = {k: float(v) for k, v in kept["scores"].items() if k.startswith("clip_")}
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        return
    if clip:
        found.clip = clip
        found.scores |= scores
