"""What Hydra is told of us: the schemas of every key, and the resolvers of our YAML files.

A YAML from outside the package needs no schema: `scene`, `loss` and the other groups are open at
the top level.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from pds_cli.options.catalogue import conf_dir
from pds_cli.options.checks import speaks_for_itself
from pds_cli.options.job import method_of
from pds_cli.options.schemas import GROUP_SCHEMAS, VERB_SCHEMAS
from pds_cli.runs.outputs import output_folder, result_folder, scene_name, sweep_folder


def said_source(text: str, *, _root_: DictConfig) -> str:
    """The `source=` of the command line, or `text` where nothing was said."""
    said = OmegaConf.select(_root_, "source")
    return text if said is None else str(said)


def _open_foreign_groups() -> None:
    """Lets words name any key of a class without a schema; its signature is asked before the run.

    Such a class, from outside or of the package, inherits options that its YAML need not repeat.
    Which they are is known only once its module, and with it torch, is imported. Hydra closes the
    composed config and applies the words to it in one step, so the groups in question are opened
    in between.
    """
    original = ConfigLoaderImpl._apply_overrides_to_config
    if hasattr(original, "opens_foreign_groups"):
        return

    def apply(overrides: list[Override], cfg: DictConfig) -> None:
        for key in cfg:
            node = cfg._get_node(key)
            if isinstance(node, DictConfig) and speaks_for_itself(str(key), node):
                OmegaConf.set_struct(node, False)
        original(overrides, cfg)

    apply.opens_foreign_groups = True  # type: ignore[attr-defined]
    ConfigLoaderImpl._apply_overrides_to_config = staticmethod(apply)  # type: ignore[assignment]


def composed(
    config: str, words: Sequence[str], config_dirs: Iterable[Path] = (), hydra: bool = False
) -> DictConfig:
    """A verb's config, without running anything.

    Args:
        words: Hydra's overrides.
        config_dirs: folders of groups beside ours.
        hydra: with Hydra's own part, which holds the options that were chosen.
    """
    search = ",".join(f"'file://{folder.absolute()}'" for folder in config_dirs)
    more = [f"hydra.searchpath=[{search}]"] if search else []
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(config, [*words, *more], return_hydra_config=hydra)


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
