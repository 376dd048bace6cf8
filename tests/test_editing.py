"""The objective of an edit: what a representation adds to the loss."""

from __future__ import annotations

import pytest
import torch
from albums import Album, Pages, gaussians, texts
from torch import Tensor

from pds_cli.losses.pds import PDS
from pds_cli.seeds import step_generator
from pds_cli.training.distillation import EditObjective
from pds_cli.views.view import View


class Heavy(Pages):
    """Each value of θ costs three times the progress."""

    seen: tuple[str, float] = ("", -1.0)

    def penalty(self, view: View, progress: float, generator: torch.Generator) -> Tensor | None:
        self.seen = view.name, progress
        return 3 * progress * self.theta.sum() if progress else None


def gradient(pages: Pages, progress: float) -> tuple[Tensor, dict[str, float]]:
    backbone = gaussians()
    edit = EditObjective(Album(2), pages, backbone, PDS(guidance=2.0), *texts(backbone))
    scalar, logs = edit.loss(4, progress, step_generator(0, "edit", 4))
    return torch.autograd.grad(scalar, pages.theta)[0], logs


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_the_penalty_of_a_representation_is_added_to_the_loss(progress: float) -> None:
    heavy, pages = Heavy(Album(2)), Pages(Album(2))
    added, logs = gradient(heavy, progress)
    plain, without = gradient(pages, progress)
    assert torch.allclose(added, plain + 3 * progress, atol=1e-6)
    assert heavy.seen == (pages.rendered[-1], progress)
    assert logs["loss"] == without["loss"] and "penalty" not in without
    total = 3 * progress * 0.5 * heavy.theta.numel()
    assert logs.get("penalty", 0.0) == pytest.approx(total)
