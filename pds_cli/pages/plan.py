"""Which settings of several runs make the rows and the columns of their grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pds_cli.errors import UserError
from pds_cli.runs.differences import (
    Settings,
    column_of,
    determines,
    differing_keys,
    find_key,
    is_edit,
)


@dataclass
class Plan:
    """Which settings make the rows and columns, and which merely go along with one of them."""

    rows: list[str]
    columns: list[str]
    along: dict[str, list[str]] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        main = [*self.rows, *self.columns]
        return main + [key for name in main for key in self.along.get(name, [])]


def make_plan(settings: Sequence[Settings], rows: str | None, columns: str | None) -> Plan:
    """Choose rows and columns: one key makes the columns, all others are joined into the rows.

    A key that another one determines makes no axis of its own (each loss with its own guidance
    would give a grid with only a diagonal) and goes into that one's finer print.
    """
    asked = [find_key(settings, key) for key in (rows, columns) if key]
    values = {key: column_of(settings, key) for key in [*asked, *differing_keys(settings)]}
    main = list(dict.fromkeys(asked))
    along: dict[str, list[str]] = {}
    for key in values:
        if key in main:
            continue
        leader = next((m for m in main if determines(values[m], values[key])), None)
        if leader is None:
            main.append(key)
        else:
            along.setdefault(leader, []).append(key)
    column = asked[-1] if columns else _best_column([k for k in main if not rows or k != asked[0]])
    if rows and columns and asked[0] == asked[1]:
        raise UserError(f"rows and columns are both {rows}; name two different keys")
    column_keys = [column] if column else []
    return Plan([key for key in main if key not in column_keys], column_keys, along)


def _best_column(keys: Sequence[str]) -> str | None:
    if not keys or (len(keys) == 1 and is_edit(keys[0])):
        return None
    # With prompts or scenes down the side, losses side by side are what one looks for.
    if "loss" in keys and (len(keys) > 2 or any(map(is_edit, keys))):
        return "loss"
    others = [key for key in keys if key != "seed"]
    return (others or list(keys))[-1]
