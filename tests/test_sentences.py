"""Sentences: for words that cannot be, for what has no effect, and for a user's own code."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import Answer
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from pds_cli.errors import UserError
from pds_cli.instantiate import check_target, instantiate
from pds_cli.labels import LabelledStream
from pds_cli.options.catalogue import catalogue, conf_dir, shipped_targets
from pds_cli.overrides import MOST_JOBS, job_count, literal_prompt, read_command_line
from pds_cli.representations.spatial import Spatial
from pds_cli.representations.svg.representation import SVG
from pds_cli.training.distillation import EditObjective
from pds_cli.training.one_shot import EditorObjective
from pds_cli.training.remarks import remarks
from pds_cli.training.trainer import Objective

# --- words that cannot be ------------------------------------------------------------------------

LOSSES = "loss can be cds, csd, dataset_update, dds"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("~steps", "~steps: a key cannot be taken away; steps=<value> gives it another value."),
        ("~loss", f"~loss: a group cannot be taken away; {LOSSES}"),
        ("loss=[sds,dds]", "loss=[sds,dds] does not exist; did you mean sds?"),
        ("loss=${foo}", "loss=${foo}: there is no key foo to take the value from."),
        ("++loss=dds", "loss is a group that the verb has: write loss=<name> without a plus."),
        ("+foo=5", "foo is not a key. Keys are seed, device"),
        ("early_stop={patienc:3}", "early_stop.patienc is not a key; did you mean early_stop.pati"),
        ("early_stop=5", "early_stop=5: it holds keys, to be given as early_stop.<key>=<value>."),
        ("loss.timesteps=5", "loss.timesteps=5 is not a list: write loss.timesteps=[…]"),
        ("loss.identity.x=2", "loss.identity.x is not a key; did you mean loss.identity?"),
        ("steps=${oc.env:NOT_SET}", "steps=${oc.env:NOT_SET}: the environment variable NOT_SET is"),
        ("steps=${steps}", "steps=${steps}: the value refers to itself."),
        (
            "experiment=paper/svg_dgo",
            "experiment=paper/svg_dgo does not exist; did you mean paper/",
        ),
        ("stéps=1", "stéps is not a key; did you mean steps?"),
        ("hydra.foo=1", "hydra.foo is not a key of Hydra's"),
        ("--cfg job -p nothing", "package 'nothing' not found in config."),
        ("hydra.searchpath=[file:///not/here]", "/not/here is not a folder"),
    ],
)
def test_a_sentence_in_our_words(
    pds: Callable[..., Answer], verb: Callable[..., str], words: str, said: str
) -> None:
    verb("fake", "raise AssertionError('must not run')")
    answer = pds("fake", "prompt=x", *words.split())
    assert answer.code == 2 and answer.out == ""
    assert answer.err.startswith(f"pds fake: {said}"), answer.err
    assert answer.err.count("\n") == 1 and answer.err.endswith(".\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("=5", "'=5' names no key"),
        ("~", "'~' names no key"),
        ("--steps=5", "a key has no dashes, steps=5"),
        ("--cfg", "--cfg needs a value, as in --cfg job"),
        ("--cfg nope", "--cfg nope is unknown; choose one of job, hydra, all"),
        ("--config-dir=", "--config-dir needs a value"),
        ("--config-name other", "--config-name is switched off: each verb has its own config"),
        ("-p loss", "--package and --resolve go with --cfg"),
        ("--run -m", "Only one of --run, -m can be given"),
    ],
)
def test_words_that_are_refused_as_they_are_read(words: str, said: str) -> None:
    with pytest.raises(UserError) as refusal:
        read_command_line(words.split())
    assert said in str(refusal.value)


def test_a_group_that_a_verb_does_not_have_gets_the_keys_that_it_has(
    pds: Callable[..., Answer],
) -> None:
    answer = pds("sample", "prompt=x", "scene=image")
    assert answer.code == 2 and "scene is not a key" in answer.err
    assert "did you mean scene" not in answer.err and "negative, guidance, n, steps" in answer.err


@pytest.mark.parametrize("word", ["x=1", "foo", "--foo", "~x"])
def test_words_that_a_verb_does_not_take(pds: Callable[..., Answer], word: str) -> None:
    answer = pds("doctor", word)
    assert answer.code == 2 and answer.out == "" and repr(word) in answer.err
    assert pds("list", word).code == 2


# --- prompts in a file, and how many jobs there are ----------------------------------------------

LINES = ["a man, smiling", 'she said "hi"', "it's 5 $ = ${x}", "@home", "null", "ñandú"]


def test_a_file_of_prompts_is_swept_line_by_line(
    pds: Callable[..., Answer], verb: Callable[..., str]
) -> None:
    Path("prompts.txt").write_text("\ufeff" + "\r\n\n".join(LINES) + "\n", encoding="utf-8")
    verb("fake", "with open('../../got', 'a') as file: file.write(cfg.prompt + chr(10))")
    answer = pds("fake", "-m", "prompt=@prompts.txt", "hydra.sweep.dir=a/b", "hydra.job.chdir=true")
    assert answer.code == 0, answer.err
    assert Path("a/got").read_text().splitlines() == LINES
    assert answer.out.startswith("pds fake: 6 jobs\n")


def test_one_line_is_a_prompt_and_a_double_at_is_an_at(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("\na robot, red\n")
    line = read_command_line([f"prompt=@{tmp_path}/one", "source=@home"])
    assert line.overrides == ["prompt='a robot, red'", "source='@home'"]
    assert read_command_line(["prompt=@@home"]).overrides == ["prompt='@home'"]
    for text in ("@home", "@@home", "home", ""):
        found = read_command_line([literal_prompt(text)]).overrides
        assert found == [f"prompt='{text}'"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file; a prompt's own @ is written @@"),
        (b"", "holds nothing"),
        (b" \n\n", "holds nothing"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"a\x00b", "holds no text"),
        (b"a\n" * 3_000_000, "larger than 4,000,000 bytes"),
        (b"a\nb\n", "holds 2 prompts: add -m"),
    ],
)
def test_a_file_that_holds_no_prompts(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(UserError) as refusal:
        read_command_line([f"prompt=@{tmp_path}/p.txt"])
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_how_many_jobs_a_sweep_has() -> None:
    groups = catalogue()
    assert job_count(["steps=1,2,3", "loss=sds,dds", "prompt='a, b'"], groups) == 6
    assert job_count(["seed=range(1,10,2)"], groups) == 5
    assert job_count(["loss=glob(*)"], groups) == len(groups["loss"])
    assert job_count([f"seed=range({MOST_JOBS})"], groups) == MOST_JOBS
    assert job_count(["seed=foo("], groups) is None
    for words, said in [
        (["seed=range(10001)"], "10,001 jobs"),
        (["seed=range(1,1)"], "holds no value"),
        (["loss=glob(zz*)"], "holds no value"),
    ]:
        with pytest.raises(UserError) as refusal:
            job_count(words, groups)
        assert said in str(refusal.value)


def test_a_labelled_stream_writes_whole_lines() -> None:
    under = io.StringIO()
    stream = LabelledStream(under, "[3] ")
    print("one", "two", sep="\n", end="", file=stream)
    assert under.getvalue() == "[3] one\n"
    print(" more", file=stream)
    stream.write("unended")
    stream.close_line()
    assert under.getvalue() == "[3] one\n[3] two more\n[3] unended\n"
    assert not stream.isatty() and stream.getvalue() == under.getvalue()


# --- what has no effect --------------------------------------------------------------------------


def said(*words: str) -> list[str]:
    """The remarks on an edit."""
    chosen = {"loss": "pds", "editor": "none"}
    chosen |= dict(word.split("=", 1) for word in words if word.split("=")[0] in chosen)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("edit", ["prompt=x", *words])
    objective, representation = built(cfg)
    return list(remarks(cfg, words, lambda group: chosen[group], [objective], representation))


def built(cfg: DictConfig) -> tuple[Any, Any]:
    """The objective and the representation, with no more in them than remarks look at."""
    kind: Any = check_target("representation", cfg.representation._target_)
    representation = kind.__new__(kind)
    if kind is SVG:
        representation.chosen = tuple(cfg.representation.parameters)
    method: Any = check_target("loss", cfg.loss._target_)
    if issubclass(method, Objective):
        update = method.__new__(method)
        single = not issubclass(kind, Spatial)
        update.prefix, update.redrawable = "loss", [0] if single else [0, 1]
        update.together = min(cfg.loss.together, len(update.redrawable))
        return update, representation
    if cfg.editor._target_ is not None:
        return EditorObjective.__new__(EditorObjective), representation
    views = [None] * (2 if issubclass(kind, Spatial) else 1)
    scene: Any = SimpleNamespace(edit_views=views, limits={})
    nothing: Any = None
    loss = instantiate("loss", cfg.loss)
    return EditObjective(scene, nothing, nothing, loss, nothing, nothing), representation


@pytest.mark.parametrize(
    ("words", "remark"),
    [
        (["loss=csd", "guidance=3"], "loss=csd looks at no guidance=3"),
        (["loss=csd", "loss.source_guidance=3"], "loss=csd looks at no loss.source_guidance=3"),
        (["loss=sds", "source_guidance=3"], "loss=sds looks at no source_guidance=3"),
        (["loss.coefficients=exact", "loss.identity=2"],
         "loss.coefficients=exact looks at no loss.identity=2"),
        (["loss=vsd", "loss.particles=source", "loss.rank=8"],
         "loss.particles=source looks at no loss.rank=8"),
        (["loss=cds", "loss.contrast=0", "loss.patches=8"], "loss.contrast=0.0 looks at no"),
        (["early_stop.min_delta=0.1"], "early_stop.patience=0 looks at no early_stop.min"),
        (["turntable=12"], "an edit of a single view looks at no turntable=12"),
        (["views_per_step=4"], "an edit of a single view looks at no views_per_step=4"),
        (["hold_view=4"], "an edit of a single view looks at no hold_view=4"),
        (["scene=cat_icon", "representation.opacity_lr=1"],
         "representation.parameters=[points,colors] looks at no representation.opacity_lr=1"),
        (["loss=dataset_update", "editor=sdedit", "guidance=3"],
         "loss=dataset_update looks at no guidance=3; its own is editor.guidance"),
        (["loss=dataset_update", "editor=sdedit", "batch_size=3"], "its own is loss.batch_size"),
        (["loss=dataset_update", "editor=sdedit", "loss.together=4"],
         "an edit of a single view looks at no loss.together=4"),
        (["scene=figurine", "loss=dataset_update", "editor=sdedit", "loss.sharing=0.5"],
         "loss.together=1 looks at no loss.sharing=0.5"),
        (["editor=sdedit", "loss=dds"], "editor=sdedit looks at no loss=dds"),
        (["editor=sdedit", "optimizer.eps=1"], "editor=sdedit looks at no optimizer.eps=1"),
        (["guidance=0"], "guidance=0 leaves the prompt out"),
        (["loss=sds", "loss.guidance=-2"], "loss.guidance=-2 leads away from the prompt"),
        (["editor=sdedit", "editor.guidance=0"], "editor.guidance=0 leaves the prompt out"),
    ],
)  # fmt: skip
def test_a_word_without_effect_is_said(words: list[str], remark: str) -> None:
    found = said(*words)
    assert len([each for each in found if remark in each]) == 1, found


@pytest.mark.parametrize(
    "words",
    [
        ["guidance=3", "source_guidance=2", "loss.identity=2"],
        ["loss=csd", "loss.source_weight=1"],
        ["loss=sds", "guidance=3", "batch_size=4", "turntable=0"],
        ["scene=figurine", "turntable=12", "hold_view=3"],
        ["early_stop.patience=5", "early_stop.min_delta=0.1"],
        [
            "scene=figurine",
            "loss=dataset_update",
            "editor=sdedit",
            "loss.together=4",
            "loss.sharing=0.5",
        ],
        ["loss=vsd", "loss.rank=8"],
    ],
)
def test_a_word_with_effect_is_not_remarked(words: list[str]) -> None:
    assert said(*words) == []


def test_options_that_a_loss_calls_idle_are_options_and_switches_of_its_own() -> None:
    for target in shipped_targets("loss"):
        kind: Any = check_target("loss", target)
        if not issubclass(kind, Objective):
            found = kind(guidance=1.0)
            for option, switch in found.idle().items():
                assert hasattr(found, option) and (switch is None or hasattr(found, switch))


# --- a user's own code ---------------------------------------------------------------------------

OWN = """
from dataclasses import dataclass
from pds_cli.losses.base import Loss

@dataclass(kw_only=True)
class Mine(Loss):
    strength: float = 0.2

    def gradient(self, branches):
        return {answer}
"""
GOOD = 'branches.delta_eps + self.strength * branches.delta_x0, {"done": branches.progress}'
PLACE = ["scene=toy2d", "backbone=mixture", "representation=points", "prompt=b", "render_every=0"]


@pytest.fixture
def mine(pds: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Runs two steps with `loss=mine` from a YAML that only names the class."""
    Path("groups/loss").mkdir(parents=True)
    Path("groups/loss/mine.yaml").write_text("# mine\n_target_: mylosses.Mine\n")
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(source: str, *words: str) -> Answer:
        monkeypatch.delitem(sys.modules, "mylosses", raising=False)
        Path("mylosses.py").write_text(source)
        own = ["--config-dir", "groups", "loss=mine", "allow_modules=[mylosses]", "steps=2"]
        return pds("edit", *PLACE, *own, *words)

    return run


def test_keys_that_a_class_inherits_need_no_plus(mine: Callable[..., Answer]) -> None:
    source = OWN.replace("{answer}", GOOD)
    words = ["loss.timesteps=[0.1,0.9]", "loss.clip_norm=1", "loss.strength=0.5", "guidance=2"]
    answer = mine(source, *words, "out=run")
    assert answer.code == 0, answer.err
    kept = yaml.safe_load(Path("run/config.yaml").read_text())["loss"]
    assert kept["timesteps"] == [0.1, 0.9] and kept["clip_norm"] == 1 and kept["strength"] == 0.5
    assert kept["guidance"] == 2.0, "the run's own, though the YAML names no such key"
    logged = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["done"] for line in logged] == [0.0, 0.5]
    wrong = mine(source, "loss.strenght=1", "out=wrong")
    assert wrong.code == 2
    assert "loss.strenght is not a key of mylosses.Mine; did you mean strength?" in wrong.err
    shipped = mine(source, "loss=dds", "loss.clip_nrm=1", "--cfg", "job")
    assert shipped.code == 2 and "did you mean loss.clip_norm?" in shipped.err
    bare = mine(source, "loss.clip_norm=1", "--cfg", "job", "-p", "loss")
    assert (bare.code, bare.out) == (0, "# @package loss\n_target_: mylosses.Mine\nclip_norm: 1\n")
    assert "mylosses" not in sys.modules, "to show a config takes no module of anybody's"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (OWN.replace("{answer}", "self.strengh * branches.delta_x0, {}"),
         "your code in mylosses.py, line 10: AttributeError: 'Mine' object has no attribute"),
        (OWN.replace("{answer}", "branches.delta_x0 @ branches.eps[:0].reshape(7, 0), {}"),
         "your code in mylosses.py, line 10: RuntimeError: "),
        (OWN.replace("{answer}", "("), "your code in mylosses.py, line 10: SyntaxError: "),
        (OWN.replace("import Loss", "import Los"),
         "your code in mylosses.py, line 3: ImportError: cannot import name 'Los'"),
        (OWN.replace("{answer}", "branches.delta_eps"), "Mine.gradient must return a pair"),
        (OWN.replace("{answer}", "branches.t, {}"), "Mine.gradient must return a pair"),
    ],
)  # fmt: skip
def test_a_typo_in_it_is_named_by_file_and_line(
    mine: Callable[..., Answer], source: str, said: str
) -> None:
    answer = mine(source)
    assert answer.code == 2 and "defect" not in answer.err
    assert answer.err.splitlines()[-1].startswith(f"pds edit: {said}"), answer.err
    assert "Traceback" not in answer.err
    if "AttributeError" in said:
        assert "Traceback" in mine(source, "debug=true").err
        swept = mine(source, "-m", "seed=1,2")
        assert swept.code == 2 and swept.err.count(said) == 4, swept.err


def test_a_name_too_long_for_a_file_is_one_that_there_is_not(pds: Callable[..., Any]) -> None:
    answer = pds("edit", "scene=toy2d", f"backbone={'9' * 400}", "prompt=a", "out=refused")
    assert answer.code == 2 and "Traceback" not in answer.err
    assert len(answer.err.splitlines()) <= 2 and not Path("refused").exists()
