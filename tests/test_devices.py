"""Every module that touches a device, on the CPU, on CUDA where there is a GPU, and elsewhere.

`elsewhere` computes on the CPU and refuses what CUDA refuses (tests/elsewhere.py). It cannot be
taken back from torch, so the last test runs some of these once more in a process of its own; all
of them, in two minutes or so, with

    PDS_TESTS_ELSEWHERE=1 pytest tests/test_devices.py

Models are tiny and random: what is asked is that everything runs, stays finite, and agrees with
the CPU. What other tests do on the CPU already is not done there again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY_MODEL
from elsewhere import NAME, elsewhere
from posed_scene import SMALL, Posed
from small_pipelines import (
    LENGTH,
    build_instruct_pipeline,
    build_pipeline,
    fill,
    write_tokenizer,
)
from torch import Tensor

from pds_cli.backbones.base import Backbone, resolve_device
from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.mixture import CrescentMixture
from pds_cli.backbones.sampling import sample
from pds_cli.backbones.schedule import Schedule
from pds_cli.backbones.stable_diffusion import StableDiffusion
from pds_cli.editors.base import Editor
from pds_cli.editors.ddim_inversion import DDIMInversion
from pds_cli.editors.ddpm_inversion import DDPMInversion
from pds_cli.editors.instruct_pix2pix import InstructPix2Pix
from pds_cli.editors.sdedit import SDEdit
from pds_cli.errors import UserError
from pds_cli.losses.base import Loss
from pds_cli.losses.dds import DDS
from pds_cli.losses.pds import PDS
from pds_cli.losses.source_bank import SourceBank
from pds_cli.losses.timesteps import Walk
from pds_cli.losses.vsd import VSD
from pds_cli.metrics.consistency import consistency
from pds_cli.metrics.lpips import lpips
from pds_cli.metrics.psnr import psnr
from pds_cli.options.catalogue import shipped_targets
from pds_cli.options.verbs import FINETUNING
from pds_cli.pictures.captioned import CaptionedImages
from pds_cli.pictures.colormap import depth_picture, depth_range
from pds_cli.pictures.files import write_image
from pds_cli.pictures.ssim import ssim
from pds_cli.pretraining import dreambooth
from pds_cli.pretraining.components import build_components, save_components
from pds_cli.pretraining.objectives import (
    ClassificationObjective,
    ContrastiveObjective,
    DecodingObjective,
    DenoisingObjective,
    InstructObjective,
)
from pds_cli.representations.base import FitSettings, Representation
from pds_cli.representations.image import ImageRepresentation
from pds_cli.representations.nerf import volume
from pds_cli.representations.nerf.encoding import GridLayout, HashGrid
from pds_cli.representations.nerf.representation import NeRF
from pds_cli.representations.points import PointsRepresentation
from pds_cli.representations.spatial import Volumetric, load_spatial
from pds_cli.representations.svg.representation import SVG
from pds_cli.results.exporting import write_point_cloud
from pds_cli.results.outcome import save_views
from pds_cli.results.path_rendering import render_path
from pds_cli.runs.folder import RunFolder
from pds_cli.scenes.base import Scene
from pds_cli.scenes.rendered import RenderedScene
from pds_cli.scenes.svg import SVGScene
from pds_cli.scenes.toy2d import Toy2DScene
from pds_cli.seeds import step_generator
from pds_cli.training.dataset_update import DatasetUpdateObjective
from pds_cli.training.distillation import EditObjective
from pds_cli.training.fit import ensure_fit, measure
from pds_cli.training.one_shot import EditorObjective
from pds_cli.training.trainer import Objective, Stage, Trainer, with_lr
from pds_cli.views.view import Rendering, View

APART = "PDS_TESTS_ELSEWHERE"  # set in the process that has the device `elsewhere`
WITH_GPU = torch.cuda.is_available()
DEVICES = [NAME] if APART in os.environ else ["cpu", "cuda"]
QUICKEST = (
    "points_are_moved or hash_grid or volume or metrics or draws_the_same or noise_begins or "
    "drawing_is or (a_picture and sdxl) or (drawings_and_nerfs and pds_plus)"
)
MAN, HAT = "a man", "a man in a hat"
SIDE = 32  # of the tiny pipelines


@pytest.fixture(scope="module")
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "cuda" and not WITH_GPU:
        pytest.skip("there is no CUDA GPU here")
    if request.param == "cuda":  # else convolutions round to TensorFloat-32
        torch.backends.cudnn.allow_tf32 = False
        yield "cuda"
        torch.backends.cudnn.allow_tf32 = True
        return
    if request.param == "cpu":
        yield "cpu"
        return
    EmbeddedBackbone(device="cpu")  # the libraries have to be imported before there is the device
    with elsewhere():
        yield NAME


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        chosen = [d for d in DEVICES if d != "cpu" or not hasattr(metafunc.function, "beyond")]
        metafunc.parametrize("device", chosen, indirect=True, scope="module")


def beyond(test: Any) -> Any:
    """Marks a test of what others test on the CPU."""
    test.beyond = True
    return test


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="CUDA's devices here end with cuda:1"):
        resolve_device("cuda:2")


# --- small models --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a tiny model by its kind, written when it is first asked for."""
    root, written = tmp_path_factory.mktemp("models"), {"embedded": "toybox"}

    def folder(kind: str) -> str:
        if kind not in written:
            where, parts = root / kind, root / f"{kind}_parts"
            whole = (
                build_instruct_pipeline(parts)
                if kind == "instruct"
                else build_pipeline(kind, parts)
            )
            whole.save_pretrained(where)
            written[kind] = str(where)
        return written[kind]

    return folder


Load = Callable[..., Any]


@pytest.fixture(scope="module")
def load(folders: Callable[[str], str], device: str) -> Load:
    """`load(kind, dtype)`: a backbone on the device, loaded once."""
    kept: dict[tuple[str, str], Backbone] = {}

    def get(kind: str, dtype: str = "auto", fresh: bool = False) -> Backbone:
        if kind == "embedded":
            made: Callable[[], Backbone] = lambda: EmbeddedBackbone(device=device)  # noqa: E731
        else:
            made = lambda: StableDiffusion(folders(kind), device=device, dtype=dtype)  # noqa: E731
        if fresh:
            return made()
        if (kind, dtype) not in kept:
            kept[kind, dtype] = made()
        return kept[kind, dtype]

    return get


# --- small scenes --------------------------------------------------------------------------------


class Picture(Scene):
    """One smooth picture."""

    source_prompt = MAN

    def __init__(self, side: int = SIDE) -> None:
        coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(5))
        image = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")[0]
        self._views = [View("picture", image)]

    @property
    def views(self) -> Sequence[View]:
        return self._views


DRAWING = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><defs>
<linearGradient id="g"><stop offset="0" stop-color="red"/><stop offset="1" stop-color="blue"/>
</linearGradient></defs><circle cx="24" cy="30" r="16" fill="url(#g)"/>
<g opacity="0.8"><path d="M30 10Q60 20 50 50L20 44Z" fill="#2a7"/></g></svg>"""
EVERYTHING = ("points", "colors", "opacities", "gradients")


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> SVGScene:
    path = tmp_path_factory.mktemp("drawing") / "drawing.svg"
    path.write_text(DRAWING)
    return SVGScene(path, source_prompt=MAN, size=64)


def nerf_of(backbone: Any, scene: Scene, **options: Any) -> NeRF:
    return NeRF(
        scene, backbone, **{**SMALL, "render_size": SIDE, "chunk": 400, "step": 0.3, **options}
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(found: Tensor, wanted: Tensor, tolerance: float = 2e-3) -> None:
    """In parts of the largest number."""
    scale = float(wanted.detach().abs().max().clamp_min(1e-9))
    worst = float((found.detach().cpu().double() - wanted.detach().cpu().double()).abs().max())
    assert worst <= tolerance * scale, (worst, scale)


# --- edits ---------------------------------------------------------------------------------------


def run_of(
    objective: Objective,
    folder: Path,
    steps: int = 2,
    lr: float = 1e-2,
    name: str = "edit",
    **options: Any,
) -> Trainer:
    stage = Stage(name, objective, steps, lambda groups: torch.optim.Adam(with_lr(groups, lr)))
    options = {"checkpoint_every": 1, "render_every": steps, **options}
    return Trainer([stage], RunFolder(folder), **options)


def edited(
    scene: Scene,
    representation: Representation,
    backbone: Backbone,
    loss: Loss,
    folder: Path,
    **options: Any,
) -> EditObjective:
    """The objective after two steps of an edit, which moved θ and left it finite."""
    begin = {k: p.detach().clone() for k, p in representation.named_parameters()}
    words = {"prompt": HAT, "source": MAN}
    if isinstance(representation, PointsRepresentation):
        words = {"prompt": "a", "source": "b"}
    loss.begin(backbone, **words)
    texts = [backbone.encode_prompt([word]) for word in words.values()]
    objective = EditObjective(scene, representation, backbone, loss, *texts, **options)
    assert run_of(objective, folder).run() == "done"
    now = dict(representation.named_parameters())
    assert all(bool(p.isfinite().all()) for p in now.values())
    assert any(not bool((p == begin[k]).all()) for k, p in now.items())
    assert all(p.device == begin[k].device for k, p in now.items())
    return objective


LOSSES = {
    options[0]: target
    for target, options in shipped_targets("loss").items()
    if target.startswith("pds_cli.losses.")
}
QUICK: dict[str, dict[str, Any]] = {
    "sdi": {"inversion_steps": 2, "fixed_point": 1},
    "ids": {"iterations": 1},
    "cds": {"patches": 8},
    "csd": {"source_weight": 0.5},
}


def loss_of(name: str) -> Loss:
    module, _, cls = LOSSES[name].rpartition(".")
    return getattr(import_module(module), cls)(guidance=3.0, **QUICK.get(name, {}))


@beyond
@pytest.mark.parametrize("kind", ["embedded", "sd1", "sdxl"])
@pytest.mark.parametrize("parametrisation", ["pixels", "latent"])
def test_a_picture_is_edited(parametrisation: str, kind: str, load: Load, tmp_path: Path) -> None:
    backbone, scene = load(kind), Picture()
    picture = ImageRepresentation(scene, backbone, parametrisation=parametrisation)
    edited(scene, picture, backbone, PDS(guidance=3.0), tmp_path, batch_size=2)
    assert picture.export(tmp_path)[0].is_file()
    save_views(RunFolder(tmp_path), picture, scene.views)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_edits_drawings_and_nerfs(
    name: str, load: Load, drawing: SVGScene, tmp_path: Path
) -> None:
    """With the precision that a device has by default: half on CUDA."""
    backbone, posed = load("sd1"), Posed(size=SIDE)
    figure = SVG(drawing, backbone, parameters=EVERYTHING, symmetry=1.0, xing=0.1, animation=1)
    edited(drawing, figure, backbone, loss_of(name), tmp_path / "svg")
    nerf = nerf_of(backbone, posed, distortion=0.1, appearance=True)
    edited(posed, nerf, backbone, loss_of(name), tmp_path / "nerf")
    if name == "pds":
        assert all(path.is_file() for path in figure.export(tmp_path / "exports"))


@beyond
@pytest.mark.parametrize("loss", [PDS(guidance=2.0), DDS(guidance=2.0)])
def test_points_are_moved(loss: Loss, device: str, tmp_path: Path) -> None:
    backbone, scene = CrescentMixture(40).to(device), Toy2DScene(points=20)
    points = PointsRepresentation(scene, backbone)
    edited(scene, points, backbone, loss, tmp_path)
    assert points.points.device.type == torch.device(device).type
    wanted = CrescentMixture(40)
    x = torch.randn(5, 2, 1, 1, generator=generator())
    t, text = torch.tensor([3, 500, 900, 40, 998]), wanted.encode_prompt(["a"])
    found = backbone.predict_noise(
        x.to(device), t.to(device), backbone.encode_prompt(["a"]).expand(5), 3.0
    )
    close(found, wanted.predict_noise(x, t, text.expand(5), 3.0))
    close(backbone.posterior(x.to(device), "a", 500), wanted.posterior(x, "a", 500))


def test_a_step_draws_the_same_on_every_device(load: Load, tmp_path: Path) -> None:
    """Timesteps and noise come from the CPU, whatever the device."""
    backbone, x0 = load("sd1", "float32"), torch.zeros(2, 4, 8, 8)
    seen: list[tuple[Tensor, Tensor]] = []

    class Seeing(DDS):
        def gradient(self, branches: Any) -> tuple[Tensor, dict[str, float]]:
            seen.append((branches.t.cpu(), branches.eps.cpu()))
            return super().gradient(branches)

    text = backbone.encode_prompt([MAN])
    there = x0.to(backbone.device)
    Seeing(guidance=2.0)(backbone, there, there, text, text, generator=step_generator(3, "edit", 7))
    draws = step_generator(3, "edit", 7)
    wanted = Walk(1000, 500).sample(2, DDS().timesteps, generator=draws)
    assert torch.equal(seen[0][0], wanted)
    assert torch.equal(seen[0][1], torch.randn(x0.shape, generator=draws))


@beyond
def test_what_is_noise_begins_the_same_on_every_device(
    folders: Callable[[str], str], device: str
) -> None:
    scene, found = Picture(), []
    for place in (device, "cpu"):
        backbone = StableDiffusion(
            folders("sd1"), device=place, dtype="float32", vae_sample=True, resolution=SIDE
        )
        torch.manual_seed(5)
        picture = ImageRepresentation(scene, backbone, initial="noise", parametrisation="latent")
        found.append(picture.theta)
    close(found[0], found[1])


@beyond
@pytest.mark.parametrize("what", ["latent", "nerf", "vsd"])
def test_a_stopped_edit_goes_on(what: str, load: Load, device: str, tmp_path: Path) -> None:
    """To what an uninterrupted one would have come to, but for the order of CUDA's sums."""
    scene: Scene = Posed(size=SIDE) if what == "nerf" else Picture()
    backbone = load("sd1", "float32", fresh=what == "vsd")

    def begun() -> tuple[EditObjective, Representation]:
        torch.manual_seed(0)
        loss: Loss = VSD(guidance=3.0) if what == "vsd" else PDS(guidance=3.0)
        loss.begin(backbone, prompt=HAT, source=MAN)
        texts = [backbone.encode_prompt([word]) for word in (HAT, MAN)]
        made: Representation
        if what == "nerf":
            made = nerf_of(backbone, scene)
        else:
            made = ImageRepresentation(scene, backbone, parametrisation="latent")
        return EditObjective(scene, made, backbone, loss, *texts), made

    objective, whole = begun()
    assert run_of(objective, tmp_path / "whole", steps=3).run() == "done"
    objective, _ = begun()
    first = run_of(objective, tmp_path / "parts", steps=3)
    first.stages[0].steps = 2
    assert first.run() == "done"
    objective, resumed = begun()
    second = run_of(objective, tmp_path / "parts", steps=3, earlier=[""])
    second.resume()
    assert (second.stage_index, second.step) == (0, 2)
    assert second.run() == "done"
    wanted = dict(whole.named_parameters())
    for name, parameter in resumed.named_parameters():
        if device != "cuda":
            close(parameter, wanted[name], 1e-6)
        else:
            off = (parameter - wanted[name]).norm() / wanted[name].norm().clamp_min(1e-9)
            assert float(off) < 2e-2


# --- precision -----------------------------------------------------------------------------------


def _precise(load: Load, kind: str, dtype: str) -> Backbone:
    """A backbone in a precision; an embedded one's UNet is brought there by hand."""
    if kind != "embedded":
        return load(kind, dtype)
    backbone = load(kind, fresh=True)
    backbone.unet.to(getattr(torch, dtype))
    return backbone


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["embedded", "sd1", "sdxl"])
def test_an_edit_step_in_half_precision(
    kind: str, dtype: str, load: Load, device: str, tmp_path: Path
) -> None:
    """The gradient is finite and close to single precision's."""
    if (device, dtype) == ("cpu", "float16"):
        pytest.skip("a precision that CPUs compute slowly, and nobody edits in there")
    gradients = {}
    for precision in ("float32", dtype):
        backbone, scene = _precise(load, kind, precision), Picture()
        picture = ImageRepresentation(scene, backbone, parametrisation="pixels")
        texts = [backbone.encode_prompt([word]) for word in (HAT, MAN)]
        objective = EditObjective(scene, picture, backbone, PDS(guidance=3.0), *texts)
        with torch.no_grad():
            picture.theta.mul_(0.9)  # else Δx_0 = 0
        objective.loss(0, 0.0, generator(1))[0].backward()
        assert picture.theta.grad is not None
        assert bool(picture.theta.grad.isfinite().all())
        gradients[precision] = picture.theta.grad.detach().cpu().float().flatten()
        edited(scene, picture, backbone, PDS(guidance=3.0), tmp_path / precision)
    alike = torch.cosine_similarity(gradients["float32"], gradients[dtype], dim=0)
    assert float(alike) > 0.98


@beyond
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloaded_models_edit(
    offload: str, kind: str, folders: Callable[[str], str], device: str, tmp_path: Path
) -> None:
    if device == NAME and offload == "sequential":
        pytest.skip("accelerate moves layers by means of its own")
    backbone = StableDiffusion(folders(kind), device=device, offload=offload)
    scene = Picture()
    picture = ImageRepresentation(scene, backbone, parametrisation="latent")
    edited(scene, picture, backbone, PDS(guidance=3.0), tmp_path)


@beyond
def test_a_compiled_unet_edits_alike(load: Load, device: str) -> None:
    if device == NAME:
        pytest.skip("a graph cannot hold this device's tensors")
    backbone = load("sd1", "float32", fresh=True)
    x_t = torch.randn(2, 4, 8, 8, generator=generator()).to(device)
    t, text = torch.tensor([20, 700], device=device), backbone.encode_prompt([MAN, HAT])
    with torch.no_grad():
        wanted = backbone.predict_noise(x_t, t, text, 5.0)
        backbone.unet = torch.compile(backbone.unet)
        found = backbone.predict_noise(x_t, t, text, 5.0)
    torch.compiler.reset()
    close(found, wanted.cpu(), 5e-3)


@beyond
def test_the_source_bank_is_the_cpus(load: Load, folders: Callable[[str], str]) -> None:
    answers = []
    for backbone in (load("sd1", "float32"), StableDiffusion(folders("sd1"), device="cpu")):
        x0 = torch.randn(1, 4, 8, 8, generator=generator(2)).to(backbone.device)
        loss = PDS(guidance=3.0, source_bank=3)
        bank = SourceBank(loss, backbone, x0, backbone.encode_prompt([MAN]), seed=4, view="v")
        t, eps, predicted = bank.draw(2, 0.0, generator(1))
        assert t.device == eps.device == predicted.device == x0.device
        answers.append((t.cpu(), eps.cpu(), predicted))
    (t, eps, predicted), (wanted_t, wanted_eps, wanted) = answers
    assert torch.equal(t, wanted_t) and torch.equal(eps, wanted_eps)
    close(predicted, wanted)


def test_an_edit_with_a_source_bank(load: Load, tmp_path: Path) -> None:
    backbone, scene = load("sd1"), Picture()
    picture = ImageRepresentation(scene, backbone, parametrisation="latent")
    edited(scene, picture, backbone, PDS(guidance=3.0, source_bank=3), tmp_path, batch_size=2)


# --- editors, dataset update, fits ---------------------------------------------------------------


def _editors(folders: Callable[[str], str], device: str) -> dict[str, Editor]:
    few: dict[str, Any] = {"steps": 4, "guidance": 3.0}
    return {
        "sdedit": SDEdit(**few, strength=(0.5, 0.7), eta=0.5),
        "ddim": DDIMInversion(**few),
        "ddpm": DDPMInversion(**few),
        "instruct": InstructPix2Pix(model=folders("instruct"), device=device, **few),
        "toybox_instruct": InstructPix2Pix(model="toybox_instruct", device=device, **few),
    }


@beyond
@pytest.mark.parametrize("kind", ["embedded", "sd1", "sdxl"])
def test_editors_draw(
    kind: str, load: Load, folders: Callable[[str], str], device: str, tmp_path: Path
) -> None:
    backbone, scene = load(kind), Picture()
    texts = [backbone.encode_prompt([word]) for word in (HAT, MAN)]
    image = Picture().views[0].image
    assert image is not None
    for name, editor in _editors(folders, device).items():
        editor.begin(prompt=HAT, source=MAN)
        for place in ("cpu", device):
            shown = image[None].to(place)
            drawn = editor.edit(backbone, shown, shown, *texts, generator=generator())
            assert drawn.device == shown.device and drawn.shape == shown.shape
            assert bool(drawn.isfinite().all()), name
        picture = ImageRepresentation(scene, backbone, parametrisation="latent")
        objective = EditorObjective(scene, picture, backbone, editor, *texts)
        assert run_of(objective, tmp_path / name, steps=1).run() == "done"


@pytest.mark.parametrize("kind", ["embedded", "sd1"])
def test_pictures_in_half_precision_become_latents(kind: str, load: Load, device: str) -> None:
    backbone, image = load(kind), torch.rand(1, 3, 64, 64, generator=generator()).to(device)
    x0 = backbone.encode_image(image.bfloat16())
    assert x0.dtype == torch.bfloat16
    close(x0.float(), backbone.encode_image(image), 5e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_instruct_pix2pix_in_half_precision(
    dtype: str, folders: Callable[[str], str], device: str
) -> None:
    if (device, dtype) == ("cpu", "float16"):
        pytest.skip("a precision that CPUs compute slowly, and nobody edits in there")
    image, drawn = Picture().views[0].image, {}
    assert image is not None
    for precision in ("float32", dtype):
        editor = InstructPix2Pix(
            model=folders("instruct"), device=device, dtype=precision, steps=3, guidance=2.0
        )
        editor.begin(prompt=HAT, source=MAN)
        text = editor.model.encode_prompt([HAT])
        args = (editor.model, image[None], image[None], text, None)
        drawn[precision] = editor.edit(*args, generator=generator())
    close(drawn[dtype], drawn["float32"], 0.1)


@beyond
@beyond
@pytest.mark.parametrize("given", ["stage", "current"])
def test_dataset_update(given: str, load: Load, tmp_path: Path) -> None:
    backbone, scene = load("sd1"), Posed(size=SIDE)
    texts = [backbone.encode_prompt([word]) for word in (HAT, MAN)]
    editor = SDEdit(steps=3, guidance=2.0, strength=0.5)
    initial = "source" if given == "current" else "renders"
    objective = DatasetUpdateObjective(
        scene, nerf_of(backbone, scene, fit_distortion=0.1), backbone, editor, *texts, every=1,
        batch_size=2, input=given, initial=initial, keep_detail=given == "stage",
    )  # fmt: skip
    assert run_of(objective, tmp_path, name="refine").run() == "done"
    assert all(image.device.type == "cpu" for image in objective._edited.values())


@beyond
def test_a_fit_is_kept_shown_and_exported(load: Load, device: str, tmp_path: Path) -> None:
    backbone, scene = load("sd1"), Posed(size=SIDE)
    nerf = nerf_of(backbone, scene, update_every=2)
    nerf.fit_settings = FitSettings(steps=3, views_per_step=2, cache=str(tmp_path / "fits"))
    run = RunFolder(tmp_path / "fit")
    made = ensure_fit(scene, nerf, run, 0, checkpoint_every=1, render_every=1)
    assert made == run.path
    again = nerf_of(backbone, scene, update_every=2)
    again.fit_settings = nerf.fit_settings
    taken = ensure_fit(scene, again, RunFolder(tmp_path / "again"), 0)
    assert taken is not None and taken.suffix == ".safetensors"
    assert set(measure(again, scene.views)) == {"psnr", "ssim", "lpips"}
    again.export(tmp_path / "exports")
    loaded = load_spatial(tmp_path / "exports" / "result.safetensors", device)
    assert loaded.device.type == torch.device(device).type
    camera = scene.views[0].camera
    assert camera is not None
    shown, wanted = loaded.render_camera(camera), nerf.render_camera(camera)
    close(shown.rgb, wanted.rgb.cpu())
    near, far = depth_range([shown])
    assert depth_picture(shown, near, far).device == shown.depth.device
    path = list(render_path(loaded, [view.camera for view in scene.views if view.camera]))
    assert consistency(path, [view.camera for view in scene.views if view.camera]).overlap >= 0
    assert all(part.device.type == "cpu" for part in vars(path[0]).values())
    assert isinstance(loaded, Volumetric)
    points = torch.rand(5, 3)
    assert loaded.density(points).shape == (5,)
    assert loaded.color(points, torch.nn.functional.normalize(points, dim=-1)).shape == (5, 3)
    views = RenderedScene(scene, loaded.render_full, MAN).views
    assert all(view.image is not None and view.image.device.type == "cpu" for view in views)


def test_points_of_a_nerf_are_exported(load: Load, tmp_path: Path) -> None:
    nerf = nerf_of(load("sd1"), Posed(size=SIDE), density_bias=6.0)
    options: dict[str, Any] = {"points": 50, "threshold": 0.0, "extent": 4.0, "opacity": 0.0}
    files, _ = write_point_cloud(tmp_path, nerf, **options)
    assert files[0].stat().st_size > 500


# --- training ------------------------------------------------------------------------------------


@beyond
@pytest.mark.parametrize("kind", ["embedded", "sd1", "sdxl"])
@pytest.mark.parametrize("method", FINETUNING)
def test_finetuning(method: str, kind: str, load: Load, device: str, tmp_path: Path) -> None:
    precision = "auto" if method == "lora" else "float32"
    backbone = load(kind, precision, fresh=True)
    image = Picture(backbone.resolution).views[0].image
    assert image is not None
    latents, _ = dreambooth.class_latents(backbone, MAN, 2, guidance=1.0, seed=0, steps=2)
    dreambooth.add_words(backbone, "a sks man")
    unet = dreambooth.trainable_unet(backbone, method, 2)
    with torch.no_grad():
        x0 = backbone.encode_image(image[None].to(device))
    texts = [backbone.encode_prompt([word]) for word in ("a sks man", MAN)]
    objective = dreambooth.DreamBoothObjective(
        backbone, unet, x0, texts[0], latents, texts[1], batch_size=2
    )
    assert run_of(objective, tmp_path / "run", lr=1e-4, name="finetune").run() == "done"
    dreambooth.save_backbone(backbone, tmp_path / "made", "{}")
    made: Backbone
    if kind == "embedded":
        made = EmbeddedBackbone(str(tmp_path / "made"), device=device)
    else:
        made = StableDiffusion(str(tmp_path / "made"), device=device)
    assert sample(made, MAN, 1, steps=2).device.type == "cpu"


def _pretraining(data: CaptionedImages, parts: Any, device: str) -> dict[str, Objective]:
    """Each of the recipe's objectives, at its smallest."""
    from pds_cli.emoji.similarity import IconSimilarity
    from pds_cli.toybox.probe import Probe, augment
    from pds_cli.toybox.world import ATTRIBUTES

    small: dict[str, Any] = {"batch_size": 2, "device": device}
    labelled = {**small, "augment": augment}
    kind = DenoisingObjective if data.sources is None else InstructObjective
    denoise = kind(
        parts.unet, parts.text_encoder, parts.tokenize, parts.autoencoder, data,
        Schedule(parts.alphas_cumprod), high_noise=0.5, **small,
    )  # fmt: skip
    if data.sources is not None:
        return {"denoise": denoise}
    similarity = IconSimilarity.reading(["a red hat", "a blue hat"]).to(device)
    labels = torch.zeros(len(data), len(ATTRIBUTES), dtype=torch.long)
    return {
        "denoise": denoise,
        "decode": DecodingObjective(parts.autoencoder, data, **small),
        "probe": ClassificationObjective(Probe(24).to(device), data, lambda _: labels, **labelled),
        "similarity": ContrastiveObjective(
            similarity, data, lambda r: torch.arange(len(r)), **labelled
        ),
    }


@beyond
@pytest.mark.parametrize("pairs", [False, True])
def test_pretraining(pairs: bool, device: str, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (4, 3, 64, 64), generator=generator(), dtype=torch.uint8)
    captions = [["a red hat"], ["a blue hat"]] * 2
    data = CaptionedImages(images, captions, [{}] * 4, images.flip(0) if pairs else None)
    parts = build_components(TINY_MODEL, 64, ["a red hat", "a blue hat"], image_inputs=1 + pairs)
    parts.autoencoder.fit_components(data.batch(torch.arange(4)))
    modules: list[Any] = [parts.unet, parts.text_encoder, parts.autoencoder]
    for module in modules:
        module.to(device)
    for name, objective in _pretraining(data, parts, device).items():
        trainer = run_of(objective, tmp_path / name, lr=1e-4, name=name, render_every=0)
        assert trainer.run() == "done"
    backbone = EmbeddedBackbone.of(parts)
    assert backbone.device.type == torch.device(device).type
    if not pairs:
        sample(backbone, "a red hat", 1, steps=2, guidance=2.0)
    save_components(parts, tmp_path / "backbone")
    assert (tmp_path / "backbone" / "model_index.json").is_file()


# --- twins and metrics ---------------------------------------------------------------------------


@beyond
def _grid(place: str, points: Tensor, layout: GridLayout) -> list[Tensor]:
    grid = HashGrid(layout, device=place, generator=generator(1))
    there = points.to(place).requires_grad_()
    features = grid(there)
    slopes = torch.linspace(-1, 1, features.shape[1]).to(place)
    found = torch.autograd.grad((features * slopes).sum(), (grid.table, there))
    return [features, *found]


def test_the_hash_grid_is_the_cpus(device: str) -> None:
    layout = GridLayout(levels=5, features=2, log2_table=10, base_resolution=4)
    points = torch.rand(300, 3, generator=generator())
    for found, wanted in zip(
        _grid(device, points, layout), _grid("cpu", points, layout), strict=True
    ):
        close(found, wanted, 1e-4)


def _rendered(place: str, unbounded: bool) -> list[Tensor]:
    """What a fixed field looks like along some rays, and its gradients."""
    origins = torch.randn(40, 3, generator=generator(2))
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=generator(3)), dim=-1)
    occupied = torch.ones(8, 8, 8, dtype=torch.bool)
    origins, directions, occupied = (x.to(place) for x in (origins, directions, occupied))
    nears, fars = volume.limits(origins, directions, 0.1, 8.0, unbounded)
    samples = volume.march(
        origins, directions, nears, fars, torch.ones_like(nears), occupied,
        unbounded=unbounded, step=0.2,
    )  # fmt: skip
    sigma = (1 + samples.t.sin()).requires_grad_()
    values = torch.stack([samples.t.cos(), samples.t.sin()], -1).requires_grad_()
    color, left, _ = volume.composite(samples, sigma, values)
    spread = volume.distortion(samples, sigma)
    slopes = torch.autograd.grad(color.sum() + left.sum() + spread.sum(), (sigma, values))
    return [color, left, spread, slopes[0].sum()[None], slopes[1].sum(0)]


@beyond
@beyond
@pytest.mark.parametrize("unbounded", [False, True])
def test_volume_rendering_is_the_cpus(unbounded: bool, device: str) -> None:
    found, wanted = _rendered(device, unbounded), _rendered("cpu", unbounded)
    for a, b in zip(found, wanted, strict=True):
        close(a, b, 1e-3)


@beyond
def test_a_drawing_is_the_cpus(load: Load, drawing: SVGScene, device: str) -> None:
    """Its kernels run on the CPU; picture and gradient travel."""
    grads = []
    for backbone in (load("sd1"), CrescentMixture(10)):
        figure = SVG(drawing, backbone, parameters=EVERYTHING, render_size=SIDE)
        picture = figure.render(drawing.views[0])
        assert picture.device == backbone.device
        (picture * torch.linspace(0, 1, SIDE).to(picture)).sum().backward()
        grads.append({k: p.grad for k, p in figure.named_parameters()})
    for name, value in grads[0].items():
        assert value is not None and value.device.type == "cpu"
        close(value, grads[1][name], 1e-5)  # type: ignore[arg-type]


@beyond
def test_a_nerf_is_the_cpus(device: str) -> None:
    """The same weights show the same picture, by kernels or by PyTorch."""

    class Place:
        def __init__(self, name: str) -> None:
            self.device = torch.device(name)

    scene = Posed(size=SIDE)
    nerfs = [nerf_of(Place(place), scene, appearance=True) for place in (device, "cpu")]
    nerfs[0].load_state_dict({k: v.cpu() for k, v in nerfs[1].state_dict().items()})
    camera = scene.views[1].camera
    assert camera is not None
    found, wanted = (nerf.render_camera(camera) for nerf in nerfs)
    for name, value in vars(wanted).items():
        close(getattr(found, name), value, 5e-3)
    grads = []
    for nerf in nerfs:
        pairs = [(scene.views[0], torch.rand(3, SIDE, SIDE, generator=generator(4)))]
        nerf.reconstruction_loss(pairs, generator(5))[0].backward()
        found_grad = nerf.field.grid.table.grad
        assert found_grad is not None
        grads.append(found_grad)
    close(grads[0], grads[1], 2e-2)


@beyond
def test_metrics_are_the_cpus(device: str) -> None:
    a, b = (torch.rand(2, 3, 40, 36, generator=generator(s)) for s in (0, 1))
    for metric in (psnr, ssim, lpips):
        found = metric(a.to(device), b.to(device))
        assert found.device.type == torch.device(device).type
        close(found, metric(a, b), 5e-3)
    seen = Rendering(a[0].to(device), 1 + b[0, 0].to(device), b[1, 0].to(device))
    near, far = depth_range([seen])
    close(depth_picture(seen, near, far), depth_picture(
        Rendering(a[0], 1 + b[0, 0], b[1, 0]), near, far
    ))  # fmt: skip


@beyond
def test_clip_is_the_cpus(device: str, tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    from pds_cli.metrics.clip import Clip

    tmp_path = tmp_path / "clip"
    tokenizer = write_tokenizer(tmp_path)
    part = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    part |= {"num_attention_heads": 2, "projection_dim": 12}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
    words |= {"bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1}
    config = CLIPConfig(
        text_config={**part, **words},
        vision_config={**part, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    fill(CLIPModel(config), 7).save_pretrained(tmp_path)
    image = torch.rand(3, 40, 36, generator=generator())
    for found, wanted in zip(
        *[
            (clip.image(image[None].to(place)), clip.text([MAN, HAT]))
            for place in (device, "cpu")
            for clip in [Clip(str(tmp_path), device=place)]
        ],
        strict=True,
    ):
        close(found, wanted)


def test_pictures_are_written_from_a_device(device: str, tmp_path: Path) -> None:
    image = torch.rand(3, 8, 8, generator=generator()).to(device)
    assert write_image(tmp_path / "a.png", image, image[:1]).is_file()


# --- the other process ---------------------------------------------------------------------------


@pytest.mark.skipif(APART in os.environ, reason="this is that process")
def test_nothing_mixes_devices() -> None:
    """The quickest of the above where what is on the CPU and what is not cannot meet."""
    chosen = ["-k", QUICKEST]
    done = subprocess.run(
        [*(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"), __file__, *chosen],
        env={**os.environ, APART: "1"}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
