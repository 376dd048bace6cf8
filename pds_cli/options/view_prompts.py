"""The keys of view-dependent prompts: from where a view looks, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pds_cli.options.option import option
from pds_cli.options.ranges import Range

SECTORS = ("4", "8")
OVERHEAD = 60.0  # degrees
ABOVE = "above"
VIEW_WORDS = {
    "front": "front view",
    "front_left": "front left view",
    "left": "left side view",
    "back_left": "back left view",
    "back": "back view",
    "back_right": "back right view",
    "right": "right side view",
    "front_right": "front right view",
    ABOVE: "overhead view",
}
"""Direction → its words. The sides stand counterclockwise as seen from above, 45° apart."""
SIDES = tuple(name for name in VIEW_WORDS if name != ABOVE)


def _advised(key: str, default: Any) -> str:
    """What the backbone recommends for a key of `view_prompts`, else a default."""
    return f"${{oc.select:backbone.recommended.view_prompts.{key},{default}}}"


def _words(name: str) -> Any:
    where = "above" if name == ABOVE else f"the {name.replace('_', ' ')}"
    advised = _advised(f"words.{name}", VIEW_WORDS[name])
    return option(f"for a view from {where}", advised, text=True)


@dataclass
class ViewWordsConf:
    """What is said of a view in each direction; left and right are those of what is looked at."""

    front: str = _words("front")
    front_left: str = _words("front_left")
    left: str = _words("left")
    back_left: str = _words("back_left")
    back: str = _words("back")
    back_right: str = _words("back_right")
    right: str = _words("right")
    front_right: str = _words("front_right")
    above: str = _words("above")


@dataclass
class ViewPromptsConf:
    """Prompts that say from where a view of a 3D scene looks: see `pds_cli.training.prompts`."""

    enabled: bool = option(
        "say behind both prompts from where a view looks, in 3D scenes",
        _advised("enabled", "false"),
    )
    sectors: str = option(
        "directions around: 4, front, left, back and right; 8, those between too",
        _advised("sectors", 8),
        choices=SECTORS,
    )
    overhead: float = option(
        "a view from more degrees above the horizon is one from above",
        _advised("overhead", OVERHEAD),
        range=Range(0, 90),
    )
    camera: bool = option(
        "tell a backbone that knows cameras from where a view looks, where that is known",
        _advised("camera", "true"),
    )
    words: ViewWordsConf = option("what is said; empty: nothing", ViewWordsConf)
