"""pds export run=<folder> format=… : writes a 3D result of pds fit or pds edit for other programs.

`mesh`: the surface as `mesh.ply` and `mesh.glb`, coloured. `pointcloud`: what the photos' cameras
see, as coloured points `pointcloud.ply`. `splats`: the Gaussians of a run with
representation=splats as `splats.ply`, which splat viewers open; `splat` and `spz` write the smaller
`splats.splat` and `splats.spz`. `cameras`: `cameras.json`, which pds render reads, and
`transforms.json` in nerfstudio's format. All are in the scene's own units, or with `units=capture`
in those of the capture that it was made from; `dataparser_transforms.json` says how the one becomes
the other. They go to `exports_<format>/` in the run folder, or to `out=`.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from pds_cli.options.job import run_folder
from pds_cli.runs import layout

HELP = "write a 3D run as a mesh, a point cloud, splats or cameras"
CONFIG = "export"


def main(cfg: DictConfig) -> Path:
    """Writes the files; returns their folder."""
    from pds_cli.results.exporting import (
        write_cameras,
        write_mesh,
        write_point_cloud,
        write_splats,
        write_transform,
    )
    from pds_cli.results.path_rendering import load_result
    from pds_cli.runs.folder import RunFolder
    from pds_cli.runs.ownership import adopt
    from pds_cli.splats.files import WRITERS

    representation = load_result(cfg.run, cfg.device, list(cfg.allow_modules))
    run = RunFolder(run_folder())
    run.begin(cfg, keep=False)
    if cfg.format == "mesh":
        files, what = write_mesh(
            run.path,
            representation,
            resolution=cfg.resolution,
            threshold=cfg.threshold,
            extent=cfg.extent,
            components=cfg.components,
            units=cfg.units,
        )
    elif cfg.format == "pointcloud":
        files, what = write_point_cloud(
            run.path,
            representation,
            points=cfg.points,
            threshold=cfg.threshold,
            extent=cfg.extent,
            opacity=cfg.opacity,
            seed=cfg.seed,
            units=cfg.units,
        )
    elif cfg.format in WRITERS:
        files, what = write_splats(run.path, representation, format=cfg.format, units=cfg.units)
    else:
        files, what = write_cameras(
            run.path, representation, pictures=cfg.pictures, units=cfg.units
        )
    files.append(write_transform(run.path, representation, cfg.units))
    adopt(run.path, Path(cfg.run))
    summary = {"verb": "export", "run": cfg.run, "format": cfg.format, "result": what}
    run.write_json(layout.SUMMARY, {**summary, "status": "done"})
    print(f"{what}:")
    for file in files:
        print(f"  {file}")
    return run.path
