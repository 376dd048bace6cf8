"""Adapters: a few weights beside a frozen base, trained, written, and merged where read."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Answer
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pds_cli.backbones.adapter import (
    FILE,
    Adapter,
    WidenedConv,
    adapter_tensors,
    attach,
    base_folder,
    base_name,
    layers_of,
    merge,
    weights_hash,
)
from pds_cli.backbones.embedded import (
    INDEX,
    PACKAGED,
    EmbeddedBackbone,
    EmbeddedInstructModel,
    load_parts,
)
from pds_cli.errors import UserError
from pds_cli.options.pretraining import ADAPTED
from pds_cli.pretraining.adapter import check_adapter, save_adapter
from pds_cli.pretraining.components import Components, save_components
from pds_cli.pretraining.packing import pack_backbone
from pds_cli.runs.checkpoint import load_checkpoint, under
from pds_cli.weights import read_weights

RANK = 4


def adapted(
    base: Path | Components, kinds: Sequence[str] = ADAPTED, filled: bool = True
) -> Components:
    """The parts of a base with an adapter on the UNet, of random weights where it is filled."""
    parts = read(base) if isinstance(base, Path) else copy.deepcopy(base)
    attach(parts.unet, RANK, kinds, 32)
    generator = torch.Generator().manual_seed(1)
    for parameter in parts.unet.parameters():
        if parameter.requires_grad and filled:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(noise / parameter[0].numel() ** 0.5)
    return parts


def read(folder: Path) -> Components:
    found = load_parts(folder)
    return Components(autoencoder=found.pop("vae"), **found)


def entry(base: Path, folder: Path, kinds: Sequence[str] = ADAPTED) -> Adapter:
    return Adapter(base_name(base, folder, PACKAGED), hash_of(read(base)), RANK, tuple(kinds), 32)


def hash_of(parts: Components) -> str:
    return weights_hash(parts.unet, parts.text_encoder, parts.autoencoder)


@pytest.fixture(scope="module")
def made(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of random weights, which stays as it is."""
    folder = tmp_path_factory.mktemp("made") / "adapter"
    save_adapter(adapted(tiny_backbone).unet, entry(tiny_backbone, folder), folder)
    return folder


@pytest.fixture
def folder(made: Path, tiny_backbone: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    mine = tmp_path / "adapter"
    shutil.copytree(made, mine)
    say(mine, base=str(tiny_backbone))
    return mine


def say(folder: Path, **change: Any) -> None:
    """Changes what the folder says of its adapter."""
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({**index, "adapter": {**index["adapter"], **change}}))


def prediction(model: EmbeddedInstructModel, seed: int = 0) -> Tensor:
    """ε̂ beside a source, at an early and a late timestep."""
    x_t, source = torch.randn(2, 2, 16, 16, 16, generator=torch.Generator().manual_seed(seed))
    text = model.encode_prompt(["a robot", "a man"])
    with torch.no_grad():
        return model.predict_beside(x_t, torch.tensor([100, 900]), text.cond, source)


# --- the maths -----------------------------------------------------------------------------------


def test_an_adapter_begins_as_its_base_with_a_blind_source(tiny_components: Components) -> None:
    beside = EmbeddedInstructModel.of(adapted(tiny_components, filled=False))
    base = EmbeddedBackbone.of(tiny_components)
    x_t, _ = torch.randn(2, 2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    text = base.encode_prompt(["a robot", "a man"])
    expected = base.predict_eps(x_t, torch.tensor([100, 900]), text.cond)
    torch.testing.assert_close(prediction(beside), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kinds", [*[(kind,) for kind in ADAPTED], ADAPTED])
def test_merged_it_predicts_what_it_predicts_beside(
    tiny_components: Components, kinds: Sequence[str]
) -> None:
    """W + B A against the sum of two branches, as peft computes it."""
    parts, fused = adapted(tiny_components, kinds), copy.deepcopy(tiny_components)
    expected = prediction(EmbeddedInstructModel.of(parts))
    merge(fused.unet, adapter_tensors(parts.unet), Adapter("", "", RANK, tuple(kinds), 32))
    found = prediction(EmbeddedInstructModel.of(fused))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not [name for name, _ in fused.unet.named_parameters() if "lora" in name]


def test_what_is_trained(tiny_components: Components) -> None:
    unet = copy.deepcopy(tiny_components.unet)
    whole = {name for name, module in unet.named_modules()
             if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)}  # fmt: skip
    kinds = [set(layers_of(unet, [kind])) for kind in ADAPTED]
    assert all(kinds) and set.union(*kinds) == whole - {"conv_in"}
    assert sum(map(len, kinds)) == len(whole) - 1, "each layer is of one kind"
    attach(unet, RANK, ["attention"], 32)
    trained = {name for name, p in unet.named_parameters() if p.requires_grad}
    lora = {name for name in trained if "lora_" in name}
    assert trained - lora == {"conv_in.more"} and len(lora) == 2 * len(kinds[0])
    assert unet.config.in_channels == 32


def test_a_widened_convolution_is_a_convolution() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(5, 3, 3, padding=1)
    wide = WidenedConv(torch.nn.Conv2d(2, 3, 3, padding=1), 3)
    with torch.no_grad():
        wide.conv.weight.copy_(plain.weight[:, :2])
        wide.more.copy_(plain.weight[:, 2:])
        wide.conv.bias.copy_(plain.bias)  # type: ignore[union-attr, arg-type]
    x = torch.randn(2, 5, 6, 7)
    torch.testing.assert_close(wide(x), plain(x))


def test_the_hash_is_of_what_predicts(tiny_backbone: Path, tmp_path: Path) -> None:
    parts = read(tiny_backbone)
    first = hash_of(parts)
    save_components(parts, tmp_path / "copy", torch.float32)
    assert hash_of(read(tmp_path / "copy")) == first, "however the numbers are stored"
    assert hash_of(adapted(parts)) == first, "an adapter beside them is none of them"
    with torch.no_grad():
        next(parts.autoencoder.residual.parameters()).add_(1)
        assert hash_of(parts) == first, "the decoder predicts nothing"
        for tensor in (parts.autoencoder.mean, parts.unet.conv_out.bias):
            tensor[0] += 1
            before, first = first, hash_of(parts)
            assert first != before


def test_a_base_is_found_from_the_folder_of_its_adapter(tmp_path: Path) -> None:
    def there(base: str, folder: Path) -> Path:
        return base_folder(Adapter(base, "", 1, ("linear",), 32), folder, PACKAGED)

    assert base_name(PACKAGED / "toybox", tmp_path, PACKAGED) == "toybox"
    assert there("toybox", tmp_path) == PACKAGED / "toybox"
    base, folder = tmp_path / "a/base", tmp_path / "b/adapter"
    base.mkdir(parents=True)
    folder.mkdir(parents=True)
    name = base_name(base, folder, PACKAGED)
    assert there(name, folder).resolve() == base
    (tmp_path / "moved").mkdir()
    for part in "ab":
        (tmp_path / part).rename(tmp_path / "moved" / part)
    moved = tmp_path / "moved"
    assert there(name, moved / "b/adapter").resolve() == moved / "a/base"
    assert there(str(moved / "a/base"), folder) == moved / "a/base"


# --- folders -------------------------------------------------------------------------------------


def test_what_is_written_is_what_is_loaded(tiny_backbone: Path, made: Path) -> None:
    expected = prediction(EmbeddedInstructModel.of(adapted(tiny_backbone)))
    found = prediction(EmbeddedInstructModel(str(made), device="cpu"))
    assert float((found - expected).norm() / expected.norm()) < 1e-3
    assert {path.name for path in made.iterdir()} == {INDEX, FILE}
    assert all(t.dtype == torch.float16 for t in load_file(made / FILE).values())


def test_packed_it_is_an_adapter_of_the_same_base(
    tiny_backbone: Path, folder: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "some/where/packed"
    shutil.copytree(tiny_backbone, packed)  # a backbone of its own was there
    pack_backbone(folder, packed)
    assert {path.name for path in packed.iterdir()} == {INDEX, FILE}
    found, expected = (
        prediction(EmbeddedInstructModel(str(path), device="cpu")) for path in (packed, folder)
    )
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.02
    pack_backbone(packed, packed)  # in its own folder it stays what it is
    again = prediction(EmbeddedInstructModel(str(packed), device="cpu"))
    torch.testing.assert_close(again, found, rtol=1e-4, atol=1e-4)


def test_a_backbone_and_an_adapter_take_each_others_place(
    tiny_backbone: Path, tiny_components: Any, folder: Path
) -> None:
    (folder / "probe.safetensors").write_text("mine")
    save_components(tiny_components, folder)
    EmbeddedBackbone(str(folder), device="cpu")
    assert not (folder / FILE).exists()
    save_adapter(adapted(tiny_backbone).unet, entry(tiny_backbone, folder), folder)
    EmbeddedInstructModel(str(folder), device="cpu")
    assert {path.name for path in folder.iterdir()} == {INDEX, FILE, "probe.safetensors"}


def test_what_sees_no_source_is_a_backbone(tiny_backbone: Path, made: Path, tmp_path: Path) -> None:
    parts = read(tiny_backbone)
    attach(parts.unet, RANK, ["linear"], 16)
    adapter = Adapter(str(tiny_backbone), hash_of(parts), RANK, ("linear",), 16)
    save_adapter(parts.unet, adapter, tmp_path / "plain")
    EmbeddedBackbone(str(tmp_path / "plain"), device="cpu")
    with pytest.raises(UserError, match="takes no source image"):
        EmbeddedInstructModel(str(tmp_path / "plain"))
    with pytest.raises(UserError, match="edits by instruction"):
        EmbeddedBackbone(str(made))


def said(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        EmbeddedInstructModel(str(folder), device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_base_that_is_another_or_none(
    tiny_backbone: Path, tiny_components: Any, folder: Path, tmp_path: Path
) -> None:
    def of(base: Path) -> None:
        say(folder, base=str(base))

    of(Path("a" * 5000))
    assert "its backbone is not in" in said(folder)
    of(tmp_path / "none")
    assert f"its backbone is not in {tmp_path / 'none'}: put that there" in said(folder)
    shutil.copytree(folder, tmp_path / "other")
    of(tmp_path / "other")
    assert "its backbone is not in" in said(folder), "an adapter is no base"
    of(folder)
    assert "its backbone is not in" in said(folder), "itself neither"
    shutil.copytree(tiny_backbone, tmp_path / "base")
    of(tmp_path / "base")
    EmbeddedInstructModel(str(folder), device="cpu")
    weights = tmp_path / "base/unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_out.bias"][0] += 0.5
    save_file(tensors, weights, {"format": "pt"})
    assert "is an adapter of other weights than" in said(folder)
    weights.unlink()
    assert f"the backbone in {tmp_path / 'base'} is damaged" in said(folder)


def test_an_index_that_says_something_else(folder: Path) -> None:
    right = (folder / INDEX).read_text()
    changes: tuple[dict[str, Any], ...] = (
        {"rank": 10**9}, {"rank": 0}, {"rank": True}, {"rank": 3}, {"layers": []},
        {"layers": ["norm"]}, {"layers": 5}, {"in_channels": 16}, {"in_channels": 8},
        {"in_channels": 48}, {"base": 5}, {"base": "a\nb"}, {"sha256": None}, {"more": 1},
    )  # fmt: skip
    for change in changes:
        say(folder, **change)
        assert "is damaged" in said(folder), change
        (folder / INDEX).write_text(right)
    for content in ("", "{", "5", "[]", '{"adapter": 7}', '{"adapter": {}}'):
        (folder / INDEX).write_text(content)
        assert "is damaged" in said(folder), content


def test_weights_that_are_none(folder: Path) -> None:
    whole = (folder / FILE).read_bytes()
    tensors, _ = read_weights(folder / FILE)
    some = next(iter(tensors))
    for change, says in (
        ({some: torch.full_like(tensors[some], math.nan)}, "NaN"),
        ({key: torch.full_like(value, 1e38) for key, value in tensors.items()}, "NaN or infinity"),
    ):
        save_file({**tensors, **change}, folder / FILE, {"pds": "{}"})
        assert says in said(folder)
    for content in (whole[:-50], b"", b"\0" * 100):
        (folder / FILE).write_bytes(content)
        assert "is damaged" in said(folder)
    (folder / FILE).unlink()
    assert "is damaged" in said(folder)
    (folder / FILE).write_bytes(whole)
    EmbeddedInstructModel(str(folder), device="cpu")


def test_weights_of_another_adapter(made: Path, tiny_components: Components) -> None:
    tensors, _ = read_weights(made / FILE)
    adapter, unet = Adapter("", "", RANK, ADAPTED, 32), copy.deepcopy(tiny_components.unet)
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    some, more = next(key for key in tensors if key.endswith("lora_B")), "conv_in.more"
    for change, says in (
        ({some: torch.full_like(tensors[some], math.inf)}, f"its {some} holds infinity"),
        ({some: None}, f"it has no {some}"),
        ({more: torch.zeros(3)}, f"its {more} is [3], not [16, 16, 3, 3]"),
        ({some: tensors[some].long()}, f"its {some} is torch.int64"),
        ({"x": torch.zeros(3)}, "its x belongs to no layer"),
    ):
        changed: dict[str, Any] = {**tensors, **change}
        changed = {key: value for key, value in changed.items() if value is not None}
        with pytest.raises(ValueError, match=re.escape(says)):
            merge(unet, changed, adapter)
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())


# --- the command line ----------------------------------------------------------------------------


def write_pairs(folder: Path, count: int = 12, caption: str = "a photo of a robot") -> None:
    """Pictures of 64 pixels, each with one that it was made from."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        for name in (f"{i}.png", f"{i}_source.png"):
            pixels = np.repeat(rng.integers(0, 255, (1, 64, 3), np.uint8), 64, 0)
            Image.fromarray(pixels).save(folder / name)
        line = {"file": f"{i}.png", "caption": caption, "source": {"file": f"{i}_source.png"}}
        lines.append(json.dumps(line))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def train(pds: Callable[..., Answer], tiny_backbone: Path, tmp_path: Path) -> Callable[..., Answer]:
    """`pds pretrain` of an adapter of the tiny backbone, on pairs, for a few steps."""
    write_pairs(tmp_path / "pairs")

    def run(*words: str) -> Answer:
        return pds(
            "pretrain", f"init={tiny_backbone}", f"adapter.rank={RANK}", "data.pairs=true",
            "data.toybox=false", "data.folder=pairs", "stages=[denoise]", "denoise.steps=4",
            "denoise.batch_size=4", "denoise.lr=0.01", "checkpoint_every=2", "render_every=0",
            "preview.columns=1", "preview.steps=2", "into=made/adapter", "out=run", *words,
        )  # fmt: skip

    return run


def test_an_adapter_is_trained_in_two_sittings_and_used(
    train: Callable[..., Answer], pds: Callable[..., Answer], stopping: Callable[[str, int], None],
    tiny_backbone: Path,
) -> None:  # fmt: skip
    whole = train("into=whole", "out=whole_run")
    assert whole.code == 0, whole.err
    assert "use it with editor=instruct_pix2pix editor.model=whole" in whole.out
    assert {path.name for path in Path("whole").iterdir()} == {INDEX, FILE, "samples.png"}
    stopping("denoise", 3)
    assert train().code == 130
    assert not Path("made").exists()
    resumed = pds("pretrain", "resume=run")
    assert resumed.code == 0, resumed.err
    one, two = (load_file(Path(name) / FILE) for name in ("whole", "made/adapter"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    only_the_adapter_moved(Path("run/checkpoint.safetensors"), tiny_backbone)
    edited = pds(
        "edit", "scene=figurine2d", "prompt=a photo of a robot", "editor=instruct_pix2pix",
        f"backbone.model={tiny_backbone}", "editor.model=made/adapter", "editor.steps=2", "out=e",
    )  # fmt: skip
    assert edited.code == 0, edited.err


def only_the_adapter_moved(checkpoint: Path, base: Path) -> None:
    state, before = load_checkpoint(checkpoint)[0], load_parts(base)
    module = under("stage.denoise.module", state)
    text, kept = before["text_encoder"].state_dict(), under("text_encoder", module)
    assert kept and all(torch.equal(kept[key], text[key]) for key in text)
    frozen, unet = before["unet"].state_dict(), under("unet", module)
    for name, value in unet.items():
        plain = name.replace(".base_layer", "").replace("conv_in.conv.", "conv_in.")
        if plain in frozen:
            assert torch.equal(value, frozen[plain]), name
        else:
            assert "lora_A" in name or bool(value.any()), f"{name} was not trained"
    trained = {f"unet.{name}" for name in unet if "lora_" in name or name == "conv_in.more"}
    assert set(under("stage.denoise.average", state)) == trained


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["adapter.layers=[norm]"], "choose from attention, linear, convolution"),
        (["adapter.rank=4096"], "rank=4096 is more than the "),
        (["data.folder=other"], "never saw xylophone of the captions"),
        (["denoise.lr=1e30", "denoise.steps=1"], "beyond half precision: give a lower denoise.lr="),
    ],
)
def test_what_cannot_be_trained(
    train: Callable[..., Answer], tmp_path: Path, words: list[str], right: str
) -> None:
    write_pairs(tmp_path / "other", caption="a xylophone")
    answer = train(*words)
    assert answer.code == 2 and right in answer.err, answer.err
    assert "Traceback" not in answer.err
    assert not Path("made/adapter").exists()


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({"init": None}, "adapter.rank=4 needs the backbone that it is an adapter of"),
        ({"stages": ["decode", "denoise"]}, "trains no part but the UNet: give stages="),
        ({"adapter": {"rank": 4, "layers": []}}, "adapter.layers=[] leaves nothing to train"),
        ({"size": 32}, "give size=64"),
        ({"into": "base"}, "is the backbone of the adapter: choose another folder"),
        ({"init": "adapter"}, "is an adapter itself"),
    ],
)
def test_what_is_no_adapter(
    tiny_backbone: Path, folder: Path, change: dict[str, Any], right: str
) -> None:
    base = {"base": str(tiny_backbone), "adapter": str(folder)}
    right_ones = {
        "init": base["base"], "into": "x", "size": 64, "stages": ["denoise"],
        "data": {"pairs": True}, "adapter": {"rank": 4, "layers": ["linear"]},
    }  # fmt: skip
    check_adapter(OmegaConf.create(right_ones))
    (key, value), *_ = change.items()
    wrong = {**right_ones, key: base.get(value, value) if isinstance(value, str) else value}
    with pytest.raises(UserError, match=re.escape(right)):
        check_adapter(OmegaConf.create(wrong))
