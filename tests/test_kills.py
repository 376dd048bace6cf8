"""Real `pds` processes killed at random, resumed until they are done: the end is the same.

`PDS_KILLS=<number>` kills each kind of run so many times; the suite does it once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY_MODEL
from PIL import Image
from small_capture import capture
from test_fuzz import leaves

from pds_cli.runs.checkpoint import load_checkpoint

KILLS = int(os.environ.get("PDS_KILLS", "1"))
FIELD = [
    "scene=nerfstudio", "scene.path=capture", "source=a photo of a man", "device=cpu",
    "representation.grid={levels: 4, features: 2, log2_table: 10, base_resolution: 8, growth: 1.7}",
    "representation.hidden=16", "representation.occupancy=16", "representation.step=0.1",
    "representation.rays=64", "representation.update_every=4", "representation.fit.steps=24",
    "representation.fit.views_per_step=2", "representation.fit.cache=null",
]  # fmt: skip
REFINE = [
    "refine=sdedit", "refine.steps=12", "refine.every=3", "refine.batch_size=2", "refine.lr=0.01",
    "refine.editor.steps=4", "refine.editor.strength=0.5", "refine.editor.guidance=2",
    "refine.lr_schedule=cosine",
]  # fmt: skip
EDIT = ["edit", "prompt=a photo of a man wearing a wizard hat", "guidance=3", "checkpoint_every=3"]
MODEL = {"model": TINY_MODEL, "preview": {"prompts": ["a man"], "columns": 1, "steps": 1}}
RUNS: dict[str, list[str]] = {
    "edit": [*EDIT, "steps=60", "render_every=7", "scene=image", "scene.path=picture.png",
             "source=a photo of a man"],
    "edit_3d": [*EDIT, *FIELD, *REFINE, "steps=12", "render_every=5", "hold_view=2", "turntable=2",
                "representation.render_size=16"],
    "fit": ["fit", *FIELD, "representation.fit.steps=60", "checkpoint_every=5", "render_every=20"],
    "pretrain": ["pretrain", *leaves(MODEL), "stages=[decode,denoise]", "size=16",
                 "data.toybox=false", "data.folder=pictures", "render_every=9", "log_every=1",
                 "checkpoint_every=4", "decode.steps=24", "decode.batch_size=4",
                 "denoise.steps=24", "denoise.batch_size=4", "device=cpu"],
}  # fmt: skip
# What is measured anew by every process, and what names the run's own folder.
MEASURED = ("seconds", "memory_mb", "gpu_memory_mb", "steps_per_second")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, a capture and captioned pictures."""
    folder = tmp_path_factory.mktemp("kills")
    generator = torch.Generator().manual_seed(0)

    def picture(path: Path, side: int) -> None:
        pixels = torch.randint(256, (side, side, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)

    picture(folder / "picture.png", 64)
    capture(folder / "capture")
    (folder / "pictures").mkdir()
    lines = []
    for number in range(12):
        picture(folder / f"pictures/{number}.png", 16)
        lines.append(json.dumps({"file": f"{number}.png", "caption": f"a man {number % 3}"}))
    (folder / "pictures/captions.jsonl").write_text("\n".join(lines))
    return folder


def start(place: Path, words: list[str], log: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "pds_cli", *words], cwd=place, env=env, stdout=file, stderr=file
        )


def words_of(kind: str, out: str, backbone: Path) -> list[str]:
    model = [f"into=made_{out}"] if kind == "pretrain" else [f"backbone.model={backbone}"]
    return [*RUNS[kind], f"out={out}", *(model if kind != "fit" else [])]


def run_killed(
    place: Path, kind: str, out: str, backbone: Path, waits: list[tuple[float, int]]
) -> list[str]:
    """Runs with a kill after each wait, resuming in between, and to its end after the last.

    waits: (seconds, signal).

    Returns:
        What happened, a line each process.
    """
    verb, words, log, said = RUNS[kind][0], words_of(kind, out, backbone), place / f"{out}.log", []
    for wait, number in [*waits, (300.0, 0)]:
        begun = (place / out / "run.json").is_file()
        process = start(place, [verb, f"resume={out}"] if begun else words, log)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            assert number, f"hangs: {log.read_text()}"
            process.send_signal(number)
            process.wait(120)
        at = last_line(place / out / "metrics.jsonl")
        name = signal.Signals(number).name if number else "none"
        said.append(f"{kind}: {'resumed' if begun else 'begun'}, {name} after {wait:.2f} s at {at}"
                    f": {process.returncode}")  # fmt: skip
        assert process.returncode in (0, 130, -signal.SIGKILL), log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
        if process.returncode == 0:
            return said
    raise AssertionError(said)


def last_line(path: Path) -> str:
    try:
        record = json.loads(path.read_text().splitlines()[-1])
    except (OSError, ValueError, LookupError):
        return "nothing"
    return f"{record['stage']} {record['step']}"


def outcome(place: Path, out: str) -> dict[str, Any]:
    """What must be the same: every file of a run but for times and names, tensors as they are."""
    found: dict[str, Any] = {}
    for folder in (place / out, place / f"made_{out}"):
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(place).as_posix().replace(out, "")
            if path.is_dir() or path.name in NOT_COMPARED or "/.pds/" in name:
                continue
            found[name] = same(path, out)
    return found


# The page and the log tell times; the card, the words.
NOT_COMPARED = ("report.html", "run.json", "edit.log", "fit.log", "pretrain.log", "config.yaml")


def same(path: Path, out: str) -> Any:
    if path.name == "checkpoint.safetensors":
        tensors, meta = load_checkpoint(path)
        meta = {key: value for key, value in meta.items() if key not in (*MEASURED, "fingerprint")}
        return {name: value.numpy().tobytes() for name, value in tensors.items()}, meta
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text().replace(out, "")))
    return path.read_bytes()


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in MEASURED}
    return value


WHOLE: dict[str, tuple[float, dict[str, Any]]] = {}


@pytest.fixture
def whole(place: Path, tiny_backbone: Path) -> Callable[[str], tuple[float, dict[str, Any]]]:
    """Kind → how long an uninterrupted run takes, and what comes of it; one run a kind."""

    def run(kind: str) -> tuple[float, dict[str, Any]]:
        if kind not in WHOLE:
            started = time.monotonic()
            run_killed(place, kind, f"{kind}_whole", tiny_backbone, [])
            seconds = time.monotonic() - started
            WHOLE[kind] = seconds, outcome(place, f"{kind}_whole")
        return WHOLE[kind]

    return run


@pytest.mark.parametrize("kind", RUNS)
def test_killed_runs_come_to_the_same_end(
    kind: str, place: Path, tiny_backbone: Path,
    whole: Callable[[str], tuple[float, dict[str, Any]]], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    seconds, expected = whole(kind)
    assert len(expected) > 3
    draw = random.Random(f"{kind} {KILLS}")
    left = KILLS
    for number in range(KILLS):
        if left <= 0:
            break
        several = min(left, 1 + number % 3)  # a run that is killed again and again
        signals = [signal.SIGKILL, signal.SIGTERM]
        waits = [(draw.uniform(0.1, 1.0) * seconds, draw.choice(signals)) for _ in range(several)]
        out = f"{kind}_{number}"
        said = run_killed(place, kind, out, tiny_backbone, waits)
        left -= max(1, len(said) - 1)
        if "PDS_KILLS" in os.environ:
            with capsys.disabled():
                print("", *said, sep="\n  ", flush=True)
        found = outcome(place, out)
        assert found.keys() == expected.keys()
        for name, content in expected.items():
            assert found[name] == content, f"{out}: {name}"
