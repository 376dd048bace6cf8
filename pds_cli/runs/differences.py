"""What differs between runs: their settings, flat, and which of them tell the runs apart."""

from __future__ import annotations

import difflib
import json
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from pds_cli.errors import UserError
from pds_cli.runs.record import RunRecord, node_name, number
from pds_cli.runs.settings import FREE

# Settings that say how a run was carried out, not what it did.
IGNORED = {*FREE, "hydra", "output", "outputs", "run_dir", "folder", "force", "quiet"}
IGNORED_LAST = {"recommended", "_target_", "name", "_recursive_", "_convert_"}
# Who comes first when rows and columns are chosen; anything else follows by name.
FIRST = ("scene", "source", "prompt", "backbone", "representation", "loss")
PLAIN = {"edit", "scene", "source", "prompt", "backbone", "representation", "loss"}
EDIT = {"edit", "scene", "source", "prompt", "suffix"}
"""First parts of the keys that say which edit a run makes, not how it makes it."""
MISSING = "—"
Settings = dict[str, Any]


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; lists stay values."""
    if not isinstance(node, dict):
        return {prefix: node}
    out: dict[str, Any] = {}
    for key, value in node.items():
        dotted = f"{prefix}.{key}" if prefix else str(key)
        out.update(flatten(value, dotted) if isinstance(value, dict) else {dotted: value})
    return out


def shown(value: Any) -> str:
    """A config value as a person writes it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return clean(value)


def clean(text: Any) -> str:
    """Text without what no page can show: control characters and lone surrogates."""
    return "".join(
        c for c in str(text) if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs")
    )


def all_settings(runs: Sequence[RunRecord]) -> list[Settings]:
    """Each run's settings, flat, with a config group that differs reduced to its choice.

    A group such as `loss` is one setting (`sds`, `pds`); of its own keys only those remain that
    differ between runs of the same choice, e.g. a swept `loss.identity`.
    """
    flat = [flatten(run.config) for run in runs]
    out = [{k: v for k, v in node.items() if not _ignored(k)} for node in flat]
    groups = dict.fromkeys(k for run in runs for k, v in run.config.items() if isinstance(v, dict))
    groups |= dict.fromkeys(["loss"] if any("loss" in run.summary for run in runs) else [])
    for group in groups:
        if group in IGNORED:
            continue
        labels = group_labels(runs, group)
        inner = {key for node in out for key in node if key.startswith(f"{group}.")}
        for node, label in zip(out, labels, strict=True):
            node[group] = label
        if len(set(labels)) > 1:
            for key in inner:
                if determines([*labels], [canonical(node.get(key, MISSING)) for node in out]):
                    for node in out:
                        node.pop(key, None)
    return out


def group_labels(runs: Sequence[RunRecord], group: str) -> list[str]:
    """The short name of each run's choice in a config group.

    A failed run has no summary to name it; it takes the name of a run with the same config
    there, or with the same `_target_` if only one name goes with that.
    """
    named: dict[str, set[str]] = {}
    for run in runs:
        if isinstance(name := run.summary.get(group), str) and name:
            for mark in _marks(run.config.get(group)):
                named.setdefault(mark, set()).add(name)
    labels = []
    for run in runs:
        name, node = run.summary.get(group), run.config.get(group)
        if not isinstance(name, str) or not name:
            known = [named[mark] for mark in _marks(node) if len(named.get(mark, ())) == 1]
            fallback = node_name(node) if isinstance(node, dict) else shown(node)
            name = next(iter(known[0])) if known else fallback or "none"
        labels.append(name)
    return labels


def _marks(node: Any) -> list[str]:
    target = node.get("_target_") if isinstance(node, dict) else None
    return [repr(node), f"_target_ {target}"]


def _ignored(key: str) -> bool:
    parts = key.split(".")
    return parts[0] in IGNORED or any(part in IGNORED_LAST for part in parts)


def canonical(value: Any) -> Any:
    """A hashable stand-in under which 1e-3 (text to YAML) equals 0.001 and 7 equals 7.0."""
    if isinstance(value, str):
        try:
            found: float | None = float(value)
        except ValueError:
            found = None
    else:
        found = number(value)
    if found is not None and math.isfinite(found):
        return ("number", found)
    return (type(value).__name__, value if isinstance(value, str) else repr(value))


def determines(causes: Sequence[Any], effects: Sequence[Any]) -> bool:
    """Whether runs that agree in the first also agree in the second."""
    seen: dict[Any, Any] = {}
    return all(seen.setdefault(c, e) == e for c, e in zip(causes, effects, strict=True))


def differing_keys(settings: Sequence[Settings]) -> list[str]:
    """Keys whose values differ between the runs, the telling ones first.

    A copy of another key under the same last name (`loss.guidance` of `guidance`) is left out.
    """
    keys = dict.fromkeys(key for node in settings for key in node)
    found: list[str] = []
    seen: set[tuple[Any, ...]] = set()
    for key in sorted(keys, key=lambda k: k.count(".")):
        values = column_of(settings, key)
        mark = (key.rsplit(".", 1)[-1], *values)
        if len(set(values)) > 1 and mark not in seen:
            seen.add(mark)
            found.append(key)
    rank = {key: i for i, key in enumerate(FIRST)}

    def place(key: str) -> tuple[Any, ...]:
        return rank.get(key.split(".")[0], 99), key.count("."), key == "seed", key

    return sorted(found, key=place)


def column_of(settings: Sequence[Settings], key: str) -> tuple[Any, ...]:
    """The value of one key in every run, comparable."""
    return tuple(canonical(node.get(key, MISSING)) for node in settings)


def find_key(settings: Sequence[Settings], key: str) -> str:
    """The full name of a config key given in full or by its last part.

    Raises UserError, with the nearest names, where no or more than one key is meant.
    """
    keys = list(dict.fromkeys(k for node in settings for k in node))
    if key in keys:
        return key
    ends = [k for k in keys if k.endswith(f".{key}")]
    if len(ends) == 1:
        return ends[0]
    near = ends or difflib.get_close_matches(key, keys, n=3, cutoff=0.4) or differing_keys(settings)
    hint = f"; name one of: {', '.join(near[:8])}" if near else ""
    raise UserError(f"the runs have no setting {key!r} to lay them out by{hint}")


def axis_positions(
    settings: Sequence[Settings], keys: Sequence[str]
) -> list[tuple[tuple[Any, ...], Settings]]:
    """The distinct value tuples of `keys` with the first settings that have them, in order.

    Numbers ascend; anything else comes in the order of the runs.
    """
    seen: dict[tuple[Any, ...], Settings] = {}
    for node in settings:
        seen.setdefault(position(node, keys), node)
    places: list[dict[Any, int]] = []
    for i in range(len(keys)):
        values = list(dict.fromkeys(key[i] for key in seen))
        values.sort(key=lambda v: (v[0] != "number", v[1] if v[0] == "number" else 0))
        places.append({value: n for n, value in enumerate(values)})
    order = sorted(seen, key=lambda key: [place[v] for place, v in zip(places, key, strict=True)])
    return [(key, seen[key]) for key in order]


def position(node: Settings, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(canonical(node.get(key, MISSING)) for key in keys)


def value_text(key: str, node: Settings) -> str:
    """A setting's value with as much of its name as it needs: `PDS`, `guidance 7.5`."""
    value = shown(node[key]) if key in node else MISSING
    if key == "loss":
        return value.upper()
    if key == "source" and value == "null":
        return "the scene's own source prompt"
    return value if key in PLAIN else f"{key.rsplit('.', 1)[-1].replace('_', ' ')} {value}"


def is_seed(key: str) -> bool:
    """Whether a key only says which random numbers a run drew."""
    return key.rsplit(".", 1)[-1] == "seed"


def is_edit(key: str) -> bool:
    """Whether a key says which edit a run makes, not how."""
    return key.split(".")[0] in EDIT


def edit_of(run: RunRecord) -> tuple[str, str, str]:
    """What makes two runs the same edit: scene, source prompt and prompt."""
    scene = {key: value for key, value in flatten(run.config.get("scene")).items()}
    text = repr(sorted((key, canonical(value)) for key, value in scene.items()))
    suffix = str(run.config.get("suffix") or "")
    return text, run.source_prompt + suffix, run.prompt + suffix
