"""Files of others are read within bounds, or refused in one sentence."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pds_cli.errors import UserError
from pds_cli.reading import (
    MAX_DEPTH,
    brief,
    label,
    parse_json,
    parse_yaml,
    read_json,
    read_text,
    read_yaml,
)

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def sentence(read: Callable[[Path], Any], path: Path) -> str:
    """What is said of a file that must be refused, at once."""
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        read(path)
    assert time.monotonic() - started < 5
    said = str(caught.value)
    assert "\n" not in said and len(said) < 500 and path.name in said
    return said


@pytest.mark.parametrize("read", [read_text, read_json, read_yaml])
def test_only_ordinary_files_are_opened(read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not an ordinary file" in sentence(read, tmp_path / "pipe")
    assert "not an ordinary file" in sentence(read, Path("/dev/zero"))
    assert "is a folder" in sentence(read, tmp_path)
    assert "does not exist" in sentence(read, tmp_path / "none")
    assert "cannot be read" in sentence(read, tmp_path / ("long" * 70))


def test_large_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole: no disk holds it
    for read in (read_text, read_json, read_yaml):
        assert "is larger than" in sentence(read, path)
    path.write_text("1234")
    assert read_text(path, 4) == "1234"
    assert "larger than" in sentence(lambda p: read_text(p, 3), path)


def test_text_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"caf\xe9")
    assert "not UTF-8 text (at byte 3)" in sentence(read_text, path)
    path.write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')  # as some editors begin it
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "in line 1, column 2"),
        ('{"a": 1,\n 3}', "in line 2, column 2"),
        ("", "Expecting value"),
        ("[" * 100_000, "nested more than"),
        ('{"a":' * 400 + "1" + "}" * 400, "nested more than"),
        ("9" * 400, "a number of 400 digits"),
        ("-" + "9" * 9000, "digits"),
    ],
)
def test_what_is_no_json_is_said(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(text)
    assert says in sentence(read_json, tmp_path / "file.json")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "in line 2"),
        (BOMB, "an alias (*a)"),
        ("a: &a [*a]", "an alias"),
        ("- " * 5000 + "1", "nested more than"),
        ("[" * 5000, "nested more than"),
        ("a: " + "9" * 400, "a number of 400 digits"),
        ("a: 0x" + "f" * 9000, "digits"),
        ("a: !!python/object/apply:os.system [ls]", "a tag"),
        ("a: !!timestamp x", "a tag"),
        ("a: 1\n---\nb: 1", "another document"),
        ("a: \x00", "not allowed"),
    ],
)
def test_what_is_no_yaml_is_said(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text(text)
    assert says in sentence(read_yaml, tmp_path / "file.yaml")


def test_what_is_within_the_bounds_is_read_as_it_is() -> None:
    nested: Any = 1
    for _ in range(MAX_DEPTH):
        nested = [nested]
    values: list[Any] = [nested, {"a": [1, -2.5, None, True, "é"]}, 2**63 - 1, -(2**63), "", []]
    for value in values:
        assert parse_json(json.dumps(value)) == value
        assert parse_yaml(json.dumps(value)) == value
    assert parse_json("1" + "0" * 30) == 1e30, "as other programs read it"
    assert parse_yaml("day: 2025-01-31\nlarge: 12345678901234567890123") == {
        "day": "2025-01-31",
        "large": 12345678901234567890123.0,
    }


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="{}[]:,-&*!'\"\n ab019.eE+x_#|>%@?=<~", max_size=60))
def test_whatever_stands_there_is_a_value_or_a_value_error(text: str) -> None:
    for parse in (parse_json, parse_yaml):
        try:
            parse(text)
        except ValueError as error:
            assert str(error) and "\n" not in str(error)


def test_wrong_values_are_shown_in_one_short_line() -> None:
    assert brief({"a": [1] * 1000}) == "an object of 1" and brief([1, 2]) == "a list of 2"
    assert len(brief("x" * 1000)) < 70 and brief("a\nb") == "'a\\nb'"
    assert label("images/ä 1.png") == "images/ä 1.png" and "\n" not in label("a\nb")
