"""The prompts of an edit: in words, encoded, and worded for where each view looks from.

View-dependent prompts put words such as "front view" behind the target's and the source's prompt.
What reads prompts as words by itself (a loss's own prompts, an editor by instruction) keeps the
plain ones, and so does the negative prompt.

Source: Poole et al., DreamFusion, arXiv 2209.14988, section 3.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig, OmegaConf

from pds_cli.backbones.base import Backbone, Text
from pds_cli.errors import UserError, check_choice
from pds_cli.instantiate import check_target
from pds_cli.options.option import options_of
from pds_cli.options.view_prompts import SECTORS, ViewPromptsConf
from pds_cli.scenes.base import Scene
from pds_cli.training.trainer import Idle
from pds_cli.views.directions import Compass, direction
from pds_cli.views.view import View

OFF = "view_prompts.enabled=false"


@dataclass(frozen=True)
class ViewDependentText(Text):
    """A plain prompt, encoded, with its wordings for some views.

    by_view: a view's name → the encoded prompt for pictures of it, with the same batch.
    """

    by_view: Mapping[str, Text] = field(default_factory=dict)


_Source = TypeVar("_Source", Text, Text | None)
_Either = TypeVar("_Either", Text, Text | None)


class ViewPrompts(Generic[_Source]):
    """The target's and the source's prompt for a picture of a view.

    Args:
        backbone: asked what they mean from there (`Backbone.seen_from`).
        tgt, src: encoded prompts; a `ViewDependentText` has the view's own wording.
    """

    def __init__(self, backbone: Backbone, tgt: Text, src: _Source) -> None:
        self.backbone, self.tgt = backbone, tgt
        self.src: _Source = src

    def __call__(self, view: View) -> tuple[Text, _Source]:
        return self._of(self.tgt, view), self._of(self.src, view)

    def _of(self, text: _Either, view: View) -> _Either:
        if text is None:
            return text
        if isinstance(text, ViewDependentText):
            return self.backbone.seen_from(text.by_view.get(view.name, text), view)
        return self.backbone.seen_from(text, view)


@dataclass(frozen=True)
class Prompts:
    """The prompts of an edit in words (`prompt`, `source`, `negative`), and encoded."""

    words: Mapping[str, str]
    tgt: Text
    src: Text


def encoded_prompts(
    cfg: DictConfig,
    source: str,
    backbone: Backbone,
    view_words: Mapping[str, str],
    view_angles: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> Prompts:
    """The prompts of `pds edit`.

    Args:
        source: what the source shows.
        view_words, view_angles: see `words_of_views` and `angles_of_views`.
    """
    texts = [text + cfg.suffix for text in (cfg.prompt, source)]
    words = {"prompt": texts[0], "source": texts[1], "negative": cfg.negative}
    told = (view_words, view_angles)
    tgt, src = (_encoded(backbone, text, cfg.negative, *told) for text in texts)
    return Prompts(words, tgt, src)


def _encoded(
    backbone: Backbone,
    text: str,
    negative: str,
    view_words: Mapping[str, str],
    view_angles: Mapping[str, tuple[float, float]],
) -> Text:
    """One prompt; each of its wordings is encoded once."""
    plain = backbone.encode_prompt([text], negative)
    worded = {
        words: backbone.encode_prompt([f"{text}, {words}"], negative)
        for words in dict.fromkeys(view_words.values())
        if words
    }
    by_view = {view: worded[words] for view, words in view_words.items() if words}
    for view, angles in view_angles.items():
        by_view[view] = backbone.with_camera(by_view.get(view, plain), *angles)
    return ViewDependentText(plain.cond, plain.null, by_view) if by_view else plain


def words_of_views(options: DictConfig, scene: Scene) -> dict[str, str]:
    """What prompts say of where views look from, by the views' names.

    Args:
        options: `view_prompts` of `pds edit`, resolved.

    Returns:
        An entry for each view that has a camera, "" where there is nothing to say; none at all
        where view-dependent prompts are switched off.

    Raises:
        UserError: a number of sectors that there is not, or cameras that see no front together.
    """
    check_choice("view_prompts.sectors", str(options.sectors), SECTORS)
    if not options.enabled:
        return {}
    found = {}
    for name, (azimuth, elevation) in _angles(scene, "view-dependent prompts", OFF).items():
        where = direction(azimuth, elevation, int(options.sectors), options.overhead)
        found[name] = str(options.words[where]).strip()
    return found


def angles_of_views(
    options: DictConfig, scene: Scene, backbone: Backbone
) -> dict[str, tuple[float, float]]:
    """Azimuth and elevation that views look from, in degrees, by their names.

    None where the backbone knows no cameras, or is not to be told.

    Args:
        options: `view_prompts` of `pds edit`, resolved.

    Raises:
        UserError: cameras that see no front together.
    """
    if not (backbone.knows_cameras and options.camera):
        return {}
    found = _angles(scene, "this backbone's cameras", "view_prompts.camera=false")
    return found or dict(scene.angles)


def _angles(scene: Scene, what: str, off: str) -> dict[str, tuple[float, float]]:
    cameras = {view.name: view.camera for view in scene.views if view.camera is not None}
    if not cameras:
        return {}
    edited = [view.name for view in scene.edit_views if view.name in cameras]
    try:
        compass = Compass.of(cameras, scene.region, scene.front, edited)
    except UserError as error:
        raise UserError(f"{what} are not for this scene: {error}; {off}") from error
    return {name: compass.angles(camera) for name, camera in cameras.items()}


def idle(
    cfg: DictConfig,
    view_words: Mapping[str, str],
    view_angles: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> list[Idle]:
    """The keys of view-dependent prompts that have no effect on an edit.

    Args:
        cfg: of `pds edit`, resolved.
        view_words, view_angles: see `words_of_views` and `angles_of_views`.
    """
    unknown = [] if view_angles else [Idle("view_prompts.camera", "what knows no cameras")]
    if not cfg.view_prompts.enabled:
        rest = [key for key in options_of(ViewPromptsConf) if key not in ("enabled", "camera")]
        keys = [*(f"view_prompts.{key}" for key in rest), *([] if view_angles else ["scene.front"])]
        return [*unknown, *(Idle(key, OFF) for key in keys)]
    if not view_words:
        keys = [f"view_prompts.{key}" for key in options_of(ViewPromptsConf) if key != "camera"]
        return [Idle(key, "a flat scene") for key in (keys if view_angles else ["view_prompts"])]
    target = None if cfg.editor is None else cfg.editor._target_
    refined = OmegaConf.select(cfg, "refine.editor") is not None
    if target is None or refined:
        return unknown
    editor: Any = check_target("editor", target, list(cfg.allow_modules))
    return [Idle("view_prompts", "an editor by instruction")] if editor.reads_words else unknown


def spread(view_words: Mapping[str, str]) -> dict[str, int]:
    """What is said, and of how many views; the most frequent first."""
    return dict(Counter(view_words.values()).most_common())
