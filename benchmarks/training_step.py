"""A step of `pds pretrain`: bfloat16, with attention as plain products and fused, against float32.

    python benchmarks/training_step.py [model=toybox] [batch=32] [repeats=5]

Forward and backward pass of UNet and text encoder; the fused form is PyTorch's scaled dot product
attention. Prints milliseconds (median), the ratio to float32, and what `precision=auto` takes here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from _timing import median_ms

from pds_cli.backbones.embedded import EmbeddedBackbone, encode_text
from pds_cli.backbones.precision import mixed, prepare, resolve_precision


def step(backbone: EmbeddedBackbone, batch: int, precision: str) -> Callable[[], None]:
    """One forward and backward pass at random latents, timesteps and one caption."""
    x_t = torch.randn(batch, *backbone.latent_shape, device=backbone.device)
    x_t = x_t.contiguous(memory_format=torch.channels_last)
    t = torch.randint(backbone.schedule.num_train_timesteps, (batch,), device=backbone.device)
    ids = backbone.token_ids(["a photo of a man raising his arms"] * batch)

    def work() -> None:
        with mixed(precision, backbone.device):
            text = encode_text(backbone.text_encoder, ids)
            found = backbone.unet(x_t, t, text["tokens"], class_labels=text["pooled"]).sample
        found.float().square().mean().backward()
        backbone.zero_grad(set_to_none=True)

    return work


def main(argv: list[str]) -> None:
    """Measures and prints a Markdown table."""
    defaults = {"model": "toybox", "batch": "32", "repeats": "5"}
    options = {**defaults, **dict(word.split("=", 1) for word in argv)}
    backbone = EmbeddedBackbone(options["model"])
    backbone.requires_grad_(True).train()
    backbone.unet.to(memory_format=torch.channels_last)
    batch, repeats, device = int(options["batch"]), int(options["repeats"]), backbone.device
    single = median_ms(step(backbone, batch, "float32"), repeats)
    fused = median_ms(step(backbone, batch, "bfloat16"), repeats)
    prepare("bfloat16", device, [backbone.unet, backbone.text_encoder])
    plain = median_ms(step(backbone, batch, "bfloat16"), repeats)
    print(f"{torch.get_num_threads()} threads, {device}; precision=auto takes ", end="")
    print(resolve_precision("auto", device) + "\n")
    print("| precision | attention | ms | ratio |\n|---|---|---|---|")
    for words, found in (
        ("float32 | fused", single),
        ("bfloat16 | fused", fused),
        ("bfloat16 | plain", plain),
    ):
        print(f"| {words} | {found:.0f} | {single / found:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
