"""A run folder as a reader finds it: whatever files are there, and what could not be read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pds_cli.errors import UserError
from pds_cli.reading import MAX_BYTES, MAX_YAML_BYTES, parse_json, parse_yaml, read_bytes
from pds_cli.runs import layout

_LARGEST = {layout.CONFIG: MAX_YAML_BYTES, layout.METRICS: 4 * MAX_BYTES}
FILES = (layout.CONFIG, layout.SUMMARY, layout.METRICS, layout.ERROR, layout.ENVIRONMENT)
STAGES = ("fit", "edit", "refine")


@dataclass(frozen=True)
class Frame:
    """One intermediate render: renders/<stage>_<step:06d>_<view>.png."""

    stage: str
    step: int
    view: str
    path: Path


@dataclass
class RunRecord:
    """What one run folder holds.

    config, environment, summary: empty where the file is missing or unreadable.
    records: the lines of metrics.jsonl, in order.
    finals: {"source"|"result"|"truth": {view: path}}.
    frames: intermediate renders, by stage and step.
    error: the text of error.txt of a failed job.
    problems: one sentence for each file that could not be read.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    finals: dict[str, dict[str, Path]] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    exports: list[tuple[str, int]] = field(default_factory=list)
    error: str | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """done, stopped, failed, or incomplete (still running, killed, or files missing)."""
        if self.error is not None:
            return "failed"
        status = self.summary.get("status")
        if status == "done" and not self.finals.get("result"):
            return "incomplete"
        return status if status in ("done", "stopped") else "incomplete"

    @property
    def prompt(self) -> str:
        return str(self.summary.get("prompt") or self.config.get("prompt") or "")

    @property
    def source_prompt(self) -> str:
        scene = self.config.get("scene")
        nested = scene.get("source_prompt") if isinstance(scene, dict) else None
        found = self.summary.get("source_prompt") or self.config.get("source") or nested
        return str(found or "")

    @property
    def metrics(self) -> dict[str, float | None]:
        """The final metrics; None where the value is no number."""
        metrics = self.summary.get("metrics")
        if not isinstance(metrics, dict):
            return {}
        return {str(name): number(value) for name, value in metrics.items()}

    @property
    def views(self) -> list[str]:
        """Names of all views that have a render, those with a result first."""
        names: dict[str, None] = {}
        for kind in ("result", "source", "truth"):
            names.update(dict.fromkeys(sorted(self.finals.get(kind, {}), key=natural)))
        names.update(dict.fromkeys(frame.view for frame in self.frames))
        return list(names)

    def final(self, kind: str, view: str) -> Path | None:
        return self.finals.get(kind, {}).get(view)

    def choice(self, group: str) -> str:
        """The short name of what a config group was set to, e.g. `pds` for `loss`."""
        if isinstance(named := self.summary.get(group), str) and named:
            return named
        node = self.config.get(group)
        return node_name(node) if isinstance(node, dict) else str(node or "")

    def error_line(self) -> str:
        """The one line of error.txt that says what happened."""
        lines = [line.strip() for line in (self.error or "").splitlines() if line.strip()]
        if not lines:
            return "the job failed and left no message"
        return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def node_name(node: dict[str, Any]) -> str:
    """`name` of a group's config, else the module (ours) or class (others') of its `_target_`."""
    if isinstance(node.get("name"), str) and node["name"]:
        return str(node["name"])
    parts = str(node.get("_target_") or "").split(".")
    return parts[-2] if parts[0] == "pds_cli" and len(parts) > 2 else parts[-1]


def number(value: Any) -> float | None:
    """A float (may be NaN or infinite), or None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key under which view_2 comes before view_10."""
    parts = re.split(r"([0-9]+)", text)
    return [(1, int(p), "") if i % 2 and len(p) < 19 else (0, 0, p) for i, p in enumerate(parts)]


def is_run(folder: Path) -> bool:
    """Whether a folder holds anything that a run writes."""
    return any((folder / name).is_file() for name in FILES) or (folder / layout.RENDERS).is_dir()


def read_run(folder: Path | str) -> RunRecord:
    """Read a run folder, tolerating every missing or damaged file.

    Raises UserError where the folder does not exist or holds nothing a run writes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; name a folder below outputs/")
    if not is_run(folder):
        raise UserError(
            f"{folder} is no run folder, for it has neither config.yaml nor summary.json; "
            "name a folder that a run wrote, such as outputs/edit/figurine2d/pds/<time>"
        )
    run = RunRecord(folder)
    run.config_text = _read(run, layout.CONFIG)
    run.config = _object(run, layout.CONFIG, run.config_text, parse_yaml)
    for name in ("environment", "summary"):
        setattr(run, name, _object(run, f"{name}.json", _read(run, f"{name}.json"), parse_json))
    run.records = parse_metrics(_read(run, layout.METRICS))
    if (folder / layout.ERROR).exists():
        run.error = _read(run, layout.ERROR)
    _find_renders(run)
    _find_exports(run)
    return run


def _read(run: RunRecord, name: str) -> str:
    path = run.path / name
    if not path.exists():
        return ""
    try:
        return read_bytes(path, _LARGEST.get(name, MAX_BYTES)).decode("utf-8", "replace")
    except UserError as error:
        run.problems.append(f"{name} cannot be read: {error}")
        return ""


def _object(run: RunRecord, name: str, text: str, load: Any) -> dict[str, Any]:
    if not text.strip():
        if (run.path / name).exists() and name != layout.ENVIRONMENT:
            run.problems.append(f"{name} is empty")
        return {}
    try:
        value = load(text)
    except ValueError as error:
        run.problems.append(f"{name} is damaged: {error}")
        return {}
    if isinstance(value, dict):
        return value
    run.problems.append(f"{name} holds no mapping")
    return {}


def parse_metrics(text: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are objects with a step; a torn line is skipped."""
    records = []
    for line in text.split("\n"):  # not splitlines: JSON text may hold U+2028
        try:
            record = parse_json(line)
        except ValueError:
            continue
        step = number(record.get("step")) if isinstance(record, dict) else None
        if step is not None and math.isfinite(step):
            records.append(record)
    return records


def _find_renders(run: RunRecord) -> None:
    try:
        paths = sorted(p for p in (run.path / layout.RENDERS).glob("*.png") if p.is_file())
    except OSError as error:
        run.problems.append(f"renders/ cannot be read: {error.strerror or error}")
        return
    for path in paths:
        # Final pictures first: a stage is never called source, result or truth.
        if final := layout.FINAL.fullmatch(path.name):
            run.finals.setdefault(final[1], {})[final[2]] = path
        elif frame := layout.FRAME.fullmatch(path.name):
            run.frames.append(Frame(frame[1], int(frame[2]), frame[3], path))
    order = stage_order([*(r.get("stage") for r in run.records), *STAGES])
    last = len(order)
    run.frames.sort(key=lambda f: (order.get(f.stage, last), f.stage, f.step, natural(f.view)))


def stage_order(names: Iterable[Any]) -> dict[str, int]:
    """Stage names with their place, in order of first appearance."""
    unique = dict.fromkeys(name for name in names if isinstance(name, str))
    return {name: i for i, name in enumerate(unique)}


def _find_exports(run: RunRecord) -> None:
    folder = run.path / layout.EXPORTS
    try:
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()] if folder.is_dir() else []
        run.exports = [(p.relative_to(run.path).as_posix(), p.stat().st_size) for p in files]
    except OSError as error:
        run.problems.append(f"exports/ cannot be read: {error.strerror or error}")
