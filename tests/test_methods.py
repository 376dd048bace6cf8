"""The rest of the field's losses: their formulas, what ties them together, and their limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loss_problem
import pytest
import torch
from loss_problem import gradient, small_mixture
from omegaconf import OmegaConf
from small_pipelines import build_pipeline
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.mixture import MixtureBackbone
from pds_cli.backbones.sampling import ddim, ddim_invert
from pds_cli.backbones.stable_diffusion import StableDiffusion
from pds_cli.config import composed
from pds_cli.errors import UserError
from pds_cli.losses.base import Loss
from pds_cli.losses.cds import CDS, patch_contrast
from pds_cli.losses.csd import CSD
from pds_cli.losses.dds import DDS
from pds_cli.losses.dreamcatalyst import DreamCatalyst
from pds_cli.losses.ids import IDS
from pds_cli.losses.ism import ISM
from pds_cli.losses.nfsd import NFSD
from pds_cli.losses.sdi import SDI
from pds_cli.losses.sds import SDS
from pds_cli.losses.sds_bridge import SDSBridge
from pds_cli.losses.vsd import VSD
from pds_cli.runs.checkpoint import load_checkpoint

LOSSES: dict[str, Loss] = {
    "csd": CSD(source_weight=0.5),
    "nfsd": NFSD(guidance=3.0, negative="a"),
    "sds_bridge": SDSBridge(guidance=3.0, qualities="", flaws=""),
    "dreamcatalyst": DreamCatalyst(guidance=3.0),
    "ism": ISM(guidance=3.0),
    "sdi": SDI(guidance=3.0, inversion_eta=0.0, inversion_guidance=1.0),
    "ids": IDS(guidance=3.0, scale=0.1),
    "vsd": VSD(guidance=3.0, particles="source"),
}


@pytest.fixture(scope="module")
def backbone() -> MixtureBackbone:
    return small_mixture()


@pytest.fixture(scope="module")
def toybox() -> EmbeddedBackbone:
    return EmbeddedBackbone("toybox", device="cpu")


def problem(batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Away from both ends of the walk, where inversions have room."""
    return loss_problem.problem(batch, seed, 30, 960)


def eps_hat(backbone: Backbone, x_t: Tensor, t: Tensor, prompt: str, omega: float) -> Tensor:
    """ε̂ by the definition of guidance, in two calls."""
    text = backbone.encode_prompt([prompt]).expand(len(t))
    cond = backbone.predict_eps(x_t, t, text.cond)
    null = backbone.predict_eps(x_t, t, text.null)
    return null + omega * (cond - null)


# ---- formulas -----------------------------------------------------------------------------------


def test_csd_is_the_limit_of_sds(backbone: MixtureBackbone) -> None:
    p = problem(5)
    large = 1e9
    sds = gradient(SDS(guidance=large), backbone, p) / large
    torch.testing.assert_close(gradient(CSD(), backbone, p), sds, rtol=1e-6, atol=1e-8)


def test_csd_with_the_source_is_the_bridge(backbone: MixtureBackbone) -> None:
    """(ε̂_y − ε̂_∅) − (ε̂_src − ε̂_∅) = ε̂_y − ε̂_src."""
    p = problem(5)
    bridge = SDSBridge(guidance=2.0, qualities="", flaws="", weighting="sigma2")
    expected = gradient(bridge, backbone, p) / 2.0
    torch.testing.assert_close(gradient(CSD(source_weight=1.0), backbone, p), expected)


def test_bridge_is_dds_where_both_images_are_one(backbone: MixtureBackbone) -> None:
    p = problem(5)
    p["x0_src"] = p["x0_tgt"]
    dds = gradient(DDS(guidance=1.0), backbone, p)
    bridge = SDSBridge(guidance=1.0, qualities="", flaws="", weighting="none")
    torch.testing.assert_close(gradient(bridge, backbone, p), dds)


def test_nfsd_below_and_above_its_threshold(backbone: MixtureBackbone) -> None:
    p = problem(2)
    p["t"] = torch.tensor([150, 700])
    x_t = backbone.add_noise(p["x0_tgt"], p["t"], p["eps"])
    text, null, bad = (eps_hat(backbone, x_t, p["t"], *a) for a in (("b", 1), ("b", 0), ("a", 1)))
    domain = torch.stack([null[0], null[1] - bad[1]])
    expected = domain + 3.0 * (text - null)
    loss = NFSD(guidance=3.0, negative="a", weighting="none")
    torch.testing.assert_close(gradient(loss, backbone, p), expected)


def test_dreamcatalyst_weights(backbone: MixtureBackbone) -> None:
    p = problem(3)
    p["t"] = torch.tensor([200, 500, 900])
    tau = p["t"].double().reshape(-1, 1, 1, 1) / 1000
    dds = gradient(DDS(guidance=3.0), backbone, p)
    delta = p["x0_tgt"] - p["x0_src"]
    expected = 0.075 * tau.exp() * delta + (0.2 + 0.8 * tau ** (1 / 2.718281828459045)) * dds
    torch.testing.assert_close(gradient(DreamCatalyst(guidance=3.0), backbone, p), expected)


def test_ism_by_hand(backbone: MixtureBackbone) -> None:
    """One sample, t = 300: x_0 → x_200 → x_250 → x_300, unconditionally."""
    p = problem(1)
    p["t"] = torch.tensor([300])
    bar = backbone.schedule.alphas_cumprod
    x, before = p["x0_tgt"], 1.0
    for at, after in ((0, 200), (200, 250)):
        eps = eps_hat(backbone, x, torch.tensor([at]), "b", 0.0)
        clean = (x - (1 - before) ** 0.5 * eps) / before**0.5
        x = bar[after].sqrt() * clean + (1 - bar[after]).sqrt() * eps
        before = float(bar[after])
    eps = eps_hat(backbone, x, torch.tensor([250]), "b", 0.0)
    clean = (x - (1 - bar[250]).sqrt() * eps) / bar[250].sqrt()
    x_t = bar[300].sqrt() * clean + (1 - bar[300]).sqrt() * eps
    expected = eps_hat(backbone, x_t, p["t"], "b", 3.0) - eps
    actual = gradient(ISM(guidance=3.0, weighting="none"), backbone, p)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)


def test_sdi_vanishes_where_the_inversion_is_exact() -> None:
    """One wide Gaussian, whose fixed-point equation is a contraction."""
    wide = MixtureBackbone(torch.zeros(1, 2, 2, 1, dtype=torch.float64), ["a"], torch.tensor([2.0]))
    p = problem(4)
    p["t"] = torch.tensor([100, 300, 400, 500])
    options: dict[str, Any] = {"guidance": 1.0, "inversion_guidance": 1.0, "inversion_eta": 0.0}
    exact = gradient(SDI(**options, fixed_point=400), wide, p, "a", "a")
    assert float(exact.abs().max()) < 1e-6
    rough = gradient(SDI(**options, inversion_steps=1), wide, p, "a", "a")
    assert float(rough.abs().max()) > 1e-3


def test_sdi_uses_the_noise_that_inversion_finds(backbone: MixtureBackbone) -> None:
    p = problem(3)
    text = backbone.encode_prompt(["b"]).expand(3)
    x_t = ddim_invert(backbone, p["x0_tgt"], p["t"], text, steps=10, guidance=-6.5)
    bar = backbone.schedule.alphas_cumprod[p["t"]].reshape(-1, 1, 1, 1)
    kappa = (x_t - bar.sqrt() * p["x0_tgt"]) / (1 - bar).sqrt()
    expected = eps_hat(backbone, x_t, p["t"], "b", 3.0) - kappa
    loss = SDI(guidance=3.0, inversion_eta=0.0, weighting="none")
    torch.testing.assert_close(gradient(loss, backbone, p), expected)


def test_fresh_noise_of_sdi_depends_on_epsilon_alone(backbone: MixtureBackbone) -> None:
    p, loss = problem(3), SDI(guidance=3.0, inversion_eta=0.3)
    first = gradient(loss, backbone, p)
    torch.testing.assert_close(gradient(loss, backbone, p), first)
    other = gradient(loss, backbone, {**p, "eps": p["eps"] + 1})
    assert float((other - first).abs().max()) > 1e-3


def test_ids_without_iterations_is_dds(backbone: MixtureBackbone) -> None:
    p = problem(5)
    dds = gradient(DDS(guidance=3.0), backbone, p)
    torch.testing.assert_close(gradient(IDS(guidance=3.0, iterations=0), backbone, p), dds)
    assert float((gradient(IDS(guidance=3.0, scale=0.1), backbone, p) - dds).abs().max()) > 1e-3


def test_ids_brings_the_source_to_its_own_estimate(backbone: MixtureBackbone) -> None:
    """The distance ‖x_0^src − x̂_0(x_t^src)‖ falls; its slope is the numerical one."""
    p = problem(1, seed=2)
    text = backbone.encode_prompt(["a"])
    bar = backbone.schedule.alphas_cumprod[p["t"]].reshape(-1, 1, 1, 1)

    def off(x_t: Tensor) -> Tensor:
        eps = backbone.predict_noise(x_t, p["t"], text, 3.0)
        return (p["x0_src"] - (x_t - (1 - bar).sqrt() * eps) / bar.sqrt()).norm()

    loss = IDS(guidance=3.0, scale=0.02, iterations=20)
    inputs = loss._inputs(backbone, p["x0_tgt"], p["x0_src"], text, text, p["t"], p["eps"])
    noisy, eps = loss.noised(inputs)
    start = backbone.add_noise(p["x0_src"], p["t"], p["eps"])
    assert float(off(noisy["src"])) < float(off(start)) - 0.02
    torch.testing.assert_close(backbone.add_noise(p["x0_src"], p["t"], eps), noisy["src"])
    slope = loss._slope(inputs, start)
    for index in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[index] = 1e-6
        numeric = off(start + step.reshape(start.shape)) - off(start - step.reshape(start.shape))
        assert float(numeric) / 2e-6 == pytest.approx(float(slope.flatten()[index]), abs=1e-6)


# ---- CDS, on a UNet -----------------------------------------------------------------------------


def toybox_problem(backbone: EmbeddedBackbone, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, *backbone.latent_shape)
    x0_src = 0.5 * torch.randn(shape, generator=generator)
    return {
        "x0_src": x0_src,
        "x0_tgt": x0_src + 0.3 * torch.randn(shape, generator=generator),
        "eps": torch.randn(shape, generator=generator),
        "t": torch.tensor([400]),
    }


def test_contrast_is_least_where_places_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    here = torch.nn.functional.normalize(torch.randn(2, 9, 5, generator=generator), dim=-1)
    agree = patch_contrast(here, here)
    shuffled = patch_contrast(here[:, torch.randperm(9, generator=generator)], here)
    assert bool((agree < shuffled).all())
    logits = here[0] @ here[0].T / 0.07
    expected = (logits.logsumexp(1) - logits.diagonal()).mean()
    torch.testing.assert_close(agree[0], expected)


def test_cds_adds_to_dds_and_lowers_the_contrast(toybox: EmbeddedBackbone) -> None:
    p = toybox_problem(toybox)
    words = ("a photo of a robot", "a photo of a man")
    dds = gradient(DDS(guidance=3.0), toybox, p, *words)
    none = gradient(CDS(guidance=3.0, contrast=0.0), toybox, p, *words)
    torch.testing.assert_close(none, dds)
    loss = CDS(guidance=3.0)
    extra = gradient(loss, toybox, p, *words) - dds
    assert 0 < float(extra.norm()) < 10 * float(dds.norm())

    def contrast(x0_tgt: Tensor) -> float:
        texts = [toybox.encode_prompt([word]) for word in words]
        out = loss.evaluate(toybox, x0_tgt, p["x0_src"], *texts, t=p["t"], eps=p["eps"])
        return out.logs["contrast"]

    step = 0.5 * extra / extra.norm()
    assert contrast(p["x0_tgt"] - step) < contrast(p["x0_tgt"]) < contrast(p["x0_tgt"] + step)


def test_for_the_source_itself_cds_is_its_contrast_alone(toybox: EmbeddedBackbone) -> None:
    """Δε̂ is 0 there; the slope of ℓ is not, as places look alike to the features as well."""
    p = toybox_problem(toybox)
    p["x0_tgt"] = p["x0_src"]
    same = ("a photo of a man", "a photo of a man")
    once, twice = (gradient(CDS(guidance=3.0, contrast=c), toybox, p, *same) for c in (3.0, 6.0))
    torch.testing.assert_close(twice, 2 * once)
    assert float(once.norm()) > 0


def test_cds_says_what_it_needs(backbone: MixtureBackbone) -> None:
    with pytest.raises(UserError, match="self-attention of a UNet"):
        gradient(CDS(guidance=3.0), backbone, problem(1))


# ---- VSD, on a UNet -----------------------------------------------------------------------------


@pytest.fixture()
def fresh() -> EmbeddedBackbone:
    """A backbone of its own, as a LoRA is added to it."""
    return EmbeddedBackbone("toybox", device="cpu")


def test_a_new_lora_changes_nothing(fresh: EmbeddedBackbone, toybox: EmbeddedBackbone) -> None:
    """φ begins as the backbone: the gradient is CSD's times ω − 1."""
    p, words = toybox_problem(fresh), ("a photo of a robot", "a photo of a man")
    expected = 2.0 * gradient(CSD(), toybox, p, *words)
    found = gradient(VSD(guidance=3.0), fresh, p, *words)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_the_lora_learns_what_renders_are(fresh: EmbeddedBackbone) -> None:
    """On one image, φ's prediction comes nearer to the noise; the backbone stays as it is."""
    p, text = toybox_problem(fresh), fresh.encode_prompt(["a photo of a robot"])
    p["x0_tgt"] *= 2 * fresh.vae.spread[:, None, None]  # as wide as what it knows
    x_t = fresh.add_noise(p["x0_tgt"], p["t"], p["eps"])
    before = fresh.predict_noise(x_t, p["t"], text, 1.0)
    loss = VSD(guidance=1.0, lora_lr=3e-3, lora_steps=20)
    loss.begin(fresh, prompt="a photo of a robot")

    def evaluate() -> tuple[Tensor, float]:
        out = loss.evaluate(fresh, p["x0_tgt"], None, text, None, t=p["t"], eps=p["eps"])
        return out.grad, out.logs["lora_loss"]

    first, error = evaluate()
    assert float(first.abs().max()) < 1e-5
    later, less = evaluate()
    assert less < error
    weight = 1 - float(fresh.schedule.alphas_cumprod[400])
    phi = before - later / weight
    assert float((phi - p["eps"]).norm()) < float((before - p["eps"]).norm())
    with torch.no_grad():
        torch.testing.assert_close(fresh.predict_noise(x_t, p["t"], text, 1.0), before)


def test_vsd_learns_beside_weights_in_half_precision(tmp_path: Path) -> None:
    build_pipeline("sd1", tmp_path / "tokenizers").save_pretrained(tmp_path / "model")
    backbone = StableDiffusion(str(tmp_path / "model"), device="cpu", dtype="float16")
    loss, text = VSD(guidance=3.0, lora_lr=1e-3), backbone.encode_prompt(["a man"])
    loss.begin(backbone, prompt="a man")
    draw = torch.Generator().manual_seed(0)
    x0 = torch.randn(1, 4, 8, 8, generator=draw)
    for _ in range(3):
        out = loss(backbone, x0, None, text, None, generator=draw)
        assert bool(out.grad.isfinite().all()) and 0 < out.logs["lora_loss"] < 100
    learnt = {k: v for k, v in loss.state_dict().items() if k.startswith("lora.")}
    assert all(v.dtype == torch.float32 and bool(v.isfinite().all()) for v in learnt.values())
    assert any(float(v.abs().max()) > 0 for k, v in learnt.items() if "lora_B" in k)


def test_what_vsd_learnt_survives(fresh: EmbeddedBackbone, toybox: EmbeddedBackbone) -> None:
    p, words = toybox_problem(fresh), ("a photo of a robot", "a photo of a man")
    loss = VSD(guidance=3.0, lora_lr=1e-3)
    gradient(loss, fresh, p, *words)
    state = {k: v.clone() for k, v in loss.state_dict().items()}
    text = fresh.encode_prompt([words[0]])
    args = (p["x0_tgt"], None, text, None)
    expected = [loss.evaluate(fresh, *args, t=p["t"], eps=p["eps"]).grad for _ in range(2)]
    other = VSD(guidance=3.0, lora_lr=1e-3)
    other.begin(fresh, prompt=words[0])
    other.load_state_dict(state)
    again = [other.evaluate(fresh, *args, t=p["t"], eps=p["eps"]).grad for _ in range(2)]
    for one, two in zip(expected, again, strict=True):
        torch.testing.assert_close(one, two)


def test_vsd_without_particles_is_the_bridge(backbone: MixtureBackbone) -> None:
    p = problem(4)
    bridge = SDSBridge(guidance=1.0, qualities="", flaws="", weighting="sigma2")
    found = gradient(VSD(guidance=1.0, particles="source"), backbone, p)
    torch.testing.assert_close(found, gradient(bridge, backbone, p))


def test_vsd_says_what_it_needs(backbone: MixtureBackbone) -> None:
    with pytest.raises(UserError, match="particles=source"):
        gradient(VSD(guidance=3.0), backbone, problem(1))


# ---- all of them --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_batches(name: str) -> None:
    """A batch is its samples one by one."""
    backbone, p = small_mixture(), problem(3)
    whole = gradient(LOSSES[name], backbone, p)
    assert bool(whole.isfinite().all()) and float(whole.abs().max()) > 1e-6
    for i in range(3):
        single = gradient(LOSSES[name], backbone, {k: v[i : i + 1] for k, v in p.items()})
        torch.testing.assert_close(whole[i : i + 1], single, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["dreamcatalyst", "ids"])
def test_nothing_to_edit_gives_no_gradient(name: str, toybox: EmbeddedBackbone) -> None:
    p = toybox_problem(toybox)
    p["x0_tgt"] = p["x0_src"]
    assert float(gradient(LOSSES[name], toybox, p, "a man", "a man").abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("name", "rows"),
    [("csd", 9), ("nfsd", 9), ("sds_bridge", 6), ("dreamcatalyst", 12), ("vsd", 9)],
)
def test_losses_without_an_inner_loop_call_the_network_once(
    name: str, rows: int, backbone: MixtureBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    inner = backbone.predict_eps

    def counting(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        calls.append(len(x_t))
        return inner(x_t, t, cond)

    monkeypatch.setattr(backbone, "predict_eps", counting)
    gradient(LOSSES[name], backbone, problem(3))
    assert calls == [rows]


def test_published_defaults() -> None:
    """Where the published code calls ω − 1 its guidance, and other values one may slip on."""
    sd15: Any = composed("edit", ["backbone=sd15"]).backbone
    assert sd15.recommended.guidance.sdi == SDI().inversion_guidance + 15.0 == 8.5
    ranges = {"sdi": (0.25, 0.98), "ism": (0.02, 0.5), "cds": (0.05, 0.95), "ids": (0.05, 0.95)}
    for name, kind in {"sdi": SDI, "ism": ISM, "cds": CDS, "ids": IDS}.items():
        assert tuple(kind().timesteps) == ranges[name]
    bridge = SDSBridge()
    assert bridge.weighting == "sigma2"
    assert bridge.prompts("a dog", "a cat") == {
        "best": "a dog" + bridge.qualities,
        "now": "a cat" + bridge.flaws,
    }
    assert bridge.qualities.endswith("sharp") and bridge.flaws.endswith("malformed")


def test_unconditional_alone_is_one_row(backbone: MixtureBackbone) -> None:
    """ω = 0 and ω = 1 cost one network row a sample, other ω two."""
    rows: list[int] = []
    inner = backbone.predict_eps

    def counting(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        rows.append(len(x_t))
        return inner(x_t, t, cond)

    p, text = problem(3), backbone.encode_prompt(["a"]).expand(3)
    omega = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)
    backbone.predict_eps = counting  # type: ignore[method-assign]
    try:
        mixed = backbone.predict_noise(p["x0_tgt"], p["t"], text, omega)
    finally:
        backbone.predict_eps = inner  # type: ignore[method-assign]
    assert rows == [4]
    for i, value in enumerate(omega.tolist()):
        expected = eps_hat(backbone, p["x0_tgt"], p["t"], "a", value)[i]
        torch.testing.assert_close(mixed[i], expected)


def test_ddim_inversion_comes_back() -> None:
    """Inversion then sampling under the same prompt rebuilds x_0."""
    wide = MixtureBackbone(torch.zeros(1, 2, 2, 1, dtype=torch.float64), ["a"], torch.tensor([1.5]))
    p, text = problem(2), wide.encode_prompt(["a"]).expand(2)
    t = torch.tensor([800, 800])
    x_t = ddim_invert(wide, p["x0_tgt"], t, text, steps=400)
    back = ddim(wide, x_t, text, steps=400, start=800)
    torch.testing.assert_close(back, p["x0_tgt"], rtol=0.05, atol=0.02)
    shared = ddim_invert(wide, p["x0_tgt"], t, text, stride=2)
    torch.testing.assert_close(shared, x_t)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CSD(source_weight=-1.0), "source_weight"),
        (lambda: ISM(delta_t=0), "delta_t=0"),
        (lambda: SDI(inversion_steps=0), "inversion_steps"),
        (lambda: SDI(inversion_eta=2.0), "inversion_eta"),
        (lambda: IDS(scale=-1.0), "loss.scale"),
        (lambda: CDS(contrast=-1.0), "contrast=-1.0"),
        (lambda: CDS(patches=1), "patches"),
        (lambda: CDS(patch_sizes=[]), "patch_sizes"),
        (lambda: DreamCatalyst(psi=float("nan")), "loss.psi"),
        (lambda: IDS(source_bank=4), "source_bank=4"),
        (lambda: CSD(source_bank=4), "source_bank=4"),
        (lambda: VSD(particles="many"), "lora, source"),
        (lambda: VSD(rank=0), "rank"),
    ],
)
def test_bad_options(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


# ---- the command line ---------------------------------------------------------------------------

NAMES = ["csd", "nfsd", "sds_bridge", "dreamcatalyst", "ism", "sdi", "ids", "cds", "vsd"]


def test_every_loss_edits(pds: Callable, tmp_path: Path) -> None:
    """Two steps of each, in one sweep, on the embedded backbone."""
    words = ["prompt=a photo of a robot", f"loss={','.join(NAMES)}", "scene=figurine2d"]
    done = pds("edit", "-m", *words, "steps=2", "render_every=0", f"out={tmp_path}/all")
    assert done.code == 0, done.err
    for i, name in enumerate(NAMES):
        summary = json.loads((tmp_path / "all" / str(i) / "summary.json").read_text())
        assert (summary["loss"], summary["status"], summary["steps"]) == (name, "done", 2)
        assert 0 < summary["metrics"]["lpips_source"] < 0.5


def test_vsd_resumes_with_what_it_learnt(
    pds: Callable, stopping: Callable[[str, int], None], tmp_path: Path
) -> None:
    words = ["scene=figurine2d", "prompt=a photo of a robot", "loss=vsd", "loss.lora_lr=1e-3"]
    words += ["render_every=0", "steps=4"]
    assert pds("edit", *words, f"out={tmp_path}/whole").code == 0
    stopping("edit", 2)
    assert pds("edit", *words, f"out={tmp_path}/part").code != 0
    assert pds("edit", f"resume={tmp_path}/part").code == 0
    whole, part = (
        load_checkpoint(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "part")
    )
    assert any(key.startswith("stage.edit.loss.lora.") for key in whole[0])
    assert whole[0].keys() == part[0].keys() and part[1]["total_steps"] == 4
    for key in whole[0]:
        torch.testing.assert_close(part[0][key], whole[0][key])


@pytest.mark.parametrize(
    ("word", "right"),
    [
        ("loss.particles=many", "lora, source"),
        ("loss.rank=0", "rank"),
        ("loss.rank=100000", "rank=100000 is more than the "),
        ("loss.rank=x", "loss.rank"),
    ],
)
def test_bad_words_get_a_sentence(pds: Callable, tmp_path: Path, word: str, right: str) -> None:
    found = pds("edit", "prompt=a robot", "loss=vsd", word, f"out={tmp_path}/run")
    assert found.code == 2
    assert right in found.err and "Traceback" not in found.err


def test_pds_plus_is_pds_with_falling_timesteps() -> None:
    found: list[Any] = [
        OmegaConf.to_container(composed("edit", [f"loss={name}"]).loss)
        for name in ("pds", "pds_plus")
    ]
    differ = {key for key in found[0] if found[0][key] != found[1][key]}
    assert differ == {"schedule", "identity"} and found[1]["schedule"] == "annealed"
