"""``fedge study``: what a person calls. It says what it understood, works with a bar and the time that is left, and answers.

Exit status: 0 understood and studied, 2 refused, 3 there are questions to answer first.
"""

from __future__ import annotations

import json as json_text
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from models.architecture import Architecture
from models.errors import RecordingError
from models.export.isolated import export_training_model
from models.recordings.questions import Question, QuestionsOpen
from models.recordings.reading import read_machines
from runtime.durable_files import write_durably
from runtime.errors import StorageError
from simulations.errors import ScenarioError
from simulations.study.document import document_of
from simulations.study.page import draw_page
from simulations.study.recommendation import NAMES, Headline, Recommendation, rate_in_words, recommend
from simulations.study.studying import Prepared, Study, prepare, study
from simulations.study.understood import columns_of, understood

__all__ = ["REPORT", "run_study"]

REPORT: Final = Path("report.html")
STUDIED, REFUSED, QUESTIONS = 0, 2, 3
_COLOUR: Final = {Headline.YES: "green", Headline.PARTLY: "yellow", Headline.NOT_YET: "red"}


def run_study(
    paths: Sequence[Path],
    *,
    out: Path | None,
    is_json: bool,
    answers: Sequence[str],
    alarms_per_1000: float,
    export: Callable[[Architecture], bytes] = export_training_model,
) -> int:
    """The whole command; returns the exit status.

    Args:
        paths: files and folders.
        out: where the report goes; None: `REPORT`, and none with `is_json`.
        is_json: figures to stdout, and all else to stderr.
        answers: KEY=VALUE each.
        alarms_per_1000: the budget.
        export: builds a training graph.
    """
    console = Console(stderr=is_json, highlight=False, soft_wrap=True)
    try:
        with _Bar(console) as bar:
            reading = read_machines(
                paths, answers=_answers(answers), progress=lambda share: bar.tell("reading", share)
            )
            prepared = prepare(reading, alarms_per_1000=alarms_per_1000)
        _say(console, prepared)
        with _Bar(console) as bar:
            found = study(prepared, progress=bar.tell, export=export)
    except QuestionsOpen as asked:
        _ask(console, asked.questions, paths, answers)
        return QUESTIONS
    except (RecordingError, ScenarioError) as error:
        _refuse(str(error))
    recommendation = recommend(found)
    _answer(console, found, recommendation)
    if is_json:
        print(json_text.dumps(document_of(found, recommendation), indent=2, ensure_ascii=False))  # noqa: T201 - what was asked for
    if out is None and is_json:
        return STUDIED
    out = out or REPORT
    title = ", ".join(path.resolve().name for path in paths)
    try:
        write_durably(
            out.absolute(), draw_page(found, recommendation, title=title, now_s=time.time()).encode()
        )
    except (StorageError, OSError) as error:
        _refuse(f"the report cannot be written to {out}: {error}; give another place with --out")
    console.print(f"report: {out.absolute()}")
    return STUDIED


class _Bar:
    """A bar of one stage after the other, with the time that is left; on no terminal a line each stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def tell(self, stage: str, share: float) -> None:
        if stage not in self._tasks:
            for task in self._tasks.values():
                self._progress.update(task, completed=1.0)
            self._tasks[stage] = self._progress.add_task(stage, total=1.0)
            if not self._console.is_terminal:
                self._console.print(f"{stage} …")
        self._progress.update(self._tasks[stage], completed=share)


def _answers(given: Sequence[str]) -> Mapping[str, str]:
    answers = {}
    for one in given:
        key, sign, value = one.partition("=")
        if not sign or not key.strip():
            _refuse(f"--answer {one!r} is no KEY=VALUE, such as --answer date_order=day-month-year")
        answers[key.strip()] = value.strip()
    return answers


def _say(console: Console, prepared: Prepared) -> None:
    console.print("[bold]Understood[/]")
    for sentence in understood(prepared):
        console.print(f"  {escape(sentence)}")
    table = Table(box=None, pad_edge=False, show_edge=False)
    for head in ("  column", "is", "note"):
        table.add_column(head, overflow="fold")
    for name, kind, note in columns_of(prepared.reading):
        table.add_row(f"  {escape(name)}", kind, escape(note))
    console.print(table)


def _answer(console: Console, found: Study, recommendation: Recommendation) -> None:
    table = Table(box=None, pad_edge=False)
    for head in ("", "false alarms, int8", "float", "faults seen", "time in alarm"):
        table.add_column(head)
    for name, way in found.ways.items():
        tally, floats = way.tally, way.float_tally
        table.add_row(
            NAMES[name],
            f"{tally.false_alarms} in {tally.healthy:,} ({rate_in_words(tally)})",
            str(floats.false_alarms),
            f"{tally.seen} of {tally.events}" if tally.events else "no labels here",
            f"{tally.time_in_alarm:.1%}",
        )
    console.print(table)
    console.print(f"[bold {_COLOUR[recommendation.headline]}]{escape(recommendation.title)}[/]")
    for reason in recommendation.reasons:
        console.print(f"  · {escape(reason)}")


def _ask(
    console: Console, questions: Sequence[Question], paths: Sequence[Path], given: Sequence[str]
) -> None:
    console.print("[bold]Answer first[/], because it can be read in more than one way:")
    for question in questions:
        place = f"{question.path}:{question.line}" if question.line is not None else str(question.path)
        console.print(f"  {escape(place)}: {escape(question.text)}")
        console.print(f"    {escape(question.key)} = {escape(' | '.join(question.allowed))}")
    told = [f"--answer {shlex.quote(one)}" for one in given]
    told += [f"--answer {shlex.quote(f'{one.key}={one.allowed[0]}')}" for one in questions if one.allowed]
    places = " ".join(shlex.quote(str(path)) for path in paths)
    console.print(f"then go on with, for instance:\n  {escape(' '.join(['fedge study', places, *told]))}")


def _refuse(message: str) -> NoReturn:
    print(f"fedge study: {message}", file=sys.stderr)  # noqa: T201 - a command says why it ends
    raise SystemExit(REFUSED)
