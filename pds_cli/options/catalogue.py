"""What the config groups offer, read from the YAML files' own first comments."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from pds_cli.errors import UserError, did_you_mean

_TARGET = re.compile(r"^_target_:\s*([\w.]+)\s*$", re.MULTILINE)
# Groups of Hydra's own, and our schemas, which are no choice of the user's.
_HIDDEN = ("hydra", "schema")


def conf_dir() -> Path:
    """The folder of the shipped YAML files, in a checkout or in an installed package."""
    checkout = Path(__file__).resolve().parents[2] / "conf"
    if (checkout / "edit.yaml").is_file():
        return checkout
    spec = find_spec("pds_cli.conf")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("pds_cli is installed without its conf folder: reinstall the package.")
    return Path(next(iter(spec.submodule_search_locations)))


def config_path() -> str:
    """What Hydra gets as its config path: the installed package, or the checkout's folder."""
    found = conf_dir()
    return "pkg://pds_cli.conf" if found.parent.name == "pds_cli" else str(found)


def describe(path: Path) -> str:
    """The first comment line of a YAML file, without `#`; empty where it begins otherwise."""
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                text = line.strip()
                if text.startswith("# @package") or not text:
                    continue
                return text.lstrip("# ").rstrip() if text.startswith("#") else ""
    except (OSError, UnicodeDecodeError):
        pass
    return ""


def is_hidden(option: str) -> bool:
    """Whether a YAML is a part of options and none itself: `loss/_common.yaml`.

    >>> is_hidden("_common"), is_hidden("paper/_nerf"), is_hidden("pds_plus")
    (True, True, False)
    """
    return option.rpartition("/")[2].startswith("_")


def no_such_option(group: str, option: str, options: Sequence[str]) -> str:
    """The sentence for an option that a group has not."""
    return (
        f"{group}={option} does not exist{did_you_mean(option, options)} "
        f"{group} can be {', '.join(options)}."
    )


def catalogue(more: Iterable[Path] = ()) -> dict[str, dict[str, str]]:
    """Group → option → description, for the shipped groups and those in the folders `more`.

    An option in a folder of a group is named with it: `experiment=paper/svg_dog`.
    """
    groups: dict[str, dict[str, str]] = {}
    for root in (conf_dir(), *more):
        for path in sorted(root.rglob("*.yaml")):
            group, _, option = path.relative_to(root).with_suffix("").as_posix().partition("/")
            if not option or group in _HIDDEN or is_hidden(option) or not path.is_file():
                continue
            groups.setdefault(group, {})[option] = describe(path)
    return {group: dict(sorted(groups[group].items())) for group in sorted(groups)}


@functools.cache
def shipped_targets(group: str) -> dict[str, tuple[str, ...]]:
    """Class → the options of a shipped group that name it: the group's registered components."""
    found: dict[str, tuple[str, ...]] = {}
    root = conf_dir() / group
    for path in sorted(root.rglob("*.yaml")):
        match = _TARGET.search(path.read_text(encoding="utf-8"))
        if match and match[1] != "null":
            option = path.relative_to(root).with_suffix("").as_posix()
            found[match[1]] = (*found.get(match[1], ()), option)
    return found
