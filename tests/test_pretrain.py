"""`pds pretrain`: data, the three stages, resuming, and the folder it writes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY_MODEL, Answer
from helpers import records
from PIL import Image
from safetensors.torch import load_file

from pds_cli.backbones.embedded import EmbeddedBackbone, EmbeddedInstructModel
from pds_cli.backbones.schedule import Schedule
from pds_cli.errors import UserError
from pds_cli.pictures.captioned import load_captioned_images
from pds_cli.pretraining.components import (
    build_components,
    load_components,
    save_components,
)
from pds_cli.pretraining.objectives import (
    DecodingObjective,
    DenoisingObjective,
    ExponentialAverage,
)
from pds_cli.pretraining.recipe import Recipe
from pds_cli.toybox.data import describe, describe_pair, make_dataset
from pds_cli.toybox.world import ATTRIBUTES, SAYABLE, Figure, caption, edited, vocabulary

Pretrain = Callable[..., Answer]
CAPTIONS = ["a red square", "a blue square, on the left", "Größe"]


def write_folder(folder: Path, count: int = 24, size: int = 20) -> Path:
    """Pictures of random colours with captions, in every form that the format allows."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        pixels = np.full((size, size + 4, 3), rng.integers(0, 255, 3), np.uint8)
        pixels[: size // 2] = rng.integers(0, 255, 3)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        said = {"caption": CAPTIONS[i % 3]} if i % 2 else {"captions": CAPTIONS[: 1 + i % 3]}
        lines.append(json.dumps({"file": f"{i}.png", **said}, ensure_ascii=False))
    (folder / "captions.jsonl").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def pretrain(pds: Callable[..., Answer], tmp_path: Path) -> Pretrain:
    """`pds pretrain` of a tiny model on captioned 16×16 pictures, for a few steps."""
    (tmp_path / "small").mkdir()
    tiny = {
        "model": TINY_MODEL,
        "preview": {"prompts": ["a red square"], "columns": 2, "steps": 2, "guidance": 2.0},
    }
    config = {"defaults": ["pretrain", "_self_"], **tiny}
    base = yaml.safe_load((Path(__file__).parent.parent / "conf/pretrain.yaml").read_text())
    assert base["model"].keys() == TINY_MODEL.keys(), config
    flat = [f"{key}={flow(value)}" for key, value in leaves(tiny)]

    def run(*words: str) -> Answer:
        stages = [] if any(w.startswith("stages=") for w in words) else ["stages=[decode,denoise]"]
        return pds(
            "pretrain", *flat, *stages, "size=16", "data.toybox=false", "data.folder=pictures",
            "into=made/backbone", "render_every=0", "log_every=1", "checkpoint_every=4",
            "decode.steps=6", "decode.batch_size=4", "denoise.steps=7", "denoise.batch_size=4",
            "probe.steps=3", "probe.batch_size=4", *words,
        )  # fmt: skip

    return run


def leaves(node: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in node.items():
        if isinstance(value, dict):
            found += leaves(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def flow(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(f"'{v}'" if isinstance(v, str) else str(v) for v in value) + "]"
    return str(value)


def weights(folder: Path | str) -> dict[str, bytes]:
    files = sorted(Path(folder).rglob("*.safetensors"))
    assert files
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- runs ----------------------------------------------------------------------------------------


def test_a_folder_of_pictures_becomes_a_backbone(
    pretrain: Pretrain, pds: Callable[..., Answer], tmp_path: Path
) -> None:
    write_folder(tmp_path / "pictures")
    answer = pretrain("out=run", "render_every=5")
    assert answer.code == 0, answer.err
    assert "use it with backbone.model=made/backbone" in answer.out
    assert "decoder_psnr: " in answer.out
    assert [(r["stage"], r["step"]) for r in records("run")] == [
        *(("decode", n) for n in range(1, 7)),
        *(("denoise", n) for n in range(1, 8)),
    ]
    facts = json.loads(Path("run/summary.json").read_text())
    assert (facts["verb"], facts["status"]) == ("pretrain", "done")
    assert facts["stages"] == ["decode", "denoise"]
    with Image.open("run/renders/denoise_000007_samples.png") as sheet:
        assert sheet.size == (32, 16)
    with Image.open("made/backbone/samples.png") as sheet:
        assert sheet.size == (32, 16)
    assert Path("run/report.html").exists()
    backbone = EmbeddedBackbone("made/backbone", device="cpu")
    assert backbone.resolution == 16
    assert backbone.unknown_words("a red square, GRÖSSE größe") == {
        "grösse": backbone.unknown_words("grösse")["grösse"]
    }
    assert not any(path.name.startswith(".") for path in Path("made").iterdir())
    answer = pds("sample", "prompt=a red square", "n=2", "steps=2", "guidance=1",
                 "backbone.model=made/backbone", "out=samples")  # fmt: skip
    assert answer.code == 0 and answer.err.count("pds:") == 0


def test_training_moves_what_it_should(pretrain: Pretrain, tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures")
    assert pretrain("out=run").code == 0
    first = {k: load_file(Path("made/backbone") / k) for k in weights("made/backbone")}
    # One stage alone leaves the other parts of the folder as they are.
    assert pretrain("out=more", "stages=[decode]", "decode.steps=30", "seed=1").code == 0
    second = {k: load_file(Path("made/backbone") / k) for k in weights("made/backbone")}
    for name, before in first.items():
        same = all(torch.equal(before[k], v) for k, v in second[name].items())
        assert same == (not name.startswith("vae")), name
    vae = "vae/diffusion_pytorch_model.safetensors"
    for fixed in ("encoder", "decoder", "mean"):
        assert torch.equal(first[vae][fixed], second[vae][fixed])


@pytest.mark.parametrize(
    ("objective", "step", "how"),
    [
        (DecodingObjective, 2, "signal"),
        (DenoisingObjective, 0, "crash"),  # just after a stage has ended
        (DenoisingObjective, 5, "crash"),
    ],
    ids=["decode", "between", "denoise"],
)
def test_an_interrupted_run_makes_the_same_backbone(
    pretrain: Pretrain, pds: Callable[..., Answer], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, objective: Any, step: int, how: str,
) -> None:  # fmt: skip
    write_folder(tmp_path / "pictures")
    assert pretrain("out=whole", "into=whole_backbone").code == 0
    original, pending = objective.loss, [True]

    def end(self: Any, now: int, *rest: Any) -> Any:
        if now == step and pending:
            pending.clear()
            if how == "crash":
                raise MemoryError("gone")
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, now, *rest)

    monkeypatch.setattr(objective, "loss", end)
    answer = pretrain("out=run", "into=whole_backbone_2")
    assert not Path("whole_backbone_2/model_index.json").exists()
    if how == "signal":
        assert answer.code == 130
        assert "go on with: pds pretrain resume=" in answer.out
    else:
        assert answer.code == 2 and "MemoryError" in answer.err  # in code of this file
    answer = pds("pretrain", "resume=run")
    assert answer.code == 0, answer.err
    assert weights("whole_backbone_2") == weights("whole_backbone")
    assert records("run") == records("whole")


def test_resume_refuses_other_settings_and_a_new_run_starts_anew(
    pretrain: Pretrain, pds: Callable[..., Answer], tmp_path: Path
) -> None:
    write_folder(tmp_path / "pictures")
    assert pretrain("out=run").code == 0
    answer = pds("pretrain", "resume=run", "denoise.lr=1")
    assert answer.code == 2
    assert answer.err.startswith("pds pretrain: denoise.lr differs from the run in")
    for words, said in [(["out=run"], "out=run"), (["out=other"], "into=made/backbone")]:
        refused = pretrain(*words, "seed=5")
        assert refused.code == 2 and said in refused.err and "overwrite=true" in refused.err
    assert pretrain("out=run", "seed=5", "overwrite=true").code == 0
    assert len(records("run")) == 13, "the first run's lines are gone"


def test_a_toybox_is_rendered_and_learned(pretrain: Pretrain, pds: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyvista")
    answer = pretrain(
        "out=run", "stages=[probe,decode,denoise]", "data.toybox=true", "data.images=12",
        "data.folder=toys", "size=64",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    scores = json.loads(Path("run/summary.json").read_text())["metrics"]
    assert {"probe_kind", "probe_floor", "decoder_psnr"} <= scores.keys()
    assert "made/backbone/probe.safetensors" in {
        str(p) for p in Path("made/backbone").glob("*.safetensors")
    }
    data = load_captioned_images("toys", 64)
    assert len(data) == 12 and data.images.float().std() > 20


# --- data ----------------------------------------------------------------------------------------


def test_pairs_make_a_model_that_edits_by_instruction(
    pretrain: Pretrain, pds: Any, tmp_path: Path
) -> None:
    """Pictures whose source differs by what the caption says, rendered, learned and used."""
    pytest.importorskip("pyvista", reason="PyVista renders the toybox")
    words = ["data.toybox=true", "data.pairs=true", "data.images=12", "data.folder=pairs",
             "stages=[denoise]"]  # fmt: skip
    answer = pretrain(*words)
    assert answer.code == 0, answer.err
    assert np.asarray(Image.open("made/backbone/samples.png")).shape[0] == 3 * 16
    edit = ["edit", "scene=figurine2d", "prompt=a photo of a robot", "editor=instruct_pix2pix"]
    edited = pds(*edit, "editor.model=made/backbone", "editor.steps=2", "out=edited")
    assert edited.code == 0, edited.err
    # Each kind of model says what the other is for.
    other = pds(*edit, "editor.model=toybox", "out=other")
    assert other.code == 2 and "takes no source image" in other.err
    plain = pds("edit", "prompt=a robot", "backbone.model=made/backbone", "out=plain")
    assert plain.code == 2 and "editor=instruct_pix2pix editor.model=" in plain.err
    assert "editor=instruct_pix2pix editor.model=" in answer.out
    write_folder(tmp_path / "plain", 3)
    missing = pretrain("data.pairs=true", "data.folder=plain", "out=missing", "into=made/other")
    assert missing.code == 2 and "needs a source of each picture" in missing.err
    # Training may begin with a backbone that sees no source, or with one that does.
    for number, init in enumerate(["made/plain", "made/backbone"]):
        if not Path(init).exists():
            assert pretrain("data.folder=pairs", "into=made/plain", f"out=p{number}",
                            "data.toybox=false", "stages=[denoise]").code == 0  # fmt: skip
        more = [f"init={init}", f"into=made/again{number}", f"out=again{number}"]
        assert pretrain(*words, *more).code == 0


def test_pairs_differ_by_what_the_prompt_says() -> None:
    for index in range(60):
        record, target, camera = describe_pair(3, index, around=0.5)
        source = Figure(**record["source"]["figure"])
        for prompt in record["captions"]:
            assert edited(source, prompt) == target or not target.beside.startswith("b")
        assert record == describe_pair(3, index, around=0.5)[0] and camera.distance >= 6
    changed = [
        {k for k, v in record["figure"].items() if v != record["source"]["figure"][k]}
        for record in (describe_pair(3, index)[0] for index in range(60))
    ]
    assert set.union(*changed) == set(ATTRIBUTES)


def test_a_widened_network_begins_by_ignoring_the_source(tiny_backbone: Path) -> None:
    model: Any = TINY_MODEL
    parts = build_components(model, 64, vocabulary(), image_inputs=2)
    with pytest.raises(UserError, match="toybox holds a backbone of another size"):
        load_components(parts, Path("toybox"), ["decode"])  # it ships, so its name is enough
    load_components(parts, tiny_backbone)
    plain, beside = EmbeddedBackbone(str(tiny_backbone)), EmbeddedInstructModel.of(parts)
    x_t, source = torch.randn(2, 2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    t, text = torch.tensor([100, 700]), plain.encode_prompt(["a robot", "a man"])
    expected = plain.predict_noise(x_t, t, text, 3.0)
    found = beside.predict_edit(x_t, t, text, source, 3.0, 1.5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_some_pictures_with_and_some_without_a_source(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    lines = (tmp_path / "captions.jsonl").read_text().split("\n\n")
    first = json.loads(lines[0]) | {"source": {"file": "2.png"}}
    (tmp_path / "captions.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]))
    with pytest.raises(UserError, match="some images have a source and some have none"):
        load_captioned_images(tmp_path, 16)
    (tmp_path / "captions.jsonl").write_text(json.dumps(first))
    data = load_captioned_images(tmp_path, 16)
    assert data.sources is not None and data.source_batch(torch.tensor([0])).shape == (1, 3, 16, 16)
    assert not torch.equal(data.sources, data.images)
    assert data.part(slice(0, 0)).sources is not None


def test_toybox_records_depend_on_seed_and_index_only() -> None:
    record, figure, _ = describe(3, 11)
    assert describe(3, 11)[0] == record
    assert describe(4, 11)[0] != record and describe(3, 12)[0] != record
    assert Figure(**record["figure"]) == figure
    words = set(caption(figure, SAYABLE).split())
    assert all(set(text.split()) <= words for text in record["captions"])


def test_rendering_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []

    class Painter:
        def __init__(self, size: int, **quality: int) -> None:
            self.size = size

        def render(self, figure: Figure, camera: Any) -> np.ndarray:
            drawn.append(figure)
            if len(drawn) == 4:
                raise MemoryError("gone")
            return np.full((self.size, self.size, 3), len(drawn), np.uint8)

        def close(self) -> None:
            pass

    monkeypatch.setattr("pds_cli.toybox.renderer.ToyRenderer", Painter)
    with pytest.raises(MemoryError):
        make_dataset(tmp_path, 6, 8)
    assert not (tmp_path / "captions.jsonl").exists()
    seen: list[int] = []
    make_dataset(tmp_path, 6, 8, on_image=seen.append)
    assert len(drawn) == 4 + 3 and seen == [1, 2, 3, 4, 5, 6]
    assert drawn[4:] == [describe(0, i)[1] for i in (3, 4, 5)]
    make_dataset(tmp_path, 6, 8)
    assert len(drawn) == 7, "a complete set is left alone"
    others: list[dict[str, Any]] = [{"seed": 1}, {"views": 1.0}, {"pairs": True}]
    for other in others:
        with pytest.raises(UserError, match="holds other pictures than"):
            make_dataset(tmp_path, 6, 8, **other)
    assert len(drawn) == 7
    data = load_captioned_images(tmp_path, 8)
    assert [int(image.unique()) for image in data.images] == [1, 2, 3, 5, 6, 7]


def test_pictures_are_cropped_to_their_middle(tmp_path: Path) -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels[:, 8:16, 0]).save(tmp_path / "grey.png")
    (tmp_path / "captions.jsonl").write_text(
        '{"file": "wide.png", "caption": "a", "more": 1}\n{"file": "grey.png", "captions": ["b"]}'
    )
    data = load_captioned_images(tmp_path, 8)
    assert data.images.shape == (2, 3, 8, 8) and bool((data.images == 255).all())
    assert data.captions == [["a"], ["b"]]
    assert data.records[0]["more"] == 1
    assert data.batch(torch.tensor([1])).unique().tolist() == [1.0]
    drawn = data.draw_captions(torch.tensor([1, 0]), torch.Generator().manual_seed(0))
    assert drawn == ["b", "a"]


GOOD = '{"file": "0.png", "caption": "a"}'


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", "is not an object like"),
        ("[1]", "is not an object like"),
        ("5", "is not an object like"),
        ('{"file": "0.png"}', "is not an object like"),
        ('{"caption": "a"}', "is not an object like"),
        ('{"file": 5, "caption": "a"}', "is not an object like"),
        ('{"file": "0.png", "captions": "text"}', "is not an object like"),
        ('{"file": "0.png", "captions": 7}', "is not an object like"),
        ('{"file": "0.png", "captions": []}', "empty caption"),
        ('{"file": "0.png", "caption": "  "}', "empty caption"),
        ('{"file": "0.png", "caption": 5}', "empty caption"),
        ('{"file": "../secret.png", "caption": "a"}', "outside the folder"),
        ('{"file": "/etc/passwd", "caption": "a"}', "outside the folder"),
        ('{"file": "none.png", "caption": "a"}', "cannot be read"),
        ('{"file": "text.png", "caption": "a"}', "cannot be read"),
        ('{"file": "", "caption": "a"}', "cannot be read"),
    ],
)
def test_a_malformed_line_is_named(
    pretrain: Pretrain, tmp_path: Path, line: str, text: str
) -> None:
    folder = write_folder(tmp_path / "pictures", 1)
    (folder / "text.png").write_text("no picture")
    (folder / "captions.jsonl").write_text(f"{GOOD}\n\n{line}\n{GOOD}\n", encoding="utf-8")
    answer = pretrain("out=run")
    assert answer.code == 2
    assert answer.err.count("\n") == 1 and "Traceback" not in answer.err
    assert "line 3 of" in answer.err and text in answer.err


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\xff\xfe\n"])
def test_a_folder_without_captions(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "captions.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"captions\.jsonl"):
        load_captioned_images(tmp_path, 8)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["stages=[denoize]"], "choose from probe, decode, denoise"),
        (["stages=[]"], "choose from"),
        (["stages=[probe]"], "leave `probe` out of stages"),
        (["size=20"], "size=20 does not divide by 8"),
        (["model.autoencoder.width=pds_plus"], "model.autoencoder.width=pds_plus is not a whole"),
        (["model.unet.norm_num_groups=7"], "model.* describes no backbone"),
        (["data.folder=none"], "none/captions.jsonl is missing"),
        (["into=file/x"], "cannot"),
        (["device=cuda:7"], "no CUDA"),
    ],
)
def test_settings_that_cannot_work(
    pretrain: Pretrain, tmp_path: Path, words: list[str], text: str
) -> None:
    if words[0].startswith("device") and torch.cuda.is_available():
        pytest.skip("CUDA is here")
    write_folder(tmp_path / "pictures", 12)
    (tmp_path / "file").touch()
    answer = pretrain("out=run", *words)
    assert answer.code == 2
    assert text in answer.err
    assert answer.err.count("\n") == 1
    assert not Path("run/metrics.jsonl").exists(), "nothing was trained before"


# --- objectives ----------------------------------------------------------------------------------


def test_the_average_of_the_weights() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0)
    average = ExponentialAverage(layer, 0.5)
    with torch.no_grad():
        layer.weight.fill_(8)
    average.update(0)  # decay (1 + 0) / (10 + 0)
    assert float(average.shadow["weight"]) == pytest.approx(7.2)
    average.update(100)  # decay 0.5
    assert float(average.shadow["weight"]) == pytest.approx(7.6)
    average.swap()
    assert float(layer.weight.detach()) == pytest.approx(7.6)
    average.swap()
    assert float(layer.weight.detach()) == 8


def test_a_few_pictures_are_enough(pretrain: Pretrain, tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures", 3)
    answer = pretrain("out=run")
    assert answer.code == 0, answer.err
    assert "nan" not in answer.out


def test_denoising_learns(tiny_components: Any) -> None:
    """On one picture the loss falls well below that of an untrained network."""
    import copy

    from pds_cli.pictures.captioned import CaptionedImages
    from pds_cli.seeds import step_generator

    parts = copy.deepcopy(tiny_components)
    for module in (parts.unet, parts.text_encoder):
        module.requires_grad_(True)
    pictures = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    data = CaptionedImages(pictures, [["a man"], ["a robot"]], [{}, {}])
    objective = DenoisingObjective(
        parts.unet, parts.text_encoder, parts.tokenize, parts.autoencoder, data,
        Schedule(parts.alphas_cumprod), batch_size=4,
    )  # fmt: skip
    objective.begin()
    optimizer = torch.optim.Adam(objective.parameter_groups()[0]["params"], lr=3e-3)
    values = []
    for step in range(25):
        optimizer.zero_grad()
        loss, _ = objective.loss(step, 0.0, step_generator(0, "denoise", step))
        loss.backward()
        optimizer.step()
        objective.after_step(step, optimizer)
        values.append(float(loss.detach()))
    assert sum(values[-5:]) < 0.7 * sum(values[:5])
    state = {k: v.clone() for k, v in objective.state_dict().items()}
    objective.finish()
    assert not objective.module.training
    name = next(iter(objective.average.shadow))
    assert torch.equal(objective.state_dict()[f"module.{name}"], state[f"average.{name}"])
    assert not torch.equal(state[f"module.{name}"], state[f"average.{name}"])
    objective.load_state_dict(state)
    for key, value in objective.state_dict().items():
        assert torch.equal(value, state[key])


def test_a_preview_without_prompts_is_no_preview(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    write_folder(tmp_path / "pictures")
    cfg = OmegaConf.create(
        {"stages": ["decode"], "device": "cpu", "seed": 0, "size": 16, "init": None,
         "model": TINY_MODEL,
         "preview": {"prompts": [], "columns": 2, "steps": 2, "guidance": 1.0}}
    )  # fmt: skip
    assert Recipe(cfg, load_captioned_images(tmp_path / "pictures", 16)).preview() == {}


def test_training_from_a_backbone_keeps_its_latents(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    def recipe(pictures: str, init: Path | None) -> Recipe:
        node = {"stages": ["decode"], "device": "cpu", "seed": 0, "size": 16, "model": TINY_MODEL}
        cfg = OmegaConf.create({**node, "init": init and str(init)})
        return Recipe(cfg, load_captioned_images(tmp_path / pictures, 16))

    for pictures in ("first", "other"):
        write_folder(tmp_path / pictures)
    for path in (tmp_path / "other").rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    first = recipe("first", None).parts
    save_components(first, tmp_path / "backbone")
    encoder = first.autoencoder.encoder
    # Saved in half precision, so equal to its rounding.
    kept = recipe("other", tmp_path / "backbone").parts.autoencoder
    assert torch.allclose(kept.encoder, encoder, rtol=1e-3, atol=1e-4)
    assert torch.allclose(kept.mean, first.autoencoder.mean, rtol=1e-3, atol=1e-4)
    anew = recipe("other", None).parts.autoencoder
    assert not torch.allclose(anew.mean, first.autoencoder.mean, atol=1e-2)


def test_a_share_of_views_from_around_is_a_share(pds: Callable, tmp_path: Path) -> None:
    answer = pds("pretrain", "data.around=1.5", f"data.folder={tmp_path / 'x'}", "out=run")
    assert answer.code == 2 and "data.around=1.5 is out of range" in answer.err
    assert "from 0 to 1" in answer.err


def test_late_timesteps_are_noisy(tiny_components: Any) -> None:
    parts = tiny_components
    objective = DenoisingObjective(
        parts.unet,
        parts.text_encoder,
        parts.tokenize,
        parts.autoencoder,
        None,  # type: ignore[arg-type]
        Schedule(parts.alphas_cumprod),
        batch_size=4000,
        high_noise=0.5,
        high_noise_from=0.55,
    )
    early = objective._timesteps(0.5, torch.Generator().manual_seed(0))
    late = objective._timesteps(0.6, torch.Generator().manual_seed(0))
    assert early.min() >= 0 and late.max() <= 999
    assert float((early >= 750).float().mean()) == pytest.approx(0.25, abs=0.03)
    # Half of them from the noisiest quarter, which holds a quarter of the other half too.
    assert float((late >= 750).float().mean()) == pytest.approx(0.625, abs=0.03)


def test_training_starts_from_a_backbone(tiny_components: Any, tiny_backbone: Path) -> None:
    parts = build_components(TINY_MODEL, 64, [" ".join(vocabulary())])
    load_components(parts, tiny_backbone, ["denoise"])
    trained = tiny_components.unet.state_dict()
    for name, value in parts.unet.state_dict().items():
        torch.testing.assert_close(value, trained[name], atol=1e-3, rtol=1e-3)
    assert not parts.autoencoder.encoder.any()  # that stage was not asked for
    load_components(parts, tiny_backbone)
    assert parts.autoencoder.encoder.any()


def test_starting_from_a_backbone_that_does_not_fit(tiny_backbone: Path) -> None:
    parts = build_components(TINY_MODEL, 64, ["other words"])
    with pytest.raises(UserError, match="other words"):
        load_components(parts, tiny_backbone)
    wider = {**TINY_MODEL, "unet": {**TINY_MODEL["unet"], "block_out_channels": [16, 48]}}
    parts = build_components(wider, 64, [" ".join(vocabulary())])
    with pytest.raises(UserError, match="another size"):
        load_components(parts, tiny_backbone)
