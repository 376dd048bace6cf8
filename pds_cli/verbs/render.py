"""pds render run=<folder> path=… : shows a 3D result of pds fit or pds edit along a camera path.

Paths are `turntable` (round the scene), `orbit` (a small loop about the first photo's place),
`train` (the places of the photos), or a JSON file of cameras. Pictures, depth and films go to
`renders_<path>/` in the run folder, or to `out=`.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from pds_cli.options.job import run_folder
from pds_cli.runs import layout

HELP = "render a 3D run along a camera path: film, pictures, depth"
CONFIG = "render"


def main(cfg: DictConfig) -> Path:
    """Writes the pictures and films; returns the folder."""
    from pds_cli.results.path_rendering import load_result, write_renders
    from pds_cli.runs.folder import RunFolder
    from pds_cli.runs.ownership import adopt
    from pds_cli.views.paths import camera_path

    representation = load_result(cfg.run, cfg.device, list(cfg.allow_modules))
    cameras = camera_path(
        cfg.path,
        list(representation.cameras["train"].values()),
        representation.region,
        frames=cfg.frames,
        size=cfg.size,
        elevation=cfg.elevation,
        start=cfg.start,
        sweep=cfg.sweep,
        transform=representation.transform,
    )
    run = RunFolder(run_folder())
    run.begin(cfg, keep=False)
    films = write_renders(run.path, representation, cameras, fps=cfg.fps, depth=cfg.depth)
    adopt(run.path, Path(cfg.run))
    summary = {"verb": "render", "run": cfg.run, "path": cfg.path, "frames": len(cameras)}
    run.write_json(layout.SUMMARY, {**summary, "status": "done"})
    size = f"{cameras[0].width}×{cameras[0].height}"
    print(f"{len(cameras)} pictures of {size} pixels: {run.path}")
    for film in films:
        print(f"film: {film}")
    return run.path
