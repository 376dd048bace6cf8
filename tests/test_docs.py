"""The documentation is true: commands compose, links lead somewhere, the examples run."""

from __future__ import annotations

import doctest
import re
import shlex
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT
from doc_pages import EXTENDING, FENCE, files_of, text_of
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from pds_cli.config import composed
from pds_cli.options.catalogue import catalogue, conf_dir
from pds_cli.options.checks import validate
from pds_cli.overrides import read_command_line
from pds_cli.verbs.list import verb_names
from pds_cli.version import __version__

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELLS = ("bash", "sh", "shell")
# Where a page without a language may write an example with gaps, such as `pds <verb> key=value …`.
GAPS = ("<", "…")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# --- reading the pages ---------------------------------------------------------------------------


class Command(NamedTuple):
    """A line of a code block: its page and its words, without assignments to the environment."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def indented_blocks(text: str) -> Iterator[str]:
    """Code blocks that are marked by four spaces."""
    for block in re.findall(r"(?:^ {4}[^\n]*\n)+", FENCE.sub("", text), re.MULTILINE):
        yield re.sub(r"^ {4}", "", block, flags=re.MULTILINE)


def shell_lines(text: str) -> Iterator[str]:
    """The lines of a page's shell blocks, and of blocks of no language that need no filling in."""
    blocks = [(info, body) for info, body in FENCE.findall(text)]
    blocks += [("", body) for body in indented_blocks(text)]
    for info, body in blocks:
        strict = info.split(" ")[0] in SHELLS
        if not strict and info:
            continue
        for line in body.replace("\\\n", " ").splitlines():
            if strict or not any(gap in line for gap in GAPS):
                yield line.strip()


def commands_of(page: Path) -> list[Command]:
    found = []
    for line in shell_lines(text_of(page)):
        if not re.match(r"(?:[A-Z_]+=\S* )*(?:pds|make|python) ", f"{line} "):
            continue
        words = shlex.split(line, comments=True)
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        found.append(Command(name_of(page), tuple(words)))
    return found


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands_of(page)))
PDS = [command for command in COMMANDS if command.words[0] == "pds"]


def write_files(page: Path, folder: Path) -> None:
    for name, body in files_of(page).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(body, encoding="utf-8")


# --- commands ------------------------------------------------------------------------------------


def test_the_pages_hold_commands() -> None:
    """Else the tests below would pass on nothing."""
    pages = {command.page for command in PDS}
    assert {"README.md", "docs/cli.md", "docs/pds.md", "docs/toybox.md"} <= pages
    assert {command.words[1] for command in PDS if len(command.words) > 1} == set(verb_names())
    assert any("-m" in command.words for command in PDS)


@pytest.mark.parametrize("command", PDS, ids=str)
def test_each_command_composes(
    command: Command, pds: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = list(command.words[1:])
    write_files(EXTENDING, tmp_path)
    (tmp_path / "prompts.txt").write_text("a photo of a robot\na photo of a bear, smiling\n")
    if "my_groups" in words:
        (tmp_path / "groups").rename(tmp_path / "my_groups")
        words = [word.replace("=mine", "=spring") for word in words]
    if not words or words[0] in ("list", "doctor") or "--help" in words:
        assert pds(*words).code == 0
    elif "-m" in words:
        assert compose_jobs(words[0], words[1:]) > 1
    else:
        answer = pds(*words, *([] if "--cfg" in words else ["--cfg", "job"]))
        assert answer.code == 0, answer.err
        if "resume=" not in str(command):  # its settings stand in the run folder
            assert compose_jobs(words[0], words[1:]) == 1
    assert not (tmp_path / "outputs").exists()


def compose_jobs(verb: str, words: list[str]) -> int:
    """Composes and checks every job, as Hydra's sweeper would launch it; returns their number."""
    positional = getattr(import_module(f"pds_cli.verbs.{verb}"), "POSITIONAL", None)
    line = read_command_line(words, positional, verb)
    search = ",".join(f"file://{folder.absolute()}" for folder in line.config_dirs)
    parsed = OverridesParser.create().parse_overrides(line.overrides)
    (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for job in jobs:
            cfg = compose(verb, [*job, f"hydra.searchpath=[{search}]"])
            validate(verb, cfg)
    return len(jobs)


def test_compose_jobs_finds_mistakes() -> None:
    assert compose_jobs("edit", ["-m", "prompt=a, b", "loss=sds,dds", "guidance=1,2"]) == 4
    for wrong in (["loss=sds,nothing", "prompt=x"], ["steps=1,0", "prompt=x"], ["loss=sds,dds"]):
        with pytest.raises(Exception, match=r"nothing|steps=0|prompt is empty"):
            compose_jobs("edit", ["-m", *wrong])


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        said = re.findall(r"`make ([a-z0-9-]+)", text_of(page))
        lines = [c.words for c in COMMANDS if c.page == name_of(page) and c.words[0] == "make"]
        said += [word for words in lines for word in words[1:] if "=" not in word]
        assert set(said) <= targets, f"{name_of(page)} names {set(said) - targets}"
    assert {"demo", "test"} <= targets


def test_modules_that_are_run_exist() -> None:
    for command in COMMANDS:
        if command.words[:2] == ("python", "-m"):
            assert find_spec(command.words[2]), str(command)


# --- links, names, numbers -----------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get on a forge."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(page))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)} links to {link}, which is not there"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)} links to {link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    for path in re.findall(r"`((?:pds_cli|conf|docs|tests)/[\w./-]*)`", text_of(page)):
        assert (ROOT / path).exists(), f"{name_of(page)} names {path}, which is not there"


def test_the_index_leads_to_every_page() -> None:
    links = set(re.findall(r"\]\(([^)#]+\.md)\)", text_of(ROOT / "docs/index.md")))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in PAGES if "docs" in path.parts}
    assert pages - {"index.md"} <= links


def table(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading, without its head."""
    section = text_of(page).split(f"\n{heading}\n", 1)[1]
    rows = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert rows, f"no table after {heading}"
    lines = rows[0].strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_readme_names_every_verb_and_group_and_no_option_that_is_none() -> None:
    readme = ROOT / "README.md"
    assert {row[0].strip("`") for row in table(readme, "## Verbs")} == set(verb_names())
    groups = {
        row[0].strip("`"): set(re.findall(r"`(\w+)(?:/…)?`", row[1]))
        for row in table(readme, "## Config groups")
    }
    # An option of a folder is named by its folder, as `paper/…`. A new one need not be named here.
    there = {
        group: {option.partition("/")[0] for option in options}
        for group, options in catalogue().items()
    }
    assert set(groups) == set(there)
    assert all(groups[group] <= there[group] for group in groups)


def test_the_first_screen_of_the_readme() -> None:
    screen = "\n".join(text_of(ROOT / "README.md").splitlines()[:12])
    assert "docs/figures/turntables.webp" in screen and "make demo\nmake test" in screen


def test_the_changelog_names_this_version() -> None:
    assert f"## [{__version__}]" in text_of(ROOT / "CHANGELOG.md")


def test_the_layout_of_the_design_is_the_layout() -> None:
    """What is there is not called planned, what is planned is not there, nothing is left out."""
    blocks = FENCE.findall(text_of(ROOT / "docs/design.md"))
    (tree,) = [body for info, body in blocks if info == "text"]
    entries = dict(re.findall(r"^  ([\w./]+) {2,}(.+)$", tree, re.MULTILINE))
    assert len(entries) > 20
    for name, description in entries.items():
        there = (ROOT / "pds_cli" / name).exists()
        assert there != description.endswith("(planned)"), f"docs/design.md on {name}"
    present = {path.name for path in (ROOT / "pds_cli").iterdir() if not path.name.startswith("__")}
    assert present <= {name.rstrip("/") for name in entries}


def test_the_toybox_page_agrees_with_the_world() -> None:
    from pds_cli.toybox.cases import EDITS
    from pds_cli.toybox.world import ATTRIBUTES, Figure

    page = ROOT / "docs/toybox.md"
    rows = {row[0].strip("`"): row[1:] for row in table(page, "## The world")}
    assert list(rows) == list(ATTRIBUTES)
    for name, (values, default) in rows.items():
        assert values.split(";")[0].split(", ") == list(ATTRIBUTES[name])
        assert default == getattr(Figure(), name)
    assert [row[0] for row in table(page, "## The edit benchmark")] == list(EDITS)


def test_the_toybox_page_agrees_with_the_recipe() -> None:
    recipe = composed("pretrain", [])
    for key, value in table(ROOT / "docs/toybox.md", "## Its training"):
        node = recipe
        for part in key.strip("`").split("."):
            node = node[part]
        assert float(value) == float(node), f"docs/toybox.md says {key} is {value}, not {node}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples_give_what_they_show(page: Path) -> None:
    # The fence that ends a block would be read as output.
    source = FENCE.sub(lambda match: match[2], text_of(page))
    example = doctest.DocTestParser().get_doctest(source, {}, page.name, str(page), 0)
    failed, tried = doctest.DocTestRunner().run(example)
    assert failed == 0
    assert tried > 0 or page.name != "toybox.md"


# --- the page about parts of one's own -----------------------------------------------------------


def test_the_examples_of_the_extending_page_run(
    pds: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(EXTENDING, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for command in [command for command in PDS if command.page == "docs/extending.md"]:
        answer = pds(*command.words[1:])
        assert answer.code == 0, f"{command}: {answer.err}"
    shift = [float(word) for word in Path("all_mine/exports/shift.txt").read_text().split()]
    assert 1 < shift[0] < 2 and abs(shift[1]) < 0.1
    assert '"spring_norm": ' in Path("with_my_loss/metrics.jsonl").read_text()
    assert Path("all_mine/report.html").is_file() and Path("mixed/comparison.html").is_file()


def test_the_extending_page_is_right_about_what_is_refused(
    pds: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(EXTENDING, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["edit", "--config-dir", "groups", "scene=toy2d", "backbone=mixture", "steps=1"]
    words += ["representation=points", "prompt=b", "loss=spring", "out=refused"]
    refused = pds(*words)
    assert refused.code == 2 and "allow_modules=[my_loss]" in refused.err
    words.append("allow_modules=[my_loss]")
    unknown = pds(*words, "+loss.stregth=1")
    assert unknown.code == 2 and "did you mean strength?" in unknown.err
    wrong = pds(*words, "loss.strength=-1")
    assert wrong.code == 2 and "loss.strength=-1 must be at least 0" in wrong.err


def test_the_page_of_every_key_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    from pds_cli.figures.options import page

    monkeypatch.delenv("PDS_DATA", raising=False)
    assert text_of(ROOT / "docs/options.md") == page(), "run make options"
