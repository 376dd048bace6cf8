"""pds study <run> <run> … : a blinded page that asks which result people prefer.

Send `study.html` to people and keep `key.json`. Each saves a file of answers; then

    pds study collect=[answers_1.json,answers_2.json] key=<folder>/key.json

prints how often each method was preferred, with intervals.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from pds_cli.errors import UserError
from pds_cli.options.job import run_folder
from pds_cli.runs import layout

HELP = "a blinded comparison of methods for people, and its result"
CONFIG = "study"
POSITIONAL = "runs"


def main(cfg: DictConfig) -> Path:
    """Returns the page, or the table of preferences."""
    if cfg.collect:
        return _collect(cfg)
    return _make(cfg)


def _make(cfg: DictConfig) -> Path:
    from pds_cli.evaluation.scores import find_runs
    from pds_cli.pages.study import write_study
    from pds_cli.reading import read_json
    from pds_cli.runs.folder import RunFolder

    if not cfg.runs:
        raise UserError(
            "there is nothing to show: name run folders, as in pds study outputs/a outputs/b, or "
            "answers, as in pds study collect=[answers.json] key=<folder>/key.json"
        )
    found, wrong = find_runs(list(cfg.runs))
    for reason in wrong:
        print(f"pds study: skipped: {reason}", file=sys.stderr)
    folder = RunFolder(run_folder())
    folder.begin(cfg, keep=False)
    page = write_study(found, folder.path, question=cfg.question, seed=cfg.seed, by=cfg.by)
    key = read_json(folder.path / "key.json")
    along = f", and with these in {', '.join(key['along'])}" if key["along"] else ""
    print(f"the results of a question differ in {', '.join(key['by'])}{along}")
    if key["within"]:
        print(f"questions differ in {', '.join(key['within'])}: answers are counted apart for each")
    print(f"to send: {page}\nto keep: {folder.path / 'key.json'}")
    return page


def _collect(cfg: DictConfig) -> Path:
    from pds_cli.files import write_text
    from pds_cli.pages.study import by_setting, collect, markdown, preferences
    from pds_cli.reading import read_json
    from pds_cli.runs.folder import RunFolder

    if cfg.key is None:
        raise UserError("key= is missing: name the key.json that was written beside the page")
    try:
        key = read_json(Path(cfg.key).expanduser())
        {mark: str(option["method"]) for mark, option in key["options"].items()}
        {mark: list(question["options"]) for mark, question in key["questions"].items()}
        key["study"]
    except UserError as error:
        raise UserError(f"key={cfg.key} is no key of a study: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"key={cfg.key} is no key of a study: the key.json that pds study wrote beside its "
            "page would be right"
        ) from error
    answers, wrong = collect(list(cfg.collect), key)
    for reason in wrong:
        print(f"pds study: skipped: {reason}", file=sys.stderr)
    folder = RunFolder(run_folder())
    folder.begin(cfg, keep=False)
    found = {within: preferences(same) for within, same in by_setting(answers).items()}
    folder.write_json(layout.RESULTS, found[""] if list(found) == [""] else found)
    table = write_text(folder.path / layout.TABLE, markdown(answers))
    print(table.read_text(encoding="utf-8"))
    print(f"results: {table}")
    return table
