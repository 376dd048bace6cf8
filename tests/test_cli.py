"""The command line: verbs, sentences instead of tracebacks, run folders and sweeps."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from pds_cli.cli import EXAMPLES
from pds_cli.errors import UserError
from pds_cli.options.catalogue import conf_dir
from pds_cli.overrides import read_command_line
from pds_cli.runs.outputs import Folders, output_folder
from pds_cli.verbs.list import verb_names

ROOT = Path(__file__).resolve().parent.parent
# Writes what arrived, where the test can find it.
DUMP = """
from omegaconf import OmegaConf
from pds_cli.files import write_text
from pds_cli.runs.folder import RunFolder
folder = run_folder()
RunFolder(folder).begin(cfg)
write_text(folder / "got.json", json.dumps(OmegaConf.to_container(cfg, resolve=True)))
"""
NASTY = [
    "a man, smiling (close-up)",
    'she said "hi", it\'s = [1, {2}]: $HOME ${prompt} ${oc.env:HOME} \\${x} back\\slash\\',
    "名前、ñandú — “quoted” 🙂",
    "key=value a,b 'c','d' \"e\"",
    "'",
    "\\",
    "\\'",
    "${",
    "  spaces around  ",
    "true",
    "3.5",
    "[a,b]",
    "two\nlines",
]


def got(folder: Path) -> dict:
    return json.loads((folder / "got.json").read_text())


def run_folders(base: str = "outputs") -> list[Path]:
    return sorted(path.parent for path in Path(base).rglob("got.json"))


# --- help, list, doctor --------------------------------------------------------------------------


def test_alone_it_prints_a_guide_with_three_examples(pds: Callable) -> None:
    answer = pds()
    assert answer.code == 0
    for name in verb_names():
        assert f"  {name} " in answer.out
    assert answer.out.count("  pds ") >= 4
    for command, _ in EXAMPLES:
        assert command in answer.out


@pytest.mark.parametrize("command", [command for command, _ in EXAMPLES])
def test_the_examples_of_the_guide_compose(pds: Callable, verb: Callable, command: str) -> None:
    _, name, *words = shlex.split(command)
    if name not in verb_names():
        verb(name, "pass")
    if "-m" in words:
        # A sweep cannot be shown; run it on a stand-in for the verb.
        verb("standin", DUMP)
        assert pds("standin", *words).code == 0
        assert len(run_folders()) == 6
        return
    assert pds(name, *words, "--cfg", "job").code == 0


@pytest.mark.parametrize(
    "argv", [["--help"], ["list"], ["edit", "--help"], ["edit", "--cfg", "job"]]
)
def test_shell_words_that_show_import_nothing_heavy(argv: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from pds_cli.cli import main\n"
        f"code = main({argv!r})\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numba', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert not list(tmp_path.iterdir()), "showing must not leave files"


def test_help_of_a_verb_names_its_groups_and_keys(pds: Callable, verb: Callable) -> None:
    verb("fake", "pass")
    answer = pds("fake", "--help")
    assert answer.code == 0
    assert answer.out.startswith("pds fake: ")
    assert all(f"{name}," in answer.out for name in ("dds", "pds", "sds"))
    assert "  prompt=??? " in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["loss=vsd"],
            ["loss.rank=4", "the LoRA [whole 1 to 1,000,000]", "loss=vsd: Variational"],
        ),
        (
            ["representation=nerf", "scene=figurine"],
            ["representation.grid.levels=8", "cache=outputs/fits"],
        ),
        (["editor=sdedit", "loss=dataset_update"], ["editor.eta=0.0", "loss.every=10"]),
        (
            ["backbone=sd15", "steps=7"],
            ["backbone.offload=none", "[none | model |", "steps=7"],
        ),
        (["refine=sdedit"], ["refine.editor.strength=", "[renders | source]"]),
        (["-p", "loss"], ["loss.identity=0.02"]),
        (["experiment=paper/svg_dog"], ["prompt=a dog"]),
    ],
)
def test_help_shows_the_keys_of_what_is_chosen(
    pds: Callable, words: list[str], said: list[str]
) -> None:
    answer = pds("edit", "--help", *words)
    assert answer.code == 0, answer.err
    assert [text for text in said if text not in answer.out] == []
    assert max(map(len, answer.out.splitlines())) <= 80


@pytest.mark.parametrize("name", sorted(set(verb_names()) - {"list", "doctor"}))
def test_help_of_every_verb_has_words_for_every_key(pds: Callable, name: str) -> None:
    lines = pds(name, "--help").out.splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"  [a-z_0-9.]+=", line)]
    assert len(keys) > 7
    for number in keys:
        assert re.match(r"  \S.* \S", lines[number]) or lines[number + 1].startswith(" " * 6)


def test_help_answers_wrong_words(pds: Callable) -> None:
    for words, said in (
        (["loss=vds"], "did you mean vsd?"),
        (["los=vsd"], "los is not a key"),
        (["-m", "loss=sds,dds"], "leave out -m"),
        (["loss=sds,dds"], "add -m"),
    ):
        answer = pds("edit", "--help", *words)
        assert answer.code == 2 and said in answer.err and not answer.out


def test_version_and_info(pds: Callable, verb: Callable) -> None:
    verb("fake", "pass")
    assert pds("--version").out.startswith("pds ")
    assert pds("fake", "--info", "defaults", "prompt=x").code == 0


def test_list_shows_each_option_with_its_description(pds: Callable) -> None:
    answer = pds("list", "loss")
    assert answer.code == 0
    for path in (conf_dir() / "loss").glob("[a-z]*.yaml"):
        description = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        assert re.search(rf"  {path.stem} +{re.escape(description)}", answer.out)
    everything = pds("list").out
    assert "sample" in everything and "optimizer" in everything and "schema" not in everything


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["finetune", "images=x", "prompt=a photo of sks man"], "class_prompt"),
        (["edit", "prompt=x", "loss=sds_bridge"], "loss.qualities"),
        (["edit", "prompt=x", "loss=sds_bridge"], "loss.flaws"),
        (["edit", "prompt=x", "loss=nfsd"], "loss.negative"),
        (["edit", "prompt=x"], "backbone.recommended.sds_bridge.flaws"),
        (["edit", "prompt=x", "scene=colmap"], "scene.masks"),
        (["edit", "prompt=x", "logger=wandb"], "logger.name"),
        (["edit", "prompt=x", "scene=figurine"], "representation.fit.cache"),
        (["study"], "question"),
        (["study"], "key"),
        (["eval"], "clip"),
        (["pretrain"], "data.icons"),
        (["compare", "benchmark=icon_edits"], "benchmark.icons"),
    ],
)
@pytest.mark.parametrize("text", ["50 %: [x], {y} (z) = ${a} 'b' \"c\""])
def test_free_text_arrives_through_the_command_line(
    pds: Callable, words: list[str], key: str, text: str
) -> None:
    answer = pds(*words, f"{key}={text}", "--cfg", "job")
    assert answer.code == 0, answer.err
    shown = OmegaConf.create(answer.out)
    assert OmegaConf.select(shown, key) == text


def test_parts_of_options_are_no_options(pds: Callable, verb: Callable) -> None:
    verb("fake", DUMP)
    assert "_common" not in pds("list").out + pds("fake", "--help").out
    for words in (["loss=_common"], ["-m", "loss=pds,_common"], ["+loss='_common'"]):
        answer = pds("fake", "prompt=x", *words)
        assert answer.code == 2 and "loss=_common does not exist. loss can be cds, " in answer.err
        assert "_common, " not in answer.err.partition(" can be ")[2]
    assert "3 jobs" in pds("fake", "-m", "prompt=x", "loss=glob(*_*)").out
    targets = [got(folder)["loss"]["_target_"].rpartition(".")[2] for folder in run_folders()]
    assert sorted(targets) == ["DatasetUpdateObjective", "PDS", "SDSBridge"]


def test_a_comparison_of_runs_is_no_benchmark(pds: Callable) -> None:
    answer = pds("compare", "one", "two", "benchmark=nerf_toybox")
    assert answer.code == 2
    assert "benchmark=nerf_toybox measures, and one, two are to be set side by side" in answer.err


def test_sizes_of_a_model_have_types(pds: Callable) -> None:
    """Also in tables that another library's class reads."""
    for word in ("text_encoder.num_hidden_layers=bear", "unet.layers_per_block=bear"):
        answer = pds("pretrain", f"model.{word}")
        assert answer.code == 2 and f"model.{word} is not a whole number" in answer.err


def test_list_answers_a_wrong_group(pds: Callable) -> None:
    answer = pds("list", "los")
    assert answer.code == 2
    assert "did you mean loss?" in answer.err


def test_list_shows_groups_from_outside(pds: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine/loss").mkdir(parents=True)
    (tmp_path / "mine/loss/own.yaml").write_text("# my own loss\n_target_: mine.Own\n")
    assert re.search("  own +my own loss", pds("list", "loss", "--config-dir", "mine").out)


def test_doctor_never_fails(pds: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from pds_cli.verbs import doctor

    def broken() -> str:
        raise RuntimeError("driver")

    monkeypatch.setattr(doctor, "_device", broken)
    answer = pds("doctor")
    assert answer.code == 0
    assert "broken (RuntimeError: driver)" in answer.out
    for part in ("torch", "tinycudann", "gsplat", "pyvista", "tensorboard", "wandb"):
        assert part in answer.out


# --- sentences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["prompt=x", "loss=pdz"], ["loss=pdz", "did you mean pds?", "nfsd, pds, pds_plus, sdi"]),
        (["prompt=x", "stpes=3"], ["stpes", "did you mean steps?", "batch_size"]),
        (["prompt=x", "lss=pds"], ["lss", "did you mean loss?"]),
        (["prompt=x", "loss.identiy=2"], ["did you mean loss.identity?", "loss.coefficients"]),
        (["prompt=x", "loss=sds", "loss.identity=2"], ["loss.identity is not a key"]),
        (["prompt=x", "optimizer.betas.x=1"], ["cannot make a config", "optimizer.betas.x"]),
        (["prompt=x", "steps=abc"], ["steps=abc is not a whole number"]),
        (["prompt=x", "guidance=high"], ["guidance=high is not a number"]),
        (["prompt=x", "debug=perhaps"], ["debug=perhaps is not true or false"]),
        (["prompt=x", "loss.identity=much"], ["loss.identity=much is not a number"]),
        (["prompt=x", "steps=0"], ["steps=0", "at least 1"]),
        (["prompt=x", "batch_size=-1"], ["batch_size=-1", "at least 1"]),
        (["prompt=x", "guidance=nan"], ["guidance=nan", "finite"]),
        (["prompt=x", "lr=-1"], ["lr=-1.0", "above 0"]),
        (["prompt=x", "loss.timesteps=[0.9,0.1]"], ["ascending"]),
        (["prompt=x", "loss.timesteps=[0.1]"], ["two numbers"]),
        (["prompt=x", "device=gpu"], ["device=gpu", "auto, cpu, cuda"]),
        (["prompt="], ["prompt is empty"]),
        (["prompt=   "], ["prompt is empty"]),
        (["prompt=null"], ["prompt needs a value"]),
        (["prompt=???"], ["prompt is empty"]),
        ([], ["prompt is empty"]),
        (["prompt"], ["'prompt' is not key=value"]),
        (["prompt=x", "steps=[1"], ["cannot read 'steps=[1'"]),
        (["prompt=x", "loss=sds,dds"], ["loss=sds,dds", "add -m"]),
        (["prompt=x", "steps=range(1,3)"], ["add -m"]),
        (["prompt=x", "hydra/launcher=jobli"], ["did you mean joblib?"]),
        (["prompt=x", "--multrun"], ["did you mean --multirun?"]),
        (["prompt=x", "--experimental-rerun=x"], ["pickle"]),
        (["prompt=x", "--config-dir", "nowhere"], ["nowhere is not a folder"]),
        (["prompt=x", "resume=nowhere"], ["resume=nowhere is not a folder"]),
        (["prompt=x", "resume=.", "-m"], ["leave out -m"]),
        (["prompt=x", "~loss.nothing"], ["loss.nothing"]),
        (["prompt=x", "--cfg", "job", "-m"], ["Only one of"]),
    ],
)
def test_bad_words_get_one_sentence_and_exit_code_2(
    pds: Callable, verb: Callable, words: list[str], parts: list[str]
) -> None:
    verb("fake", "raise AssertionError('must not run')")
    answer = pds("fake", *words)
    assert answer.code == 2
    assert answer.err.startswith("pds fake: ")
    assert len(answer.err.strip().splitlines()) == 1, answer.err
    assert "Traceback" not in answer.err
    for part in parts:
        assert part in answer.err


def test_unknown_verb(pds: Callable) -> None:
    answer = pds("smaple", "x=1")
    assert answer.code == 2
    assert "did you mean sample?" in answer.err and "doctor" in answer.err


def test_a_users_mistake_inside_a_verb_is_a_sentence(pds: Callable, verb: Callable) -> None:
    verb("fake", "raise UserError('the file x is not an image.')")
    answer = pds("fake", "prompt=x")
    assert (answer.code, answer.err) == (2, "pds fake: the file x is not an image.\n")


@pytest.mark.parametrize("how", ["debug=true", "env"])
def test_a_traceback_comes_only_when_asked_for(
    pds: Callable, verb: Callable, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    verb("fake", "raise UserError('wrong')")
    assert "Traceback" not in pds("fake", "prompt=x").err
    if how == "env":
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    answer = pds("fake", "prompt=x", *([how] if how != "env" else []))
    assert answer.code == 2
    assert "Traceback" in answer.err


def test_a_defect_of_ours_has_exit_code_1(pds: Callable, verb: Callable) -> None:
    verb("fake", "raise TypeError('oops')")
    answer = pds("fake", "prompt=x")
    assert answer.code == 1
    assert "unexpected TypeError: oops" in answer.err and "Traceback" not in answer.err


def test_interrupt_has_exit_code_130(pds: Callable, verb: Callable) -> None:
    verb("fake", "raise KeyboardInterrupt")
    assert pds("fake", "prompt=x").code == 130


# --- free text -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", NASTY)
def test_free_text_arrives_unharmed(pds: Callable, verb: Callable, text: str) -> None:
    verb("fake", DUMP)
    words = [f"prompt={text}", f"source={text}", f"negative={text}", f"+scene.path={text}"]
    assert pds("fake", *words).code == 0
    (folder,) = run_folders()
    cfg = got(folder)
    values = [cfg["prompt"], cfg["source"], cfg["negative"], cfg["scene"]["path"]]
    assert values == [text] * 4
    # What the run says of itself must read back to the same.
    assert yaml.safe_load((folder / "config.yaml").read_text())["prompt"] == text
    assert len(json.loads((folder / "run.json").read_text())["words"]) == len(words)


@pytest.mark.parametrize("text", NASTY)
def test_free_text_arrives_unharmed_in_a_sweep(pds: Callable, verb: Callable, text: str) -> None:
    verb("fake", DUMP)
    assert pds("fake", "-m", f"prompt={text}", "seed=1,2").code == 0
    assert [got(folder)["prompt"] for folder in run_folders()] == [text] * 2


def test_quoted_texts_between_commas_are_swept(pds: Callable, verb: Callable) -> None:
    verb("fake", DUMP)
    texts = ["a robot", "a man, smiling (close-up)", 'with \\"quotes\\" and ${x}']
    words = "prompt=" + " , ".join(f'"{text}"' for text in texts)
    assert pds("fake", "-m", words).code == 0
    assert [got(folder)["prompt"] for folder in run_folders()] == [
        "a robot",
        "a man, smiling (close-up)",
        'with "quotes" and ${x}',
    ]


def test_one_quoted_text_is_no_sweep_and_keeps_its_quotes(pds: Callable, verb: Callable) -> None:
    verb("fake", DUMP)
    assert pds("fake", "-m", 'prompt="a robot"').code == 0
    assert pds("fake", 'prompt="a","b"', "out=single").code == 0
    assert got(run_folders()[0])["prompt"] == '"a robot"'
    assert got(Path("single"))["prompt"] == '"a","b"'


def test_words_without_equals_go_to_the_verbs_list(pds: Callable, verb: Callable) -> None:
    verb("fake", DUMP, config="compare", rest='POSITIONAL = "runs"')
    Path("a=b, (c)").mkdir()
    assert pds("fake", "outputs/x, y", "a=b, (c)", "seed=3").code == 0
    (folder,) = run_folders()
    assert got(folder)["runs"] == ["outputs/x, y", "a=b, (c)"]
    assert got(folder)["seed"] == 3


def test_one_path_may_stand_for_a_list_of_paths() -> None:
    line = read_command_line(["runs=out puts/x", "collect=[a,b]", "seed=1"], positional="runs")
    assert line.overrides == ["runs=['out puts/x']", "collect=[a,b]", "seed=1"]


def test_a_value_longer_than_a_file_name_is_a_value() -> None:
    word = "benchmark.edits=[" + ",".join(["crown"] * 1000) + "]"
    line = read_command_line([word], positional="runs")
    assert line.overrides == [word] and not line.words


def test_flags_may_stand_anywhere() -> None:
    line = read_command_line(["a=1", "-m", "b=2", "--config-dir", "x=y", "c=3", "--info", "d=4"])
    assert line.overrides == ["a=1", "b=2", "c=3", "d=4"]
    assert line.flags == ["-m", "--config-dir", "x=y", "--info"]
    assert line.config_dirs == [Path("x=y")] and line.sweep and line.showing


# --- run folders ---------------------------------------------------------------------------------


def test_run_folder_names_scene_and_loss(pds: Callable, verb: Callable) -> None:
    verb("fake", DUMP + "\nassert str(folder).startswith('/')")
    before = os.getcwd()
    assert pds("fake", "prompt=x", "loss=dds", "scene=toy2d").code == 0
    assert os.getcwd() == before
    (folder,) = run_folders()
    assert folder.parent == Path("outputs/edit/toy2d/dds")
    words = json.loads((folder / "run.json").read_text())["words"]
    assert words == ["prompt='x'", "loss=dds", "scene=toy2d"]


def test_runs_of_the_same_second_do_not_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folders, "reserve", True)
    base = str(tmp_path / "runs")
    folders = {output_folder(None, None, base) for _ in range(5)}
    assert len(folders) == 5
    assert all(Path(folder).is_dir() for folder in folders)


def test_out_names_the_folder(pds: Callable, verb: Callable) -> None:
    verb("fake", DUMP)
    assert pds("fake", "prompt=x", "out=my runs/a=b, (c)").code == 0
    assert got(Path("my runs/a=b, (c)"))["prompt"] == "x"
    assert not Path("outputs").exists()


def test_resume_runs_in_the_old_folder(pds: Callable, verb: Callable) -> None:
    verb("fake", DUMP)
    assert pds("fake", "prompt=x", "out=first").code == 0
    assert pds("fake", "prompt=y", "resume=first").code == 0
    assert got(Path("first"))["prompt"] == "y" and not Path("outputs").exists()


@pytest.mark.parametrize("flags", [[], ["-m"]])
@pytest.mark.parametrize("words", [["out=file"], ["out=file/below"], []])
def test_an_unwritable_output_folder_is_a_sentence(
    pds: Callable, verb: Callable, flags: list[str], words: list[str]
) -> None:
    verb("fake", DUMP)
    # A file in the way stops root too, which permissions do not.
    Path("file").touch()
    if not words:
        Path("outputs").touch()
    answer = pds("fake", *flags, "prompt=x", *words)
    assert answer.code == 2
    assert "cannot write to the output folder" in answer.err and "out=<folder>" in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_showing_leaves_no_folder(pds: Callable, verb: Callable) -> None:
    verb("fake", DUMP)
    before = set(Path().iterdir())
    assert pds("fake", "prompt=x", "--cfg", "all").code == 0
    assert set(Path().iterdir()) == before


# --- sweeps --------------------------------------------------------------------------------------

AFTER = """
def after_sweep(folder, jobs):
    (folder / "page.json").write_text(json.dumps([job.name for job in jobs]))
"""


def test_a_sweep_numbers_its_jobs_and_calls_the_verb_at_the_end(
    pds: Callable, verb: Callable
) -> None:
    verb("fake", DUMP, rest=AFTER)
    answer = pds("fake", "-m", "prompt=x", "guidance=3,7.5", "seed=1,2")
    assert answer.code == 0
    (sweep,) = Path("outputs/edit_sweep").iterdir()
    assert json.loads((sweep / "page.json").read_text()) == [str(n) for n in range(4)]
    swept = [(got(sweep / str(n))["guidance"], got(sweep / str(n))["seed"]) for n in range(4)]
    assert swept == [(3, 1), (3, 2), (7.5, 1), (7.5, 2)]
    assert "4 of 4 jobs done" in answer.out


@pytest.mark.parametrize(
    ("error", "code"), [("UserError('no such hat')", 2), ("TypeError('oops')", 1)]
)
def test_a_failed_job_is_reported_and_the_rest_runs(
    pds: Callable, verb: Callable, error: str, code: int
) -> None:
    verb("fake", f"if cfg.seed == 2: raise {error}\n" + DUMP, rest=AFTER)
    answer = pds("fake", "-m", "prompt=x", "seed=1,2,3", "out=sweep")
    assert answer.code == code
    assert [got(folder)["seed"] for folder in run_folders("sweep")] == [1, 3]
    assert json.loads(Path("sweep/page.json").read_text()) == ["0", "1", "2"]
    assert "2 of 3 jobs done" in answer.out
    assert "job 1 failed" in answer.err and "Traceback" not in answer.err
    outcome = json.loads(Path("sweep/1/.pds/outcome.json").read_text())
    assert outcome["status"] == "failed"


def test_a_value_out_of_range_fails_its_own_job_only(pds: Callable, verb: Callable) -> None:
    verb("fake", DUMP)
    answer = pds("fake", "-m", "prompt=x", "steps=5,0")
    assert answer.code == 2
    assert len(run_folders()) == 1


def test_a_wrong_option_stops_a_sweep_before_it_starts(pds: Callable, verb: Callable) -> None:
    verb("fake", DUMP)
    answer = pds("fake", "-m", "prompt=x", "loss=pds,pdz")
    assert answer.code == 2
    assert "did you mean pds?" in answer.err
    assert not run_folders()


def test_a_second_sweep_replaces_the_first_when_told(pds: Callable, verb: Callable) -> None:
    verb("fake", DUMP, rest=AFTER)
    assert pds("fake", "-m", "prompt=x", "seed=1,2,3", "out=sweep").code == 0
    Path("sweep/1/notes.txt").write_text("mine")
    other = ["fake", "-m", "prompt=x", "seed=4", "out=sweep"]
    refused = pds(*other)
    assert refused.code == 2 and "overwrite=true" in refused.err
    assert [got(folder)["seed"] for folder in run_folders("sweep")] == [1, 2, 3]
    assert "1 of 1 jobs done" in pds(*other, "overwrite=true").out
    assert [got(folder)["seed"] for folder in run_folders("sweep")] == [4]
    assert Path("sweep/1/notes.txt").read_text() == "mine" and not Path("sweep/2").exists()


def test_a_sweep_started_again_does_what_is_missing(pds: Callable, verb: Callable) -> None:
    fails = "if cfg.seed == 2 and not Path('mended').exists(): raise UserError('no such hat')\n"
    verb("fake", "from pathlib import Path\n" + fails + DUMP, rest=AFTER)
    words = ["fake", "-m", "prompt=x", "seed=1,2,3", "out=sweep"]
    assert pds(*words).code == 2
    before = [path.stat().st_mtime_ns for path in sorted(Path("sweep").glob("*/got.json"))]
    Path("mended").touch()
    again = pds(*words)
    assert again.code == 0, again.err
    assert "3 of 3 jobs done" in again.out and "job 0 was done before" in again.out
    after = [path.stat().st_mtime_ns for path in sorted(Path("sweep").glob("*/got.json"))]
    assert [after[0], after[2]] == before
    assert [got(folder)["seed"] for folder in run_folders("sweep")] == [1, 2, 3]


def test_a_sweep_that_is_refused_whole_leaves_nothing(pds: Callable, verb: Callable) -> None:
    verb("fake", "raise UserError('no such hat')\n" + DUMP, rest=AFTER)
    assert pds("fake", "-m", "prompt=x", "seed=1,2", "out=a/sweep").code == 2
    assert pds("fake", "-m", "prompt=x", "loss=pds,pdz", "out=a/sweep").code == 2
    assert pds("fake", "-m", "prompt=x", "seed=1,2").code == 2
    assert {path.name for path in Path().iterdir()} == {"verbs_of_the_test"}


def test_joblib_runs_jobs_in_other_processes(tmp_path: Path, verb: Callable) -> None:
    body = DUMP + "\nimport os\n(folder / 'pid').write_text(str(os.getpid()))\n"
    body += "print('hello', end=' '); print('from seed', cfg.seed)\n"
    body += "if cfg.seed == 2: raise UserError('no such hat')\n"
    verb("fake", body, rest=AFTER)
    # Workers are new processes: they find the test's verb through sitecustomize.
    site = tmp_path / "site"
    site.mkdir()
    folder = str(tmp_path / "verbs_of_the_test")
    (site / "sitecustomize.py").write_text(
        f"import pds_cli.verbs\npds_cli.verbs.__path__.append({folder!r})"
    )
    env = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,2,3", "out=sweep"]
    done = subprocess.run(
        [sys.executable, "-m", "pds_cli", "fake", "-m", "prompt=a, ${b} (c)", *words],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "2 of 3 jobs done" in done.stdout and "job 1 failed: no such hat" in done.stderr
    assert {got(tmp_path / f"sweep/{n}")["prompt"] for n in range(3)} == {"a, ${b} (c)"}
    assert str(os.getpid()) not in {(tmp_path / f"sweep/{n}/pid").read_text() for n in range(3)}
    assert json.loads((tmp_path / "sweep/page.json").read_text()) == ["0", "1", "2"]
    assert done.stdout.startswith("pds fake: 3 jobs\n")
    for number in range(3):
        said = [line for line in done.stdout.splitlines() if line.startswith(f"[{number}] ")]
        assert f"[{number}] hello from seed {number + 1}" in said
        assert f"seed={number + 1}" in said[0], "what the number stands for"
    assert "[1] pds fake: job 1 failed: no such hat" in done.stderr


# --- from outside --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["--config-dir", "searchpath"])
def test_a_loss_from_outside_needs_one_yaml_and_one_module(
    pds: Callable, verb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (tmp_path / "my groups/loss").mkdir(parents=True)
    (tmp_path / "my groups/loss/own.yaml").write_text(
        "# my own\n_target_: my_losses.Own\nstrength: 3\nnote: '\\${x}, (y)'\n"
    )
    (tmp_path / "my_losses.py").write_text(
        "from pds_cli.losses.base import Loss\n"
        "class Own(Loss):\n"
        "    def __init__(self, strength, note): self.got = strength, note\n"
        "    def gradient(self, branches): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    verb(
        "fake",
        "from pds_cli.instantiate import instantiate\n"
        "got = instantiate('loss', cfg.loss).got\n"
        "(run_folder() / 'got.json').write_text(json.dumps(got))",
    )
    where = (
        ["--config-dir", "my groups"]
        if how == "--config-dir"
        else [f"hydra.searchpath=['file://{tmp_path}/my groups']"]
    )
    words = ["prompt=x", "loss=own", "loss.strength=5", *where]
    refused = pds("fake", *words)
    assert refused.code == 2
    assert "allow_modules=[my_losses]" in refused.err
    assert pds("fake", *words, "allow_modules=[my_losses]", "out=ok").code == 0
    assert json.loads(Path("ok/got.json").read_text()) == [5, "${x}, (y)"]


def test_cfg_job_prints_yaml(pds: Callable, verb: Callable) -> None:
    verb("fake", DUMP)
    answer = pds("fake", "prompt=a, b", "steps=7", "--cfg", "job")
    assert answer.code == 0
    shown = yaml.safe_load(answer.out)
    assert shown["prompt"] == "a, b" and shown["steps"] == 7


def test_output_folder_of_a_missing_run() -> None:
    with pytest.raises(UserError, match="is not a folder"):
        output_folder(None, "nowhere", "outputs")


def documented() -> list[str]:
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    blocks = text.split("```sh\n")[1:]
    return [line for block in blocks for line in block.split("```")[0].splitlines() if line]


@pytest.mark.parametrize("command", documented())
def test_the_commands_of_the_docs_work(pds: Callable, verb: Callable, command: str) -> None:
    _, name, *words = shlex.split(command)
    if name in ("list", "doctor"):
        assert pds(name, *words).code == 0
        return
    verb("standin", DUMP, config=name)
    Path("prompts.txt").write_text("a robot\na bear, smiling\na man = 5 $\n")
    if "hydra/launcher=joblib" in words:
        words.append("hydra.launcher.n_jobs=1")
    assert pds("standin", *words).code == 0
    folders = run_folders(".")
    assert folders
    if "-m" in words:
        assert len(folders) in (3, 4, 9)
    for folder in folders:
        assert '"a' not in got(folder)["prompt"]


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "scene=figurine"],
        ["edit", "scene=figurine", "prompt=x"],
        ["edit", "scene=image", "scene.path=x.png", "prompt=x", "loss=cds", "backbone=mixture"],
    ],
)
def test_a_config_can_be_shown_with_everything_filled_in(pds: Callable, words: list[str]) -> None:
    shown = pds(*words, "--cfg", "job", "--resolve")
    assert shown.code == 0, shown.err
    assert "${" not in shown.out
    assert "\n    strength:\n" in shown.out or "scene=image" in words
