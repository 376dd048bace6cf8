"""What cannot work is answered with one sentence, exit code 2, and nothing half-written."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Answer
from PIL import Image
from safetensors.torch import save_file

PROMPT = "prompt=a photo of a robot"
Refused = Callable[..., str]


@pytest.fixture
def refused(pds: Callable[..., Answer], tiny_backbone: Path) -> Refused:
    """Runs a command line that must fail as it should; returns the sentence."""

    def run(*words: str, backbone: bool = True) -> str:
        model = [f"backbone.model={tiny_backbone}"] if backbone else []
        before = files()
        answer = pds(*words, *model)
        assert answer.code == 2, answer
        assert answer.out == ""
        assert answer.err.count("\n") == 1 and answer.err.endswith("\n"), answer.err
        assert "Traceback" not in answer.err
        verb = f"pds {words[0]}: " if words[0] in ("edit", "sample", "compare") else "pds: "
        assert answer.err.startswith(verb)
        sentence = answer.err[len(verb) : -1]
        assert len(sentence) > 20
        assert files() == before, "a refused command leaves nothing behind"
        return sentence

    return run


def files() -> set[Path]:
    return {path for path in Path().rglob("*") if path.is_file()}


def png(path: Path, width: int = 8, height: int = 8) -> Path:
    Image.new("RGB", (width, height), (200, 30, 60)).save(path)
    return path


def truncated(folder: Path) -> Path:
    path = png(folder / "t.png", 200, 200)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def huge_header(folder: Path) -> Path:
    """A PNG of a few bytes that says it is 30,000 × 30,000."""
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    path = folder / "huge.png"
    data = zlib.compress(b"\0" * 100)
    idat = b"IDAT" + data
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", len(data)) + idat + struct.pack(">I", zlib.crc32(idat))
    )  # fmt: skip
    return path


def empty(folder: Path) -> Path:
    (folder / "empty.png").touch()
    return folder / "empty.png"


def text(folder: Path) -> Path:
    (folder / "text.png").write_text("This is a text.\n" * 20)
    return folder / "text.png"


# --- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "none.png", "does not exist"),
        (lambda folder: folder, "is a folder"),
        (truncated, "truncated or damaged"),
        (empty, "is empty (0 bytes)"),
        (huge_header, "more than the limit of 80 megapixels"),
        (text, "not an image that can be read"),
    ],
)
def test_an_image_that_cannot_be_edited(
    refused: Refused, tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    path = make(folder)
    sentence = refused("edit", PROMPT, "source=a man", "scene=image", f"scene.path={path}")
    assert said in sentence and str(path) in sentence


def test_an_image_scene_needs_a_path_and_a_source(refused: Refused, tmp_path: Path) -> None:
    assert "scene.path=… is needed" in refused("edit", PROMPT, "scene=image", "source=a man")
    path = png(tmp_path / "a.png")
    assert "source=… is needed" in refused("edit", PROMPT, "scene=image", f"scene.path={path}")


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["prompt="], ["prompt=  "], []])
def test_an_empty_prompt(refused: Refused, words: list[str]) -> None:
    assert "prompt is empty" in refused("edit", *words)
    assert "prompt is empty" in refused("sample", *words)


def test_an_unknown_verb(refused: Refused) -> None:
    sentence = refused("edti", PROMPT, backbone=False)
    assert "there is no verb 'edti'" in sentence and "edit" in sentence


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("scene=figurin", "did you mean figurine?"),
        ("loss=vds", "did you mean vsd?"),
        ("optimizer=lion", "adam"),
        ("representation=nerf", "image"),
        ("logger=mlflow", "tensorboard"),
        ("loss.identiti=2", "did you mean loss.identity?"),
        ("seed=99999999999999999999999", "seed=99999999999999999999999 is out of range"),
        (f"seed={10**400}", "no number here has so many digits"),
        ("guidance=-" + "9" * 5000, "no number here has so many digits"),
        ("optimizer.betas=[2,3]", "optimizer.betas=[2.0, 3.0] is out of range"),
        ("optimizer.betas=[0.9]", "optimizer.betas=[0.9] must be two numbers"),
        ("lr_schedule=cosin", "constant, linear, cosine"),
        ("representation.parametrisation=voxels", "pixels, latent"),
        ("loss.weighting=heavy", "sigma2"),
        ("scene.figure.kind=elephant", "man, robot, snowman, bear"),
        ("scene.figure.wings=two", "wings"),
        ("scene=figurine scene.count=0", "scene.count=0 is out of range"),
        ("early_stop.patienc=3", "did you mean early_stop.patience?"),
    ],
)
def test_an_unknown_option(refused: Refused, word: str, said: str) -> None:
    assert said in refused("edit", PROMPT, *word.split())


def test_an_unknown_backbone(refused: Refused) -> None:
    assert "toybox" in refused("edit", PROMPT, "backbone=toyboks", backbone=False)


# --- backbones -----------------------------------------------------------------------------------


def test_a_hub_id_without_network(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    def unreachable(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    sentence = refused("edit", PROMPT, "backbone=sd15", "backbone.model=nobody/nothing-here",
                       backbone=False)  # fmt: skip
    assert "nobody/nothing-here" in sentence


def test_a_backbone_folder_without_a_backbone(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for model in ("folder", "none"):
        sentence = refused("edit", PROMPT, f"backbone.model={model}", backbone=False)
        assert "holds no backbone" in sentence and "pds pretrain" in sentence


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
@pytest.mark.parametrize("verb", ["edit", "sample"])
def test_cuda_where_there_is_none(refused: Refused, verb: str) -> None:
    assert "no CUDA" in refused(verb, PROMPT, "device=cuda")


# --- run folders ---------------------------------------------------------------------------------


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def damage_garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * 1000)


def damage_foreign(path: Path) -> None:
    save_file({"weight": torch.ones(2)}, str(path))


@pytest.mark.parametrize("damage", [damage_truncate, damage_garbage, damage_foreign])
def test_a_corrupt_checkpoint(
    pds: Callable[..., Answer], refused: Refused, tiny_backbone: Path,
    damage: Callable[[Path], None],
) -> None:  # fmt: skip
    words = [PROMPT, f"backbone.model={tiny_backbone}", "steps=2", "out=run", "render_every=0"]
    assert pds("edit", *words).code == 0
    damage(Path("run/checkpoint.safetensors"))
    kept = {p: p.read_bytes() for p in files() if p.name in ("metrics.jsonl", "summary.json")}
    sentence = refused("edit", "resume=run", backbone=False)
    assert "checkpoint" in sentence and "run/checkpoint.safetensors" in sentence
    assert {p: p.read_bytes() for p in kept} == kept


def test_resuming_what_is_no_run(
    pds: Callable[..., Answer], refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    assert "is not a folder" in refused("edit", "resume=none", backbone=False)
    assert "not the folder of a run" in refused("edit", "resume=folder", backbone=False)
    for content in ("just a text", "- a\n- list\n", "a: [1\n", "", "prompt: x\n"):
        Path("folder/config.yaml").write_text(content)
        refused("edit", "resume=folder", backbone=False)


def test_resume_with_another_configuration(
    pds: Callable[..., Answer], refused: Refused, tiny_backbone: Path
) -> None:
    words = [PROMPT, f"backbone.model={tiny_backbone}", "steps=2", "lr=0.03", "out=run"]
    assert pds("edit", *words).code == 0
    sentence = refused("edit", "resume=run", "lr=0.5", backbone=False)
    assert "lr differs from the run in" in sentence
    # Also where the folder's own settings were edited by hand.
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("lr: 0.03", "lr: 0.5"))
    assert "not what the run began with" in refused("edit", "resume=run", backbone=False)


@pytest.mark.parametrize("verb", ["edit", "sample"])
def test_an_output_folder_that_cannot_be_written(
    refused: Refused, tmp_path: Path, verb: str
) -> None:
    (tmp_path / "file").touch()
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    places = ["file", "file/run", "/proc/pds/run"]
    if os.getuid() != 0:  # to root nothing is locked
        places.append("locked/run")
    for place in places:
        assert place in refused(verb, PROMPT, f"out={place}")
    assert not list(locked.iterdir())


def fill(path: Path) -> None:
    """Takes all the room that is left on a file's disk."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(b"\0" * 512)


def test_a_full_disk(
    pds: Callable[..., Answer], refused: Refused, small_disk: Path, tiny_backbone: Path
) -> None:
    """On a real one: the run ends with a sentence, and the last checkpoint is still good."""
    from pds_cli.runs.checkpoint import load_checkpoint

    words = [PROMPT, f"backbone.model={tiny_backbone}", "steps=6", "render_every=0"]
    full = small_disk / "full"
    full.mkdir()
    filler = small_disk / "filler"
    fill(filler)
    sentence = refused("edit", *words, f"out={full}", backbone=False)
    assert "No space left on device" in sentence or "cannot be written" in sentence
    filler.unlink()
    # Now there is room for the first checkpoint (150 kB), but not for the page at the end.
    answer = pds("edit", *words, "checkpoint_every=2", f"out={small_disk / 'run'}")
    if answer.code:
        assert answer.code == 2 and "Traceback" not in answer.err
    checkpoint = small_disk / "run/checkpoint.safetensors"
    assert load_checkpoint(checkpoint)[1]["total_steps"] in (2, 4, 6)
    before = checkpoint.read_bytes()
    fill(filler)
    answer = pds("edit", f"resume={small_disk / 'run'}")
    assert answer.code == 2
    assert "Traceback" not in answer.err
    assert checkpoint.read_bytes() == before
    assert not list(small_disk.rglob("*.tmp"))


def test_a_real_process_says_the_same(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "pds_cli", "edit", "prompt=", "out=run"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("pds edit: prompt is empty") and done.stderr.count("\n") == 1
