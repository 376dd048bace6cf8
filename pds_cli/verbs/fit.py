"""pds fit scene=… : reconstructs a scene from its posed images, and measures the result.

Writes renders of held-out views, their PSNR, SSIM and LPIPS, and `exports/result.safetensors`,
which `pds render` and `pds export` read. The fit is kept in `representation.fit.cache` too, where
`pds edit` of the same scene and settings finds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from pds_cli.errors import UserError
from pds_cli.options.job import choice, run_folder
from pds_cli.runs import layout

if TYPE_CHECKING:
    from pds_cli.representations.base import Representation
    from pds_cli.runs.folder import RunFolder
    from pds_cli.scenes.base import Scene

HELP = "reconstruct a 3D scene from posed images"
CONFIG = "fit"
NO_FIT = "this representation needs no fit; pds fit is for 3D scenes: representation=nerf or splats"


def main(cfg: DictConfig) -> Path:
    """Runs the fit in its run folder; returns the path of the report."""
    import torch

    from pds_cli.instantiate import instantiate, resolve_config
    from pds_cli.pages.report import write_report
    from pds_cli.representations.spatial import Place
    from pds_cli.runs.folder import RunFolder, environment
    from pds_cli.runs.settings import fingerprint, resumed
    from pds_cli.training.fit import ensure_fit

    run = RunFolder(run_folder())
    settings = resolve_config(cfg)
    cfg = resumed(CONFIG, cfg, settings, run) if cfg.resume else settings
    allow = list(cfg.allow_modules)
    place = Place(cfg.device, otherwise=NO_FIT)
    torch.manual_seed(cfg.seed)  # the first weights
    scene = instantiate("scene", cfg.scene, allow_modules=allow)
    representation = instantiate(
        "representation", cfg.representation, scene, place, allow_modules=allow
    )
    if representation.fit_settings is None:
        raise UserError(NO_FIT)
    if cfg.resume:
        run.go_on()
    else:
        facts = environment(str(place.device), cfg.seed)
        run.begin(
            cfg, fingerprint(cfg), environment={**facts, "choices": {"scene": choice("scene")}}
        )
    done = ensure_fit(
        scene,
        representation,
        run,
        cfg.seed,
        checkpoint_every=cfg.checkpoint_every,
        render_every=cfg.render_every,
    )
    if done is None:
        print(f"stopped; go on with: pds fit resume={run.path}")
        raise KeyboardInterrupt
    _finish(cfg, run, scene, representation)
    report = write_report(run.path)
    print(f"report: {report}")
    return report


def _finish(cfg: DictConfig, run: RunFolder, scene: Scene, representation: Representation) -> None:
    """Measures held-out views, and writes renders, exports and the summary."""
    from pds_cli.results.outcome import save_views, seconds_of
    from pds_cli.runs.ownership import choices_of
    from pds_cli.training.fit import measure

    views = scene.eval_views or scene.views
    metrics = measure(representation, views)
    save_views(run, representation, views, labels=("photo", "fit"))
    representation.export(run.path / layout.EXPORTS)
    seconds = seconds_of(run)
    run.write_json(
        layout.SUMMARY,
        {
            "verb": "fit",
            # Of the command line that started the run.
            "scene": str(choices_of(run.path).get("scene", choice("scene"))),
            "source_prompt": cfg.source or "",
            "seconds": seconds,
            "steps": representation.fit_settings.steps if representation.fit_settings else 0,
            "metrics": metrics,
            "held_out_views": len(scene.eval_views),
            "status": "done",
        },
    )
    shown = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
    print(f"{len(views)} {'held-out ' if scene.eval_views else ''}views: {shown}")
