"""The pages of the documentation as tests read them."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import ROOT

EXTENDING = ROOT / "docs/extending.md"
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(page: Path) -> str:
    """What a page says."""
    return page.read_text(encoding="utf-8")


def files_of(page: Path) -> dict[str, str]:
    """The files that a page spells out: blocks that begin with ```python file=name."""
    named = [(re.search(r" file=(\S+)", info), body) for info, body in FENCE.findall(text_of(page))]
    return {match[1]: body for match, body in named if match}
