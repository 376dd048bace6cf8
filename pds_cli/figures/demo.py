"""The README's picture: one figure, a few prompts, and what each loss makes of them.

    python -m pds_cli.figures.demo [outputs/figures/demo.webp]

Settings are those that `conf/backbone/toybox.yaml` recommends for each loss.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pds_cli.scripts import check_words, run

EDITS = ("wizard hat", "raise arms", "to robot", "add tree")
TITLES = {"source": "source", "sds": "SDS", "dds": "DDS", "pds": "PDS", "truth": "ground truth"}


def losses(recommended: dict[str, Any]) -> dict[str, Any]:
    """The three losses at the recommended settings of a backbone."""
    from pds_cli.losses.dds import DDS
    from pds_cli.losses.pds import PDS
    from pds_cli.losses.sds import SDS

    guidance, source = recommended["guidance"], recommended["source_guidance"]
    return {
        "sds": SDS(guidance=guidance["sds"]),
        "dds": DDS(guidance=guidance["dds"], source_guidance=source),
        "pds": PDS(
            guidance=guidance["pds"],
            source_guidance=source,
            identity=recommended.get("identity", 1.0),
        ),
    }


def main(argv: Sequence[str]) -> list[Path]:
    """Makes the edits and writes the picture; returns its path."""
    from pds_cli.backbones.embedded import EmbeddedBackbone
    from pds_cli.benchmarks.toybox import edit_cases, pictures
    from pds_cli.options.catalogue import conf_dir
    from pds_cli.pictures.sheets import contact_sheet, save_image
    from pds_cli.runs.folder import RunFolder
    from pds_cli.toybox.cases import all_cases

    check_words(argv, 0, 1, __doc__)
    out = Path(argv[0] if argv else "outputs/figures/demo.webp")
    node: Any = OmegaConf.load(conf_dir() / "backbone" / "toybox.yaml")
    recommended: dict[str, Any] = OmegaConf.to_container(node.recommended)  # type: ignore[assignment]
    backbone, cases = EmbeddedBackbone("toybox"), all_cases(edits=EDITS)[::8]
    columns = {"source": pictures(cases, "source"), "truth": pictures(cases, "target")}
    with tempfile.TemporaryDirectory() as scratch:
        for name, loss in losses(recommended).items():
            run = RunFolder(Path(scratch) / name)
            options = {key: recommended[key] for key in ("steps", "lr", "lr_schedule")}
            columns[name], _ = edit_cases(cases, backbone, loss, run, **options)
    images = [columns[name][row] for row in range(len(cases)) for name in TITLES]
    sheet = contact_sheet(
        images,
        len(TITLES),
        row_labels=[case.prompt for case in cases],
        column_labels=list(TITLES.values()),
        tile=160,
    )
    return [save_image(sheet, out)]


if __name__ == "__main__":
    sys.exit(run(main))
