"""Measures a toybox backbone and the edits made with it; run by `pds compare benchmark=…`."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.sampling import ddim, noise
from pds_cli.benchmarks.jobs import chosen
from pds_cli.editors.base import Editor
from pds_cli.errors import UserError
from pds_cli.evaluation.table import bootstrap
from pds_cli.files import write_text
from pds_cli.instantiate import instantiate
from pds_cli.losses.base import Loss
from pds_cli.markdown import table
from pds_cli.metrics.lpips import lpips
from pds_cli.metrics.psnr import psnr
from pds_cli.pictures.sheets import contact_sheet, save_image
from pds_cli.progress import Progress
from pds_cli.representations.base import Representation
from pds_cli.runs.checkpoint import load_checkpoint, save_checkpoint
from pds_cli.runs.folder import RunFolder, check_seeds, seed_folder
from pds_cli.runs.record import number as as_number
from pds_cli.scenes.base import Scene
from pds_cli.seeds import step_generator
from pds_cli.toybox.cases import FIGURES, TUNING_FIGURES, Case, all_cases
from pds_cli.toybox.gallery import picture
from pds_cli.toybox.probe import Probe, load_probe
from pds_cli.toybox.world import ATTRIBUTES, caption, mentioned, random_figure, random_mentions
from pds_cli.training.distillation import EditObjective
from pds_cli.training.trainer import Stage, Trainer
from pds_cli.views.view import View

TITLES = {
    "success": "success ↑",
    "kept": "kept ↑",
    "lpips_truth": "LPIPS to truth ↓",
    "psnr_truth": "PSNR to truth ↑",
    "lpips_source": "LPIPS to source",
}


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


def pictures(cases: Iterable[Case], which: str) -> Tensor:
    """The `source` or `target` pictures [N,3,64,64] in [0,1] of the cases."""
    found = [picture(getattr(case, which), case.camera) for case in cases]
    return torch.from_numpy(np.stack(found)).movedim(-1, 1).float() / 255


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
    """Edits every case with one method; returns the images [N,3,64,64] in [0,1] and the seconds.

    Chunks are independent runs of the trainer in `run.path/<number>`. With a `key` (what the
    result depends on, beside cases and options) a chunk that an interrupted run left there is
    taken over when its key is the same.
    """
    edited, seconds = [], 0.0
    for first in range(0, len(cases), chunk):
        part = cases[first : first + chunk]
        folder = RunFolder(run.path / f"{first:03d}")
        meta = {"key": key, "options": options, "cases": [repr(case) for case in part]}
        meta = json.loads(json.dumps(meta, default=str))
        images, took = _left(folder, meta) if key is not None else (None, 0.0)
        if images is None:
            started = time.monotonic()
            if isinstance(method, Editor):
                images = _redraw_chunk(part, backbone, method, seed=options.get("seed", 0))
            else:
                images = _edit_chunk(part, backbone, method, folder, **options)
            took = time.monotonic() - started
            if key is not None:
                save_checkpoint(folder.checkpoint, {"images": images}, {**meta, "seconds": took})
        edited.append(images)
        seconds += took
    return torch.cat(edited), seconds


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
) -> Tensor:
    sources = pictures(cases, "source").to(backbone.device)
    with torch.no_grad():
        batch = LatentBatch(backbone.encode_image(sources), backbone)
    prompts = [case.prompt for case in cases], [case.source_prompt for case in cases]
    loss.begin(backbone, prompt=prompts[0], source=prompts[1])
    texts = [backbone.encode_prompt(words) for words in prompts]
    objective = EditObjective(_Batch(), batch, backbone, loss, *texts)
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
        return batch.images().cpu()


def _redraw_chunk(
    cases: Sequence[Case], backbone: Backbone, editor: Editor, *, seed: int
) -> Tensor:
    """What an editor makes of each case, without a loss."""
    sources = pictures(cases, "source").to(backbone.device)
    prompts = [[getattr(case, name) for case in cases] for name in ("prompt", "source_prompt")]
    editor.begin(prompt=prompts[0], source=prompts[1])
    texts = [backbone.encode_prompt(words) for words in prompts]
    generator = step_generator(seed, "editor", 0)
    return editor.edit(backbone, sources, sources, *texts, generator=generator).cpu()


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
    """What each edit reached: see `TITLES` and `attribute_scores`."""
    truths, sources = pictures(cases, "target"), pictures(cases, "source")
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


def _weights(module: torch.nn.Module) -> float:
    """A number that differs where the weights do."""
    return float(sum(p.double().sum() for p in module.parameters()))


def means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each column."""
    return {name: sum(s[name] for s in scores) / len(scores) for name in TITLES}


def balance(score: Mapping[str, float]) -> float:
    """Harmonic mean of success and kept: what the sweep maximises."""
    a, b = score["success"], score["kept"]
    return 2 * a * b / (a + b) if a + b else 0.0


def grid(options: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the options' values."""
    names = list(options)
    return [dict(zip(names, v, strict=True)) for v in itertools.product(*options.values())]


class EditBenchmark:
    """Twelve kinds of edit on eight figures for several losses, each at its best settings.

    A sweep on figures that the benchmark does not use picks each method's settings by the
    harmonic mean of success and kept attributes; then all 96 cases are edited and scored.

    A run that was interrupted goes on where it was when it is started again with the same `out=`.

    Args:
        methods: name → node with a `_target_`, of a loss or of an editor.
        sweep: name → option of the loss → values to try; empty: take `methods` as they are.
        steps, lr: Adam steps of an edit, and the step size.
        edits: kinds of edit to run; None: all.
        figures: how many of the eight figures to run.
        rotate: each kind of edit on one of them, a figure further each time; else on all of them.
        only: names of methods, where not all of `methods` are to run.
        tuning_figures: how many tuning figures the sweep uses.
        seed: of every edit, and of the sweep's.
        seeds: how many seeds the cases are edited with, from `seed` on; scores are means over
            them, with intervals by bootstrap over cases and seeds.
        lr_schedule: of the step size: constant, linear or cosine.
        allow_modules: modules of your own that a method may come from.
    """

    def __init__(
        self,
        methods: Mapping[str, Mapping[str, Any]],
        sweep: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
        *,
        steps: int = 200,
        lr: float = 0.03,
        edits: Sequence[str] | None = None,
        figures: int = 8,
        rotate: bool = False,
        only: Sequence[str] | None = None,
        tuning_figures: int = 2,
        seed: int = 0,
        seeds: int = 1,
        lr_schedule: str = "constant",
        allow_modules: Sequence[str] = (),
    ) -> None:
        check_seeds(seeds)
        self.seeds = seeds
        self.methods, self.sweep = chosen(methods, only), dict(sweep or {})
        self.options: dict[str, Any] = {
            "steps": steps,
            "lr": lr,
            "seed": seed,
            "lr_schedule": lr_schedule,
        }
        self.allow_modules = list(allow_modules)
        self.cases = all_cases(FIGURES[:figures], edits, rotate=rotate)
        self.tuning = all_cases(TUNING_FIGURES[:tuning_figures], edits)
        if not self.cases or not self.methods:
            raise UserError("benchmark.methods, edits and figures must leave something to run")

    def run(self, backbone: Backbone, run: RunFolder) -> Path:
        """Runs everything; writes `table.md`, `results.json`, `edits.png` and a sheet a method."""
        probe = load_probe()
        tried: dict[str, list[dict[str, Any]]] = {}
        results: dict[str, Any] = {}
        edited: dict[str, Tensor] = {}
        for name, node in self.methods.items():
            best, tried[name] = self._tune(name, node, backbone, probe, run)
            folder = RunFolder(run.path / name)
            images, scores, seconds = self._score(name, {**node, **best}, backbone, probe, run)
            results[name] = {
                "settings": {k: v for k, v in {**node, **best}.items() if k != "_target_"},
                "seconds": seconds,
                "mean": means(scores),
                "interval": {c: bootstrap([s[c] for s in scores]) for c in TITLES},
                "by_edit": self._by_edit(scores),
                "cases": scores,
            }
            edited[name] = images
            self._sheet(images, folder.path / "sheet.png")
        ceiling = score_cases(pictures(self.cases, "target"), self.cases, probe)
        results["ground truth"] = {"mean": means(ceiling), "by_edit": self._by_edit(ceiling)}
        self._overview(edited, run.path / "edits.png")
        run.write_json("results.json", {"results": results, "sweep": tried})
        write_text(run.path / "table.md", markdown(results, tried))
        return run.path / "table.md"

    def _score(
        self,
        name: str,
        node: Mapping[str, Any],
        backbone: Backbone,
        probe: Probe,
        run: RunFolder,
    ) -> tuple[Tensor, list[dict[str, float]], float]:
        """The images under the first seed, the scores under all, and the seconds in all."""
        images: list[Tensor] = []
        scores: list[dict[str, float]] = []
        total = 0.0
        for number in range(self.seeds):
            folder = RunFolder(seed_folder(run.path / name, number))
            seed = self.options["seed"] + number
            found, seconds = self._edit(self.cases, node, backbone, folder, seed=seed)
            images.append(found)
            scores += score_cases(found, self.cases, probe)
            total += seconds
        return images[0], scores, total

    def _tune(
        self,
        name: str,
        node: Mapping[str, Any],
        backbone: Backbone,
        probe: Probe,
        run: RunFolder,
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The best settings of a method, and everything that was tried."""
        tried: list[dict[str, Any]] = []
        choices = grid(self.sweep.get(name, {}))
        if len(choices) < 2:
            return (choices[0] if choices else {}), tried
        for number, settings in enumerate(choices):
            folder = RunFolder(run.path / "sweep" / f"{name}_{number:02d}")
            images, _ = self._edit(self.tuning, {**node, **settings}, backbone, folder)
            score = means(score_cases(images, self.tuning, probe))
            tried.append({"settings": settings, **score, "balance": balance(score)})
            save_image(contact_sheet(list(images), 12), folder.path / "sheet.png")
            run.write_json("sweep.json", {name: tried})
        return max(tried, key=lambda t: t["balance"])["settings"], tried

    def _edit(
        self,
        cases: Sequence[Case],
        node: Mapping[str, Any],
        backbone: Backbone,
        run: RunFolder,
        **options: Any,
    ) -> tuple[Tensor, float]:
        method = instantiate(("loss", "editor"), node, allow_modules=self.allow_modules)
        key: dict[str, Any] = {"loss": node, "weights": _weights(backbone)}
        if isinstance(own := getattr(method, "model", None), torch.nn.Module):
            key["own_weights"] = _weights(own)
        return edit_cases(cases, backbone, method, run, key=key, **{**self.options, **options})

    def _by_edit(self, scores: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
        kinds = dict.fromkeys(case.kind for case in self.cases)
        # Under several seeds the cases come again and again.
        cases = list(self.cases) * (len(scores) // len(self.cases))
        return {
            kind: means([s for s, c in zip(scores, cases, strict=True) if c.kind == kind])
            for kind in kinds
        }

    def _sheet(self, images: Tensor, path: Path) -> None:
        """Source, result and truth of every case, a row a kind of edit."""
        sources, truths = pictures(self.cases, "source"), pictures(self.cases, "target")
        shown = [picture for trio in zip(sources, images, truths, strict=True) for picture in trio]
        per_kind = len(self.cases) // len({case.kind for case in self.cases})
        save_image(contact_sheet(shown, 3 * per_kind), path)

    def _overview(self, edited: Mapping[str, Tensor], path: Path) -> None:
        """One case a kind of edit, a figure further each time: source, methods, truth."""
        per_kind = len(self.cases) // len({case.kind for case in self.cases})
        picked = [i for i in range(len(self.cases)) if i % per_kind == i // per_kind % per_kind]
        sources, truths = pictures(self.cases, "source"), pictures(self.cases, "target")
        columns = {"source": sources, **edited, "true edit": truths}
        shown = [images[i] for i in picked for images in columns.values()]
        labels = [self.cases[i].kind if n == "source" else n for i in picked for n in columns]
        save_image(contact_sheet(shown, len(columns) * (2 if len(picked) > 6 else 1), labels), path)


def markdown(results: Mapping[str, Any], tried: Mapping[str, Any]) -> str:
    """The benchmark's tables."""
    means = (
        [name, _settings(result), *(_interval(result, column) for column in TITLES)]
        for name, result in results.items()
    )
    methods = [name for name in results if name != "ground truth"]
    by_edit = []
    for kind in results[methods[0]]["by_edit"]:
        cells = [results[name]["by_edit"][kind] for name in methods]
        by_edit.append([kind, *(f"{c['success']:.2f} / {c['lpips_truth']:.3f}" for c in cells)])
    parts = [
        table(["method", "settings", *TITLES.values()], means),
        "Success and LPIPS to truth by kind of edit:",
        table(["edit", *methods], by_edit),
    ]
    if any(tried.values()):
        parts += ["The sweep, on the tuning figures:", _sweep_table(tried)]
    return "\n\n".join(parts) + "\n"


def _sweep_table(tried: Mapping[str, Any]) -> str:
    shown = ("success", "kept", "lpips_truth", "balance")
    return table(
        ["method", "settings", *(TITLES.get(column, f"{column} ↑") for column in shown)],
        (
            [name, _settings(row), *(f"{row[column]:.3f}" for column in shown)]
            for name, rows in tried.items()
            for row in rows
        ),
    )


def _settings(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in result.get("settings", {}).items())


def _interval(result: Mapping[str, Any], column: str) -> str:
    """A mean, with its interval where there is one."""
    text = f"{result['mean'][column]:.3f}"
    if "interval" not in result:
        return text
    low, high = result["interval"][column]
    return f"{text} [{low:.3f}, {high:.3f}]"


class CaptionBenchmark:
    """Does the backbone draw what captions say? Random captions, sampled and read by the probe.

    Args:
        count: random captions.
        steps: DDIM steps.
        guidance: ω.
    """

    def __init__(
        self, count: int = 256, *, steps: int = 30, guidance: float = 3.0, seed: int = 1
    ) -> None:
        self.count, self.steps, self.guidance, self.seed = count, steps, guidance, seed

    @torch.no_grad()
    def run(self, backbone: EmbeddedBackbone, run: RunFolder, batch: int = 32) -> Path:
        """Writes `table.md`, `results.json` and `sheet.png`; returns the table's path."""
        rng = np.random.default_rng(self.seed)
        figures = [random_figure(rng) for _ in range(self.count)]
        said = [random_mentions(figure, rng) for figure in figures]
        captions = [caption(f, s) for f, s in zip(figures, said, strict=True)]
        images = self._draw(backbone, captions, batch)
        found = load_probe().classify(images)
        right, total = dict.fromkeys(ATTRIBUTES, 0), dict.fromkeys(ATTRIBUTES, 0)
        for figure, names, seen in zip(figures, said, found, strict=True):
            for name, value in mentioned(figure, names).items():
                right[name] += seen[name] == value
                total[name] += 1
        rates = {name: right[name] / max(1, total[name]) for name in ATTRIBUTES}
        rates["all"] = sum(right.values()) / sum(total.values())
        run.write_json("results.json", rates)
        rows = table(["attribute", "found"], ([name, f"{r:.3f}"] for name, r in rates.items()))
        write_text(run.path / "table.md", rows + "\n")
        save_image(contact_sheet(list(images[:64]), 8, captions[:64]), run.path / "sheet.png")
        return run.path / "table.md"

    def _draw(self, backbone: EmbeddedBackbone, captions: list[str], batch: int) -> Tensor:
        images = []
        shape = backbone.latent_shape
        with Progress("sampling", len(captions)) as progress:
            for first in range(0, len(captions), batch):
                part = captions[first : first + batch]
                x_t = noise(shape, self.seed, first, len(part)).to(backbone.device)
                text = backbone.encode_prompt(part)
                x0 = ddim(backbone, x_t, text, steps=self.steps, guidance=self.guidance)
                images.append(backbone.decode_latent(x0).clamp(0, 1).cpu())
                progress.update(first + len(part))
        return torch.cat(images)
