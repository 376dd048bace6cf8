"""A part of the package is one Python file and one YAML file, and nothing else knows of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import EXTENDING, files_of

from pds_cli.options.signature import keywords_of

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"loss": "losses", "backbone": "backbones", "representation": "representations"}
NAMES = {"loss": "spring", "backbone": "blobs", "representation": "rigid"}
# What the tests' page gives no defaults for, since files from outside cannot begin with ours.
COMMON = "defaults:\n  - _common\n  - _self_\n\n"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package, in which the page's parts are parts of it."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "conf", folder / "conf")
    (folder / "pds_cli").mkdir()
    # What looks for its neighbours, or gets one more, is copied; the rest may be the same files.
    for path in (ROOT / "pds_cli").iterdir():
        there = folder / "pds_cli" / path.name
        if path.name in ("options", *PARTS.values()):
            shutil.copytree(path, there, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.name != "__pycache__":
            there.symlink_to(path)
    files = files_of(EXTENDING)
    for group, room in PARTS.items():
        name = NAMES[group]
        (folder / "pds_cli" / room / f"{name}.py").write_text(files[f"my_{group}.py"])
        yaml = files[f"groups/{group}/{name}.yaml"]
        yaml = yaml.replace(f"my_{group}.", f"pds_cli.{room}.{name}.")
        first, _, rest = yaml.partition("\n")
        text = f"{first}\n{COMMON if group == 'loss' else ''}{rest}"
        (folder / "conf" / group / f"{name}.yaml").write_text(text)
    (folder / "my_scene.py").write_text(files["my_scene.py"])
    (folder / "groups/scene").mkdir(parents=True)
    (folder / "groups/scene/ring.yaml").write_text(files["groups/scene/ring.yaml"])
    return folder


def pds(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pds_cli", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


POINTS = ["scene=toy2d", "backbone=mixture", "representation=points", "prompt=b", "guidance=1"]
STEP = ["steps=1", "render_every=0"]


def test_a_loss_of_one_file_and_one_yaml_edits(package: Path) -> None:
    own = ["loss.strength=0.3", "loss.fade=0.5", "loss.clip_norm=10", "loss.timesteps=[0.1,0.9]"]
    done = pds(package, "edit", *POINTS, *STEP, "loss=spring", *own, "out=spring")
    assert done.returncode == 0, done.stderr
    assert '"spring_norm": ' in (package / "spring/metrics.jsonl").read_text()
    again = pds(package, "edit", "resume=spring", "steps=2")
    assert again.returncode == 0, again.stderr


def test_a_backbone_and_a_representation_of_one_file_each_edit(package: Path) -> None:
    ring = ["--config-dir", "groups", "allow_modules=[my_scene]", "scene=ring", "backbone=blobs"]
    parts = ["representation=rigid", "loss=dds", "prompt=right", "backbone.std=0.4"]
    done = pds(package, "edit", *ring, *parts, *STEP, "out=rigid")
    assert done.returncode == 0, done.stderr


def test_what_it_says_of_its_keys_is_what_help_says(package: Path) -> None:
    shown = pds(package, "edit", "--help", "loss=spring")
    assert shown.returncode == 0, shown.stderr
    for line in (
        "spring, vsd",
        "loss=spring: DDS with a constant spring to the source",
        "  loss.strength=0.2             pull towards the source, at least 0",
        "  loss.clip_norm=null           largest norm of a sample's gradient; null: no",
    ):
        assert line in shown.stdout


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("loss.strength=strong", "loss.strength=strong is not a number"),
        ("loss.clip_norm=abc", "loss.clip_norm=abc is not a number"),
        (
            "loss.clip_norm=-1",
            "loss.clip_norm=-1 is out of range: it must be a finite number above 0",
        ),
        ("loss.weighting=x", "loss.weighting=x is unknown; choose one of none, sigma"),
        ("loss.strength=nan", "loss.strength=nan is out of range"),
        ("loss.stregth=1", "did you mean strength?"),
    ],
)
def test_wrong_words_about_it_get_a_sentence(package: Path, word: str, said: str) -> None:
    answer = pds(package, "edit", *POINTS, *STEP, "loss=spring", word, "out=wrong")
    assert answer.returncode == 2 and said in answer.stderr, answer.stderr
    assert not (package / "wrong").exists()


def test_keywords_are_read_without_an_import() -> None:
    found = keywords_of("pds_cli.losses.sdi.SDI")
    assert found["inversion_steps"].default == "10" and found["schedule"].default == "'annealed'"
    assert found["clip_norm"].kind == "float | None"
    assert found["clip_norm"].help.startswith("largest Euclidean norm")
    assert found["inversion_eta"].help == "share of fresh noise on the way, see `ddim_invert`"
    assert "uses_source" not in found
    nerf = keywords_of("pds_cli.representations.nerf.representation.NeRF")
    assert nerf["hidden"].default == "32" and "scene" not in nerf
    assert keywords_of("torch.optim.Adam") == keywords_of("pds_cli.nothing.X") == {}
