"""Reconstruction: a representation is fitted to the images of its scene before it is edited."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.representations.base import FitSettings, Representation
from pds_cli.results.outcome import mean_scores, seen, similarity
from pds_cli.runs.checkpoint import check_state, fits, load_checkpoint, save_checkpoint
from pds_cli.runs.folder import RunFolder
from pds_cli.scenes.base import Scene
from pds_cli.training.trainer import Objective, Stage, Trainer, with_lr
from pds_cli.views.view import View

log = logging.getLogger(__name__)

_FORMAT = 2  # raise it when a fit of the same settings would come out differently


class FitObjective(Objective):
    """Makes renders equal the views' images; every step mixes pixels of several views."""

    def __init__(
        self, scene: Scene, representation: Representation, views_per_step: int = 16
    ) -> None:
        self.views = list(scene.views)
        self.shown = next(iter(scene.eval_views), self.views[0])
        self.representation, self.views_per_step = representation, views_per_step

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.representation.parameter_groups()

    def loss(
        self, step: int, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        drawn = torch.randint(len(self.views), (self.views_per_step,), generator=generator)
        pairs: list[tuple[View, Tensor]] = []
        for index in drawn.tolist():
            image = self.views[index].image
            assert image is not None
            pairs.append((self.views[index], image))
        return self.representation.reconstruction_loss(pairs, generator)

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        self.representation.after_step(optimizer)

    @torch.no_grad()
    def renders(self) -> dict[str, Tensor]:
        return {self.shown.name: seen(self.representation, self.shown)}

    def state_dict(self) -> dict[str, Tensor]:
        return self.representation.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.representation.load_state_dict(state)


def fit_stage(scene: Scene, representation: Representation, settings: FitSettings) -> Stage:
    """The stage that fits a representation to its scene."""
    return Stage(
        "fit",
        FitObjective(scene, representation, settings.views_per_step),
        settings.steps,
        lambda groups: torch.optim.Adam(
            with_lr(groups, settings.lr), settings.lr, betas=(0.9, 0.99), eps=1e-15
        ),
        schedule="cosine",
        warmup=settings.warmup,
        lr_end=0.03,
    )


def fit_key(scene: Scene, representation: Representation, seed: int) -> str:
    """A hash of all that shapes a fit: images, cameras, settings of the representation, seed."""
    found = hashlib.sha256()
    for view in scene.views:
        for part in (view.image, view.alpha, view.mask):
            if part is not None:
                found.update(part.contiguous().numpy().tobytes())
        camera = None if view.camera is None else view.camera.to_dict()
        found.update(json.dumps([view.name, camera]).encode())
    settings = representation.fit_settings
    assert settings is not None
    how = {k: v for k, v in asdict(settings).items() if k != "cache"}
    facts = [_FORMAT, seed, how, representation.fit_options()]
    found.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return found.hexdigest()[:20]


def ensure_fit(
    scene: Scene, representation: Representation, run: RunFolder, seed: int, **options: Any
) -> Path | None:
    """Fits the representation, or takes the fit that the cache has.

    The fit runs in `run`, and goes on there where it was interrupted.

    Returns:
        Where it was taken from: the kept fit, or the folder of a new one; None where it was
        stopped by Ctrl-C or SIGTERM.
    """
    settings = representation.fit_settings
    assert settings is not None
    key = fit_key(scene, representation, seed)
    kept = None if settings.cache is None else Path(settings.cache) / f"{key}.safetensors"
    if kept is not None and kept.is_file() and _taken_over(representation, kept):
        return kept
    stage = fit_stage(scene, representation, settings)
    trainer = Trainer([stage], run, seed=seed, fingerprint=key, **options)
    if run.checkpoint.is_file() and _same(run.checkpoint, key):
        trainer.resume()
    else:
        run.restart()
    if trainer.run() == "stopped":
        return None
    if kept is not None:
        save_checkpoint(kept, representation.state_dict(), {"key": key})
    return run.path


def _taken_over(representation: Representation, kept: Path) -> bool:
    """Whether a kept fit could be loaded; a damaged one is made anew, and that is said."""
    try:
        state = load_checkpoint(kept, "fit anew")[0]
        with fits(kept, "fit anew"):
            check_state(state, representation.state_dict())
            representation.load_state_dict(state)
    except UserError as error:
        log.warning("the kept fit is not used: %s", error)
        return False
    return True


def _same(checkpoint: Path, key: str) -> bool:
    try:
        return bool(load_checkpoint(checkpoint)[1].get("fingerprint") == key)
    except UserError:  # what is there is damaged: start anew
        shutil.move(checkpoint, checkpoint.with_suffix(".damaged"))
        return False


@torch.no_grad()
def measure(representation: Representation, views: Sequence[View]) -> dict[str, float]:
    """Mean PSNR, SSIM and LPIPS of renders against the images of views; empty without views."""
    rows = []
    for view in views:
        assert view.image is not None
        rows.append(similarity(seen(representation, view), view.image))
    return mean_scores(rows)
