"""Edit-friendly DDPM inversion: noise maps under which the sampler repeats an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.sampling import ddim_step, ddim_timesteps, ddpm_variance, normal_like
from pds_cli.editors.base import check_steps, decode, encode
from pds_cli.editors.inversion import Inversion


@dataclass(kw_only=True)
class DDPMInversion(Inversion):
    """Takes x_t with independent noise at every t, and the z_t that lead from each to the next.

    With z_t = (x_s − μ(x_t, y^src)) / σ_t the sampler repeats the source exactly, however x_t was
    drawn. The same z_t under the target prompt give an edit that keeps the layout.

    Attributes:
        steps: of the whole walk.
        guidance: ω of the target prompt.
        source_guidance: ω of the source prompt.
        strength: where the edit begins, in [0, 1]; published: 0.64, 36 of 100 steps left out.

    Raises:
        UserError: an option out of its range, or more steps than timesteps.

    Source: Huberman-Spiegelglas et al., An Edit Friendly DDPM Noise Space, CVPR 2024,
    arXiv 2304.06140, algorithm 1.
    """

    steps: int = 100
    guidance: float = 15.0
    source_guidance: float = 3.5
    strength: float = 0.64

    @torch.no_grad()
    def edit(
        self,
        backbone: Backbone,
        image: Tensor,
        source: Tensor,
        text_tgt: Text,
        text_src: Text | None,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """See `Editor.edit`."""
        text, text_src = text_tgt.expand(len(image)), self.source_text(text_src, len(image))
        x_t, noise = self.invert(backbone, encode(backbone, image), text_src, generator)
        return decode(backbone, self.sample(backbone, x_t, noise, text, self.guidance), image)

    def invert(
        self, backbone: Backbone, x0: Tensor, text: Text, generator: torch.Generator
    ) -> tuple[Tensor, list[Tensor]]:
        """The x_t to begin at, and z for every step from there, each [B,C,h,w].

        Nothing of the walk is left where `strength` is below half a step: x_0 and no noise.
        """
        times = self._times(backbone)
        path = [
            backbone.add_noise(x0, t.expand(len(x0)), normal_like(x0, generator)) for t in times
        ]
        noise = []
        for k, (t, x_t) in enumerate(zip(times, path, strict=True)):
            following = path[k + 1] if k + 1 < len(path) else x0
            mean, std = self._step(backbone, x_t, t, times[k + 1 :], text, self.source_guidance)
            noise.append((following - mean) / std)
        return (path[0] if path else x0), noise

    def sample(
        self,
        backbone: Backbone,
        x_t: Tensor,
        noise: list[Tensor],
        text: Text,
        guidance: float,
    ) -> Tensor:
        """x_0 [B,C,h,w] from where `invert` began, with its z."""
        times = self._times(backbone)
        for k, (t, z) in enumerate(zip(times, noise, strict=True)):
            mean, std = self._step(backbone, x_t, t, times[k + 1 :], text, guidance)
            x_t = mean + std * z
        return x_t

    def _times(self, backbone: Backbone) -> Tensor:
        """The timesteps of the walk that lie below `strength` · T, falling; ᾱ_0 is clean."""
        total = backbone.schedule.num_train_timesteps
        check_steps(self.steps, total)
        times = ddim_timesteps(total, self.steps).clamp_min(1).to(backbone.device)
        return torch.unique_consecutive(times[times < self.strength * total])

    @staticmethod
    def _step(
        backbone: Backbone, x_t: Tensor, t: Tensor, later: Tensor, text: Text, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """μ and σ of the DDPM step from t to the next of `later`, or to t = 0 after the last."""
        bar = backbone.schedule.alphas_cumprod.to(x_t)
        now, after = bar[t], bar[later[0]] if len(later) else bar[0]
        eps = backbone.predict_noise(x_t, t.expand(len(x_t)), text, guidance).to(x_t)
        variance = ddpm_variance(now, after)
        return ddim_step(x_t, eps, now, after, variance), variance.sqrt()
