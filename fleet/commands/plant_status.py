"""``status``: devices, alarms, rollout, run and problems of a plant at one look, or live."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.client.client import FleetClient
from fleet.commands.connection import JsonOption
from fleet.commands.printing import print_json
from service.client import ApiClient, connect
from service.plant import PlantOption, find_plant

if TYPE_CHECKING:  # for those who look: the other commands need not wait for it
    from rich.console import Console

    from fleet.plant.status import PlantStatus

__all__ = ["status"]


def status(
    plant: PlantOption = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Draw it anew until Ctrl-C")] = False,
    every: Annotated[float, typer.Option(min=0.5, max=3600, help="Seconds between two looks")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Devices, alarms, rollout, run and problems; times in UTC, and in this machine's zone beside it. Exit status 1: no answer.

    With --watch and --json: one JSON object a line for each look.
    """
    from rich.console import Console

    from fleet.plant.status import read_status
    from fleet.plant.status_screen import draw_status

    found = find_plant(plant)
    with ExitStack() as stack:
        fleet = stack.enter_context(FleetClient.open(found.local_fleet_url, found.ca, found.admin_token))
        aggregator: ApiClient = stack.enter_context(
            connect(found.local_aggregator_url, found.ca, found.operator_token, service="aggregator")
        )
        title, console = f"{found.tenant} at {found.fleet_url}", Console()

        def look() -> PlantStatus:
            return read_status(fleet, aggregator, time.time())

        if watch:
            with suppress(KeyboardInterrupt):
                _watch(look, console, title, every_s=every, as_json=as_json)
            return
        seen = look()
        if as_json:
            print_json(_plain(seen))
        else:
            console.print(draw_status(seen, title=title, height=None))
        if not seen.is_reached:
            raise typer.Exit(1)


def _watch(
    look: Callable[[], PlantStatus], console: Console, title: str, *, every_s: float, as_json: bool
) -> None:
    from rich.live import Live

    from fleet.plant.status_screen import draw_status

    while as_json:
        print(json.dumps(_plain(look())), flush=True)
        time.sleep(every_s)
    while not console.is_terminal:  # a file, or a pipe: one look below the other
        console.print(draw_status(look(), title=title, height=None))
        time.sleep(every_s)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(draw_status(look(), title=title, height=console.height), refresh=True)
            time.sleep(every_s)


def _plain(seen: PlantStatus) -> dict[str, Any]:
    return {
        "at": seen.at,
        "is_reached": seen.is_reached,
        "at_utc": datetime.fromtimestamp(seen.at, UTC).isoformat(),
        "at_local": datetime.fromtimestamp(seen.at).astimezone().isoformat(),
        "counts": seen.counts,
        "devices": [one.model_dump(mode="json") for one in seen.devices],
        "anomalies": [one.model_dump(mode="json") for one in seen.anomalies],
        "rollouts": [one.model_dump(mode="json") for one in seen.rollouts],
        "run": seen.run,
        "problems": seen.problems,
    }
