"""What a backbone recommends, of its config alone."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from pds_cli.errors import UserError
from pds_cli.options.ranges import shown

GUIDANCE = 7.5  # of samples, where the backbone recommends nothing


def recommended_guidance(backbone: DictConfig) -> float:
    """ω for sampling: `recommended.guidance.sample`, else what is usual.

    Raises:
        UserError: it is no number; what a backbone recommends has no types.
    """
    found = OmegaConf.select(backbone, "recommended.guidance.sample")
    if found is None:
        return GUIDANCE
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise UserError(f"backbone.recommended.guidance.sample={shown(found)} is not a number.")
    return float(found)
