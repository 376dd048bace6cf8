"""From the shell's words to Hydra's overrides: flags after overrides, and free text unharmed.

Hydra's grammar gives commas, brackets, quotes, `=`, `:` and `$` a meaning. Keys that hold free
text or paths are quoted here before Hydra reads them, so that `prompt=a man, smiling (close-up)`
means what it says.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
)
from hydra.errors import HydraException

from pds_cli.errors import UserError
from pds_cli.instantiate import escape_text
from pds_cli.options.catalogue import is_hidden, no_such_option
from pds_cli.options.ranges import shown
from pds_cli.options.texts import FREE_TEXT, FreeText

MOST_JOBS = 10_000  # of a sweep: Hydra composes each twice, and takes some 0.2 s for it
MOST_BYTES = 4_000_000  # of a file of prompts

# Lists of paths at the top level: one path may be given without brackets.
_PATH_LISTS = frozenset(["runs", "collect"])

_UNSWEPT = ("out", "resume")
_OVERRIDE = re.compile(r"(\+{0,2})([A-Za-z_][\w./@-]*)=(.*)", re.DOTALL)
_KEY = re.compile(r"\+{0,2}[A-Za-z_][\w./@-]*")
# A float cannot take such an integer, and Python not even read one of thousands of digits.
_ENDLESS = re.compile(r"(?<![\w.])\d{40,}")
MOST_NESTED = 32  # Hydra reads brackets in brackets by recursion, which Python ends at some hundred
_QUOTED = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_SEVERAL = re.compile(rf"\s*{_QUOTED}(?:\s*,\s*{_QUOTED})+\s*", re.DOTALL)
# Flags with a value, and an example of one.
_FLAGS_WITH_VALUE = {
    **dict.fromkeys(("--cfg", "-c"), "job"),
    **dict.fromkeys(("--package", "-p"), "loss"),
    **dict.fromkeys(("--config-dir", "-cd"), "my_groups"),
}
_OWN = "is switched off: each verb has its own config; --config-dir adds groups of yours."
_SWITCHED_OFF = {
    "--experimental-rerun": "reads a pickle and is switched off.",
    **dict.fromkeys(("--config-name", "-cn", "--config-path", "-cp"), _OWN),
}
_SHOWN = ("job", "hydra", "all")
_MODES = frozenset(["--run", "-r", "--multirun", "-m", "--cfg", "-c", "--shell-completion", "-sc"])
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

    def value_of(self, *names: str) -> str:
        """What follows a flag, which may have several names; empty where it was not given."""
        for index, flag in enumerate(self.flags):
            name, equals, value = flag.partition("=")
            if name in names:
                return value if equals else "".join(self.flags[index + 1 : index + 2])
        return ""

    @property
    def config_dirs(self) -> list[Path]:
        """Folders given with --config-dir, or as hydra.searchpath=[file://…]."""
        found = []
        for override in self.overrides:
            if override.startswith("hydra.searchpath="):
                found += re.findall(r"file://([^,'\"\]]+)", override)
        for index, flag in enumerate(self.flags):
            name, equals, value = flag.partition("=")
            if name in ("--config-dir", "-cd"):
                found += [value] if equals else self.flags[index + 1 : index + 2]
        return [Path(folder) for folder in found]


def read_command_line(
    argv: Sequence[str], positional: str | None = None, verb: str | None = None
) -> CommandLine:
    """Sorts the words after the verb and quotes free text.

    Args:
        argv: the words.
        positional: the key that collects words without `=` as a list of texts, if there is one.
        verb: whose keys they are; None: of any verb.

    Raises:
        UserError: a word that is none of these, or an option that cannot be swept over.
    """
    line = CommandLine()
    words = list(argv)
    while words:
        word = words.pop(0)
        if word.startswith("-") and len(word) > 1:
            line.flags.append(word)
            wants = word in _FLAGS_WITH_VALUE or word in _SWITCHED_OFF
            if words and (wants or (word in ("--info", "-i") and words[0] in _INFO)):
                line.flags.append(words.pop(0))
        elif positional and not word.startswith("~") and ("=" not in word or _is_path(word)):
            line.words.append(word)
        elif not word.lstrip("+~").partition("=")[0]:
            raise UserError(f"{word!r} names no key: write key=value.")
        elif "=" in word or word.startswith("~"):
            line.overrides.append(word)
        else:
            raise UserError(f"{word!r} is not key=value; quote a value that holds spaces.")
    _check_flags(line.flags)
    sweep, free = line.sweep, FreeText(verb, line.overrides)
    line.overrides = [
        _prompts(override, sweep) or quote_free_text(override, sweep, free)
        for override in line.overrides
    ]
    if positional and line.words:
        items = ",".join(quote(word) for word in line.words)
        line.overrides.append(f"{positional}=[{items}]")
    return line


def _check_flags(flags: Sequence[str]) -> None:
    values = {index + 1 for index, flag in enumerate(flags) if flag in _FLAGS_WITH_VALUE}
    given = {flag.partition("=")[0] for index, flag in enumerate(flags) if index not in values}
    for index, flag in enumerate(flags):
        if index in values or not flag.startswith("-"):
            continue
        name, equals, value = flag.partition("=")
        if name in _SWITCHED_OFF:
            raise UserError(f"{name} {_SWITCHED_OFF[name]}")
        if name not in _FLAGS:
            raise UserError(f"there is no option {name}{_instead_of(flag)}")
        if name in _FLAGS_WITH_VALUE:
            value = value if equals else "".join(flags[index + 1 : index + 2])
            _check_value(name, value)
    if {"--package", "-p", "--resolve"} & given and not {"--cfg", "-c", "--help", "-h"} & given:
        raise UserError("--package and --resolve go with --cfg: they say what of it is shown.")
    modes = [flag for flag in flags if flag.partition("=")[0] in _MODES]
    if len(modes) > 1:
        raise UserError(f"Only one of {', '.join(modes)} can be given.")


def _instead_of(flag: str) -> str:
    near = difflib.get_close_matches(flag.partition("=")[0], _FLAGS, 1)
    if re.fullmatch(r"--[A-Za-z_][\w.]*=.*", flag, re.DOTALL):
        return f": a key has no dashes, {flag.lstrip('-')}."
    return f"; did you mean {near[0]}?" if near else "; --help shows what there is."


def _check_value(name: str, value: str) -> None:
    if not value:
        raise UserError(f"{name} needs a value, as in {name} {_FLAGS_WITH_VALUE[name]}.")
    if name in ("--cfg", "-c") and value not in _SHOWN:
        raise UserError(f"{name} {value} is unknown; choose one of {', '.join(_SHOWN)}.")


def quote(text: str) -> str:
    """`text` as a Hydra value that arrives as exactly this text."""
    return QuotedString(text=escape_text(text), quote=Quote.single).with_quotes()


def words_of(settings: Mapping[str, Any]) -> list[str]:
    """Python's values as Hydra's overrides, `key=value`, whose texts arrive as they are.

    Args:
        settings: key → text, path, number, bool, None, list of these, or a dict of keys below it.

    Raises:
        UserError: a key that is none or is given twice, one of Hydra's own, or a value of another
            type.
    """
    found: dict[str, str] = {}
    for key, value in _flat(settings):
        if not _KEY.fullmatch(key):
            raise UserError(f"{shown(key)} is not a key: keys are words with dots between them.")
        if re.match(r"\+*hydra\b", key) and key != "hydra.searchpath":
            raise UserError(f"{key} is a setting of Hydra's: only the command line takes it.")
        if key in found:
            raise UserError(f"{key} is given twice: give it once.")
        found[key] = _literal(key, value)
    return [f"{key}={text}" for key, text in found.items()]


def _flat(settings: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Each value with its dotted key."""
    for name, value in settings.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _literal(key: str, value: Any) -> str:
    """A value as Hydra's grammar writes it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, (str, os.PathLike)):
        text = str(os.fspath(value))
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"{key}={text!a} holds half a letter: no file can be written of it.")
        return quote(text)
    if isinstance(value, Integral) and abs(int(value)) < 10**39:
        return str(int(value))
    if isinstance(value, Integral):
        raise UserError(f"{key} is out of range: no number here has so many digits.")
    if isinstance(value, Real):
        return repr(float(value))
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_literal(key, item) for item in value)}]"
    raise UserError(
        f"{key} is of the type {type(value).__name__}: give a text, a number, True, False, None, "
        "or a list of these."
    )


def quoted_words(words: Sequence[str], verb: str) -> list[str]:
    """The words of a verb's command line as Hydra gets and keeps them, without a sweep."""
    free = FreeText(verb, words)
    return [quote_free_text(word, free_text=free) for word in words]


def quote_free_text(override: str, sweep: bool = False, free_text: FreeText = FREE_TEXT) -> str:
    """`key=value` with the value quoted for Hydra where the key holds free text.

    With `sweep`, two or more quoted texts between commas stay several values; any other value is
    one text. `null` alone keeps its meaning, no value. A path where a list of them is wanted
    becomes a list of one.
    """
    match = _OVERRIDE.fullmatch(override)
    free = match is not None and match[2] in free_text
    if match and match[2] in _PATH_LISTS and match[3][:1] not in ("[", "$", ""):
        return f"{match[1]}{match[2]}=[{quote(match[3])}]"
    if not free and _ENDLESS.search(override):
        raise UserError(f"{shown(override)} is out of range: no number here has so many digits.")
    if not free and _nested(override) > MOST_NESTED:
        raise UserError(
            f"{shown(override)} has brackets in brackets, more than {MOST_NESTED} deep."
        )
    if match is None or not free or match[3] == "null":
        return override
    plus, key, value = match.groups()
    if key == "resume" and sweep:
        raise UserError("resume continues one run: leave out -m.")
    texts = _several(value) if sweep and key not in _UNSWEPT else None
    return f"{plus}{key}=" + ",".join(quote(text) for text in texts or [value])


def _nested(word: str) -> int:
    """How deep the brackets of a word are, those in quotes left out."""
    depth = deepest = 0
    for letter in re.sub(_QUOTED, "", word):
        depth += (letter in "[{(") - (letter in "]})")
        deepest = max(deepest, depth)
    return deepest


def _prompts(override: str, sweep: bool) -> str | None:
    """`prompt=@file` as the file's lines; None for any other word.

    `@@` at a prompt's beginning stands for an `@` that is its own.
    """
    key, _, value = override.partition("=")
    if key.lstrip("+") != "prompt" or not value.startswith("@"):
        return None
    if value.startswith("@@"):
        return f"{key}={quote(value[1:])}"
    texts = prompts_in(Path(value[1:]).expanduser())
    if len(texts) > 1 and not sweep:
        raise UserError(
            f"{shown(override)} holds {len(texts):,} prompts: add -m to run each of them."
        )
    return f"{key}=" + ",".join(map(quote, texts))


def literal_prompt(text: str) -> str:
    """The word `prompt=…` of a command line that arrives as `text`, whatever it begins with."""
    return f"prompt={'@' if text.startswith('@') else ''}{text}"


def prompts_in(path: Path) -> list[str]:
    """The lines of a UTF-8 file that are not empty.

    Raises:
        UserError: there is no such file, it is no text, or it holds too much or nothing.
    """
    said = f"prompt=@{path}"
    try:
        if not path.is_file():
            raise UserError(f"{said}: there is no such file; a prompt's own @ is written @@.")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{said} is larger than {MOST_BYTES:,} bytes: it holds no prompts.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = "not UTF-8" if isinstance(error, ValueError) else error.strerror
        raise UserError(f"{said} cannot be read as a text of prompts ({reason}).") from error
    texts = [line.strip() for line in text.split("\n") if line.strip()]
    if "\0" in text or not texts:
        raise UserError(f"{said} holds {'no text' if texts else 'nothing'}: a line is a prompt.")
    return texts


def settle_groups(line: CommandLine, groups: Mapping[str, Iterable[str]]) -> None:
    """Keeps the words about groups to the options that are offered.

    Args:
        groups: group → its options; parts of options, such as `_common`, are none.

    Raises:
        UserError: a word chooses such a part.
    """
    line.overrides = [_settled(word, groups, line.sweep) for word in line.overrides]


def _settled(word: str, groups: Mapping[str, Iterable[str]], sweep: bool) -> str:
    """The word, with `glob(…)` of a sweep written out: Hydra's own would find hidden parts too."""
    group = word.lstrip("+").partition("=")[0]
    if group not in groups:
        return word
    try:
        value = OverridesParser.create().parse_override(word).value()
    except HydraException:
        return word  # Hydra meets it again, where it can be explained
    if isinstance(value, Glob):
        names = value.filter(list(groups[group]))
        return f"{group}={','.join(names)}" if sweep and names else word
    for item in value.list if isinstance(value, ChoiceSweep) else [value]:
        name = item.text if isinstance(item, QuotedString) else str(item)
        if is_hidden(name):
            raise UserError(no_such_option(group, name, list(groups[group])))
    return word


def job_count(overrides: Sequence[str], groups: Mapping[str, Iterable[str]]) -> int | None:
    """How many jobs a sweep over these words has; None where Hydra has to say what is wrong.

    Args:
        groups: group → its options, for `glob(…)`.

    Raises:
        UserError: none at all, or more than `MOST_JOBS`.
    """
    count = 1
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        for override in parsed:
            count *= _values(override, groups) if override.is_sweep_override() else 1
            if not count:
                raise UserError(f"{override.input_line} holds no value: there is nothing to run.")
    except (HydraException, ValueError, TypeError, OverflowError):
        return None
    if count > MOST_JOBS:
        raise UserError(f"a sweep of {count:,} jobs is refused: it may have {MOST_JOBS:,}.")
    return count


def _values(override: Override, groups: Mapping[str, Iterable[str]]) -> int:
    value = override.value()
    if isinstance(value, RangeSweep):
        step = float(value.step)
        return max(0, math.ceil((float(value.stop or 0) - float(value.start or 0)) / step))
    if isinstance(value, Glob):
        return len(value.filter(list(groups.get(override.key_or_group, ()))))
    if isinstance(value, ChoiceSweep):
        return len(value.list)
    return 1


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
