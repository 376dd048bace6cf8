"""Every number of every config has a range, and what lies outside is refused."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Answer
from hydra import compose, initialize_config_dir
from omegaconf import AnyNode, DictConfig, FloatNode, IntegerNode, ListConfig, OmegaConf

from pds_cli.errors import UserError
from pds_cli.options.catalogue import catalogue, conf_dir
from pds_cli.options.checks import Leaf, keys_of, named, validate
from pds_cli.options.ranges import Range, shown, whole
from pds_cli.options.schemas import VERB_SCHEMAS, schema_of

HUGE = 10**400
COLOURS = {"scene.background"}  # a word by default


def configs() -> Iterator[tuple[str, Any]]:
    """Every verb's config; `pds edit` with every kind of option; and every benchmark."""
    kinds: dict[str, dict[type, str]] = {}
    for group, options in catalogue().items():
        for name in options:
            if schema := schema_of(group, name):
                kinds.setdefault(group, {}).setdefault(schema, name)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for verb in VERB_SCHEMAS:
            said = [f"{key}=x" for key in ("prompt", "images", "run") if key in keys_of(verb)]
            mine = {g: list(names.values()) for g, names in kinds.items() if verb == "edit"}
            # The first options of all groups together, then the second, …: this stays quick.
            for row in range(max(map(len, mine.values()), default=1)):
                words = [f"{g}={names[row]}" for g, names in mine.items() if row < len(names)]
                yield verb, compose(verb, [*words, *said])
    for path in (conf_dir() / "benchmark").glob("*.yaml"):
        around = {"seed": 0, "allow_modules": [], "backbone": {"model": "x"}}
        yield "compare", OmegaConf.create({**around, "benchmark": OmegaConf.load(path)})


def numbers(node: Any, prefix: str = "") -> Iterator[str]:
    """Keys of all numbers, and of those that have none yet but are typed so."""
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        child = node._get_node(key)
        name = f"{prefix}{key!s}" if isinstance(node, DictConfig) else prefix.rstrip(".")
        if isinstance(child, ListConfig) and child._metadata.element_type in (int, float):
            yield name
        elif isinstance(child, DictConfig | ListConfig):
            if not (child._is_none() or child._is_missing() or child._is_interpolation()):
                yield from numbers(child, f"{name}.")
        elif isinstance(child, IntegerNode | FloatNode) or type(child._value()) in (int, float):
            yield name


@pytest.fixture(scope="module")
def composed() -> list[tuple[str, Any]]:
    return list(configs())


def test_every_number_of_every_verb_and_group_has_a_range(composed: list[tuple[str, Any]]) -> None:
    found = {name for _, cfg in composed for name in numbers(cfg)}
    assert len(found) > 200, "the walk finds what there is"
    assert {"fps", "scene.camera.distance", "loss.patch_sizes", "editor.strength"} <= found
    without = sorted(name for name in found if named(name) is None)
    assert not without, f"state their ranges in pds_cli/options: {without}"


@pytest.mark.parametrize("value", [math.nan, HUGE], ids=["nan", "huge"])
def test_no_number_may_be_what_is_none(composed: list[tuple[str, Any]], value: float) -> None:
    """Through `validate`, as a run does it; the others of their kind through the check alone."""
    done: set[str] = set()
    for verb, cfg in composed:
        validate(verb, cfg)
        for name in set(numbers(cfg)) - done:
            done.add(name)
            with pytest.raises(UserError, match="out of range") as refusal, put(cfg, name, value):
                validate(verb, cfg)
            assert str(refusal.value).startswith(f"{name}=") and len(str(refusal.value)) < 250
            for other in (math.inf, -math.inf, -HUGE):
                lone = (
                    "three numbers from 0 to 1" if name.endswith("background") else "out of range"
                )
                with pytest.raises(UserError, match=lone):
                    Leaf(name, other).check()
    assert len(done) > 200


@contextmanager
def put(cfg: Any, name: str, value: float) -> Iterator[None]:
    """Has a number at a key for a while; everywhere in a list where one stands there."""
    parent, _, last = name.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    before = node._get_node(last)
    said = named(name)
    count = len(said.example) if said is not None and said.example else 1
    listed = [value] * count if isinstance(before, ListConfig) else None
    bare = AnyNode(value) if listed is None else OmegaConf.create(listed)
    node._content[last] = bare  # a typed node takes no integer of 400 digits
    bare._set_parent(node)
    bare._set_key(last)
    try:
        yield
    finally:
        node._content[last] = before


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("scene.camera.distance=0", "above 0"),
        ("scene.camera.elevation=91", "from -89 to 89"),
        ("scene.background=7", "three numbers from 0 to 1"),
        ("scene.background=0.5", "three numbers"),
        ("scene.background=[0,0]", "three numbers"),
        ("representation.background=[0,0,2]", "from 0 to 1"),
        ("representation.render_size=0", "at least 8"),
        ("representation.grid.log2_table=60", "at most 24"),
        ("representation.rays=0", "at least 1"),
        ("hold_view=0", "at least 1"),
        ("early_stop.patience=-1", "at least 0"),
        ("turntable=1000000000", "at most 10,000"),
        ("batch_size=1000000000", "at most 65,536"),
        ("optimizer.betas=[0.9,1]", "below 1"),
        ("optimizer.betas=[0.9]", "two numbers"),
        ("loss.timesteps=[0.9,0.1]", "ascending"),
        ("loss.timesteps=[0.1,0.5,0.9]", "two numbers"),
        ("loss.patch_sizes=[1,0]", "at least 1"),
        ("loss.delta_t=0", "at least 1"),
        ("editor.strength=2", "from 0 to 1"),
        ("editor.eta=-1", "from 0 to 1"),
        ("backbone.recommended.steps=0", "at least 1"),
        ("fps=0", "above 0"),
        ("fps=1.0e+9", "at most 1,000"),
        ("n=10000000000", "at most 100,000"),
        ("model.unet.layers_per_block=0", "at least 1"),
        ("model.unet.layers_per_block=1.5", "a whole number"),
        ("model.unet.block_out_channels=[96,0]", "at least 1"),
        ("size=1000000", "at most 16,384"),
        ("denoise.decay=1", "below 1"),
        ("log_every=0", "at least 1"),
        ("overlap=0", "at least 1"),
        ("prior_weight=-1", "at least 0"),
    ],
)
def test_nonsense_is_refused(composed: list[tuple[str, Any]], word: str, said: str) -> None:
    key, _, value = word.partition("=")
    verb, cfg = next((verb, cfg) for verb, cfg in composed if key in set(numbers(cfg)) | COLOURS)
    cfg = copy.deepcopy(cfg)
    OmegaConf.update(cfg, key, yaml.safe_load(value), force_add=key in COLOURS)
    with pytest.raises(UserError, match=re.escape(said)) as refusal:
        validate(verb, cfg)
    assert str(refusal.value).startswith(f"{key}=")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["edit", "prompt=x", "scene.camera.distance=nan"], "scene.camera.distance=nan"),
        (["edit", "prompt=x", "early_stop.min_delta=-inf"], "early_stop.min_delta=-inf"),
        (["compare", "benchmark=toybox", "benchmark.lr=inf"], "benchmark.lr=inf"),
    ],
)
def test_a_run_says_so_before_anything_is_built(
    pds: Callable[..., Answer], words: list[str], said: str
) -> None:
    answer = pds(*words)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert f"{said} is out of range: it must be a finite number" in answer.err
    assert not list(Path().rglob("config.yaml"))


def test_a_class_from_outside_has_finite_numbers_and_its_own_meaning_of_names() -> None:
    cfg = OmegaConf.create(
        {"scene": {"_target_": "mine.Spring", "strength": 3.0, "deep": [{"step": -5}]}}
    )
    validate("fit", cfg)
    cfg.scene.deep[0].step = math.nan
    with pytest.raises(
        UserError, match=r"scene\.deep=.* is out of range: it must be a finite number"
    ):
        validate("fit", cfg)


def test_what_is_said_of_a_range() -> None:
    assert str(whole(1, 100_000)) == "a whole number of at least 1 and at most 100,000"
    assert str(Range(0, 1, below=True)) == "a finite number of at least 0 and below 1"
    assert str(Range(0, above=True)) == "a finite number above 0"
    assert str(Range()) == "a finite number"
    assert shown(10**5000) == "a number of thousands of digits"
    assert len(shown("x" * 500)) < 60
    assert not Range().holds(2**63) and Range().holds(-(2**63 - 1)) and not whole(1, 5).holds(2.0)
