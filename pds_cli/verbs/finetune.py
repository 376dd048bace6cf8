"""pds finetune images=<folder> prompt="a photo of sks man" : DreamBooth.

The backbone learns the subject of a few pictures under a word of its own (`sks` here), and is
written as a folder, for edits whose prompts carry the word:

    pds edit … backbone.model=<folder> prompt="a photo of sks man wearing a hat"
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from pds_cli.errors import UserError
from pds_cli.options.job import run_folder
from pds_cli.runs import layout

if TYPE_CHECKING:
    from torch import Tensor

    from pds_cli.runs.folder import RunFolder

HELP = "teach a backbone a subject from a few pictures (DreamBooth, LoRA or full)"
CONFIG = "finetune"
LR = {"lora": 1e-4, "full": 5e-6}


def main(cfg: DictConfig) -> Path:
    """Trains, and writes the backbone; returns its folder."""
    from pds_cli.backbones.base import resolve_device
    from pds_cli.backbones.precision import resolve_precision
    from pds_cli.instantiate import resolve_config
    from pds_cli.pretraining.components import check_backbone_target
    from pds_cli.runs.folder import RunFolder, environment
    from pds_cli.runs.settings import fingerprint, resumed

    run = RunFolder(run_folder())
    for key in ("images", "prompt"):
        if cfg.resume and OmegaConf.is_missing(cfg, key):
            cfg[key] = ""  # the run that goes on has one
    settings = resolve_config(cfg)
    cfg = resumed(CONFIG, cfg, settings, run) if cfg.resume else settings
    device = resolve_device(cfg.device)
    cfg.precision = resolve_precision(cfg.precision, device)  # kept: a resumed run has the same
    if cfg.into:
        check_backbone_target(Path(cfg.into), replaces=bool(cfg.overwrite or cfg.resume))
    backbone = _backbone(cfg)
    pictures = _pictures(cfg, backbone)
    if cfg.resume:
        run.go_on()
    else:
        facts = environment(str(backbone.device), cfg.seed)
        run.begin(cfg, fingerprint(cfg), environment=facts)
    return _train(cfg, run, backbone, pictures)


def _backbone(cfg: DictConfig) -> Any:
    import torch

    from pds_cli.instantiate import instantiate

    torch.manual_seed(cfg.seed)  # the first weights of a LoRA
    return instantiate("backbone", cfg.backbone, allow_modules=list(cfg.allow_modules))


def _train(cfg: DictConfig, run: RunFolder, backbone: Any, pictures: Tensor) -> Path:
    import torch

    from pds_cli.options.recommended import recommended_guidance
    from pds_cli.pictures.sheets import save_image
    from pds_cli.pretraining.dreambooth import preview_sheet, save_backbone, trainable_unet
    from pds_cli.runs.settings import fingerprint
    from pds_cli.training.trainer import Stage, Trainer

    guidance = recommended_guidance(cfg.backbone)
    data, words = _data(cfg, run, backbone, pictures, guidance)
    unet = trainable_unet(backbone, cfg.method, cfg.rank)
    lr = LR[cfg.method] if cfg.lr is None else cfg.lr
    stage = Stage(
        "finetune",
        _objective(cfg, backbone, unet, data),
        steps=cfg.steps,
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=lr, weight_decay=0.01),
        warmup=cfg.warmup,
        clip_norm=1.0,
    )
    trainer = Trainer(
        [stage], run, seed=cfg.seed, checkpoint_every=cfg.checkpoint_every,
        fingerprint=fingerprint(cfg),
    )  # fmt: skip
    if cfg.resume and run.checkpoint.is_file():
        trainer.resume()
    elif cfg.resume:
        print("pds: this run has no checkpoint yet: it begins again", file=sys.stderr)
        run.restart()
    if trainer.run() == "stopped":
        print(f"stopped at step {trainer.step}; go on with: pds finetune resume={run.path}")
        raise KeyboardInterrupt
    folder = Path(cfg.into) if cfg.into else run.path / "backbone"
    facts = {
        "verb": "finetune", "prompt": cfg.prompt, "class_prompt": cfg.class_prompt,
        "new_words": words, "method": cfg.method, "steps": trainer.total_steps,
        "seconds": trainer.seconds,
    }  # fmt: skip
    save_backbone(backbone, folder, json.dumps(facts, indent=2) + "\n")
    prompts = [cfg.prompt, *([cfg.class_prompt] if cfg.class_prompt else [])]
    save_image(preview_sheet(backbone, prompts, 4, guidance, cfg.seed), run.path / "samples.png")
    run.write_json(layout.SUMMARY, {**facts, "backbone": str(folder), "status": "done"})
    print(f"samples: {run.path / 'samples.png'}")
    print(f"backbone: {folder} (use it with backbone.model={folder})")
    return folder


def _pictures(cfg: DictConfig, backbone: Any) -> Tensor:
    """The subject's pictures [N,3,H,W], read before anything is written."""
    from pds_cli.pretraining.dreambooth import read_pictures

    if cfg.class_prompt is not None and cfg.class_prompt == cfg.prompt:
        raise UserError("prompt must say more than class_prompt: a word that is the subject's own")
    return read_pictures(cfg.images, backbone.resolution).to(backbone.device)


def _data(
    cfg: DictConfig, run: RunFolder, backbone: Any, pictures: Tensor, guidance: float
) -> tuple[dict[str, Any], list[str]]:
    """Latents and encoded prompts, of the subject and of its class, and what words are new."""
    import torch

    from pds_cli.pictures.sheets import contact_sheet, save_image
    from pds_cli.pretraining.dreambooth import add_words, class_latents

    # Samples of the class come before the new word is read and before anything is trained.
    data: dict[str, Any] = {}
    if cfg.class_prompt:
        latents, images = class_latents(
            backbone, cfg.class_prompt, cfg.class_images, guidance=guidance, seed=cfg.seed
        )
        save_image(contact_sheet(list(images[:32]), 8), run.path / "class.png")
        data |= {"x0_class": latents, "text_class": backbone.encode_prompt([cfg.class_prompt])}
    words = add_words(backbone, cfg.prompt)
    with torch.no_grad():
        data |= {
            "x0": backbone.encode_image(pictures),
            "text": backbone.encode_prompt([cfg.prompt]),
        }
    return data, words


def _objective(cfg: DictConfig, backbone: Any, unet: Any, data: dict[str, Any]) -> Any:
    from pds_cli.pretraining.dreambooth import DreamBoothObjective

    if cfg.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        unet.train()
    return DreamBoothObjective(
        backbone,
        unet,
        **data,
        prior_weight=cfg.prior_weight,
        batch_size=cfg.batch_size,
        precision=cfg.precision,
    )
