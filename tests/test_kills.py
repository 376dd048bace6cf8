"""Real `pds` processes killed at random, resumed until they are done: the end is the same.

`PDS_KILLS=<number>` kills each kind of run so many times; the suite does it once.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY_MODEL, Answer
from helpers import words_of_config
from PIL import Image
from small_capture import capture

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
    "fit_splats": ["fit", *FIELD[:4], "representation=splats", "representation.budget=120",
                   "representation.relocate_every=2", "representation.opacity_cost=2",
                   "representation.fit.steps=60", "representation.fit.cache=null",
                   "checkpoint_every=5", "render_every=20"],
    "pretrain": ["pretrain", *words_of_config(MODEL), "stages=[decode,denoise]", "size=16",
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


def words_of(kind: str, out: str, backbone: Path) -> list[str]:
    model = [f"into=made-{out}"] if kind == "pretrain" else [f"backbone.model={backbone}"]
    return [*RUNS[kind], f"out={out}", *(model if not kind.startswith("fit") else [])]


@dataclass
class Kill:
    """When a process is killed: once it has logged so many lines, and `delay` seconds later."""

    lines: int
    delay: float
    number: signal.Signals


def killed(words: list[str], out: str, kill: Kill) -> str:
    """Starts a process and kills it; returns what happened, in words."""
    metrics, log = Path(out, "metrics.jsonl"), Path(f"{out}.log")
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pds_cli", *words], stdout=file, stderr=file,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    deadline = time.monotonic() + 300
    while process.poll() is None and lines_of(metrics) < kill.lines:
        assert time.monotonic() < deadline, f"hangs: {log.read_text()}"
        time.sleep(0.005)
    with suppress(subprocess.TimeoutExpired):
        process.wait(kill.delay)
    process.send_signal(kill.number)
    process.wait(120)
    said = log.read_text()
    # A signal that comes before Python has begun to run pds ends it as it ends any program.
    assert process.returncode in (0, 130, -kill.number), said
    assert "Traceback" not in said, said
    begun = "begun" if Path(out, "run.json").is_file() else "not begun"
    return f"{kill.number.name} at {last_line(metrics)}: {process.returncode}, {begun}"


def run_to_the_end(
    pds: Callable[..., Answer], kind: str, out: str, backbone: Path, kills: list[Kill]
) -> list[str]:
    """Runs a kind with kills, resuming in between, and to its end after the last."""
    verb, words, said = RUNS[kind][0], words_of(kind, out, backbone), []
    for kill in kills:
        begun = Path(out, "run.json").is_file()
        said.append(killed([verb, f"resume={out}"] if begun else words, out, kill))
    begun = Path(out, "run.json").is_file()
    answer = pds(verb, f"resume={out}") if begun else pds(*words)
    assert answer.code == 0, (said, answer)
    return said


def lines_of(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def last_line(path: Path) -> str:
    try:
        record = json.loads(path.read_text().splitlines()[-1])
    except (OSError, ValueError, LookupError):
        return "nothing"
    return f"{record['stage']} {record['step']}"


def outcome(out: str) -> dict[str, Any]:
    """What must be the same: every file of a run but for times and names, tensors as they are."""
    found: dict[str, Any] = {}
    for folder in (Path(out), Path(f"made-{out}")):
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and path.name not in NOT_COMPARED and ".pds" not in name.parts:
                found[f"{folder.name.replace(out, '')}/{name}"] = same(path, out)
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


def draw_kills(draw: random.Random, lines: int, count: int) -> list[Kill]:
    """Kills of one run: amid its steps, or where there are many also before and after them."""
    kills = []
    for _ in range(count):
        where = draw.uniform(-0.2, 1.2) if KILLS > 1 else draw.uniform(0.1, 0.7)
        delay = draw.uniform(0, 10) if where < 0 else draw.uniform(0, 3) if where > 1 else 0.0
        if KILLS > 1 and 0 <= where <= 1:
            delay = draw.uniform(0, 0.2)  # anywhere in a step, or in writing a checkpoint
        at = round(min(max(where, 0), 1) * lines)
        kills.append(Kill(at, delay, draw.choice([signal.SIGKILL, signal.SIGTERM])))
    return sorted(kills, key=lambda kill: kill.lines)


@pytest.mark.parametrize("kind", RUNS)
def test_killed_runs_come_to_the_same_end(
    kind: str, pds: Callable[..., Answer], place: Path, tiny_backbone: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(place)
    run_to_the_end(pds, kind, f"{kind}-whole", tiny_backbone, [])
    expected = outcome(f"{kind}-whole")
    lines = len(expected["/metrics.jsonl"])
    assert "/exports" in " ".join(expected) or kind == "pretrain"
    draw, left = random.Random(f"{kind} {KILLS}"), KILLS
    for number in itertools.count():
        if left <= 0:
            break
        kills = draw_kills(draw, lines, min(left, 1 + number % 3))  # killed again and again
        left -= len(kills)
        out = f"{kind}-k{number}"
        said = run_to_the_end(pds, kind, out, tiny_backbone, kills)
        if KILLS > 1:
            with capsys.disabled():
                print(f"\n{kind} of {lines} lines:", *said, sep="\n  ", flush=True)
        else:
            assert ": 0," not in said[0], "it was to be killed"
        found = outcome(out)
        # A run that goes on shows where it does so.
        extra = {name for name in found.keys() ^ expected.keys() if "/renders/" not in name}
        assert not extra, (said, extra)
        for name, content in expected.items():
            assert found[name] == content, (name, said)
