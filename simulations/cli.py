"""``fedge-sim``: study recordings, play a scenario and see what happened, or let thousands of hollow devices loose on a fleet.

Exit status: 0 it ended well, 1 it did not, 2 the call, the scenario or a recording is wrong, 3 a study has questions first, 130 interrupted.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console

from runtime.version import version_option
from service.logs import log_of_a_command
from simulations.endings import temporary_folder
from simulations.errors import ProcessFailedError, ScenarioError, SimulationError, StoryError
from simulations.mosquitto import BrokerChoice

__all__ = ["app", "main"]

BROKE_OFF: Final = (ProcessFailedError, StoryError)
"""The ends after which somebody has to look into logs."""

app = typer.Typer(
    help="Simulate a fleet on one laptop with the real agents and services.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def of_every_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=version_option("fedge-sim"),
            is_eager=True,
            help="Print the version and leave",
        ),
    ] = False,
) -> None:
    """What is said before a command."""


@app.command()
def run(
    scenario: Annotated[
        str, typer.Argument(help="a built-in scenario (demo, quick) or the path of a .toml file")
    ] = "demo",
    data: Annotated[
        str | None, typer.Option(help="real recordings instead of simulated machines: pronostia=PATH")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write the figures to this JSON file")] = None,
    report: Annotated[
        Path | None, typer.Option(help="write the HTML report here (default: beside the world)")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="write an SVG picture of the screen here, taken while version 2 spreads"),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            help="where the world lives; kept afterwards (default: a temporary folder, removed unless the story breaks off)"
        ),
    ] = None,
    broker: Annotated[
        BrokerChoice,
        typer.Option(help="over which broker: Mosquitto where it is installed, else the embedded one"),
    ] = BrokerChoice.AUTO,
    stay: Annotated[
        bool,
        typer.Option("--stay", help="keep everything up after the story, dashboard included, until Ctrl-C"),
    ] = False,
) -> None:
    """Play a story from enrolment to recovery, live."""
    # Seen at once, not when a broker fails to start or, after the whole story, its report cannot be drawn.
    if missing := [name for name in ("amqtt", "matplotlib") if find_spec(name) is None]:
        _fail(f"{' and '.join(missing)} not installed: a simulation needs `pip install '.[sim]'`", 2)
    from simulations.playing import (
        open_world_and_play,  # after --help and usage errors: it imports the services
    )

    if picture is not None:
        picture.unlink(missing_ok=True)
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)  # into a log or file: the remarks beside the figures stay on their lines
    try:
        with ExitStack() as stack:
            temporary = temporary_folder("fedge-demo-", kept_after=BROKE_OFF)
            home = (directory or stack.enter_context(temporary)).absolute()
            outcome = open_world_and_play(
                scenario,
                home,
                console,
                data=data,
                broker=broker,
                json_path=json,
                report_path=report,
                picture_path=picture,
                stay=stay,
            )
    except ScenarioError as error:
        _fail(str(error), 2)
    except BROKE_OFF as error:
        _fail(f"{error}\nthe world is kept for a look: {home}; remove it afterwards", 1)
    except SimulationError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted; everything that was started is stopped", 130)
    console.print(f"report: {outcome.report}   figures: {outcome.json}", highlight=False, soft_wrap=True)


@app.command()
def study(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="recordings: files, or folders of them")
    ],
    out: Annotated[
        Path | None, typer.Option(help="write the HTML report here (default: report.html)")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="print the figures as JSON; the report is written only with --out")
    ] = False,
    answer: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="what only you know of the files; may be given again"),
    ] = None,
    alarms_per_1000: Annotated[
        float, typer.Option(min=1e-3, max=100, help="the budget: false alarms in 1,000 windows")
    ] = 1.0,
) -> None:
    """Would this help with my machines? Plays their recordings through the agent that would watch them."""
    needed = ("ai_edge_litert", "ai_edge_quantizer", "dp_accounting", "jinja2", "sqlalchemy", "tensorflow")
    if missing := [name for name in needed if find_spec(name) is None]:
        _fail(f"{' and '.join(missing)} not installed: a study needs `pip install '.[sim]'`", 2)
    # after --help and usage errors: it imports the services
    from simulations.study.command import run_study

    try:
        status = run_study(
            paths, out=out, is_json=json, answers=answer or [], alarms_per_1000=alarms_per_1000
        )
    except KeyboardInterrupt:
        _fail("interrupted; nothing was written", 130)
    raise typer.Exit(status)


@app.command()
def hollow(
    devices: Annotated[int, typer.Option(min=1, max=99_999, help="how many")] = 1000,
    join: Annotated[
        Path | None,
        typer.Option(
            help="agent.toml of a fleet that is there: its [fleet], [mqtt], [trust], tenant and family"
        ),
    ] = None,
    claims: Annotated[
        Path | None, typer.Option(help="with --join: a file of claim tokens, one a line, for who is new")
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="of the own fleet (an empty database), or of the one that is joined: for the accounts"
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(help="where keys and the own fleet live; kept (default: a temporary folder, removed)"),
    ] = None,
    health_s: Annotated[
        float, typer.Option(min=0, help="seconds between two health messages; 0: none")
    ] = 30.0,
    events_per_s: Annotated[
        float, typer.Option(min=0, help="anomalies and their ends, of all devices")
    ] = 0.0,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="how long, once all are connected (default: until Ctrl-C)")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write the figures to this JSON file")] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="install_s, failure_share, checked_acks, resend_s, dials_per_s, window_values, prefix, seed; may be given again",
        ),
    ] = None,
) -> None:
    """Connect thousands of devices that have keys, sessions and manners, and nothing inside: for tests of load."""
    if missing := [name for name in ("tomli_w",) if find_spec(name) is None]:
        _fail(f"{' and '.join(missing)} not installed: hollow devices need `pip install '.[sim]'`", 2)
    # after --help and usage errors: they import the services
    from simulations.hollow.assembly import make_plan
    from simulations.hollow.place import place_of_agent
    from simulations.hollow.playing import Join, play
    from simulations.hollow.screen import CrowdScreen, draw_figures, write_figures

    console = Console()
    try:
        fleet = None
        if join is not None:
            given = claims.read_text("ascii").split() if claims else []
            fleet = Join(place=place_of_agent(join), claims=given, database_url=database_url)
        plan = make_plan(devices, health_s=health_s, events_per_s=events_per_s, more=more or [])
        with CrowdScreen(console) as screen:
            figures, accounts = play(
                plan,
                directory,
                join=fleet,
                database_url=None if fleet else database_url,
                seconds=seconds,
                tell=screen.tell,
            )
    except ScenarioError as error:
        _fail(str(error), 2)
    except (SimulationError, OSError, UnicodeDecodeError) as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted; everything that was started is stopped", 130)
    console.print(draw_figures(figures, accounts))
    if json is not None:
        write_figures(json, figures, accounts)
    if figures["events_waiting"] or (accounts is not None and not accounts.are_right):
        raise typer.Exit(1)


def _fail(message: str, status: int) -> NoReturn:
    print(f"fedge-sim: {message}", file=sys.stderr)
    raise typer.Exit(status)


def main() -> None:
    """Entry point of the ``fedge-sim`` command."""
    log_of_a_command()
    app()
