"""Many pictures edited side by side: the latents of toy figures as one batch, in one trainer."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.toybox_exact import ToyboxExact
from pds_cli.benchmarks.toybox_scores import pictures
from pds_cli.editors.base import Editor
from pds_cli.losses.base import Loss
from pds_cli.pictures.sheets import contact_sheet, save_image
from pds_cli.representations.base import Representation
from pds_cli.runs.checkpoint import load_checkpoint, save_checkpoint
from pds_cli.runs.folder import RunFolder
from pds_cli.runs.record import number as as_number
from pds_cli.scenes.base import Scene
from pds_cli.seeds import step_generator
from pds_cli.toybox.cases import Case
from pds_cli.training.distillation import EditObjective
from pds_cli.training.locating import locate
from pds_cli.training.trainer import Stage, Trainer
from pds_cli.views.view import View


class _Batch(Scene):
    """Many cases as one scene without a picture of its own."""

    source_prompt = ""

    @property
    def views(self) -> Sequence[View]:
        return [View("cases")]


class LatentBatch(Representation):
    """Independent latents θ [N,C,h,w], edited side by side.

    Adam works on each element alone, so N edits in a batch are N edits one by one.
    """

    initial: Tensor

    def __init__(self, x0: Tensor, backbone: Backbone) -> None:
        super().__init__()
        self._backbone = [backbone]
        self.register_buffer("initial", x0.clone())
        self.theta = torch.nn.Parameter(x0.clone())

    def render(self, view: View) -> Tensor:
        """The first image [1,3,H,W] in [0,1]."""
        return self.images()[:1]

    def images(self) -> Tensor:
        """All images [N,3,H,W] in [0,1]."""
        return self._backbone[0].decode_latent(self.theta).clamp(0, 1)

    def render_latent(self, view: View) -> Tensor:
        return self.theta

    def source_latent(self, view: View) -> Tensor:
        return self.initial

    def export(self, folder: Path) -> list[Path]:
        sheet = contact_sheet(list(self.images().detach()), 8)
        return [save_image(sheet, folder / "images.png")]


def edit_cases(
    cases: Sequence[Case],
    backbone: Backbone,
    method: Loss | Editor,
    run: RunFolder,
    *,
    key: Mapping[str, Any] | None = None,
    chunk: int = 24,
    **options: Any,
) -> tuple[Tensor, float]:
    """Edits every case with one method; returns the images [N,3,S,S] in [0,1] and the seconds.

    S is the backbone's resolution; with `located` each stays where its prompts disagree, as by
    `mask=auto`; `everywhere` is then as in `locate`. Chunks are independent runs of the trainer in
    `run.path/<number>`. With a `key` (what the result depends on, beside cases and options) a chunk
    that an interrupted run left there is taken over when its key is the same. With exact scores
    each case is a chunk, as it has pictures of its own.
    """
    edited, seconds = [], 0.0
    chunk = 1 if isinstance(backbone, ToyboxExact) else chunk
    for first in range(0, len(cases), chunk):
        part = cases[first : first + chunk]
        folder = RunFolder(run.path / f"{first:03d}")
        meta = {"key": key, "options": options, "cases": [repr(case) for case in part]}
        meta = json.loads(json.dumps(meta, default=str))
        images, took = _left(folder, meta) if key is not None else (None, 0.0)
        if images is None:
            prior = _exact(part[0], backbone) if isinstance(backbone, ToyboxExact) else backbone
            started = time.monotonic()
            if isinstance(method, Editor):
                kept = ("seed", "located", "everywhere")
                named = {key: options[key] for key in kept if key in options}
                images = _redraw_chunk(part, prior, method, **named)
            else:
                images = _edit_chunk(part, prior, method, folder, **options)
            took = time.monotonic() - started
            if key is not None:
                save_checkpoint(folder.checkpoint, {"images": images}, {**meta, "seconds": took})
        edited.append(images)
        seconds += took
    return torch.cat(edited), seconds


def _exact(case: Case, settings: ToyboxExact) -> ToyboxExact:
    """Exact scores of a case's figure, as seen by its camera, with its pictures rendered."""
    found = settings.about(case.source, case.camera, [case.prompt, case.source_prompt])
    found.encode_prompt([case.prompt])
    return found


def _left(folder: RunFolder, meta: Mapping[str, Any]) -> tuple[Tensor | None, float]:
    """The images of a chunk that is done already, and the seconds it took."""
    if not folder.checkpoint.is_file():
        return None, 0.0
    tensors, found = load_checkpoint(folder.checkpoint)
    seconds = as_number(found.pop("seconds", 0.0)) or 0.0
    return (tensors.get("images"), seconds) if found == meta else (None, 0.0)


def _edit_chunk(
    cases: Sequence[Case],
    backbone: Backbone,
    loss: Loss,
    folder: RunFolder,
    *,
    steps: int,
    lr: float,
    seed: int = 0,
    lr_schedule: str = "constant",
    located: bool = False,
    everywhere: float | None = None,
) -> Tensor:
    sources = pictures(cases, "source", backbone.resolution).to(backbone.device)
    with torch.no_grad():
        batch = LatentBatch(backbone.encode_image(sources), backbone)
    scene = _Batch()
    prompts = [case.prompt for case in cases], [case.source_prompt for case in cases]
    loss.begin(backbone, prompt=prompts[0], source=prompts[1])
    texts = [_encoded(backbone, cases, words) for words in prompts]
    if located:
        scene.limits = {"cases": _limits(sources, backbone, texts, seed, everywhere)}
    objective = EditObjective(scene, batch, backbone, loss, *texts)
    stage = Stage(
        "edit",
        objective,
        steps,
        lambda groups: torch.optim.Adam(groups, lr=lr),
        schedule=lr_schedule,
    )
    trainer = Trainer([stage], folder, seed=seed, checkpoint_every=0, log_every=10)
    if trainer.run() != "done":
        raise KeyboardInterrupt  # what is half edited must not be taken for a result
    with torch.no_grad():
        images = batch.images()
    if located:
        images = torch.where(scene.limits["cases"] > 0.5, images, sources)
    return images.cpu()


def _encoded(backbone: Backbone, cases: Sequence[Case], prompts: Sequence[str]) -> Text:
    """A prompt for each case, and where its camera is, as `pds edit` tells a backbone."""
    text = backbone.encode_prompt(prompts)
    if not backbone.knows_cameras:
        return text
    cameras = [case.camera for case in cases]
    told = [(text[i : i + 1], c.azimuth, c.elevation) for i, c in enumerate(cameras)]
    return Text.cat([backbone.with_camera(*each) for each in told])


def _limits(
    sources: Tensor,
    backbone: Backbone,
    texts: Sequence[Text],
    seed: int,
    everywhere: float | None,
) -> Tensor:
    """Where each source [N,3,S,S] may change, [N,1,S,S] of 0 and 1; see `locate`."""
    generator = step_generator(seed, "mask", 0)
    tgt, src = texts
    found = locate(backbone, backbone.encode_image(sources), tgt, src, generator, everywhere)
    return F.interpolate(found, sources.shape[-2:], mode="nearest")


def _redraw_chunk(
    cases: Sequence[Case],
    backbone: Backbone,
    editor: Editor,
    *,
    seed: int = 0,
    located: bool = False,
    everywhere: float | None = None,
) -> Tensor:
    """What an editor makes of each case, without a loss."""
    sources = pictures(cases, "source", backbone.resolution).to(backbone.device)
    prompts = [[getattr(case, name) for case in cases] for name in ("prompt", "source_prompt")]
    editor.begin(prompt=prompts[0], source=prompts[1])
    texts = [_encoded(backbone, cases, words) for words in prompts]
    generator = step_generator(seed, "editor", 0)
    images = editor.edit(backbone, sources, sources, *texts, generator=generator)
    if located:
        limits = _limits(sources, backbone, texts, seed, everywhere)
        images = torch.where(limits > 0.5, images, sources)
    return images.cpu()
