"""Folders of finished edits: a real one of a few steps, with what a test wants changed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pds_cli.cli import main
from pds_cli.pictures.sheets import save_image


@cache
def recorded(loss: str) -> Path:
    """The folder of a real edit."""
    folder = Path(tempfile.mkdtemp()) / loss
    words = ["scene=figurine2d", "prompt=a photo of a man raising his arms", f"loss={loss}"]
    assert main(["edit", *words, "steps=6", "render_every=3", "device=cpu", f"out={folder}"]) == 0
    return folder


def write_run(
    folder: Path,
    pictures: Mapping[str, Any],
    *,
    loss: str = "pds",
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
) -> None:
    """Writes the settings, the summary and the pictures of a run.

    Args:
        pictures: name in `renders/` without its ending → what `save_image` takes.
        loss: the option that was really run.
        config, summary: what is otherwise than in the real run; a key of a group by dots.
    """
    settings: dict[str, Any] = yaml.safe_load((recorded(loss) / "config.yaml").read_text("utf-8"))
    for key, value in config.items():
        group, _, name = key.rpartition(".")
        (settings[group] if group else settings)[name] = value
    facts = json.loads((recorded(loss) / "summary.json").read_text("utf-8")) | dict(summary)
    around = json.loads((recorded(loss) / "environment.json").read_text("utf-8"))
    (folder / "renders").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), "utf-8")
    (folder / "summary.json").write_text(json.dumps(facts), "utf-8")
    around["seed"] = settings["seed"]
    (folder / "environment.json").write_text(json.dumps(around), "utf-8")
    for name, picture in pictures.items():
        save_image(picture, folder / "renders" / f"{name}.png")
