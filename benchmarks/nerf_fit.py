"""Fitting a NeRF to the figurine: the hash grid's kernels against plain PyTorch, whole path.

    python benchmarks/nerf_fit.py [goal=30] [seconds=240]

Both paths fit the same scene from the same first weights with the same random numbers; the plain
path also marches and composites in PyTorch. Prints steps a second, and the time until the mean
PSNR of the held-out views reaches the goal (measuring is not counted).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from pds_cli.representations.nerf import volume
from pds_cli.representations.nerf.representation import NeRF
from pds_cli.scenes.toybox import ToyboxScene
from pds_cli.seeds import step_generator
from pds_cli.training.fit import fit_stage, measure


@contextmanager
def plain() -> Iterator[None]:
    """Volume rendering without kernels."""
    with (
        mock.patch.object(volume, "march", volume.march_torch),
        mock.patch.object(volume, "composite", volume.composite_torch),
    ):
        yield


def fit(scene: ToyboxScene, encoding: str, goal: float, seconds: float) -> tuple[float, float]:
    """Steps a second, and the seconds to the goal (infinite where it was not reached)."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"encoding": encoding, "hidden": 32, "fit_distortion": 0.005}
    nerf = NeRF(scene, SimpleNamespace(device=torch.device("cpu")), **options)  # type: ignore[arg-type]
    assert nerf.fit_settings is not None
    stage = fit_stage(scene, nerf, nerf.fit_settings)
    optimizer = stage.optimizer(stage.objective.parameter_groups())
    base = [group["lr"] for group in optimizer.param_groups]
    spent, step, reached = 0.0, 0, float("inf")
    while spent < seconds and step < stage.steps and reached == float("inf"):
        started = time.perf_counter()
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * stage.lr_factor(step)
        optimizer.zero_grad(set_to_none=True)
        loss, _ = stage.objective.loss(step, step / stage.steps, step_generator(0, "fit", step))
        loss.backward()
        optimizer.step()
        stage.objective.after_step(step + 1, optimizer)
        step += 1
        if step > 1:  # the first step compiles
            spent += time.perf_counter() - started
        if step % 25 == 0 and measure(nerf, scene.eval_views)["psnr"] >= goal:
            reached = spent
    return (step - 1) / spent, reached


def main(argv: list[str]) -> None:
    """Measures and prints a Markdown table."""
    options = {"goal": "30", "seconds": "240", **dict(word.split("=", 1) for word in argv)}
    goal, seconds = float(options["goal"]), float(options["seconds"])
    scene = ToyboxScene()
    print(f"{torch.get_num_threads()} threads\n")
    print(f"| path | steps/s | seconds to {goal:g} dB |")
    print("|---|---|---|")
    fast = fit(scene, "numba", goal, seconds)
    with plain():
        slow = fit(scene, "torch", goal, seconds)
    for name, (speed, until) in (("numba", fast), ("plain torch", slow)):
        print(f"| {name} | {speed:.2f} | {until:.0f} |")
    print(f"\nratio of steps/s: {fast[0] / slow[0]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
