"""`pds <verb> key=value …`: finds the verb, hands the rest to Hydra, and answers in sentences.

Exit codes: 0 done, 1 a defect of ours, 2 something that the user can mend, 130 interrupted.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
import traceback
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pds_cli.config import composed, register
from pds_cli.errors import UserError, did_you_mean, first_line
from pds_cli.explain import explain, one_line
from pds_cli.files import write_text
from pds_cli.interrupts import as_keyboard_interrupt, raise_if_seen
from pds_cli.options.catalogue import catalogue, config_path
from pds_cli.options.checks import validate
from pds_cli.options.described import parts
from pds_cli.options.help import page
from pds_cli.options.job import run_folder
from pds_cli.options.option import options_of
from pds_cli.options.ranges import shown
from pds_cli.options.schemas import VERB_SCHEMAS
from pds_cli.overrides import CommandLine, job_count, read_command_line, settle_groups
from pds_cli.runs import layout
from pds_cli.runs.outputs import Folders, sweep_words
from pds_cli.runs.ownership import (
    LOCK,
    OUTCOME,
    Claim,
    adopt,
    card_of,
    check_card,
    owns,
    prepare_card,
    read_outcome,
    remove_listed,
    use_card,
    write_outcome,
)
from pds_cli.streams import own_logging
from pds_cli.verbs.list import verb_names
from pds_cli.version import __version__

register()

# What Hydra would write beside a run stands in run.json and config.yaml.
NO_NOTES = "hydra.output_subdir=null"
# What Hydra raises for words that it cannot use, besides its own errors.
_OF_WORDS = (ValueError, TypeError, AssertionError, UserWarning)
EXAMPLES = (
    ('pds edit scene=figurine2d prompt="a photo of a man wearing a wizard hat"', "edit a picture"),
    ('pds edit scene=figurine prompt="a photo of a man raising his arms"', "edit in 3D"),
    ('pds sample prompt="a photo of a robot" n=8', "see what a backbone knows"),
    (
        'pds edit -m loss=sds,dds,pds guidance=3,7.5 prompt="a photo of a robot"',
        "compare settings, one run each",
    ),
)


def main(argv: list[str] | None = None) -> int:
    """Runs one command line (without the program's name); returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(argv)
    except UserError as error:
        return _report(error, str(error), argv)
    except BrokenPipeError:
        # The reader (head, less) has gone; a second write at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        again = f"; go on with the same words and out={swept}" if (swept := _swept()) else ""
        print(f"pds: interrupted{again}.", file=sys.stderr)
        return 130


def _swept() -> Path | None:
    """The folder of a sweep that was interrupted, if there is something in it."""
    folder, SweepRecorder.folder = SweepRecorder.folder, None
    return folder if folder is not None and card_of(folder) else None


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        _guide()
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"pds {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in verb_names():
        known = verb_names()
        raise UserError(
            f"there is no verb {name!r}{did_you_mean(name, known)} Verbs are {', '.join(known)}."
        )
    verb = import_module(f"pds_cli.verbs.{name}")
    if verb.CONFIG is not None:
        return _configured(name, verb, rest)
    if {"-h", "--help"} & set(rest):
        print(f"pds {name}: {verb.HELP}\n\n{(verb.__doc__ or '').strip()}")
        return 0
    return int(verb.main(rest) or 0)


def _guide() -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print("[bold]pds[/bold] edits what a picture shows, by text, and keeps the rest.\n")
    console.print("  pds <verb> key=value …\n")
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name in verb_names():
        table.add_row(f"[bold]{name}[/bold]", escape(import_module(f"pds_cli.verbs.{name}").HELP))
    console.print(table)
    console.print("\nTry:")
    for command, what in EXAMPLES:
        console.print(f"  [dim]# {what}[/dim]\n  {escape(command)}")
    console.print("\npds <verb> --help shows a verb's keys; pds list shows what each group offers.")


# --- verbs with a config -------------------------------------------------------------------------


class Job:
    """The function that Hydra runs: claims the folder, checks the config, then calls the verb.

    In a sweep an error is written down and reported, and the next job runs; else it is kept for
    `main`, which prints a sentence where Hydra would print a traceback.
    """

    def __init__(self, verb: str, config: str) -> None:
        self.verb, self.config = verb, config
        self.error: Exception | None = None
        self.folder: Path | None = None

    def __call__(self, cfg: DictConfig) -> None:
        sweep, folder = HydraConfig.get().mode == RunMode.MULTIRUN, run_folder()
        self.folder = folder
        verb = import_module(f"pds_cli.verbs.{self.verb}")
        if sweep and not _again(cfg, folder):
            print(f"pds {self.verb}: job {folder.name} was done before")
            self._note({"status": "done"})
            return
        try:
            if "resume" in cfg and cfg.resume:
                check_card(folder, "resume", self.verb)
            overwrite = bool(cfg.get("overwrite"))
            with Claim(folder, self.verb, overwrite=overwrite, lock=LOCK + _part(cfg)):
                if sweep:
                    use_card(folder.parent)  # every job was composed: the sweep is sure to start
                    adopt(folder, folder.parent)
                validate(self.config, cfg)
                verb.main(cfg)
        except Exception as error:
            raise_if_seen()  # what a signal broke is no failure
            if not sweep:
                self.error = error
                return
            self._failed(error, cfg)
        else:
            if sweep:
                self._note({"status": "done"})

    def report(self, error: Exception, sentence: str | None, argv: Sequence[str]) -> int:
        """Says what went wrong; returns the exit code."""
        return _report(error, sentence, argv)

    def _failed(self, error: Exception, cfg: DictConfig) -> None:
        number = HydraConfig.get().job.num
        text = explain(error, self.config, [])
        sentence = text or one_line(f"{type(error).__name__}: {error}")
        if cfg.get("debug") or _full_errors():
            traceback.print_exception(error)
        print(f"pds {self.verb}: job {number} failed: {sentence}", file=sys.stderr)
        self._note({"status": "failed", "error": sentence, "mendable": text is not None})
        if card_of(run_folder()) is None:
            _explain_to_page(run_folder(), cfg, sentence)

    def _note(self, outcome: dict[str, Any]) -> None:
        write_outcome(run_folder(), {**outcome, "sweep": os.environ.get(SWEEP)})


class CalledJob(Job):
    """A job that Python code asked for: it gets the error, and nothing is printed."""

    def report(self, error: Exception, sentence: str | None, argv: Sequence[str]) -> int:
        """Raises the error, as a UserError where there is a sentence for it."""
        if sentence is None or (isinstance(error, UserError) and str(error) == sentence):
            raise error
        raise UserError(sentence) from error


def call(name: str, overrides: Sequence[str]) -> Path:
    """Runs one job of a verb for Python code; returns its folder.

    Args:
        name: of the verb.
        overrides: words of Hydra's grammar; see `pds_cli.overrides.words_of`.

    Raises:
        UserError: what `main` would print.
    """
    verb = import_module(f"pds_cli.verbs.{name}")
    job, line = CalledJob(name, verb.CONFIG), CommandLine(overrides=list(overrides))
    _offered(line)
    _carry_out(name, verb, job, line, [])
    assert job.folder is not None
    return job.folder


def _explain_to_page(folder: Path, cfg: DictConfig, sentence: str) -> None:
    """Lets the sweep's page show a job that was refused before it began: its settings, and why."""
    with suppress(OmegaConfBaseException, UserError):
        write_text(folder / layout.ERROR, f"{sentence}\n")
        adopt(folder / layout.ERROR, folder)
        write_text(folder / layout.CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
        adopt(folder / layout.CONFIG, folder)


SWEEP = "PDS_SWEEP"  # names the present sweep to the processes that run its jobs


def _part(cfg: DictConfig) -> str:
    """Names the part of a benchmark that is asked for: parts may run side by side in one folder."""
    only = OmegaConf.select(cfg, "benchmark.only")
    return "_" + hashlib.sha256(repr(list(only)).encode()).hexdigest()[:8] if only else ""


def _again(cfg: DictConfig, folder: Path) -> bool:
    """Whether a job of a sweep is to run: afresh, or on from where an earlier try of it ended."""
    if cfg.get("overwrite") or card_of(folder) is None:
        return True
    if read_outcome(folder).get("status") == "done":
        return False
    if "resume" in cfg:
        cfg.resume = str(folder)
    else:
        cfg.overwrite = True
    return True


class SweepRecorder(Callback):
    """Hydra's callback that notes, in the launching process, that a sweep begins."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes the sweep's folder, and gives the sweep a name of its own."""
        try:
            folder = Path(config.hydra.sweep.dir).absolute()
        except Exception:
            return  # Hydra is about to meet the same error, where it can be reported
        os.environ[SWEEP] = uuid.uuid4().hex
        for name in ("multirun.yaml", layout.CARD):
            owns(folder / name)
        prepare_card(
            folder, str(config.hydra.job.name), {"sweep": sweep_words(config.hydra.overrides.task)}
        )
        SweepRecorder.folder = folder


def _configured(name: str, verb: ModuleType, argv: list[str]) -> int:
    line = read_command_line(argv, getattr(verb, "POSITIONAL", None), verb.CONFIG)
    groups = _offered(line)
    if {"-h", "--help"} & set(line.flags):
        return _help(name, verb, line, groups)
    if line.sweep and not line.showing:
        jobs = job_count(line.overrides, groups)
        if jobs is not None:  # composing them takes a while, and this says so
            print(f"pds {name}: {jobs:,} job{'s' * (jobs != 1)}", flush=True)
    return _carry_out(name, verb, Job(name, verb.CONFIG), line, argv)


def _help(name: str, verb: ModuleType, line: CommandLine, groups: dict[str, dict[str, str]]) -> int:
    """Prints the keys of a verb and of what is chosen, with their words; returns the exit code."""
    if line.sweep:
        raise UserError("--help shows one choice of each group: leave out -m.")
    try:
        cfg = composed(verb.CONFIG, line.overrides, line.config_dirs, hydra=True)
    except Exception as error:
        job = Job(name, verb.CONFIG)
        return _report(error, _sentence(error, job, line, composing=True), [name])
    schema, chosen = VERB_SCHEMAS[verb.CONFIG], cfg.hydra.runtime.choices
    ours = {
        group: str(chosen[group])
        for group in dict.fromkeys([*options_of(schema), *chosen])
        if group in chosen and group in groups
    }
    found = parts(name, schema, cfg, ours)
    part = line.value_of("--package", "-p")
    about = {f"{group}={option}": groups[group].get(option, "") for group, option in ours.items()}
    if part:
        found = [each for each in found if each.title.partition("=")[0] == part.partition(".")[0]]
    head = f"pds {name}: {verb.HELP}"
    print(page(head, {group: groups[group] for group in ours}, found, about))
    return 0


def _offered(line: CommandLine) -> dict[str, dict[str, str]]:
    """The groups with their options, once the line was seen to choose among them."""
    for folder in line.config_dirs:
        if not folder.is_dir():
            raise UserError(
                f"{folder} is not a folder: --config-dir and hydra.searchpath name ones of groups."
            )
    groups = catalogue(line.config_dirs)
    settle_groups(line, groups)
    return groups


def _carry_out(
    name: str, verb: ModuleType, job: Job, line: CommandLine, argv: Sequence[str]
) -> int:
    """Runs a command line that was read; returns the exit code."""
    SweepRecorder.folder, Folders.sweep = None, None
    Folders.made.clear()
    Folders.reserve = not line.showing
    try:
        with as_keyboard_interrupt(), own_logging():
            return _run(name, verb, job, line, argv)
    finally:
        Folders.reserve = False
        if Folders.sweep is not None:
            Folders.sweep.__exit__(None, None, None)
        Folders.tidy()


def _run(name: str, verb: ModuleType, job: Job, line: CommandLine, argv: Sequence[str]) -> int:
    """Runs the job, or the jobs of a sweep; returns the exit code."""
    try:
        code = _hydra(name, job, line)
    except Exception as error:
        raise_if_seen()
        return job.report(error, _sentence(error, job, line, composing=True), [name, *argv])
    if job.error is not None:
        return job.report(job.error, _sentence(job.error, job, line), [name, *argv])
    return _finish_sweep(name, verb, SweepRecorder.folder) if SweepRecorder.folder else code


def _hydra(name: str, job: Job, line: CommandLine) -> int:
    """Hydra's own `main`, on our words; its flags, sweepers and launchers all work.

    `HYDRA_FULL_ERROR` makes Hydra raise its errors to us instead of printing them.
    """
    GlobalHydra.instance().clear()
    app = hydra.main(config_path=config_path(), config_name=job.config, version_base="1.3")(job)
    try:
        words = [f"pds {name}", NO_NOTES, *line.overrides, *line.flags]
        with (
            _changed(sys.argv, words), _full_error_env(), _composing_once(line), _said(line) as said
        ):  # fmt: skip
            warnings.filterwarnings("error", message="provider=hydra.searchpath")
            app()
    except SystemExit as end:
        if end.code and said is not None:  # what Hydra says of a part that is not there
            raise UserError(one_line(said.getvalue().strip()).rstrip(".") + ".") from end
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@contextmanager
def _composing_once(line: CommandLine) -> Iterator[None]:
    """Spares Hydra's composing of the config, 0.3 s, only to learn whether it says to sweep.

    Our own says nothing of that; the words may, and files of other folders.
    """
    if line.config_dirs or any("hydra" in word for word in line.overrides):
        yield
        return
    original = Hydra.get_mode
    Hydra.get_mode = lambda *args, **kwargs: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = original  # type: ignore[method-assign]


@contextmanager
def _said(line: CommandLine) -> Iterator[io.StringIO | None]:
    """Catches what Hydra prints on stderr while it only shows something."""
    if not line.showing:
        yield None
        return
    with redirect_stderr(io.StringIO()) as said:
        yield said


def _sentence(error: Exception, job: Job, line: CommandLine, composing: bool = False) -> str | None:
    """The sentence for an error of the job, or of Hydra while it read the command line."""
    text = explain(error, job.config, line.overrides, line.config_dirs)
    if text is None and composing and isinstance(error, _OF_WORDS):
        first = first_line(error).rstrip(".")
        words = shown(" ".join([*line.overrides, *line.flags]), 300)
        return f"cannot make a config from {words}: {first}."
    return text


def _finish_sweep(name: str, verb: ModuleType, folder: Path) -> int:
    """Sums a sweep up, and lets the verb make its page; 2 if all that failed can be mended."""
    found = {
        path.parent.parent: read_outcome(path.parent.parent) for path in folder.glob(f"*/{OUTCOME}")
    }
    now = os.environ.pop(SWEEP, None)
    outcomes = {job: outcome for job, outcome in found.items() if outcome.get("sweep") == now}
    for job in found.keys() - outcomes.keys():
        _remove_job(job)  # of a longer sweep that this one replaces
    jobs = sorted(outcomes, key=lambda job: (len(job.name), job.name))
    failed = [job for job in jobs if outcomes[job].get("status") == "failed"]
    if hasattr(verb, "after_sweep") and len(failed) < len(jobs):
        verb.after_sweep(folder, jobs)
    print(f"pds {name}: {len(jobs) - len(failed)} of {len(jobs)} jobs done, in {folder}")
    for job in failed:
        print(f"pds {name}: job {job.name} failed: {outcomes[job]['error']}", file=sys.stderr)
    if not failed:
        return 0
    if len(failed) == len(jobs) and not any(card_of(job) for job in jobs):
        for job in jobs:
            _remove_job(job)
        remove_listed(folder)  # nothing came of it
    return 2 if all(outcomes[job]["mendable"] for job in failed) else 1


def _remove_job(folder: Path) -> None:
    """Removes what a job of a sweep wrote, and its folder if nothing else is in it."""
    if not remove_listed(folder):
        shutil.rmtree(folder)


# --- errors --------------------------------------------------------------------------------------


def _report(error: BaseException, sentence: str | None, argv: Sequence[str]) -> int:
    """Prints the sentence, with a traceback where one is asked for; returns the exit code."""
    verb = f"pds {argv[0]}" if argv and argv[0] in verb_names() else "pds"
    if _full_errors() or "debug=true" in [word.lower() for word in argv]:
        traceback.print_exception(error)
    if sentence is not None:
        print(f"{verb}: {sentence}", file=sys.stderr)
        return 2
    print(
        f"{verb}: unexpected {type(error).__name__}: {one_line(str(error))} "
        "(this is a defect; debug=true shows where).",
        file=sys.stderr,
    )
    return 1


def _full_errors() -> bool:
    return os.environ.get("HYDRA_FULL_ERROR") == "1" and "PDS_QUIET_ERRORS" not in os.environ


@contextmanager
def _full_error_env() -> Iterator[None]:
    """Sets HYDRA_FULL_ERROR for Hydra, remembering for us whether the user had set it."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    if before != "1":
        os.environ["PDS_QUIET_ERRORS"] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("PDS_QUIET_ERRORS", None)
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


@contextmanager
def _changed(words: list[str], new: list[str]) -> Iterator[None]:
    before = words[:]
    words[:] = new
    try:
        yield
    finally:
        words[:] = before
