"""DDIM inversion: the noise that leads to an image, followed back under another prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.editors.base import Editor, checked, decode, encode
from pds_cli.errors import UserError
from pds_cli.sampling import ddim, ddim_invert


class DDIMInversion(Editor):
    """Inverts x_0 under the source prompt to t = strength · T, and samples under the target's.

    With one prompt, one ω and many steps the image comes back.

    Args:
        steps: network calls each way for strength 1; less strength takes its share.
        guidance: ω of the target prompt, on the way back.
        source_guidance: ω of the source prompt; above 1 the inversion gets unstable.
        strength: how far to go, in [0, 1]; 0 changes nothing.

    Raises:
        UserError: an option out of its range.

    Source: Song et al., DDIM, ICLR 2021, section 4.3; as an editing baseline, Hertz et al.,
    Prompt-to-Prompt, arXiv 2208.01626, section 4.
    """

    def __init__(
        self,
        *,
        steps: int = 50,
        guidance: float = 7.5,
        source_guidance: float = 1.0,
        strength: float = 1.0,
    ) -> None:
        checked(
            "editor", steps=steps, guidance=guidance, source_guidance=source_guidance,
            strength=strength,
        )  # fmt: skip
        self.steps, self.strength = steps, strength
        self.guidance, self.source_guidance = float(guidance), float(source_guidance)

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
        if text_src is None:
            raise UserError("editor=ddim_inversion needs a source prompt: give source=…")
        x0, batch = encode(backbone, image), len(image)
        start = round(self.strength * backbone.num_train_timesteps) - 1
        if start < 0:
            return decode(backbone, x0, image)
        share = max(1, round(self.steps * (start + 1) / backbone.num_train_timesteps))
        steps = min(share, start + 1)
        t = torch.full((batch,), start, device=x0.device)
        source_text, target_text = text_src.expand(batch), text_tgt.expand(batch)
        x_t = ddim_invert(
            backbone, x0, t, source_text, steps=steps, guidance=self.source_guidance
        )  # fmt: skip
        x0 = ddim(backbone, x_t, target_text, steps=steps, guidance=self.guidance, start=start)
        return decode(backbone, x0, image)
