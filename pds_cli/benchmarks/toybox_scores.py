"""Scores of edits of toy figures, whose true edit is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pds_cli.metrics.lpips import lpips
from pds_cli.metrics.psnr import psnr
from pds_cli.toybox.cases import Case
from pds_cli.toybox.gallery import picture
from pds_cli.toybox.probe import Probe

COLUMNS = ("success", "kept", "lpips_truth", "psnr_truth", "lpips_source")
BY_EDIT = ("success", "lpips_truth")


def pictures(cases: Iterable[Case], which: str, size: int) -> Tensor:
    """The `source` or `target` pictures [N,3,size,size] in [0,1] of the cases."""
    found = [picture(getattr(case, which), case.camera, size) for case in cases]
    return torch.from_numpy(np.stack(found)).movedim(-1, 1).float() / 255


def attribute_scores(found: Mapping[str, int], case: Case) -> tuple[float, float]:
    """What a picture shows of an edit, by what the probe found in it.

    Returns:
        (1 where every changed attribute has its wanted value, else 0; the share of the other
        attributes that are as in the source).
    """
    wanted = case.target.labels()
    reached = all(found[name] == wanted[name] for name in case.changed)
    others = [n for n, v in wanted.items() if n not in case.changed and v >= 0]
    # The colour of the thing beside says nothing where the edit put that thing there.
    others = [n for n in others if not (n == "beside_color" and "beside" in case.changed)]
    return float(reached), sum(found[name] == wanted[name] for name in others) / len(others)


def score_cases(images: Tensor, cases: Sequence[Case], probe: Probe) -> list[dict[str, float]]:
    """What each edit reached, for images [N,3,S,S]: the scores of `COLUMNS`."""
    truths, sources = (pictures(cases, w, images.shape[-1]) for w in ("target", "source"))
    perceptual = lpips(images, truths), lpips(images, sources)
    fidelity = psnr(images, truths)
    scores = []
    for i, (case, found) in enumerate(zip(cases, probe.classify(images), strict=True)):
        reached, kept = attribute_scores(found, case)
        scores.append(
            {
                "success": reached,
                "kept": kept,
                "lpips_truth": float(perceptual[0][i]),
                "psnr_truth": float(fidelity[i]),
                "lpips_source": float(perceptual[1][i]),
            }
        )
    return scores


def balance(score: Mapping[str, float]) -> float:
    """Harmonic mean of success and kept: what the sweep maximises."""
    a, b = score["success"], score["kept"]
    return 2 * a * b / (a + b) if a + b else 0.0
