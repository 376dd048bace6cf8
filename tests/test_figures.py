"""The scripts behind `make figure-…`: wrong words get a sentence and exit code 2."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from pds_cli.figures import demo, frontier, paper, strips, svg_edits, toy2d, turntables
from pds_cli.figures.command import run

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
    (paper, ["a", "b", "c"], "call it as python -m pds_cli.figures.paper"),
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


def test_damaged_numbers_of_the_dial_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "frontier.json").write_text("{", encoding="utf-8")
    assert run(frontier.main, [str(tmp_path / "outputs"), str(tmp_path)]) == 2
    assert "frontier.json cannot be read" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["frontier.json"]


def test_what_was_written_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda argv: map(Path, argv), ["a.png", "b.md"]) == 0
    assert capsys.readouterr().out == "a.png\nb.md\n"
