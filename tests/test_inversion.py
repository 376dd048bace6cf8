"""Editors that invert, InstructPix2Pix, and editors on the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from small_pipelines import LENGTH, build_instruct_pipeline
from torch import Tensor

from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.mixture import MixtureBackbone
from pds_cli.backbones.sampling import ddim_timesteps
from pds_cli.editors.base import Editor, decode, encode
from pds_cli.editors.ddim_inversion import DDIMInversion
from pds_cli.editors.ddpm_inversion import DDPMInversion
from pds_cli.editors.instruct_pix2pix import InstructModel, InstructPix2Pix
from pds_cli.errors import UserError
from pds_cli.pictures.files import read_picture
from pds_cli.representations.image import ImageRepresentation
from pds_cli.scenes.figurine import FigurineScene
from pds_cli.training.stages import Parts, Prompts, refine_stage

ROBOT, MAN = "a photo of a robot", "a photo of a man"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def greys() -> MixtureBackbone:
    """Dark pictures called a and light ones called b, [3,4,4] in float64."""
    means = torch.stack([torch.full((3, 4, 4), value).double() for value in (0.3, 0.7)])
    return MixtureBackbone(means, ["a", "b"], 0.1)


def grey(value: float, count: int = 1) -> Tensor:
    return torch.full((count, 3, 4, 4), value, dtype=torch.float64)


def edited(editor: Editor, image: Tensor, target: str, source: str = "a") -> Tensor:
    backbone = greys()
    texts = [backbone.encode_prompt([word]) for word in (target, source)]
    return editor.edit(backbone, image, image, *texts, generator=generator())


# --- DDPM inversion ------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 3.5])
@pytest.mark.parametrize("strength", [0.3, 0.64, 1.0])
def test_ddpm_inversion_rebuilds_its_source(guidance: float, strength: float) -> None:
    """The noise maps under the source prompt lead back to x_0, on the toybox backbone."""
    backbone = EmbeddedBackbone("toybox", device="cpu")
    side = backbone.resolution
    image = torch.rand(1, 3, side, side, generator=generator(4))
    x0, text = encode(backbone, image), backbone.encode_prompt([MAN])
    editor = DDPMInversion(steps=25, source_guidance=guidance, strength=strength)
    x_t, noise = editor.invert(backbone, x0, text, generator(1))
    assert float((x_t - x0).abs().mean()) > 0.1
    again = editor.sample(backbone, x_t, noise, text, guidance)
    span = float(x0.max() - x0.min())
    psnr = 20 * math.log10(span) - 10 * math.log10(float((again - x0).square().mean()))
    assert psnr >= 40
    other = editor.sample(backbone, x_t, noise, backbone.encode_prompt([ROBOT]), 5.0)
    assert float((other - x0).abs().mean()) > 10 * float((again - x0).abs().mean())


def test_ddpm_inversion_is_the_posterior_by_hand() -> None:
    """One step of the walk, t = 800 → 600, from the definition of q(x_s | x_t, x_0)."""
    backbone, text = greys(), greys().encode_prompt(["a"])
    x_t = torch.randn(1, 3, 4, 4, generator=generator(), dtype=torch.float64)
    mean, std = DDPMInversion._step(
        backbone, x_t, torch.tensor(800), torch.tensor([600]), text, 1.0
    )
    bar = backbone.schedule.alphas_cumprod
    alpha = bar[800] / bar[600]
    eps = backbone.predict_noise(x_t, torch.tensor([800]), text, 1.0)
    clean = (x_t - (1 - bar[800]).sqrt() * eps) / bar[800].sqrt()
    expected = bar[600].sqrt() * (1 - alpha) / (1 - bar[800]) * clean
    expected = expected + alpha.sqrt() * (1 - bar[600]) / (1 - bar[800]) * x_t
    torch.testing.assert_close(mean, expected)
    variance = (1 - alpha) * (1 - bar[600]) / (1 - bar[800])
    torch.testing.assert_close(std, variance.sqrt())


@pytest.mark.parametrize("steps", [801, 1000])
def test_ddpm_inversion_takes_every_timestep_once(steps: int) -> None:
    backbone, image = greys(), grey(0.35)
    editor = DDPMInversion(steps=steps, guidance=1.0, source_guidance=1.0, strength=1.0)
    times = editor._times(backbone).tolist()
    assert times == sorted(set(times), reverse=True) and times[-1] == 1
    torch.testing.assert_close(edited(editor, image, "a"), image)
    with pytest.raises(UserError, match=r"editor.steps=1001 is more than .* 1000 timesteps"):
        edited(DDPMInversion(steps=1001), image, "a")


def test_ddpm_inversion_edits_and_repeats_with_its_generator() -> None:
    editor = DDPMInversion(steps=50, guidance=1.0, source_guidance=1.0, strength=0.9)
    image = grey(0.3, 8) + 0.02 * torch.randn(8, 3, 4, 4, generator=generator(2)).double()
    result = edited(editor, image, "b")
    assert float(greys().posterior(result, "b").min()) > 0.99
    torch.testing.assert_close(edited(editor, image, "b"), result)
    # Where a picture is lighter than another, its edit is: what is particular stays.
    here, there = image.mean((1, 2, 3)), result.mean((1, 2, 3))
    assert float(torch.corrcoef(torch.stack([here, there]))[0, 1]) > 0.5


# --- DDIM inversion ------------------------------------------------------------------------------


def test_ddim_inversion_comes_back_under_its_own_prompt() -> None:
    image = grey(0.35)
    still = edited(DDIMInversion(steps=400, guidance=1.0), image, "a")
    torch.testing.assert_close(still, image, rtol=0, atol=0.02)
    coarse = edited(DDIMInversion(steps=5, guidance=1.0), image, "a")
    assert float((coarse - image).abs().max()) > float((still - image).abs().max())


def test_ddim_inversion_goes_where_the_prompt_says() -> None:
    result = edited(DDIMInversion(steps=100, guidance=1.0), grey(0.3), "b")
    assert float(greys().posterior(result, "b").min()) > 0.99
    less = edited(DDIMInversion(steps=100, guidance=1.0, strength=0.2), grey(0.3), "b")
    assert float((less - 0.3).abs().mean()) < float((result - 0.3).abs().mean())


@pytest.mark.parametrize("editor", [DDIMInversion(strength=0.0), DDPMInversion(strength=0.0)])
def test_no_strength_changes_nothing(editor: Editor) -> None:
    torch.testing.assert_close(edited(editor, grey(0.42), "b"), grey(0.42))


@pytest.mark.parametrize("editor", [DDIMInversion(), DDPMInversion()])
def test_inversion_needs_a_source_prompt(editor: Editor) -> None:
    backbone = greys()
    text = backbone.encode_prompt(["a"])
    with pytest.raises(UserError, match="needs a source prompt"):
        editor.edit(backbone, grey(0.3), grey(0.3), text, None, generator=generator())


@pytest.mark.parametrize("kind", [DDIMInversion, DDPMInversion])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "editor.steps=0 must be"),
        ({"guidance": math.inf}, "editor.guidance=inf is not a finite number"),
        ({"strength": 1.5}, "editor.strength=1.5 must lie between 0 and 1"),
    ],
)
def test_an_option_out_of_range_is_refused(
    kind: type, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        kind(**options)


# --- InstructPix2Pix -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tiny random pipeline whose UNet sees two latents, saved in diffusers format."""
    root = tmp_path_factory.mktemp("instruct")
    pipeline = build_instruct_pipeline(root)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(root / "model")
    return pipeline, root / "model"


def test_instruct_pix2pix_is_the_pipelines_own_walk(instruct: tuple[Any, Path]) -> None:
    """From the same noisy latents, with both guidances, to the same picture."""
    pipeline, folder = instruct
    editor = InstructPix2Pix(
        model=str(folder), steps=5, guidance=3.0, image_guidance=1.7, device="cpu"
    )
    editor.begin(prompt="a man", source="")
    image = torch.rand(1, 3, 32, 32, generator=generator(3))
    text = editor.model.encode_prompt(["unused"])
    result = editor.edit(editor.model, image, image, text, None, generator=generator(5))
    # The same draws, in the same order: strength, then noise.
    again = generator(5)
    torch.rand((), generator=again, dtype=torch.float64)
    x0 = encode(editor.model, image)
    eps = torch.randn(x0.shape, generator=again)
    x_t = editor.model.add_noise(x0, torch.tensor([999]), eps)
    assert pipeline.tokenizer.model_max_length == LENGTH
    expected = pipeline(
        "a man",
        image=image,
        latents=x_t,
        num_inference_steps=5,
        guidance_scale=3.0,
        image_guidance_scale=1.7,
        output_type="latent",
    ).images
    assert pipeline.scheduler.timesteps.tolist() == ddim_timesteps(1000, 5).tolist()
    shown = decode(editor.model, expected, image)
    torch.testing.assert_close(result, shown, rtol=1e-3, atol=1e-3)
    assert float((result - image).abs().mean()) > 0.01


def test_instruct_pix2pix_needs_its_own_kind_of_model(
    instruct: tuple[Any, Path], tmp_path: Path
) -> None:
    from pds_cli.backbones.stable_diffusion import StableDiffusion

    with pytest.raises(UserError, match="instruction-tuned models are not text-to-image"):
        StableDiffusion(str(instruct[1]), device="cpu")
    with pytest.raises(UserError, match="missing"):
        InstructModel(str(tmp_path / "missing"), device="cpu", local_files_only=True)


def test_instruct_pix2pix_refines(instruct: tuple[Any, Path]) -> None:
    """As a refinement, too, it reads the prompt before its first edit."""
    target = "pds_cli.editors.instruct_pix2pix.InstructPix2Pix"
    editor = {"_target_": target, "model": str(instruct[1]), "steps": 2, "device": "cpu"}
    plain = {"editor": editor, "steps": 1, "every": 1, "batch_size": 1, "lr": 0.1}
    adam = {"_target_": "torch.optim.Adam"}
    cfg = OmegaConf.create(
        {
            "refine": {**plain, "input": "current", "initial": "source"},
            "optimizer": adam,
            "seed": 0,
            "lr": 0.1,
            "allow_modules": [],
        }
    )
    scene, backbone = FigurineScene(), EmbeddedBackbone("toybox", device="cpu")
    texts = [backbone.encode_prompt([word]) for word in ("a man", MAN)]
    words = {"prompt": "a man", "source": MAN, "negative": ""}
    picture = ImageRepresentation(scene, backbone)
    stage = refine_stage(cfg, Parts(scene, picture, backbone), Prompts(words, *texts))
    assert stage is not None
    stage.objective.begin()
    loss, logs = stage.objective.loss(0, 0.0, generator())
    assert logs["redrawn"] == 1 and bool(loss.isfinite())


# --- the command line ----------------------------------------------------------------------------

POINTS = ["scene=toy2d", "backbone=mixture", "representation=points"]
EDITORS = ["sdedit", "ddim_inversion", "ddpm_inversion"]


def test_every_editor_edits_a_picture(pds: Callable, tmp_path: Path) -> None:
    words = ["scene=figurine2d", f"prompt={ROBOT}", f"editor={','.join(EDITORS)}"]
    done = pds("edit", "-m", *words, "editor.steps=10", "editor.guidance=4", f"out={tmp_path}/all")
    assert done.code == 0, done.err
    for i, name in enumerate(EDITORS):
        summary = json.loads((tmp_path / "all" / str(i) / "summary.json").read_text())
        assert (summary["loss"], summary["steps"]) == (name, 1)
        assert 0.02 < summary["metrics"]["lpips_source"] < 0.6
        assert (tmp_path / "all" / str(i) / "exports" / "result.png").is_file()


def test_what_an_editor_does_not_look_at_is_named(pds: Callable, tmp_path: Path) -> None:
    words = ["edit", "scene=figurine2d", f"prompt={ROBOT}", "editor=sdedit", "editor.steps=2"]
    told = pds(*words, "guidance=9", "lr=0.5", f"out={tmp_path}/told")
    assert told.code == 0
    assert "editor=sdedit looks at no guidance=9; its own is editor.guidance" in told.err
    assert "looks at no lr=0.5\n" in told.err and "no steps" not in told.err
    assert pds(*words, "loss=dds", f"out={tmp_path}/loss").err.count("looks at no loss=dds") == 1


def test_the_toybox_edits_by_instruction(pds: Callable, tmp_path: Path) -> None:
    """With the shipped model the result is nearer to the true edit than the source is."""
    hat = "a photo of a man wearing a wizard hat"
    words = ["edit", "scene=figurine2d", f"prompt={hat}", "editor=instruct_pix2pix"]
    assert pds(*words, "editor.steps=20", f"out={tmp_path}/run").code == 0
    found = json.loads((tmp_path / "run/summary.json").read_text())["metrics"]
    picture, source, truth = (
        read_picture(tmp_path / f"run/renders/{name}_front.png")
        for name in ("result", "source", "truth")
    )
    untouched = float(10 * torch.log10(1 / (source - truth).square().mean()))
    assert found["psnr_truth"] > untouched + 3
    assert float((picture - source).abs().mean()) > 0.01


def test_a_batch_has_an_instruction_each() -> None:
    editor = InstructPix2Pix(model="toybox_instruct", steps=4, guidance=2.0, device="cpu")
    backbone = EmbeddedBackbone("toybox", device="cpu")
    images = torch.rand(2, 3, 128, 128, generator=generator(2))
    texts = backbone.encode_prompt([ROBOT, MAN])
    editor.begin(prompt=[ROBOT, MAN], source=[MAN, MAN])
    both = editor.edit(backbone, images, images, texts, None, generator=generator())
    editor.begin(prompt=ROBOT, source=MAN)
    first = editor.edit(backbone, images, images, texts, None, generator=generator())
    torch.testing.assert_close(both[0], first[0], rtol=1e-3, atol=1e-3)
    assert float((both[1] - first[1]).abs().max()) > 0.05


def test_a_dataset_update_with_any_editor(
    pds: Callable, instruct: tuple[Any, Path], tmp_path: Path
) -> None:
    words = ["edit", "scene=figurine2d", "prompt=a man", "steps=3", "render_every=0"]
    inversion = pds(*words, "experiment=inversion2nerf", "editor.steps=5", f"out={tmp_path}/a")
    assert inversion.code == 0, inversion.err
    instructed = pds(
        *words,
        "experiment=instruct_nerf2nerf",
        f"editor.model={instruct[1]}",
        "editor.steps=4",
        "device=cpu",
        f"out={tmp_path}/b",
    )
    assert instructed.code == 0, instructed.err
    named = [json.loads((tmp_path / x / "summary.json").read_text())["loss"] for x in "ab"]
    assert named == ["dataset_update_ddpm_inversion", "dataset_update_instruct_pix2pix"]


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["loss=dataset_update"], "add editor=ddpm_inversion"),
        (["editor=sdedit", "scene=cat_icon"], "editor=… alone edits a picture"),
        (["editor=sdedit", "editor.strength=2"], "editor.strength=2"),
        (["editor=ddim_inversion", "editor.steps=0"], "editor.steps=0"),
        (["editor=photoshop"], "photoshop"),
        (["editor=ddpm_inversion", "editor.steps=5000"], "editor.steps=5000 is more than"),
        (["refine=sdedit", "refine.editor.steps=5000"], "editor.steps=5000 is more than"),
        ([*POINTS, "editor=sdedit", "prompt=b"], "draws no images, which an editor needs"),
        (["editor.guidance=3"], "editor.guidance=3.0 needs an editor"),
        (["editor=instruct_pix2pix", "editor.model=/nowhere"], "/nowhere"),
    ],
)
def test_bad_words_get_a_sentence(
    pds: Callable, tmp_path: Path, words: list[str], right: str
) -> None:
    found = pds("edit", f"prompt={ROBOT}", *words, f"out={tmp_path}/run")
    assert found.code == 2
    assert right in found.err and "Traceback" not in found.err
    assert not (tmp_path / "run").exists()
