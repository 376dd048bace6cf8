"""What the keys of benchmarks mean; they have no types, as a benchmark may come from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pds_cli.options.option import option
from pds_cli.options.ranges import COUNT, FINITE, PIXELS, POSITIVE, SEED, STEPS, whole
from pds_cli.options.target import Target
from pds_cli.options.verbs import LR_SCHEDULES


@dataclass
class BenchmarkConf(Target):
    """Keys of the shipped benchmarks."""

    methods: Any = option("name → words for pds edit, or a loss or editor with its keys")
    sweep: Any = option("name → key → values, tried on other figures first; null: nothing is")
    only: Any = option("names of methods; null: all")
    overrides: Any = option("words that every job gets")
    edits: Any = option("kinds of edit, or how many; null: all", range=whole(1, 1000))
    steps: int = option("optimiser steps of an edit, or DDIM steps of a sample", range=STEPS)
    lr: float = option("step size of an edit", range=POSITIVE)
    lr_schedule: str = option("how the step size goes on", choices=LR_SCHEDULES)
    guidance: float = option("ω of samples", range=FINITE)
    figures: int = option("figures that are edited", range=whole(1, 1000))
    rotate: bool = option("each kind of edit on one figure, a figure further each time")
    tuning_figures: int = option("figures that the sweep uses", range=whole(0, 1000))
    figure: Any = option("attributes of the figure; those not named keep their defaults")
    cameras: int = option("sides that a result is seen from", range=whole(1, 10_000))
    size: int = option("side in pixels of the renders that are scored", range=PIXELS)
    count: int = option("captions that are drawn and read", range=COUNT)
    samples: int = option("samples of each name", range=whole(1, 10_000))
    names: Any = option("names of icons; null: 40 common ones")
    seed: int = option("of the first edit, or of the samples", range=SEED)
    seeds: int = option("seeds that each edit is run with", range=whole(1, 10_000))
    similarity: str = option("backbone folder whose icon similarity judges", text=True)
    icons: str = option("folder of icon sets (make icons)", text=True)
    photos: str = option("folder with edits.yaml (docs/paper.md)", text=True)
    experiments: str = option("pattern of experiments, as paper/nerf_*", text=True)
    clip: str | None = option("CLIP model, hub id or folder; null: no CLIP scores", text=True)
    allow_modules: Any = option("modules of your own that a method may come from")
