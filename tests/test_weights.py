"""Packed weights: what is stored is what is loaded; and how heavy the tracked tree may be."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from pds_cli.backbones.adapter import FILE as ADAPTER
from pds_cli.backbones.embedded import load_parts
from pds_cli.errors import UserError
from pds_cli.pretraining.packing import pack_backbone
from pds_cli.runs.checkpoint import save_checkpoint
from pds_cli.weights import PACKED, quantised, read_weights, write_weights

LIGHT = 44 * 2**20  # bytes of tracked files


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 40), st.floats(1e-6, 1e4), st.integers(0, 2**31))
def test_no_number_moves_by_more_than_half_a_step(
    rows: int, columns: int, size: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-3, 0, rows)[:, None] * size
    tensor = torch.randn(rows, columns, generator=generator) * spread
    numbers, scale = quantised("w", tensor)
    error = (numbers.float() * scale[:, None] - tensor).abs()
    assert bool((error <= scale[:, None] * (0.5 + 1e-3)).all())
    assert bool((numbers.abs().amax(1) == 127).all()), "each channel uses its whole range"


def test_what_is_stored_is_what_is_loaded(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "kernel": torch.randn(32, 16, 3, 3, generator=generator),
        "empty_row.weight": torch.cat([torch.zeros(1, 2000), torch.ones(1, 2000)]),
        "small": torch.randn(4, 4, generator=generator),
        "bias": torch.randn(5000, generator=generator),
        "ids": torch.arange(7),
    }
    write_weights(tmp_path / "a", tensors, {"kind": "test"})
    once, meta = read_weights(tmp_path / "a")
    assert meta == {"kind": "test"} and once.keys() == tensors.keys()
    for name in ("small", "bias"):
        assert torch.equal(once[name], tensors[name].half().float())
    assert torch.equal(once["ids"], tensors["ids"])
    assert torch.equal(once["empty_row.weight"], tensors["empty_row.weight"])
    error = (once["kernel"] - tensors["kernel"]).norm() / tensors["kernel"].norm()
    assert 0 < float(error) < 0.01
    # Packed again, it is the same to the last bit of its numbers.
    write_weights(tmp_path / "b", once, meta)
    with safe_open(tmp_path / "a", "pt") as one, safe_open(tmp_path / "b", "pt") as two:
        assert torch.equal(one.get_tensor("kernel"), two.get_tensor("kernel"))
    assert (tmp_path / "a").stat().st_size < 1.2 * sum(t.numel() for t in tensors.values()) + 9000


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"w": torch.zeros(4, 8, dtype=torch.int8), "w.scale": torch.ones(3)}, "no scale that"),
        ({"w": torch.zeros(4, 8), "w.scale": torch.ones(4)}, "no scale that fits"),
    ],
)
def test_a_scale_that_does_not_fit_is_said(tmp_path: Path, stored: Any, said: str) -> None:
    save_checkpoint(tmp_path / "a", stored, {})
    with pytest.raises(UserError, match=said):
        read_weights(tmp_path / "a")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_what_cannot_be_stored_is_refused(tmp_path: Path, value: float) -> None:
    big = torch.zeros(40, 40)
    big[0, 0] = value
    if value != 1e6:
        with pytest.raises(ValueError, match="no finite number"):
            write_weights(tmp_path / "a", {"w": big}, {})
    with pytest.raises(ValueError, match="half precision"):
        write_weights(tmp_path / "a", {"b": big[0]}, {})
    assert not (tmp_path / "a").exists()


def test_a_backbone_is_packed(tiny_backbone: Path, tmp_path: Path) -> None:
    pack_backbone(tiny_backbone, tmp_path / "packed")
    before, after = load_parts(tiny_backbone), load_parts(tmp_path / "packed")
    for part in ("unet", "text_encoder", "vae"):
        one, other = before[part].state_dict(), after[part].state_dict()
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            step = tensor.abs().max() / 127
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=float(step))
    size = [sum(f.stat().st_size for f in p.rglob("*.safetensors")) for p in
            (tiny_backbone, tmp_path / "packed")]  # fmt: skip
    assert size[1] < 0.7 * size[0]
    # In its own folder it stays what it is.
    shutil.copytree(tmp_path / "packed", tmp_path / "again")
    pack_backbone(tmp_path / "again", tmp_path / "again")
    again = load_parts(tmp_path / "again")["unet"].state_dict()
    for name, tensor in after["unet"].state_dict().items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-6, atol=0)


def test_a_damaged_part_is_a_sentence(tiny_backbone: Path, tmp_path: Path) -> None:
    pack_backbone(tiny_backbone, tmp_path / "packed")
    file = tmp_path / "packed/unet" / PACKED
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"):
        load_parts(tmp_path / "packed")
    tensors, meta = read_weights(tmp_path / "packed/vae" / PACKED)
    write_weights(file, tensors, meta)
    with pytest.raises(UserError, match="is damaged"):
        load_parts(tmp_path / "packed")


def test_what_ships_is_packed() -> None:
    data = ROOT / "pds_cli" / "data"
    files = sorted(data.rglob("*.safetensors"))
    assert len(files) == 10
    for file in files:
        with safe_open(str(file), "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        wide = {name for name, tensor in tensors.items() if tensor.dtype == torch.float32}
        assert all(name.endswith(".scale") for name in wide), file
        part = file.name in (PACKED, ADAPTER)
        assert part or file.parent.name in ("toybox", "emoji", "data"), file


def test_the_tracked_tree_is_light() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("this is no clone")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    sizes = {file: file.stat().st_size for file in files if file.is_file()}
    largest = sorted(sizes, key=sizes.__getitem__)[-3:]
    assert sum(sizes.values()) <= LIGHT, f"too heavy; the largest are {largest}"
