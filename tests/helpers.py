"""What several test modules need: the files of a run, words of small runs, and interruptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from pds_cli.training.trainer import Stage, Trainer

# 64 pixels a side: the tiny backbone's size.
SCENE = ["scene=figurine", "scene.size=64", "scene.count=3", "scene.held_out=2"]
FIELD = [
    "representation.grid={levels: 4, features: 2, log2_table: 10, base_resolution: 8, growth: 1.7}",
    "representation.hidden=16", "representation.occupancy=16", "representation.step=0.1",
    "representation.rays=128", "representation.update_every=4", "representation.fit.steps=12",
    "representation.fit.views_per_step=2",
]  # fmt: skip
SMALL_FIGURINE = [*SCENE, "representation=nerf", *FIELD, "device=cpu"]


def summary(folder: Path | str) -> dict[str, Any]:
    """What a run's `summary.json` says."""
    return json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))


def records(folder: Path | str) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`."""
    lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


class StopAt:
    """An observer that asks its trainer once to stop, after a step of the stage of a name."""

    def __init__(self, step: int, stage: str = "edit") -> None:
        self.step, self.stage, self.asked = step, stage, False

    def __call__(self, trainer: Trainer, stage: Stage) -> None:
        if not self.asked and (stage.name, trainer.step) == (self.stage, self.step):
            self.asked = True
            trainer.request_stop()


def words_of_config(node: dict[str, Any], prefix: str = "") -> list[str]:
    """The words of a command line that say a nested table, key by key."""
    found = []
    for key, value in node.items():
        if isinstance(value, dict):
            found += words_of_config(value, f"{prefix}{key}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
            found.append(f"{prefix}{key}={text.removesuffix('...').strip()}")
    return found
