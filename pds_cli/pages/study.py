"""A blinded study: which result of several methods people prefer, and what they answered.

The page shows a source, its prompt and the methods' results in an order of its own for each
viewer, without their names, and lets the viewer save a file of answers. `key.json` stays behind:
it says which method each mark on the page stands for.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pds_cli.errors import UserError
from pds_cli.evaluation.groups import describe, key_names, telling_keys
from pds_cli.files import write_text
from pds_cli.markdown import table
from pds_cli.pages.page import Picture, animation, picture, render
from pds_cli.reading import brief, read_json
from pds_cli.runs import layout
from pds_cli.runs.differences import (
    Settings,
    all_settings,
    column_of,
    determines,
    differing_keys,
    edit_of,
    is_edit,
    is_seed,
    position,
)
from pds_cli.runs.record import RunRecord, natural

KEY = "key.json"
FILM = layout.TURNTABLE
FILM_BEFORE = layout.TURNTABLE_BEFORE
NONE = "none"


@dataclass(frozen=True)
class Option:
    """A result on the page: its mark says nothing about its method."""

    mark: str
    picture: Picture


@dataclass(frozen=True)
class Question:
    """A source, its prompts, and the results to choose from."""

    mark: str
    prompt: str
    source_prompt: str
    source: Picture | None
    options: list[Option]


@dataclass(frozen=True)
class Plan:
    """What the results of one edit are told apart by.

    by: settings that differ between the results of a question, whose values name them.
    within: other settings that differ between runs, but never within a question; answers under
        different values of these are not counted together.
    along: settings that differ too, but follow from those of `by` and from the edit.
    """

    by: list[str]
    within: list[str]
    along: list[str]


def make_plan(settings: Sequence[Settings], by: object = None) -> Plan:
    """By all that differs but the edit and the seed, or by the settings that `by` names.

    Raises:
        UserError: a setting that the runs do not have, or one that says what is edited.
    """
    differing = [key for key in differing_keys(settings) if not is_seed(key)]
    edits = [key for key in differing if is_edit(key)]
    telling = [key for key in telling_keys(settings)[0] if not is_edit(key)]
    named = key_names(by, settings) or telling or ["loss"]
    for key in named:
        if is_edit(key) or is_seed(key):
            raise UserError(
                f"by={key}: results of one question share scene, prompt and seed; name a setting "
                f"of how they were made{' such as ' + telling[0] if telling else ''}"
            )
    causes = [position(node, [*edits, *named]) for node in settings]
    others = [key for key in differing if key not in edits and key not in named]
    along = [key for key in others if determines(causes, column_of(settings, key))]
    return Plan(named, [key for key in others if key not in along], along)


def build(
    runs: Sequence[RunRecord], seed: int, by: object = None
) -> tuple[list[Question], dict[str, Any]]:
    """The questions, one for each edit that was made in several ways, and the key to their marks.

    Runs belong together that share scene, prompts, seed and all settings but those of the plan,
    see `make_plan`. Films are shown where all runs of a question have one, else the first view.

    Raises:
        UserError: no edit was made in two ways, or one in the same way twice.
    """
    settings = all_settings(runs)
    plan = make_plan(settings, by)
    groups: dict[tuple[Any, ...], dict[str, RunRecord]] = {}
    names: dict[tuple[Any, ...], str] = {}
    for run, node in zip(runs, settings, strict=True):
        same = (*edit_of(run), str(run.config.get("seed", "")), position(node, plan.within))
        group = groups.setdefault(same, {})
        names[same] = describe(node, plan.within)
        way = describe(node, plan.by)
        if way in group:
            raise UserError(
                f"{group[way].path} and {run.path} are the same edit by {way}; name one"
            )
        group[way] = run
    several = {same: group for same, group in groups.items() if len(group) > 1}
    if not several:
        ways = "methods" if by is None else f"values of {', '.join(plan.by)}"
        raise UserError(
            f"a study compares results of two {ways} or more for one edit, and these runs hold "
            "none; pds edit -m loss=sds,dds,pds makes some"
        )
    key: dict[str, Any] = {"by": plan.by, "within": plan.within, "along": plan.along}
    key |= {"options": {}, "questions": {}}
    questions = [_question(group, seed, key, names[same]) for same, group in several.items()]
    text = json.dumps(key, sort_keys=True)
    key["study"] = hashlib.sha256(text.encode()).hexdigest()[:12]
    return questions, key


def _question(
    group: Mapping[str, RunRecord], seed: int, key: dict[str, Any], within: str
) -> Question:
    first = next(iter(group.values()))
    mark = _mark(seed, "question", first)
    filmed = all((run.path / name).is_file() for run in group.values() for name in (FILM,))
    view = min(first.finals["result"], key=natural)
    options = []
    for method, run in group.items():
        shown = animation(run.path / FILM) if filmed else None
        shown = shown or picture(run.final("result", view), 640)
        if shown is None:
            raise UserError(f"{run.path} has no picture of {view} that could be read")
        option = Option(_mark(seed, method, run), shown)
        key["options"][option.mark] = {"method": method, "run": str(run.path)}
        options.append(option)
    source = animation(first.path / FILM_BEFORE) if filmed else None
    source = source or picture(first.final("source", view), 640)
    key["questions"][mark] = {
        "prompt": first.prompt,
        "within": within,
        "options": [option.mark for option in options],
    }
    # By mark, so that the page's own order says nothing either.
    options.sort(key=lambda option: option.mark)
    return Question(mark, first.prompt, first.source_prompt, source, options)


def _mark(seed: int, kind: str, run: RunRecord) -> str:
    text = f"{seed} {kind} {run.path.resolve()}"
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def write_study(
    runs: Sequence[RunRecord], folder: Path, *, question: str, seed: int, by: object = None
) -> Path:
    """Writes `study.html`, which is sent to people, and `key.json`, which is not."""
    questions, key = build(runs, seed, by)
    page = render(
        "study.html.j2", wide=False, title=question, questions=questions, study=key["study"]
    )
    write_text(folder / KEY, json.dumps(key, indent=2) + "\n")
    return write_text(folder / "study.html", page)


# --- answers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One choice: which methods were shown, and which was preferred (None: none of them).

    within: the settings that all of them share and other questions do not.
    """

    shown: tuple[str, ...]
    chosen: str | None
    within: str = ""


def collect(files: Sequence[str], key: Mapping[str, Any]) -> tuple[list[Answer], list[str]]:
    """All answers of the files, and a sentence for each file that cannot be used.

    A file that is there twice (the same viewer) counts once, the last.

    Raises:
        UserError: no file can be used.
    """
    sheets: dict[str, list[Answer]] = {}
    wrong: list[str] = []
    for name in files:
        try:
            data = read_json(Path(name).expanduser())
            viewer, answers = _answers(data, key)
        except (KeyError, TypeError, AttributeError):
            wrong.append(f"{name}: no answers to this study, as its page saves them")
            continue
        except (UserError, ValueError) as error:
            wrong.append(f"{name}: {error}")
            continue
        sheets[viewer] = answers
    found = [answer for answers in sheets.values() for answer in answers]
    if not found:
        raise UserError(f"there are no answers in {', '.join(files)}: {'; '.join(wrong)}")
    return found, wrong


def _answers(data: Mapping[str, Any], key: Mapping[str, Any]) -> tuple[str, list[Answer]]:
    if data["study"] != key["study"]:
        study = brief(data["study"])
        raise ValueError(f"answers of another study, {study}; this key is {key['study']}'s")
    methods = {mark: option["method"] for mark, option in key["options"].items()}
    answers: dict[str, Answer] = {}  # by question: one that is there twice counts once, the last
    for each in data["answers"]:
        options = key["questions"][each["question"]]["options"]
        chosen = None if each["chosen"] == NONE else methods[each["chosen"]]
        if chosen is not None and each["chosen"] not in options:
            raise ValueError(f"{brief(each['chosen'])} was no option of {each['question']}")
        within = str(key["questions"][each["question"]].get("within", ""))
        shown = tuple(methods[mark] for mark in options)
        answers[each["question"]] = Answer(shown, chosen, within)
    return str(data["viewer"]), list(answers.values())


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % score interval of a share.

    Source: Wilson, Probable Inference, JASA 22(158), 1927.

    >>> [round(x, 3) for x in wilson(5, 10)]
    [0.237, 0.763]
    """
    share, scale = successes / trials, 1 + z * z / trials
    middle = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return (middle - reach) / scale, (middle + reach) / scale


def preferences(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """method → votes, questions where it was shown, share of them, and the share's interval."""
    found: dict[str, dict[str, float]] = {}
    for method in dict.fromkeys(name for answer in answers for name in answer.shown):
        shown = [answer for answer in answers if method in answer.shown]
        votes = sum(answer.chosen == method for answer in shown)
        low, high = wilson(votes, len(shown))
        share = votes / len(shown)
        found[method] = {
            "votes": votes, "shown": len(shown), "share": share, "low": low, "high": high,
        }  # fmt: skip
    return dict(sorted(found.items(), key=lambda item: -item[1]["share"]))


def by_setting(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """The answers under each value of what the questions differ in beside edit and seed."""
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        found.setdefault(answer.within, []).append(answer)
    return found


def markdown(answers: Sequence[Answer]) -> str:
    """A table of preferences for each of `by_setting`, which are not counted together."""
    parts = [
        "\n\n".join([f"With {within}:", _table(found)] if within else [_table(found)])
        for within, found in by_setting(answers).items()
    ]
    return "\n\n".join(parts) + "\n"


def _table(answers: Sequence[Answer]) -> str:
    rows = table(
        ["method", "preferred", "of", "share", "95 % interval"],
        (
            [method, f"{row['votes']}", f"{row['shown']}", f"{100 * row['share']:.0f} %",
             f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %"]
            for method, row in preferences(answers).items()
        ),
    )  # fmt: skip
    nothing = sum(answer.chosen is None for answer in answers)
    return f"{rows}\n\n{len(answers)} answers, {nothing} of them for none of the results."
