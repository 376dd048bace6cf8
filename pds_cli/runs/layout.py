"""The names of a run folder's files, for those who write and those who read them.

docs/reports.md says what is in each.
"""

from __future__ import annotations

import re
from pathlib import Path

CARD = "run.json"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.safetensors"
SUMMARY = "summary.json"
ERROR = "error.txt"
STRIP = "strip.png"
REPORT = "report.html"
FIT = "fit"  # folder: the fit that an edit began with

RENDERS = "renders"
FINAL = re.compile(r"(source|result|truth)_(.+)\.png", re.DOTALL)
FRAME = re.compile(r"(.+?)_(\d{6,})_(.+)\.png", re.DOTALL)

EXPORTS = "exports"
RESULT_3D = Path(EXPORTS, "result.safetensors")  # a 3D scene, whatever its representation
CAMERAS = Path(EXPORTS, "cameras.json")
RESULT_PICTURE = Path(EXPORTS, "result.png")
RESULT_DRAWING = Path(EXPORTS, "result.svg")
MASKS = Path(EXPORTS, "masks")  # folder: where views were allowed to change, as mask= takes it
ANIMATION = Path(EXPORTS, "animation.svg")
TURNTABLE = Path(EXPORTS, "turntable.gif")  # and .mp4
TURNTABLE_BEFORE = Path(EXPORTS, "turntable_before.gif")

SCORES = "eval.json"  # what pds eval found of an edit
RESULTS = "results.json"  # of pds eval, compare and study
TABLE = "table.md"
COMPARISON = "comparison.html"


def final_render(kind: str, view: str) -> str:
    """The name of a picture at a run's end, without its ending: of a `source`, say.

    >>> final_render("result", "front")
    'result_front'
    """
    return f"{kind}_{view}"


def frame(stage: str, step: int, view: str) -> str:
    """The name of a picture on the way, without its ending.

    >>> frame("edit", 40, "front")
    'edit_000040_front'
    """
    return f"{stage}_{step:06d}_{view}"
