"""Configuration: shipped YAMLs against their constructors, free text, and what may be built."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pds_cli.catalogue import catalogue, describe
from pds_cli.config import GROUP_SCHEMAS, VERB_SCHEMAS, conf_dir, keys_of, validate
from pds_cli.errors import UserError
from pds_cli.instantiate import check_target, escape_text, instantiate, resolve_config
from pds_cli.overrides import FREE_TEXT, quote_free_text

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
    assert option in GROUP_SCHEMAS, f"{option} has no schema in pds_cli/config.py"
    assert OmegaConf.get_type(node) is GROUP_SCHEMAS[option]
    if node.get("_target_") is None:
        return
    signature = inspect.signature(check_target(node._target_))
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return
    keys = {key for key in node if not key.startswith("_")}
    assert keys <= set(signature.parameters), f"{node._target_} takes {list(signature.parameters)}"


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
def test_each_verb_composes_and_says_what_each_key_is_for(verb: str) -> None:
    cfg = composed(config=verb)
    assert OmegaConf.get_type(cfg) is VERB_SCHEMAS[verb]
    lines = (conf_dir() / f"{verb}.yaml").read_text(encoding="utf-8").splitlines()
    described = {line.partition(":")[0] for line in lines if line[:1].isalpha()}
    fields = keys_of(verb)
    groups = set(catalogue())
    assert fields - groups <= described, "a key of the schema is missing in the YAML"


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
    node = OmegaConf.create(
        {"_target_": "pds_cli.errors.UserError", "_args_": [{"deep": [escape_text(text)]}]}
    )
    assert instantiate(node).args == ({"deep": [text]},)


def test_other_keys_keep_hydras_grammar() -> None:
    for word in ("loss=sds,dds", "steps=5", "~loss", "allow_modules=[a,b]", "x", "seed=range(1,4)"):
        assert quote_free_text(word, sweep=True) == word
    assert quote_free_text("source=null") == "source=null"
    assert quote_free_text("++scene.path=a b") == "++scene.path='a b'"
    assert "prompt" in FREE_TEXT


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
    ],
)
def test_values_out_of_range_are_named(key: str, value: Any) -> None:
    cfg = composed("prompt=x")
    validate("edit", cfg)
    OmegaConf.update(cfg, key, value)
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        validate("edit", cfg)


# --- what may be built ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "pds_cli.cli.os.system",
        "pds_cli.cli.os.path.join",
        "pds_cli.cli.import_module",
        "pds_cli.catalogue.difflib.get_close_matches",
        "pds_cli.cli.main",
        "pds_cli.instantiate.instantiate",
        "pds_cli.verbs.list.main",
        "pds_cli.config.__builtins__.eval",
        "pds_cli.errors.UserError.__init__",
        "pds_cli.errors.UserError.mro",
        "pds_cli_evil.x.Y",
        "torch.optimizer.X",
        "torch.load",
        "torch.optim.Adam.__class__",
        "torch.optim.optimizer.torch.load",
        "torch.optim.lr_scheduler.math.sin",
        "pds_cli..errors",
        "pds_cli",
        "",
        3,
    ],
)
def test_targets_outside_the_allowlist_are_refused(target: Any) -> None:
    with pytest.raises(UserError, match=r"refused|not a"):
        check_target(target)
    # Nested ones too, however deep.
    node = {"_target_": "pds_cli.errors.UserError", "_args_": [{"a": [{"_target_": target}]}]}
    with pytest.raises(UserError, match=r"refused|not a"):
        instantiate(node)


def test_a_refusal_says_how_to_allow() -> None:
    with pytest.raises(UserError, match=r"allow_modules=\[fractions\]"):
        instantiate({"_target_": "fractions.Fraction", "numerator": 1})
    cfg = OmegaConf.create(
        {"allow_modules": ["fractions"], "x": {"_target_": "fractions.Fraction", "numerator": 3}}
    )
    assert instantiate(cfg.x) == 3
    assert instantiate(cfg.x, denominator=2) == 1.5
    with pytest.raises(UserError, match="refused"):
        instantiate(cfg.x, allow_modules=["fraction"])
    with pytest.raises(UserError, match="refused"):
        check_target("fractions.math.gcd", ["fractions"])


def test_optimisers_are_built_with_objects_passed_through() -> None:
    import torch

    weights = [torch.zeros(2, requires_grad=True)]
    cfg = composed("optimizer=sgd", "optimizer.momentum=0.5")
    optimiser = instantiate(cfg.optimizer, [{"params": weights, "lr": 0.1}], lr=0.3)
    assert type(optimiser) is torch.optim.SGD
    assert optimiser.param_groups[0]["params"][0] is weights[0]
    assert (optimiser.param_groups[0]["lr"], optimiser.param_groups[0]["momentum"]) == (0.1, 0.5)
    later = instantiate({"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.2})
    assert later(weights).param_groups[0]["lr"] == 0.2


def test_wrong_keywords_and_names_get_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean momentum"):
        instantiate({"_target_": "torch.optim.SGD", "params": [], "momentm": 1})
    with pytest.raises(UserError, match="did you mean Adam"):
        instantiate({"_target_": "torch.optim.Adma"})
    with pytest.raises(UserError, match="pds_cli has no nothing"):
        instantiate({"_target_": "pds_cli.nothing.X"})
    with pytest.raises(UserError, match="not_installed_anywhere"):
        instantiate(
            {"_target_": "not_installed_anywhere.X"}, allow_modules=["not_installed_anywhere"]
        )
    with pytest.raises(UserError, match="params"):
        instantiate({"_target_": "torch.optim.SGD", "lr": 1.0})
    with pytest.raises(UserError, match="no _target_"):
        instantiate({"lr": 1.0})
    assert instantiate(None) is None


def test_a_users_mistake_in_a_constructor_stays_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "picky.py").write_text(
        "from pds_cli.errors import UserError\n"
        "def make(inner=None): raise UserError('x must be 3.')\n"
        "def outer(inner): return inner\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    nested = {"_target_": "picky.outer", "inner": {"_target_": "picky.make"}}
    for node in (nested["inner"], nested):
        with pytest.raises(UserError, match=r"^x must be 3\.$"):
            instantiate(node, allow_modules=["picky"])
