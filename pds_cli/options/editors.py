"""The keys of editors, and of the refinement that uses one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pds_cli.options.backbones import DTYPES
from pds_cli.options.losses import UpdateConf
from pds_cli.options.option import option
from pds_cli.options.ranges import FINITE, POSITIVE, SHARE, STEPS
from pds_cli.options.target import Target
from pds_cli.options.verbs import DEVICES, LR_SCHEDULES

_STRENGTH = "how much noise; two values: a range that each edit draws from"


@dataclass
class NoEditorConf:
    """No editor. It has the dials that editors share, for sweeps over editors."""

    _target_: Any = None
    steps: int | None = option("of no use without an editor", range=STEPS)
    guidance: float | None = option("of no use without an editor", range=FINITE)
    strength: Any = option("of no use without an editor", range=SHARE)


@dataclass
class SDEditConf(Target):
    """SDEdit."""

    steps: int = option("DDIM steps from pure noise; an edit takes its share", range=STEPS)
    guidance: float = option("ω of the target prompt", range=FINITE)
    strength: Any = option(_STRENGTH, range=SHARE)
    eta: float = option("0: deterministic (DDIM); 1: as much fresh noise as DDPM", range=SHARE)


@dataclass
class DDIMInversionConf(Target):
    """Editors that invert under the source prompt."""

    steps: int = option("steps of the whole walk, each way", range=STEPS)
    guidance: float = option("ω of the target prompt, on the way back", range=FINITE)
    source_guidance: float = option("ω of the source prompt, on the way to noise", range=FINITE)
    strength: float = option("how far to go; 0 changes nothing", range=SHARE)


@dataclass
class InstructPix2PixConf(Target):
    """InstructPix2Pix."""

    model: str = option(
        "hub id, folder in diffusers format or of data.pairs=true, or toybox_instruct", text=True
    )
    steps: int = option("DDIM steps from pure noise; an edit takes its share", range=STEPS)
    guidance: float = option("ω of the instruction", range=FINITE)
    image_guidance: float = option("ω of the source image", range=FINITE)
    strength: Any = option(_STRENGTH, range=SHARE)
    device: str = option("where the model is", choices=DEVICES, or_else="cuda:<number>")
    dtype: str = option("precision; auto: float16 on CUDA, else float32", choices=DTYPES)


@dataclass
class NoRefineConf:
    """Refinement switched off."""

    editor: Any = option("none: there is no stage after the edit")


@dataclass
class SDEditRefineConf(UpdateConf):
    """The stage `refine` with SDEdit: see `pds_cli.training.dataset_update`."""

    steps: int = option("steps of the stage, each one of reconstruction", range=STEPS)
    lr: float | None = option("step size; null: that of the edit", range=POSITIVE)
    lr_schedule: str = option("how the step size goes on", choices=LR_SCHEDULES)
    editor: SDEditConf = option("what redraws a view", SDEditConf)
