"""Every random number of a step comes from (seed, stage, step)."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def step_generator(seed: int, stage: str, step: int) -> torch.Generator:
    """The random numbers of one step: a CPU generator seeded by (seed, stage, step)."""
    words = np.random.SeedSequence((seed, zlib.crc32(stage.encode()), step)).generate_state(
        2, np.uint32
    )
    return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))
