"""The UNet of an embedded backbone predicts what a linear guess of v leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_MODEL

from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.schedule import Schedule
from pds_cli.errors import UserError
from pds_cli.pretraining.components import (
    build_components,
    cosine_alphas_cumprod,
    load_components,
    save_components,
)

SPREAD = torch.tensor([1.0, 0.1, 0.5, 3.0])


def test_what_is_left_to_predict_has_unit_spread_and_nothing_linear() -> None:
    schedule = Schedule(cosine_alphas_cumprod(1000, -1.386))
    generator = torch.Generator().manual_seed(0)
    count = 100_000
    for step in (0, 50, 400, 800, 999):
        t = torch.full((1,), step)
        draws = torch.randn(2, 1, 4, count, 1, generator=generator, dtype=torch.float64)
        x0, eps = SPREAD.double()[:, None, None] * draws[0], draws[1]
        x_t, v = schedule.add_noise(x0, t, eps), schedule.velocity(x0, t, eps)
        into, skip, out = schedule.preconditioning(t, x_t, SPREAD)
        left, seen = ((v - skip * x_t) / out)[0, :, :, 0], (into * x_t)[0, :, :, 0]
        torch.testing.assert_close(seen.std(1), torch.ones(4).double(), rtol=0.02, atol=0)
        torch.testing.assert_close(left.std(1), torch.ones(4).double(), rtol=0.02, atol=0)
        torch.testing.assert_close(
            (left * seen).mean(1), torch.zeros(4).double(), rtol=0, atol=0.02
        )


def test_a_spread_of_one_changes_nothing() -> None:
    schedule = Schedule(cosine_alphas_cumprod(1000, -1.386))
    t, like = torch.arange(1000), torch.zeros(1000, 2, 1, 1)
    into, skip, out = schedule.preconditioning(t, like, torch.ones(2))
    torch.testing.assert_close(into, torch.ones_like(into))
    torch.testing.assert_close(out, torch.ones_like(out))
    assert float(skip.abs().max()) == 0


@pytest.fixture
def parts() -> Any:
    """A backbone whose UNet predicts nothing: what is left is the linear guess."""
    torch.manual_seed(0)
    made = build_components(TINY_MODEL, 16, ["a red square"])
    made.autoencoder.fit_components(torch.rand(40, 3, 16, 16) ** 3 * 2 - 1)
    torch.nn.init.zeros_(made.unet.conv_out.weight)
    torch.nn.init.zeros_(made.unet.conv_out.bias)
    return made


def test_an_untrained_network_is_the_best_linear_denoiser(parts: Any) -> None:
    """x̂_0 = √ᾱ s² / (ᾱ s² + 1−ᾱ) x_t, Wiener's, and not the noise itself."""
    backbone = EmbeddedBackbone.of(parts)
    spread = parts.autoencoder.spread
    assert spread is not None and float(spread.max()) < 3 and float(spread.min()) > 0
    x_t, t = torch.randn(3, 16, 4, 4), torch.tensor([5, 300, 900])
    eps = backbone.predict_eps(x_t, t, backbone.encode_prompt(["a red square"] * 3).cond)
    alpha_bar = backbone.schedule.alpha_bar(t, x_t)
    variance = spread[:, None, None].square()
    wiener = alpha_bar.sqrt() * variance / (alpha_bar * variance + 1 - alpha_bar) * x_t
    torch.testing.assert_close(backbone.schedule.to_x0(eps, x_t, t), wiener, rtol=1e-3, atol=1e-3)


def test_spreads_are_kept_with_the_weights(parts: Any, tmp_path: Path) -> None:
    save_components(parts, tmp_path / "made")
    spread = parts.autoencoder.spread
    loaded = EmbeddedBackbone(str(tmp_path / "made"), device="cpu").vae.spread
    torch.testing.assert_close(loaded, spread)
    for stages, right in ((["denoise"], spread), (["decode"], None)):
        other = build_components(TINY_MODEL, 16, ["a red square"])
        load_components(other, tmp_path / "made", stages)
        found = other.autoencoder.spread  # it belongs to the UNet, which is preconditioned with it
        assert (found is None) == (right is None)
        assert found is None or right is None or torch.equal(found, right)


@pytest.mark.parametrize("wrong", [[1.0], [0.0] * 16, [-1.0] * 16, [float("nan")] * 16, "x"])
def test_damaged_spreads_are_refused(wrong: Any, parts: Any, tmp_path: Path) -> None:
    save_components(parts, tmp_path / "made")
    file = tmp_path / "made" / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"spread": wrong}))
    with pytest.raises(UserError):
        EmbeddedBackbone(str(tmp_path / "made"), device="cpu")
