"""One step of editing the figurine's NeRF with PDS, at the size of Stable Diffusion 1.5.

    python benchmarks/gpu_edit_step.py [size=sd15] [device=cuda] [repeats=20]

The backbone has the architecture of SD 1.5 and random weights, made here: speed and memory depend
on neither download nor weights. A step renders one view at 512×512, encodes it, asks the UNet for
source and target with and without text (a batch of 4), and carries the gradient into the field.
Prints milliseconds a step (median) and peak memory, in float32 and bfloat16, with and without
torch.compile on the UNet. `size=tiny device=cpu` tries the script itself.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _timing import median_ms

from pds_cli.backbones.stable_diffusion import StableDiffusion
from pds_cli.losses.pds import PDS
from pds_cli.representations.nerf.representation import NeRF
from pds_cli.scenes.toybox import ToyboxScene
from pds_cli.training.distillation import EditObjective

SIZES: dict[str, dict[str, Any]] = {
    "sd15": {"unet": (320, 640, 1280, 1280), "vae": (128, 256, 512, 512), "text": 768, "side": 512},
    "tiny": {"unet": (32, 64, 64, 64), "vae": (16, 32, 32, 32), "text": 32, "side": 64},
}


def write_pipeline(folder: Path, size: dict[str, Any]) -> None:
    """A Stable Diffusion 1.5 pipeline with random weights, in diffusers format.

    Its text encoder has one layer: a run asks it twice, so it does not count.
    """
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = _tokenizer(folder.parent / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size["text"],
        intermediate_size=size["text"],
        num_hidden_layers=1,
        num_attention_heads=4,
        bos_token_id=0,
        eos_token_id=1,
    )
    vae = AutoencoderKL(
        block_out_channels=size["vae"],
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=min(32, size["vae"][0]),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=size["side"],
        force_upcast=False,
    )
    unet = UNet(
        sample_size=size["side"] // 8,
        block_out_channels=size["unet"],
        cross_attention_dim=size["text"],
        attention_head_dim=8,
        norm_num_groups=32,
    )
    StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def _tokenizer(folder: Path) -> Any:
    """A tokenizer of single letters."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *[f"{c}</w>" for c in letters]]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )


def measure(folder: Path, side: int, dtype: str, compiled: bool, device: str, repeats: int) -> str:
    """A row of the table."""
    backbone = StableDiffusion(str(folder), dtype=dtype, device=device)
    if compiled:
        backbone.unet = torch.compile(backbone.unet)
    scene = ToyboxScene(count=8, held_out=1)
    nerf = NeRF(scene, backbone, render_size=side)
    texts = [backbone.encode_prompt([p]) for p in ("a robot", "a man")]
    objective = EditObjective(scene, nerf, backbone, PDS(guidance=100.0), texts[0], texts[1])
    objective.begin()
    optimizer = torch.optim.Adam(objective.parameter_groups(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    cuda = torch.device(device).type == "cuda"

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        objective.loss(0, 0.0, generator)[0].backward()
        optimizer.step()
        if cuda:
            torch.cuda.synchronize()

    step()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    ms = median_ms(step, repeats)
    peak = f"{torch.cuda.max_memory_allocated() / 1e9:.2f}" if cuda else "–"
    return f"| {dtype} | {'yes' if compiled else 'no'} | {ms:.0f} | {peak} |"


def main(argv: list[str]) -> None:
    """Measures and prints a Markdown table."""
    options = {"size": "sd15", "device": "cuda", "repeats": "20"}
    options |= dict(word.split("=", 1) for word in argv)
    if options["device"] == "cuda" and not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA GPU; size=tiny device=cpu tries the script itself")
    size = SIZES[options["size"]]
    name = torch.cuda.get_device_name() if options["device"] == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, renders of {size['side']}×{size['side']}\n")
    print("| precision | torch.compile | ms a step | peak GB |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_pipeline(folder, size)
        for dtype in ("float32", "bfloat16"):
            for compiled in (False, True):
                row = measure(
                    folder,
                    size["side"],
                    dtype,
                    compiled,
                    options["device"],
                    int(options["repeats"]),
                )
                print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
