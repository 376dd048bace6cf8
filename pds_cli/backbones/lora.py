"""LoRA on a backbone's UNet, through peft."""

from __future__ import annotations

from typing import Any

from pds_cli.backbones.base import Backbone

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def unet_of(backbone: Backbone) -> Any:
    """The backbone's diffusers UNet, which takes adapters; None where it has none."""
    unet = getattr(backbone, "unet", None)
    return unet if hasattr(unet, "add_adapter") else None


def add_lora(unet: Any, name: str, rank: int, initial: bool | str = True) -> None:
    """Adds an adapter to the attention layers that changes nothing yet; it is switched on.

    Args:
        initial: peft's `init_lora_weights`.

    Source: Hu et al., LoRA, ICLR 2022, arXiv 2106.09685.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=ATTENTION,
        init_lora_weights=initial,  # type: ignore[arg-type]
    )
    unet.add_adapter(config, name)
