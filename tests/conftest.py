"""Fixtures for tests of the command line."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from pds_cli.config import register

register()

# Workers of pytest-xdist share the cores, before torch and Numba take all of them for each.
if "PYTEST_XDIST_WORKER" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, share)))

ROOT = Path(__file__).resolve().parent.parent
TINY_MODEL: dict[str, Any] = {
    "timesteps": 1000,
    "shift": -1.386,
    "camera": False,
    "autoencoder": {"latent_channels": 16, "patch": 4, "width": 24, "blocks": 1, "whiten": 0.5},
    "unet": {
        "layers_per_block": 1,
        "block_out_channels": [16, 32],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 16,
        "norm_num_groups": 8,
    },
    "text_encoder": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
}
"""The `model` section of a pretraining configuration, as small as it gets."""


@pytest.fixture(scope="session", autouse=True)
def quick_configs() -> Iterator[None]:
    """The same configs in less time: YAML is read by C, and a text of the grammar parsed once."""
    import omegaconf._utils as utils
    import omegaconf.base as base
    import yaml

    slow, parse = utils.get_yaml_loader(), lru_cache(2048)(utils.parse)

    class Fast(yaml.CSafeLoader):
        yaml_constructors = slow.yaml_constructors
        yaml_implicit_resolvers = slow.yaml_implicit_resolvers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "get_yaml_loader", lambda: Fast)
        for module in (utils, base):
            patch.setattr(module, "parse", parse)
        yield


@dataclass
class Answer:
    """What a command line did: exit code, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def pds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Runs `pds` in this process, in an empty folder."""
    from pds_cli.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def run(*argv: str) -> Answer:
        capsys.readouterr()
        code = main(list(argv))
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return run


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Adds a verb for one test: `verb("name", body, config="edit")`, body in `main(cfg)`."""
    import sys

    import pds_cli.verbs

    folder = tmp_path / "verbs_of_the_test"
    folder.mkdir()
    monkeypatch.setattr(pds_cli.verbs, "__path__", [*pds_cli.verbs.__path__, str(folder)])

    def add(name: str, body: str, *, config: str | None = "edit", rest: str = "") -> str:
        source = f'HELP = "a verb of the tests"\nCONFIG = {config!r}\n'
        source += "import json\nfrom pds_cli.options.job import run_folder\n"
        source += "from pds_cli.errors import UserError\n" + textwrap.dedent(rest)
        source += "\ndef main(cfg):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.delitem(sys.modules, f"pds_cli.verbs.{name}", raising=False)
        return name

    return add


@pytest.fixture(scope="session")
def gallery_images() -> Any:
    """The benchmark's eight source pictures [8,3,64,64] in [0,1]."""
    import numpy as np
    import torch

    from pds_cli.toybox.cases import FIGURES
    from pds_cli.toybox.gallery import picture

    tiles = np.stack([picture(figure, camera) for figure, camera in FIGURES])
    large = torch.from_numpy(tiles).movedim(-1, 1).float() / 255
    return torch.nn.functional.avg_pool2d(large, 2)


@pytest.fixture(scope="session")
def tiny_components(gallery_images: Any) -> Any:
    """Untrained parts of an embedded backbone for 64×64 pictures that reads toybox captions."""
    import torch

    from pds_cli.pretraining.components import build_components
    from pds_cli.toybox.world import vocabulary

    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = build_components(TINY_MODEL, 64, [" ".join(vocabulary())])
    parts.autoencoder.fit_components(gallery_images * 2 - 1)
    for module in (parts.unet, parts.text_encoder, parts.autoencoder):
        module.eval().requires_grad_(False)
    return parts


@pytest.fixture(scope="session")
def tiny_backbone(tiny_components: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a folder, for `backbone.model=<folder>`."""
    from pds_cli.pretraining.components import save_components

    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    save_components(tiny_components, folder)
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 1 MB of its own; skips where none can be mounted."""
    import subprocess

    folder = tmp_path / "small_disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError:
        done = None
    if done is None or done.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def warm_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of benchmarks begin with everything imported: see warm_jobs.py."""
    from warm_jobs import run_warm

    monkeypatch.setattr("pds_cli.benchmarks.jobs._run", run_warm)


@pytest.fixture
def watching() -> Iterator[Callable[[Any], None]]:
    """`watching(observer)`: it sees the steps of every trainer in this test."""
    from pds_cli.training.trainer import observers

    before = list(observers)
    yield observers.append
    observers[:] = before


@pytest.fixture
def trained(watching: Callable[[Any], None]) -> list[str]:
    """The names of the stages whose steps were run in this test, one for each step."""
    steps: list[str] = []
    watching(lambda trainer, stage: steps.append(stage.name))
    return steps


@pytest.fixture
def stopping(watching: Callable[[Any], None]) -> Callable[[str, int], None]:
    """`stopping("fit", 7)`: the next run is asked to stop after that stage's seventh step."""
    from helpers import StopAt

    return lambda name, step: watching(StopAt(step, name))
