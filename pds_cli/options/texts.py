"""Which keys hold free text, in which no comma, quote or bracket means anything."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from pds_cli.options.catalogue import conf_dir
from pds_cli.options.option import find
from pds_cli.options.schemas import BASES, VERB_SCHEMAS, group_schemas, schema_of, text_by_name

# What holds text in a group from outside, of which nothing else is known.
_OUTSIDE = frozenset(
    [
        *("prompt", "source", "negative", "suffix", "source_prompt", "path", "model"),
        *("data", "folder", "file", "text", "run", "out", "resume"),
    ]
)


class FreeText:
    """The keys of a command line that hold free text; ask with `in`.

    Args:
        verb: whose keys they are; None: of any verb.
        words: `key=value`, which may choose options of groups.
    """

    def __init__(self, verb: str | None = None, words: Iterable[str] = ()) -> None:
        known = VERB_SCHEMAS.get(verb) if verb else None
        self.schemas = [known] if known else list(VERB_SCHEMAS.values())
        self.chosen = {
            group: re.findall(r"[\w/]+", options)
            for group, _, options in (word.lstrip("+").partition("=") for word in words)
        }

    def __contains__(self, key: str) -> bool:
        said = [each for schema in self.schemas if (each := find(schema, key)) is not None]
        group, _, rest = key.partition(".")
        ours = self._schemas(group) if rest and not said else []
        said += [each for schema in ours if (each := find(schema, rest)) is not None]
        if said:
            return any(each.text for each in said)
        name = key.rpartition(".")[2]
        in_table = bool(ours) and name != rest
        return name in _OUTSIDE or (in_table and name in text_by_name())

    def _schemas(self, group: str) -> list[type]:
        """Of the options that are chosen of a group, or of all that may be; none: from outside."""
        names = self.chosen.get(group)
        if names is None:
            return list(group_schemas(group))
        # A name may be too long for a file: os.path says no, where Path.is_file raises.
        ours = [n for n in names if os.path.isfile(conf_dir() / group / f"{n}.yaml")]
        found = [schema_of(group, name) or BASES.get(group) for name in ours]
        return [schema for schema in found if schema is not None]


FREE_TEXT = FreeText()
