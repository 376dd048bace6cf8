"""One edit step with PDS at the size of Stable Diffusion 1.5 and of SDXL.

    python benchmarks/gpu_edit_step.py [size=sd] [device=cuda] [repeats=10] [seconds=420]
                                       [json=<file>] [only=sd15,sdxl]

The backbones have the architectures of SD 1.5 and SDXL and random weights, made here: speed and
memory depend on neither download nor weights. Each row of the table is one setting: the UNet's
precision, torch.compile on it or not, and the source's predictions computed in every step or
taken from the loss's source bank (filled before the clock starts). It measures a step of editing
a picture as a latent, where nearly all is the UNet's (a batch of 4; of 2 with the bank). Rows of
neither also measure one of editing the figurine's NeRF, which renders a view at the model's own
size, encodes it, and carries the gradient into the field.

A row that fails says so, and the rest go on; none begins after `seconds`. Prints Markdown, and
with `json=` writes the rows after each. `size=tiny device=cpu` tries the script itself.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _timing import median_ms
from _words import choice, number, options, refuse, write_json

from pds_cli.backbones.embedded import quiet_loading
from pds_cli.backbones.stable_diffusion import StableDiffusion
from pds_cli.losses.pds import PDS
from pds_cli.representations.base import Representation
from pds_cli.representations.image import ImageRepresentation
from pds_cli.representations.nerf.representation import NeRF
from pds_cli.scenes.base import Scene
from pds_cli.scenes.toybox import ToyboxScene
from pds_cli.training.distillation import EditObjective
from pds_cli.views.view import View

# What the models' own config.json files say; heads are given as diffusers names them.
MODELS: dict[str, dict[str, Any]] = {
    "sd15": {
        "side": 512,
        "text": (768,),
        "vae": {"block_out_channels": (128, 256, 512, 512)},
        "unet": {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8},
    },
    "sdxl": {
        "side": 1024,
        "text": (768, 1280),
        "vae": {"block_out_channels": (128, 256, 512, 512), "scaling_factor": 0.13025},
        "unet": {
            "block_out_channels": (320, 640, 1280),
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "addition_time_embed_dim": 256,
        },
    },
    "tiny": {
        "side": 64,
        "text": (32,),
        "vae": {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 16},
        "unet": {"block_out_channels": (32, 64, 64, 64), "attention_head_dim": 8},
    },
    "tiny_xl": {
        "side": 64,
        "text": (32, 64),
        "vae": {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 16},
        "unet": {
            "block_out_channels": (32, 64, 64),
            "attention_head_dim": (1, 2, 2),
            "transformer_layers_per_block": (1, 1, 2),
            "addition_time_embed_dim": 8,
        },
    },
}
BANK = 4  # pairs of the source bank
GUIDANCE = 100.0


@dataclass(frozen=True)
class Setting:
    """What a row measures."""

    model: str
    dtype: str
    compiled: bool = False
    bank: bool = False


def settings(sd: str, xl: str) -> list[Setting]:
    """The rows; those that compile, which may take a minute or two each, are the last."""
    rows = [Setting(sd, "float32")]
    for model in (sd, xl):
        rows += [
            Setting(model, dtype, bank=bank)
            for dtype in ("float16", "bfloat16")
            for bank in (False, True)
        ]
    return rows + [
        Setting(model, dtype, compiled=True)
        for model, dtype in ((sd, "float16"), (xl, "float16"), (sd, "bfloat16"))
    ]


SIZES = {"sd": settings("sd15", "sdxl"), "tiny": settings("tiny", "tiny_xl")[:-2]}


# --- models with random weights ------------------------------------------------------------------


def write_pipeline(folder: Path, model: dict[str, Any], device: str) -> None:
    """A pipeline with random weights, in diffusers format and, on CUDA, half precision.

    Its text encoders have one layer: a run asks them twice, so they do not count.
    """
    from diffusers import PNDMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    quiet_loading()
    torch.manual_seed(0)
    xl = len(model["text"]) == 2
    tokenizer = _tokenizer(folder.parent / "tokenizer")
    with torch.device(device):  # a UNet of SDXL's size is initialised there in no time
        parts = {"vae": _vae(model), "unet": _unet(model)}
        encoders = [
            _text_encoder(width, len(tokenizer), i) for i, width in enumerate(model["text"])
        ]
    parts["text_encoder"], *second = encoders
    if device != "cpu":
        parts = {name: part.half() for name, part in parts.items()}
        second = [part.half() for part in second]
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )
    parts |= {"tokenizer": tokenizer, "scheduler": scheduler}
    if xl:
        pipeline: Any = StableDiffusionXLPipeline(
            **parts, text_encoder_2=second[0], tokenizer_2=tokenizer, add_watermarker=False
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.save_pretrained(folder)


def _vae(model: dict[str, Any]) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        layers_per_block=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=model["side"],
        force_upcast=True,  # as the public models have it: the autoencoder stays in float32
        **model["vae"],
    )


def _unet(model: dict[str, Any]) -> Any:
    from diffusers import UNet2DConditionModel as UNet

    choices = dict(model["unet"])
    if len(model["text"]) == 2:
        pooled, each = model["text"][1], choices["addition_time_embed_dim"]
        choices |= {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "projection_class_embeddings_input_dim": pooled + 6 * each,
        }
    return UNet(
        sample_size=model["side"] // 8,
        cross_attention_dim=sum(model["text"]),
        norm_num_groups=32,
        **choices,
    )


def _text_encoder(width: int, words: int, index: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=width,
        projection_dim=width,
        num_hidden_layers=1,
        num_attention_heads=4,
        bos_token_id=0,
        eos_token_id=1,
    )
    return (CLIPTextModelWithProjection if index else CLIPTextModel)(config)


def _tokenizer(folder: Path) -> Any:
    """A tokenizer of single letters."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *[f"{c}</w>" for c in letters]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )


# --- measuring -----------------------------------------------------------------------------------


class Picture(Scene):
    """One picture of noise."""

    source_prompt = "a man"

    def __init__(self, side: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._views = [View("picture", torch.rand(3, side, side, generator=generator))]

    @property
    def views(self) -> Sequence[View]:
        return self._views


class Bench:
    """A model's folder, and steps of edits with it on a device."""

    def __init__(self, folder: Path, side: int, device: str, repeats: int) -> None:
        self.folder, self.side, self.device, self.repeats = folder, side, device, repeats
        self.cuda = torch.device(device).type == "cuda"

    def measure(self, setting: Setting) -> dict[str, Any]:
        """Milliseconds a step and peak memory of both edits, and the seconds until the first."""
        backbone = StableDiffusion(str(self.folder), dtype=setting.dtype, device=self.device)
        if setting.compiled:
            backbone.unet = torch.compile(backbone.unet)
        found: dict[str, Any] = {}
        picture, figurine = Picture(self.side), ToyboxScene()
        latent = ImageRepresentation(picture, backbone, parametrisation="latent")
        found |= self._edit("latent", picture, latent, backbone, setting)
        if setting.bank or setting.compiled:
            return found
        nerf = NeRF(figurine, backbone, render_size=self.side)
        _empty(nerf)
        return found | self._edit("nerf", figurine, nerf, backbone, setting)

    def _edit(
        self,
        name: str,
        scene: Scene,
        representation: Representation,
        backbone: StableDiffusion,
        setting: Setting,
    ) -> dict[str, Any]:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        texts = [backbone.encode_prompt([p]) for p in ("a robot", "a man")]
        loss = PDS(guidance=GUIDANCE, source_bank=BANK if setting.bank else None)
        objective = EditObjective(scene, representation, backbone, loss, *texts)
        objective.begin()
        optimizer = torch.optim.Adam(objective.parameter_groups(), lr=1e-3)
        generator = torch.Generator().manual_seed(0)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            objective.loss(0, 0.0, generator)[0].backward()  # of one view, the first step's
            optimizer.step()
            if self.cuda:
                torch.cuda.synchronize()

        started = time.perf_counter()
        if setting.bank:  # in a long edit all steps but the first few find their pair in it
            bank = objective._bank(objective._pick(0))
            for pair in range(BANK):
                bank.source_prediction(pair)
        step()
        first = time.perf_counter() - started
        finite = all(bool(p.isfinite().all()) for p in representation.parameters())
        return {
            f"{name}_ms": median_ms(step, self.repeats, seconds=4),
            f"{name}_first_s": first,
            f"{name}_gb": torch.cuda.max_memory_allocated() / 1e9 if self.cuda else None,
            f"{name}_finite": finite,
        }


def _empty(nerf: NeRF) -> None:
    """Leaves 3 % of space occupied, about what a fitted figurine does; untrained, all of it is."""
    grid = nerf.occupancy.occupied
    places = torch.stack(
        torch.meshgrid(*[torch.linspace(-0.5, 0.5, side) for side in grid.shape], indexing="ij")
    )
    grid.copy_(places.norm(dim=0) < 0.2)


def row_of(bench: Bench, setting: Setting) -> dict[str, Any]:
    """A row: the setting, and what was measured or what went wrong."""
    started = time.perf_counter()
    found = asdict(setting)
    try:
        found |= bench.measure(setting)
    except Exception as error:  # a row that fails is a result; the others go on
        lines = str(error).strip().splitlines() or [""]
        found["error"] = f"{type(error).__name__}: {lines[0]}"[:300]
    if setting.compiled:
        torch.compiler.reset()
    gc.collect()
    if bench.cuda:
        torch.cuda.empty_cache()
    return found | {"seconds": time.perf_counter() - started}


HEAD = "| model | precision | compiled | source bank | latent, ms | peak GB | NeRF, ms | peak GB |"
HEAD += "\n|---|---|---|---|---|---|---|---|"


def markdown(row: dict[str, Any]) -> str:
    """A row as Markdown."""
    named = [row["model"], row["dtype"], *("yes" if row[k] else "no" for k in ("compiled", "bank"))]
    if "error" in row:
        return f"| {' | '.join(named)} | {row['error'].replace('|', '/')} | | | |"
    cells = []
    for name in ("latent", "nerf"):
        if f"{name}_ms" not in row:
            cells += ["–", "–"]
            continue
        note = "" if row[f"{name}_finite"] else " (not finite)"
        gigabytes = row[f"{name}_gb"]
        cells.append(f"{row[f'{name}_ms']:.0f}{note}")
        cells.append("–" if gigabytes is None else f"{gigabytes:.2f}")
    return f"| {' | '.join([*named, *cells])} |"


def main(argv: list[str]) -> None:
    """Measures and prints a Markdown table."""
    defaults = {"size": "sd", "device": "cuda", "repeats": "10", "seconds": "420", "json": ""}
    found = options(argv, {**defaults, "only": ""})
    repeats, seconds = number(found, "repeats"), number(found, "seconds")
    device, wanted = found["device"], SIZES[choice(found, "size", SIZES)]
    if found["only"]:
        for model in found["only"].split(","):
            choice({"only": model}, "only", MODELS)
        wanted = [s for s in wanted if s.model in found["only"].split(",")]
    if device == "cuda" and not torch.cuda.is_available():
        refuse("this benchmark needs a CUDA GPU; size=tiny device=cpu tries the script itself")
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    until, rows = time.perf_counter() + seconds, []
    print(f"{name}, torch {torch.__version__}\n\n{HEAD}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        benches: dict[str, Bench] = {}
        for setting in wanted:
            model = MODELS[setting.model]
            if time.perf_counter() > until:
                row = {**asdict(setting), "error": "not run: the time was up", "seconds": 0.0}
            else:
                if setting.model not in benches:
                    folder = Path(temporary) / setting.model / "model"
                    write_pipeline(folder, model, device)
                    benches[setting.model] = Bench(folder, model["side"], device, repeats)
                row = row_of(benches[setting.model], setting)
            print(markdown(row), flush=True)
            rows.append(row)
            if found["json"]:
                write_json(Path(found["json"]), {"device": name, "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
