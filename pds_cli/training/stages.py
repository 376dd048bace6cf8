"""The stages of an edit, from its configuration: the edit itself, and what refines it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from omegaconf import DictConfig

from pds_cli.backbones.base import Backbone
from pds_cli.editors.base import Editor
from pds_cli.errors import UserError
from pds_cli.instantiate import check_target, instantiate
from pds_cli.representations.base import Representation
from pds_cli.scenes.base import Scene
from pds_cli.training.dataset_update import DatasetUpdateObjective
from pds_cli.training.distillation import EditObjective
from pds_cli.training.locating import AUTO, located
from pds_cli.training.one_shot import EditorObjective
from pds_cli.training.prompts import Prompts, encoded_prompts
from pds_cli.training.trainer import EarlyStop, Objective, Stage, configured_optimizer


@dataclass(frozen=True)
class Parts:
    """What the stages of an edit work on.

    view_words, view_angles: what prompts say, and a backbone that knows cameras is told, of where
        views look from (`words_of_views`, `angles_of_views`).
    """

    scene: Scene
    representation: Representation
    backbone: Backbone
    view_words: Mapping[str, str] = field(default_factory=dict)
    view_angles: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def edit_stages(cfg: DictConfig, parts: Parts) -> list[Stage]:
    """The stages that `pds edit` runs after a fit; with `mask=auto` the scene gets its limits.

    Args:
        cfg: the configuration, its interpolations and recommendations filled in.

    Raises:
        UserError: whatever is wrong with the settings.
    """
    told = (parts.view_words, parts.view_angles)
    prompts = encoded_prompts(cfg, parts.scene.source_prompt, parts.backbone, *told)
    if cfg.mask == AUTO:
        built = (parts.scene, parts.backbone, prompts)
        parts.scene.limits = located(*built, cfg.seed, cfg.mask_everywhere)
    objective = _objective(cfg, parts, prompts)
    edit = Stage(
        objective.name,
        objective,
        steps=cfg.steps if objective.steps is None else objective.steps,
        optimizer=configured_optimizer(cfg.optimizer, cfg.lr, list(cfg.allow_modules)),
        schedule=cfg.lr_schedule,
        warmup=cfg.warmup,
        early_stop=EarlyStop(**cfg.early_stop),
    )
    refine = refine_stage(cfg, parts, prompts)
    return [edit] if refine is None else [edit, refine]


def _objective(cfg: DictConfig, parts: Parts, prompts: Prompts) -> Objective:
    """A loss, an editor on its own, or what the group `loss` has that is an objective itself."""
    allow = list(cfg.allow_modules)
    built = (parts.scene, parts.representation, parts.backbone)
    editor = configured_editor(cfg)
    if editor is not None:
        editor.check(parts.backbone)
        editor.begin(**prompts.words)
    if issubclass(check_target("loss", cfg.loss._target_, allow), Objective):
        given = (*built, editor, prompts.tgt, prompts.src)
        return instantiate("loss", cfg.loss, *given, seed=cfg.seed, allow_modules=allow)
    if editor is not None:
        return EditorObjective(*built, editor, prompts.tgt, prompts.src)
    loss = instantiate("loss", cfg.loss, allow_modules=allow)
    loss.begin(parts.backbone, **prompts.words)
    options = {key: cfg[key] for key in ("batch_size", "hold_view", "views_per_step", "seed")}
    return EditObjective(*built, loss, prompts.tgt, prompts.src, **options)


def configured_editor(cfg: DictConfig) -> Editor | None:
    """What the config group `editor` describes; None for `editor=none`.

    Raises:
        UserError: a dial of an editor without one.
    """
    node = cfg.editor
    if node is None:
        return None
    if node._target_ is not None:
        editor: Editor = instantiate("editor", node, allow_modules=list(cfg.allow_modules))
        return editor
    for key in ("steps", "guidance", "strength"):
        if node[key] is not None:
            raise UserError(
                f"editor.{key}={node[key]} needs an editor, such as editor=sdedit; without one it "
                f"is {key}=… alone"
            )
    return None


def refine_stage(cfg: DictConfig, parts: Parts, prompts: Prompts) -> Stage | None:
    """The stage that the config group `refine` describes; None for `refine=none`.

    Raises:
        UserError: whatever is wrong with its settings.
    """
    node = cfg.refine
    if node is None or node.editor is None:
        return None
    editor: Editor = instantiate("editor", node.editor, allow_modules=list(cfg.allow_modules))
    editor.check(parts.backbone)
    editor.begin(**prompts.words)
    objective = DatasetUpdateObjective(
        parts.scene,
        parts.representation,
        parts.backbone,
        editor,
        prompts.tgt,
        prompts.src,
        every=node.every,
        together=node.get("together", 1),
        sharing=node.get("sharing", 1.0),
        batch_size=node.batch_size,
        input=node.input,
        initial=node.initial,
        keep_detail=node.get("keep_detail", False),
        seed=cfg.seed,
        group="refine",
    )
    lr = cfg.lr if node.lr is None else node.lr
    optimizer = configured_optimizer(cfg.optimizer, lr, list(cfg.allow_modules))
    schedule = node.get("lr_schedule", "constant")
    return Stage(objective.name, objective, node.steps, optimizer, schedule=schedule)
