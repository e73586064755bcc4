"""The six commands of README.md as a person types them, from nothing but a folder of CSV files to devices that watch.

What is typed is what the page says; a test adds only the ports that are free on its machine.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from plant_ports import port_options
from played_pages import read_blocks
from recordings import DATA
from shell_people import Person, programs_of
from waiting import wait_until

from fleet.plant.running import take_down
from service.plant import load_plant

ROOT: Final = Path(__file__).resolve().parents[2]
HEADING: Final = "From a folder of CSV files to a watching fleet"
DEVICES: Final = ("valve-1", "valve-2", "valve-3", "valve-4")

SKAB: Final = DATA / "skab" / "valve1"
_FILES: Final = (8, 9, 10, 11)

_STOP: Final = re.compile(r"to stop it: kill (\d+)")


@dataclass
class Walk:
    """What came of each command: what it printed, and how long it took, seconds; the last is the four devices'."""

    printed: dict[str, str] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)
    watching_s: float = 0.0
    pids: list[int] = field(default_factory=list)

    @property
    def waited_s(self) -> float:
        """All of it, to the last device's first window under version 1."""
        return sum(self.took_s.values()) + self.watching_s


def readme_commands() -> list[str]:
    """The lines of the page's block, the installation first; comments are no commands."""
    (block,) = (one for one in read_blocks(ROOT / "README.md") if one.heading == HEADING)
    lines = [line.split("   #")[0].strip() for line in block.script.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def lay_out_recordings(folder: Path) -> str:
    """Four machines' logs in ``healthy``: SKAB's where they are, else made up; returns which, in words."""
    folder.mkdir(parents=True)
    if SKAB.is_dir():
        for device, number in zip(DEVICES, _FILES, strict=True):
            shutil.copyfile(SKAB / f"{number}.csv", folder / f"{device}.csv")
        return "SKAB's valves"
    for number, device in enumerate(DEVICES):
        (folder / f"{device}.csv").write_text(_made_up(number))
    return "made-up machines (no SKAB under FEDGE_DATA)"


def _made_up(seed: int, rows: int = 1100) -> str:
    """A log in SKAB's form: a second a row, sensors that follow two quantities, semicolons."""
    names = ("Accelerometer1RMS", "Current", "Pressure", "Temperature", "Voltage", "Volume Flow RateRMS")
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(99).normal(size=(2, len(names)))
    values = 20 + rng.normal(size=(rows, 2)) @ basis + 0.15 * rng.normal(size=(rows, len(names)))
    stamps = np.datetime64("2020-03-09T10:14:33") + np.arange(rows)
    lines = [";".join(("datetime", *names))]
    lines += [
        ";".join((str(stamp).replace("T", " "), *(f"{value:.6g}" for value in row)))
        for stamp, row in zip(stamps, values, strict=True)
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def walked(folder: Path, *, extra: Sequence[str] = ()) -> Iterator[tuple[Person, Walk]]:
    """Everything but the installation, done; all that it started has ended afterwards.

    Args:
        folder: a new one.
        extra: words that go to ``fedge init plant`` beside the page's.
    """
    folder.mkdir(parents=True)
    person, walk = Person(folder / "here", programs_of(ROOT, folder / "bin")), Walk()
    lay_out_recordings(person.folder / "healthy")
    try:
        _walk(person, walk, extra)
        yield person, walk
    finally:
        for pid in walk.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for file in person.folder.rglob("plant.toml"):
            take_down(load_plant(file.parent))


def _walk(person: Person, walk: Walk, extra: Sequence[str]) -> None:
    _, init, up, model, add, join = readme_commands()
    init = " ".join((init, *port_options(), *extra))
    for name, command in (("init", init), ("up", up), ("model", model), ("add", add)):
        _type(person, walk, name, command)
    for device in DEVICES:
        printed = _type(person, walk, f"join {device}", join.replace(DEVICES[0], device))
        walk.pids += map(int, _STOP.findall(printed))
    began = time.monotonic()
    wait_until(lambda: watching(person) == list(DEVICES), "four devices that run version 1")
    walk.watching_s = time.monotonic() - began


def _type(person: Person, walk: Walk, name: str, command: str) -> str:
    began = time.monotonic()
    printed = person.types("bash", "-c", f"{command} 2>&1")
    walk.took_s[name], walk.printed[name] = time.monotonic() - began, printed
    return printed


def watching(person: Person) -> list[str]:
    """The devices that are online, run version 1 and judge what they see, or learn what is normal."""
    listed = person.asks("fedge", "devices", "list")
    return sorted(
        one["id"]
        for one in listed
        if one["online"]
        and one["release"] == "valve/1"
        and one["agent_state"] in {"commissioning", "watching"}
    )
