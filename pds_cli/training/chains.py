"""Edits that begin where another run ended: `init=<edit>`, `fit=<fit>`, and more steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, open_dict

from pds_cli.errors import UserError
from pds_cli.instantiate import escape_text, literal_config
from pds_cli.options.job import given_groups
from pds_cli.runs import layout
from pds_cli.runs.outputs import result_of

if TYPE_CHECKING:
    from pds_cli.representations.base import Representation
    from pds_cli.representations.spatial import Spatial
    from pds_cli.scenes.base import Scene

# The backbone that is told of an edit's prompts.
EXACT = "pds_cli.backbones.toybox_exact.ToyboxExact"
# What a flat result is, and the scene that it makes.
FLAT = {
    layout.RESULT_DRAWING: ("pds_cli.scenes.svg.SVGScene", ("size",)),
    layout.RESULT_PICTURE: ("pds_cli.scenes.image.ImageScene", ()),
}


def begin_at(cfg: DictConfig) -> None:
    """Puts the result of the run `cfg.init` in place of the scene, and takes over its parts.

    The representation and the backbone are that run's, unless the command line names its own; the
    source prompt is what that run was told to show, unless `source` says otherwise.

    Args:
        cfg: of the edit; changed in place.

    Raises:
        UserError: the folder is no finished edit of this version, what it holds may not be built,
            or `scene=` is given beside it.
    """
    from pds_cli.runs.settings import saved_settings

    folder = Path(cfg.init)
    saved = saved_settings("edit", cfg.init, list(cfg.allow_modules), "init")
    given = given_groups()
    if "scene" in given or cfg.fit is not None:
        raise UserError(
            f"init={cfg.init} brings its own scene and result: leave out scene=… and fit=…"
        )
    prompt = cfg.source if cfg.source is not None else saved.prompt + saved.suffix
    with open_dict(cfg):
        for group in {"representation", "backbone"} - given:
            cfg[group] = saved[group]
        if "device" in cfg.backbone:
            cfg.backbone.device = cfg.device
        if cfg.backbone.get("_target_") == EXACT:
            texts = (cfg.prompt, prompt, cfg.suffix)
            cfg.backbone.prompts = [escape_text(text) for text in texts]
        cfg.scene = _scene(folder, saved, prompt)


def _scene(folder: Path, saved: DictConfig, prompt: str) -> DictConfig:
    """The scene that a run's result makes: its picture or drawing, or its cameras."""
    for name, (target, kept) in FLAT.items():
        if (folder / name).is_file():
            options = {key: saved.scene[key] for key in kept if key in saved.scene}
            path = str(folder / name)
            return literal_config(
                {"_target_": target, "path": path, "source_prompt": prompt, **options}
            )
    try:
        result_of(folder)
    except UserError as error:
        raise UserError(
            f"init={folder} holds no result to begin at (a picture, a drawing or a 3D scene): "
            "give a finished pds edit of one."
        ) from error
    scene = saved.scene.copy()
    with open_dict(scene):
        scene.source_prompt = escape_text(prompt)
    return scene


def started(
    cfg: DictConfig, scene: Scene, representation: Representation
) -> tuple[Scene, str | None]:
    """The scene that the edit sees, and where the representation's state was taken from.

    With `init=` of a 3D edit, or `fit=`, the representation gets the state of that run.

    Returns:
        The scene (renders of the result, for `init=`), and the file; None where nothing was taken.

    Raises:
        UserError: there is no such result, or it is of other settings or another scene.
    """
    from pds_cli.representations.spatial import Spatial

    if cfg.fit is not None:
        if not isinstance(representation, Spatial):
            raise UserError(f"fit={cfg.fit} is for 3D scenes, and this representation needs none.")
        from pds_cli.runs.ownership import check_card

        check_card(cfg.fit, "fit", "fit")
        return scene, _taken(representation, scene, cfg, "fit")
    if cfg.init is None or not isinstance(representation, Spatial):
        return scene, None
    from pds_cli.scenes.rendered import RenderedScene

    origin = _taken(representation, scene, cfg, "init")
    return RenderedScene(scene, representation.render_full, scene.source_prompt), origin


def _taken(representation: Spatial, scene: Scene, cfg: DictConfig, key: str) -> str:
    from pds_cli.representations.spatial import load_spatial
    from pds_cli.runs.checkpoint import check_state, fits

    run = cfg[key]
    path = result_of(run, key)
    loaded = load_spatial(path, "cpu", list(cfg.allow_modules))
    names = {view.name for view in scene.views}
    if set(loaded.cameras["train"]) != names:
        raise UserError(f"{key}={run} is of other views than this scene has: give one of its own.")
    with fits(path, f"give {key}= a run of the same representation", "does not fit this edit"):
        state = loaded.state_dict()
        check_state(state, representation.state_dict())
        representation.load_state_dict(state)
    return str(path)
