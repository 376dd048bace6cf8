"""pds pretrain: makes an embedded backbone from captioned images, the toybox's by default."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pds_cli.options.job import run_folder
from pds_cli.runs import layout

HELP = "train an embedded backbone: on toybox renders, or captioned images of your own"
CONFIG = "pretrain"


def main(cfg: DictConfig) -> Path:
    """Runs the recipe; returns the backbone folder."""
    from pds_cli.backbones.base import resolve_device
    from pds_cli.backbones.precision import resolve_precision
    from pds_cli.instantiate import instantiate
    from pds_cli.pages.report import write_report
    from pds_cli.pretraining.recipe import pretrain
    from pds_cli.runs.folder import RunFolder, environment
    from pds_cli.runs.loggers import begin_logger
    from pds_cli.runs.settings import fingerprint, resumed

    run = RunFolder(run_folder())
    if cfg.resume:
        cfg = resumed(CONFIG, cfg, cfg, run)
    device = resolve_device(cfg.device)
    cfg.precision = resolve_precision(cfg.precision, device)  # kept: a resumed run has the same
    logger = instantiate(
        "logger",
        cfg.logger,
        folder=run.path,
        config=OmegaConf.to_container(cfg, resolve=True),
        allow_modules=list(cfg.allow_modules),
    )

    def begin() -> None:
        if cfg.resume:
            run.go_on()
        else:
            run.begin(cfg, fingerprint(cfg), environment=environment(str(device), cfg.seed))
        begin_logger(logger)

    status, seconds, scores = pretrain(cfg, run, [logger], begin)
    logger.close()
    summary = {"verb": "pretrain", "seconds": seconds, "status": status, "metrics": scores}
    run.write_json(layout.SUMMARY, {**summary, "stages": list(cfg.stages)})
    write_report(run.path)
    if status == "stopped":
        print(f"stopped; go on with: pds pretrain resume={run.path}")
        raise KeyboardInterrupt  # tells scripts that there is no backbone yet
    for name, value in scores.items():
        print(f"{name}: {value:.4f}")
    use = "editor=instruct_pix2pix editor" if cfg.data.pairs else "backbone"
    print(f"backbone: {cfg.into} (use it with {use}.model={cfg.into})")
    return Path(cfg.into)
