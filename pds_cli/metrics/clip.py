"""CLIP scores of pictures: likeness to a prompt, and to the direction of an edit."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pds_cli.backbones.base import resolve_device
from pds_cli.errors import UserError
from pds_cli.reading import read_json

# Of OpenAI's models; a checkpoint's own preprocessor_config.json replaces them.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
STILL = 1e-5  # a difference of unit vectors that is rounding
HOW = (
    "give a folder with a CLIP model in transformers format: where there is network, "
    "`hf download openai/clip-vit-large-patch14 --local-dir clip`, then clip=clip"
)


class Clip:
    """A CLIP model: unit embeddings of pictures and of prompts.

    Numbers of different models have different scales and must not be mixed; `name` and
    `fingerprint` say which one made them.

    Args:
        model: hub id, or folder in transformers format.
        device: auto, cpu, cuda, …

    Raises:
        UserError: there is no such model, or it is none of CLIP.

    Source: Radford et al., CLIP, ICML 2021, arXiv 2103.00020.
    """

    def __init__(self, model: str, *, device: str = "auto") -> None:
        from transformers import AutoTokenizer, CLIPModel
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        folder = Path(model).expanduser()
        where = str(folder) if folder.is_dir() else model
        try:
            network: Any = CLIPModel.from_pretrained(where, use_safetensors=True)
            tokenizer: Any = AutoTokenizer.from_pretrained(where)
        except Exception as error:  # the libraries raise many kinds
            text = str(error).strip()
            reason = text.splitlines()[0] if text else repr(error)
            raise UserError(f"clip={model} cannot be loaded ({reason}); {HOW}") from error
        self.name, self.device = model, resolve_device(device)
        self.network, self.tokenizer = network.to(self.device).eval(), tokenizer
        self.size = int(network.config.vision_config.image_size)
        self.mean, self.std = _normalisation(folder)
        weights = network.visual_projection.weight.detach().float().cpu().numpy().tobytes()
        self.fingerprint = hashlib.sha256(weights).hexdigest()[:12]

    @torch.no_grad()
    def image(self, images: Tensor) -> Tensor:
        """Unit embeddings [B,D] of images [B,3,H,W] in [0,1].

        The shorter side is resized to the model's (bicubic, antialiased), the middle cut out.
        """
        height, width = images.shape[-2:]
        scale = self.size / min(height, width)
        size = (max(self.size, round(height * scale)), max(self.size, round(width * scale)))
        shown = functional.interpolate(
            images.float().to(self.device), size, mode="bicubic", antialias=True
        ).clamp(0, 1)
        top, left = (size[0] - self.size) // 2, (size[1] - self.size) // 2
        shown = shown[..., top : top + self.size, left : left + self.size]
        pixels = (shown - self.mean.to(shown)) / self.std.to(shown)
        pooled = self.network.vision_model(pixel_values=pixels).pooler_output
        return functional.normalize(self.network.visual_projection(pooled), dim=-1).cpu()

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings [B,D] of prompts; words beyond the model's length are left out."""
        limit = int(self.network.config.text_config.max_position_embeddings)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=limit, truncation=True,
            return_tensors="pt",
        ).to(self.device)  # fmt: skip
        pooled = self.network.text_model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).pooler_output
        return functional.normalize(self.network.text_projection(pooled), dim=-1).cpu()

    def score(self, image: Tensor, prompt: str) -> float:
        """CLIP score: the cosine of a picture [3,H,W] and a prompt.

        Source: Hessel et al., CLIPScore, arXiv 2104.08718, without its factor of 2.5.
        """
        return float((self.image(image[None]) * self.text([prompt])).sum())

    def direction(self, image: Tensor, source: Tensor, prompt: str, source_prompt: str) -> float:
        """CLIP directional similarity: cos(E(image) − E(source), T(prompt) − T(source_prompt)).

        Zero where the picture or the prompt is the source's own.

        Source: Gal et al., StyleGAN-NADA, arXiv 2108.00946, eq. 3.
        """
        return self.scores(image, source, self.text([prompt, source_prompt]))["clip_direction"]

    def scores(self, image: Tensor, source: Tensor, texts: Tensor) -> dict[str, float]:
        """`clip_score` and `clip_direction`, with every picture embedded once.

        Args:
            image, source: pictures [3,H,W] of one size.
            texts: embeddings [2,D] of the prompt and of the source prompt.
        """
        after, before = self.image(torch.stack([image, source]))
        moved, wanted = after - before, texts[0] - texts[1]
        still = min(float(moved.norm()), float(wanted.norm())) < STILL
        along = 0.0 if still else float(functional.cosine_similarity(moved, wanted, dim=0))
        return {"clip_score": float((after * texts[0]).sum()), "clip_direction": along}


def _normalisation(folder: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation [3,1,1] that pixels are normalised with."""
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD
    file = folder / "preprocessor_config.json"
    if file.is_file():
        found = read_json(file)
        try:
            mean, std = found.get("image_mean", mean), found.get("image_std", std)
            mean, std = [float(v) for v in mean], [float(v) for v in std]
            if not all(map(math.isfinite, mean)) or not all(0 < v < math.inf for v in std):
                raise ValueError
            return torch.tensor(mean).reshape(3, 1, 1), torch.tensor(std).reshape(3, 1, 1)
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{file}: image_mean and image_std must be 3 numbers each, image_std above 0; {HOW}"
            ) from error
    return torch.tensor(mean).reshape(3, 1, 1), torch.tensor(std).reshape(3, 1, 1)
