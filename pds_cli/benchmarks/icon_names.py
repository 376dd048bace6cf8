"""Does a backbone know the names of icons? Samples for names, judged by the icons' similarity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.backbones.sampling import ddim, noise
from pds_cli.emoji.similarity import icon_similarity
from pds_cli.files import write_text
from pds_cli.markdown import table
from pds_cli.pictures.sheets import contact_sheet, save_image
from pds_cli.progress import Progress
from pds_cli.runs import layout
from pds_cli.runs.folder import RunFolder

_COMMON = (
    "cat face; dog face; red apple; green apple; red heart; blue heart; automobile; bus; "
    "deciduous tree; evergreen tree; palm tree; grinning face; smiling face with "
    "sunglasses; crying face; star; sun; full moon; cloud; umbrella; snowman; fire; rose; "
    "sunflower; tulip; banana; lemon; strawberry; watermelon; carrot; pizza; hamburger; "
    "doughnut; birthday cake; penguin; fish; butterfly; rocket; house; soccer ball; key"
)
COMMON = tuple(_COMMON.split("; "))
"""40 common names, each of an icon of the training set."""


class IconNames:
    """Whether samples of a backbone show the icon that the prompt names.

    Args:
        similarity: the backbone folder whose similarity judges, see `icon_similarity`.
        samples: of each name.
        steps, guidance, seed: of the samples.
        names: which; None: `COMMON`.
    """

    def __init__(
        self,
        similarity: str,
        *,
        samples: int = 4,
        steps: int = 30,
        guidance: float = 3.0,
        seed: int = 0,
        names: Sequence[str] | None = None,
    ) -> None:
        self.similarity, self.samples = icon_similarity(similarity), samples
        self.steps, self.guidance, self.seed = steps, guidance, seed
        self.names = list(COMMON if names is None else names)

    @torch.no_grad()
    def run(self, backbone: Backbone, run: RunFolder) -> Path:
        """Writes `samples.png`, `results.json` and `table.md`: how often names are found again."""
        sheet: list[Tensor] = []
        found: dict[str, float] = {}
        with Progress("samples", len(self.names)) as progress:
            for i, name in enumerate(self.names):
                x_t = noise(backbone.latent_shape, self.seed, i * self.samples, self.samples)
                text = backbone.encode_prompt([name] * self.samples)
                x0 = ddim(
                    backbone, x_t.to(backbone.device), text, steps=self.steps,
                    guidance=self.guidance,
                )  # fmt: skip
                images = backbone.decode_latent(x0).clamp(0, 1).cpu()
                best = self.similarity.score(images, self.names).argmax(1)
                found[name] = float((best == i).float().mean())
                sheet.append(torch.cat(list(images), 2))
                progress.update(i + 1)
        save_image(contact_sheet(sheet, 5, self.names), run.path / "samples.png")
        mean = sum(found.values()) / len(found)
        run.write_json(layout.RESULTS, {"retrieval": mean, "names": found})
        head = f"Right name among {len(found)}: {100 * mean:.1f} %"
        rows = table(["name", "found"], ([name, f"{value:.2f}"] for name, value in found.items()))
        return write_text(run.path / layout.TABLE, f"{head}\n\n{rows}\n")
