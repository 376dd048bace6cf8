"""pds edit scene=… prompt=… : moves a scene's parameters until its renders show the prompt."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from pds_cli.errors import UserError, did_you_mean
from pds_cli.files import write_text
from pds_cli.instantiate import check_target, resolve_config
from pds_cli.interrupts import raise_if_seen
from pds_cli.options.checks import speaks_for_itself
from pds_cli.options.job import choice, given_groups, method_of, overrides, run_folder
from pds_cli.runs.ownership import choices_of
from pds_cli.training.chains import begin_at, started
from pds_cli.training.unused import DATASET_UPDATE, remarks

if TYPE_CHECKING:
    from pds_cli.backbones.base import Backbone, Text
    from pds_cli.editors.base import Editor
    from pds_cli.representations.base import Representation
    from pds_cli.runs.folder import RunFolder
    from pds_cli.scenes.base import Scene
    from pds_cli.training.trainer import Objective, Trainer

HELP = "edit what a scene shows, by text, and keep the rest"
CONFIG = "edit"
METHOD = ("loss", "editor")
# Whose options the run folder names, for reports and comparisons.
GROUPS = ("scene", "representation", "backbone", "loss")
DEFAULTS = {"guidance": 7.5, "source_guidance": None, "steps": 500, "lr": 0.02}


def main(cfg: DictConfig) -> Path:
    """Runs an edit in its run folder; returns the path of the report."""
    from pds_cli.runs.folder import RunFolder, environment
    from pds_cli.runs.settings import fingerprint, resumed

    run = RunFolder(run_folder())
    settings = resolved(cfg)
    cfg = resumed(CONFIG, cfg, settings, run) if cfg.resume else settings
    edit = prepare(cfg, run)
    if cfg.resume:
        run.go_on(cfg, fingerprint(cfg))
    else:
        facts = environment(str(edit.backbone.device), cfg.seed)
        run.begin(cfg, fingerprint(cfg), environment={**facts, "choices": chosen(init=cfg.init)})
    try:
        return _edit(cfg, run, edit)
    except Exception as error:
        raise_if_seen()  # what a signal broke is no failure
        with suppress(OSError, UserError):  # a full disk must not hide what went wrong
            write_text(run.path / "error.txt", f"{error}\n")
        raise


def after_sweep(folder: Path, jobs: list[Path]) -> None:
    """Writes the sweep's comparison page, of the jobs that got as far as to write something."""
    from pds_cli.pages.comparison import write_comparison
    from pds_cli.runs.record import is_run

    print(f"comparison: {write_comparison([job for job in jobs if is_run(job)], folder)}")


# --- configuration -------------------------------------------------------------------------------


def chosen(run: Path | None = None, init: str | None = None) -> dict[str, str]:
    """The options of the main groups: now, or when the run in a folder was started, if it says.

    init: a run whose scene, representation and backbone are taken over, where none are given.
    """
    if run is not None and (started_with := choices_of(run)):
        return started_with
    now = {**{group: choice(group) for group in GROUPS}, "loss": method_of(*map(choice, METHOD))}
    if init is not None:
        brought = chosen(Path(init))
        now |= {group: brought[group] for group in set(GROUPS[:3]) - given_groups()}
    return now


def resolved(cfg: DictConfig) -> DictConfig:
    """The configuration, with the backbone's recommendations where nothing was said."""
    cfg = copy.deepcopy(cfg)
    if cfg.init is not None and not cfg.resume:
        begin_at(cfg)
    _check_foreign(cfg)
    for remark in remarks(cfg, overrides(), choice):
        print(f"pds: {remark}", file=sys.stderr)
    if cfg.resume and OmegaConf.is_missing(cfg, "prompt"):
        cfg.prompt = ""  # the run that goes on has one
    recommended = _recommended(cfg)
    for key, default in DEFAULTS.items():
        if cfg[key] is None:
            value = recommended.get(key, default)
            cfg[key] = _of_loss(value, cfg, default) if isinstance(value, DictConfig) else value
    for key in ("guidance", "source_guidance"):
        if key in cfg.loss and cfg.loss[key] is None:
            cfg.loss[key] = cfg[key]
    return resolve_config(cfg)


def _check_foreign(cfg: DictConfig) -> None:
    """Asks classes without a schema whether they know their keys; gives their losses the run's ω.

    Raises:
        UserError: a key that a class does not know, or a class that may not be built.
    """
    for group in (*GROUPS, "editor", "optimizer", "logger"):
        node = cfg[group]
        if not isinstance(node, DictConfig) or not speaks_for_itself(group, node):
            continue
        signature = inspect.signature(check_target(group, node._target_, list(cfg.allow_modules)))
        kinds = [parameter.kind for parameter in signature.parameters.values()]
        known = list(signature.parameters)
        for key in node:
            ours = str(key).startswith("_") or inspect.Parameter.VAR_KEYWORD in kinds
            if key not in known and not ours:
                near = did_you_mean(str(key), known)
                raise UserError(
                    f"{group}.{key!s} is not a key of {node._target_}{near} "
                    f"It takes {', '.join(known)}."
                )
        for key in ("guidance", "source_guidance"):
            if group == "loss" and key in known and key not in node:
                node[key] = None  # filled in where a loss's YAML has them, too


def _of_loss(values: DictConfig, cfg: DictConfig, default: Any) -> Any:
    """What is recommended for the chosen loss, else for the loss that it is an option of."""
    module = str(cfg.loss.get("_target_", "")).split(".")[-2:-1]
    return next((values[name] for name in (choice("loss"), *module) if name in values), default)


def _recommended(cfg: DictConfig) -> DictConfig | dict[str, Any]:
    """What the backbone recommends for the chosen representation.

    Keys under the representation's name replace those beside it, in `cfg` too, where other
    settings refer to them.
    """
    found = OmegaConf.select(cfg, "backbone.recommended")
    if not isinstance(found, DictConfig):
        return {}
    option = chosen(init=None if cfg.resume else cfg.init)["representation"]
    particular = found.get(option)
    if isinstance(particular, DictConfig):
        with open_dict(found):
            for key, value in particular.items():
                found[key] = value
    return found


# --- the edit ------------------------------------------------------------------------------------


@dataclass
class Edit:
    """What an edit works on, built and checked, before anything is written."""

    scene: Scene
    backbone: Backbone
    representation: Representation
    trainer: Trainer
    logger: Any
    fitted: str | None = None  # the file or folder that a fit was taken from


def prepare(cfg: DictConfig, run: RunFolder) -> Edit:
    """Builds everything, cheap things first, so that what can be refused is refused now.

    Raises:
        UserError: whatever is wrong with the settings, or missing.
    """
    import torch

    from pds_cli.backbones.base import resolve_device, warn_unknown_words
    from pds_cli.instantiate import instantiate
    from pds_cli.training.trainer import check_optimizer

    allow = list(cfg.allow_modules)
    resolve_device(cfg.device)
    plain = OmegaConf.to_container(cfg, resolve=True)
    logger = instantiate("logger", cfg.logger, folder=run.path, config=plain, allow_modules=allow)
    check_optimizer(cfg.optimizer, cfg.lr, allow)
    torch.manual_seed(cfg.seed)  # for parts that start from noise
    scene = instantiate("scene", cfg.scene, allow_modules=allow)
    backbone = instantiate("backbone", cfg.backbone, allow_modules=allow)
    warn_unknown_words(backbone, cfg.prompt, scene.source_prompt, cfg.suffix)
    if note := scene.ground_truth_note(cfg.prompt + cfg.suffix):
        print(f"pds: {note}", file=sys.stderr)
    representation = instantiate(
        "representation", cfg.representation, scene, backbone, allow_modules=allow
    )
    scene, fitted = started(cfg, scene, representation)
    trainer = _trainer(cfg, run, scene, backbone, representation, logger)
    if cfg.resume and run.checkpoint.is_file():
        trainer.resume(rewind=False)  # a checkpoint that does not fit is refused before the fit
    return Edit(scene, backbone, representation, trainer, logger, fitted)


def _edit(cfg: DictConfig, run: RunFolder, edit: Edit) -> Path:
    from pds_cli.pages.report import write_report
    from pds_cli.runs.loggers import begin_logger

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
        folder = RunFolder(run.path / "fit")
        place = ensure_fit(edit.scene, representation, folder, cfg.seed, **every)
        if place is None:
            print(f"stopped during the fit; go on with: pds edit resume={run.path}")
            raise KeyboardInterrupt
        edit.fitted = str(place)
    print(f"fit: {edit.fitted}")
    if not (cfg.resume and (run.path / "exports" / "turntable_before.gif").is_file()):
        _film(cfg, run, representation, "turntable_before")


def _film(cfg: DictConfig, run: RunFolder, representation: Representation, name: str) -> None:
    """A turntable of a 3D representation, among the run's exports."""
    from pds_cli.representations.nerf.representation import NeRF
    from pds_cli.results.path_rendering import write_turntable

    if cfg.turntable and isinstance(representation, NeRF):
        write_turntable(run.path / "exports" / name, representation, frames=cfg.turntable)


def _trainer(
    cfg: DictConfig,
    run: RunFolder,
    scene: Scene,
    backbone: Backbone,
    representation: Representation,
    logger: Any,
) -> Trainer:
    from pds_cli.runs.settings import fingerprint
    from pds_cli.training.dataset_update import refine_stage
    from pds_cli.training.one_shot import EditorObjective
    from pds_cli.training.trainer import EarlyStop, Stage, Trainer, configured_optimizer

    allow = list(cfg.allow_modules)
    prompts = [text + cfg.suffix for text in (cfg.prompt, scene.source_prompt)]
    texts = [backbone.encode_prompt([prompt], cfg.negative) for prompt in prompts]
    words = {"prompt": prompts[0], "source": prompts[1], "negative": cfg.negative}
    objective = _objective(cfg, scene, backbone, representation, words, texts)
    stage = Stage(
        "edit",
        objective,
        steps=1 if isinstance(objective, EditorObjective) else cfg.steps,
        optimizer=configured_optimizer(cfg.optimizer, cfg.lr, allow),
        schedule=cfg.lr_schedule,
        warmup=cfg.warmup,
        early_stop=EarlyStop(**cfg.early_stop),
    )
    refine = refine_stage(cfg, scene, representation, backbone, *texts, words=words)
    return Trainer(
        [stage] if refine is None else [stage, refine],
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


def _objective(
    cfg: DictConfig,
    scene: Scene,
    backbone: Backbone,
    representation: Representation,
    words: Mapping[str, str],
    texts: Sequence[Text],
) -> Objective:
    """A loss, an editor on its own, or a dataset update with an editor; target first."""
    from pds_cli.instantiate import instantiate
    from pds_cli.training.distillation import EditObjective
    from pds_cli.training.one_shot import EditorObjective

    allow = list(cfg.allow_modules)
    parts = (scene, representation, backbone)
    editor = _editor(cfg)
    if editor is not None:
        editor.begin(**words)
    if cfg.loss._target_ == DATASET_UPDATE:
        if editor is None:
            raise UserError(
                "loss=dataset_update redraws views with an editor: add editor=ddpm_inversion, or "
                "another (pds list editor)"
            )
        return instantiate(
            "loss", cfg.loss, *parts, editor, *texts, seed=cfg.seed, allow_modules=allow
        )
    if editor is not None:
        return EditorObjective(*parts, editor, *texts)
    loss = instantiate("loss", cfg.loss, allow_modules=allow)
    loss.begin(backbone, **words)
    options = {"batch_size": cfg.batch_size, "hold_view": cfg.hold_view, "seed": cfg.seed}
    return EditObjective(*parts, loss, *texts, **options)


def _editor(cfg: DictConfig) -> Editor | None:
    """What the config group `editor` describes; None for `editor=none`."""
    from pds_cli.instantiate import instantiate

    node = cfg.editor
    if node is None:
        return None
    if node._target_ is not None:
        return instantiate("editor", node, allow_modules=list(cfg.allow_modules))
    for key in ("steps", "guidance", "strength"):
        if node[key] is not None:
            raise UserError(
                f"editor.{key}={node[key]} needs an editor, such as editor=sdedit; without one it "
                f"is {key}=… alone"
            )
    return None


def _finish(
    cfg: DictConfig,
    run: RunFolder,
    edit: Edit,
    status: str,
) -> None:
    """Final renders, strip, exports, metrics and summary."""
    from pds_cli.results.outcome import save_views
    from pds_cli.runs.folder import peak_memory

    scene, representation, trainer = edit.scene, edit.representation, edit.trainer
    truths = scene.ground_truth_views(cfg.prompt + cfg.suffix)  # as the backbone read it
    metrics = save_views(run, representation, scene.edit_views, truths) | representation.changes()
    representation.export(run.path / "exports")
    _film(cfg, run, representation, "turntable")
    run.write_json(
        "summary.json",
        {
            "verb": "edit",
            **chosen(run.path),
            "prompt": cfg.prompt,
            "source_prompt": scene.source_prompt,
            **({"init": cfg.init} if cfg.init else {}),
            **({"fit": edit.fitted} if edit.fitted else {}),
            "seconds": trainer.seconds,
            "steps": trainer.total_steps,
            **peak_memory(),
            "metrics": metrics,
            "status": status,
        },
    )
