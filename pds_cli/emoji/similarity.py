"""How well a picture of an icon fits words: a small image–text model of the icons' own domain.

A stand-in for CLIP where no CLIP is at hand. Its numbers are called icon similarity, and mean
nothing beside CLIP scores.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pds_cli.backbones.embedded import folder_of, words_of
from pds_cli.errors import UserError
from pds_cli.pictures.captioned import CaptionedImages
from pds_cli.reading import parse_json

SIDE = 64
_WORDS = 24  # of a caption; more are cut off


class IconSimilarity(nn.Module):
    """Unit vectors of pictures and of words, alike where they fit each other.

    Args:
        words: what it can read; other words are passed over.
        width: of the first layer of the image network; size: of the vectors.
    """

    def __init__(self, words: Sequence[str], width: int = 32, size: int = 128) -> None:
        super().__init__()
        self.words = {word: i + 1 for i, word in enumerate(words)}
        widths = [width, width * 2, width * 4, width * 6]
        self.stem = nn.Conv2d(3, width, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, a),
                nn.SiLU(),
                nn.Conv2d(a, b, 3, padding=1),
                nn.GroupNorm(8, b),
                nn.SiLU(),
                nn.Conv2d(b, b, 3, stride=2, padding=1),
            )
            for a, b in itertools.pairwise(widths)
        )
        self.mix = nn.Sequential(
            nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], 64, 1), nn.Flatten()
        )
        self.image_head = nn.Sequential(nn.Linear(64 * 16, 256), nn.SiLU(), nn.Linear(256, size))
        self.embedding = nn.Embedding(len(words) + 1, 128, padding_idx=0)
        self.place = nn.Parameter(0.02 * torch.randn(_WORDS, 128))
        self.text_hidden = nn.Linear(128, 256)
        self.text_head = nn.Sequential(
            nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, size)
        )
        self.scale = nn.Parameter(torch.tensor(2.7))

    @classmethod
    def reading(cls, captions: Iterable[str]) -> IconSimilarity:
        """A fresh model that reads every word of the captions."""
        return cls(sorted({word for caption in captions for word in words_of(caption)}))

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit vectors [B,D] of images [B,3,64,64] in [−1,1]."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return F.normalize(self.image_head(self.mix(x)), dim=1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [B,D] of texts; a word's place matters a little."""
        rows = [[self.words.get(w, 0) for w in words_of(t)][:_WORDS] for t in texts]
        ids = torch.tensor([row + [0] * (_WORDS - len(row)) for row in rows])
        ids = ids.to(self.place.device)
        known = (ids > 0).to(self.place)[..., None]
        hidden = self.text_hidden(self.embedding(ids) + self.place)
        mean = (F.silu(hidden) * known).sum(1) / known.sum(1).clamp(min=1)
        return F.normalize(self.text_head(mean), dim=1)

    @torch.no_grad()
    def score(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosines [B,M] of images [B,3,H,W] in [0,1] and texts."""
        if images.shape[-2:] != (SIDE, SIDE):
            images = F.interpolate(
                images, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
            )
        return self.encode_images(images.to(self.place) * 2 - 1) @ self.encode_texts(texts).T


def icon_labels(records: list[dict[str, Any]]) -> Tensor:
    """Which icon each picture shows, int64 [N].

    Raises:
        UserError: where a record names no icon.
    """
    try:
        codes = [str(record["icon"]) for record in records]
    except KeyError as error:
        raise UserError(
            "these pictures are not drawn from icons, so there is no similarity to train; "
            "leave `similarity` out of stages"
        ) from error
    numbers = {code: i for i, code in enumerate(dict.fromkeys(codes))}
    return torch.tensor([numbers[code] for code in codes])


def retrieval(model: IconSimilarity, data: CaptionedImages) -> float:
    """How often a picture's own name is the most similar of all names in the data, in [0,1]."""
    names = {str(record["icon"]): str(record["name"]) for record in data.records}
    codes = list(names)
    right = 0
    for chunk in torch.arange(len(data)).split(256):
        scores = model.score((data.batch(chunk) + 1) / 2, [names[c] for c in codes])
        found = scores.argmax(1).tolist()
        right += sum(
            codes[f] == data.records[i]["icon"] for f, i in zip(found, chunk.tolist(), strict=True)
        )
    return right / len(data)


def save_similarity(model: IconSimilarity, path: Path) -> None:
    """Writes the weights in half precision, and the words in their order."""
    from pds_cli.runs.checkpoint import save_checkpoint

    tensors = {k: v.detach().half() for k, v in model.state_dict().items()}
    save_checkpoint(path, tensors, {"kind": "icon similarity", "words": json.dumps([*model.words])})


def load_similarity(path: Path) -> IconSimilarity:
    """What `save_similarity` wrote.

    Raises:
        UserError: where the file is missing or damaged.
    """
    from pds_cli.weights import read_weights

    try:
        tensors, meta = read_weights(path)
        model = IconSimilarity(parse_json(meta["words"]))
        model.load_state_dict(tensors)
    except (UserError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"the icon similarity {path} is missing or damaged; train it with "
            "pds pretrain stages=[similarity] data.icons=outputs/data/icons, or reinstall pds"
        ) from error
    return model.eval().requires_grad_(False)


def icon_similarity(model: str) -> IconSimilarity:
    """The similarity beside a backbone: a folder, or the name of one in the package.

    Raises:
        UserError: there is none, or it is damaged.
    """
    folder = folder_of(model)
    file = folder / "similarity.safetensors"
    if folder.is_dir() and not file.is_file():
        raise UserError(
            f"{folder} has no similarity of icons beside it: give backbone=emoji, or train one "
            "with pds pretrain 'stages=[similarity]'"
        )
    return load_similarity(file)
