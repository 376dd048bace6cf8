"""Checks of values that types cannot make: ranges, choices, texts that must not be empty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from pds_cli.errors import UserError, check_choice, did_you_mean
from pds_cli.options.option import Option, below, options_of
from pds_cli.options.ranges import FINITE, shown
from pds_cli.options.schemas import BASES, VERB_SCHEMAS, range_by_name, schema_of_class
from pds_cli.options.signature import keywords_of
from pds_cli.options.verbs import DEVICES

_TEXTS = ("prompt",)
# Annotation → the types of its values, and what they are called.
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a text"),
}
# Where the keys of a class mean what the schemas say.
_OURS = ("pds_cli.", "torch.optim.")


def keys_of(verb: str) -> set[str]:
    """The keys at the top of a verb's config."""
    return {item.name for item in fields(VERB_SCHEMAS[verb])}


def validate(verb: str, cfg: DictConfig) -> None:
    """Checks values that types cannot: ranges, choices, required texts, the device's name.

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
    for leaf in _leaves(cfg, VERB_SCHEMAS[verb]):
        leaf.check()


def _check_texts(key: str, value: Any) -> None:
    """Refuses what is no list of texts; an interpolation may have brought anything."""
    if not isinstance(value, ListConfig) or not all(isinstance(text, str) for text in value):
        raise UserError(f"{key}={value} is no list of texts such as [a,b].")


def _check_added(node: DictConfig, schema: type | None, prefix: str = "") -> None:
    """Refuses what `+key=value` added where nobody looks at it: beside a verb's own keys.

    What is built by a class is asked of that class.
    """
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


# --- values --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """A value of a config, without interpolations, where it stands, and what is known of it.

    key: with dots.
    option: None where no schema speaks of it; its name then means what it means elsewhere.
    foreign: a class from outside has it, whose keys may mean something else.
    kind: its annotation, in a class of the package that has no schema, or in the schema that
        describes a table without types.
    """

    key: str
    value: Any
    option: Option | None = None
    foreign: bool = False
    kind: str = ""

    def check(self) -> None:
        """Refuses numbers out of range, lists of other lengths, and texts that are no choice.

        Raises:
            UserError: with the key, its value and what would be right.
        """
        said = None if self.foreign else self.option or named(self.key)
        if said is not None:
            self._check_length(said)
        wanted = said.range if said and said.range else FINITE
        for number in _numbers(self.value):
            if not wanted.holds(number):
                raise UserError(
                    f"{self.key}={shown(self.value)} is out of range: it must be {wanted}."
                )
        self._check_kind()
        if said is not None and said.ascending and isinstance(self.value, list):
            self._check_order()
        if self.option is not None and not self.foreign and not self.option.or_else:
            self._check_choices(self.option)

    def _check_kind(self) -> None:
        """Whether a single value has the type of its annotation; the class checks the others."""
        kinds = self.kind.split(" | ")
        if not set(kinds) <= {*_KINDS, "None"} or (self.value is None and "None" in kinds):
            return
        right = (kind for name in kinds if name != "None" for kind in _KINDS[name][0])
        if type(self.value) not in right:
            what = " or ".join(_KINDS[name][1] for name in kinds if name != "None")
            raise UserError(f"{self.key}={shown(self.value)} is not {what}.")

    def _check_choices(self, said: Option) -> None:
        if not said.choices:
            return
        if isinstance(self.value, str):
            check_choice(self.key, self.value, said.choices)
        if isinstance(self.value, list) and any(each not in said.choices for each in self.value):
            raise UserError(
                f"{self.key}={shown(self.value)}: choose from {', '.join(said.choices)}"
            )

    def _check_length(self, said: Option) -> None:
        """Whether a list of numbers has as many as it takes."""
        # A grey alone is no colour: it takes three.
        alone = len(said.example) == 3 and isinstance(self.value, int | float)
        numbers = [self.value] if alone else self.value
        if not said.example or not isinstance(numbers, list):
            return
        length = len(said.example)
        if len(numbers) != length or len(list(_numbers(numbers))) != length:
            count = {2: "two", 3: "three"}[length]
            span = f" {said.range.span}" if said.range and said.range.closed else ""
            example = ",".join(f"{number:g}" for number in said.example)
            raise UserError(
                f"{self.key}={shown(self.value)} must be {count} numbers{span}, "
                f"for example [{example}]."
            )

    def _check_order(self) -> None:
        if sorted(self.value) != self.value:
            raise UserError(
                f"{self.key}={shown(self.value)} must be two ascending ratios between 0 and 1."
            )


def named(key: str) -> Option | None:
    """What a number's name says of it where no schema does; else the name of what holds it.

    >>> str(named("backbone.recommended.guidance.dds").range)
    'a finite number'
    """
    known = range_by_name()
    return next((known[part] for part in reversed(key.split(".")) if part in known), None)


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _leaves(
    node: DictConfig, schema: type | None, prefix: str = "", foreign: bool = False
) -> Iterator[Leaf]:
    """All values but missing ones, each with its option."""
    foreign = foreign or is_foreign(node)
    said = options_of(schema) if schema is not None else {}
    bare = schema is None or schema in BASES.values()
    own = keywords_of(str(node.get("_target_"))) if bare and "_target_" in node else {}
    untyped = said and not foreign and OmegaConf.get_type(node) is dict and "_target_" not in node
    kinds = {item.name: str(item.type) for item in fields(schema)} if schema and untyped else {}
    for key in node:
        if OmegaConf.is_missing(node, key):
            continue
        value, name = node[key], f"{prefix}{key!s}"
        if isinstance(value, DictConfig):
            inside = below(schema, str(key)) if schema is not None else None
            yield from _leaves(value, inside or schema_at(str(key), value), f"{name}.", foreign)
            continue
        if isinstance(value, ListConfig):
            value = OmegaConf.to_container(value, resolve=True)
        kind = own[str(key)].kind if str(key) in own else kinds.get(str(key), "")
        yield Leaf(name, value, said.get(str(key)), foreign, kind)


def schema_at(key: str, node: DictConfig) -> type | None:
    """The schema of a group's node: its type, or that of the class it names."""
    kind = OmegaConf.get_type(node)
    if isinstance(kind, type) and is_dataclass(kind):
        return kind
    target = node.get("_target_") if "_target_" in node else None
    found = schema_of_class(key, target) if isinstance(target, str) else None
    return found or BASES.get(key)


def speaks_for_itself(group: str, node: DictConfig) -> bool:
    """Whether a class alone says which keys a group's node has, as no schema does."""
    if is_foreign(node) or group == "benchmark" or is_dataclass(OmegaConf.get_type(node)):
        return is_foreign(node)
    target = node.get("_target_") if "_target_" in node else None
    ours = isinstance(target, str) and target.startswith("pds_cli.")
    return ours and schema_of_class(group, str(target)) is None


def is_foreign(node: DictConfig) -> bool:
    """Whether a node is built by a class from outside, whose keys mean what it says."""
    known = isinstance(node._content, dict) and not OmegaConf.is_missing(node, "_target_")
    target = node.get("_target_") if known else None
    return isinstance(target, str) and not target.startswith(_OURS)
