"""pds edit scene=… prompt=… : moves a scene's parameters until its renders show the prompt."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from pds_cli.errors import UserError
from pds_cli.files import write_text
from pds_cli.interrupts import raise_if_seen
from pds_cli.options.job import choice, overrides, run_folder
from pds_cli.runs import layout
from pds_cli.training.chains import started
from pds_cli.training.settings import WHOLE, chosen, resolved, settle_mask

if TYPE_CHECKING:
    from pds_cli.backbones.base import Backbone
    from pds_cli.representations.base import Representation
    from pds_cli.runs.folder import RunFolder
    from pds_cli.scenes.base import Scene
    from pds_cli.training.trainer import Stage, Trainer

HELP = "edit what a scene shows, by text, and keep the rest"
CONFIG = "edit"


def main(cfg: DictConfig) -> Path:
    """Runs an edit in its run folder; returns the path of the report."""
    from pds_cli.runs.folder import RunFolder, environment
    from pds_cli.runs.settings import fingerprint, resumed
    from pds_cli.training.locating import unlocated
    from pds_cli.training.prompts import idle
    from pds_cli.training.remarks import remarks

    run = RunFolder(run_folder())
    asked, settings = cfg, resolved(cfg)
    cfg = resumed(CONFIG, cfg, settings, run) if cfg.resume else settings
    edit = prepare(cfg, run)
    if cfg.resume:
        run.go_on(cfg, fingerprint(cfg))
    else:
        objectives = [stage.objective for stage in edit.trainer.stages]
        built = (objectives, edit.representation)
        words = [*idle(cfg, edit.view_words, edit.view_angles), *unlocated(cfg.mask)]
        for remark in remarks(asked, overrides(), choice, *built, words):
            print(f"pds: {remark}", file=sys.stderr)
        facts = environment(str(edit.backbone.device), cfg.seed)
        run.begin(cfg, fingerprint(cfg), environment={**facts, "choices": chosen(init=cfg.init)})
    try:
        return _edit(cfg, run, edit)
    except Exception as error:
        raise_if_seen()  # what a signal broke is no failure
        with suppress(OSError, UserError):  # a full disk must not hide what went wrong
            write_text(run.path / layout.ERROR, f"{error}\n")
        raise


def after_sweep(folder: Path, jobs: list[Path]) -> None:
    """Writes the sweep's comparison page, of the jobs that got as far as to write something."""
    from pds_cli.pages.comparison import write_comparison
    from pds_cli.runs.record import is_run

    print(f"comparison: {write_comparison([job for job in jobs if is_run(job)], folder)}")


# --- the edit ------------------------------------------------------------------------------------


@dataclass
class Edit:
    """What an edit works on, built and checked, before anything is written."""

    scene: Scene
    backbone: Backbone
    representation: Representation
    trainer: Trainer
    logger: Any
    view_words: Mapping[str, str]  # what prompts say of where views look from
    view_angles: Mapping[str, tuple[float, float]]  # and what the backbone is told of it
    fitted: str | None = None  # the file or folder that a fit was taken from


def prepare(cfg: DictConfig, run: RunFolder) -> Edit:
    """Builds everything, cheap things first, so that what can be refused is refused now.

    Raises:
        UserError: whatever is wrong with the settings, or missing.
    """
    import torch

    from pds_cli.backbones.base import resolve_device, warn_unknown_words
    from pds_cli.instantiate import instantiate
    from pds_cli.scenes.limits import read_limits
    from pds_cli.training.locating import AUTO, can_be_located
    from pds_cli.training.prompts import angles_of_views, words_of_views
    from pds_cli.training.stages import Parts, edit_stages
    from pds_cli.training.trainer import check_optimizer

    allow = list(cfg.allow_modules)
    resolve_device(cfg.device)
    plain = OmegaConf.to_container(cfg, resolve=True)
    logger = instantiate("logger", cfg.logger, folder=run.path, config=plain, allow_modules=allow)
    check_optimizer(cfg.optimizer, cfg.lr, allow)
    torch.manual_seed(cfg.seed)  # for parts that start from noise
    scene = instantiate("scene", cfg.scene, allow_modules=allow)
    backbone = instantiate("backbone", cfg.backbone, allow_modules=allow)
    view_words = words_of_views(cfg.view_prompts, scene)
    view_angles = angles_of_views(cfg.view_prompts, scene, backbone)
    said = (cfg.prompt, scene.source_prompt, cfg.suffix, *dict.fromkeys(view_words.values()))
    warn_unknown_words(backbone, *said)
    if note := scene.ground_truth_note(cfg.prompt + cfg.suffix):
        print(f"pds: {note}", file=sys.stderr)
    representation = instantiate(
        "representation", cfg.representation, scene, backbone, allow_modules=allow
    )
    mask = None if cfg.mask in (AUTO, WHOLE) else cfg.mask  # auto: the stages find it
    scene.limits = read_limits(mask, cfg.mask_box, scene)  # of views as they are drawn
    scene, fitted = started(cfg, scene, representation)
    settle_mask(cfg, can_be_located(scene))
    representation.hold_source()
    stages = edit_stages(cfg, Parts(scene, representation, backbone, view_words, view_angles))
    trainer = _trainer(cfg, run, stages, logger)
    if cfg.resume and run.checkpoint.is_file():
        trainer.resume(rewind=False)  # a checkpoint that does not fit is refused before the fit
    told = (view_words, view_angles)
    return Edit(scene, backbone, representation, trainer, logger, *told, fitted)


def _edit(cfg: DictConfig, run: RunFolder, edit: Edit) -> Path:
    from pds_cli.pages.report import counted, write_report
    from pds_cli.runs.loggers import begin_logger
    from pds_cli.training.locating import AUTO
    from pds_cli.training.prompts import spread

    if edit.view_words:
        print(f"view prompts: {counted(spread(edit.view_words))}")
    if cfg.mask == AUTO:
        print("mask: auto, where the prompts differ; mask=none lets everything change")
    begin_logger(edit.logger)
    _fit(cfg, run, edit)
    trainer = edit.trainer
    if cfg.resume and run.checkpoint.is_file():
        if edit.representation.fit_settings is not None:
            trainer.resume()  # again, as the fit came between
        else:
            trainer.rewind()
    elif cfg.resume:
        print("pds: this run has no checkpoint yet: it begins again", file=sys.stderr)
        run.restart()
    status = trainer.run()
    _finish(cfg, run, edit, status)
    edit.logger.close()
    report = write_report(run.path)
    print(f"report: {report}")
    if status == "stopped":
        print(f"stopped at step {trainer.step}; go on with: pds edit resume={run.path}")
        raise KeyboardInterrupt  # ends a sweep, and tells scripts that this is not the result
    return report


def _fit(cfg: DictConfig, run: RunFolder, edit: Edit) -> None:
    """Fits the representation to the scene first, where it needs that and is not taken over."""
    from pds_cli.runs.folder import RunFolder
    from pds_cli.training.fit import ensure_fit

    representation = edit.representation
    if representation.fit_settings is None:
        return
    if edit.fitted is None:
        every = {"checkpoint_every": cfg.checkpoint_every, "render_every": 0}
        folder = RunFolder(run.path / layout.FIT)
        place = ensure_fit(edit.scene, representation, folder, cfg.seed, **every)
        if place is None:
            print(f"stopped during the fit; go on with: pds edit resume={run.path}")
            raise KeyboardInterrupt
        edit.fitted = str(place)
        representation.hold_source()
    print(f"fit: {edit.fitted}")
    if not (cfg.resume and (run.path / layout.TURNTABLE_BEFORE).is_file()):
        _film(cfg, run, representation, layout.TURNTABLE_BEFORE)


def _film(cfg: DictConfig, run: RunFolder, representation: Representation, name: Path) -> None:
    """A turntable among the run's exports, of what is in 3D."""
    from pds_cli.results.path_rendering import film

    film((run.path / name).with_suffix(""), representation, cfg.turntable)


def _trainer(cfg: DictConfig, run: RunFolder, stages: list[Stage], logger: Any) -> Trainer:
    from pds_cli.runs.settings import fingerprint
    from pds_cli.training.trainer import Trainer

    return Trainer(
        stages,
        run,
        seed=cfg.seed,
        checkpoint_every=cfg.checkpoint_every,
        render_every=cfg.render_every,
        fingerprint=fingerprint(cfg),
        earlier=_earlier(cfg, run),
        loggers=[logger],
    )


def _earlier(cfg: DictConfig, run: RunFolder) -> list[str]:
    """Fingerprints of this run when it was to take fewer steps; says what more steps mean."""
    from pds_cli.runs.ownership import card_of
    from pds_cli.runs.settings import fingerprint

    card = card_of(run.path) if cfg.resume else None
    if card is None:
        return []
    now, found = fingerprint(cfg), [*card.get("fingerprints", []), card.get("fingerprint")]
    if card.get("fingerprint") != now:
        print(
            f"pds: the run goes on to {cfg.steps} steps; as its step size and its timesteps do not "
            "depend on how many there are, the result is that of one run of so many",
            file=sys.stderr,
        )
    return [str(each) for each in found if each != now]


def _finish(
    cfg: DictConfig,
    run: RunFolder,
    edit: Edit,
    status: str,
) -> None:
    """Final renders, strip, exports, metrics and summary."""
    from pds_cli.results.outcome import save_masks, save_views
    from pds_cli.runs.folder import peak_memory
    from pds_cli.training.prompts import spread

    scene, representation, trainer = edit.scene, edit.representation, edit.trainer
    truths = scene.ground_truth_views(cfg.prompt + cfg.suffix)  # as the backbone read it
    metrics = save_views(run, representation, scene.edit_views, truths) | representation.changes()
    representation.export(run.path / layout.EXPORTS)
    save_masks(run, scene.limits)
    _film(cfg, run, representation, layout.TURNTABLE)
    run.write_json(
        layout.SUMMARY,
        {
            "verb": "edit",
            **chosen(run.path),
            "prompt": cfg.prompt,
            "source_prompt": scene.source_prompt,
            **({"init": cfg.init} if cfg.init else {}),
            **({"fit": edit.fitted} if edit.fitted else {}),
            **({"view_prompts": spread(edit.view_words)} if edit.view_words else {}),
            "seconds": trainer.seconds,
            "steps": trainer.total_steps,
            **peak_memory(),
            "metrics": metrics,
            "status": status,
        },
    )
