"""SDEdit on Gaussians, where the path has a closed form, and on pictures of any size."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pds_cli.backbones.mixture import MixtureBackbone
from pds_cli.backbones.sampling import ddim, ddim_timesteps
from pds_cli.editors.sdedit import SDEdit
from pds_cli.errors import UserError

MEAN, STD = 0.6, 0.08


def gaussian(mean: float = MEAN, std: float = STD, side: int = 4) -> MixtureBackbone:
    """N(mean, std² I) over pictures [3,side,side]."""
    return MixtureBackbone(torch.full((1, 3, side, side), mean).double(), ["a"], std)


def edited(
    backbone: MixtureBackbone, image: Tensor, seed: int = 0, prompt: str = "a", **options: Any
) -> Tensor:
    return SDEdit(**{"guidance": 1.0, **options}).edit(
        backbone,
        image,
        image,
        backbone.encode_prompt([prompt]),
        None,
        generator=torch.Generator().manual_seed(seed),
    )


def grey(value: float, count: int = 1, side: int = 4) -> Tensor:
    return torch.full((count, 3, side, side), value, dtype=torch.float64)


def path(backbone: MixtureBackbone, start: int, steps: int, eta: float) -> tuple[float, float]:
    """What DDIM makes of x − √ᾱ m: the factor on it, and the variance of the noise it adds."""
    bar = [float(backbone.schedule.alphas_cumprod[t]) for t in ddim_timesteps(1000, steps, start)]
    scale, added = 1.0, 0.0
    for a, b in zip(bar, [*bar[1:], 1.0], strict=True):
        fresh = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        towards_x0 = STD**2 * math.sqrt(a * b)
        factor = towards_x0 + math.sqrt((1 - b - fresh) * (1 - a))
        factor /= a * STD**2 + 1 - a
        scale, added = scale * factor, added * factor**2 + fresh
    return scale, added


# --- the closed form -----------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.1, 0.4, 0.8])
@pytest.mark.parametrize("steps", [10, 50])
def test_the_mean_of_an_edit_of_a_gaussian_is_analytic(strength: float, steps: int) -> None:
    """x_0 ↦ m + c √ᾱ (x_0 − m) + c √(1−ᾱ) ε, with c of the DDIM path."""
    backbone, count = gaussian(), 400
    alpha = float(backbone.schedule.alphas_cumprod[round(strength * 1000) - 1])
    scale, _ = path(backbone, round(strength * 1000) - 1, round(strength * steps), 0.0)
    result = edited(backbone, grey(0.5, count), strength=strength, steps=steps)
    spread = scale * math.sqrt(1 - alpha)
    expected = MEAN + scale * math.sqrt(alpha) * (0.5 - MEAN)
    assert float(result.mean()) == pytest.approx(expected, abs=4 * spread / math.sqrt(48 * count))
    assert float(result.std()) == pytest.approx(spread, rel=0.03)
    # Under the same noise two pictures stay apart by exactly that factor.
    other = edited(backbone, grey(0.52, count), strength=strength, steps=steps)
    expected_gap = torch.full_like(result, 0.02 * scale * math.sqrt(alpha))
    torch.testing.assert_close(other - result, expected_gap, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("start", [99, 599])
def test_many_steps_follow_the_probability_flow(start: int) -> None:
    """The ODE's own map keeps the quantile: d = x − √ᾱ m shrinks by s / √(ᾱ s² + 1−ᾱ)."""
    backbone = gaussian(std=0.7)
    alpha = float(backbone.schedule.alphas_cumprod[start])
    x_t = torch.randn(4, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    text = backbone.encode_prompt(["a"]).expand(4)
    x0 = ddim(backbone, x_t, text, steps=start + 1, start=start)
    factor = 0.7 / math.sqrt(alpha * 0.7**2 + 1 - alpha)
    expected = MEAN + factor * (x_t - math.sqrt(alpha) * MEAN)
    torch.testing.assert_close(x0, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_fresh_noise_has_the_variance_on_paper(eta: float) -> None:
    backbone, count = gaussian(), 600
    alpha = float(backbone.schedule.alphas_cumprod[499])
    scale, added = path(backbone, 499, 10, eta)
    result = edited(backbone, grey(0.5, count), strength=0.5, steps=20, eta=eta)
    variance = scale**2 * (1 - alpha) + added
    expected = MEAN + scale * math.sqrt(alpha) * (0.5 - MEAN)
    error = 4 * math.sqrt(variance / (48 * count))
    assert float(result.mean()) == pytest.approx(expected, abs=error)
    assert float(result.var()) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_strength_0_returns_the_picture_and_strength_1_a_sample(eta: float) -> None:
    backbone = gaussian()
    image = torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(edited(backbone, image, strength=0.0, eta=eta), image)
    nearly = edited(backbone, image, strength=0.001, eta=eta)
    assert 0 < float((nearly - image).abs().max()) < 0.25
    sample = edited(backbone, image, strength=1.0, steps=200, eta=eta)
    scale, added = path(backbone, 999, 200, eta)
    assert float(sample.mean()) == pytest.approx(MEAN, abs=0.005)
    assert float(sample.std()) == pytest.approx(math.sqrt(scale**2 + added), rel=0.05)
    correlation = torch.corrcoef(torch.stack([sample.flatten(), image.flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.12, "next to nothing of the picture is left"


def test_more_strength_moves_further_from_the_picture() -> None:
    backbone = gaussian()
    moved = [
        float((edited(backbone, grey(0.4, 8), strength=s, steps=50) - 0.4).mean())
        for s in (0.0, 0.1, 0.3, 0.6, 0.9)
    ]
    assert moved[0] == 0 and moved == sorted(moved)
    assert moved[-1] == pytest.approx(MEAN - 0.4, abs=0.02)


def test_the_target_prompt_decides_where_it_goes() -> None:
    means = torch.stack([grey(0.3)[0], grey(0.7)[0]])
    backbone = MixtureBackbone(means, ["a", "b"], 0.05)
    image = grey(0.3, 16)
    to_b = edited(backbone, image, prompt="b", strength=0.9, steps=100)
    assert float(backbone.posterior(to_b, "b").min()) > 0.99
    stays = edited(backbone, image, prompt="a", strength=0.9, steps=100)
    assert float(backbone.posterior(stays, "a").min()) > 0.99
    # Guidance pushes past the target's own mean, away from the rest.
    further = edited(backbone, image, prompt="b", strength=0.7, steps=100, guidance=4.0)
    plain = edited(backbone, image, prompt="b", strength=0.7, steps=100)
    assert float(further.mean()) > float(plain.mean())


# --- the walk ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 999), data=st.data())
def test_a_walk_from_any_timestep_falls_evenly_without_repeats(
    start: int, data: st.DataObject
) -> None:
    steps = data.draw(st.integers(1, start + 1))
    times = ddim_timesteps(1000, steps, start).tolist()
    assert times[0] == start and len(times) == steps and times[-1] >= 0
    gaps = [a - b for a, b in pairwise(times)]
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


def test_a_walk_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="steps must be between 1 and 10, not 11"):
        ddim_timesteps(1000, 11, 9)
    with pytest.raises(ValueError, match="start must be between 0 and 999, not 1000"):
        ddim_timesteps(1000, 3, 1000)


def test_the_start_at_the_last_timestep_is_the_walk_from_noise() -> None:
    backbone = gaussian()
    x_t = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    text = backbone.encode_prompt(["a"]).expand(2)
    whole = ddim(backbone, x_t, text, steps=7)
    assert torch.equal(whole, ddim(backbone, x_t, text, steps=7, start=999))


class Watched(MixtureBackbone):
    """Keeps the timesteps it is asked for."""

    times: list[int]

    def predict_eps(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        assert len(set(t.tolist())) == 1
        self.times.append(int(t[0]))
        return super().predict_eps(x_t, t, cond)


def watched(seed: int, **options: Any) -> list[int]:
    backbone = Watched(grey(MEAN), ["a"], STD)
    backbone.times = []
    edited(backbone, grey(0.5), seed, **options)
    return backbone.times


def test_an_edit_takes_its_share_of_the_walk() -> None:
    assert watched(0, strength=0.15, steps=20) == [149, 99, 49]
    assert watched(0, strength=1.0, steps=4) == [999, 749, 499, 249]
    assert watched(0, strength=0.01, steps=20) == [9], "at least one step"
    assert watched(0, strength=[0.3, 0.3], steps=10) == [299, 199, 99]


def test_a_range_of_strengths_is_drawn_from_with_the_generator() -> None:
    mild: dict[str, Any] = {"steps": 20, "strength": (0.1, 0.2)}
    starts = [watched(seed, **mild)[0] for seed in range(60)]
    assert starts == [watched(seed, **mild)[0] for seed in range(60)]
    assert min(starts) >= 99 and max(starts) <= 199 and len(set(starts)) > 30
    assert {len(watched(seed, **mild)) for seed in range(60)} == {2, 3, 4}
    assert {watched(seed, steps=20, strength=0.2)[0] for seed in range(5)} == {199}


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_generator_is_the_only_randomness(eta: float) -> None:
    backbone = gaussian()
    options: dict[str, Any] = {"strength": 0.5, "eta": eta}
    first = edited(backbone, grey(0.5), 3, **options)
    torch.manual_seed(1234)
    assert torch.equal(first, edited(backbone, grey(0.5), 3, **options))
    assert not torch.equal(first, edited(backbone, grey(0.5), 4, **options))


# --- pictures of any size ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 45, 80)])
def test_a_picture_comes_back_in_its_own_size(shape: tuple[int, ...], tiny_backbone: Path) -> None:
    from pds_cli.backbones.embedded import EmbeddedBackbone

    backbone = EmbeddedBackbone(model=str(tiny_backbone), device="cpu")
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    result = SDEdit(steps=10, guidance=3.0, strength=0.3).edit(
        backbone,
        image,
        image,
        backbone.encode_prompt(["a photo of a man"]),
        None,
        generator=torch.Generator().manual_seed(0),
    )
    assert result.shape == shape and result.dtype == image.dtype
    assert not result.requires_grad
    assert float(result.min()) >= 0 and float(result.max()) <= 1


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"strength": 1.2}, r"editor.strength=1.2 must be a number between 0 and 1, or two"),
        ({"strength": [0.4, 0.2]}, r"editor.strength=\[0.4, 0.2\] must be"),
        ({"strength": [0.1, 0.2, 0.3]}, r"editor.strength="),
        ({"strength": "much"}, r"editor.strength=much must be"),
        ({"strength": math.nan}, r"editor.strength=nan must be"),
        ({"steps": 0}, r"editor.steps=0 must be"),
        ({"eta": 1.5}, r"editor.eta=1.5 must lie between 0 \(DDIM\) and 1 \(DDPM\)"),
        ({"guidance": math.inf}, r"editor.guidance=inf is not a finite number"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SDEdit(**options)


def test_more_steps_than_the_backbone_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"editor.steps=1001 is more than the backbone's 1000"):
        edited(gaussian(), grey(0.5), steps=1001)
