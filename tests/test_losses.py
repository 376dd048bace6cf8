"""The losses against direct evaluation of their definitions, and against an analytic backbone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_problem import gradient, problem, small_mixture
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.mixture import MixtureBackbone, scaled_linear
from pds_cli.errors import UserError
from pds_cli.losses.base import Loss, inject
from pds_cli.losses.coefficients import posterior_coefficients
from pds_cli.losses.dds import DDS
from pds_cli.losses.pds import PDS
from pds_cli.losses.sds import SDS
from pds_cli.losses.timesteps import Walk

TIMESTEPS = torch.tensor([21, 101, 501, 901, 979])
LOSSES = {
    "sds": SDS(guidance=3.0),
    "dds": DDS(guidance=3.0, source_guidance=1.0),
    "published": PDS(guidance=3.0, identity=1.5),
    "exact": PDS(guidance=3.0, coefficients="exact"),
    "custom": PDS(guidance=3.0, coefficients="custom", psi=0.1, chi=0.2, clip_norm=0.1),
}
quick = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def backbone() -> MixtureBackbone:
    return small_mixture()


# ---- (i) PDS is the difference of z̃ ------------------------------------------------------------


def z_tilde(
    backbone: MixtureBackbone,
    x0: Tensor,
    prompt: str,
    t: int,
    t_prev: int,
    eps: Tensor,
    eps_prev: Tensor,
    omega: float,
    published: bool,
) -> Tensor:
    """z̃ = (x_{t−1} − μ(x_t, y))/σ_t, straight from its definition, one timestep at a time."""
    bar = backbone.schedule.alphas_cumprod
    beta = 1 - bar[t] / bar[t - 1 if published else t_prev]
    alpha = 1 - beta
    x_t = bar[t].sqrt() * x0 + (1 - bar[t]).sqrt() * eps
    x_prev = bar[t_prev].sqrt() * x0 + (1 - bar[t_prev]).sqrt() * eps_prev
    time = torch.full((len(x0),), t)
    text = backbone.encode_prompt([prompt]).expand(len(x0))
    cond = backbone.predict_eps(x_t, time, text.cond)
    null = backbone.predict_eps(x_t, time, text.null)
    eps_hat = null + omega * (cond - null)
    x0_hat = (x_t - (1 - bar[t]).sqrt() * eps_hat) / bar[t].sqrt()
    gamma = bar[t_prev].sqrt() * beta / (1 - bar[t])
    delta = alpha.sqrt() * (1 - bar[t_prev]) / (1 - bar[t])
    sigma = ((1 - bar[t_prev]) / (1 - bar[t]) * beta).sqrt()
    return (x_prev - (gamma * x0_hat + delta * x_t)) / sigma


@pytest.mark.parametrize("coefficients", ["published", "exact"])
@pytest.mark.parametrize("steps", [500, 250, 40])
def test_pds_is_the_difference_of_z_tilde(
    backbone: MixtureBackbone, coefficients: str, steps: int
) -> None:
    loss = PDS(
        guidance=7.5, source_guidance=2.0, coefficients=coefficients, num_inference_steps=steps
    )
    walk = Walk(1000, steps)
    for index in (1, steps // 50 + 1, steps // 2, steps - 1):
        t = walk.timestep(torch.tensor([index] * 3))
        step = int(t[0]), int(walk.previous(t)[0])
        p = {**problem(3, seed=index), "t": t}
        eps_prev = torch.randn(p["eps"].shape, dtype=torch.float64)
        options = (*step, p["eps"], eps_prev)
        published = coefficients == "published"
        z_tgt = z_tilde(backbone, p["x0_tgt"], "b", *options, 7.5, published)
        z_src = z_tilde(backbone, p["x0_src"], "a", *options, 2.0, published)
        torch.testing.assert_close(gradient(loss, backbone, p), z_tgt - z_src, rtol=1e-9, atol=1e-9)


# ---- (ii), (iii) the coefficients --------------------------------------------------------------


def test_exact_posterior_has_no_identity_term() -> None:
    bar = scaled_linear()
    for stride in (1, 2, 20, 200):
        t = torch.arange(stride, 1000)
        c = posterior_coefficients(bar, t, t - stride, "exact")
        snr = bar / (1 - bar)
        assert bool((c.psi == 0).all())
        # χ from the definitions of γ and σ, and its closed form.
        direct = c.gamma * (1 - bar[t]).sqrt() / (bar[t].sqrt() * c.sigma)
        torch.testing.assert_close(c.chi, direct, rtol=1e-12, atol=0)
        closed = (snr[t - stride] / snr[t] - 1).sqrt()
        torch.testing.assert_close(c.chi, closed, rtol=1e-9, atol=0)


def test_exact_pds_is_dds_weighted_by_chi(backbone: MixtureBackbone) -> None:
    p = problem(8)
    dds = gradient(DDS(guidance=5.0), backbone, p)
    chi = posterior_coefficients(backbone.schedule.alphas_cumprod, p["t"], p["t"] - 2, "exact").chi
    for identity in (0.0, 1.0, 4.0):
        loss = PDS(guidance=5.0, coefficients="exact", identity=identity)
        expected = chi.view(-1, 1, 1, 1) * dds
        torch.testing.assert_close(gradient(loss, backbone, p), expected, rtol=1e-12, atol=1e-15)


def test_published_psi_on_stable_diffusions_schedule() -> None:
    t = torch.tensor([21, 101, 501, 901])
    c = posterior_coefficients(scaled_linear(), t, t - 2)
    expected = torch.tensor([1.613, 0.314, 0.0321, 0.0062], dtype=torch.float64)
    torch.testing.assert_close(c.psi, expected, rtol=0, atol=5e-4)
    assert bool(((c.chi > 0.08) & (c.chi < 0.25)).all())
    # A schedule stored in float32, as networks have it, changes little.
    rounded = posterior_coefficients(scaled_linear().float(), t, t - 2)
    torch.testing.assert_close(rounded.psi, c.psi, rtol=2e-3, atol=0)


def test_published_psi_of_the_neighbouring_step_is_zero() -> None:
    t = torch.arange(1, 1000)
    assert bool((posterior_coefficients(scaled_linear(), t, t - 1).psi == 0).all())


@quick
@given(
    t=st.integers(2, 999), stride=st.integers(1, 60), mode=st.sampled_from(["published", "exact"])
)
def test_products_equal_the_definitions(t: int, stride: int, mode: str) -> None:
    """ψ and χ, computed as products, against (√ᾱ_s − γ − δ√ᾱ_t)/σ with its cancellation."""
    bar = scaled_linear()
    s = max(0, t - stride)
    c = posterior_coefficients(bar, torch.tensor([t]), torch.tensor([s]), mode)
    beta = 1 - bar[t] / bar[t - 1 if mode == "published" else s]
    torch.testing.assert_close(c.gamma[0], bar[s].sqrt() * beta / (1 - bar[t]), rtol=1e-9, atol=0)
    psi = (bar[s].sqrt() - c.gamma - c.delta * bar[t].sqrt()) / c.sigma
    torch.testing.assert_close(c.psi, psi, rtol=1e-7, atol=1e-9)


def test_custom_coefficients(backbone: MixtureBackbone) -> None:
    p = problem(4)
    loss = PDS(guidance=2.0, coefficients="custom", psi=0.3, chi=0.7, identity=2.0)
    expected = 0.6 * (p["x0_tgt"] - p["x0_src"]) + 0.7 * gradient(DDS(guidance=2.0), backbone, p)
    torch.testing.assert_close(gradient(loss, backbone, p), expected, rtol=1e-12, atol=1e-14)


def test_identity_scales_psi_alone(backbone: MixtureBackbone) -> None:
    p = problem(4)
    zero, one, three = (gradient(PDS(guidance=2.0, identity=i), backbone, p) for i in (0.0, 1, 3))
    torch.testing.assert_close(three - zero, 3 * (one - zero), rtol=1e-9, atol=1e-12)
    assert float((one - zero).norm()) > 1e-3


# ---- (iv), (v) SDS, DDS and PDS among each other -----------------------------------------------


@pytest.mark.parametrize("loss", [DDS(guidance=7.5), PDS(guidance=7.5)])
def test_nothing_to_edit_gives_no_gradient(backbone: MixtureBackbone, loss: Loss) -> None:
    p = problem(6)
    p["x0_src"] = p["x0_tgt"]
    assert float(gradient(loss, backbone, p, "b", "b").abs().max()) == 0
    assert float(gradient(loss, backbone, p, "b", "a").abs().max()) > 1e-3


@pytest.mark.parametrize("weighting", ["none", "sigma2", "x0"])
def test_sds_minus_its_source_twin_is_dds(backbone: MixtureBackbone, weighting: str) -> None:
    p = problem(6)
    sds = SDS(guidance=4.0, weighting=weighting)
    twin = {**p, "x0_tgt": p["x0_src"]}
    difference = gradient(sds, backbone, p, "b") - gradient(sds, backbone, twin, "a")
    dds = gradient(DDS(guidance=4.0, weighting=weighting), backbone, p)
    torch.testing.assert_close(difference, dds, rtol=1e-10, atol=1e-12)


def test_sds_needs_no_source(backbone: MixtureBackbone) -> None:
    p, text = problem(2), backbone.encode_prompt(["b"])
    out = SDS(guidance=1.0).evaluate(
        backbone, p["x0_tgt"], None, text, None, t=p["t"], eps=p["eps"]
    )
    torch.testing.assert_close(out.grad, gradient(SDS(guidance=1.0), backbone, p))
    with pytest.raises(UserError, match="DDS needs a source"):
        DDS(guidance=1.0)(backbone, p["x0_tgt"], None, text, None)


# ---- (vi) memory, and the number of backbone calls ---------------------------------------------


class Scaled(Backbone):
    """A backbone with a parameter, that counts its calls and their rows."""

    def __init__(self, inner: MixtureBackbone) -> None:
        super().__init__()
        self.inner = inner
        self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        self.rows: list[int] = []
        self.schedule = inner.schedule

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return self.inner.image_size(height, width)

    def encode_image(self, image: Tensor) -> Tensor:
        return image

    def decode_latent(self, x0: Tensor) -> Tensor:
        return x0

    def encode_prompt(self, prompts: Any, negative: str = "") -> Text:
        return self.inner.encode_prompt(prompts, negative)

    def predict_eps(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.rows.append(len(x_t))
        return self.scale * (x_t * self.scale).sin() + self.inner.predict_eps(x_t, t, cond)


@pytest.mark.parametrize("name", LOSSES)
def test_no_graph_through_the_backbone(backbone: MixtureBackbone, name: str) -> None:
    counting, p = Scaled(backbone), problem(3)
    theta = p["x0_tgt"].clone().requires_grad_()
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        grad = gradient(LOSSES[name], counting, {**p, "x0_tgt": theta * 2})
        # The one saved tensor is θ * 2's own constant, if any: nothing of the backbone's.
        assert not [tensor for tensor in saved if tensor.numel() > 1]
        assert not grad.requires_grad
        inject(theta * 2, grad).backward()
    assert counting.scale.grad is None
    assert theta.grad is not None
    torch.testing.assert_close(theta.grad, 2 * grad)


def test_saved_tensor_hook_sees_a_graph(backbone: MixtureBackbone) -> None:
    """The test above can fail: the same backbone, called with a graph, saves tensors."""
    counting, p = Scaled(backbone), problem(3)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        text = backbone.encode_prompt(["a"]).expand(3)
        counting.predict_noise(p["x0_tgt"], p["t"], text, 3.0)
    assert [tensor for tensor in saved if tensor.numel() > 1]


@pytest.mark.parametrize(
    ("loss", "rows"),
    [
        (SDS(guidance=1.0), 3),
        (SDS(guidance=2.0), 6),
        (DDS(guidance=1.0), 6),
        (PDS(guidance=2.0), 12),
        (PDS(guidance=2.0, source_guidance=1.0), 9),
    ],
)
def test_one_backbone_call(backbone: MixtureBackbone, loss: Loss, rows: int) -> None:
    counting = Scaled(backbone)
    gradient(loss, counting, problem(3))
    assert counting.rows == [rows]


def test_guidance_of_each_branch(backbone: MixtureBackbone) -> None:
    p = problem(4)
    text = {label: backbone.encode_prompt([label]).expand(4) for label in "ab"}
    x_t = {k: backbone.add_noise(p[k], p["t"], p["eps"]) for k in ("x0_tgt", "x0_src")}
    expected = backbone.predict_noise(x_t["x0_tgt"], p["t"], text["b"], 6.0)
    expected = expected - backbone.predict_noise(x_t["x0_src"], p["t"], text["a"], 1.5)
    actual = gradient(DDS(guidance=6.0, source_guidance=1.5), backbone, p)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


# ---- invariances -------------------------------------------------------------------------------


@quick
@given(seed=st.integers(0, 10**6), batch=st.integers(2, 6), name=st.sampled_from(sorted(LOSSES)))
def test_batches(seed: int, batch: int, name: str) -> None:
    """A batch is its samples one by one, and permuting it permutes the gradient."""
    backbone, loss, p = small_mixture(), LOSSES[name], problem(batch, seed)
    whole = gradient(loss, backbone, p)
    for i in range(batch):
        single = gradient(loss, backbone, {k: v[i : i + 1] for k, v in p.items()})
        torch.testing.assert_close(whole[i : i + 1], single, rtol=1e-9, atol=1e-11)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    permuted = gradient(loss, backbone, {k: v[order] for k, v in p.items()})
    torch.testing.assert_close(permuted, whole[order], rtol=1e-9, atol=1e-11)


@quick
@given(seed=st.integers(0, 10**6), scale=st.floats(-4, 4))
def test_inject_is_exact(seed: int, scale: float) -> None:
    """d inject/dθ is J^T grad, for a nonlinear x_0(θ); in x_0 itself it is grad to the bit."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(3, 2, 1, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 2, 1, 1, generator=generator, dtype=torch.float64) * 10.0**scale
    surrogate = inject(theta, grad)
    assert torch.equal(torch.autograd.grad(surrogate, theta)[0], grad)
    torch.testing.assert_close(surrogate.detach(), 0.5 * grad.square().mean())
    through = torch.autograd.grad(inject(theta.sin(), grad), theta)[0]
    torch.testing.assert_close(through, grad * theta.detach().cos())


def test_inject_in_half_precision_does_not_overflow() -> None:
    x = torch.full((1, 4, 64, 64), 10.0, dtype=torch.float16, requires_grad=True)
    grad = torch.full_like(x, 20.0)
    loss = inject(x, grad)
    loss.backward()
    assert bool(loss.isfinite())
    assert x.grad is not None and torch.equal(x.grad, grad)


# ---- timesteps ---------------------------------------------------------------------------------


def test_published_walk() -> None:
    walk = Walk(1000, 500)
    every = walk.timestep(torch.arange(500))
    assert every.tolist() == list(range(1, 1000, 2))
    assert walk.indices((0.02, 0.98)) == (10, 489)
    assert walk.timestep(torch.tensor(10)) == 21 and walk.previous(torch.tensor(21)) == 19
    drawn = walk.sample(20000, (0.02, 0.98), generator=torch.Generator().manual_seed(0))
    assert sorted(set(drawn.tolist())) == list(range(21, 980, 2))


@pytest.mark.parametrize("steps", [500, 250, 100, 50, 20])
def test_walk_is_the_leading_spacing_of_diffusers(steps: int) -> None:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler(1000, timestep_spacing="leading", steps_offset=1)
    scheduler.set_timesteps(steps)
    ours = Walk(1000, steps).timestep(torch.arange(steps))
    assert ours.tolist() == sorted(scheduler.timesteps.tolist())


@quick
@given(data=st.data(), total=st.integers(2, 3000))
def test_walk_of_any_length_stays_inside(data: st.DataObject, total: int) -> None:
    walk = Walk(total, data.draw(st.integers(2, total)))
    low = data.draw(st.floats(0, 1))
    ratios = (low, data.draw(st.floats(low, 1)))
    for schedule in ("uniform", "annealed"):
        progress = data.draw(st.floats(0, 1))
        t = walk.sample(16, ratios, schedule, progress)
        previous = walk.previous(t)
        assert bool(((previous >= 0) & (previous < t) & (t < total)).all())


def test_annealed_schedule_falls_from_max_to_min() -> None:
    walk = Walk(1000, 500)
    falling = [walk.sample(2, (0.02, 0.98), "annealed", p).tolist() for p in (0, 0.5, 1, 7)]
    assert falling == [[979, 979], [501, 501], [21, 21], [21, 21]]


def test_call_draws_per_sample_and_repeats_with_the_seed(backbone: MixtureBackbone) -> None:
    p, text = problem(16), backbone.encode_prompt(["b"])

    def call(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        source = p["x0_src"][:1]
        return PDS(guidance=2.0)(backbone, p["x0_tgt"], source, text, text, generator=generator)

    first, again, other = call(0), call(0), call(1)
    assert torch.equal(first.grad, again.grad) and torch.equal(first.t, again.t)
    assert not torch.equal(first.t, other.t) and len(set(first.t.tolist())) > 8
    assert {"grad_norm", "t", "psi", "chi", "identity_norm", "edit_norm"} <= first.logs.keys()


# ---- weighting, clipping, bad options ----------------------------------------------------------


def test_weightings(backbone: MixtureBackbone) -> None:
    p = problem(4)
    bar = backbone.schedule.alphas_cumprod[p["t"]].view(-1, 1, 1, 1)
    plain = gradient(DDS(guidance=2.0), backbone, p)
    for name, w in {"sigma": (1 - bar).sqrt(), "sigma2": 1 - bar}.items():
        weighted = gradient(DDS(guidance=2.0, weighting=name), backbone, p)
        torch.testing.assert_close(weighted, w * plain, rtol=1e-12, atol=0)
    # `x0`: the negative difference of the clean estimates, minus that of the images themselves.
    estimates = []
    for image, label in ((p["x0_tgt"], "b"), (p["x0_src"], "a")):
        x_t = backbone.add_noise(image, p["t"], p["eps"])
        text = backbone.encode_prompt([label]).expand(4)
        eps_hat = backbone.predict_noise(x_t, p["t"], text, 2.0)
        estimates.append((x_t - (1 - bar).sqrt() * eps_hat) / bar.sqrt() - image)
    weighted = gradient(DDS(guidance=2.0, weighting="x0"), backbone, p)
    torch.testing.assert_close(weighted, estimates[1] - estimates[0], rtol=1e-9, atol=1e-9)


def test_clipping(backbone: MixtureBackbone) -> None:
    p = problem(8)
    plain = gradient(DDS(guidance=2.0), backbone, p)
    norms = plain.flatten(1).norm(dim=1)
    limit = float(norms.median())
    clipped = gradient(DDS(guidance=2.0, clip_norm=limit), backbone, p)
    expected = norms.clamp(max=limit)
    torch.testing.assert_close(clipped.flatten(1).norm(dim=1), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(clipped[norms <= limit], plain[norms <= limit], rtol=1e-12, atol=0)
    by_value = gradient(DDS(guidance=2.0, clip_value=0.05), backbone, p)
    torch.testing.assert_close(by_value, plain.clamp(-0.05, 0.05))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PDS(coefficients="right"), "published, exact, custom"),
        (lambda: PDS(coefficients="custom", psi=0.1), "give all three"),
        (lambda: PDS(psi=0.1, chi=0.1), "give all three"),
        (lambda: PDS(identity=-1), "at least 0"),
        (lambda: PDS(identity=float("nan")), "at least 0"),
        (lambda: SDS(guidance=float("inf")), "finite"),
        (lambda: SDS(timesteps=[0.9, 0.1]), "min <= max"),
        (lambda: SDS(timesteps=[0.1]), "two ratios"),
        (lambda: SDS(timesteps=[0.0, 1.5]), "two ratios"),
        (lambda: DDS(weighting="heavy"), "none, sigma, sigma2, x0"),
        (lambda: DDS(schedule="cosine"), "uniform, annealed"),
        (lambda: DDS(clip_norm=0.0), "greater than 0"),
        (lambda: Walk(100, 500), "choose 2 to 100"),
        (lambda: Walk(100, 1), "choose 2 to 100"),
    ],
)
def test_bad_options(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_missing_guidance_is_said(backbone: MixtureBackbone) -> None:
    with pytest.raises(UserError, match="guidance is not set"):
        gradient(PDS(), backbone, problem(1))


def test_a_schedule_that_ends_in_pure_noise_is_refused() -> None:
    bar = torch.linspace(0.99, 0.0, 100, dtype=torch.float64)
    with pytest.raises(UserError, match="pure noise"):
        posterior_coefficients(bar, torch.tensor([99]), torch.tensor([98]))
    assert bool(posterior_coefficients(bar, torch.tensor([98]), torch.tensor([96])).psi.isfinite())
