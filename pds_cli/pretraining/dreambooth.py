"""DreamBooth: a backbone learns a subject from a few pictures, under a word of its own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.lora import add_lora
from pds_cli.backbones.precision import mixed, prepare
from pds_cli.backbones.sampling import sample
from pds_cli.errors import UserError
from pds_cli.files import write_text
from pds_cli.pictures.files import read_picture, resize
from pds_cli.training.trainer import Objective

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
ADAPTER = "subject"
RECORD = "finetuned.json"


def read_pictures(folder: str, side: int) -> Tensor:
    """The pictures of a folder, their middle squares at `side` pixels, [N,3,side,side] in [0,1].

    Raises:
        UserError: no such folder, no pictures in it, or a damaged one.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"images={folder} is no folder; name one with pictures of the subject")
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in PICTURES)
    if not files:
        raise UserError(f"images={folder} holds no pictures ({', '.join(PICTURES)})")
    found = []
    for file in files:
        image = read_picture(file)
        height, width = image.shape[-2:]
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        found.append(resize(image[:, top : top + edge, left : left + edge], side, side))
    return torch.stack(found)


def trainable_unet(backbone: Backbone, method: str, rank: int) -> Any:
    """The backbone's UNet with parameters to train: a LoRA on its attention, or all.

    Raises:
        UserError: a backbone without a UNet, or weights in half precision for `full`.
    """
    unet = backbone.denoiser()
    if unet is None:
        raise UserError("this backbone has no UNet to finetune: use toybox, emoji, sd15, local, …")
    if method == "lora":
        add_lora(unet, ADAPTER, rank, "gaussian")
        return unet
    if next(unet.parameters()).dtype != torch.float32:
        raise UserError("method=full trains the weights themselves: give backbone.dtype=float32")
    unet.requires_grad_(True)
    return unet


def add_words(backbone: Any, prompt: str) -> list[str]:
    """Adds a prompt's unknown words to an embedded backbone's vocabulary; returns them.

    A new word begins near the mean of all, at a place of its own. Backbones that read parts of
    words need none of this.
    """
    if not isinstance(backbone, EmbeddedBackbone):
        return []
    words = list(backbone.unknown_words(prompt))
    if not words:
        return []
    backbone.tokenizer.add_tokens(words)
    old = backbone.text_encoder.get_input_embeddings().weight.detach()
    generator = torch.Generator().manual_seed(len(old))
    noise = torch.randn(len(words), old.shape[1], generator=generator)
    fresh = old.mean(0) + noise.to(old) * old.std(0)
    backbone.text_encoder.resize_token_embeddings(len(backbone.tokenizer), mean_resizing=False)
    with torch.no_grad():
        backbone.text_encoder.get_input_embeddings().weight[len(old) :] = fresh
    backbone.text_encoder.requires_grad_(False)
    return words


class DreamBoothObjective(Objective):
    """Denoises the subject under its prompt, and samples of its class under theirs.

    Loss: mean ‖ε̂(x_t, subject) − ε‖² + prior_weight · mean ‖ε̂(x_t', class) − ε'‖², t uniform.
    The second term keeps what the backbone knows of the class (prior preservation). The text
    encoder stays as it is.

    Args:
        backbone: predicts ε̂, with a graph through `unet`.
        unet: from `trainable_unet`.
        x0: the subject's latents [N,C,h,w].
        x0_class: those of the class's samples [M,C,h,w]; None for no prior preservation.
        text, text_class: their encoded prompts, one each.
        precision: `float32` or `bfloat16`, of the products of a UNet in single precision.

    Source: Ruiz et al., DreamBooth, CVPR 2023, arXiv 2208.12242, eq. 2.
    """

    def __init__(
        self,
        backbone: Backbone,
        unet: Any,
        x0: Tensor,
        text: Text,
        x0_class: Tensor | None = None,
        text_class: Text | None = None,
        *,
        prior_weight: float = 1.0,
        batch_size: int = 1,
        precision: str = "float32",
    ) -> None:
        self.backbone, self.unet = backbone, unet
        # Weights in half precision multiply in their own.
        single = next(unet.parameters()).dtype == torch.float32
        self.precision = precision if single else "float32"
        self.x0, self.text, self.x0_class, self.text_class = x0, text, x0_class, text_class
        self.prior_weight, self.batch_size = prior_weight, batch_size

    def begin(self) -> None:
        prepare(self.precision, self.backbone.device, [self.unet])

    def _trained(self) -> dict[str, Tensor]:
        return {k: p for k, p in self.unet.named_parameters() if p.requires_grad}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self._trained().values())}]

    def loss(
        self, step: int, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        subject = self._error(self.x0, self.text, generator)
        logs = {"subject": float(subject.detach())}
        if self.x0_class is None or self.text_class is None:
            return subject, logs
        prior = self._error(self.x0_class, self.text_class, generator)
        return subject + self.prior_weight * prior, {**logs, "prior": float(prior.detach())}

    def _error(self, x0: Tensor, text: Text, generator: torch.Generator) -> Tensor:
        """Mean squared error of ε̂ on random draws from x0."""
        chosen = x0[torch.randint(len(x0), (self.batch_size,), generator=generator)]
        steps = self.backbone.schedule.num_train_timesteps
        t = torch.randint(steps, (self.batch_size,), generator=generator).to(chosen.device)
        eps = torch.randn(chosen.shape, generator=generator).to(chosen)
        x_t = self.backbone.add_noise(chosen, t, eps)
        with mixed(self.precision, self.backbone.device):
            found = self.backbone.predict_eps(x_t, t, text.expand(self.batch_size).cond)
        return (found - eps).float().square().mean()

    def state_dict(self) -> dict[str, Tensor]:
        return {k: p.detach() for k, p in self._trained().items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self._trained().items():
            parameter.copy_(state[name])


@torch.no_grad()
def class_latents(
    backbone: Backbone, prompt: str, count: int, *, guidance: float, seed: int, steps: int = 30
) -> tuple[Tensor, Tensor]:
    """`count` samples of the class prompt: their latents [M,C,h,w], and pictures."""
    images = sample(backbone, prompt, count, steps=steps, guidance=guidance, seed=seed)
    return backbone.encode_image(images.to(backbone.device)), images


def save_backbone(backbone: Any, folder: Path, record: str) -> None:
    """Writes the finetuned backbone as a folder of its own, a LoRA merged into the weights.

    Args:
        record: JSON that says what it was trained on, kept beside it.

    Raises:
        UserError: weights are not finite, or the folder cannot be written.
    """
    unet = backbone.unet
    if ADAPTER in getattr(unet, "peft_config", {}):
        unet.fuse_lora()
        unet.unload_lora()
    if not all(bool(parameter.isfinite().all()) for parameter in unet.parameters()):
        raise UserError("training left weights that are no finite numbers: give a lower lr=")
    if isinstance(backbone, EmbeddedBackbone):
        from pds_cli.pretraining.components import Components, save_components

        parts = (unet, backbone.text_encoder, backbone.tokenizer, backbone.vae)
        save_components(Components(*parts, backbone.schedule.alphas_cumprod.cpu()), folder)
    else:
        _copy_with_unet(backbone, folder)
    write_text(folder / RECORD, record)


def _copy_with_unet(backbone: Any, folder: Path) -> None:
    """A copy of a checkpoint in diffusers format, with another UNet."""
    try:
        shutil.copytree(
            backbone.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("unet")
        )
        shutil.rmtree(folder / "unet", ignore_errors=True)
        backbone.unet.save_pretrained(folder / "unet")
    except OSError as error:
        raise UserError(f"the backbone cannot be written to {folder} ({error})") from error


def preview_sheet(
    backbone: Backbone, prompts: Sequence[str], columns: int, guidance: float, seed: int
) -> Image.Image:
    """A sheet of samples, a row for each prompt."""
    from pds_cli.pictures.sheets import contact_sheet

    rows = [
        torch.cat(list(sample(backbone, prompt, columns, guidance=guidance, seed=seed)), 2)
        for prompt in prompts
    ]
    return contact_sheet(rows, 1, list(prompts))
