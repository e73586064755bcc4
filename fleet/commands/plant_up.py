"""``up`` and ``down``: a plant's services, started and supervised by one command, and ended by another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Final, TextIO

import typer

from fleet.commands.printing import say
from runtime.errors import FedgeError
from runtime.printable import printable
from service.errors import StartError
from service.logs import configure_logging
from service.plant import Plant, PlantOption, find_plant

__all__ = ["down", "up"]

KILLED_PAUSE_S: Final = 0.5

_UP = "up"
"""The last line that a supervisor of its own tells whoever started it; anything else that ends its words is why it is not."""


def up(
    plant: PlantOption = None,
    background: Annotated[
        bool, typer.Option("--background", help="Return once everything answers; `down` ends it")
    ] = False,
    report_to: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Start broker, fleet and aggregator, start again what dies, and write one log; ends with Ctrl-C or `down`."""
    found = find_plant(plant)
    if background:
        _start_supervisor(found)
        _greet(found)
        say("it goes on in the background; end it with: fedge down")
    elif report_to is not None:
        _keep_supervised(found, report_to)
    else:
        # what we and the services say goes into the log; the terminal shows the log, and what is said for people
        terminal = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        _hold_up(found, to=terminal, terminal=terminal)


def down(plant: PlantOption = None) -> None:
    """End what `up` has started; returns once nothing of it runs."""
    from fleet.plant.running import take_down

    found = find_plant(plant)
    say(f"{found.folder} is down" if take_down(found) else f"{found.folder} was not up")


def _keep_supervised(plant: Plant, report_to: int) -> None:
    """Have a supervisor in a process of its own, and another one where it was killed, which takes over what runs."""
    report: int | None = report_to
    while True:
        # nothing has been started here that a fork would lose: no thread, no connection
        pid = os.fork()
        if pid == 0:
            with Path(os.devnull).open("w") if report is None else os.fdopen(report, "w") as heard:
                _hold_up(plant, to=heard, terminal=None)
            return
        if report is not None:
            os.close(report)
            report = None
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            raise typer.Exit(os.WEXITSTATUS(status))
        time.sleep(KILLED_PAUSE_S)


def _hold_up(plant: Plant, *, to: TextIO, terminal: TextIO | None) -> None:
    from fleet.plant.plant_log import PlantLog
    from fleet.plant.running import hold_up
    from runtime.durable_files import private_directory

    def tell(line: str) -> None:
        to.write(f"{printable(line)}\n")
        to.flush()

    def done() -> None:
        if terminal is None:
            tell(_UP)
            to.close()
        else:
            for line in _greeting(plant):
                tell(line)

    errors = os.dup(sys.stderr.fileno())
    output = PlantLog(private_directory(plant.log)).open()
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    os.close(output)
    configure_logging(as_json=False)
    try:
        hold_up(plant, say=tell, terminal=terminal, done=done)
    except FedgeError as error:
        if terminal is None:
            tell(f"! {error}")
            raise
        os.dup2(errors, sys.stderr.fileno())
        raise
    finally:
        os.close(errors)


def _start_supervisor(plant: Plant) -> None:
    """Start a process for itself that holds the plant up, and tell what it tells; raises StartError where it gives up."""
    mine, its = os.pipe()
    with os.fdopen(mine) as heard:
        child = subprocess.Popen(
            [sys.executable, "-m", "fleet", "up", "--plant", str(plant.folder), "--report-to", str(its)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(its,),
            start_new_session=True,
        )
        os.close(its)
        for line in map(str.rstrip, heard):
            if line == _UP:
                return
            if line.startswith("! "):
                child.wait()
                raise StartError(line.removeprefix("! "))
            say(line)
    raise StartError(f"the supervisor ended with status {child.wait()}; its log: {plant.log}")


def _greet(plant: Plant) -> None:
    for line in _greeting(plant):
        say(line)


def _greeting(plant: Plant) -> tuple[str, ...]:
    at = "" if Path.cwd() in {plant.folder, plant.folder.parent} else f" --plant {plant.folder}"
    return (
        f"dashboard: {plant.fleet_url}",
        f"sign in:   fedge sign-in{at}, which prints a link for your browser",
        f"log:       {plant.log / 'plant.log'}",
    )
