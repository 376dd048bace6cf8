"""Which loss edits drawings best? Twelve edits of real icons, judged by the icons' similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pds_cli.benchmarks.runner import EditCase, JobBenchmark, Look
from pds_cli.benchmarks.tables import SOURCES
from pds_cli.emoji.icons import Icon, load_icons
from pds_cli.emoji.similarity import icon_similarity
from pds_cli.errors import UserError
from pds_cli.files import write_text
from pds_cli.metrics.lpips import lpips
from pds_cli.pictures.files import read_picture
from pds_cli.reading import read_json
from pds_cli.runs import layout
from pds_cli.runs.folder import RunFolder


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


@dataclass(frozen=True)
class IconCase(EditCase):
    """An edit of an icon, as jobs are told of it."""

    edit: IconEdit


class IconEditBenchmark(JobBenchmark[IconCase]):
    """Twelve edits of real drawings by several methods.

    Args:
        similarity: the backbone folder whose similarity judges, see `icon_similarity`.
        methods, overrides, only, seed, seeds: of a `JobBenchmark`.
        icons: the folder of icon sets (`make icons`).
        edits: how many of `EDITS`; None: all.

    Raises:
        UserError: nothing to run, or icons that are not there.
    """

    columns = (
        *("similarity", "similarity_source", "lpips_source"),
        *("points_moved", "colors_changed", "seconds"),
    )
    by_edit = ("similarity", "lpips_source")

    def __init__(
        self,
        similarity: str,
        methods: Mapping[str, Sequence[str]],
        *,
        icons: str,
        overrides: Sequence[str] = (),
        edits: int | None = None,
        only: Sequence[str] | None = None,
        seed: int = 0,
        seeds: int = 1,
    ) -> None:
        super().__init__(methods, overrides=overrides, only=only, seed=seed, seeds=seeds)
        self.similarity = icon_similarity(similarity)
        self.icons: dict[str, Icon] = {icon.name: icon for icon in load_icons(icons)}
        self.edits = EDITS[:edits]

    def cases(self, run: RunFolder) -> list[IconCase]:
        """The edits, each with its drawing as `source.svg` in its folder."""
        found = []
        for edit in self.edits:
            case = IconCase(edit.name, [], edit)
            source = run.path / case.folder / "source.svg"
            write_text(source, self.icons[edit.icon].svgs[edit.set])
            words = ["scene=svg", f"scene.path={source}", f"source={edit.source}"]
            found.append(replace(case, words=[*words, f"prompt={edit.prompt}"]))
        return found

    def look(self, case: IconCase, job: Path) -> Look:
        """Likeness to both prompts and to the source, and how much of the drawing changed."""
        before, after = (final_picture(job, which) for which in ("source", "result"))
        metrics = read_json(job / layout.SUMMARY)["metrics"]
        moved = {key: metrics[key] for key in ("points_moved", "colors_changed")}
        return Look(self._scores(case.edit, after, before) | moved, [after], after)

    def references(self, case: IconCase, job: Path) -> dict[str, Look]:
        """The drawing before any edit."""
        before = final_picture(job, "source")
        return {SOURCES: Look(self._scores(case.edit, before, before), [before], before)}

    @torch.no_grad()
    def _scores(self, edit: IconEdit, image: Tensor, source: Tensor) -> dict[str, float]:
        prompt, before = self.similarity.score(image[None], [edit.prompt, edit.source])[0].tolist()
        distance = float(lpips(image[None], source[None]))
        return {"similarity": prompt, "similarity_source": before, "lpips_source": distance}


def final_picture(folder: Path, which: str) -> Tensor:
    """The drawing [3,256,256] in [0,1] before or after an edit.

    Raises:
        UserError: the folder holds no such render.
    """
    found = next((folder / layout.RENDERS).glob(f"{layout.final_render(which, '*')}.png"), None)
    if found is None:
        raise UserError(f"{folder} holds no finished edit (no renders/{which}_*.png)")
    return read_picture(found)
