"""DDIM inversion: the noise that leads to an image, followed back under another prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.sampling import ddim, ddim_invert
from pds_cli.editors.base import decode, encode, share_of
from pds_cli.editors.inversion import Inversion


@dataclass(kw_only=True)
class DDIMInversion(Inversion):
    """Inverts x_0 under the source prompt to t = strength · T, and samples under the target's.

    With one prompt, one ω and many steps the image comes back.

    Attributes:
        steps: network calls each way for strength 1; less strength takes its share.
        guidance: ω of the target prompt, on the way back.
        source_guidance: ω of the source prompt; above 1 the inversion gets unstable.
        strength: how far to go, in [0, 1]; 0 changes nothing.

    Raises:
        UserError: an option out of its range.

    Source: Song et al., DDIM, ICLR 2021, section 4.3; as an editing baseline, Hertz et al.,
    Prompt-to-Prompt, arXiv 2208.01626, section 4.
    """

    steps: int = 50
    guidance: float = 7.5
    source_guidance: float = 1.0
    strength: float = 1.0

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
        """See `Editor.edit`; nothing is random here."""
        batch, total = len(image), backbone.schedule.num_train_timesteps
        source_text, target_text = self.source_text(text_src, batch), text_tgt.expand(batch)
        x0, start = encode(backbone, image), round(self.strength * total) - 1
        if start < 0:
            return decode(backbone, x0, image)
        steps = share_of(min(self.steps, total), start, total)
        t = torch.full((batch,), start, device=x0.device)
        x_t = ddim_invert(
            backbone, x0, t, source_text, steps=steps, guidance=self.source_guidance
        )  # fmt: skip
        x0 = ddim(backbone, x_t, target_text, steps=steps, guidance=self.guidance, start=start)
        return decode(backbone, x0, image)
