"""The recipe behind `pds pretrain`: data → stages → a backbone folder with a sample sheet.

Stages: `probe` (attribute classifier, toybox only), `decode` (the autoencoder's decoder),
`denoise` (UNet and text encoder) and `similarity` (of pictures and captions, icons only). Each
is independent of the others, so they may also be run one by one into the same backbone folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from pds_cli.backbones.base import resolve_device
from pds_cli.backbones.embedded import INDEX, EmbeddedBackbone, EmbeddedInstructModel, folder_of
from pds_cli.backbones.precision import resolve_precision
from pds_cli.backbones.sampling import ddim, noise
from pds_cli.backbones.schedule import Schedule
from pds_cli.errors import UserError
from pds_cli.options.pretraining import STAGES
from pds_cli.pictures.captioned import CaptionedImages, DrawnImages, load_captioned_images
from pds_cli.pictures.files import write_image
from pds_cli.pretraining.adapter import (
    adapted_components,
    adapter_of,
    adapting,
    check_adapter,
    save_adapter,
)
from pds_cli.pretraining.components import (
    Components,
    build_components,
    check_backbone_target,
    load_components,
    save_components,
)
from pds_cli.pretraining.objectives import (
    ClassificationObjective,
    ContrastiveObjective,
    DecodingObjective,
    DenoisingObjective,
    InstructObjective,
)
from pds_cli.progress import Progress
from pds_cli.runs.folder import RunFolder
from pds_cli.runs.settings import fingerprint
from pds_cli.toybox.world import vocabulary
from pds_cli.training.trainer import Objective, Stage, Trainer

HELD_OUT = 1000


def prepare_data(cfg: DictConfig) -> CaptionedImages:
    """Loads the captioned folder, rendering the toybox's first where that is asked for."""
    folder, data = Path(cfg.data.folder), cfg.data
    if data.icons:
        from pds_cli.emoji.data import make_dataset as draw_icons

        draw_icons(folder, data.icons, data.per_drawing, cfg.size, data.seed)
    elif data.toybox:
        from pds_cli.toybox.data import make_dataset

        with Progress("rendering", data.images) as progress:
            make_dataset(folder, data.images, cfg.size, on_image=progress.update, **_toybox(cfg))
    found = load_captioned_images(folder, cfg.size)
    if not data.pairs:
        return replace(found, sources=None)
    if found.sources is None:
        raise UserError(f"data.pairs=true needs a source of each picture, and {folder} names none")
    return found


def _toybox(cfg: DictConfig) -> dict[str, Any]:
    """What toybox pictures depend on beside their number and size."""
    return {key: cfg.data[key] for key in ("seed", "around", "views", "pairs")}


def drawn_without_end(cfg: DictConfig, there: CaptionedImages, first: int) -> CaptionedImages:
    """The pictures to train on, with `data.fresh` new ones a step, numbered from `first` on."""
    data = cfg.get("data")
    if not data or not data.fresh:
        return there
    from pds_cli.toybox.data import ToyPainter

    painter = ToyPainter(Path(data.folder), cfg.size, **_toybox(cfg))
    return DrawnImages(there, painter, data.fresh, first)


def split(data: CaptionedImages, held_out: int) -> tuple[CaptionedImages, CaptionedImages]:
    """The training part and the last `held_out` pictures (at most a tenth)."""
    cut = len(data) - min(held_out, len(data) // 10)
    return data.part(slice(cut)), data.part(slice(cut, None))


def check_stages(stages: Sequence[str]) -> None:
    """Refuses stages that there are not, and none at all.

    Raises:
        UserError: naming those that there are.
    """
    if not stages or any(stage not in STAGES for stage in stages):
        raise UserError(f"stages={list(stages)}: choose from {', '.join(STAGES)}")


def check_recipe(cfg: DictConfig) -> None:
    """Refuses, before hours of work, what would be refused after them.

    Raises:
        UserError: stages that there are not, new pictures of what is not drawn, a folder `into`
            that holds something else or cannot be written, or no backbone at `init`; see also
            `check_adapter`.
    """
    check_stages(cfg.stages)
    if cfg.init and not (folder_of(cfg.init) / INDEX).is_file():
        raise UserError(
            f"init={cfg.init} holds no backbone: give a folder that pds pretrain wrote."
        )
    if cfg.data.fresh and (cfg.data.icons or not cfg.data.toybox):
        raise UserError(
            f"data.fresh={cfg.data.fresh} draws further toybox pictures: it needs data.toybox=true "
            "and no data.icons"
        )
    _check_branch(cfg)
    if adapting(cfg):
        check_adapter(cfg)
    else:  # sizes that fit nothing, before pictures are drawn
        model: Any = OmegaConf.to_container(cfg.model, resolve=True)
        build_components(model, cfg.size, ["a"])
    into = Path(cfg.into)
    further = cfg.init is not None and Path(cfg.init).resolve() == into.resolve()
    kept = "denoise" not in cfg.stages or further or cfg.get("resume") is not None
    check_backbone_target(into, replaces=kept or cfg.get("overwrite", False))


def _check_branch(cfg: DictConfig) -> None:
    if cfg.denoise.trains != "branch" or "denoise" not in cfg.stages:
        return
    if adapting(cfg) or not cfg.model.unet.fine_width:
        raise UserError(
            "denoise.trains=branch trains the branch of a UNet, and this one has none: give "
            "model.unet.fine_width=64, without an adapter"
        )


class Recipe:
    """Everything one `pds pretrain` run needs, built from its configuration."""

    def __init__(self, cfg: DictConfig, data: CaptionedImages) -> None:
        check_stages(cfg.stages)
        self.cfg, self.device = cfg, resolve_device(cfg.device)
        self.precision = resolve_precision(cfg.get("precision", "auto"), self.device)
        train, self.held_out = split(data, HELD_OUT)
        self.train = drawn_without_end(cfg, train, len(data))
        torch.manual_seed(cfg.seed)
        model: dict[str, Any] = OmegaConf.to_container(cfg.model, resolve=True)  # type: ignore[assignment]
        every_caption = [c for texts in data.captions for c in texts]
        inputs = 1 if data.sources is None else 2
        if adapting(cfg):
            self.parts = adapted_components(cfg, every_caption, inputs)
        else:
            if isinstance(self.train, DrawnImages):  # the first few may not hold every word
                every_caption += vocabulary()
            self.parts = build_components(model, cfg.size, every_caption, image_inputs=inputs)
            self._begin_with(cfg.init, float(model["autoencoder"].get("whiten", 0.5)))
        modules: list[Any] = [self.parts.unet, self.parts.text_encoder, self.parts.autoencoder]
        for module in modules:
            module.to(self.device)
        self.probe: Any = None
        self.similarity: Any = None

    def _begin_with(self, init: str | None, whiten: float) -> None:
        """Another backbone's weights, its latents too, as a UNet knows no others; or fresh ones."""
        if init:
            load_components(self.parts, Path(init), sample=self._sample, whiten=whiten)
        else:
            images = self._sample()
            self.parts.autoencoder.fit_components(images, whiten)
            if hasattr(self.parts.unet, "fine"):
                self.parts.unet.fine.set_maps(self.parts.autoencoder, images, whiten)

    def _sample(self) -> Tensor:
        """Images for the encoder, always the same, so that every run from nothing gets the same."""
        index = torch.arange(0, len(self.train), max(1, len(self.train) // 2000))
        return self.train.batch(index)

    def stages(self) -> list[Stage]:
        """The stages of the run, in order."""
        build: dict[str, Callable[[], Objective]] = {
            "probe": self._probe,
            "decode": self._decode,
            "denoise": self._denoise,
            "similarity": self._similarity,
        }
        return [self._stage(name, build[name]()) for name in self.cfg.stages]

    def _stage(self, name: str, objective: Objective) -> Stage:
        options = self.cfg[name]
        lr, decay = options.lr, options.weight_decay
        return Stage(
            name,
            objective,
            steps=options.steps,
            optimizer=lambda groups: torch.optim.AdamW(
                groups, lr=lr, weight_decay=decay, betas=(0.9, 0.99)
            ),
            schedule="cosine",
            warmup=min(options.warmup, options.steps // 4),
            lr_end=0.02,
            clip_norm=1.0,
        )

    def _denoise(self) -> Objective:
        parts, options = self.parts, self.cfg.denoise
        if options.trains == "branch":
            for module in (parts.unet, parts.text_encoder):
                module.requires_grad_(False)
            parts.unet.fine.requires_grad_(True)
        kind, more = DenoisingObjective, {}
        if self.train.sources is not None:
            kind, more = InstructObjective, {"drop_source": options.drop_source}
        return kind(
            parts.unet,
            parts.text_encoder,
            parts.tokenize,
            parts.autoencoder,
            self.train,
            Schedule(parts.alphas_cumprod),
            batch_size=options.batch_size,
            drop=options.drop,
            drop_camera=options.drop_camera,
            high_noise=options.high_noise,
            high_noise_from=options.high_noise_from,
            decay=options.decay,
            device=self.device,
            precision=self.precision,
            preview=self.preview,
            **more,
        )

    def _decode(self) -> Objective:
        options = self.cfg.decode
        return DecodingObjective(
            self.parts.autoencoder,
            self.train,
            batch_size=options.batch_size,
            noise=options.noise,
            decay=options.decay,
            device=self.device,
            precision=self.precision,
        )

    def _probe(self) -> Objective:
        from pds_cli.toybox.probe import Probe, augment, probe_labels

        options = self.cfg.probe
        self.probe = Probe().to(self.device)
        return ClassificationObjective(
            self.probe,
            self.train,
            probe_labels,
            augment=augment,
            batch_size=options.batch_size,
            decay=options.decay,
            device=self.device,
        )

    def _similarity(self) -> Objective:
        from pds_cli.emoji.similarity import IconSimilarity, icon_labels
        from pds_cli.toybox.probe import augment

        options = self.cfg.similarity
        captions = (c for texts in [*self.train.captions, *self.held_out.captions] for c in texts)
        self.similarity = IconSimilarity.reading(captions).to(self.device)
        return ContrastiveObjective(
            self.similarity,
            self.train,
            icon_labels,
            augment=augment,
            batch_size=options.batch_size,
            decay=options.decay,
            device=self.device,
        )

    @torch.no_grad()
    def preview(self) -> dict[str, Tensor]:
        """A sheet [3,H,W]: samples for the configuration's prompts or, of pairs, edits."""
        if self.train.sources is not None:
            return {"samples": self._edits()}
        prompts = [p for p in self.cfg.preview.prompts for _ in range(self.cfg.preview.columns)]
        if not prompts:
            return {}
        backbone = EmbeddedBackbone.of(self.parts)
        preview = self.cfg.preview
        x_t = noise(backbone.latent_shape, 0, 0, len(prompts)).to(self.device)
        text = backbone.encode_prompt(prompts)
        x0 = ddim(backbone, x_t, text, steps=preview.steps, guidance=preview.guidance)
        images = backbone.decode_latent(x0).cpu()
        columns = self.cfg.preview.columns
        rows = [torch.cat(list(images[i : i + columns]), 2) for i in range(0, len(images), columns)]
        return {"samples": torch.cat(rows, 1).clamp(0, 1)}

    def _edits(self) -> Tensor:
        """Held-out sources, what the model makes of them, and the true edits: [3,H,W]."""
        preview, data = self.cfg.preview, self.held_out
        count = min(2 * preview.columns, len(data))
        if not count:
            return torch.zeros(3, 1, 1)
        index, model = torch.arange(count), EmbeddedInstructModel.of(self.parts)
        source = ((data.source_batch(index) + 1) / 2).to(self.device)
        text = model.encode_prompt([data.captions[i][0] for i in range(count)])
        x_t = noise(model.latent_shape, 0, 0, count).to(self.device)
        looked_at, scales = model.look(model.encode_image(source)), (preview.guidance, 1.5)
        x0 = ddim(
            model, x_t, text, steps=preview.steps,
            predict=lambda x_t, t: model.predict_edit(x_t, t, text, looked_at, *scales),
        )  # fmt: skip
        shown = (source, model.decode_latent(x0), (data.batch(index) + 1) / 2)
        return torch.cat([torch.cat(list(row.cpu()), 2) for row in shown], 1).clamp(0, 1)

    # ------------------------------------------------------------------ results
    def write(self, folder: Path) -> dict[str, float]:
        """Writes what the run's stages made into the backbone folder; returns their scores."""
        scores: dict[str, float] = {}
        if "probe" in self.cfg.stages and len(self.held_out):
            scores |= self._probe_scores()
        if "decode" in self.cfg.stages and len(self.held_out):
            scores["decoder_psnr"] = self._decoder_psnr()
        if {"decode", "denoise"} & set(self.cfg.stages):
            if adapting(self.cfg):
                save_adapter(self.parts.unet, adapter_of(self.cfg, self.parts), folder)
            else:
                save_components(self._with_former(folder), folder)
            for name, sheet in self.preview().items():
                write_image(folder / f"{name}.png", sheet)
        if self.probe is not None:
            from pds_cli.toybox.probe import save_probe

            save_probe(self.probe, folder / "probe.safetensors")
        if self.similarity is not None:
            from pds_cli.emoji.similarity import retrieval, save_similarity

            save_similarity(self.similarity, folder / "similarity.safetensors")
            if len(self.held_out):
                scores["retrieval"] = retrieval(self.similarity, self.held_out)
        return scores

    def _with_former(self, folder: Path) -> Components:
        """The parts, with those that no stage of this run trained taken from the folder."""
        kept = [name for name in ("decode", "denoise") if name not in self.cfg.stages]
        if kept and (folder / INDEX).is_file():
            load_components(self.parts, folder, kept)
        return self.parts

    @torch.no_grad()
    def _decoder_psnr(self) -> float:
        images = self.held_out.batch(torch.arange(min(256, len(self.held_out)))).to(self.device)
        decoded = self.parts.autoencoder.decode(self.parts.autoencoder.encode(images))
        mse = (decoded.clamp(-1, 1) - images).square().flatten(1).mean(1) / 4
        return float((-10 * torch.log10(mse)).mean())

    def _probe_scores(self) -> dict[str, float]:
        from pds_cli.toybox.probe import probe_labels

        labels = probe_labels(self.held_out.records)
        from pds_cli.toybox.world import ATTRIBUTES

        images = (self.held_out.batch(torch.arange(len(self.held_out))) + 1) / 2
        found: list[dict[str, int]] = []
        for chunk in images.split(256):
            found += self.probe.classify(chunk.to(self.device))
        scores = {}
        for a, name in enumerate(ATTRIBUTES):
            said = [i for i in range(len(labels)) if labels[i, a] >= 0]
            right = sum(found[i][name] == int(labels[i, a]) for i in said)
            scores[f"probe_{name}"] = right / max(1, len(said))
        return scores


def pretrain(
    cfg: DictConfig,
    run: RunFolder,
    loggers: Sequence[Any] = (),
    begin: Callable[[], None] = lambda: None,
) -> tuple[str, float, dict[str, float]]:
    """Runs the recipe in a run folder; one that is resumed goes on from its checkpoint.

    Args:
        begin: called when the data are there and everything is built, before the first step.

    Returns:
        (`done` or `stopped`, seconds of training, held-out scores).
    """
    check_recipe(cfg)
    recipe = Recipe(cfg, prepare_data(cfg))
    trainer = Trainer(
        recipe.stages(),
        run,
        seed=cfg.seed,
        checkpoint_every=cfg.checkpoint_every,
        render_every=cfg.render_every,
        log_every=cfg.log_every,
        fingerprint=fingerprint(cfg),
        loggers=loggers,
    )
    goes_on = bool(cfg.get("resume")) and run.checkpoint.is_file()
    if goes_on:
        trainer.resume(rewind=False)  # a checkpoint that does not fit is refused first
    begin()
    if goes_on:
        trainer.rewind()
    else:
        run.restart()
    status = trainer.run()
    if status != "done":
        return status, trainer.seconds, {}
    return status, trainer.seconds, recipe.write(Path(cfg.into))
