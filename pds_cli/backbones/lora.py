"""LoRA on a backbone's UNet, through peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pds_cli.errors import UserError

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def add_lora(
    unet: Any,
    name: str,
    rank: int,
    initial: bool | str = True,
    layers: Sequence[str] = ATTENTION,
) -> None:
    """Adds an adapter to layers that changes nothing yet; it is switched on.

    It has single precision beside weights in half: Adam's steps would be lost in those, or NaN.

    Args:
        initial: peft's `init_lora_weights`.
        layers: linear layers and convolutions, by their names or the ends of these.

    Raises:
        UserError: a rank above the width of the layers, at which a LoRA would save nothing.

    Source: Hu et al., LoRA, ICLR 2022, arXiv 2106.09685.
    """
    from peft import LoraConfig

    ends = tuple(f".{layer}.weight" for layer in layers)
    weights = [p.flatten(1) for key, p in unet.named_parameters() if f".{key}".endswith(ends)]
    width = max((min(weight.shape) for weight in weights), default=rank)
    if rank > width:
        raise UserError(f"rank={rank} is more than the {width} that the layers of a LoRA are wide")
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(layers),
        init_lora_weights=initial,  # type: ignore[arg-type]
    )
    unet.add_adapter(config, name)
    for parameter in adapter_parameters(unet, name).values():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()


def adapter_parameters(unet: Any, name: str) -> dict[str, torch.nn.Parameter]:
    """The parameters of an adapter by their names in the UNet."""
    return {key: p for key, p in unet.named_parameters() if f".{name}." in key}
