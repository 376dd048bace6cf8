"""Benchmarks on icons: does a backbone know their names, and which loss edits drawings best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone
from pds_cli.backbones.embedded import folder_of
from pds_cli.backbones.sampling import ddim, noise
from pds_cli.benchmarks.jobs import chosen, edit_job
from pds_cli.emoji.icons import Icon, load_icons
from pds_cli.emoji.similarity import IconSimilarity, load_similarity
from pds_cli.errors import UserError
from pds_cli.files import write_text
from pds_cli.markdown import table
from pds_cli.metrics.lpips import lpips
from pds_cli.pictures.files import read_picture
from pds_cli.pictures.sheets import contact_sheet, save_image
from pds_cli.progress import Progress
from pds_cli.reading import read_json
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


@dataclass(frozen=True)
class IconEdit:
    """An edit of one set's drawing of an icon."""

    icon: str
    set: str
    prompt: str

    @property
    def source(self) -> str:
        """What the drawing shows."""
        return f"{'an' if self.icon[0] in 'aeiou' else 'a'} {self.icon}"

    @property
    def name(self) -> str:
        """For folders and tables."""
        return f"{self.icon} to {self.prompt.split(' ', 1)[1]}"


EDITS = (
    IconEdit("cat face", "twemoji", "a dog face"),
    IconEdit("red apple", "fluent", "a green apple"),
    IconEdit("grinning face", "noto", "a smiling face with sunglasses"),
    IconEdit("deciduous tree", "twemoji", "an evergreen tree"),
    IconEdit("red heart", "twemoji", "a blue heart"),
    IconEdit("tiger face", "noto", "a cat face"),
    IconEdit("lemon", "fluent", "a tangerine"),
    IconEdit("bear", "twemoji", "a panda"),
    IconEdit("sun with face", "fluent", "a full moon face"),
    IconEdit("rose", "noto", "a tulip"),
    IconEdit("grinning face", "fluent", "a cowboy hat face"),
    IconEdit("automobile", "twemoji", "a police car"),
)


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
        run.write_json("results.json", {"retrieval": mean, "names": found})
        head = f"Right name among {len(found)}: {100 * mean:.1f} %"
        rows = table(["name", "found"], ([name, f"{value:.2f}"] for name, value in found.items()))
        return write_text(run.path / "table.md", f"{head}\n\n{rows}\n")


TITLES = {
    "similarity": "icon similarity to prompt ↑",
    "similarity_source": "to source prompt",
    "lpips_source": "LPIPS to source ↓",
    "points_moved": "points moved, of 512",
    "colors_changed": "colours changed, of 255",
    "seconds": "s",
}


class IconEditBenchmark:
    """Twelve edits of real drawings by several methods; every job is a `pds edit` of its own.

    Args:
        similarity: the backbone folder whose similarity judges, see `icon_similarity`.
        methods: name → words of the command line for `pds edit`.
        icons: the folder of icon sets (`make icons`).
        overrides: words that every job gets.
        edits: how many of `EDITS`; None: all.
        only: names of methods, where not all of `methods` are to run.

    Raises:
        UserError: no methods, or icons that are not there.
    """

    def __init__(
        self,
        similarity: str,
        methods: Mapping[str, Sequence[str]],
        *,
        icons: str,
        overrides: Sequence[str] = (),
        edits: int | None = None,
        only: Sequence[str] | None = None,
    ) -> None:
        if not methods:
            raise UserError("benchmark.methods must leave something to run")
        self.similarity = icon_similarity(similarity)
        self.methods = {name: list(words) for name, words in chosen(methods, only).items()}
        self.icons: dict[str, Icon] = {icon.name: icon for icon in load_icons(icons)}
        self.overrides, self.edits = list(overrides), EDITS[:edits]

    def run(self, backbone: Backbone, run: RunFolder) -> Path:
        """Runs every job; writes `table.md`, `results.json` and `edits.png`.

        `backbone` is not looked at: each job loads its own.
        """
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in ("source", *self.methods)}
        tiles: list[Tensor] = []
        labels: list[str] = []
        with Progress("edits", len(self.edits) * len(self.methods)) as progress:
            for number, edit in enumerate(self.edits):
                folder = run.path / edit.name.replace(" ", "_")
                folder.mkdir(parents=True, exist_ok=True)
                source = folder / "source.svg"
                write_text(source, self.icons[edit.icon].svgs[edit.set])
                for m, (name, words) in enumerate(self.methods.items()):
                    job = RunFolder(folder / name)
                    cost = edit_job(self._words(edit, source, words), job)
                    before, after = (final_picture(job.path, w) for w in ("source", "result"))
                    if m == 0:
                        rows["source"].append(self._scores(edit, before, before))
                        tiles.append(before)
                        labels.append(edit.name)
                    metrics = read_json(job.path / "summary.json")["metrics"]
                    moved = {k: metrics[k] for k in ("points_moved", "colors_changed")}
                    scores = self._scores(edit, after, before)
                    rows[name].append({**scores, **moved, "seconds": cost["seconds"]})
                    tiles.append(after)
                    labels.append(name)
                    progress.update(number * len(self.methods) + m + 1)
        save_image(
            contact_sheet(tiles, 2 * (len(self.methods) + 1), labels), run.path / "edits.png"
        )
        run.write_json("results.json", {"rows": rows, "edits": [e.name for e in self.edits]})
        return write_text(run.path / "table.md", markdown(rows, [e.name for e in self.edits]))

    def _words(self, edit: IconEdit, source: Path, method: Sequence[str]) -> list[str]:
        scene = ["scene=svg", f"scene.path={source}", f"source={edit.source}"]
        return [*scene, f"prompt={edit.prompt}", *self.overrides, *method]

    @torch.no_grad()
    def _scores(self, edit: IconEdit, image: Tensor, source: Tensor) -> dict[str, float]:
        found = self.similarity.score(image[None], [edit.prompt, edit.source])[0].tolist()
        distance = float(lpips(image[None], source[None]))
        return dict(zip(TITLES, (*found, distance), strict=False))


def final_picture(folder: Path, which: str) -> Tensor:
    """The drawing [3,256,256] in [0,1] before or after an edit.

    Raises:
        UserError: the folder holds no such render.
    """
    found = next((folder / "renders").glob(f"{which}_*.png"), None)
    if found is None:
        raise UserError(f"{folder} holds no finished edit (no renders/{which}_*.png)")
    return read_picture(found)


def markdown(rows: Mapping[str, Sequence[Mapping[str, float]]], edits: Sequence[str]) -> str:
    """The means of every method over the edits, then similarity and LPIPS an edit."""
    means = []
    for name, found in rows.items():
        cells = []
        for key in TITLES:
            values = [row[key] for row in found if key in row]
            cells.append(f"{sum(values) / len(values):.3g}" if values else "–")
        means.append([name, *cells])
    by_edit = (
        [edit, *(f"{r[i]['similarity']:.2f} / {r[i]['lpips_source']:.3f}" for r in rows.values())]
        for i, edit in enumerate(edits)
    )
    parts = [
        table(["method", *TITLES.values()], means),
        "Icon similarity to the prompt and LPIPS to the source, by edit:",
        table(["edit", *rows], by_edit),
    ]
    return "\n\n".join(parts) + "\n"
