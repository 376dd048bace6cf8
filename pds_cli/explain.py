"""One sentence for what went wrong on the command line: what exists, and the nearest match."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
    SearchPathException,
)
from omegaconf import OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from pds_cli.config import composed
from pds_cli.errors import UserError, did_you_mean, first_line
from pds_cli.options.catalogue import catalogue, no_such_option
from pds_cli.options.ranges import shown

_WORDS = {
    **dict.fromkeys(("Integer", "int"), "a whole number"),
    **dict.fromkeys(("Float", "float"), "a number"),
    **dict.fromkeys(("Boolean", "bool"), "true or false"),
    **dict.fromkeys(("String", "str"), "a text"),
}

_PACKAGE = Path(__file__).resolve().parent
_STANDARD = tuple(sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib"))


@dataclass
class Line:
    """The command line that went wrong.

    config: name of the verb's config.
    overrides: the words given, as Hydra reads them.
    config_dirs: folders of groups besides ours.
    """

    config: str
    overrides: Sequence[str]
    config_dirs: Sequence[Path] = ()

    @cached_property
    def groups(self) -> dict[str, dict[str, str]]:
        """Group → option → description."""
        return catalogue(self.config_dirs)

    def word(self, key: str) -> str:
        """The word that gives a key its value, as it was written; or the key alone."""
        found = [w for w in self.overrides if re.split("[=@]", w.lstrip("+~"))[0] == key]
        return found[-1].lstrip("+~") if found else key

    @cached_property
    def keys(self) -> list[str]:
        """All dotted keys of the verb's config, with the groups that the words choose."""
        chosen = []
        for override in self.overrides:
            group, _, option = override.partition("=")
            if option in self.groups.get(group, {}):
                chosen.append(override)
        # A group that this verb does not have, or a broken file of the user's: do without.
        return self._composed(chosen) or self._composed([]) or sorted(self.groups)

    def _composed(self, chosen: Sequence[str]) -> list[str]:
        try:
            cfg = composed(self.config, chosen, self.config_dirs)
        except (HydraException, OmegaConfBaseException, OSError):
            return []
        plain = OmegaConf.to_container(cfg, resolve=False)
        assert isinstance(plain, dict)
        return list(_names(plain))


def explain(
    error: BaseException, config: str, overrides: Sequence[str], config_dirs: Sequence[Path] = ()
) -> str | None:
    """A sentence for an error that the user can mend, or None for one that is a defect of ours.

    Args:
        error: what was raised, with its causes.
        config: name of the verb's config.
        overrides: the overrides given, to find the keys that exist.
        config_dirs: folders given with --config-dir.
    """
    text = _explained(error, Line(config, overrides, config_dirs))
    return None if text is None else one_line(text)


def one_line(text: str) -> str:
    """A message of several lines as one."""
    return " ".join(text.split()) if "\n" in text.strip() else text.strip()


def _explained(error: BaseException, line: Line) -> str | None:
    user = user_error(error)
    if user is not None:
        return str(user)
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, MissingConfigException):
            return _missing_option(link, line)
        if isinstance(link, OverrideParseException):
            return _unreadable(link, line)
    removed = _removed(chain, line)
    if removed is not None:
        return removed
    for link in chain:
        if isinstance(link, MissingMandatoryValue):
            key = link.full_key or "a value"
            return f"{key} is missing: give it as {key}=<value>."
        if isinstance(link, ValidationError):
            return _wrong_type(link, line)
        if isinstance(link, InterpolationResolutionError):
            return _unfilled(link, line)
        if isinstance(link, OverflowError):
            return f"a number in the config is too large ({link})."
    return _about_keys(chain, line) or _about_the_rest(chain) or _of_users_code(chain)


def _about_keys(chain: Sequence[BaseException], line: Line) -> str | None:
    """For keys and groups that are not there, and options that are none."""
    text = " ".join(f"{link}" for link in chain)
    if "Config group override" in text or any(str(link).startswith("In '") for link in chain):
        wrong = _no_option(line)
        if wrong is not None:
            return wrong
    for link in chain:
        if isinstance(link, ConfigCompositionException) and str(link).startswith("In '"):
            return str(link).rstrip(".") + "."
    for link in chain:
        if isinstance(link, ConfigAttributeError | ConfigKeyError):
            full = link.full_key or str(link.key)
            said = _overridden(chain)
            inside = said is not None and said in line.keys and full.startswith(f"{said}.")
            return _unknown_key(full if inside or said is None else said, line)
    for link in chain:
        if isinstance(link, ConfigCompositionException):
            return _composition(link, chain, line)
    return None


def _about_the_rest(chain: Sequence[BaseException]) -> str | None:
    for link in chain:
        if isinstance(link, SearchPathException | OmegaConfBaseException):
            return _first_line(link)
        if isinstance(link, OSError) and link.strerror:
            return f"cannot use {link.filename or 'a file'}: {link.strerror}."
        if isinstance(link, HydraException) and "does not support sweep type" in str(link):
            return "an interval cannot be swept: write values between commas, or range(1,4)."
        if isinstance(link, HydraException) and "sweep" in str(link):
            return _first_line(link)
    return None


def _of_users_code(chain: Sequence[BaseException]) -> str | None:
    """For an error in a module that is the user's own: its file and line.

    It is theirs where the innermost frame outside libraries is not of this package.
    """
    for link in chain:
        place = _place(link)
        if place is not None:
            said = link.msg if isinstance(link, SyntaxError) else one_line(str(link).strip())
            return f"your code in {place[0]}, line {place[1]}: {type(link).__name__}: {said or '…'}"
    return None


def _place(error: BaseException) -> tuple[str, int] | None:
    if isinstance(error, SyntaxError) and error.filename and not _is_library(error.filename):
        return _near(error.filename), error.lineno or 1
    found = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        if not _is_library(frame.f_code.co_filename):
            found = frame, number
    if found is None or str(found[0].f_globals.get("__name__")).split(".")[0] == "pds_cli":
        return None
    path = found[0].f_code.co_filename
    return None if Path(path).is_relative_to(_PACKAGE) else (_near(path), found[1])


def _is_library(path: str) -> bool:
    """Whether a file is an installed one, of Python's own, or no file at all (`<string>`)."""
    if path.startswith("<"):
        return True
    parts = Path(path).parts
    return "site-packages" in parts or "dist-packages" in parts or path.startswith(_STANDARD)


def _near(path: str) -> str:
    """A path as seen from the present folder, where it lies below it."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except (OSError, ValueError):
        return path


def _removed(chain: Sequence[BaseException], line: Line) -> str | None:
    """For `~key`: what there is can be given another value, but cannot be taken away."""
    text = " ".join(str(link) for link in chain)
    for word in line.overrides:
        key = re.split("[=@]", word[1:])[0]
        told = (word, f"'{key}'", f"'{word[1:]}'", f"choices.{key}'")
        if not word.startswith("~") or not any(part in text for part in told):
            continue
        if key in line.groups and key in line.keys:
            options = ", ".join(line.groups[key])
            return f"{word}: a group cannot be taken away; {key} can be {options}."
        if key in line.keys:
            return f"{word}: a key cannot be taken away; {key}=<value> gives it another value."
        return _unknown_key(key, line)
    return None


def _no_option(line: Line) -> str | None:
    """For the first word that asks a group for what is no option of it."""
    for word in line.overrides:
        group, _, option = word.lstrip("+").partition("=")
        if group in line.groups and option not in line.groups[group]:
            return no_such_option(group, option, list(line.groups[group]))
    return None


def _unfilled(error: InterpolationResolutionError, line: Line) -> str:
    """For `${…}` that leads nowhere."""
    text = _first_line(error)
    key = (error.full_key or "").removeprefix("_dummy_")
    key = key or next((w.split("=")[0] for w in line.overrides if "${" in w), "")
    before = f"{line.word(key)}: " if key else ""
    if match := re.search(r"nterpolation key '(.*?)'", text):
        group = match[1].rpartition(".")[2]
        if "runtime.choices" in match[1] and group in line.groups:
            return no_such_option(
                group, line.word(group).partition("=")[2], list(line.groups[group])
            )
        return f"{before}there is no key {match[1]} to take the value from."
    if match := re.search(r"Environment variable '(.*?)' not found", text):
        return f"{before}the environment variable {match[1]} is not set."
    if match := re.search(r"Unsupported interpolation type (\S+?)\.?$", text):
        return (
            f"{before}${{{match[1]}:…}} is unknown; oc.env and oc.select are among what there is."
        )
    if "Recursive" in text:
        return f"{before}the value refers to itself."
    return before + text


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def user_error(error: BaseException | None) -> UserError | None:
    """The sentence meant for the user that other errors were wrapped around, if there is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, UserError):
            return error
        # OmegaConf hides the cause of an error in a resolver, so hidden contexts count.
        error = error.__cause__ or error.__context__
    return None


def _first_line(error: BaseException) -> str:
    return first_line(error).rstrip(".") + "."


def _missing_option(error: MissingConfigException, line: Line) -> str:
    path = error.missing_cfg_file or ""
    group, _, option = path.rpartition("/")
    if path.partition("/")[0] in line.groups:  # an option in a folder: experiment=paper/svg_dog
        group, _, option = path.partition("/")
    options = list(line.groups.get(group, {}) or error.options or ())
    if not group or not options:
        return _first_line(error)
    return no_such_option(group, option, options)


def _unreadable(error: OverrideParseException, line: Line) -> str:
    word = error.override
    key, equals, _ = word.partition("=")
    if not equals:
        return f"{shown(word)!r} is not key=value."
    if not re.fullmatch(r"[+~]*[A-Za-z_][\w./@:-]*", key, re.ASCII):
        return _unknown_key(key.lstrip("+~"), line)
    return (
        f"cannot read {shown(word)!r}: a value with brackets, commas, quotes or colons must be "
        f"quoted for Hydra, for example {key}=\"'…'\"."
    )


def _wrong_type(error: ValidationError, line: Line) -> str:
    text = _first_line(error)
    match = re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text, re.S)
    key = error.full_key or ""
    deeper = [w.partition("=")[0] for w in line.overrides if w.startswith(f"{key}.")]
    if key and deeper and match and match[1] == "{}":
        return _unknown_key(deeper[0], line)
    if match and match[2] in _WORDS:
        return f"{key}={shown(match[1])} is not {_WORDS[match[2]]}."
    if match := re.search(r"Value '(.*)' is not a valid (bool|int|float|str)\b", text, re.S):
        return f"{key}={shown(match[1])} is not {_WORDS[match[2]]}."
    if "is not Optional" in text:
        return f"{key} needs a value: null is none."
    if "is not a ListConfig, list or tuple" in text:
        return f"{shown(line.word(key))} is not a list: write {key}=[…], with commas between."
    if "is not a subclass of" in text or "to Dict[" in text:
        return f"{shown(line.word(key))}: it holds keys, to be given as {key}.<key>=<value>."
    if match := re.search(r"Cannot convert '\w+' to string: '(.*)'", text):
        return f"{key}={shown(match[1])} is not a text."
    if match := re.search(r"Invalid value '(.*)', expected one of \[(.*)\]", text):
        return f"{key}={shown(match[1])} is unknown; choose one of {match[2]}."
    return f"{key}: {text}" if key else text


def _overridden(chain: Sequence[BaseException]) -> str | None:
    for link in chain:
        match = re.match(r"Could not (?:override|delete from config\.) '([^']*)'", str(link))
        if match:
            return match[1]
    return None


def _composition(
    error: ConfigCompositionException, chain: Sequence[BaseException], line: Line
) -> str:
    text = " ".join(str(error).split()) or _first_line(chain[-1])
    if match := re.match(r"Ambiguous value for argument '(.*?)' 1\.", text):
        return (
            f"{match[1]} holds several values: add -m to run each of them, "
            "or write [a,b] for a list."
        )
    if match := re.match(r"Sweep parameters '(.*)' requires --multirun", text):
        return f"{match[1]} holds several values: add -m to run each of them."
    if match := re.search(
        r"Multiple values for (\S+)\. To override|force-add of .*'\+\+(\w+)=", text
    ):
        group = match[1] or match[2]
        return f"{group} is a group that the verb has: write {group}=<name> without a plus."
    if match := re.match(r"Could not append to config\. An item is already at '(.*?)'", text):
        return f"{match[1]} is there already: write {match[1]}=<value> without a plus."
    if match := re.match(r"Error resolving interpolation '(.*?)'", text):
        word = next((word for word in line.overrides if match[1] in word), match[1])
        return f"{word}: {match[1]} is not the name of a group."
    if match := re.match(r"Cannot find primary config '(.*?)'", text):
        return f"there is no config {match[1]}: each verb has its own."
    key = _overridden(chain)
    if key is not None:
        return _unknown_key(key, line)
    if match := re.match(r"Override (\S+?)[=@]\S* looks like a config group", text):
        return _unknown_key(match[1], line)
    return text.rstrip(".") + "."


def _unknown_key(key: str, line: Line) -> str:
    if key.startswith("hydra."):
        return f"{key} is not a key of Hydra's: pds {line.config} --cfg hydra shows what is."
    if key in line.keys:  # so it is what was asked of it
        return f"{shown(line.word(key))} is not possible: write {key}=<value>."
    parent = key.rpartition(".")[0]
    while parent and not any(name.startswith(f"{parent}.") for name in line.keys):
        parent = parent.rpartition(".")[0]
    prefix = f"{parent}." if parent else ""
    siblings = [n for n in line.keys if n.startswith(prefix) and "." not in n[len(prefix) :]]
    near = did_you_mean(key, siblings if parent else line.keys)
    return f"{shown(key)} is not a key{near} Keys are {', '.join(siblings)}."


def _names(node: dict[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")
