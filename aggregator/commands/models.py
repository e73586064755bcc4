"""``model from-csv``: a folder of recordings, and the plant's fleet has a first model of its machines.

Exit status 0: published, or there was nothing to do; 2: refused, in one line that says what to do; 3: something only a person knows
is asked, with the command that goes on.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, TypeVar

import typer

from runtime.printable import printable
from service.errors import StartError
from service.plant import Plant, PlantOption, find_plant

# the fleet's client and everything that trains are not waited for by the other commands of this program
if TYPE_CHECKING:
    from aggregator.first_model import FirstModel
    from models.recordings.questions import Question

__all__ = ["model_commands"]

ASKED: Final = 3
"""Exit status: something is asked."""

Command = Callable[..., None]
Answer = TypeVar("Answer")


def model_commands(told: Callable[[Command], Command]) -> typer.Typer:
    """The commands; `told` is how the program tells an error: a decorator of each."""
    commands = typer.Typer(no_args_is_help=True, help="Models out of recordings, for a plant.")

    @commands.callback()
    def alone() -> None:
        """Models out of recordings, for a plant."""

    @commands.command("from-csv")
    @told
    def from_csv(
        files: Annotated[
            list[Path],
            typer.Argument(help="recordings of healthy machines, a file or column value each; or folders"),
        ],
        family: Annotated[
            str, typer.Option("--family", help="what machines of this kind are called, e.g. valve")
        ],
        plant: PlantOption = None,
        answer: Annotated[
            list[str] | None,
            typer.Option("--answer", help="KEY=VALUE: what was asked before; may be repeated"),
        ] = None,
        accept_blind: Annotated[
            bool, typer.Option("--accept-blind", help="sign a detector that hardly sees small disturbances")
        ] = False,
        again: Annotated[
            bool, typer.Option("--again", help="make the next version, where the family has a release")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="JSON instead of sentences")] = False,
    ) -> None:
        """Train a family's first model out of recordings, sign it if it passes the gate, and give it to the running fleet."""
        request = ["fedge", "model", "from-csv", *map(str, files), "--family", family]
        request += ["--plant", str(plant)] if plant is not None else []
        request += [word for one in answer or [] for word in ("--answer", one)]
        request += ["--again"] if again else []
        request += ["--json"] if as_json else []
        _make(
            find_plant(plant),
            family,
            files,
            _answers(answer or []),
            request,
            accept_blind=accept_blind,
            again=again,
            as_json=as_json,
        )

    return commands


def _make(
    plant: Plant,
    family: str,
    files: Sequence[Path],
    answers: dict[str, str],
    request: list[str],
    *,
    accept_blind: bool,
    again: bool,
    as_json: bool,
) -> None:
    from aggregator.errors import BlindDetectorError
    from aggregator.exporter import SigningExporter
    from aggregator.first_model import hand_in, make_first_model, next_version, pending
    from aggregator.publishing import open_fleet
    from aggregator.release_keys import read_private_key
    from aggregator.run_tables import training_progress
    from aggregator.settings import load_aggregator_settings
    from models.recordings.questions import QuestionsOpen
    from models.recordings.reading import read_machines
    from protocol.bundle import peek_manifest
    from runtime.errors import SettingsError

    settings = load_aggregator_settings(plant.aggregator_config)
    key = read_private_key(settings.signing_key, "signing_key")
    with closing(open_fleet(settings, key, [])) as fleet:
        version = _reached(lambda: next_version(fleet, family))
        left, made = pending(plant, family), None
        if left is None and version > 1 and not again:
            raise SettingsError(
                f"family {family!r} has release {family}/{version - 1}; --again makes {family}/{version} of these recordings"
            )
        if left is None:
            notes: list[str] = []
            try:
                with training_progress(quiet=as_json, title=f"{family}/{version}") as progress:
                    reading = read_machines(
                        files, answers=answers, progress=lambda share: progress("reading", share)
                    )
                    notes = [*reading.notes, *(f"{path}: {why}" for path, why in reading.refused)]
                    made, left = make_first_model(
                        plant,
                        family,
                        reading,
                        SigningExporter(key),
                        version=version,
                        accepts_blind=accept_blind,
                        progress=progress,
                    )
            except QuestionsOpen as asked:
                _ask(asked.questions, request)
            except BlindDetectorError as blind:
                _ask_for_word(str(blind), request)
            finally:
                for note in notes:
                    _say(f"note: {note}", as_json=as_json)
        content = left.read_bytes()
        release = str(peek_manifest(content).release)
        _say(f"{release} is signed; handing it to the fleet", as_json=as_json)
        _admit(plant, family)
        rollout = _reached(lambda: hand_in(fleet, content, release, left))
    _tell(made, release, rollout, as_json=as_json)


def _answers(given: Sequence[str]) -> dict[str, str]:
    from runtime.errors import SettingsError

    found: dict[str, str] = {}
    for text in given:
        key, is_pair, value = text.partition("=")
        if not is_pair or not key.strip():
            raise SettingsError(f"--answer {text[:80]!r} is not of the form KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def _reached(call: Callable[[], Answer]) -> Answer:
    """What the fleet answers; raises StartError where it is not there, which a plant's own person can mend."""
    from aggregator.errors import FleetUnreachableError

    try:
        return call()
    except FleetUnreachableError as error:
        raise StartError(f"{error}. Is the plant up? Start it with `fedge up`, and do this again") from None


def _ask(questions: Sequence[Question], request: list[str]) -> NoReturn:
    """Print what is asked and how to go on, and leave with status 3."""
    for question in questions:
        print(printable(str(question)), file=sys.stderr)
    answers = [f"{question.key}={question.allowed[0]}" for question in questions if question.allowed]
    words = [*request, *(word for one in answers for word in ("--answer", one))]
    print(
        printable(f"go on with your answers, for instance: {shlex.join(words)}"),
        file=sys.stderr,
    )
    raise typer.Exit(ASKED)


def _ask_for_word(sentence: str, request: list[str]) -> NoReturn:
    print(printable(sentence), file=sys.stderr)
    print(printable(f"if it is, go on with: {shlex.join([*request, '--accept-blind'])}"), file=sys.stderr)
    raise typer.Exit(ASKED)


def _admit(plant: Plant, family: str) -> None:
    """Have the signed repository name the release key for the family: the fleet's own command does, as its keys are its own."""
    done = subprocess.run(
        [sys.executable, "-m", "fleet", "trust", "admit", family, "--plant", str(plant.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise StartError(said[0].removeprefix("fedge-fleet: "))


def _tell(made: FirstModel | None, release: str, rollout: str, *, as_json: bool) -> None:
    if as_json:
        figures: dict[str, object] = {"release": release, "rollout": rollout}
        if made is not None:
            figures |= {name: value for name, value in vars(made.release).items() if name != "content"}
            figures |= {
                "notes": made.notes,
                "spec": str(made.spec_file),
                "over_threshold": dict(made.fit.over),
            }
            figures |= {"misfits": [vars(misfit) for misfit in made.fit.misfits]}
        print(json.dumps(figures))
        return
    if made is None:
        print(
            printable(
                f"{release}, which was signed before, is published; rollout {rollout} gives it to the devices"
            )
        )
        return
    for sentence in (*made.notes, *(f"warning: {warning}" for warning in made.release.warnings)):
        print(printable(sentence), file=sys.stderr)
    found = made.release
    print(
        printable(
            f"{release} is published: from {found.windows} windows of {found.machines} machines, judged by the {found.detector};"
            f" devices get it as they come (rollout {rollout})"
        )
    )
    print(printable(f"{made.spec_file} says how the family learns; it is yours to change"))
    print("\n".join(map(printable, made.fit.sentence.splitlines())))


def _say(sentence: str, *, as_json: bool) -> None:
    if not as_json:
        print(printable(sentence), file=sys.stderr)
