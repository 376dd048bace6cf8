"""The README's picture: one figure, a few prompts, and what each loss makes of them.

    python -m pds_cli.figures.demo [outputs/figures/demo.webp]

Settings are those that `conf/backbone/toybox.yaml` recommends for each loss.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pds_cli.figures.titles import METHODS
from pds_cli.scripts import paths, run

EDITS = ("wizard hat", "raise arms", "to robot", "add tree")
LOSSES = ("sds", "dds", "pds")


def main(argv: Sequence[str]) -> list[Path]:
    """Makes the edits and writes the picture; returns its path."""
    from pds_cli.backbones.embedded import EmbeddedBackbone
    from pds_cli.benchmarks.methods import method
    from pds_cli.benchmarks.side_by_side import edit_cases
    from pds_cli.benchmarks.toybox_scores import pictures
    from pds_cli.pictures.sheets import contact_sheet, save_image
    from pds_cli.runs.folder import RunFolder
    from pds_cli.toybox.cases import all_cases

    (out,) = paths(argv, ("outputs/figures/demo.webp",), __doc__)
    backbone, cases = EmbeddedBackbone("toybox"), all_cases(edits=EDITS)[::8]
    columns = {"source": pictures(cases, "source", backbone.resolution)}
    with tempfile.TemporaryDirectory() as scratch:
        for name in LOSSES:
            run, loss = RunFolder(Path(scratch) / name), method(name, [f"loss={name}"])
            options = {**loss.where, **loss.budget}
            columns[METHODS[name]], _ = edit_cases(cases, backbone, loss.build(), run, **options)
    columns["ground truth"] = pictures(cases, "target", backbone.resolution)
    images = [column[row] for row in range(len(cases)) for column in columns.values()]
    sheet = contact_sheet(
        images,
        len(columns),
        row_labels=[case.prompt for case in cases],
        column_labels=list(columns),
        tile=160,
    )
    return [save_image(sheet, out)]


if __name__ == "__main__":
    sys.exit(run(main))
