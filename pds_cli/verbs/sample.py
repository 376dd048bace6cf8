"""pds sample prompt=… : draws images, which is how to find out what a backbone knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from pds_cli.errors import UserError
from pds_cli.options.job import run_folder
from pds_cli.options.recommended import recommended_guidance
from pds_cli.runs import layout

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

HELP = "draw images from a backbone for a prompt"
CONFIG = "sample"
GUIDANCE = 7.5  # where the backbone recommends nothing


def main(cfg: DictConfig) -> Path:
    """Writes `samples/<number>.png`, `sheet.png` and `summary.json`; returns the sheet's path."""
    from pds_cli.backbones.base import resolve_device, warn_unknown_words
    from pds_cli.backbones.sampling import sample
    from pds_cli.instantiate import instantiate
    from pds_cli.progress import Progress

    folder = run_folder()
    resolve_device(cfg.device)  # a device that is not there is said before anything is loaded
    backbone = instantiate("backbone", cfg.backbone).eval()
    most = backbone.schedule.num_train_timesteps
    if cfg.steps > most:
        raise UserError(f"steps={cfg.steps} is more than the {most} timesteps of this backbone.")
    warn_unknown_words(backbone, cfg.prompt)
    guidance = cfg.guidance if cfg.guidance is not None else recommended_guidance(cfg.backbone)
    total = cfg.steps * -(-cfg.n // cfg.batch_size)
    with Progress("sample", total) as progress:
        images = sample(
            backbone,
            cfg.prompt,
            cfg.n,
            negative=cfg.negative,
            steps=cfg.steps,
            guidance=guidance,
            seed=cfg.seed,
            batch_size=cfg.batch_size,
            on_step=progress.update,
        )
    sheet = _write(folder, images, cfg, guidance)
    print(f"{cfg.n} images, guidance {guidance:g}: {sheet}")
    return sheet


def _write(folder: Path, images: Tensor, cfg: DictConfig, guidance: float) -> Path:
    from pds_cli.pictures.sheets import contact_sheet, save_image
    from pds_cli.runs.folder import RunFolder

    if images.shape[1] != 3:
        raise UserError("this backbone draws no images: choose another with backbone=<name>.")
    run = RunFolder(folder)
    run.begin(cfg, keep=False)
    for number, image in enumerate(images):
        save_image(image, folder / "samples" / f"{number:03d}.png")
    columns = min(len(images), 8)
    sheet = save_image(contact_sheet(list(images), columns), folder / "sheet.png")
    summary: dict[str, Any] = {
        "verb": "sample",
        "prompt": cfg.prompt,
        "guidance": guidance,
        "steps": cfg.steps,
        "seed": cfg.seed,
        "status": "done",
    }
    run.write_json(layout.SUMMARY, summary)
    return sheet
