"""Puts a world together, plays its story, and writes down what was seen: the body of ``fedge-sim run``."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from simulations.comparison import compare_on_recordings
from simulations.endings import terminate_as_interrupt
from simulations.errors import ScenarioError, SimulationError
from simulations.figures import Figures, compute_figures
from simulations.machines import Machines, RecordedBearings, SimulatedMachines
from simulations.mosquitto import BrokerChoice, choose_broker
from simulations.observer import RENEW_LINK_S, Observer
from simulations.patience import measure_pace
from simulations.picture import take_picture
from simulations.processes import Supervisor
from simulations.record import Record
from simulations.report import write_json, write_report
from simulations.scenario import Scenario, at_pace, load_scenario
from simulations.screen import Screen, told_link
from simulations.story import Story, new_chapters
from simulations.summary import draw_summary
from simulations.world import World

__all__ = ["Outcome", "open_world_and_play"]

STAY_TICK_S: Final = 0.5
LOOK_EVERY_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run left behind."""

    record: Record
    figures: Figures
    report: Path
    json: Path


def open_world_and_play(
    scenario_name: str,
    directory: Path,
    console: Console,
    *,
    data: str | None = None,
    broker: BrokerChoice = BrokerChoice.AUTO,
    json_path: Path | None = None,
    report_path: Path | None = None,
    picture_path: Path | None = None,
    stay: bool = False,
    on_tick: Callable[[Record, Supervisor], None] = lambda *_: None,
) -> Outcome:
    """Play a scenario in `directory` (created; must be empty or absent) and print its figures.

    `picture_path` gets one picture of the world while version 2 spreads; an older one there is kept. `stay`: after the story everything
    stays up until an interrupt.

    Raises:
        SimulationError: see `simulations.errors`; the report of what was seen until then is written all the same.
    """
    pace = measure_pace()
    scenario = at_pace(load_scenario(scenario_name), pace)
    machines = _choose_machines(scenario, data)
    if isinstance(machines, RecordedBearings):
        scenario = _as_long_as_recorded(scenario)
    if directory.exists() and any(directory.iterdir()):
        raise ScenarioError(f"{directory} is not empty; a world needs a folder of its own")
    chosen = choose_broker(broker)
    title = scenario.title if data is None else f"{scenario.title} · real bearings"
    record = Record(title=title, chapters=new_chapters(), pace=pace)
    report = report_path or Path.cwd() / f"fedge-{scenario.name}-report.html"
    figures_file = json_path or report.with_suffix(".json")
    began, record.epoch_s = time.monotonic(), time.time()

    def look(seen: Record) -> None:
        if picture_path is not None:
            take_picture(seen, picture_path)
        on_tick(seen, supervisor)

    with terminate_as_interrupt(), Supervisor(directory / "logs") as supervisor:
        world = World(directory, scenario, machines, supervisor, broker=chosen)
        console.print(
            f"dashboard: {world.dashboard}   (a link that signs you in follows; its certificate is of this world alone,"
            " and your browser will say so)",
            highlight=False,
            soft_wrap=True,
        )
        with closing(
            Observer(world, record, clock=lambda: time.monotonic() - began, epoch=record.epoch_s)
        ) as observer:
            try:
                with Screen(console) as screen:
                    Story(
                        world=world,
                        record=record,
                        observer=observer,
                        screen=screen,
                        on_tick=look,
                    ).play()
                if isinstance(machines, RecordedBearings):
                    with console.status(
                        "comparing with version 1 and with learning alone, on rows nobody trained on"
                    ):
                        record.comparison = compare_on_recordings(world, machines, observer)
                record.exit_reason = "The story came to its end."
            except SimulationError as error:
                record.exit_reason = f"The story broke off: {error}"
                raise
            finally:
                figures = compute_figures(record)
                write_json(figures_file, record, figures)
                write_report(report, record, figures)
            console.print(draw_summary(figures, record.title, console.width))
            if stay:
                _stay(supervisor, observer, console)
    return Outcome(record=record, figures=figures, report=report, json=figures_file)


def _stay(supervisor: Supervisor, observer: Observer, console: Console) -> None:
    """Keep the world up until somebody ends it, with a link into its dashboard that can be used."""
    console.print("Everything stays up, and machines go on, until Ctrl-C.", highlight=False)
    ask_at = 0.0
    with suppress(KeyboardInterrupt), console.status("") as status:
        while True:
            supervisor.tick()
            if observer.clock() >= ask_at:
                link = observer.sign_in_link()
                ask_at = observer.clock() + (RENEW_LINK_S if link else LOOK_EVERY_S)
                words = told_link(link) if link else "the fleet is away for the moment"
                status.update(words)
                if not console.is_terminal:
                    console.print(words, highlight=False, soft_wrap=True)
            time.sleep(STAY_TICK_S)
    console.print("Stopping everything that was started.", highlight=False)


def _choose_machines(scenario: Scenario, data: str | None) -> Machines:
    settings, count = scenario.machines, scenario.devices
    if data is None:
        return SimulatedMachines(settings, count, scenario.reference_machines, scenario.seed)
    kind, equals, path = data.partition("=")
    if kind != "pronostia" or not equals or not path:
        raise ScenarioError(f"--data {data!r} is not known; use --data pronostia=PATH")
    return RecordedBearings(settings, count, scenario.reference_machines, Path(path))


def _as_long_as_recorded(scenario: Scenario) -> Scenario:
    """Commissioning ends with its fewest windows: the recordings have no more healthy life, and begin again."""
    detection = scenario.detection
    shortest = msgspec.structs.replace(
        detection, commissioning_longest_windows=detection.commissioning_windows
    )
    return msgspec.structs.replace(scenario, detection=shortest)
