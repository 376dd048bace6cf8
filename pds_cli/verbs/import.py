"""pds import images=… : finds the cameras of a folder of photos, or of a film, and writes a scene.

Of a film, `frames` are taken: the sharpest of each stretch.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from omegaconf import DictConfig

from pds_cli.options.job import run_folder
from pds_cli.runs import layout

HELP = "find the cameras of your photos or film (structure from motion) and write a scene"
CONFIG = "import"


def main(cfg: DictConfig) -> Path:
    """Writes `images/`, `sparse/0/`, `transforms.json` and `summary.json`; returns the folder."""
    from pds_cli.runs.folder import RunFolder
    from pds_cli.scenes.sfm import import_photos

    out = run_folder()
    run = RunFolder(out)
    found = import_photos(
        cfg.images,
        out,
        matching=cfg.matching,
        overlap=cfg.overlap,
        frames=cfg.frames,
        camera_model=cfg.camera_model,
        max_size=cfg.max_size,
        seed=cfg.seed,
        begin=lambda: run.begin(cfg, keep=False),
    )
    run.write_json(
        layout.SUMMARY, {"verb": "import", "status": "done", **dataclasses.asdict(found)}
    )
    total = len(found.photos) + len(found.left_out)
    print(
        f"{len(found.photos)} of {total} photos have a camera; {found.points} points, seen within "
        f"{found.error:.2f} pixels on average"
    )
    if found.left_out:
        print(f"left out: {', '.join(found.left_out)}")
    print(f"scene: {out} (use it with scene=nerfstudio scene.path={out})")
    return out
