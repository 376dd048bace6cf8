"""Which pictures of a captioned folder a prompt speaks of: log weights on all of them.

`words` takes those of which a caption holds every content word of the prompt, `attributes` those
whose record has every attribute that the prompt names, and `similarity` weighs them all by how
like their captions are to it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pds_cli.backbones.embedded import nearest_known, words_of
from pds_cli.errors import UserError
from pds_cli.pictures.captioned import CaptionedImages
from pds_cli.toybox.world import parse_caption, unread

# Words of a prompt that say nothing of what is seen.
FILLERS = frozenset(
    [
        *("a", "an", "the", "of", "in", "on", "at", "to", "by", "with", "and", "or", "is", "are"),
        *("as", "its", "his", "her", "their", "this", "that"),
        *("photo", "photograph", "picture", "image"),
    ]
)


class Matching(ABC):
    """What prompts mean for the N pictures of a folder."""

    @abstractmethod
    def log_weights(self, prompt: str) -> Tensor:
        """log w [N] that sum to 1 as w; −∞ leaves a picture out. A blank prompt means them all.

        Raises:
            UserError: no picture fits.
        """

    @abstractmethod
    def unknown(self, prompt: str) -> dict[str, list[str]]:
        """What of the prompt speaks of no picture, each with the nearest words that do."""


class Words(Matching):
    """Those of which one caption holds every content word of the prompt that any caption holds."""

    def __init__(self, captions: Sequence[Sequence[str]]) -> None:
        self.captions = [[frozenset(words_of(text)) for text in texts] for texts in captions]
        self.known = frozenset().union(*(words for texts in self.captions for words in texts))

    def log_weights(self, prompt: str) -> Tensor:
        said = _content(prompt)
        wanted = [word for word in said if word in self.known]
        if said and not wanted:
            raise UserError(
                f"no caption holds {_or(said)}, so no picture fits the prompt {prompt!r}"
            )
        fits = [any(words.issuperset(wanted) for words in texts) for texts in self.captions]
        return _even(
            fits, f"no caption holds all of {', '.join(wanted)}: no picture fits {prompt!r}"
        )

    def unknown(self, prompt: str) -> dict[str, list[str]]:
        return nearest_known(_content(prompt), sorted(self.known))


class Attributes(Matching):
    """Those whose record's `figure` has what the prompt names, by the toybox's grammar."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.figures: list[Mapping[str, Any]] = []
        for record in records:
            figure = record.get("figure")
            if not isinstance(figure, Mapping):
                raise UserError(
                    f"backbone.matching=attributes reads the figure of each record, and that of "
                    f"{record['file']} has none, as pictures of the toybox do: use words"
                )
            self.figures.append(figure)

    def log_weights(self, prompt: str) -> Tensor:
        named = parse_caption(prompt)
        if _content(prompt) and not named:
            raise UserError(f"the grammar of the toybox reads nothing in the prompt {prompt!r}")
        fits = [all(figure.get(k) == v for k, v in named.items()) for figure in self.figures]
        wanted = ", ".join(f"{key} {value}" for key, value in named.items())
        return _even(fits, f"no picture has {wanted}, which the prompt {prompt!r} names")

    def unknown(self, prompt: str) -> dict[str, list[str]]:
        return {passage: [] for passage in unread(prompt) if _content(passage)}


class Similarity(Matching):
    """Softmax over the cosines between TF-IDF vectors of the prompt and of pictures' captions.

    A picture's captions, without `FILLERS`, are one document; the weight of a word in it is its
    count times log((1+N)/(1+n)) + 1, with n of N documents holding it. Words that none holds are
    passed over.

    Args:
        temperature: cosines are divided by it; the nearer 0, the more the likest count.

    Source: Salton and Buckley, Term-weighting approaches in automatic text retrieval (1988).
    """

    def __init__(self, captions: Sequence[Sequence[str]], temperature: float) -> None:
        counts = [Counter(word for text in texts for word in _said(text)) for texts in captions]
        holding = Counter(word for each in counts for word in each)
        self.rarity = {w: math.log((1 + len(counts)) / (1 + n)) + 1 for w, n in holding.items()}
        self.documents = [self._unit(each) for each in counts]
        self.temperature = temperature

    def _unit(self, counts: Mapping[str, int]) -> dict[str, float]:
        """The vector of a text, of length 1."""
        vector = {w: n * self.rarity[w] for w, n in counts.items() if w in self.rarity}
        length = math.hypot(*vector.values()) or 1.0
        return {word: value / length for word, value in vector.items()}

    def log_weights(self, prompt: str) -> Tensor:
        said = self._unit(Counter(_said(prompt)))
        if not said and _content(prompt):
            raise UserError(
                f"no caption holds {_or(_content(prompt))}, so none is like the prompt {prompt!r}"
            )
        cosines = [
            sum(value * document.get(word, 0.0) for word, value in said.items())
            for document in self.documents
        ]
        return (torch.tensor(cosines) / self.temperature).log_softmax(0)

    def unknown(self, prompt: str) -> dict[str, list[str]]:
        return nearest_known(_content(prompt), sorted(self.rarity))


def matching(kind: str, data: CaptionedImages, temperature: float) -> Matching:
    """How prompts are matched, by the word for it.

    Raises:
        UserError: the pictures' records do not hold what it needs.
    """
    if kind == "attributes":
        return Attributes(data.records)
    if kind == "similarity":
        return Similarity(data.captions, temperature)
    return Words(data.captions)


def _said(text: str) -> list[str]:
    """The words of a text that say something."""
    return [word for word in words_of(text) if word not in FILLERS]


def _content(prompt: str) -> list[str]:
    """Those, each once."""
    return list(dict.fromkeys(_said(prompt)))


def _or(words: Sequence[str]) -> str:
    return " or ".join(words)


def _even(fits: Sequence[bool], otherwise: str) -> Tensor:
    """log w [N] of the pictures that fit, all alike; raises `otherwise` where none does."""
    chosen = torch.tensor(fits)
    if not bool(chosen.any()):
        raise UserError(otherwise)
    return torch.zeros(len(fits)).masked_fill(~chosen, -math.inf).log_softmax(0)
