"""Configuration: typed schemas of verbs and shipped groups, checks of values, and run folders.

The schemas give every key its type; the values stand in `conf/`. A YAML from outside the package
needs no schema: `scene`, `loss` and the other groups are open at the top level.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from pds_cli.errors import UserError
from pds_cli.ranges import check

DEVICES = ("auto", "cpu", "cuda")
# Settings that may differ when a run goes on: they change nothing of its result.
FREE = frozenset(
    [
        *("resume", "out", "overwrite", "debug", "device", "logger", "allow_modules"),
        *("checkpoint_every", "render_every", "turntable", "log_every"),
    ]
)


# --- schemas -------------------------------------------------------------------------------------


@dataclass
class CommonConfig:
    """Keys that every verb with a config understands."""

    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda | cuda:<n>
    out: str | None = None  # output folder; null: outputs/<verb>/…
    overwrite: bool = False  # replace the run that out= holds
    debug: bool = False  # tracebacks
    allow_modules: list[str] = field(default_factory=list)


@dataclass
class ResumableConfig(CommonConfig):
    """Keys of verbs whose runs can be continued."""

    resume: str | None = None  # a run folder to continue


@dataclass
class EarlyStopConf:
    """When a stage ends early: see `pds_cli.trainer.EarlyStop`."""

    patience: int = 0
    min_delta: float = 0.01


@dataclass
class EditConfig(ResumableConfig):
    """`pds edit`."""

    prompt: str = MISSING
    source: str | None = None
    init: str | None = None
    fit: str | None = None
    negative: str = ""
    suffix: str = ""
    guidance: float | None = None
    source_guidance: float | None = None
    steps: int | None = None
    lr: float | None = None
    batch_size: int = 1
    hold_view: int = 1
    lr_schedule: str = "constant"
    warmup: int = 0
    early_stop: EarlyStopConf = field(default_factory=EarlyStopConf)
    checkpoint_every: int = 100
    render_every: int = 25
    turntable: int = 24
    scene: Any = MISSING
    representation: Any = MISSING
    backbone: Any = MISSING
    loss: Any = MISSING
    editor: Any = None
    optimizer: Any = MISSING
    refine: Any = None
    logger: Any = MISSING


@dataclass
class FitConfig(ResumableConfig):
    """`pds fit`."""

    source: str | None = None
    checkpoint_every: int = 100
    render_every: int = 50
    scene: Any = MISSING
    representation: Any = MISSING
    refine: Any = None  # some scenes choose one for `pds edit`; not used here
    backbone: Any = None  # likewise


@dataclass
class SampleConfig(CommonConfig):
    """`pds sample`."""

    prompt: str = MISSING
    negative: str = ""
    guidance: float | None = None
    n: int = 8
    steps: int = 30
    batch_size: int = 8
    backbone: Any = MISSING


@dataclass
class PretrainDataConf:
    """Where the captioned images are; rendered there first with `toybox`."""

    folder: str = MISSING
    toybox: bool = MISSING
    icons: str | None = None
    per_drawing: int = MISSING
    images: int = MISSING
    around: float = MISSING
    pairs: bool = False  # edits: each picture with its source
    seed: int = MISSING


@dataclass
class PretrainModelConf:
    """The parts of an embedded backbone; keywords of each part's own class."""

    timesteps: int = MISSING
    shift: float = MISSING
    autoencoder: dict[str, Any] = MISSING
    unet: dict[str, Any] = MISSING
    text_encoder: dict[str, Any] = MISSING


@dataclass
class PretrainStageConf:
    """Budget and optimiser of one stage."""

    steps: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING
    warmup: int = MISSING
    decay: float = MISSING  # of the moving average of the weights


@dataclass
class DenoiseConf(PretrainStageConf):
    drop: float = MISSING  # chance that a caption is left out
    drop_source: float = 0.1  # of pairs: chance that the source is
    high_noise: float = MISSING  # share of late timesteps from the noisiest quarter
    high_noise_from: float = MISSING  # what is late: part of the training, in [0, 1]


@dataclass
class DecodeConf(PretrainStageConf):
    noise: float = MISSING  # largest noise on the latents


@dataclass
class PreviewConf:
    """The sample sheet: a row a prompt."""

    prompts: list[str] = MISSING
    columns: int = MISSING
    steps: int = MISSING
    guidance: float = MISSING


@dataclass
class PretrainConfig(ResumableConfig):
    """`pds pretrain`."""

    data: PretrainDataConf = field(default_factory=PretrainDataConf)
    size: int = 64
    into: str = MISSING
    init: str | None = None
    stages: list[str] = MISSING
    model: PretrainModelConf = field(default_factory=PretrainModelConf)
    denoise: DenoiseConf = field(default_factory=DenoiseConf)
    decode: DecodeConf = field(default_factory=DecodeConf)
    probe: PretrainStageConf = field(default_factory=PretrainStageConf)
    similarity: PretrainStageConf = field(default_factory=PretrainStageConf)
    preview: PreviewConf = field(default_factory=PreviewConf)
    checkpoint_every: int = 250
    render_every: int = 500
    log_every: int = 10
    logger: Any = MISSING


@dataclass
class CompareConfig(CommonConfig):
    """`pds compare`."""

    runs: list[str] = field(default_factory=list)
    benchmark: Any = None
    backbone: Any = MISSING


@dataclass
class FinetuneConfig(ResumableConfig):
    """`pds finetune`."""

    images: str = MISSING
    prompt: str = MISSING
    class_prompt: str | None = None
    class_images: int = 100
    prior_weight: float = 1.0
    method: str = "lora"
    rank: int = 16
    steps: int = 400
    batch_size: int = 1
    lr: float | None = None
    warmup: int = 0
    gradient_checkpointing: bool = False
    into: str | None = None
    checkpoint_every: int = 100
    backbone: Any = MISSING


@dataclass
class EvalConfig(CommonConfig):
    """`pds eval`."""

    run: str | None = None
    runs: list[str] = field(default_factory=list)
    by: Any = None  # a setting or a list of them
    clip: str | None = None


@dataclass
class StudyConfig(CommonConfig):
    """`pds study`."""

    runs: list[str] = field(default_factory=list)
    by: Any = None  # a setting or a list of them
    collect: list[str] = field(default_factory=list)
    key: str | None = None
    question: str = MISSING


@dataclass
class ImportConfig(CommonConfig):
    """`pds import`."""

    images: str = MISSING
    matching: str = "exhaustive"
    overlap: int = 10
    camera_model: str = "OPENCV"
    max_size: int | None = 1600


@dataclass
class RenderConfig(CommonConfig):
    """`pds render`."""

    run: str = MISSING
    path: str = MISSING
    frames: int | None = None
    size: int | None = None
    fps: float = MISSING
    depth: bool = MISSING
    elevation: float | None = None
    start: float = MISSING
    sweep: float | None = None


@dataclass
class ExportConfig(CommonConfig):
    """`pds export`."""

    run: str = MISSING
    format: str = MISSING
    extent: float = MISSING
    resolution: int = MISSING
    threshold: float = MISSING
    components: int | None = None
    points: int = MISSING
    opacity: float = MISSING
    pictures: bool = MISSING
    units: str = MISSING


@dataclass
class Target:
    """Any node that is instantiated."""

    _target_: str = MISSING


@dataclass
class AdamConf(Target):
    betas: list[float] = MISSING
    eps: float = MISSING
    weight_decay: float = MISSING


@dataclass
class SGDConf(Target):
    momentum: float = MISSING
    nesterov: bool = MISSING
    weight_decay: float = MISSING


@dataclass
class TensorBoardConf(Target):
    flush_secs: int = MISSING


@dataclass
class WandbConf(Target):
    project: str = MISSING
    name: str | None = None
    entity: str | None = None
    tags: list[str] = MISSING
    mode: str = MISSING


@dataclass
class LossConf(Target):
    guidance: float | None = None
    source_guidance: float | None = None
    timesteps: list[float] = MISSING
    num_inference_steps: int = MISSING
    schedule: str = MISSING
    weighting: str = MISSING
    clip_norm: float | None = None
    clip_value: float | None = None
    source_bank: int | None = None


@dataclass
class PDSConf(LossConf):
    coefficients: str = MISSING
    identity: float = MISSING
    psi: float | None = None
    chi: float | None = None


@dataclass
class CSDConf(LossConf):
    source_weight: float = MISSING


@dataclass
class NFSDConf(LossConf):
    negative: str = MISSING


@dataclass
class SDSBridgeConf(LossConf):
    qualities: str = MISSING
    flaws: str = MISSING


@dataclass
class DreamCatalystConf(LossConf):
    psi: float = MISSING
    delta: float = MISSING
    gamma: float = MISSING


@dataclass
class ISMConf(LossConf):
    delta_t: int = MISSING
    delta_s: int = MISSING


@dataclass
class SDIConf(LossConf):
    inversion_guidance: float = MISSING
    inversion_steps: int = MISSING
    inversion_eta: float = MISSING
    fixed_point: int = MISSING


@dataclass
class IDSConf(LossConf):
    scale: float = MISSING
    iterations: int = MISSING


@dataclass
class CDSConf(LossConf):
    contrast: float = MISSING
    patches: int = MISSING
    patch_sizes: list[int] = MISSING


@dataclass
class VSDConf(LossConf):
    particles: str = MISSING
    rank: int = MISSING
    lora_lr: float = MISSING
    lora_steps: int = MISSING


@dataclass
class SDEditConf(Target):
    steps: int = MISSING
    guidance: float = MISSING
    strength: Any = MISSING  # a ratio, or two
    eta: float = MISSING


@dataclass
class NoEditorConf:
    """No editor. It has the dials that editors share, for sweeps over editors."""

    _target_: Any = None
    steps: int | None = None
    guidance: float | None = None
    strength: Any = None


@dataclass
class DDIMInversionConf(Target):
    steps: int = MISSING
    guidance: float = MISSING
    source_guidance: float = MISSING
    strength: float = MISSING


@dataclass
class InstructPix2PixConf(Target):
    model: str = MISSING
    steps: int = MISSING
    guidance: float = MISSING
    image_guidance: float = MISSING
    strength: Any = MISSING  # a ratio, or two
    device: str = MISSING
    dtype: str = MISSING


@dataclass
class DatasetUpdateConf(Target):
    every: int = MISSING
    batch_size: int = MISSING
    input: str = MISSING
    initial: str = MISSING
    keep_detail: bool = MISSING


@dataclass
class NoRefineConf:
    """Refinement switched off."""

    editor: Any = None


@dataclass
class SDEditRefineConf:
    """The stage `refine` with SDEdit: see `pds_cli.dataset_update`."""

    steps: int = MISSING
    lr: float | None = None
    lr_schedule: str = MISSING
    every: int = MISSING
    batch_size: int = MISSING
    input: str = MISSING
    initial: str = MISSING
    keep_detail: bool = MISSING
    editor: SDEditConf = field(default_factory=SDEditConf)


@dataclass
class ImageSceneConf(Target):
    path: str | None = None
    source_prompt: str | None = None


@dataclass
class SVGSceneConf(Target):
    path: str | None = None
    source_prompt: str | None = None
    size: int = MISSING


@dataclass
class SVGConf(Target):
    parameters: list[str] = MISSING
    render_size: int | None = None
    background: list[float] = MISSING
    point_lr: float = MISSING
    color_lr: float = MISSING
    opacity_lr: float = MISSING
    gradient_lr: float = MISSING
    max_move: float | None = None
    symmetry: float = MISSING
    xing: float = MISSING
    animation: int = MISSING


@dataclass
class CaptureSceneConf(Target):
    path: str | None = None
    source_prompt: str | None = None
    max_size: int | None = None
    background: Any = MISSING  # white | black | [r, g, b]
    source_url: str | None = None


@dataclass
class NerfstudioSceneConf(CaptureSceneConf):
    downscale: int | None = None
    orientation: str = MISSING
    centre: str = MISSING
    auto_scale: bool = MISSING
    eval_interval: int = MISSING


@dataclass
class ColmapSceneConf(NerfstudioSceneConf):
    images: str = MISSING
    masks: str | None = None


@dataclass
class BlenderSceneConf(CaptureSceneConf):
    eval_split: str = MISSING
    eval_every: int = MISSING
    radius: float = MISSING


@dataclass
class FigurineSceneConf(Target):
    figure: dict[str, str] = MISSING
    camera: dict[str, float] = MISSING
    source_prompt: str | None = None
    size: int = MISSING


@dataclass
class Toy2DSceneConf(Target):
    label: str = MISSING
    points: int = MISSING
    noise: float = MISSING
    seed: int = MISSING


@dataclass
class ImageRepresentationConf(Target):
    parametrisation: str = MISSING
    initial: str = MISSING
    export_detail: bool = MISSING


@dataclass
class GridConf:
    """A hash grid: see `pds_cli.representations.nerf.encoding.GridLayout`."""

    levels: int = MISSING
    features: int = MISSING
    log2_table: int = MISSING
    base_resolution: int = MISSING
    growth: float = MISSING


@dataclass
class FitConf:
    """How a representation is fitted: see `pds_cli.fitting.FitSettings`."""

    steps: int = MISSING
    lr: float = MISSING
    views_per_step: int = MISSING
    warmup: int = MISSING
    cache: str | None = None


@dataclass
class NeRFConf(Target):
    grid: GridConf = field(default_factory=GridConf)
    encoding: str = MISSING
    hidden: int = MISSING
    sh_degree: int = MISSING
    density_bias: float = MISSING
    appearance: bool = MISSING
    background: str = MISSING
    render_size: int | None = None
    step: float = MISSING
    occupancy: int = MISSING
    explore: float = MISSING
    density_growth: float = MISSING
    distortion: float = MISSING
    fit_distortion: float = MISSING
    update_every: int = MISSING
    rays: int = MISSING
    chunk: int = MISSING
    network_lr: float = MISSING
    fit: FitConf = field(default_factory=FitConf)


@dataclass
class ToyboxSceneConf(Target):
    figure: dict[str, str] = MISSING
    source_prompt: str | None = None
    size: int = MISSING
    count: int = MISSING
    edit_azimuth: float = MISSING
    held_out: int = MISSING


@dataclass
class PointsConf(Target):
    n: int | None = None
    raster: int = MISSING


@dataclass
class BackboneConf(Target):
    recommended: Any = None


@dataclass
class MixtureConf(BackboneConf):
    points: int = MISSING
    noise: float = MISSING
    std: float = MISSING
    seed: int = MISSING


@dataclass
class EmbeddedConf(BackboneConf):
    model: str = MISSING
    device: str = MISSING


@dataclass
class StableDiffusionConf(BackboneConf):
    model: str = MISSING
    revision: str | None = None
    variant: str | None = None
    local_files_only: bool = MISSING
    dtype: str = MISSING
    device: str = MISSING
    vae_sample: bool = MISSING
    attention_slicing: bool = MISSING
    offload: str = MISSING
    resolution: int | None = None


VERB_SCHEMAS: dict[str, type] = {
    "edit": EditConfig,
    "fit": FitConfig,
    "sample": SampleConfig,
    "pretrain": PretrainConfig,
    "compare": CompareConfig,
    "finetune": FinetuneConfig,
    "eval": EvalConfig,
    "study": StudyConfig,
    "import": ImportConfig,
    "render": RenderConfig,
    "export": ExportConfig,
}

GROUP_SCHEMAS: dict[str, type] = {
    "loss/sds": LossConf,
    "loss/dds": LossConf,
    "loss/pds": PDSConf,
    "loss/pds_plus": PDSConf,
    "loss/csd": CSDConf,
    "loss/nfsd": NFSDConf,
    "loss/sds_bridge": SDSBridgeConf,
    "loss/dreamcatalyst": DreamCatalystConf,
    "loss/ism": ISMConf,
    "loss/sdi": SDIConf,
    "loss/ids": IDSConf,
    "loss/cds": CDSConf,
    "loss/vsd": VSDConf,
    "loss/dataset_update": DatasetUpdateConf,
    "editor/none": NoEditorConf,
    "editor/sdedit": SDEditConf,
    "editor/ddim_inversion": DDIMInversionConf,
    "editor/ddpm_inversion": DDIMInversionConf,
    "editor/instruct_pix2pix": InstructPix2PixConf,
    "scene/figurine": ToyboxSceneConf,
    "scene/figurine2d": FigurineSceneConf,
    "scene/image": ImageSceneConf,
    "scene/svg": SVGSceneConf,
    "scene/cat_icon": SVGSceneConf,
    "scene/toy2d": Toy2DSceneConf,
    "scene/blender": BlenderSceneConf,
    "scene/colmap": ColmapSceneConf,
    **dict.fromkeys(
        (
            *("scene/nerfstudio", "scene/capture", "scene/fangzhou", "scene/yuseung"),
            *("scene/person", "scene/face", "scene/bear", "scene/farm", "scene/campsite"),
        ),
        NerfstudioSceneConf,
    ),
    "representation/nerf": NeRFConf,
    "representation/image": ImageRepresentationConf,
    "representation/svg": SVGConf,
    "representation/points": PointsConf,
    "backbone/mixture": MixtureConf,
    "backbone/toybox": EmbeddedConf,
    "backbone/emoji": EmbeddedConf,
    **dict.fromkeys(
        ("backbone/sd15", "backbone/sd21", "backbone/sdxl", "backbone/local"), StableDiffusionConf
    ),
    "optimizer/adam": AdamConf,
    "optimizer/adamw": AdamConf,
    "optimizer/sgd": SGDConf,
    "refine/none": NoRefineConf,
    "refine/sdedit": SDEditRefineConf,
    "logger/none": Target,
    "logger/tensorboard": TensorBoardConf,
    "logger/wandb": WandbConf,
}


# --- checks --------------------------------------------------------------------------------------

_TEXTS = ("prompt",)
# Where the keys of a class mean what `pds_cli.ranges` says.
_OURS = ("pds_cli.", "torch.optim.")


def keys_of(verb: str) -> set[str]:
    """The keys at the top of a verb's config."""
    return {item.name for item in fields(VERB_SCHEMAS[verb])}


def validate(verb: str, cfg: DictConfig) -> None:
    """Checks values that types cannot: ranges, required texts, the device's name.

    Raises:
        UserError: with the key, its value and what would be right.
    """
    for key in _TEXTS:
        if key not in keys_of(verb):
            continue
        if OmegaConf.is_missing(cfg, key) and "resume" in cfg and cfg.resume:
            continue  # the run that goes on has one
        if OmegaConf.is_missing(cfg, key) or not str(cfg[key] or "").strip():
            raise UserError(
                f"{key} is empty: say what the picture should show, "
                f'for example pds {verb} {key}="a photo of a robot".'
            )
    device = cfg.get("device")
    if device is not None and device not in DEVICES and not _is_cuda_index(device):
        raise UserError(f"device={device} is not a device: use auto, cpu, cuda or cuda:<number>.")
    for key in ("allow_modules", "runs", "collect", "stages"):
        if key in cfg and not OmegaConf.is_missing(cfg, key):
            _check_texts(key, cfg[key])
    recommended = OmegaConf.select(cfg, "backbone.recommended")
    if not isinstance(recommended, DictConfig | None):
        raise UserError(
            f"backbone.recommended={recommended} is no table such as {{steps: 300}}: leave it out, "
            "or give single values as backbone.recommended.steps=300."
        )
    _check_added(cfg, VERB_SCHEMAS[verb])
    for name, value, foreign in _leaves(cfg):
        check(name, value, foreign)


def _check_texts(key: str, value: Any) -> None:
    """Refuses what is no list of texts; an interpolation may have brought anything."""
    if not isinstance(value, ListConfig) or not all(isinstance(text, str) for text in value):
        raise UserError(f"{key}={value} is no list of texts such as [a,b].")


def _check_added(node: DictConfig, schema: type | None, prefix: str = "") -> None:
    """Refuses what `+key=value` added where nobody looks at it: beside a verb's own keys.

    What is built by a class is asked of that class.
    """
    from pds_cli.catalogue import did_you_mean  # which needs this module

    known = [item.name for item in fields(schema)] if schema is not None else None
    for key in node:
        if known is not None and key not in known and "_target_" not in node:
            near = did_you_mean(str(key), known)
            raise UserError(f"{prefix}{key!s} is not a key{near} Keys are {', '.join(known)}.")
        child = node._get_node(key)
        kind = OmegaConf.get_type(child) if isinstance(child, DictConfig) else None
        if isinstance(child, DictConfig) and is_dataclass(kind) and child._content:
            _check_added(child, kind, f"{prefix}{key!s}.")


def _is_cuda_index(device: str) -> bool:
    return device.startswith("cuda:") and device[5:].isdigit()


def _leaves(
    node: DictConfig, prefix: str = "", foreign: bool = False
) -> Iterator[tuple[str, Any, bool]]:
    """Dotted keys with resolved values, and whether a class from outside has them.

    Missing values are left out.
    """
    foreign = foreign or is_foreign(node)
    for key in node:
        if OmegaConf.is_missing(node, key):
            continue
        value = node[key]
        name = f"{prefix}{key!s}"
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{name}.", foreign)
        elif isinstance(value, ListConfig):
            yield name, OmegaConf.to_container(value, resolve=True), foreign
        else:
            yield name, value, foreign


# --- where things are ----------------------------------------------------------------------------


def conf_dir() -> Path:
    """The folder of the shipped YAML files, in a checkout or in an installed package."""
    checkout = Path(__file__).resolve().parent.parent / "conf"
    if (checkout / "edit.yaml").is_file():
        return checkout
    spec = find_spec("pds_cli.conf")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("pds_cli is installed without its conf folder: reinstall the package.")
    return Path(next(iter(spec.submodule_search_locations)))


def config_path() -> str:
    """What Hydra gets as its config path: the installed package, or the checkout's folder."""
    found = conf_dir()
    return "pkg://pds_cli.conf" if found.parent.name == "pds_cli" else str(found)


class Folders:
    """How this process turns `hydra.run.dir` and `hydra.sweep.dir` into folders.

    reserve: check and make the folder at once, so that two runs started in the same second cannot
        share it; off while a config is only shown.
    made: folders that were made, to be taken away where nothing comes of the command.
    sweep: the claim on a sweep's folder.
    """

    reserve = False
    made: ClassVar[list[Path]] = []
    sweep: ClassVar[Any] = None

    @classmethod
    def make(cls, folder: Path) -> None:
        """Makes a folder and those around it, remembering which were not there."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        cls.made += reversed(missing)

    @classmethod
    def tidy(cls) -> None:
        """Takes away the folders that this command made and nothing is in."""
        for folder in reversed(cls.made):
            with suppress(OSError):
                folder.rmdir()
        cls.made.clear()


def output_folder(
    out: str | None,
    resume: str | None,
    base: str,
    overwrite: bool = False,
    benchmark: str | None = None,
) -> str:
    """The folder of a run: `resume`, else `out`, else a new `<base>/<time>`.

    A folder of the same `benchmark` is taken again: those go on by themselves.

    Raises:
        UserError: the folder to resume is not there, `out` is taken (see
            `pds_cli.runs.ownership.refuse_taken`), or the new one cannot be made.
    """
    from pds_cli.runs.ownership import card_of, refuse_taken

    if resume is not None:
        if not str(resume).strip() or not Path(resume).is_dir():
            raise UserError(f"resume={resume} is not a folder: give the run folder to continue.")
        return str(resume)
    if out is not None and Folders.reserve:
        _check_named(out)
        card = card_of(Path(out)) or {}
        if not benchmark or (card.get("verb"), card.get("benchmark")) != ("compare", benchmark):
            refuse_taken(Path(out), overwrite)
    return _made(out, base)


def sweep_folder(
    out: str | None, base: str, overwrite: bool, verb: str, words: Sequence[str]
) -> str:
    """The folder of a sweep: `out`, else a new `<base>/<time>`; claimed by this process.

    A folder in which the same words were swept before is taken again.

    Raises:
        UserError: `out` holds something else, or another process writes it.
    """
    from pds_cli.runs.ownership import Claim, card_of, refuse_taken

    if out is not None and Folders.reserve:
        _check_named(out)
        card = card_of(Path(out)) or {}
        if (card.get("verb"), card.get("sweep")) != (verb, sweep_words(words)):
            refuse_taken(Path(out), overwrite, sweep=True)
    folder = _made(out, base)
    if Folders.reserve:
        Folders.sweep = Claim(Path(folder), verb)
        Folders.sweep.__enter__()
    return folder


def sweep_words(words: Sequence[str]) -> list[str]:
    """The words of a sweep, without those that change no result."""
    return [word for word in words if key_of(word) not in FREE]


def _check_named(out: str) -> None:
    if not str(out).strip():
        raise UserError("out= is empty: name the output folder, or leave out= away.")


def _made(out: str | None, base: str) -> str:
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if not Folders.reserve:
        return str(out) if out is not None else f"{base}/{stamp}"
    try:
        if out is not None:
            Folders.make(Path(out))
            _probe(Path(out))
            return str(out)
        return str(_new_folder(Path(base), stamp))
    except OSError as error:
        where = out if out is not None else base
        raise UserError(
            f"cannot write to the output folder {where} ({error.strerror or error}): "
            "choose another with out=<folder>."
        ) from error


def check_writable(folder: Path, key: str) -> None:
    """Refuses a folder where no file can be made; it is made, if only to find that out.

    Raises:
        UserError: naming the key.
    """
    try:
        Folders.make(folder)
        _probe(folder)
    except OSError as error:
        raise UserError(
            f"cannot write to {key}={folder} ({error.strerror or error}): choose another folder."
        ) from error


def _new_folder(base: Path, stamp: str) -> Path:
    Folders.make(base)
    for name in _names(stamp):
        try:
            (base / name).mkdir()
        except FileExistsError:
            continue
        Folders.made.append(base / name)
        return base / name
    raise AssertionError("unreachable")


def _names(stamp: str) -> Iterable[str]:
    yield stamp
    number = 2
    while True:
        yield f"{stamp}_{number}"
        number += 1


def _probe(folder: Path) -> None:
    """Fails where no file can be made; permission bits alone say little (root, mounts)."""
    probe = folder / ".pds_probe"
    probe.touch()
    probe.unlink(missing_ok=True)


RESULT_3D = Path("exports/nerf.safetensors")
"""Where a run folder has its 3D result."""


def result_of(run: Path | str, key: str = "run") -> Path:
    """The 3D result in a run folder; `key` is what the user called that.

    Raises:
        UserError: the folder is not there or has none.
    """
    if not Path(run).is_dir():
        raise UserError(
            f"{key}={run} is not a folder: give one that pds fit, or pds edit of a 3D scene, wrote."
        )
    found = Path(run) / RESULT_3D
    if not found.is_file():
        raise UserError(
            f"{key}={run} holds no 3D result ({RESULT_3D}): give a finished pds fit, or a pds edit "
            "with representation=nerf."
        )
    return found


def result_folder(prefix: str, key: str, *, _root_: DictConfig) -> str:
    """`out`, or else the folder `<prefix><key's value>` in the run folder `run`.

    Raises:
        UserError: no run is named, or it has no 3D result.
    """
    if OmegaConf.is_missing(_root_, "run"):
        raise UserError("run is missing: say which result, for example run=outputs/fit/… .")
    run, out = Path(_root_.run), OmegaConf.select(_root_, "out")
    if Folders.reserve:
        result_of(run)
    name = prefix + Path(str(OmegaConf.select(_root_, key))).stem
    place = str(run / name) if out is None else str(out)
    return output_folder(place, None, "", bool(OmegaConf.select(_root_, "overwrite")))


def run_folder() -> Path:
    """The output folder of the job that runs now (what a verb's `main` writes to)."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def choice(group: str) -> str:
    """The option that was chosen from a config group, in the job that runs now."""
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().runtime.choices.get(group, ""))


def overrides() -> list[str]:
    """The words of the command line, in the job that runs now."""
    from hydra.core.hydra_config import HydraConfig

    return [str(word) for word in HydraConfig.get().overrides.task]


def key_of(word: str) -> str:
    """The dotted key that a word of the command line is about.

    >>> key_of("+loss.identity=2"), key_of("~editor"), key_of("hydra/launcher=joblib")
    ('loss.identity', 'editor', 'hydra.launcher')
    """
    return word.partition("=")[0].lstrip("+~").partition("@")[0].replace("/", ".")


def given_groups() -> set[str]:
    """The keys at the top that the command line is about, in the job that runs now."""
    return {key_of(word).partition(".")[0] for word in overrides()}


def method_of(loss: str, editor: str) -> str:
    """What edits, for folders and reports: a loss, an editor, or a dataset update with one.

    >>> method_of("pds", "none"), method_of("pds", "sdedit")
    ('pds', 'sdedit')
    >>> method_of("dataset_update", "sdedit")
    'dataset_update_sdedit'
    """
    if editor in ("", "none", "None"):
        return loss
    return f"{loss}_{editor}" if loss == "dataset_update" else editor


def scene_name(init: str | None, scene: str) -> str:
    """The scene's name for folders: the chosen option, or that of the run that `init` names."""
    from pds_cli.runs.ownership import choices_of

    if init is None:
        return scene
    # What is wrong with it is said when it is used.
    return Path(str(choices_of(init).get("scene", "init"))).name


def said_source(text: str, *, _root_: DictConfig) -> str:
    """The `source=` of the command line, or `text` where nothing was said."""
    said = OmegaConf.select(_root_, "source")
    return text if said is None else str(said)


def is_foreign(node: DictConfig) -> bool:
    """Whether a node is built by a class from outside, whose keys mean what it says."""
    known = isinstance(node._content, dict) and not OmegaConf.is_missing(node, "_target_")
    target = node.get("_target_") if known else None
    return isinstance(target, str) and not target.startswith(_OURS)


def _open_foreign_groups() -> None:
    """Lets words name any key of a class from outside; its signature is asked before the run.

    Such a class inherits options that its YAML need not repeat, and which they are is known only
    once its module, and with it torch, is imported. Hydra closes the composed config and applies
    the words to it in one step, so the groups in question are opened in between.
    """
    original = ConfigLoaderImpl._apply_overrides_to_config
    if hasattr(original, "opens_foreign_groups"):
        return

    def apply(overrides: list[Override], cfg: DictConfig) -> None:
        for key in cfg:
            node = cfg._get_node(key)
            if isinstance(node, DictConfig) and is_foreign(node):
                OmegaConf.set_struct(node, False)
        original(overrides, cfg)

    apply.opens_foreign_groups = True  # type: ignore[attr-defined]
    ConfigLoaderImpl._apply_overrides_to_config = staticmethod(apply)  # type: ignore[assignment]


def register() -> None:
    """Registers schemas and the resolvers of our YAML files; safe to call again."""
    store = ConfigStore.instance()
    # Hydra would copy all schemas for each config, a quarter of its time; it copies what it takes.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    for verb, schema in VERB_SCHEMAS.items():
        store.store(group="schema", name=verb, node=schema, provider="pds")
    for option, schema in GROUP_SCHEMAS.items():
        group, _, name = option.rpartition("/")
        store.store(group=f"schema/{group}", name=name, node=schema, provider="pds")
    _open_foreign_groups()
    OmegaConf.register_new_resolver("pds_folder", output_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("pds_sweep", sweep_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("pds_scene", scene_name, replace=True)
    OmegaConf.register_new_resolver("pds_result", result_folder, replace=True)
    OmegaConf.register_new_resolver("pds_source", said_source, replace=True)
    OmegaConf.register_new_resolver("pds_method", method_of, replace=True)


register()
