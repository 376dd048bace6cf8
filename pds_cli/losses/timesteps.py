"""The walk through the training timesteps, from which every loss draws its t."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pds_cli.errors import UserError


@dataclass(frozen=True)
class Walk:
    """`num_inference_steps` timesteps out of T: t_i = ⌊i T/n⌋ + 1, each preceded by t_i − T/n.

    With T = 1000 and n = 500 this is 1, 3, …, 999, the 'leading' spacing with offset 1 of the
    published code, and so it is for every n that divides T. For other n the published spacing
    leaves out the noisiest steps; this one always spans all T, with a stride of T/n rounded.
    """

    num_train_timesteps: int
    num_inference_steps: int

    def __post_init__(self) -> None:
        if not 2 <= self.num_inference_steps <= self.num_train_timesteps:
            raise UserError(
                f"loss.num_inference_steps={self.num_inference_steps} does not fit the backbone's "
                f"{self.num_train_timesteps} training timesteps; choose 2 to "
                f"{self.num_train_timesteps}"
            )

    @property
    def stride(self) -> int:
        """Training timesteps between t and t_prev; at least 1."""
        return int(self.num_train_timesteps / self.num_inference_steps + 0.5)

    def timestep(self, index: Tensor) -> Tensor:
        """t_i for integer indices i [B] in [0, n)."""
        return index * self.num_train_timesteps // self.num_inference_steps + 1

    def previous(self, t: Tensor) -> Tensor:
        """t_prev of timesteps t [B]."""
        return t - self.stride

    def indices(self, ratios: Sequence[float]) -> tuple[int, int]:
        """First and last index for a (min, max) ratio; (0.02, 0.98) of 500 gives (10, 489).

        As published, the upper end is left out, and index 0 never occurs (nothing precedes it).
        """
        steps, total = self.num_inference_steps, self.num_train_timesteps
        # The 1e-9 undoes binary rounding: 0.29 * 100 is 28.999999999999996.
        first = max(1, int(steps * ratios[0] + 1e-9))
        last = max(first, int(steps * ratios[1] + 1e-9) - 1)
        # The last index whose timestep still exists: it is one less than n - 1 only when n = T.
        limit = steps - 2 if steps == total else steps - 1
        return min(first, limit), min(last, limit)

    def sample(
        self,
        batch: int,
        ratios: Sequence[float],
        schedule: str = "uniform",
        progress: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws `batch` timesteps [B] (int64, on the generator's device, else the CPU).

        Args:
            ratios: the (min, max) part of the walk, each in [0, 1].
            schedule: `uniform` draws every index of the range alike, whatever the progress;
                `annealed` gives the whole batch one t that falls evenly from the range's upper
                end (progress 0) to its lower end (progress 1).
            progress: how much of the run is done, in [0, 1].
        """
        first, last = self.indices(ratios)
        device = generator.device if generator is not None else torch.device("cpu")
        if schedule == "annealed":
            index = round(last + (first - last) * min(max(progress, 0.0), 1.0))
            return self.timestep(torch.full((batch,), index, dtype=torch.long, device=device))
        draw = torch.randint(first, last + 1, (batch,), generator=generator, device=device)
        return self.timestep(draw)
