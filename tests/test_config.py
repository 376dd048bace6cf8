"""Configuration: shipped YAMLs against their constructors, free text, and what may be built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pds_cli.errors import UserError
from pds_cli.instantiate import (
    CONTRACTS,
    _contracted,
    check_target,
    escape_text,
    instantiate,
    resolve_config,
)
from pds_cli.options import verbs
from pds_cli.options.catalogue import catalogue, conf_dir, describe, shipped_targets
from pds_cli.options.checks import keys_of, validate
from pds_cli.options.option import below, options_of, types_of
from pds_cli.options.schemas import BASES, GROUP_SCHEMAS, VERB_SCHEMAS, schema_of
from pds_cli.options.texts import FREE_TEXT, FreeText
from pds_cli.overrides import quote_free_text

# Benchmarks and experiments hold configs of other groups.
OPTIONS = [
    f"{group}/{option}"
    for group, options in catalogue().items()
    for option in options
    if group not in ("benchmark", "experiment")
]
# Letters that mean something to a shell, to Hydra or to OmegaConf, and some that do not.
TEXT = st.text(
    st.one_of(
        st.sampled_from("\\\\\\'\"${}[]()=,:;~+@#%&*?!|/<> .-_ab1\té名🙂"),
        st.characters(exclude_categories=("Cs", "Cc")),
    ),
    max_size=24,
).filter(lambda text: text not in ("null", "???"))
FEW = settings(max_examples=15, deadline=None)


def composed(*overrides: str, config: str = "edit") -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(config, list(overrides))


# --- the shipped files ---------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
def test_each_shipped_option_begins_with_its_description(option: str) -> None:
    text = describe(conf_dir() / f"{option}.yaml")
    assert 10 < len(text) < 120, text


@pytest.mark.parametrize("option", OPTIONS)
def test_each_shipped_option_is_typed_and_fits_its_constructor(option: str) -> None:
    group = option.rpartition("/")[0]
    config = next(verb for verb in VERB_SCHEMAS if group in keys_of(verb))
    node = composed(f"{group}={option.rpartition('/')[2]}", config=config)[group]
    schema = schema_of(group, option.rpartition("/")[2])
    assert schema is None or OmegaConf.get_type(node) is schema
    if node.get("_target_") is None:
        return
    signature = inspect.signature(check_target(group, node._target_))
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return
    keys = {key for key in node if not key.startswith("_")}
    assert keys <= set(signature.parameters), f"{node._target_} takes {list(signature.parameters)}"


# What an option has otherwise than its class: that is what makes it an option of its own, or the
# class has no default that would be right. `*`: every option of the group.
OWN_VALUES = {
    ("scene/*", "source_prompt"),
    ("scene/*", "source_url"),
    ("scene/*", "path"),
    ("scene/*", "recommended"),
    ("scene/figurine", "figure"),  # said in full, for those who look
    ("scene/figurine2d", "figure"),
    ("scene/figurine2d", "camera"),
    ("backbone/*", "recommended"),
    ("backbone/emoji", "model"),
    ("backbone/toybox_exact", "figure"),  # the scene's
    ("backbone/toybox_exact", "camera"),
    ("backbone/toybox_exact", "prompts"),
    ("backbone/local", "local_files_only"),
    ("backbone/sdxl", "variant"),
    ("loss/pds_plus", "schedule"),
    ("representation/splats", "fit.cache"),
    ("representation/nerf", "fit.cache"),  # a folder is of the command line alone
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_class_and_its_yaml_agree_on_every_default(option: str) -> None:
    """Where the backbone recommends nothing; what has no default in Python is left out."""
    group, _, name = option.partition("/")
    config = next(verb for verb in VERB_SCHEMAS if group in keys_of(verb))
    cfg = composed(f"{group}={name}", config=config)
    if "backbone" in cfg and group != "backbone":
        cfg.backbone = {"recommended": {}}
    node: Any = OmegaConf.to_container(cfg[group], resolve=True)
    if group == "refine" or node.get("_target_") is None:
        return  # a stage has no class, and its editor's values are its own
    said = dict(defaults(check_target(group, node.pop("_target_")), node))
    for key, (value, default) in said.items():
        if not {(option, key), (f"{group}/*", key)} & OWN_VALUES:
            assert value == default, f"{option}: {key} is {value}, and {default} in Python"


def test_what_a_class_and_its_yaml_disagree_on_is_named_for_a_reason() -> None:
    names = {option for option, _ in OWN_VALUES}
    assert {name for name in names if "*" not in name} <= set(OPTIONS)


def defaults(target: type, node: dict[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Key → its value in a node and its default in Python, where there is one."""
    from pds_cli.representations.base import FitSettings
    from pds_cli.representations.nerf.encoding import GridLayout

    parts = {"grid": GridLayout, "fit": getattr(target, "Fit", FitSettings)}
    for key, parameter in inspect.signature(target).parameters.items():
        if isinstance(node.get(key), dict) and key in parts:
            for inner, pair in defaults(parts[key], node[key]):
                yield f"{key}.{inner}", pair
        elif key in node and parameter.default is not parameter.empty:
            default = parameter.default
            yield key, (node[key], list(default) if isinstance(default, tuple) else default)


@pytest.mark.parametrize("name", sorted(catalogue()["loss"]))
def test_a_yaml_of_a_loss_has_every_key_of_it(name: str) -> None:
    from pds_cli.losses.base import Loss

    node = composed(f"loss={name}").loss
    kind = check_target("loss", node._target_)
    if issubclass(kind, Loss) and schema_of("loss", name):
        assert {*node} - {"_target_"} == set(inspect.signature(kind).parameters)


@pytest.mark.parametrize("experiment", sorted(catalogue()["experiment"]))
def test_each_experiment_composes_and_says_what_it_is(experiment: str) -> None:
    assert 10 < len(describe(conf_dir() / f"experiment/{experiment}.yaml")) < 120
    cfg = composed(f"experiment={experiment}", "prompt=a dog", "steps=7")
    validate("edit", cfg)
    assert cfg.steps == 7, "the command line has the last word"
    if experiment.startswith("svg"):
        assert (cfg.lr, cfg.guidance, cfg.loss.timesteps) == (0.02, 100.0, [0.1, 0.98])
        assert cfg.representation.point_lr * cfg.lr == pytest.approx(0.8)
        assert cfg.representation.color_lr * cfg.lr == pytest.approx(0.01)


@pytest.mark.parametrize("verb", VERB_SCHEMAS)
def test_each_verb_composes_and_no_yaml_says_again_what_a_key_is(verb: str) -> None:
    cfg = composed(config=verb)
    assert OmegaConf.get_type(cfg) is VERB_SCHEMAS[verb]
    said = yaml.safe_load((conf_dir() / f"{verb}.yaml").read_text(encoding="utf-8"))
    types = types_of(VERB_SCHEMAS[verb])
    # Sections that several stages share the shape of have their values in the YAML.
    tables = {key for key in options_of(VERB_SCHEMAS[verb]) if is_dataclass(types[key])}
    assert set(said) - {"defaults", "hydra"} <= tables


def schemas() -> Iterator[tuple[str, type]]:
    """Every schema, with the tables in it."""
    todo = [*VERB_SCHEMAS.items(), *GROUP_SCHEMAS.items(), *BASES.items()]
    while todo:
        name, schema = todo.pop()
        yield name, schema
        todo += [(f"{name}.{k}", t) for k in options_of(schema) if (t := below(schema, k))]


def test_every_key_has_its_words_and_every_number_its_range() -> None:
    for name, schema in schemas():
        keys = {item.name for item in fields(schema)} - {"_target_"}
        assert keys == set(options_of(schema)), f"{name}: a key without option(…)"
        for key, said in options_of(schema).items():
            where, kind = f"{name}.{key}", str(types_of(schema)[key])
            assert 4 < len(said.help) <= 90 and "\n" not in said.help, where
            assert not said.help.endswith(".") and said.help.lower() != key, where
            numeric = re.search(r"\b(int|float)\b", kind) and below(schema, key) is None
            assert said.range or not numeric, f"{where} needs a range"
            assert not (said.choices and said.text) or said.or_else, where


def test_the_words_of_the_code_are_those_of_the_options() -> None:
    from pds_cli.backbones import stable_diffusion
    from pds_cli.losses import base
    from pds_cli.options import backbones, losses, scenes
    from pds_cli.scenes import capture, colmap

    assert tuple(base.WEIGHTINGS) == losses.WEIGHTINGS
    assert ("auto", *stable_diffusion.DTYPES) == backbones.DTYPES
    assert tuple(capture.BACKGROUNDS) == scenes.BACKGROUNDS
    assert tuple(colmap.PARAMETERS) == verbs.CAMERA_MODELS


# --- free text -----------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(TEXT)
@example("a man, smiling (close-up)")
@example("${prompt} \\${x} \\\\${y} ${")
def test_any_text_survives_hydras_parser(text: str) -> None:
    for sweep in (False, True):
        override = OverridesParser.create().parse_override(quote_free_text(f"prompt={text}", sweep))
        assert not override.is_sweep_override()
        assert OmegaConf.create({"prompt": override.value()}).prompt == text
        # A sweep writes the value out once more for each job.
        again = f"prompt={override.get_value_element_as_str()}"
        assert OverridesParser.create().parse_override(again).value() == override.value()


@FEW
@given(TEXT, TEXT)
def test_any_text_survives_composition(prompt: str, path: str) -> None:
    words = [f"prompt={prompt}", f"scene.path={path}", f"source={prompt}", f"out={path}"]
    cfg = composed("scene=image", *(quote_free_text(word) for word in words))
    assert (cfg.prompt, cfg.source, cfg.out) == (prompt, prompt, path)
    assert (cfg.scene.path, cfg.scene.source_prompt) == (path, prompt)
    kept = resolve_config(cfg)
    assert (kept.prompt, kept.scene.path, kept.scene.source_prompt) == (prompt, path, prompt)


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXT, min_size=2, max_size=4), st.sampled_from("'\""))
def test_quoted_texts_sweep_and_survive(texts: list[str], mark: str) -> None:
    from hydra.core.override_parser.types import Quote, QuotedString

    kind = Quote.single if mark == "'" else Quote.double
    value = ", ".join(QuotedString(text, kind).with_quotes() for text in texts)
    swept = OverridesParser.create().parse_override(quote_free_text(f"prompt={value}", True))
    assert swept.is_sweep_override()
    for text, each in zip(texts, swept.sweep_string_iterator(), strict=True):
        arrived = OverridesParser.create().parse_override(f"prompt={each}").value()
        assert OmegaConf.create({"prompt": arrived}).prompt == text
    literal = OverridesParser.create().parse_override(quote_free_text(f"prompt={value}"))
    assert OmegaConf.create({"p": literal.value()}).p == value


@given(TEXT)
@FEW
def test_any_text_reaches_a_constructor(text: str) -> None:
    sds = {"_target_": "pds_cli.losses.sds_bridge.SDSBridge", "qualities": escape_text(text)}
    assert instantiate("loss", OmegaConf.create(sds)).qualities == text


def test_other_keys_keep_hydras_grammar() -> None:
    for word in ("loss=sds,dds", "steps=5", "~loss", "allow_modules=[a,b]", "x", "seed=range(1,4)"):
        assert quote_free_text(word, sweep=True) == word
    assert quote_free_text("source=null") == "source=null"
    assert quote_free_text("++scene.path=a b") == "++scene.path='a b'"
    assert "prompt" in FREE_TEXT


@pytest.mark.parametrize(
    ("verb", "words", "text", "other"),
    [
        ("edit", [], "prompt init fit out scene.path scene.masks loss.qualities backbone.model",
         "scene.camera.azimuth loss.timesteps representation.fit.steps representation.parameters"),
        ("edit", ["loss=nfsd"], "loss.negative backbone.recommended.nfsd.negative",
         "loss.qualities"),
        ("edit", ["loss=mine", "scene=mine"], "loss.path scene.file",
         "loss.qualities scene.images"),
        ("edit", ["loss=sds,mine"], "loss.path", "loss.weighting"),
        ("edit", [], "representation.fit.cache logger.name", "loss editor.strength"),
        ("finetune", [], "images class_prompt into", "rank backbone.recommended"),
        ("pretrain", [], "data.folder data.icons into init",
         "data.images model data stages images"),
        ("study", [], "question key", "by runs"),
        ("eval", [], "clip run", "by runs"),
        ("render", [], "path", "frames"),
        ("compare", ["benchmark=icon_edits"], "benchmark.icons", "benchmark.edits"),
    ],
)  # fmt: skip
def test_free_text_is_a_property_of_the_key(
    verb: str, words: list[str], text: str, other: str
) -> None:
    free = FreeText(verb, words)
    assert [key for key in text.split() if key not in free] == []
    assert [key for key in other.split() if key in free] == []


# --- ranges --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("guidance", float("inf")),
        ("lr", 0.0),
        ("batch_size", 0),
        ("checkpoint_every", -1),
        ("seed", -1),
        ("device", "cuda:x"),
        ("loss.timesteps", [0.2, 1.5]),
        ("loss.timesteps", [0.5, 0.2]),
        ("loss.num_inference_steps", 0),
        ("loss.identity", float("nan")),
        ("loss.clip_norm", -2.0),
        ("optimizer.weight_decay", -0.1),
        ("backbone.recommended", "much"),
    ],
)
def test_values_out_of_range_are_named(key: str, value: Any) -> None:
    cfg = composed("prompt=x")
    validate("edit", cfg)
    OmegaConf.update(cfg, key, value)
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        validate("edit", cfg)


# --- what may be built ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(CONTRACTS))
@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "pds_cli.files.write_text",
        "pds_cli.benchmarks.jobs.edit_job",
        "pds_cli.cli.os.system",
        "pds_cli.cli.import_module",
        "pds_cli.options.catalogue.difflib.get_close_matches",
        "pds_cli.cli.main",
        "pds_cli.instantiate.instantiate",
        "pds_cli.verbs.list.main",
        "pds_cli.config.__builtins__.eval",
        "pds_cli.errors.UserError",
        "pds_cli.errors.UserError.__init__",
        "pds_cli.runs.folder.RunFolder",
        "pds_cli.losses.base.Loss",
        "pds_cli_evil.x.Y",
        "torch.optimizer.X",
        "torch.load",
        "torch.nn.Linear",
        "torch.optim.Adam.__class__",
        "torch.optim.optimizer.torch.load",
        "torch.optim.lr_scheduler.math.sin",
        "torch.optim.lr_scheduler.StepLR",
        "torch.optim.adam.adam",
        "pds_cli..errors",
        "pds_cli",
        "",
        3,
    ],
)
def test_what_is_no_component_is_refused(kind: str, target: Any) -> None:
    for allowed in ([], ["pds_cli"], ["torch"]):
        with pytest.raises(UserError, match=r"refused|not a|is no |is not there"):
            check_target(kind, target, allowed)


@pytest.mark.parametrize("kind", sorted(CONTRACTS))
def test_components_stand_where_their_kind_belongs(kind: str) -> None:
    shipped = {group: set(shipped_targets(group)) for group in CONTRACTS}
    for target in shipped[kind]:
        assert inspect.isclass(check_target(kind, target))
    for other, targets in shipped.items():
        for target in targets - shipped[kind]:
            with pytest.raises(UserError, match=rf"it is a {other}, not a {kind}"):
                check_target(kind, target)


def test_every_shipped_class_keeps_its_contract() -> None:
    for kind in CONTRACTS:
        for target in shipped_targets(kind):
            _contracted([kind], target, check_target(kind, target))


OWN = """
import os
from pds_cli.editors.base import Editor
from pds_cli.losses.base import Loss
from pds_cli.errors import UserError

class Mine(Loss):
    def __init__(self, inner=None): self.inner = inner
    def gradient(self, branches): ...

class Part:
    def __init__(self, x=0): self.x = x

class Picky(Mine):
    def __init__(self): raise UserError("x must be 3.")

def make(): return Mine()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_own_classes_implement_the_contract(own: str) -> None:
    node = {"_target_": f"{own}.Mine"}
    with pytest.raises(UserError, match=rf"allow_modules=\[{own}\]"):
        instantiate("loss", node)
    built = instantiate("loss", node, allow_modules=[own])
    assert type(built).__name__ == "Mine"
    cfg = OmegaConf.create({"allow_modules": [own], "loss": node})
    assert type(instantiate("loss", cfg.loss)) is type(built)
    for kind, name, reason in [
        ("scene", "Mine", "a scene extends pds_cli.scenes.base.Scene"),
        ("loss", "Part", "a loss extends pds_cli.losses.base.Loss"),
        ("loss", "make", "is not a class"),
        ("loss", "os.system", "is not a class"),
        ("loss", "Editor", r"it lives in pds_cli\.editors\.base"),
        ("logger", "Part", r"a logger has log\(\), image\(\), close\(\)"),
    ]:
        with pytest.raises(UserError, match=reason):
            instantiate(kind, {"_target_": f"{own}.{name}"}, allow_modules=[own])
    with pytest.raises(UserError, match="refused"):
        instantiate("loss", node, allow_modules=[own[:-1]])
    with pytest.raises(UserError, match=r"^x must be 3\.$"):
        instantiate("loss", {"_target_": f"{own}.Picky"}, allow_modules=[own])


def test_nested_objects_are_built_in_own_classes_alone(own: str) -> None:
    sds = {"_target_": "pds_cli.losses.sds.SDS", "guidance": 3.0}
    node = {"_target_": f"{own}.Mine", "inner": [{"a": sds}, {"_target_": f"{own}.Part", "x": 2}]}
    inner = instantiate("loss", node, allow_modules=[own]).inner
    assert inner[0]["a"].guidance == 3.0 and inner[1].x == 2
    left = instantiate("loss", {**node, "_recursive_": False}, allow_modules=[own]).inner
    assert left == node["inner"]
    for target in ("os.system", "pds_cli.files.write_text", f"{own}.make"):
        deep = {"_target_": f"{own}.Mine", "inner": [{"a": {"_target_": target}}]}
        with pytest.raises(UserError, match=r"refused|not a class"):
            instantiate("loss", deep, allow_modules=[own])
    # A shipped class is given no built objects, not even harmless ones.
    ours = {"_target_": "pds_cli.losses.sds_bridge.SDSBridge", "qualities": {"x": [sds]}}
    with pytest.raises(UserError, match=r"sds\.SDS is refused inside"):
        instantiate("loss", ours)
    for key in ("_args_", "_partial_", "_convert_"):
        with pytest.raises(UserError, match=f"{key} .* is not taken"):
            instantiate("loss", {**sds, key: True})


def test_optimisers_are_built_with_objects_passed_through() -> None:
    import torch

    weights = [torch.zeros(2, requires_grad=True)]
    cfg = composed("optimizer=sgd", "optimizer.momentum=0.5")
    optimiser = instantiate("optimizer", cfg.optimizer, [{"params": weights, "lr": 0.1}], lr=0.3)
    assert type(optimiser) is torch.optim.SGD
    assert optimiser.param_groups[0]["params"][0] is weights[0]
    assert (optimiser.param_groups[0]["lr"], optimiser.param_groups[0]["momentum"]) == (0.1, 0.5)
    rare = {"_target_": "torch.optim.RMSprop", "lr": 0.2}  # in no YAML of ours
    assert instantiate("optimizer", rare, weights).param_groups[0]["lr"] == 0.2


def test_wrong_keywords_and_names_get_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean momentum"):
        instantiate("optimizer", {"_target_": "torch.optim.SGD", "params": [], "momentm": 1})
    with pytest.raises(UserError, match="did you mean Adam"):
        instantiate("optimizer", {"_target_": "torch.optim.Adma"})
    with pytest.raises(UserError, match="pds list scene"):
        instantiate("scene", {"_target_": "pds_cli.nothing.X"})
    with pytest.raises(UserError, match="not_installed_anywhere"):
        instantiate(
            "loss",
            {"_target_": "not_installed_anywhere.X"},
            allow_modules=["not_installed_anywhere"],
        )
    with pytest.raises(UserError, match="params"):
        instantiate("optimizer", {"_target_": "torch.optim.SGD", "lr": 1.0})
    with pytest.raises(UserError, match="no _target_"):
        instantiate("optimizer", {"lr": 1.0})
    assert instantiate("scene", None) is None


@pytest.mark.parametrize("verb", ["fit", "edit"])
def test_captures_have_settings_of_their_own(verb: str) -> None:
    """The defaults of a NeRF are sized for the toy figure; what a person says goes before both."""

    def settings(*words: str) -> tuple[Any, ...]:
        cfg: Any = composed(*words, config=verb)
        nerf = cfg.representation
        return nerf.grid.levels, nerf.grid.log2_table, nerf.grid.growth, nerf.step, nerf.fit.steps

    assert settings("scene=figurine", "representation=nerf") == (8, 15, 1.5, 0.03, 300)
    for scene in ("nerfstudio", "colmap", "blender", "capture", "bear"):
        assert settings(f"scene={scene}") == (12, 17, 1.4, 0.02, 800)
    said = ("scene=nerfstudio", "representation.step=0.1", "scene.recommended.nerf.levels=9")
    assert settings(*said) == (9, 17, 1.4, 0.1, 800)
