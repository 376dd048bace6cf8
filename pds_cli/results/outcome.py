"""What a finished run shows: renders beside sources and truths, and how alike they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pds_cli.pictures.files import resize
from pds_cli.representations.base import Representation
from pds_cli.representations.spatial import Spatial
from pds_cli.runs import layout
from pds_cli.runs.folder import RunFolder
from pds_cli.views.view import View

MOST = 8


def some(views: Sequence[View], most: int = MOST) -> list[View]:
    """At most so many of the views, evenly spaced, the first among them."""
    step = max(1.0, len(views) / most)
    return [views[int(i * step)] for i in range(min(most, len(views)))]


@torch.no_grad()
def seen(representation: Representation, view: View) -> Tensor:
    """What a view shows now, [3,H,W] in [0,1] on the CPU; in 3D at its camera's size."""
    if isinstance(representation, Spatial):
        assert view.camera is not None
        return representation.render_camera(view.camera).rgb.cpu()
    return representation.render_full(view).cpu()


def save_views(
    run: RunFolder,
    representation: Representation,
    views: Sequence[View],
    truths: Sequence[View] = (),
    labels: Sequence[str] = ("before", "after", "ground truth"),
) -> dict[str, float]:
    """Saves renders of some views, and a strip; returns their mean likeness to source and truth.

    truths: views of the true edit, by the names of `views`.
    """
    from pds_cli.pictures.sheets import save_image, strip

    true = {view.name: view.image for view in truths if view.image is not None}
    rows: list[dict[str, float]] = []
    pictures: list[Tensor] = []
    for view in some(views):
        result = seen(representation, view)
        run.save_image(layout.final_render("result", view.name), result)
        shown, scores = [], {}
        if view.image is not None:
            run.save_image(layout.final_render("source", view.name), view.image)
            shown, scores = [view.image, result], similarity(result, view.image, "source")
        truth = true.get(view.name)
        if truth is not None:
            run.save_image(layout.final_render("truth", view.name), truth)
            shown.append(truth)
            scores |= similarity(result, truth, "truth")
        rows += [scores] if scores else []
        pictures = pictures or shown
    if pictures:
        height = max(256, *(picture.shape[-2] for picture in pictures))
        sheet = strip(pictures, list(labels[: len(pictures)]), height=min(1024, height))
        save_image(sheet, run.path / layout.STRIP)
    return mean_scores(rows)


def save_masks(run: RunFolder, limits: Mapping[str, Tensor]) -> None:
    """Writes where each view was allowed to change, in white, as `mask=<folder>` takes it.

    limits: as `Scene.limits`; of those that are found as they are asked for, the ones that were.
    """
    from pds_cli.pictures.sheets import save_image

    known = getattr(limits, "found", limits)
    for name, limit in known.items():
        path = run.path / layout.MASKS / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)  # names of photos may have folders
        save_image(limit, path)


def mean_scores(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each score over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def similarity(result: Tensor, reference: Tensor, name: str = "") -> dict[str, float]:
    """PSNR, SSIM and LPIPS of a result [3,h,w] against a reference resized to it.

    Pictures with a side under `MIN_SIDE` pixels have no LPIPS.

    The keys end with `_name` where a name is given.
    """
    from pds_cli.metrics.lpips import MIN_SIDE, lpips
    from pds_cli.metrics.psnr import psnr
    from pds_cli.pictures.ssim import ssim

    a, b = result[None].float(), resize(reference[None].float(), *result.shape[-2:])
    scores = {"psnr": float(psnr(a, b)), "ssim": float(ssim(a, b))}
    if min(result.shape[-2:]) >= MIN_SIDE:
        scores["lpips"] = float(lpips(a, b))
    return {f"{key}_{name}": value for key, value in scores.items()} if name else scores


def seconds_of(run: RunFolder) -> float:
    """The seconds that the steps of a run took, by its checkpoint; 0 where there is none."""
    from pds_cli.runs.checkpoint import load_checkpoint

    if not run.checkpoint.is_file():
        return 0.0
    return float(load_checkpoint(run.checkpoint)[1].get("seconds", 0.0))
