"""The page of every key, `docs/options.md`: `python -m pds_cli.figures.options docs/options.md`."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pds_cli.config import composed, register
from pds_cli.files import write_text
from pds_cli.markdown import table
from pds_cli.options.catalogue import catalogue
from pds_cli.options.checks import keys_of
from pds_cli.options.described import Key, keys_in, kind_of, option_keys
from pds_cli.options.option import options_of, types_of
from pds_cli.options.schemas import BASES, GROUP_SCHEMAS, VERB_SCHEMAS, schema_of
from pds_cli.options.verbs import CommonConfig, ResumableConfig

INTRO = """# Every key

Written by `make options` from the schemas in `pds_cli/options/` and the files in `conf/`; \
`pds <verb> --help` says the same of what is chosen. A value is what a key has where nothing is \
said: `???` must be said, `null` is none. † A backbone may recommend another, in \
`backbone.recommended`. A text is free: commas, quotes and brackets in it mean nothing \
([cli.md](cli.md#free-text)). Numbers are finite; where no upper end is said, whole ones have \
100,000,000 or more."""
RECOMMENDED = "backbone.recommended"
HEAD = ["key", "value", "what it is", "what it can be"]
LISTED = ("benchmark", "experiment")


def page() -> str:
    """The page as Markdown."""
    os.environ.pop("PDS_DATA", None)  # a folder of this machine
    groups = catalogue()
    parts = [INTRO, *_verbs(set(groups))]
    for group, options in groups.items():
        parts.append(f"## {group}")
        # What a benchmark runs, and the values of an experiment, are said best by their files.
        parts += _listed(group, options) if group in LISTED else _group(group, options)
    return "\n\n".join(parts) + "\n"


def _verbs(groups: set[str]) -> Iterator[str]:
    yield "## Verbs"
    shared = {**options_of(CommonConfig), **options_of(ResumableConfig)}
    cfg = _config("edit", [])
    yield f"### All verbs\n\n{_table(keys_in(cfg, VERB_SCHEMAS['edit'], only=list(shared)), cfg)}"
    for verb, schema in VERB_SCHEMAS.items():
        said = options_of(schema)
        own = [key for key in said if key not in groups and said[key] != shared.get(key)]
        cfg = _config(verb, [])
        yield f"### pds {verb}\n\n{_table(keys_in(cfg, schema, only=own), cfg)}"


def _listed(group: str, options: dict[str, str]) -> Iterator[str]:
    """A group's options in a table, and what their keys mean where that is known."""
    yield table(["option", "what it is"], ([f"`{name}`", options[name]] for name in options))
    if group in BASES:
        types = types_of(BASES[group])
        rows = (
            [f"`{group}.{key}`", said.help, _plain(kind_of(said, types[key]))]
            for key, said in options_of(BASES[group]).items()
        )
        yield table(["key", *HEAD[2:]], rows)


def _group(group: str, options: dict[str, str]) -> Iterator[str]:
    """A group's options: what they share first, and of each what it has otherwise."""
    keys = {name: _of_option(group, name) for name in options}
    common = _common(group, keys.values())
    if common:
        yield f"### All of them\n\n{_table(common)}"
    described: dict[type, str] = {}
    for name in sorted(options, key=lambda name: (f"{group}/{name}" not in GROUP_SCHEMAS, name)):
        schema = schema_of(group, name)
        before = described.get(schema) if schema is not None else None
        known = [*common, *(keys[before] if before else [])]
        rows = [key for key in keys[name] if key not in known]
        said = f"As `{before}`{', but:' if rows else '.'}" if before else ""
        if schema is not None:
            described.setdefault(schema, name)
        texts = [f"### {group}={name}", options[name], said, _table(rows) if rows else ""]
        yield "\n\n".join(text for text in texts if text)


def _common(group: str, options: Iterable[Sequence[Key]]) -> list[Key]:
    """The keys that all losses have, each as most of them have it; likewise of another group."""
    names = [f"{group}.{name}" for name in options_of(BASES[group])] if group in BASES else []
    if len(names) < 2 or group == "refine":
        return []
    found: list[Key] = []
    for name in names:
        said = Counter(key for keys in options for key in keys if key.name == name)
        found += [key for key, _ in said.most_common(1)]
    return found


def _of_option(group: str, name: str) -> list[Key]:
    verb = next(verb for verb in VERB_SCHEMAS if group in keys_of(verb))
    cfg = _config(verb, [f"{group}={name}"], keep=group)
    node = cfg[group]
    return list(_marked(option_keys(group, node), cfg)) if isinstance(node, DictConfig) else []


def _config(verb: str, words: list[str], keep: str = "") -> Any:
    """A verb's config with a backbone that recommends nothing, unless that is to be kept."""
    cfg = composed(verb, words)
    OmegaConf.set_struct(cfg, False)
    if "backbone" in cfg and keep != "backbone":
        cfg.backbone = {"recommended": {}}
    return cfg


def _marked(keys: Iterable[Key], cfg: Any) -> Iterator[Key]:
    """The keys, a dagger at the values that a backbone may recommend."""
    for key in keys:
        parent, _, last = key.name.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        raw = node._get_node(last) if isinstance(node, DictConfig) and last in node else None
        marked = raw is not None and RECOMMENDED in str(raw._value())
        yield replace(key, value=f"`{key.value}`{' †' if marked else ''}")


def _table(keys: Iterable[Key], cfg: Any = None) -> str:
    """A table of keys; with a config, of ones that have no mark yet."""
    marked = keys if cfg is None else _marked(keys, cfg)
    rows = ([f"`{key.name}`", key.value, _plain(key.help), _plain(key.can_be)] for key in marked)
    return table(HEAD, rows)


def _plain(text: str) -> str:
    """Words that Markdown leaves as they are."""
    return text.replace(" | ", ", ").replace("<", "&lt;")


def main(argv: list[str]) -> None:
    """Writes the page to the file that is named."""
    register()
    write_text(Path(argv[0]), page())


if __name__ == "__main__":
    main(sys.argv[1:])
