"""SDEdit: noise to some level, and back under the target prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.sampling import ddim, normal_like
from pds_cli.editors.base import (
    Editor,
    checked,
    checked_strength,
    decode,
    encode,
    share_of,
    start_of,
)
from pds_cli.errors import UserError


class SDEdit(Editor):
    """Noises x_0 to t = strength · T and samples back under the target prompt.

    A strength of 0 changes nothing; 1 keeps nothing but what little of x_0 the noisiest step
    leaves. The whole walk from T has `steps` steps, of which an edit takes its share, at least
    one: 20 steps at strength 0.15 are 3 network calls.

    Args:
        steps: DDIM steps of the whole walk, 1 … T.
        guidance: ω of the target prompt.
        strength: how far to go, in [0, 1]; two values are a range to draw from in each call.
        eta: 0 samples deterministically (DDIM), 1 stochastically (DDPM), as the paper's SDE does.

    Raises:
        UserError: an option out of its range.

    Source: Meng et al., SDEdit, ICLR 2022, arXiv 2108.01073, algorithm 1, with DDIM as solver.
    """

    def __init__(
        self,
        *,
        steps: int = 50,
        guidance: float = 7.5,
        strength: float | Sequence[float] = 0.75,
        eta: float = 0.0,
    ) -> None:
        checked(steps=steps, guidance=guidance)
        if not 0 <= eta <= 1:
            raise UserError(f"editor.eta={eta} must lie between 0 (DDIM) and 1 (DDPM)")
        self.steps, self.guidance, self.eta = steps, float(guidance), float(eta)
        self.strength = checked_strength(strength)

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
        """See `Editor.edit`; `source` and `text_src` are not looked at."""
        start = start_of(self.strength, backbone.schedule.num_train_timesteps, generator)
        x0 = encode(backbone, image)
        if start < 0:
            return decode(backbone, x0, image)
        t = torch.full((len(x0),), start, device=x0.device)
        x0 = ddim(
            backbone,
            backbone.add_noise(x0, t, normal_like(x0, generator)),
            text_tgt.expand(len(x0)),
            steps=share_of(self.steps, start, backbone.schedule.num_train_timesteps),
            guidance=self.guidance,
            start=start,
            eta=self.eta,
            generator=generator,
        )
        return decode(backbone, x0, image)
