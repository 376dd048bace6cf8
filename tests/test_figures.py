"""The scripts behind `make figure-…`: wrong words get a sentence and exit code 2."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from pds_cli.figures import demo, frontier, paper, picture, strips, svg_edits, toy2d, turntables
from pds_cli.pretraining import packing
from pds_cli.scripts import run

ROOT = Path(__file__).resolve().parent.parent
WRONG = [
    (strips, [], "0 words were given; call it as python -m pds_cli.figures.strips <out.png>"),
    (strips, ["out.png", "nowhere", "sds"], "nowhere holds no finished benchmark"),
    (turntables, ["out.png"], "1 words were given; call it as python -m"),
    (turntables, ["out.png", "nowhere"], "there is no run folder nowhere"),
    (svg_edits, ["nowhere"], "holds no finished edit"),
    (demo, ["a", "b"], "2 words were given; call it as python -m pds_cli.figures.demo"),
    (toy2d, ["colour=red"], "colour"),
    (frontier, ["nowhere"], "run make figure-frontier"),
    (paper, ["nowhere", "nowhere/paper.md"], "run make figure-image"),
    (packing, ["a"], "1 words were given; call it as python -m pds_cli.pretraining.packing"),
    (packing, ["nowhere", "out"], "nowhere holds no backbone"),
    (picture, ["a.png"], "1 words were given; call it as python -m pds_cli.figures.picture"),
    (picture, ["nowhere.png", "a.webp"], "nowhere.png"),
    (paper, ["a", "b", "c", "d"], "call it as python -m pds_cli.figures.paper"),
]


@pytest.mark.parametrize(("module", "words", "sentence"), WRONG)
def test_wrong_words_get_a_sentence(
    module: ModuleType,
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(module.main, words) == 2
    told = capsys.readouterr()
    assert sentence in told.err and told.err.count("\n") == 1 and not told.out
    assert not list(tmp_path.iterdir())


def test_a_picture_becomes_a_small_one(tmp_path: Path) -> None:
    noise = Image.effect_noise((96, 64), 30).convert("RGB")
    noise.save(tmp_path / "a.png")
    assert run(picture.main, [str(tmp_path / "a.png"), str(tmp_path / "out/a.webp")]) == 0
    small = Image.open(tmp_path / "out/a.webp")
    assert small.format == "WEBP" and small.size == (96, 64)
    assert (tmp_path / "out/a.webp").stat().st_size < (tmp_path / "a.png").stat().st_size / 2


def test_damaged_numbers_of_the_dial_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "frontier.json").write_text("{", encoding="utf-8")
    assert run(frontier.main, [str(tmp_path / "outputs"), str(tmp_path)]) == 2
    assert "frontier.json is not a JSON file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["frontier.json"]


def test_the_dial_takes_what_it_did_not_measure_from_the_kept_numbers(tmp_path: Path) -> None:
    kept, out = tmp_path / "docs", tmp_path / "figures"
    kept.mkdir()
    row = {"success": 0.5, "lpips_source": 0.1, "lpips_truth": 0.2}
    text = json.dumps({"pictures": {name: row for name in ("exact", "id_0", "id_1", "dds")}})
    (kept / "frontier.json").write_text(text, encoding="utf-8")
    assert run(frontier.main, [str(tmp_path / "outputs"), str(out), str(kept)]) == 0
    assert json.loads((out / "frontier.json").read_text()) == json.loads(text)
    assert [path.name for path in kept.iterdir()] == ["frontier.json"]
    assert (kept / "frontier.json").read_text(encoding="utf-8") == text


TARGETS = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
WRITING = sorted({t for t in TARGETS if re.match("figure|table|paper|frontier|toybox|emoji", t)})


@pytest.mark.parametrize("target", WRITING)
def test_no_target_writes_into_the_docs_unless_told(target: str) -> None:
    """Of what `make` would run nothing names docs/, except where the dial's kept numbers are."""
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES")}
    env["INTO"] = "docs/figures"  # not enough: it must be said on the command line

    def lines(*words: str) -> list[str]:
        command = ["make", "-n", "-C", str(ROOT), target, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        kept = "figures.frontier outputs outputs/figures docs/figures"
        return [line.replace(kept, "") for line in done.stdout.splitlines()]

    assert not [line for line in lines() if "docs/" in line]
    written = [line for line in lines() if "outputs/figures" in line]
    told = [line for line in lines("INTO=docs/figures") if "docs/" in line]
    assert len(told) >= len(written)


def test_every_figure_goes_where_it_is_told() -> None:
    """`outputs/figures` stands in the Makefile once, and `docs/` in comments and two places."""
    rules = [
        line
        for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert [line for line in rules if "outputs/figures" in line] == ["INTO = outputs/figures"]
    named = [line for line in rules if "docs/" in line and "docs/options.md" not in line]
    assert len(named) == 3, named  # help, the dial's kept numbers, the paper's page


def test_what_was_written_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda argv: map(Path, argv), ["a.png", "b.md"]) == 0
    assert capsys.readouterr().out == "a.png\nb.md\n"
