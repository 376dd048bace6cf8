"""One distillation step: all branches in one backbone call, against one call a branch.

    python benchmarks/distillation_step.py [model=toybox] [repeats=10]

Prints milliseconds a step (median) and the ratio, for SDS, DDS and PDS at batch 1, 2 and 8.
"""

from __future__ import annotations

import sys

import torch
from _timing import median_ms
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.losses.dds import DDS
from pds_cli.losses.pds import PDS
from pds_cli.losses.sds import SDS


@torch.no_grad()
def one_call_a_branch(backbone: Backbone, x_t: Tensor, t: Tensor, texts: list[Text]) -> None:
    """The alternative: null and conditional prediction of every image on their own."""
    for text in texts:
        backbone.predict_eps(x_t, t, text.cond)
        backbone.predict_eps(x_t, t, text.null)


def main(argv: list[str]) -> None:
    """Measures and prints a Markdown table."""
    options = {"model": "toybox", "repeats": "10", **dict(word.split("=", 1) for word in argv)}
    repeats = int(options["repeats"])
    backbone = EmbeddedBackbone(options["model"])
    target = backbone.encode_prompt(["a photo of a man raising his arms"])
    source = backbone.encode_prompt(["a photo of a man"])
    print(f"{torch.get_num_threads()} threads, {backbone.device}\n")
    print("| loss | batch | one call a branch, ms | one batched call, ms | ratio |")
    print("|---|---|---|---|---|")
    for batch in (1, 2, 8):
        image = torch.rand(batch, 3, backbone.resolution, backbone.resolution)
        x0 = backbone.encode_image(image.to(backbone.device))
        t = torch.full((batch,), 500, device=x0.device)
        for name, loss in (("sds", SDS), ("dds", DDS), ("pds", PDS)):
            texts = [
                text.expand(batch) for text in ([target] if name == "sds" else [target, source])
            ]
            step = loss(guidance=7.5)
            split = median_ms(lambda: one_call_a_branch(backbone, x0, t, texts), repeats)  # noqa: B023
            joint = median_ms(lambda: step(backbone, x0, x0, target, source), repeats)  # noqa: B023
            print(f"| {name} | {batch} | {split:.1f} | {joint:.1f} | {split / joint:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
