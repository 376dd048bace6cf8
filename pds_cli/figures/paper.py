"""docs/paper.md: each figure and table of the paper, what it claims, and what was measured here.

    python -m pds_cli.figures.paper [outputs/paper] [outputs/figures/paper.md] [outputs/figures]

Takes what the parts of `make paper` left (the last is the folder of their pictures), and keeps the
scores it took beside the pictures, in `paper/numbers.json` of that folder. Whether a claim holds is
decided by the numbers, here.

Source of the claims: Koo et al., Posterior Distillation Sampling, CVPR 2024, arXiv 2311.13831.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pds_cli.benchmarks.tables import method_table
from pds_cli.errors import UserError
from pds_cli.evaluation.table import bootstrap
from pds_cli.figures.frontier import read, rows_in
from pds_cli.figures.titles import METHODS
from pds_cli.files import write_text
from pds_cli.markdown import table
from pds_cli.metrics.names import metric
from pds_cli.runs import layout
from pds_cli.scripts import paths, run

Scores = Mapping[str, Sequence[Mapping[str, float]]]
"""method → one mapping of scores an edit and seed."""

COLUMNS = {
    "image": ("success", "kept", "lpips_truth"),
    "nerf": ("success", "kept", "lpips_truth", "consistency", "seconds"),
    "svg": ("similarity", "lpips_source"),
}
"""Part → the scores of its table."""
UNLISTED = {"nerf": ("psnr_truth",)}  # scores that only claims are about

KEEPS = "PDS keeps what the prompt does not name better than {}."
FOLLOWS = "PDS follows the prompt better than {}."
NEARER = "PDS is nearer to the true edit than {}."
VERDICTS = ("holds", "holds on average, within the noise", "does not hold")


@dataclass(frozen=True)
class Claim:
    """What the paper says, what was measured, and whether the first is true of the second."""

    said: str
    measured: str
    verdict: str


@dataclass(frozen=True)
class Section:
    """A figure or table with its claims; `table` is Markdown."""

    title: str
    text: str
    figure: str
    repeat: str
    table: str = ""
    claims: list[Claim] = field(default_factory=list)


# ---- comparisons ----------------------------------------------------------------------------


def values(scores: Scores, method: str, key: str) -> list[float]:
    """One score of a method, an entry an edit and seed."""
    return [row[key] for row in scores[method]]


def mean(numbers: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(numbers) / len(numbers)


def paired(scores: Scores, better: str, worse: str, key: str) -> tuple[str, str]:
    """Is one method better than another in a score, over the same edits and seeds?

    Returns:
        (the two means and the mean difference with its 95 % interval; the verdict: the claim
        `holds` where the whole interval is on its side, holds `on average, within the noise`
        where the mean is, else it `does not hold`).
    """
    a, b = values(scores, better, key), values(scores, worse, key)
    differences = [x - y for x, y in zip(a, b, strict=True)]
    low, high = bootstrap(differences)
    centre = mean(differences)
    if metric(key).better < 0:
        ahead, sure = centre < 0, high < 0
    else:
        ahead, sure = centre > 0, low > 0
    text = (
        f"{METHODS[better]} {mean(a):.3f}, {METHODS[worse]} {mean(b):.3f}, "
        f"difference {centre:+.3f} [{low:+.3f}, {high:+.3f}]"
    )
    return text, VERDICTS[0 if sure else 1 if ahead else 2]


def against(
    scores: Scores, said: str, better: str, others: Sequence[str], key: str, name: str = ""
) -> list[Claim]:
    """A claim for each of the methods that one is said to be better than.

    name: of the score; empty: that of its metric.
    """
    claims = []
    for other in others:
        text, verdict = paired(scores, better, other, key)
        measured = f"{name or metric(key).label}: {text}"
        claims.append(Claim(said.format(METHODS[other]), measured, verdict))
    return claims


def score_table(scores: Scores, keys: Sequence[str]) -> str:
    """Markdown: a row a method, each score with its interval."""
    found = {METHODS[name]: rows for name, rows in scores.items() if name in METHODS}
    return method_table(found, keys)


# ---- the parts ------------------------------------------------------------------------------


def measured(out: Path) -> dict[str, Scores]:
    """The scores that the page is made of, by part: what the targets of `make paper` left.

    Raises:
        UserError: a part was not run, is damaged, or has no true edits to compare with.
    """
    found: dict[str, Any] = {}
    for part, target in (("image", "figure-image"), ("nerf", "table-nerf"), ("svg", "table-svg")):
        rows = rows_in(out / part / layout.RESULTS, target)
        keys = (*COLUMNS[part], *UNLISTED.get(part, ()))
        try:
            found[part] = {
                method: [{key: row[key] for key in keys} for row in rows[method]]
                for method in rows
                if method in METHODS
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{out / part} holds no benchmark of the models that ship with the package "
                f"({error} is missing); docs/paper.md is made from those"
            ) from error
    return found


def toy2d(figures: Path) -> Section:
    """Points of one crescent, moved towards the other."""
    found = {row["loss"]: row for row in read(figures / "toy2d.json", "figure-toy2d")["1"]}
    pds, dds, sds = found["PDS published"], found["DDS"], found["SDS"]
    claims = [
        Claim(
            "SDS takes every point to the same place.",
            f"spread of the end points: SDS {sds['spread']:.2f}, DDS {dds['spread']:.2f}, "
            f"PDS {pds['spread']:.2f}",
            _when(sds["spread"] < 0.25 * min(dds["spread"], pds["spread"])),
        ),
        Claim(
            "PDS stops at the border of the classes, DDS goes on past it.",
            f"mean distance to the border: PDS {pds['to_border']:.2f}, DDS {dds['to_border']:.2f}; "
            f"on the target's side: {pds['crossed']:.0%} and {dds['crossed']:.0%}",
            _when(pds["to_border"] < dds["to_border"] and dds["crossed"] > pds["crossed"]),
        ),
        Claim(
            "PDS moves points least.",
            f"moved: PDS {pds['moved']:.2f}, DDS {dds['moved']:.2f}, SDS {sds['moved']:.2f}",
            _when(pds["moved"] < min(dds["moved"], sds["moved"])),
        ),
    ]
    return Section(
        "Two dimensions",
        "Exact scores, no network. All numbers: [figures/toy2d.md](figures/toy2d.md).",
        "figures/toy2d.webp", "make figure-toy2d", claims=claims,
    )  # fmt: skip


def image(scores: Scores) -> Section:
    """Edits of pictures with a known true edit."""
    claims = [
        *against(scores, KEEPS, "pds", ["sds", "dds"], "kept"),
        *against(scores, FOLLOWS, "pds", ["dds"], "success"),
        *against(scores, NEARER, "pds", ["sds", "dds", "ddpm_inversion"], "lpips_truth"),
    ]
    return Section(
        "Pictures",
        "Twelve kinds of edit on eight toy figures, two seeds, 200 steps. *success*: share of "
        "edits that a probe finds; *kept*: share of the other attributes that stayed.",
        "figures/paper/image.webp", "make figure-image",
        score_table(scores, COLUMNS["image"]), claims,
    )  # fmt: skip


def nerf(scores: Scores) -> list[Section]:
    """Edits of a NeRF, dataset update, and refinement: three figures and a table."""
    best = [
        *against(scores, NEARER, "pds", ["sds", "dds"], "lpips_truth"),
        *against(scores, FOLLOWS, "pds", ["dds"], "success"),
        *against(scores, "PDS keeps the rest of the scene better than {}.",
                 "pds", ["sds", "dds"], "kept"),
    ]  # fmt: skip
    others = ["inversion2nerf", "instruct_nerf2nerf"]
    update = [
        *against(scores, "PDS brings about edits of shape that {} does not.",
                 "pds", others, "success"),
        *against(scores, NEARER, "pds", others, "lpips_truth"),
    ]  # fmt: skip
    clean, agree = "Refinement takes artefacts away.", "Refinement makes views agree better."
    refined = [
        *against(scores, clean, "pds_refined", ["pds"], "lpips_truth"),
        *against(scores, clean, "pds_refined", ["pds"], "psnr_truth", "PSNR in dB"),
        *against(scores, agree, "pds_refined", ["pds"], "consistency", "view consistency in dB"),
    ]
    rows = score_table(scores, COLUMNS["nerf"])
    return [
        Section("NeRFs", "Four edits of the toy figure, seen from 16 sides, one seed.",
                "figures/paper/nerf.webp", "make figure-nerf table-nerf", rows, best),
        Section("NeRFs: iterative dataset update", "The same edits with DDPM inversion as the "
                "editor (Inversion2NeRF), and with InstructPix2Pix (Instruct-NeRF2NeRF). The "
                "latter's model was trained on true edits of the toybox "
                "([toybox.md](toybox.md#a-model-that-edits-by-instruction)), as no other method "
                "was and as the public one was not.", "figures/paper/iterative_du.webp",
                "make figure-iterative-du", "", update),
        Section("NeRFs: refinement", "PDS before and after the refinement stage.",
                "figures/paper/refinement.webp", "make figure-refinement", "", refined),
    ]  # fmt: skip


def svg(scores: Scores) -> Section:
    """Edits of drawings."""
    others = ["sds", "dds"]
    claims = [
        *against(scores, "PDS keeps the drawing better than {}.",
                 "pds", others, "lpips_source", "LPIPS to source"),
        *against(scores, "PDS follows the prompt as well as {}, or better.",
                 "pds", others, "similarity", "similarity"),
    ]  # fmt: skip
    return Section(
        "Drawings",
        "Twelve edits of open icons, one seed. The similarity is that of our icon model "
        "([svg.md](svg.md)), in place of CLIP's.",
        "figures/paper/svg.webp", "make figure-svg table-svg",
        score_table(scores, COLUMNS["svg"]), claims,
    )  # fmt: skip


def _when(true: bool) -> str:
    return VERDICTS[0 if true else 2]


# ---- the page -------------------------------------------------------------------------------

HEAD = """# The paper, measured again

`make paper INTO=docs/figures` makes this page (without `INTO` it goes to `outputs/figures`): each \
figure and table of *Posterior Distillation Sampling* (Koo et al., CVPR 2024) on the models and \
scenes that ship with the package, the paper's claim in our words, what we measured, and whether \
the claim is true of it. The paper's own models and scenes are much larger; what holds here need \
not hold there, nor the other way round. \
[With your own models and data](#with-real-models-and-scenes) the same targets repeat the figures.

A claim *holds* where the 95 % interval of the paired difference, by bootstrap over edits and \
seeds, lies on its side; *on average, within the noise* where only the mean does.

In two dimensions the settings are the paper's. Elsewhere every method runs at settings that \
sweeps found for these backbones: on pictures those of [methods.md](methods.md#measured-pictures), \
on NeRFs and drawings those the backbone recommends ([nerf.md](nerf.md), [svg.md](svg.md)). For \
PDS that is a tenth of the published ψ ([pds.md](pds.md)), as the noise schedule and the latents \
are not Stable Diffusion's.

The whole takes somewhat more than an hour on two cores and goes on where it was when it was \
interrupted. The drawings are fetched by npm, once.
"""

TAIL = """## With real models and scenes

Every target but `figure-toy2d`, which needs neither, takes a backbone and a folder of data \
(`data` where none is named):

    make table-nerf BACKBONE=sd15 DATA=/path/to/data
    make figure-image BACKBONE=sd15 DATA=/path/to/photos

Results go to `outputs/paper/<backbone>`; this page, which is about true edits, is not made. There \
is one `experiment=paper/…` for each published edit (`pds list experiment`), 31 of NeRFs and 7 of \
drawings. Their scenes are looked for in `DATA`: `yuseung`, `fangzhou`, `farm`, `bear`, `plant`, \
`doll`, `tree`, `drink`, `table`, each a capture ([captures.md](captures.md)), and \
`svg/<edit>.svg`, whose `<title>` says what it shows. What cannot be run, as an edit's scene or a \
method's model is not there, is named and left out. The three of famous people need a `prompt=`.

For `figure-image`, `DATA` holds photos and an `edits.yaml`:

    - {image: cat.jpg, source: a photo of a cat, prompt: a photo of a dog}

CLIP scores: `pds compare benchmark=published_nerf benchmark.clip=<hub id or folder>`, in the same \
`out=`, takes over what is done and scores it. These targets were never run with the real models \
by us: there is no GPU where this project is tested.
"""


def page(scores: Mapping[str, Scores], figures: Path, link: str = "figures") -> str:
    """The Markdown text, from `measured` scores and the folder with toy2d.json.

    link: the way from the page to that folder.
    """
    sections = [toy2d(figures), image(scores["image"]), *nerf(scores["nerf"]), svg(scores["svg"])]
    parts = [HEAD, _overview(sections)]
    for section in sections:
        lines = [f"## {section.title}\n", f"{section.text} `{section.repeat}`.\n"]
        lines.append(f"![{section.title}]({section.figure})\n")
        if section.table:
            lines.append(section.table + "\n")
        cells = ([claim.said, claim.measured, claim.verdict] for claim in section.claims)
        lines.append(table(["the paper's claim", "measured", ""], cells))
        parts.append("\n".join(lines) + "\n")
    return "\n".join([*parts, TAIL]).replace("](figures/", f"]({link}/")


def _overview(sections: Sequence[Section]) -> str:
    """How many claims hold."""
    verdicts = [claim.verdict for section in sections for claim in section.claims]
    sure, mean_only, not_so = (verdicts.count(verdict) for verdict in VERDICTS)
    return (
        f"Of {len(verdicts)} claims {sure} hold, {mean_only} hold on average but within the noise, "
        f"and {not_so} do not.\n"
    )


def main(argv: Sequence[str]) -> list[Path]:
    """Writes the page; returns its path."""
    defaults = ("outputs/paper", "outputs/figures/paper.md", "outputs/figures")
    out, target, figures = paths(argv, defaults, __doc__)
    scores = measured(out)
    text = page(scores, figures, Path(os.path.relpath(figures, target.parent)).as_posix())
    write_text(figures / "paper" / "numbers.json", json.dumps(scores, indent=1) + "\n")
    return [write_text(target, text)]


if __name__ == "__main__":
    sys.exit(run(main))
