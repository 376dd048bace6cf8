"""A small capture of known cameras, and a run of it that nobody has trained: for tests of files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pds_cli.scenes.nerfstudio import NerfstudioScene
from pds_cli.views.cameras import look_at

# A photographer's world: far from the origin, and its up is nobody's axis.
PLACES = [(40.0 + 3 * math.cos(a), -20.0 + 3 * math.sin(a), 5.0 + 0.3 * a) for a in range(6)]


def capture(
    folder: Path, size: tuple[int, int] = (16, 12), **fields: Any
) -> tuple[Path, list[Tensor]]:
    """A folder for `scene=nerfstudio` of six grey photos, and the poses [3,4] of their cameras."""
    (folder / "images").mkdir(parents=True)
    poses = [look_at(place, (40.0, -20.0, 4.0), (0.1, 0.2, 0.97)) for place in PLACES]
    frames = []
    for number, pose in enumerate(poses):
        Image.new("RGB", size, (90, 90, 90)).save(folder / f"images/{number}.png")
        frames.append({"file_path": f"images/{number}.png", "transform_matrix": pose.tolist()})
    found = {"fl_x": 14.0, "w": size[0], "h": size[1], "frames": frames, **fields}
    (folder / "transforms.json").write_text(json.dumps(found))
    return folder, poses


def run_of(folder: Path, into: Path) -> Path:
    """A run folder with the export of a NeRF of that capture, which nobody has trained."""
    from pds_cli.representations.nerf.representation import NeRF

    backbone: Any = SimpleNamespace(device=torch.device("cpu"))
    grid = {"levels": 2, "features": 2, "log2_table": 8, "base_resolution": 4, "growth": 1.7}
    scene = NerfstudioScene(folder, eval_interval=3)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        nerf = NeRF(scene, backbone, grid=grid, hidden=16, occupancy=8, step=0.2)
        nerf.field.grid.table.normal_()
    nerf.export(into / "exports")
    return into
