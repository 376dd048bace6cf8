"""Random keys and values over all verbs: each ends in 0, 2 or 130, and a refusal leaves nothing.

`PDS_FUZZ=<seed>:<cases>` runs others than those of the suite.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_MODEL, Answer
from helpers import words_of_config
from small_capture import capture, run_of

from pds_cli.explain import Line
from pds_cli.options.catalogue import catalogue
from pds_cli.verbs.list import verb_names

SEED, CASES = map(int, os.environ.get("PDS_FUZZ", "19:300").split(":"))
FIELD = [
    "representation.grid={levels: 2, features: 2, log2_table: 8, base_resolution: 4, growth: 1.7}",
    "representation.hidden=16", "representation.occupancy=8", "representation.step=0.2",
    "representation.rays=32", "representation.fit.steps=2", "representation.fit.views_per_step=1",
    "representation.fit.cache=null",
]  # fmt: skip
CAPTURE = ["scene=nerfstudio", "scene.path=capture", "source=a photo of a bear"]
PICTURE = ["scene=image", "scene.path=picture.png", "source=a photo of a man"]
NUMBERS = [
    "nan", "inf", "-inf", "-1", "0", "1", "2", "3", "0.5", "-0.0", "1e-300", "1e308", "1e400",
    "9223372036854775807", "9223372036854775808", str(10**400), "0x10", "1_0", "١٢",
]  # fmt: skip
TEXTS = [
    "", "null", "???", "true", "false", "maybe", "x", "robot", "a b", "a,b", '"a","b"', "'", '"',
    "it's", "${", "${}", "${prompt}", "${nowhere}", "${oc.env:NOWHERE}", "${oc.env:HOME}", "$x",
    "${out}", "${seed}", "\\", "a\nb", "\t", "é", "猫🙂", "\u202e", "%s", "{x}", "<b>",
    "@", "@x", "-", "--x", "~", "=", "a=b", ":", "#", "x" * 5000, "_target_", "range(1,4)",
    "glob(*)", "choice(1,2)", "interval(0,1)", "int(1.5)",
]  # fmt: skip
LISTS = [
    "[]", "{}", "[1,2]", "[1,2,3]", "[null]", "[[]]", "[x,1]", "{a: 1}", "{a: [1]}", "[", "}",
    "[1,", "[nan,nan]", "[0.9,0.1]",
    "[-1,inf]", "[" * 60, "[" * 60 + "]" * 60, "[" * 3000 + "]" * 3000,
    "{a:" * 60 + "1" + "}" * 60, "{_target_: os.system}", "[picture.png]", "[nowhere]",
]  # fmt: skip
PATHS = [
    "/dev/null", "/dev/zero", "/dev/null/x", ".", "..", "/", "nowhere", "nowhere/x", "a file",
    "a file/x", "empty", "picture.png", "capture", "pictures", "edited", "fitted", "answers.json",
    "capture/transforms.json", "fitted/exports/result.safetensors", "edited/config.yaml", "~",
    "link", "x" * 300,
]  # fmt: skip


@pytest.fixture
def place(
    pds: Callable[..., Answer], tmp_path: Path, tiny_backbone: Path, monkeypatch: Any
) -> Iterator[Path]:
    """A folder with one of everything that the verbs take, and loops that end after two rounds."""
    from huggingface_hub import constants
    from PIL import Image

    import pds_cli.backbones.sampling as sampling
    from pds_cli.training.trainer import Trainer

    folder = tmp_path / "around/place"
    (folder / "empty").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / "empty"))
    (folder / "a file").write_text("a file\n")
    (folder / "link").symlink_to("nowhere at all")
    capture(folder / "capture")
    run_of(folder / "capture", folder / "fitted")
    (folder / "pictures").mkdir()
    for number in range(4):
        path = folder / f"pictures/{number}.png"
        Image.effect_noise((16, 16), 90 + number).convert("RGB").save(path)
    (folder / "pictures/captions.jsonl").write_text(
        "".join(f'{{"file": "{number}.png", "caption": "a man"}}\n' for number in range(4))
    )
    Image.effect_noise((64, 64), 90).convert("RGB").save(folder / "picture.png")
    (folder / "answers.json").write_text("{}")
    for name, loss in (("edited", "pds"), ("beside", "dds")):
        more = [f"loss={loss}", f"out={name}"]
        answer = pds("edit", *words("edit", tiny_backbone), *more)
        assert answer.code == 0, answer
    assert pds("study", "edited", "beside", "out=study").code == 0
    run_stage = Trainer._run_stage

    def two_steps(self: Trainer, stage: Any) -> Any:
        stage.steps = min(stage.steps, 2)
        return run_stage(self, stage)

    monkeypatch.setattr(Trainer, "_run_stage", two_steps)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    ddim = sampling.ddim

    def one_step(*args: Any, **options: Any) -> Any:
        return ddim(*args, **options | {"steps": 1})

    monkeypatch.setattr(sampling, "ddim", one_step)
    yield folder


def words(verb: str, backbone: Path) -> list[str]:
    """What makes a small run of a verb, which the random words then change."""
    model = {"model": TINY_MODEL, "preview": {"prompts": ["a man"], "columns": 1, "steps": 1}}
    tiny = [f"backbone.model={backbone}", "device=cpu"]
    return {
        "edit": ["prompt=a photo of a robot", *tiny, "steps=2", "render_every=0", *PICTURE],
        "fit": [*CAPTURE, *FIELD, "device=cpu"],
        "render": ["run=fitted", "frames=1", "size=8", "depth=false", "device=cpu"],
        "export": ["run=fitted", "format=pointcloud", "points=9", "resolution=8", "device=cpu"],
        "import": ["images=pictures"],
        "sample": ["prompt=a photo of a robot", *tiny, "n=1", "steps=2"],
        "pretrain": [
            *words_of_config(model), "data.folder=pictures", "data.toybox=false", "size=16",
            "into=made", "stages=[decode]", "decode.batch_size=1", "denoise.batch_size=1",
            "render_every=0",
        ],
        "finetune": [
            "images=pictures", "prompt=a photo of sks man", *tiny, "steps=2", "class_images=1",
        ],
        "compare": ["edited", "beside"],
        "eval": ["edited", "beside", "device=cpu"],
        "study": ["edited", "beside"],
        "list": [],
        "doctor": [],
    }[verb]  # fmt: skip


class Cases:
    """Draws command lines."""

    def __init__(self, seed: int, backbone: Path) -> None:
        self.random, self.backbone = random.Random(seed), backbone
        self.groups = catalogue()
        self.options = [option for options in self.groups.values() for option in options]
        self.keys = {verb: self._keys(verb) for verb in verb_names() if verb not in NO_KEYS}

    def _keys(self, verb: str) -> list[str]:
        chosen = [w for w in words(verb, self.backbone) if w.split("=")[0] in self.groups]
        return Line(verb, chosen).keys

    def draw(self, number: int) -> list[str]:
        verb = verb_names()[number % len(verb_names())]
        if verb in NO_KEYS:
            few = [self._value() for _ in range(self.random.choice([0, 1, 1, 2]))]
            return [verb, *few]
        more = [self._word(verb) for _ in range(self.random.choice([1, 1, 1, 2]))]
        return [verb, *words(verb, self.backbone), *more]

    def _word(self, verb: str) -> str:
        draw = self.random
        if draw.random() < 0.15:
            group = draw.choice([*self.groups])
            return f"{group}={draw.choice([*self.groups[group], *self.options, self._value()])}"
        key = draw.choice(self.keys[verb])
        while "recommended" in key and draw.random() < 0.9:  # they are many, and nearly one
            key = draw.choice(self.keys[verb])
        if draw.random() < 0.4:  # a few keys matter most
            key = draw.choice([key for key in self.keys[verb] if "." not in key])
        if draw.random() < 0.05:
            key = draw.choice(
                [f"{key}x", f"{key}.x", f"+{key}", f"~{key}", f"++{key}.y", f" {key}"]
            )
        return f"{key}={self._value()}"

    def _value(self) -> str:
        pool = self.random.choice([NUMBERS, NUMBERS, TEXTS, TEXTS, LISTS, PATHS, self.options])
        return self.random.choice(pool)


NO_KEYS = ("list", "doctor")


def content(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder but for locks: files with their bytes, folders with nothing."""
    found: dict[str, bytes | None] = {}
    for root, folders, files in os.walk(folder):
        for name in folders:
            found[str(Path(root, name))] = None
        for name in files:
            path = Path(root, name)
            if name != "lock":
                found[str(path)] = b"link" if path.is_symlink() else path.read_bytes()
    return {name: data for name, data in found.items() if Path(name).name != ".pds"}


def restore(before: dict[str, bytes | None], after: dict[str, bytes | None]) -> None:
    """Brings a folder back to what it held, after a command that did something."""
    for name in sorted(after.keys() - before.keys()):
        path = Path(name)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name, data in before.items():
        path = Path(name)
        if data is None:
            path.mkdir(parents=True, exist_ok=True)
        elif after.get(name) != data:
            path.write_bytes(data)


# A run that has begun stays, so that what went wrong can be looked at.
FAILED_LATE = ("the loss became",)


def wrong(answer: Answer, changed: list[str]) -> str | None:
    """What is wrong with an answer, if something is."""
    if answer.code not in (0, 2, 130):
        return f"exit code {answer.code}"
    if "Traceback" in answer.err:
        return "a traceback"
    if answer.code == 2:
        said = [line for line in answer.err.splitlines() if line.strip()]
        if not said or not said[-1].startswith("pds"):
            return "no sentence"
        if changed and not any(text in answer.err for text in FAILED_LATE):
            return f"left behind: {changed}"
    return None


def test_random_keys_and_values_end_in_a_result_or_a_sentence(
    pds: Callable[..., Answer], place: Path, tiny_backbone: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cases = Cases(SEED, tiny_backbone)
    before, found, codes = content(place.parent), [], []
    for number in itertools.islice(itertools.count(), CASES):
        argv = cases.draw(number)
        started = time.monotonic()
        answer = pds(*argv)
        seconds = time.monotonic() - started
        after = content(place.parent)
        changed = sorted(
            name.removeprefix(f"{place}/")
            for name in before.keys() | after.keys()
            if before.get(name, 0) != after.get(name, 0)
        )
        restore(before, after)
        codes.append(answer.code)
        own = [w for w in argv if w not in words(argv[0], tiny_backbone)]
        shown = " ".join(word if len(word) < 99 else f"{word[:60]}…{len(word)}" for word in own)
        if fault := wrong(answer, changed):
            found.append(f"{shown}\n    {fault}\n    {answer.err[-400:].strip()}")
        if "PDS_FUZZ" in os.environ:
            with capsys.disabled():
                print(
                    f"{seconds:5.1f} s  {answer.code}  {shown!a}  {answer.err[-300:].strip()!a}",
                    flush=True,
                )
    assert not found, f"{len(found)} of {CASES}:\n" + "\n".join(found)
    assert codes.count(0) > CASES / 20 and codes.count(2) > CASES / 3


def test_what_was_here_is_put_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    before = content(tmp_path)
    (tmp_path / "b/c").mkdir(parents=True)
    (tmp_path / "b/c/d").write_text("d")
    (tmp_path / "a").write_text("b")
    assert content(tmp_path) != before
    restore(before, content(tmp_path))
    assert content(tmp_path) == before
