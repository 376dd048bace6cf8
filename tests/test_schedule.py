"""The noise schedule of a backbone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pds_cli.backbones.schedule import PREDICTIONS, Schedule
from pds_cli.errors import UserError

SCHEDULE = Schedule(torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x0, eps = torch.randn(2, 5, 4, 8, 8, generator=generator, dtype=torch.float64)
    return x0, eps, torch.tensor([0, 1, 500, 998, 999])


def test_signal_and_noise_are_of_unit_variance_together() -> None:
    x0, _, t = drawn()
    total = SCHEDULE.alpha(t, x0).square() + SCHEDULE.sigma(t, x0).square()
    torch.testing.assert_close(total, torch.ones(5, 1, 1, 1, dtype=torch.float64))
    assert SCHEDULE.num_train_timesteps == 1000


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_becomes_the_noise_that_was_added(prediction: str) -> None:
    x0, eps, t = drawn()
    x_t = SCHEDULE.add_noise(x0, t, eps)
    said = {"epsilon": eps, "v_prediction": SCHEDULE.velocity(x0, t, eps), "sample": x0}
    found = SCHEDULE.to_eps(said[prediction], x_t, t, prediction)
    torch.testing.assert_close(found, eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(SCHEDULE.to_x0(found, x_t, t), x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_have_the_kind_of_what_they_multiply(dtype: torch.dtype) -> None:
    points = torch.zeros(2, 3, dtype=dtype)
    found = SCHEDULE.alpha_bar(torch.tensor([0, 999]), points)
    assert (found.dtype, tuple(found.shape)) == (dtype, (2, 1))


def test_another_prediction_is_refused() -> None:
    x0, _, t = drawn()
    with pytest.raises(UserError, match="flow is none of epsilon, v_prediction, sample"):
        SCHEDULE.to_eps(x0, x0, t, "flow")
