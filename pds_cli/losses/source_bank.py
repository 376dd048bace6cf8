"""Fixed (t, ε) pairs whose source predictions are computed once and reused.

The source branch sees x_0^src, t and ε only, never θ: at a pair that came before, the backbone
would repeat itself. With K pairs a view, a step at a known pair takes half the backbone's work.
The mean of the gradient over the pairs stands for its expectation over t and ε.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.losses.base import Loss
from pds_cli.losses.timesteps import Walk
from pds_cli.seeds import step_generator


class SourceBank:
    """K = `loss.source_bank` pairs for the source latents of one view.

    A pair gives each of the N latents its own t and ε. The range of t is cut into K equal parts,
    and pair k draws from part k, so that the pairs cover the range. A pair is a pure function of
    (seed, view, k), and its prediction is made in a call of its own: a bank that is filled again
    after an interruption holds the same numbers, whatever the order. Kept is ε̂^src alone, the
    size of the latents; t and ε are drawn again.

    Args:
        loss: a loss with a source branch.
        backbone: predicts ε̂^src.
        x0_src: the source latents [N,C,h,w].
        text_src: their prompts, one or N.
        seed: the run's seed.
        view: the view's name.
    """

    def __init__(
        self,
        loss: Loss,
        backbone: Backbone,
        x0_src: Tensor,
        text_src: Text,
        *,
        seed: int = 0,
        view: str = "",
    ) -> None:
        if not loss.source_bank or not loss.uses_source:
            raise ValueError("this loss keeps no source predictions")
        self.size = loss.source_bank
        self.loss, self.backbone = loss, backbone
        self.x0_src, self.text_src = x0_src, text_src
        self.seed, self.view = seed, view
        self._predicted: dict[int, Tensor] = {}

    def pair(self, k: int) -> tuple[Tensor, Tensor]:
        """t [N] and ε [N,C,h,w] of pair k, on the latents' device."""
        generator = step_generator(self.seed, f"source_bank {self.view}", k)
        walk = Walk(self.backbone.schedule.num_train_timesteps, self.loss.num_inference_steps)
        first, last = walk.indices(self.loss.timesteps)
        within = torch.rand(len(self.x0_src), generator=generator, dtype=torch.float64)
        index = first + ((k + within) / self.size * (last - first + 1)).long()
        eps = torch.randn(self.x0_src.shape, generator=generator, dtype=self.x0_src.dtype)
        # In floating point (K−1+u)/K may round up to 1.
        return walk.timestep(index.clamp(max=last)).to(self.x0_src.device), eps.to(self.x0_src)

    def source_prediction(self, k: int) -> Tensor:
        """ε̂^src [N,C,h,w] at pair k; only the first time does the backbone compute it."""
        if k not in self._predicted:
            t, eps = self.pair(k)
            self._predicted[k] = self.loss.predict_source(
                self.backbone, self.x0_src, self.text_src, t=t, eps=eps
            )
        return self._predicted[k]

    def draw(
        self, count: int, progress: float = 0.0, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """t [count·N], ε and ε̂^src [count·N,C,h,w] of `count` distinct pairs, pair by pair.

        With `schedule=uniform` all pairs are equally likely; with `annealed` they are the ones
        whose part of the range is nearest to where t should be at `progress` in [0, 1].
        """
        assert count <= self.size
        if self.loss.schedule == "annealed":
            wanted = (1 - min(max(progress, 0.0), 1.0)) * self.size - 0.5
            order = (torch.arange(self.size) - wanted).abs().argsort(stable=True)
        else:
            device = generator.device if generator is not None else None
            order = torch.randperm(self.size, generator=generator, device=device)
        chosen = order[:count].tolist()
        t, eps = zip(*(self.pair(k) for k in chosen), strict=True)
        predicted = [self.source_prediction(k) for k in chosen]
        return torch.cat(t), torch.cat(eps), torch.cat(predicted)
