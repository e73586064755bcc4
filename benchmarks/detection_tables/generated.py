"""Machines that are made up, with a daily cycle, load regimes and faults: where context (`models.detection.context`) is seen to pay, or not.

    steady      eight machines that only vary, and a clock that says nothing
    daily       a course of the day in half of the sensors; weekends, late starts and larger or smaller days included
    irregular   one hour of a day is wild, and comes up to two hours early or late: an average explains it, and cannot be used
    regimes     three loads, for some forty windows each
    both        a course of the day, and loads
    faded       a daily cycle that is given up a day after learning

Twelve sensors with two common causes that vary slowly, 144 windows a day: 14 days to learn from, 7 later, 14 of test with forty faults. A fault moves
one to three sensors by two to four deviations of what is left of them without cycle and load, for six to forty windows.
Made of a seed and nothing else; labels are known because the faults are put in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detection_tables.devices import Device

__all__ = ["WORLDS", "make_world"]

Floats = NDArray[np.float64]

MACHINES: Final = 8
SENSORS: Final = 12
DAY_ROWS: Final = 144
LEARNT_DAYS, LATER_DAYS, TEST_DAYS = 14, 7, 14
FAULTS: Final = 40


class World(NamedTuple):
    """What there is: the size of the daily cycle, of the wild hour, and of loads, in deviations; whether the cycle is given up."""

    cycle: float = 0.0
    wild: float = 0.0
    loads: float = 0.0
    fades: bool = False


WORLDS: Final[Mapping[str, World]] = {
    "steady": World(),
    "daily": World(cycle=1.5),
    "irregular": World(wild=3.0),
    "regimes": World(loads=2.5),
    "both": World(cycle=1.5, loads=2.5),
    "faded": World(cycle=1.5, fades=True),
}


def make_world(name: str, seed: int = 0, days: int = LEARNT_DAYS) -> list[Device]:
    """The machines of a world, of which so many days are learnt from."""
    world = WORLDS[name]
    return [_make_machine(world, days, np.random.default_rng((seed, machine))) for machine in range(MACHINES)]


def _make_machine(world: World, learnt_days: int, random: np.random.Generator) -> Device:
    days = learnt_days + LATER_DAYS + TEST_DAYS
    n = days * DAY_ROWS
    noise = _wander(n, SENSORS, 0.5, random)
    noise += _wander(n, 2, 0.9, random) @ random.normal(0, 0.7, (2, SENSORS))
    rows = noise.copy()
    rows += (
        _course(world, days, learnt_days, random)
        * (random.random(SENSORS) < 0.5)
        * random.uniform(0.5, 1.5, SENSORS)
    )
    if world.wild:
        rows += world.wild * _wild_hours(days, random)[:, None] * (random.random(SENSORS) < 0.5)
    if world.loads:
        rows += _loads(n, random) @ random.normal(0, world.loads, (3, SENSORS))
    units, levels = np.exp(random.normal(0, 1, SENSORS)), random.normal(0, 5, SENSORS)
    test_begins = (learnt_days + LATER_DAYS) * DAY_ROWS
    labels = _break(rows, noise.std(axis=0), test_begins, random)
    rows = (rows * units + levels).astype(np.float32)
    learnt = learnt_days * DAY_ROWS
    return Device(
        name=f"machine{int(random.integers(10**6))}",
        healthy=rows[:learnt],
        later=rows[learnt:test_begins],
        test=rows[test_begins:],
        labels=labels,
        feature_names=tuple(f"s{i}" for i in range(SENSORS)),
        period_rows=DAY_ROWS,
    )


def _wander(n: int, columns: int, memory: float, random: np.random.Generator) -> Floats:
    steps = random.normal(0, np.sqrt(1 - memory**2), (n, columns))
    steps[0] /= np.sqrt(1 - memory**2)
    for i in range(1, n):
        steps[i] += memory * steps[i - 1]
    return steps


def _course(world: World, days: int, learnt_days: int, random: np.random.Generator) -> Floats:
    """(n, F): a rise in the morning and a fall in the evening, by sensor a little different; Saturdays and Sundays are half a day."""
    hours = np.arange(DAY_ROWS)[:, None] / DAY_ROWS * 24
    phases = random.uniform(-1, 1, SENSORS)
    found = []
    for day in range(days):
        late, size = random.normal(0, 0.25), random.normal(1, 0.1) * (0.5 if day % 7 > 4 else 1.0)
        if world.fades and day > learnt_days:
            size = 0.0
        at = hours - 7 - phases - late
        found.append(size * (1 / (1 + np.exp(-2 * at)) - 1 / (1 + np.exp(-1.5 * (at - 10))) - 0.4))
    return world.cycle * 2 * np.concatenate(found)


def _wild_hours(days: int, random: np.random.Generator) -> Floats:
    """(n,): an hour about noon, as long and as large as it likes."""
    hours = np.arange(DAY_ROWS) / DAY_ROWS * 24
    return np.concatenate(
        [
            random.gamma(4, 0.25) * (np.abs(hours - 12 - random.uniform(-2, 2)) < random.uniform(0.3, 0.7))
            for _ in range(days)
        ]
    )


def _loads(n: int, random: np.random.Generator) -> Floats:
    """(n, 3): which of three loads the machine has."""
    loads = np.zeros((n, 3))
    at = 0
    while at < n:
        stay = int(random.geometric(1 / 40))
        loads[at : at + stay, random.integers(3)] = 1.0
        at += stay
    return loads


def _break(rows: Floats, spread: Floats, begin: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """Put faults into rows (n, F) from `begin` on, in place; which test rows are anomalous."""
    n = len(rows) - begin
    labels = np.zeros(n, np.bool_)
    room = n // FAULTS
    for fault in range(FAULTS):
        length = min(int(random.integers(6, 41)), room - 4)
        first = fault * room + int(random.integers(2, room - length))
        sensors = random.choice(SENSORS, int(random.integers(1, 4)), replace=False)
        size = random.uniform(2, 4, len(sensors)) * random.choice([-1, 1], len(sensors))
        rows[begin + first : begin + first + length, sensors] += size * spread[sensors]
        labels[first : first + length] = True
    return labels
