"""The types of every key: of the verbs, and of the shipped options of each group.

The values stand in `conf/`. A YAML from outside the package needs no schema.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

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
    """When a stage ends early: see `pds_cli.training.trainer.EarlyStop`."""

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
    """The stage `refine` with SDEdit: see `pds_cli.training.dataset_update`."""

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
    """How a representation is fitted: see `pds_cli.representations.base.FitSettings`."""

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
    "scene/toy2d": Toy2DSceneConf,
    "scene/blender": BlenderSceneConf,
    "scene/colmap": ColmapSceneConf,
    "scene/nerfstudio": NerfstudioSceneConf,
    "representation/nerf": NeRFConf,
    "representation/image": ImageRepresentationConf,
    "representation/svg": SVGConf,
    "representation/points": PointsConf,
    "backbone/mixture": MixtureConf,
    "backbone/toybox": EmbeddedConf,
    "backbone/emoji": EmbeddedConf,
    "backbone/stable_diffusion": StableDiffusionConf,
    "optimizer/adam": AdamConf,
    "optimizer/adamw": AdamConf,
    "optimizer/sgd": SGDConf,
    "refine/none": NoRefineConf,
    "refine/sdedit": SDEditRefineConf,
    "logger/none": Target,
    "logger/tensorboard": TensorBoardConf,
    "logger/wandb": WandbConf,
}
