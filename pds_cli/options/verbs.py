"""The keys of the verbs, each with its words; those of `pds pretrain` are in `pretraining.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pds_cli.options.option import option
from pds_cli.options.ranges import (
    BATCH,
    COUNT,
    EVERY,
    FEW,
    FINITE,
    LONGEST_SIDE,
    MILLION,
    NOT_NEGATIVE,
    PIXELS,
    POSITIVE,
    SEED,
    SHARE,
    STEPS,
    TURN,
    Range,
    whole,
)
from pds_cli.options.view_prompts import ViewPromptsConf

DEVICES = ("auto", "cpu", "cuda")
LR_SCHEDULES = ("constant", "linear", "cosine")
FINETUNING = ("lora", "full")
PRECISIONS = ("auto", "float32", "bfloat16")
PRECISION_HELP = "of products in training; auto: bfloat16 where the device is quicker with it"
MATCHINGS = ("auto", "exhaustive", "sequential")
CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
PATHS = ("turntable", "orbit", "train")
FORMATS = ("mesh", "pointcloud", "splats", "splat", "spz", "cameras")
UNITS = ("scene", "capture")


@dataclass
class CommonConfig:
    """Keys of every verb."""

    seed: int = option("number that fixes all random draws", 0, range=SEED)
    device: str = option("where tensors are", "auto", choices=DEVICES, or_else="cuda:<number>")
    out: str | None = option("output folder; null: a new one below outputs/<verb>", None, text=True)
    overwrite: bool = option("replace the run that out= holds; what pds did not write stays", False)
    debug: bool = option("print tracebacks of errors", False)
    allow_modules: list[str] = option("modules of your own that a _target_ may come from", [])


@dataclass
class ResumableConfig(CommonConfig):
    """Keys of verbs whose runs can be continued."""

    resume: str | None = option("run folder to continue with its settings", None, text=True)


@dataclass
class EarlyStopConf:
    """When a stage ends early: see `pds_cli.training.trainer.EarlyStop`."""

    patience: int = option(
        "steps without a lower loss after which a stage ends; 0: off", 0, range=EVERY
    )
    min_delta: float = option(
        "what counts as lower, as a share of the least loss so far", 0.01, range=NOT_NEGATIVE
    )


@dataclass
class EditConfig(ResumableConfig):
    """`pds edit`."""

    prompt: str = option("what the result should show; @file: its lines, with -m", text=True)
    source: str | None = option(
        "what the source shows; null: the scene's source_prompt", None, text=True
    )
    init: str | None = option(
        "finished edit to begin at: its result is the scene, its prompt the source", None, text=True
    )
    fit: str | None = option(
        "pds fit of the same 3D scene to begin at; null: a kept fit, or a new one", None, text=True
    )
    negative: str = option("prompt of the unconditional branch", "", text=True)
    suffix: str = option("put behind both prompts: a style, say", "", text=True)
    guidance: float | None = option(
        "ω of the target branch; null: what the backbone recommends", None, range=FINITE
    )
    source_guidance: float | None = option(
        "ω of the source branch; null: what the backbone recommends", None, range=FINITE
    )
    steps: int | None = option(
        "optimiser steps; null: what the backbone recommends", None, range=STEPS
    )
    lr: float | None = option("step size; null: what the backbone recommends", None, range=POSITIVE)
    batch_size: int = option("draws of t and noise a step", 1, range=BATCH)
    hold_view: int = option(
        "steps for which the same view is kept, in scenes of many views", 1, range=STEPS
    )
    views_per_step: int = option(
        "views whose mean gradient a step takes, in scenes of many views", 1, range=BATCH
    )
    lr_schedule: str = option(
        "how the step size goes on after the warm-up",
        "${oc.select:backbone.recommended.lr_schedule,constant}",
        choices=LR_SCHEDULES,
    )
    warmup: int = option(
        "steps over which the step size rises from zero",
        "${oc.select:backbone.recommended.warmup,0}",
        range=EVERY,
    )
    early_stop: EarlyStopConf = option("when the edit ends before its steps do", EarlyStopConf)
    mask: str | None = option(
        "picture or folder of one a view: white may change; null: what the backbone recommends",
        None,
        text=True,
        or_else="auto, which finds it, or none",
    )
    mask_everywhere: float | None = option(
        "of mask=auto: all may change where the rest disagrees so much; null: as recommended",
        None,
        range=POSITIVE,
    )
    mask_box: Any = option(
        "of a 3D scene: corners x,y,z,x,y,z of what may change; null: all may",
        None,
        or_else="[x,y,z,x,y,z]",
        range=FINITE,
        example=(0, 0, 0, 1, 1, 1),
    )
    view_prompts: ViewPromptsConf = option(
        "prompts that say from where a view looks", ViewPromptsConf
    )
    checkpoint_every: int = option(
        "steps between checkpoints; 0: only when stopped", 100, range=EVERY
    )
    render_every: int = option("steps between renders that are kept; 0: none", 25, range=EVERY)
    turntable: int = option(
        "frames of the films before and after an edit in 3D; 0: none", 24, range=FEW
    )
    scene: Any = option("what is edited")
    representation: Any = option("its parameters, and how they are rendered")
    backbone: Any = option("the diffusion model that knows what prompts mean")
    loss: Any = option("the gradient that a step follows")
    editor: Any = option("edits a picture at once: instead of a loss, or for dataset_update", None)
    optimizer: Any = option("what makes steps of gradients")
    refine: Any = option("the stage after the edit", None)
    logger: Any = option("where else metrics and pictures go")


@dataclass
class FitConfig(ResumableConfig):
    """`pds fit`."""

    source: str | None = option(
        "what the scene shows; null: the scene's source_prompt", None, text=True
    )
    checkpoint_every: int = option(
        "steps between checkpoints; 0: only when stopped", 100, range=EVERY
    )
    render_every: int = option("steps between renders that are kept; 0: none", 50, range=EVERY)
    scene: Any = option("what is fitted")
    representation: Any = option("its parameters, and how they are rendered")
    refine: Any = option("not used: some scenes choose one for pds edit", None)
    backbone: Any = option("not used: some scenes choose one for pds edit", None)


@dataclass
class SampleConfig(CommonConfig):
    """`pds sample`."""

    seed: int = option("image i depends on the seed and on i only", 0, range=SEED)
    prompt: str = option("what the images should show; @file: its lines, with -m", text=True)
    negative: str = option("prompt of the unconditional branch", "", text=True)
    guidance: float | None = option(
        "ω; null: what the backbone recommends for samples, else 7.5", None, range=FINITE
    )
    n: int = option("how many images", 8, range=COUNT)
    steps: int = option("DDIM steps", 30, range=STEPS)
    batch_size: int = option("images a network call", 8, range=BATCH)
    backbone: Any = option("the diffusion model that is asked")


@dataclass
class CompareConfig(CommonConfig):
    """`pds compare`."""

    runs: list[str] = option("run folders; pds compare <run> <run> fills this", [])
    benchmark: Any = option("what is run and measured; null: runs are set side by side", None)
    backbone: Any = option("the diffusion model that a benchmark runs")


@dataclass
class FinetuneConfig(ResumableConfig):
    """`pds finetune`."""

    images: str = option("folder of pictures of the subject; their middle squares count", text=True)
    prompt: str = option(
        "what they show, with a word of the subject's own: a photo of sks man", text=True
    )
    class_prompt: str | None = option(
        "what the subject is one of: a photo of a man; null: nothing is kept", None, text=True
    )
    class_images: int = option(
        "samples of the class that the backbone makes first", 100, range=COUNT
    )
    prior_weight: float = option(
        "weight of the class's pictures beside the subject's", 1.0, range=NOT_NEGATIVE
    )
    method: str = option(
        "lora: factors on attention, merged in the end; full: all of the UNet",
        "lora",
        choices=FINETUNING,
    )
    rank: int = option("rank of the LoRA", 16, range=whole(1, MILLION))
    steps: int = option("optimiser steps", 400, range=STEPS)
    batch_size: int = option(
        "pictures a step, of the subject and of the class each", 1, range=BATCH
    )
    lr: float | None = option(
        "step size of AdamW; null: 1e-4 for lora, 5e-6 for full", None, range=POSITIVE
    )
    warmup: int = option("steps over which the step size rises from zero", 0, range=EVERY)
    gradient_checkpointing: bool = option("less memory, slower", False)
    precision: str = option(PRECISION_HELP, "auto", choices=PRECISIONS)
    into: str | None = option(
        "backbone folder to write; null: backbone/ in the run folder", None, text=True
    )
    checkpoint_every: int = option(
        "steps between checkpoints; 0: only when stopped", 100, range=EVERY
    )
    backbone: Any = option("the diffusion model that is taught")


@dataclass
class EvalConfig(CommonConfig):
    """`pds eval`."""

    seed: int = option("of no effect here", 0, range=SEED)
    run: str | None = option("a run folder", None, text=True)
    runs: list[str] = option("run folders, or folders of them; pds eval <run> <run> fills this", [])
    by: Any = option("settings that make groups, as [prompt,loss]; null: all but the seed", None)
    clip: str | None = option("CLIP model, hub id or folder; null: no CLIP scores", None, text=True)


@dataclass
class StudyConfig(CommonConfig):
    """`pds study`."""

    seed: int = option("fixes the marks that stand for methods", 0, range=SEED)
    runs: list[str] = option(
        "run folders, or folders of them; pds study <run> <run> fills this", []
    )
    by: Any = option("settings that tell an edit's results apart, as guidance; null: all", None)
    collect: list[str] = option("files of answers, instead of runs", [])
    key: str | None = option("with collect: the key.json beside the page", None, text=True)
    question: str = option(
        "the page's title",
        "Which result shows what the text says, and keeps the rest?",
        text=True,
    )


@dataclass
class ImportConfig(CommonConfig):
    """`pds import`."""

    device: str = option("of no effect here", "auto", choices=DEVICES, or_else="cuda:<number>")
    out: str | None = option(
        "the scene's folder; null: a new one below outputs/import", None, text=True
    )
    images: str = option("the folder of the photos, or a film", text=True)
    frames: int = option(
        "of a film: how many are taken, the sharpest of each stretch", 120, range=whole(3, 10_000)
    )
    matching: str = option(
        "exhaustive: all pairs of photos; sequential: each with the next ones; auto: of films",
        "auto",
        choices=MATCHINGS,
    )
    overlap: int = option("sequential: how many next photos each is matched with", 10, range=COUNT)
    camera_model: str = option("COLMAP's model of the lens", "OPENCV", choices=CAMERA_MODELS)
    max_size: int | None = option(
        "longer side of the scene's photos in pixels at most; null: as they are",
        1600,
        range=LONGEST_SIDE,
    )


@dataclass
class RenderConfig(CommonConfig):
    """`pds render`."""

    seed: int = option("of no effect here", 0, range=SEED)
    out: str | None = option(
        "output folder; null: renders_<path> in the run folder", None, text=True
    )
    run: str = option("folder of a pds fit, or of a pds edit of a 3D scene", text=True)
    path: str = option(
        "where the cameras are", "turntable", choices=PATHS, or_else="a JSON file", text=True
    )
    frames: int | None = option(
        "pictures; null: 60, or every camera of train and of a file", None, range=COUNT
    )
    size: int | None = option(
        "longer side in pixels; null: as the scene's photos", None, range=PIXELS
    )
    fps: float = option("frames a second of the films", 20, range=Range(0, 1000, above=True))
    depth: bool = option("write pictures of depth beside those of colour", True)
    elevation: float | None = option(
        "turntable: degrees above the middle; null: the photos' median", None, range=Range(-89, 89)
    )
    start: float = option(
        "turntable: degrees from where the first photo was taken", 0.0, range=TURN
    )
    sweep: float | None = option(
        "degrees; null: turntable 360 (less: there and back), orbit 20", None, range=TURN
    )


@dataclass
class ExportConfig(CommonConfig):
    """`pds export`."""

    seed: int = option("pointcloud: fixes which pixels are taken", 0, range=SEED)
    out: str | None = option(
        "output folder; null: exports_<format> in the run folder", None, text=True
    )
    run: str = option("folder of a pds fit, or of a pds edit of a 3D scene", text=True)
    format: str = option("what is written", "mesh", choices=FORMATS)
    extent: float = option(
        "mesh, pointcloud: side of the cube that is written, in the region's sides",
        1.0,
        range=POSITIVE,
    )
    resolution: int = option("mesh: samples along each side of the cube", 192, range=LONGEST_SIDE)
    threshold: float = option(
        "mesh, pointcloud: density times the region's radius that counts as solid",
        10.0,
        range=POSITIVE,
    )
    components: int | None = option(
        "mesh: keep so many of the largest connected parts; null: all",
        None,
        range=whole(1, MILLION),
    )
    points: int = option("pointcloud: points at most", 200000, range=whole(1, 1000 * MILLION))
    opacity: float = option("pointcloud: leave out pixels that are less opaque", 0.8, range=SHARE)
    pictures: bool = option("cameras: also render what each camera sees", False)
    units: str = option(
        "whose coordinates: a capture was turned, shifted and scaled to be the scene",
        "scene",
        choices=UNITS,
    )
