"""From the shell's words to Hydra's overrides: flags after overrides, and free text unharmed.

Hydra's grammar gives commas, brackets, quotes, `=`, `:` and `$` a meaning. Keys that hold free
text or paths are quoted here before Hydra reads them, so that `prompt=a man, smiling (close-up)`
means what it says.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString
from hydra.errors import HydraException

from pds_cli.errors import UserError
from pds_cli.instantiate import escape_text
from pds_cli.ranges import shown

# Lists of paths at the top level: one path may be given without brackets.
_PATH_LISTS = frozenset(["runs", "collect"])

# Last component of the keys whose value is text: `prompt`, `scene.source_prompt`, `scene.path`, …
FREE_TEXT = frozenset(
    [
        "prompt",
        "source",
        "negative",
        "suffix",
        "source_prompt",
        "path",
        "model",
        "data",
        "folder",
        "file",
        "text",
        "run",
        "out",
        "resume",
    ]
)
# `pds import images=…` is text; `data.images=…` is a number.
_FREE_AT_TOP = frozenset(["images"])
_UNSWEPT = ("out", "resume")
_OVERRIDE = re.compile(r"(\+{0,2})([A-Za-z_][\w./@-]*)=(.*)", re.DOTALL)
# A float cannot take such an integer, and Python not even read one of thousands of digits.
_ENDLESS = re.compile(r"(?<![\w.])\d{40,}")
_QUOTED = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_SEVERAL = re.compile(rf"\s*{_QUOTED}(?:\s*,\s*{_QUOTED})+\s*", re.DOTALL)
_FLAGS_WITH_VALUE = frozenset(
    [
        "--cfg",
        "-c",
        "--package",
        "-p",
        "--config-path",
        "-cp",
        "--config-name",
        "-cn",
        "--config-dir",
        "-cd",
        "--experimental-rerun",
    ]
)
_FLAGS = (
    *sorted(_FLAGS_WITH_VALUE),
    *["--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"],
    *["--shell-completion", "-sc", "--info", "-i"],
)
_INFO = frozenset(("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"))
_SHOWING = frozenset(["--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i"])


@dataclass
class CommandLine:
    """What follows the verb, sorted: Hydra's flags, overrides, and words of neither kind."""

    flags: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def sweep(self) -> bool:
        """Whether several jobs are asked for."""
        return bool({"-m", "--multirun"} & set(self.flags)) or any(
            override.replace(" ", "").upper() == "HYDRA.MODE=MULTIRUN"
            for override in self.overrides
        )

    @property
    def showing(self) -> bool:
        """Whether something is shown and nothing run."""
        return any(
            flag.partition("=")[0] in _SHOWING or flag.startswith(("--shell", "-sc"))
            for flag in self.flags
        )

    @property
    def config_dirs(self) -> list[Path]:
        """Folders given with --config-dir."""
        found = []
        for index, flag in enumerate(self.flags):
            name, equals, value = flag.partition("=")
            if name in ("--config-dir", "-cd"):
                found += [value] if equals else self.flags[index + 1 : index + 2]
        return [Path(folder) for folder in found]


def read_command_line(argv: Sequence[str], positional: str | None = None) -> CommandLine:
    """Sorts the words after the verb and quotes free text.

    Args:
        argv: the words.
        positional: the key that collects words without `=` as a list of texts, if there is one.

    Raises:
        UserError: a word that is none of these, or an option that cannot be swept over.
    """
    line = CommandLine()
    words = list(argv)
    while words:
        word = words.pop(0)
        if word.startswith("-") and len(word) > 1:
            line.flags.append(word)
            wants = word in _FLAGS_WITH_VALUE
            if words and (wants or (word in ("--info", "-i") and words[0] in _INFO)):
                line.flags.append(words.pop(0))
        elif positional and not word.startswith("~") and ("=" not in word or _is_path(word)):
            line.words.append(word)
        elif "=" in word or word.startswith("~"):
            line.overrides.append(word)
        else:
            raise UserError(f"{word!r} is not key=value; quote a value that holds spaces.")
    _check_flags(line.flags)
    sweep = line.sweep
    line.overrides = [quote_free_text(override, sweep) for override in line.overrides]
    if positional and line.words:
        items = ",".join(quote(word) for word in line.words)
        line.overrides.append(f"{positional}=[{items}]")
    return line


def _check_flags(flags: Sequence[str]) -> None:
    values = {index + 1 for index, flag in enumerate(flags) if flag in _FLAGS_WITH_VALUE}
    for index, flag in enumerate(flags):
        name = flag.partition("=")[0]
        if name == "--experimental-rerun":
            raise UserError("--experimental-rerun reads a pickle and is switched off.")
        if index in values or not flag.startswith("-") or name in _FLAGS:
            continue
        near = difflib.get_close_matches(name, _FLAGS, 1)
        raise UserError(
            f"there is no option {name}"
            + (f"; did you mean {near[0]}?" if near else "; --help shows what there is.")
        )


def quote(text: str) -> str:
    """`text` as a Hydra value that arrives as exactly this text."""
    return QuotedString(text=escape_text(text), quote=Quote.single).with_quotes()


def quote_free_text(override: str, sweep: bool = False) -> str:
    """`key=value` with the value quoted for Hydra where the key holds free text.

    With `sweep`, two or more quoted texts between commas stay several values; any other value is
    one text. `null` alone keeps its meaning, no value. A path where a list of them is wanted
    becomes a list of one.
    """
    match = _OVERRIDE.fullmatch(override)
    free = match is not None and (
        match[2].rpartition(".")[2] in FREE_TEXT or match[2] in _FREE_AT_TOP
    )
    if match and match[2] in _PATH_LISTS and match[3][:1] not in ("[", "$", ""):
        return f"{match[1]}{match[2]}=[{quote(match[3])}]"
    if not free and _ENDLESS.search(override):
        raise UserError(f"{shown(override)} is out of range: no number here has so many digits.")
    if match is None or not free or match[3] == "null":
        return override
    plus, key, value = match.groups()
    if key == "resume" and sweep:
        raise UserError("resume continues one run: leave out -m.")
    texts = _several(value) if sweep and key not in _UNSWEPT else None
    return f"{plus}{key}=" + ",".join(quote(text) for text in texts or [value])


def _several(value: str) -> list[str] | None:
    """The texts of `"…","…"`, or None where the value is not of that form."""
    if not _SEVERAL.fullmatch(value):
        return None
    try:
        parsed = OverridesParser.create().parse_rule(value.strip(), "value")
    except HydraException:
        return None
    if not isinstance(parsed, ChoiceSweep):
        return None
    texts = [item.text for item in parsed.list if isinstance(item, QuotedString)]
    return texts if len(texts) == len(parsed.list) else None


def _is_path(word: str) -> bool:
    try:
        return Path(word).exists()
    except OSError:  # longer than a name of a file can be
        return False
