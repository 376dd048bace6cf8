"""The DDIM sampler, on data whose noise prediction is exact, and `pds sample`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.sampling import ddim, ddim_timesteps, noise, sample
from pds_cli.backbones.schedule import Schedule

MEAN, STD = 0.6, 0.05


class GaussianImages(Backbone):
    """Images of independent Gaussian pixels; ε̂ in closed form, mean 0.6 (prompt) or 0.3 (none)."""

    def __init__(self, resolution: int = 4, std: float = STD, recommended: object = None) -> None:
        super().__init__()
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
        self.schedule = Schedule((1 - betas).cumprod(0))
        self.resolution, self.std = resolution, std
        self.batches: list[int] = []

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return self.resolution, self.resolution

    def encode_image(self, image: Tensor) -> Tensor:
        return image

    def decode_latent(self, x0: Tensor) -> Tensor:
        return x0

    def encode_prompt(self, prompts: list[str], negative: str = "") -> Text:  # type: ignore[override]
        mean = torch.full((len(prompts), 1), MEAN, dtype=torch.float64)
        return Text({"mean": mean}, {"mean": mean / 2})

    def predict_eps(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.batches.append(len(x_t))
        alpha = self.schedule.alpha_bar(t, x_t)
        mean = cond["mean"].reshape(-1, 1, 1, 1)
        variance = alpha * self.std**2 + 1 - alpha
        return (1 - alpha).sqrt() * (x_t - alpha.sqrt() * mean) / variance


def test_timesteps_fall_from_the_last_without_repeats() -> None:
    assert ddim_timesteps(1000, 4).tolist() == [999, 749, 499, 249]
    assert ddim_timesteps(10, 10).tolist() == list(range(9, -1, -1))
    with pytest.raises(ValueError, match="between 1 and 10"):
        ddim_timesteps(10, 11)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_ddim_on_a_gaussian_is_the_recursion_on_paper(guidance: float, steps: int) -> None:
    """For N(μ, s²) each step scales d = x − √ᾱ μ by (s²√(ᾱᾱ') + √((1−ᾱ)(1−ᾱ'))) / (ᾱs² + 1 − ᾱ).

    Guidance ω moves the mean to μ_∅ + ω(μ_y − μ_∅) and leaves the variance.
    """
    backbone = GaussianImages()
    x_t = noise((3, 4, 4), seed=0, first=0, count=16).double()
    x0 = ddim(
        backbone, x_t, backbone.encode_prompt(["x"]).expand(16), steps=steps, guidance=guidance
    )
    mean = MEAN / 2 + guidance * MEAN / 2
    alphas = [float(backbone.schedule.alphas_cumprod[t]) for t in ddim_timesteps(1000, steps)]
    scale = 1.0
    for a, b in zip(alphas, [*alphas[1:], 1.0], strict=True):
        scale *= (STD**2 * (a * b) ** 0.5 + ((1 - a) * (1 - b)) ** 0.5) / (a * STD**2 + 1 - a)
    torch.testing.assert_close(x0, mean + scale * (x_t - alphas[0] ** 0.5 * mean))


def test_ddim_tends_to_the_data() -> None:
    """With many steps the samples have the mean and the spread of the Gaussian."""
    backbone = GaussianImages(std=0.3)
    x_t = noise((3, 4, 4), seed=0, first=0, count=256).double()
    x0 = ddim(backbone, x_t, backbone.encode_prompt(["x"]).expand(256), steps=200)
    assert abs(float(x0.mean()) - MEAN) < 0.02 and abs(float(x0.std()) - 0.3) < 0.02


def test_one_step_is_the_denoised_mean() -> None:
    backbone = GaussianImages()
    x_t = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    text = backbone.encode_prompt(["x"]).expand(2)
    alpha = backbone.schedule.alphas_cumprod[-1]
    eps = backbone.predict_eps(x_t, torch.full((2,), 999), text.cond)
    x0 = ddim(backbone, x_t, text, steps=1)
    torch.testing.assert_close(x0, (x_t - (1 - alpha).sqrt() * eps) / alpha.sqrt())


def test_mixture_samples_land_on_the_data() -> None:
    from pds_cli.backbones.mixture import CrescentMixture

    backbone = CrescentMixture(points=50, std=0.02)
    start = noise(backbone.shape, seed=3, first=0, count=64).double()  # type: ignore[arg-type]
    x0 = ddim(backbone, start, backbone.encode_prompt(["a"]).expand(64), steps=100)
    assert float(backbone.posterior(x0, "a").min()) > 0.95
    nearest = torch.cdist(x0.flatten(1), backbone.means).min(dim=1).values
    assert float(nearest.median()) < 0.06


def test_a_sample_depends_on_the_seed_and_its_number_only() -> None:
    backbone = GaussianImages()
    seen: list[int] = []
    five = sample(backbone, "x", 5, steps=3, batch_size=2, seed=7, on_step=seen.append)
    assert backbone.batches == [2] * 6 + [1] * 3
    assert seen == list(range(1, 10))
    three = sample(backbone, "x", 3, steps=3, batch_size=3, seed=7)
    torch.testing.assert_close(five[:3], three)
    assert not torch.allclose(sample(backbone, "x", 1, steps=3, seed=8), three[:1])
    assert five.shape == (5, 3, 4, 4) and five.dtype == torch.float32
    assert float(five.min()) >= 0 and float(five.max()) <= 1


def test_pds_sample_writes_images_and_a_sheet(
    pds: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "groups/backbone").mkdir(parents=True)
    (tmp_path / "groups/backbone/gauss.yaml").write_text(
        "# exact\n_target_: own_backbone.GaussianImages\nresolution: 8\n"
        "recommended: {guidance: {sample: 2.0}}\n"
    )
    (tmp_path / "own_backbone.py").write_text(
        Path(__file__).read_text(encoding="utf-8"), encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = [
        "backbone=gauss",
        "--config-dir",
        "groups",
        "allow_modules=[own_backbone]",
        "n=5",
        "steps=4",
    ]
    answer = pds("sample", "prompt=a man, smiling", *words, "out=run")
    assert answer.code == 0, answer.err
    assert "run/sheet.png" in answer.out
    assert len(list(Path("run/samples").glob("*.png"))) == 5
    with Image.open("run/samples/004.png") as image:
        assert image.size == (8, 8)
        # ω = 2, as recommended: mean 0.9 (0.3 + 2 · 0.3).
        assert abs(float(np.asarray(image).mean()) / 255 - 0.9) < 0.08
    with Image.open("run/sheet.png") as sheet:
        assert sheet.width > sheet.height > 0
    summary = json.loads(Path("run/summary.json").read_text(encoding="utf-8"))
    assert summary["prompt"] == "a man, smiling" and summary["guidance"] == 2.0
    too_many = pds("sample", "prompt=x", *words, "steps=2000", "out=b")
    assert too_many.code == 2 and "1000 timesteps" in too_many.err


def test_pds_sample_says_when_a_backbone_draws_no_images(pds: Callable) -> None:
    answer = pds("sample", "prompt=a", "backbone=mixture", "n=1", "steps=1")
    assert answer.code == 2 and "draws no images" in answer.err
