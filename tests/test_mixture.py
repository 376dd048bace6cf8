"""The analytic backbone: its closed forms against autograd, Tweedie and Bayes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pds_cli.backbones.mixture import CrescentMixture, MixtureBackbone, scaled_linear
from pds_cli.errors import UserError

TIMES = [0, 20, 300, 999]


def mixture(common_std: bool, points: bool = False) -> MixtureBackbone:
    """Seven components on data [3,1,2], with uneven weights and two labels."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(7, 3, 1, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(7, generator=generator) + 0.2
    std = torch.linspace(0.1, 0.7, 7, dtype=torch.float64)
    return MixtureBackbone(
        means, list("aababba"), 0.0 if points else 0.3 if common_std else std, weights
    )


def some_x(batch: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 3, 1, 2, generator=generator, dtype=torch.float64)


def predict(
    backbone: MixtureBackbone, x: Tensor, t: int, prompt: str, omega: float = 1.0
) -> Tensor:
    text = backbone.encode_prompt([prompt]).expand(len(x))
    return backbone.predict_noise(x, torch.full((len(x),), t), text, omega)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("prompt", ["", "a", "b", "a:1 b:3"])
@pytest.mark.parametrize("kind", ["common", "each", "points"])
def test_eps_is_the_gradient_of_the_log_density(t: int, prompt: str, kind: str) -> None:
    backbone = mixture(kind == "common", kind == "points")
    x = some_x().requires_grad_()
    score = torch.autograd.grad(backbone.log_density(x, prompt, t).sum(), x)[0]
    expected = -(1 - backbone.schedule.alphas_cumprod[t]).sqrt() * score
    actual = predict(backbone, x.detach(), t, prompt)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


def test_log_density_is_that_of_torch_distributions() -> None:
    from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

    backbone, t = mixture(False), 300
    bar = backbone.schedule.alphas_cumprod[t]
    std = (bar * backbone.variances + 1 - bar).sqrt()[:, None].expand(-1, 6)
    reference = MixtureSameFamily(
        Categorical(logits=backbone.log_weights),
        Independent(Normal(bar.sqrt() * backbone.means, std), 1),
    )
    x = some_x()
    torch.testing.assert_close(backbone.log_density(x, t=t), reference.log_prob(x.flatten(1)))


@pytest.mark.parametrize("t", TIMES)
def test_tweedie(t: int) -> None:
    """x̂_0 from ε̂ is the posterior mean E[x_0 | x_t], taken component by component."""
    backbone, x = mixture(False), some_x()
    bar = backbone.schedule.alphas_cumprod[t]
    x0_hat = (x - (1 - bar).sqrt() * predict(backbone, x, t, "")) / bar.sqrt()
    v = bar * backbone.variances + 1 - bar
    square = torch.cdist(x.flatten(1), bar.sqrt() * backbone.means).square()
    share = (backbone.log_weights - 3 * v.log() - square / (2 * v)).softmax(dim=1)
    gain = bar.sqrt() * backbone.variances / v
    residual = x.flatten(1)[:, None] - bar.sqrt() * backbone.means
    mean = backbone.means + gain[:, None] * residual
    expected = (share[..., None] * mean).sum(dim=1).view_as(x)
    torch.testing.assert_close(x0_hat, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("t", TIMES)
def test_bayes(t: int) -> None:
    """ε̂ of the whole is the posterior-weighted mean of the classes' ε̂."""
    backbone, x = mixture(False), some_x()
    parts = [
        backbone.posterior(x, label, t).view(-1, 1, 1, 1) * predict(backbone, x, t, label)
        for label in "ab"
    ]
    torch.testing.assert_close(predict(backbone, x, t, ""), sum(parts), rtol=1e-8, atol=1e-8)


def test_guidance() -> None:
    backbone, x, t = mixture(False), some_x(), 300
    cond, null = predict(backbone, x, t, "a"), predict(backbone, x, t, "")
    torch.testing.assert_close(predict(backbone, x, t, "a", 0.0), null)
    torch.testing.assert_close(predict(backbone, x, t, "a", 4.0), null + 4 * (cond - null))
    assert float((cond - null).norm()) > 1e-2


def test_negative_prompt_takes_the_place_of_the_empty_one() -> None:
    backbone, x = mixture(False), some_x(1)
    text = backbone.encode_prompt(["a"], negative="b")
    actual = backbone.predict_noise(x, torch.tensor([300]), text, 0.0)
    torch.testing.assert_close(actual, predict(backbone, x, 300, "b"))


def test_rows_of_different_prompts_and_times_are_independent() -> None:
    backbone, x = mixture(False), some_x(4)
    text, t = backbone.encode_prompt(["a", "b", "a", ""]), torch.tensor([5, 300, 999, 0])
    whole = backbone.predict_noise(x, t, text, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    for i, prompt in enumerate(["a", "b", "a", ""]):
        single = predict(backbone, x[i : i + 1], int(t[i]), prompt, i + 1.0)
        torch.testing.assert_close(whole[i : i + 1], single, rtol=1e-9, atol=1e-10)


def test_label_weights() -> None:
    """ "a:1 b:1" weighs the labels alike, whatever their shares; the class shares give ""."""
    backbone, x = mixture(False), some_x()
    for prompt, share in (("a:1 b:1", 0.5), ("a:1 b:3", 0.25)):
        mixed = share * backbone.log_density(x, "a", 9).exp()
        mixed = mixed + (1 - share) * backbone.log_density(x, "b", 9).exp()
        torch.testing.assert_close(backbone.log_density(x, prompt, 9), mixed.log())
    a = float(backbone.log_weights[backbone.label_index == 0].exp().sum())
    shares = f"a:{a!r} b:{1 - a!r}"
    torch.testing.assert_close(backbone.log_density(x, shares, 9), backbone.log_density(x, "", 9))


def test_posterior_at_the_data() -> None:
    backbone = CrescentMixture(points=50)
    data = {"a": backbone.means[:50], "b": backbone.means[50:]}
    for label, other in ("ab", "ba"):
        assert float(backbone.posterior(data[label], label).mean()) > 0.95
        total = backbone.posterior(data[label], label) + backbone.posterior(data[label], other)
        torch.testing.assert_close(total, torch.ones(50, dtype=torch.float64))


def test_a_point_set_is_recovered_by_ddim() -> None:
    """Sampling down the exact ε̂ of a point set ends on its points."""
    backbone = CrescentMixture(points=20, std=0.0)
    x = torch.randn(32, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    text, bar = backbone.encode_prompt(["b"]).expand(32), backbone.schedule.alphas_cumprod
    times = list(range(999, -1, -9))
    for t, s in zip(times, [*times[1:], None], strict=True):
        eps = backbone.predict_noise(x, torch.full((32,), t), text)
        x0 = (x - (1 - bar[t]).sqrt() * eps) / bar[t].sqrt()
        x = x0 if s is None else bar[s].sqrt() * x0 + (1 - bar[s]).sqrt() * eps
    distance = torch.cdist(x.flatten(1), backbone.means[20:]).min(dim=1).values
    # A few samples are still between two points when the steps run out.
    assert float(distance.quantile(0.8)) < 0.01 and float(distance.max()) < 0.1


def test_contract() -> None:
    backbone, x = CrescentMixture(points=5).float(), torch.rand(2, 2, 1, 1)
    assert backbone.image_size(512, 300) == (1, 1) and backbone.schedule.num_train_timesteps == 1000
    assert backbone.encode_image(x) is x and backbone.decode_latent(x) is x
    assert predict(backbone, x, 3, "a").dtype == torch.float32
    bar = scaled_linear()
    assert bool((bar.diff() < 0).all()) and 0 < float(bar[-1]) < float(bar[0]) < 1
    assert float(bar[0]) == pytest.approx(1 - 0.00085) and float(bar[-1]) == pytest.approx(
        0.00466, abs=1e-5
    )


def test_bad_input() -> None:
    backbone = mixture(True)
    for prompt in ("a cat", "a:0", "a:x", "a:inf"):
        with pytest.raises(UserError, match="its labels are a, b"):
            backbone.encode_prompt([prompt])
    with pytest.raises(UserError, match="no label c"):
        backbone.posterior(some_x(), "c")
    with pytest.raises(UserError, match="std > 0"):
        mixture(True, points=True).log_density(some_x())
    with pytest.raises(UserError, match="one label a component"):
        MixtureBackbone(torch.zeros(3, 2), ["a"])
    with pytest.raises(UserError, match="at least 0"):
        MixtureBackbone(torch.zeros(1, 2), ["a"], -1.0)
