"""Methods of the benchmark that edits pictures side by side: words for `pds edit`, made into it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pds_cli.backbones.base import Backbone
from pds_cli.benchmarks.jobs import words_in
from pds_cli.config import register
from pds_cli.editors.base import Editor
from pds_cli.errors import UserError, first_line
from pds_cli.instantiate import check_target, instantiate
from pds_cli.losses.base import Loss
from pds_cli.options.catalogue import conf_dir
from pds_cli.options.checks import validate
from pds_cli.options.job import key_of
from pds_cli.overrides import quoted_words
from pds_cli.training.locating import AUTO
from pds_cli.training.settings import WHOLE, settle_mask, with_recommended
from pds_cli.training.stages import configured_editor

BUDGET = ("steps", "lr", "lr_schedule")
_MASK = ("mask", "mask_everywhere")
# All that an edit of a latent beside others can be told; the rest is the same for all of them.
_KEYS = ("loss", "editor", "backbone", "guidance", "source_guidance", *_MASK, *BUDGET)


@dataclass(frozen=True)
class Method:
    """A loss or an editor, as `pds edit` has it with the same words.

    words: as they were given.
    cfg: the settings of such an edit.
    """

    words: Sequence[str]
    cfg: DictConfig

    def build(self) -> Loss | Editor:
        """The loss or editor, anew."""
        editor = configured_editor(self.cfg)
        if editor is not None:
            return editor
        loss: Loss = instantiate("loss", self.cfg.loss, allow_modules=list(self.cfg.allow_modules))
        return loss

    def backbone(self, given: Backbone) -> Backbone:
        """The backbone that its words name; `given` where they name none."""
        if not any(key_of(word).partition(".")[0] == "backbone" for word in self.words):
            return given
        found: Backbone = instantiate(
            "backbone", self.cfg.backbone, allow_modules=list(self.cfg.allow_modules)
        )
        return found

    @property
    def node(self) -> dict[str, Any]:
        """All that makes it what it is, as plain values."""
        node = self.cfg.loss if self.cfg.editor._target_ is None else self.cfg.editor
        return dict(OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]

    @property
    def where(self) -> dict[str, Any]:
        """Whether an edit stays where the prompts disagree (`mask=auto`), and its other keys."""
        located = self.cfg.mask is not None
        return {"located": located, "everywhere": self.cfg.mask_everywhere if located else None}

    @property
    def budget(self) -> dict[str, Any]:
        """Steps, step size and its schedule."""
        return {key: self.cfg[key] for key in BUDGET}


def method(
    name: str,
    words: Sequence[str],
    budget: Mapping[str, Any] | None = None,
    allow_modules: Sequence[str] = (),
) -> Method:
    """What `pds edit` makes of a method's words, on a picture of the toybox.

    Args:
        name: for messages.
        words: of the command line.
        budget: steps, lr and lr_schedule, where the words say none; None: the backbone's.
        allow_modules: modules of your own that a class may come from.

    Raises:
        UserError: words that are none of `pds edit`, or that this benchmark cannot follow.
    """
    try:
        return _method(words, budget or {}, allow_modules)
    except (HydraException, OmegaConfBaseException, UserError) as error:
        said = f"benchmark.methods.{name}=[{', '.join(words)}]"
        raise UserError(f"{said}: {first_line(error)}") from error


def _method(
    words: Sequence[str], budget: Mapping[str, Any], allow_modules: Sequence[str]
) -> Method:
    for word in words:
        if key_of(word).partition(".")[0] not in _KEYS:
            raise UserError(
                f"{word} is not followed here: pictures are edited side by side, and a method may "
                f"say {', '.join(_KEYS)}."
            )
    given = [f"{key}={value}" for key, value in budget.items()]
    register()
    with _hydra():
        cfg = compose(
            "edit",
            quoted_words(["prompt=of each case", *given, *words], "edit"),
            return_hydra_config=True,
        )
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    cfg.allow_modules = list(allow_modules)
    validate("edit", cfg)
    if cfg.mask not in (None, AUTO, WHOLE):
        raise UserError(f"mask={cfg.mask}: the cases share no mask; mask=auto finds one for each.")
    target = check_target("loss", cfg.loss._target_, allow_modules)
    if not issubclass(target, Loss):
        raise UserError(f"loss={choices['loss']} is for scenes of many views, not for pictures.")
    made = Method(words, with_recommended(cfg, choices))
    settle_mask(made.cfg, possible=True)
    if made.cfg.editor._target_ is None:
        made.build()  # a wrong option is said before anything is run; editors may load models
    return made


def _hydra() -> AbstractContextManager[Any]:
    """Hydra as the running command has it, with its --config-dir; else for the moment."""
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return initialize_config_dir(str(conf_dir()), version_base="1.3")


def sweep_words(name: str, words: Sequence[str] | None) -> list[list[str]]:
    """The words of each job of a sweep `pds edit -m` over these words; None: of one without any.

    Raises:
        UserError: they are no words of a sweep.

    >>> sweep_words("pds", ["guidance=5,7.5", "loss.identity=0.1"])
    [['guidance=5', 'loss.identity=0.1'], ['guidance=7.5', 'loss.identity=0.1']]
    """
    given = words_in(f"benchmark.sweep.{name}", words)
    try:
        parsed = OverridesParser.create().parse_overrides(given)
        several = [
            [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
            if each.is_sweep_override()
            else [str(each.input_line)]
            for each in parsed
        ]
    except (HydraException, ValueError) as error:
        said = f"benchmark.sweep.{name}=[{', '.join(given)}]"
        raise UserError(f"{said}: {first_line(error)}") from error
    return [list(each) for each in itertools.product(*several)]
