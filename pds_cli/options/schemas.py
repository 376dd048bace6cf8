"""The schemas that verbs and shipped options have: types, ranges and words of their keys.

A component of the package may do without one: then its class says what its keys are, as for a
class from outside (`pds_cli.options.signature`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import yaml

from pds_cli.options import backbones, benchmarks, editors, losses, representations, runs, scenes
from pds_cli.options.catalogue import conf_dir, shipped_targets
from pds_cli.options.option import Option, below, options_of
from pds_cli.options.pretraining import PretrainConfig
from pds_cli.options.target import Target
from pds_cli.options.verbs import (
    CompareConfig,
    EditConfig,
    EvalConfig,
    ExportConfig,
    FinetuneConfig,
    FitConfig,
    ImportConfig,
    RenderConfig,
    SampleConfig,
    StudyConfig,
)

# Settings that may differ when a run goes on: they change nothing of its result.
FREE = frozenset(
    [
        *("resume", "out", "overwrite", "debug", "device", "logger", "allow_modules"),
        *("checkpoint_every", "render_every", "turntable", "log_every"),
    ]
)

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

# As `/schema/<group>/<name>` in the YAML files.
GROUP_SCHEMAS: dict[str, type] = {
    "loss/sds": losses.LossConf,
    "loss/dds": losses.LossConf,
    "loss/pds": losses.PDSConf,
    "loss/csd": losses.CSDConf,
    "loss/nfsd": losses.NFSDConf,
    "loss/sds_bridge": losses.SDSBridgeConf,
    "loss/dreamcatalyst": losses.DreamCatalystConf,
    "loss/ism": losses.ISMConf,
    "loss/sdi": losses.SDIConf,
    "loss/ids": losses.IDSConf,
    "loss/cds": losses.CDSConf,
    "loss/vsd": losses.VSDConf,
    "loss/dataset_update": losses.DatasetUpdateConf,
    "editor/none": editors.NoEditorConf,
    "editor/sdedit": editors.SDEditConf,
    "editor/ddim_inversion": editors.DDIMInversionConf,
    "editor/ddpm_inversion": editors.DDIMInversionConf,
    "editor/instruct_pix2pix": editors.InstructPix2PixConf,
    "scene/figurine": scenes.ToyboxSceneConf,
    "scene/figurine2d": scenes.FigurineSceneConf,
    "scene/image": scenes.ImageSceneConf,
    "scene/svg": scenes.SVGSceneConf,
    "scene/toy2d": scenes.Toy2DSceneConf,
    "scene/splats": scenes.SplatSceneConf,
    "scene/blender": scenes.BlenderSceneConf,
    "scene/colmap": scenes.ColmapSceneConf,
    "scene/nerfstudio": scenes.NerfstudioSceneConf,
    "representation/nerf": representations.NeRFConf,
    "representation/splats": representations.SplatsConf,
    "representation/image": representations.ImageRepresentationConf,
    "representation/svg": representations.SVGConf,
    "representation/points": representations.PointsConf,
    "backbone/mixture": backbones.MixtureConf,
    "backbone/toybox": backbones.EmbeddedConf,
    "backbone/emoji": backbones.EmbeddedConf,
    "backbone/gallery": backbones.GalleryConf,
    "backbone/toybox_exact": backbones.ToyboxExactConf,
    "backbone/stable_diffusion": backbones.StableDiffusionConf,
    "optimizer/adam": runs.AdamConf,
    "optimizer/adamw": runs.AdamConf,
    "optimizer/sgd": runs.SGDConf,
    "refine/none": editors.NoRefineConf,
    "refine/sdedit": editors.SDEditRefineConf,
    "logger/none": Target,
    "logger/tensorboard": runs.TensorBoardConf,
    "logger/wandb": runs.WandbConf,
}

# What all components of a group have; the words of one that has no schema of its own.
BASES: dict[str, type] = {
    "loss": losses.LossConf,
    "backbone": backbones.BackboneConf,
    "refine": editors.SDEditRefineConf,
    "benchmark": benchmarks.BenchmarkConf,
}


@functools.cache
def schema_of(group: str, option: str) -> type | None:
    """The schema that an option's YAML names, or the YAML that it begins with; None: none.

    >>> schema_of("backbone", "sd15").__name__, schema_of("benchmark", "toybox")
    ('StableDiffusionConf', None)
    """
    path = conf_dir() / group / f"{option}.yaml"
    if not path.is_file():
        return None
    said = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for item in said.get("defaults", []):
        if not isinstance(item, str) or item == "_self_":
            continue
        name = item.partition("@")[0]
        found = GROUP_SCHEMAS.get(name.removeprefix("/schema/"))
        if found is None and not name.startswith("/"):
            found = schema_of(group, name)
        if found is not None:
            return found
    return None


def schema_of_class(group: str, target: str) -> type | None:
    """The schema of a shipped class, by the options that name it."""
    for option in shipped_targets(group).get(target, ()):
        if found := schema_of(group, option):
            return found
    return None


@functools.cache
def group_schemas(group: str) -> tuple[type, ...]:
    """The schemas of a group, and what all of it has."""
    found = [schema for name, schema in GROUP_SCHEMAS.items() if name.startswith(f"{group}/")]
    return tuple(dict.fromkeys([*found, *([BASES[group]] if group in BASES else [])]))


@functools.cache
def range_by_name() -> dict[str, Option]:
    """What a number's name means in a table without types, as `backbone.recommended` is.

    That is what it means in a group, or else in a verb.
    """
    return {name: said for name, said in _all() if said.range is not None}


@functools.cache
def text_by_name() -> frozenset[str]:
    """Names that hold free text in some verb or group."""
    return frozenset(name for name, said in _all() if said.text)


def _all() -> Iterator[tuple[str, Option]]:
    for schema in (*VERB_SCHEMAS.values(), *BASES.values(), *GROUP_SCHEMAS.values()):
        yield from _leaves(schema)


def _leaves(schema: type) -> Iterator[tuple[str, Option]]:
    for name, said in options_of(schema).items():
        table = below(schema, name)
        if table is None:
            yield name, said
        else:
            yield from _leaves(table)
