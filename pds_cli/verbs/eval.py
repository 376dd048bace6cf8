"""pds eval <run> <run> … : scores finished runs, and tables of them with intervals.

A folder that holds runs, such as a sweep's, stands for all of them. CLIP scores need a model:
`clip=<hub id or folder>`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from pds_cli.errors import UserError
from pds_cli.options.job import run_folder
from pds_cli.runs import layout

HELP = "score finished runs: CLIP, LPIPS, PSNR, SSIM, time, memory"
CONFIG = "eval"
POSITIONAL = "runs"


def main(cfg: DictConfig) -> Path:
    """Writes `table.md`, `.csv` and `.tex`, and `results.json`; returns the first's path."""
    from pds_cli.evaluation.groups import key_names
    from pds_cli.evaluation.scores import find_runs, score_run
    from pds_cli.evaluation.table import ScoreTable
    from pds_cli.files import write_text
    from pds_cli.metrics.clip import Clip
    from pds_cli.progress import Progress
    from pds_cli.runs.differences import all_settings
    from pds_cli.runs.folder import RunFolder

    names = [*([cfg.run] if cfg.run else []), *cfg.runs]
    if not names:
        raise UserError("there is nothing to score: name run folders, as in pds eval outputs/a")
    found, wrong = find_runs(names)
    for reason in wrong:
        print(f"pds eval: skipped: {reason}", file=sys.stderr)
    if not found:
        raise UserError("none of these folders holds a finished pds edit; see above")
    key_names(cfg.by, all_settings(found))  # refused before the slow part
    clip = None if cfg.clip is None else Clip(cfg.clip, device=cfg.device)
    runs = []
    with Progress("runs", len(found)) as progress:
        for record in found:
            try:
                runs.append(score_run(record, clip, list(cfg.allow_modules)))
            except UserError as error:
                print(f"pds eval: skipped: {record.path}: {error}", file=sys.stderr)
            progress.update(len(runs))
    if not runs:
        raise UserError("none of these runs could be scored; see above")
    scored = ScoreTable(runs, by=cfg.by)
    folder = RunFolder(run_folder())
    folder.begin(cfg, keep=False)
    folder.write_json(layout.RESULTS, scored.results())
    write_text(folder.path / "table.csv", scored.csv())
    write_text(folder.path / "table.tex", scored.latex())
    table = write_text(folder.path / layout.TABLE, scored.markdown())
    print(scored.markdown())
    print(f"results: {table}")
    return table
