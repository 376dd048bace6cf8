"""pds compare <run> <run> … sets runs side by side; pds compare benchmark=… measures.

With run folders: writes one page with a grid of their results, a metric table, `grid.png` and
`table.md`. With a benchmark (`pds list benchmark`): runs it on the backbone and prints its table.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from pds_cli.errors import UserError
from pds_cli.options.job import choice, run_folder
from pds_cli.runs import layout

HELP = "set runs side by side on one page, or run a benchmark"
CONFIG = "compare"
POSITIONAL = "runs"


def main(cfg: DictConfig) -> Path:
    """Returns the page or table that was written."""
    if cfg.benchmark is None and len(cfg.runs) < 1:
        raise UserError(
            "there is nothing to compare: name run folders, as in pds compare outputs/a outputs/b, "
            "or a benchmark, as in pds compare benchmark=toybox"
        )
    if cfg.benchmark is not None and len(cfg.runs):
        raise UserError(
            f"benchmark={choice('benchmark')} measures, and {', '.join(map(str, cfg.runs))} are "
            "to be set side by side: these are two commands"
        )
    if cfg.benchmark is None:
        from pds_cli.pages.comparison import write_comparison
        from pds_cli.runs.folder import RunFolder

        RunFolder(run_folder()).begin(cfg, keep=False)
        page = write_comparison([Path(run) for run in cfg.runs], run_folder())
        print(f"comparison: {page}")
        return page
    from pds_cli.instantiate import instantiate
    from pds_cli.runs.folder import RunFolder, environment

    run = RunFolder(run_folder())
    benchmark = instantiate("benchmark", cfg.benchmark, allow_modules=list(cfg.allow_modules))
    backbone = instantiate("backbone", cfg.backbone, allow_modules=list(cfg.allow_modules))
    run.begin(cfg, benchmark=choice("benchmark"))
    run.write_json(layout.ENVIRONMENT, environment(str(backbone.device), cfg.seed))
    table: Path = benchmark.run(backbone, run)
    print(table.read_text(encoding="utf-8"))
    print(f"results: {table}")
    return table
