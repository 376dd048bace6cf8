"""Jobs of benchmarks in processes that have imported what they need before they begin.

`pds compare` runs each edit as `python -m pds_cli edit …`, of which a small one spends nine tenths
importing. Tests of what comes of many such jobs fork them from one process that has done so; tests
of how a job is started, stopped and reported leave it as it is.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from collections.abc import Sequence
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from pds_cli.errors import UserError
from pds_cli.runs.folder import megabytes
from pds_cli.runs.ownership import owns

IMPORTED = [
    "torch._dynamo", "diffusers.models.unets.unet_2d_condition", "diffusers.schedulers",
    "transformers.models.clip.modeling_clip", "pds_cli.cli", "pds_cli.verbs.edit",
    "pds_cli.backbones.embedded", "pds_cli.backbones.patch_autoencoder", "pds_cli.kernels.raster",
    "pds_cli.representations.nerf", "pds_cli.representations.svg", "pds_cli.pages.report",
]  # fmt: skip


def run_warm(words: Sequence[str], folder: Path) -> float:
    """Stands for `pds_cli.benchmarks.jobs._run`, with the same log, result and failure."""
    log = folder.with_name(f"{folder.name}.log")
    owns(log)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    memory: SimpleQueue[float] = context.SimpleQueue()
    told = (list(words), str(log), os.getcwd(), dict(os.environ), memory)
    process = context.Process(target=_job, args=told)
    process.start()
    process.join()
    if process.exitcode:
        raise UserError(f"pds edit {' '.join(words)} failed:\n{log.read_text(encoding='utf-8')}")
    return memory.get()


def _job(
    words: list[str], log: str, folder: str, env: dict[str, str], memory: SimpleQueue[float]
) -> None:
    from pds_cli.cli import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    with open(log, "w", encoding="utf-8") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    code = main(["edit", *words])
    memory.put(megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
    sys.exit(code)
