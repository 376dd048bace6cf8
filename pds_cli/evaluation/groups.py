"""Which runs are pooled and which are set against each other: groups by what differs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pds_cli.errors import UserError
from pds_cli.runs.differences import (
    MISSING,
    PLAIN,
    Settings,
    axis_positions,
    column_of,
    determines,
    differing_keys,
    find_key,
    is_edit,
    is_seed,
    position,
    shown,
)

FEW = 4  # values that a note names


def describe(node: Settings, keys: Sequence[str]) -> str:
    """The values of some settings, with names where a value alone says little: `pds, lr 0.1`."""
    texts = [shown(node[key]) if key in node else MISSING for key in keys]
    return ", ".join(
        text if key in PLAIN else f"{key.rpartition('.')[2].replace('_', ' ')} {text}"
        for key, text in zip(keys, texts, strict=True)
    )


@dataclass(frozen=True)
class Group:
    """Runs that are pooled.

    values: the text of each grouping key.
    members: places of its runs.
    """

    values: dict[str, str]
    members: list[int]

    def label(self, keys: Sequence[str]) -> str:
        """The values of some keys, see `describe`."""
        return describe(self.values, keys)


@dataclass(frozen=True)
class Grouping:
    """All runs in groups.

    keys: what the groups differ in.
    along: keys that differ too but follow from one of `keys`, by that key.
    mixed: key → its values, of what differs within a group, seeds aside.
    repeated: runs that differ from another in nothing, not even the seed.
    """

    keys: list[str]
    groups: list[Group]
    along: dict[str, list[str]]
    mixed: dict[str, list[str]]
    repeated: int


def key_names(by: object, settings: Sequence[Settings]) -> list[str] | None:
    """The full names of what `by=…` says: one key or a list of them; None for null.

    `method` is the loss or editor.

    Raises:
        UserError: no text, or no setting of these runs.
    """
    if by is None:
        return None
    names = [by] if isinstance(by, str) else list(by) if isinstance(by, Sequence) else [by]
    found = []
    for name in names:
        if not isinstance(name, str) or not name:
            raise UserError(f"by={by} must name settings, as in by=[prompt,loss]")
        try:
            found.append(find_key(settings, "loss" if name == "method" else name))
        except UserError as error:
            raise UserError(f"by={name}: {error}") from error
    return list(dict.fromkeys(found))


def telling_keys(settings: Sequence[Settings]) -> tuple[list[str], dict[str, list[str]]]:
    """What the runs differ in, seeds aside, and what merely goes along with one of these keys."""
    keys: list[str] = []
    along: dict[str, list[str]] = {}
    for key in differing_keys(settings):
        if is_seed(key):
            continue
        values = column_of(settings, key)
        follows = (k for k in keys if determines(column_of(settings, k), values))
        leader = None if key in PLAIN - {"source"} else next(follows, None)
        if leader is None:
            keys.append(key)
        else:
            along.setdefault(leader, []).append(key)
    return keys, along


def group_runs(settings: Sequence[Settings], by: Sequence[str] | None = None) -> Grouping:
    """Runs in groups by the keys `by`; None: by all that differs but the seed."""
    keys, along = telling_keys(settings)
    if by is not None:
        keys, along = list(by), {}
    elif "loss" not in keys and any("loss" in node for node in settings):
        keys.append("loss")
    groups = []
    for place, node in axis_positions(settings, keys):
        members = [i for i, each in enumerate(settings) if position(each, keys) == place]
        values = {key: shown(node[key]) if key in node else MISSING for key in keys}
        groups.append(Group(values, members))
    return Grouping(keys, groups, along, _mixed(settings, groups, keys), _repeated(settings))


def _mixed(
    settings: Sequence[Settings], groups: Sequence[Group], keys: Sequence[str]
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in differing_keys(settings):
        if key in keys or is_seed(key):
            continue
        for group in groups:
            nodes = [settings[i] for i in group.members]
            texts = dict.fromkeys(shown(n[key]) if key in n else MISSING for n in nodes)
            if len(set(column_of(nodes, key))) > 1:
                found[key] = list(dict.fromkeys([*found.get(key, []), *texts]))
    return found


def _repeated(settings: Sequence[Settings]) -> int:
    keys = sorted({key for node in settings for key in node})
    return len(settings) - len({position(node, keys) for node in settings})


def said(mixed: dict[str, list[str]]) -> str:
    """`guidance (3, 7.5), prompt (6 values)`."""
    return ", ".join(
        f"{key} ({', '.join(values) if len(values) <= FEW else f'{len(values)} values'})"
        for key, values in mixed.items()
    )


def unit_keys(settings: Sequence[Settings], keys: Sequence[str]) -> list[str]:
    """What runs of two groups must share to be a pair: the edit, what edits, and the seed."""
    shared = ("backbone", "representation")
    return [
        key
        for key in differing_keys(settings)
        if key not in keys and (is_edit(key) or is_seed(key) or key in shared)
    ]


def rivals(grouping: Grouping) -> Iterator[tuple[Group, Group]]:
    """Pairs of groups of the same edits: those that may be compared."""
    edits = [key for key in grouping.keys if is_edit(key)]
    for one, other in itertools.combinations(grouping.groups, 2):
        if all(one.values[key] == other.values[key] for key in edits):
            yield one, other
