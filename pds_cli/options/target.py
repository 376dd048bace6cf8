"""What every node of a config that is built has."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class Target:
    """Any node that is instantiated: it names its class, beside that class's keywords."""

    _target_: str = MISSING
