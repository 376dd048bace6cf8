"""Splats as `.splat` and SPZ files: what is kept of them, where numbers stand, what is refused."""

from __future__ import annotations

import gzip
import math
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.splats.dotsplat import read_splat, write_splat
from pds_cli.splats.files import WRITERS, read_splats
from pds_cli.splats.ply import SplatFile, write_ply
from pds_cli.splats.spz import MAGIC, read_spz, write_spz
from pds_cli.views.harmonics import BASE
from pds_cli.views.poses import rotations


def some(count: int = 40, degree: int = 0, seed: int = 0) -> SplatFile:
    """Gaussians within a few units, harmonics within what SPZ can say."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return SplatFile(
        {
            "means": 2 * normal(count, 3),
            "scales": normal(count, 3) - 3,
            "quats": torch.nn.functional.normalize(normal(count, 4)),
            "opacities": normal(count),
            "sh0": 0.5 * normal(count, 3),
            "shN": (0.2 * normal(count, (degree + 1) ** 2 - 1, 3)).clamp(-0.9, 0.9),
        }
    )


def by_place(splats: SplatFile) -> dict[str, Tensor]:
    """The tensors in order of x."""
    order = splats.tensors["means"][:, 0].argsort()
    return {name: value[order] for name, value in splats.tensors.items()}


def furthest(found: SplatFile, wanted: SplatFile) -> dict[str, float]:
    """How far each kind of number is off; rotations as matrices, opacities and scales as such."""
    a, b = by_place(found), by_place(wanted)
    off = {name: float((a[name] - b[name]).abs().max()) for name in ("means", "scales", "sh0")}
    off["opacity"] = float(
        (torch.sigmoid(a["opacities"]) - torch.sigmoid(b["opacities"])).abs().max()
    )
    off["turn"] = float((rotations(a["quats"]) - rotations(b["quats"])).abs().max())
    if a["shN"].numel():
        off["shN"] = float((a["shN"] - b["shN"]).abs().max())
    return off


def test_a_splat_file_keeps_what_bytes_can(tmp_path: Path) -> None:
    splats = some()
    found = read_splats(write_splat(tmp_path / "a.splat", splats))
    assert (tmp_path / "a.splat").stat().st_size == 32 * len(splats)
    off = furthest(found, splats)
    assert off["means"] == 0 and off["scales"] < 1e-5 and off["turn"] < 0.03
    shown = splats.tensors["sh0"] * BASE + 0.5
    within = (shown > 0) & (shown < 1)  # what lies beyond cannot be said
    assert bool(within.float().mean() > 0.9)
    again = {k: v.clamp(-0.5 / BASE, 0.5 / BASE) for k, v in by_place(splats).items() if k == "sh0"}
    assert float((by_place(found)["sh0"] - again["sh0"]).abs().max()) <= 0.51 / 255 / BASE
    assert off["opacity"] <= 0.51 / 255
    write_splat(tmp_path / "b.splat", found)  # colours and opacities do not wander further
    for name in ("sh0", "opacities"):
        back = read_splat(tmp_path / "b.splat")
        torch.testing.assert_close(by_place(back)[name], by_place(found)[name])


def test_each_number_of_a_splat_file_is_where_viewers_look(tmp_path: Path) -> None:
    faint, strong = [-4.0, 4.0]
    splats = SplatFile(
        {
            "means": torch.tensor([[9.0, 9.0, 9.0], [1.0, 2.0, 3.0]]),
            "scales": torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.25, 2.0]]).log(),
            "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]]),
            "opacities": torch.tensor([faint, strong]),
            "sh0": torch.tensor([[0.0, 0.0, 0.0], [(1 - 0.5) / BASE, 0.0, -0.5 / BASE]]),
            "shN": torch.zeros(2, 0, 3),
        }
    )
    data = write_splat(tmp_path / "a.splat", splats).read_bytes()
    assert struct.unpack("<3f", data[:12]) == (1.0, 2.0, 3.0)  # the strong one first
    assert struct.unpack("<3f", data[12:24]) == pytest.approx((0.5, 0.25, 2.0))
    assert tuple(data[24:32]) == (255, 128, 0, 250, 128, 128, 128, 255)
    plain = np.frombuffer(data[32:], np.uint8)[28:]
    assert plain.tolist() == [255, 128, 128, 128]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_an_spz_file_keeps_what_its_bits_can(degree: int, tmp_path: Path) -> None:
    splats = some(60, degree)
    found = read_splats(write_spz(tmp_path / "a.spz", splats))
    assert found.degree == degree and len(found) == 60
    off = furthest(found, splats)
    assert off["means"] < 2e-6 and off["scales"] <= 0.5 / 16 + 1e-4
    assert off["sh0"] <= 0.51 / 255 / 0.15 and off["opacity"] <= 0.51 / 255
    assert off["turn"] < 0.006
    if degree:
        first = by_place(found)["shN"][:, :3] - by_place(splats)["shN"][:, :3]
        assert float(first.abs().max()) <= 4.6 / 128  # five bits
        assert off["shN"] <= 8.6 / 128  # four bits


def test_each_number_of_an_spz_file_is_where_its_readers_look(tmp_path: Path) -> None:
    splats = some(8, 1)
    data = gzip.decompress(write_spz(tmp_path / "a.spz", splats).read_bytes())
    magic, version, count, degree, bits, flags, more = struct.unpack("<4sIIBBBB", data[:16])
    assert (magic, version, count, degree, flags, more) == (b"NGSP", 3, 8, 1, 0, 0)
    first = [int.from_bytes(data[16 + 3 * i : 19 + 3 * i], "little", signed=True) for i in range(3)]
    there = torch.tensor(first) / 2**bits
    torch.testing.assert_close(there, splats.tensors["means"][0], atol=1e-5, rtol=0)
    at = 16 + 8 * (9 + 1 + 3 + 3 + 4)
    levels = np.frombuffer(data[at:], np.uint8).astype(np.float32).reshape(8, 3, 3)
    inside = torch.from_numpy((levels - 128) / 128)
    assert float((inside - splats.tensors["shN"]).abs().max()) <= 4.6 / 128


@pytest.mark.parametrize("degree", [0, 2])
def test_the_fourth_version_holds_streams(degree: int, tmp_path: Path) -> None:
    """The arrays of a file of version 3, each compressed alone, behind a table."""
    path = fourth(tmp_path / "four.spz", some(30, degree))
    found, wanted = read_splats(path), read_splats(write_spz(tmp_path / "a.spz", some(30, degree)))
    for name, value in wanted.tensors.items():
        assert torch.equal(found.tensors[name], value), name
    whole = path.read_bytes()
    for damaged in (whole[:-5], whole[:40], whole[:15] + b"\x09" + whole[16:],
                    whole[:60] + bytes(20) + whole[80:]):  # fmt: skip
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"no whole SPZ file|cut short"):
            read_splats(path)


def fourth(path: Path, splats: SplatFile) -> Path:
    """Splats as an SPZ file of version 4."""
    data = gzip.decompress(write_spz(path, splats).read_bytes())
    bands = 3 * ((splats.degree + 1) ** 2 - 1)
    streams, at = [], 16
    for width in (9, 1, 3, 3, 4, bands)[: 6 if bands else 5]:
        streams.append(data[at : at + len(splats) * width])
        at += len(splats) * width
    packed = [zstandard.compress(stream) for stream in streams]
    table = b"".join(
        struct.pack("<QQ", len(a), len(b)) for a, b in zip(packed, streams, strict=True)
    )
    header = data[:4] + struct.pack("<I", 4) + data[8:15] + bytes([len(streams)])
    path.write_bytes(header + struct.pack("<I12x", 32) + table + b"".join(packed))
    return path


def test_quaternions_of_the_second_version_are_three_bytes(tmp_path: Path) -> None:
    turn = torch.nn.functional.normalize(torch.tensor([0.8, 0.1, -0.5, 0.3]), dim=0)
    q = turn[1:] * 127.5 + 127.5
    body = struct.pack("<4sIIBBBB", MAGIC, 2, 1, 0, 12, 0, 0)
    body += (4096).to_bytes(3, "little") + (-8192).to_bytes(3, "little", signed=True)
    body += bytes(3) + bytes([204, 255, 128, 0, 160, 160, 160]) + bytes(round(float(v)) for v in q)
    (tmp_path / "two.spz").write_bytes(gzip.compress(body))
    found = read_spz(tmp_path / "two.spz").tensors
    torch.testing.assert_close(found["means"], torch.tensor([[1.0, -2.0, 0.0]]))
    torch.testing.assert_close(found["scales"], torch.zeros(1, 3))
    assert float(torch.sigmoid(found["opacities"])) == pytest.approx(0.8)
    torch.testing.assert_close(rotations(found["quats"]), rotations(turn[None]), atol=0.02, rtol=0)
    assert float(found["sh0"][0, 0]) == pytest.approx(0.5 / 0.15)


def test_far_scenes_have_coarser_steps(tmp_path: Path) -> None:
    splats = some(10)
    splats.tensors["means"][0, 0] = 1e6
    found = read_spz(write_spz(tmp_path / "far.spz", splats))
    off = (found.tensors["means"] - splats.tensors["means"]).abs().max()
    assert float(off) <= 0.0626 and float(found.tensors["means"][0, 0]) == 1e6
    splats.tensors["means"][0, 0] = 1e8
    with pytest.raises(UserError, match="SPZ files reach"):
        write_spz(tmp_path / "farther.spz", splats)
    assert not (tmp_path / "farther.spz").exists()


def test_other_files_get_a_sentence(tmp_path: Path) -> None:
    dot = write_splat(tmp_path / "whole.splat", some()).read_bytes()
    whole = gzip.decompress(write_spz(tmp_path / "whole.spz", some()).read_bytes())
    spz = (tmp_path / "whole.spz").read_bytes()

    def header(*change: int) -> bytes:
        return gzip.compress(struct.pack("<4sIIBBBB", MAGIC, *change, 0) + whole[16:])

    infinite = bytearray(dot)
    infinite[4:8] = struct.pack("<f", math.inf)
    files = {
        "short.splat": (dot[:-3], "32 bytes a splat"),
        "empty.splat": (b"", "32 bytes a splat"),
        "infinite.splat": (bytes(infinite), "not finite"),
        "short.spz": (spz[: len(spz) // 2], "no whole SPZ file"),
        "damaged.spz": (spz[:20] + bytes(9) + spz[29:], "no whole SPZ file|no SPZ file|damaged"),
        "fewer.spz": (gzip.compress(whole[:200]), "cut short"),
        "other.spz": (gzip.compress(b"a letter to my aunt"), "no SPZ file"),
        "later.spz": (header(7, 40, 0, 12, 0), "version 7; 2, 3 and 4"),
        "newer.spz": (b"NGSP" + bytes(40), "version 0; 2, 3 and 4"),
        "vast.spz": (header(3, 2**31, 0, 12, 0), "can hold"),
        "degree.spz": (header(3, 40, 9, 12, 0), "degree 9"),
        "more.spz": (header(3, 40, 0, 12, 2), "extensions"),
        "none.spz": (header(3, 0, 0, 12, 0), "holds no splats"),
        "photo.png": (b"\x89PNG\r\n", "no splat file"),
        "nothing.ply": (b"", "no splat file"),
    }
    for name, (content, said) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_splats(tmp_path / name)
    for missing in (tmp_path, tmp_path / "nowhere.spz"):
        with pytest.raises(UserError, match=r"no file|cannot be read"):
            read_splats(missing)


def test_a_run_is_written_in_each_format(pds: Callable[..., Any]) -> None:
    write_spz(Path("ball.spz"), some(300, 1))
    words = ["edit", "scene=splats", "scene.path=ball.spz", "scene.count=2", "scene.size=48",
             "source=a photo of a snowman", "prompt=a photo of a robot", "steps=1", "refine=none",
             "backbone=toybox", "turntable=0", "render_every=0", "lr=1", "device=cpu"]  # fmt: skip
    assert pds(*words, "out=edited").code == 0
    for format, (name, _) in WRITERS.items():
        answer = pds("export", "run=edited", f"format={format}", f"out={format}")
        assert answer.code == 0, answer.err
        assert len(read_splats(Path(format) / name)) == 300
        assert ("no place for how colours" in answer.out) == (format == "splat")


@pytest.mark.skipif(shutil.which("splat-transform") is None, reason="splat-transform is not here")
@pytest.mark.parametrize("format", list(WRITERS))
def test_a_program_that_is_not_ours_reads_and_writes_the_same(format: str, tmp_path: Path) -> None:
    """PlayCanvas's splat-transform (npm): our files to its PLY, and our PLY to its files."""
    name, write = WRITERS[format]
    splats = some(50, 0)
    ours, theirs = tmp_path / name, tmp_path / "theirs.ply"
    write(ours, splats)
    subprocess.run(["splat-transform", str(ours), str(theirs)], check=True, capture_output=True)
    off = furthest(read_splats(theirs), splats)
    assert off["means"] < 1e-5 and off["scales"] < 0.04 and off["turn"] < 0.03, off
    assert off["opacity"] < 0.01
    if format == "splat":  # which it does not write
        return
    again = tmp_path / f"again{ours.suffix}"
    write_ply(tmp_path / "plain.ply", splats)
    subprocess.run(
        ["splat-transform", str(tmp_path / "plain.ply"), str(again)], check=True,
        capture_output=True,
    )  # fmt: skip
    off = furthest(read_splats(again), splats)
    assert off["means"] < 1e-3 and off["scales"] < 0.04 and off["turn"] < 0.03, off
