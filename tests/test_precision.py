"""Training in bfloat16: the same gradients but for rounding, and kept with the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY_MODEL, Answer
from helpers import records, words_of_config
from PIL import Image
from torch import Tensor

from pds_cli.backbones.embedded import EmbeddedBackbone, encode_text
from pds_cli.backbones.precision import mixed, prepare, resolve_precision
from pds_cli.errors import UserError
from pds_cli.pretraining.components import build_components
from pds_cli.pretraining.dreambooth import DreamBoothObjective, trainable_unet

CPU = torch.device("cpu")


def probes(monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)


def test_the_processor_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for amx, avx in [(True, False), (False, True), (True, True)]:
        probes(monkeypatch, amx, avx)
        assert resolve_precision("auto", CPU) == "bfloat16"
        assert resolve_precision("float32", CPU) == "float32"
    probes(monkeypatch, False, False)
    assert resolve_precision("auto", CPU) == "float32"
    assert resolve_precision("auto", "cuda") == "bfloat16"
    assert resolve_precision("bfloat16", CPU) == "bfloat16"
    # A PyTorch without these names is taken for one that knows of no such instructions.
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert resolve_precision("auto", CPU) == "float32"
    with pytest.raises(UserError, match="precision=half is unknown"):
        resolve_precision("half", CPU)


def gradients(parts: Any, precision: str) -> Tensor:
    """Of a step of training, flat; the modules are left in single precision."""
    generator = torch.Generator().manual_seed(0)
    x_t, v = (torch.randn(4, 16, 4, 4, generator=generator) for _ in range(2))
    ids = parts.tokenize(["a red square", "a blue square", "", "a red"])
    modules = [parts.unet, parts.text_encoder]
    prepare(precision, CPU, modules)
    with mixed(precision, CPU):
        text = encode_text(parts.text_encoder, ids)
        t = torch.tensor([10, 300, 600, 990])
        found = parts.unet(x_t, t, text["tokens"], class_labels=text["pooled"]).sample
    assert found.dtype == (torch.bfloat16 if precision == "bfloat16" else torch.float32)
    (found.float() - v).square().mean().backward()
    grads = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    assert all(grad.dtype == torch.float32 for grad in grads)
    flat = torch.cat([grad.flatten() for grad in grads])
    for module in modules:
        module.zero_grad()
    return flat


def test_gradients_in_bfloat16_are_those_of_single_precision_but_for_rounding() -> None:
    torch.manual_seed(0)
    parts = build_components(TINY_MODEL, 16, ["a red square", "a blue square"])
    single, half = gradients(parts, "float32"), gradients(parts, "bfloat16")
    assert float((single - half).norm() / single.norm()) < 0.05
    assert not torch.equal(single, half)


def test_a_backbone_predicts_in_bfloat16(tiny_backbone: Path) -> None:
    x_t, t = torch.randn(3, 16, 16, 16), torch.tensor([20, 500, 900])
    found = {}
    for precision in ("float32", "bfloat16"):
        backbone = EmbeddedBackbone(str(tiny_backbone), device="cpu", precision=precision)
        found[precision] = backbone.predict_eps(x_t, t, backbone.encode_prompt(["a man"] * 3).cond)
    single, half = found.values()
    assert half.dtype == torch.float32 and not torch.equal(single, half)
    assert float((half - single).abs().mean()) < 0.01
    with pytest.raises(UserError, match="precision=float16 is unknown"):
        EmbeddedBackbone(str(tiny_backbone), precision="float16")


def test_what_has_no_attention_is_left_alone() -> None:
    prepare("bfloat16", CPU, [torch.nn.Linear(2, 2)])


@pytest.fixture
def pretrain(pds: Callable[..., Answer], tmp_path: Path) -> Callable[..., Answer]:
    """`pds pretrain` of a tiny model on three pictures, for a few steps."""
    lines = []
    for i in range(3):
        Image.fromarray(np.full((16, 16, 3), 80 * i, np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"file": f"{i}.png", "caption": "a red square"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    words = [
        *words_of_config({"model": TINY_MODEL}), "size=16", "data.toybox=false", "stages=[denoise]",
        f"data.folder={tmp_path}", "preview.prompts=[]", "log_every=1", "checkpoint_every=2",
        "denoise.batch_size=2",
    ]  # fmt: skip
    return lambda *more: pds("pretrain", *words, *more)


def losses(folder: str) -> list[float]:
    return [record["loss"] for record in records(folder)]


def test_a_run_keeps_the_precision_it_began_with(
    pretrain: Callable[..., Answer], pds: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch,
    stopping: Any,
) -> None:  # fmt: skip
    """Whatever the processor of the machine that goes on would choose."""
    probes(monkeypatch, True, True)
    assert pretrain("denoise.steps=4", "out=whole", "into=whole/made").code == 0
    assert yaml.safe_load(Path("whole/config.yaml").read_text())["precision"] == "bfloat16"
    single = pretrain("denoise.steps=4", "out=single", "into=single/made", "precision=float32")
    assert single.code == 0, single.err
    assert losses("single") == pytest.approx(losses("whole"), rel=0.02)
    assert losses("single") != losses("whole")
    stopping("denoise", 2)
    assert pretrain("denoise.steps=4", "out=part", "into=part/made").code != 0
    probes(monkeypatch, False, False)
    gone_on = pds("pretrain", "resume=part")
    assert gone_on.code == 0, gone_on.err
    assert losses("part") == losses("whole")
    other = pds("pretrain", "resume=part", "precision=float32")
    assert other.code == 2 and "precision differs" in other.err


def test_finetuning_in_bfloat16(tiny_backbone: Path) -> None:
    """Weights in single precision multiply in bfloat16; those in half as they are."""
    found = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        backbone = EmbeddedBackbone(str(tiny_backbone), device="cpu")
        unet = trainable_unet(backbone, "lora", 2)
        x0 = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
        text = backbone.encode_prompt(["a man"])
        objective = DreamBoothObjective(backbone, unet, x0, text, precision=precision)
        objective.begin()
        scalar, _ = objective.loss(0, 0.0, torch.Generator().manual_seed(0))
        scalar.backward()
        assert all(p.grad is not None for p in objective.parameter_groups()[0]["params"])
        found[precision] = float(scalar.detach())
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.02)
    assert found["bfloat16"] != found["float32"]
    unet.to(torch.bfloat16)
    assert (
        DreamBoothObjective(backbone, unet, x0, text, precision="bfloat16").precision == "float32"
    )
