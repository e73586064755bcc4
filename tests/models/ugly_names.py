"""Names that say how a machine was, times without a unit, numbers that float32 does not tell apart: three kinds once misread silently."""

from __future__ import annotations

import numpy as np
from ugly_world import Case, Truth, World, kind, rows_of, table, text, two_pumps

__all__: list[str] = []

_PAIRS = (
    ("normal", "faulty"),
    ("healthy", "anomalous"),
    ("good", "bad"),
    ("OK", "NOK"),
    ("no_fault", "broken"),
)


def _normal_then_faulty(rng, step_s=1.0):
    """Two recordings of one machine, the faulty one an hour later, and its truth under the name x."""
    a, b = World(rng, 120, step_s), World(rng, 90, step_s)
    b.when = [w.replace(hour=w.hour + 1) for w in b.when]
    b.times = b.times + 3600
    y = np.repeat([0, 1], [120, 90])
    truth = Truth(
        sensors=a.names,
        machines={"x": np.concatenate([a.rows, b.rows])},
        times={"x": np.concatenate([a.times, b.times])},
        labels={"x": y},
        rate=1.0 / step_s,
    )
    return a, b, truth


@kind
def folders_named_after_a_verdict(folder, rng):
    a, b, truth = _normal_then_faulty(rng)
    normal, faulty = _PAIRS[rng.integers(len(_PAIRS))]
    text(folder, table(a), name=f"d/{normal}/x.csv")
    text(folder, table(b), name=f"d/{faulty}/x.csv")
    return Case(
        path=folder / "d", must="asked", truth=truth, answers={"names": "labels"}, says="names=labels"
    )


@kind
def files_named_after_a_verdict(folder, rng):
    a, b, truth = _normal_then_faulty(rng)
    normal, faulty = _PAIRS[rng.integers(len(_PAIRS))]
    text(folder, table(a), name=f"d/x_{normal}.csv")
    text(folder, table(b), name=f"d/x_{faulty}.csv")
    return Case(
        path=folder / "d", must="asked", truth=truth, answers={"names": "labels"}, says="names=labels"
    )


@kind
def folders_of_a_verdict_whose_files_have_names_of_their_own(folder, rng):
    a, b, truth = _normal_then_faulty(rng)
    text(folder, table(a), name="d/x/normal/monday.csv")
    text(folder, table(b), name="d/x/fault/tuesday.csv")
    return Case(
        path=folder / "d", must="asked", truth=truth, answers={"names": "labels"}, says="names=labels"
    )


@kind
def a_test_of_a_fault_beside_files_that_say_nothing(folder, rng):
    a, b, truth = _normal_then_faulty(rng)
    truth.machines = {"run": a.rows, "test_fault": b.rows}
    truth.times, truth.labels = {"run": a.times, "test_fault": b.times}, None
    text(folder, table(a), name="d/run.csv")
    text(folder, table(b), name="d/test_fault.csv")
    return Case(
        path=folder / "d", must="asked", truth=truth, answers={"names": "machines"}, says="names=labels"
    )


@kind
def names_of_which_none_is_a_fault(folder, rng):
    a, b, truth = _normal_then_faulty(rng)
    truth.machines = {"valve-1": a.rows, "failover-2": b.rows}
    truth.times, truth.labels = {"valve-1": a.times, "failover-2": b.times}, None
    text(folder, table(a), name="d/valve-1.csv")
    text(folder, table(b), name="d/failover-2.csv")
    return Case(path=folder / "d", must="understood", truth=truth)


@kind
def fractions_of_a_time_without_a_unit(folder, rng):
    unit, length = [("s", 1.0), ("ms", 1e-3), ("min", 60.0), ("h", 3600.0)][rng.integers(4)]
    w = World(rng, step_s=0.25 * length)
    w.times = np.arange(w.n) * w.step
    head = str(rng.choice(["Time", "t", "elapsed"]))
    lines = rows_of([head, *w.names], [f"{0.25 * k:.2f}" for k in range(w.n)], *np.array(w.cells()).T)
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(),
        answers={"time_unit": unit},
        says="time_unit=ms",
    )


@kind
def fractions_of_a_time_whose_unit_stands_in_a_row_of_units(folder, rng):
    w = World(rng, step_s=0.25)
    w.times = np.arange(w.n) * 0.25
    unit, factor = [("msec", 1e3), ("Minutes", 1 / 60)][rng.integers(2)]
    lines = rows_of(
        ["Time", *w.names], [f"{0.25 * factor * k:.6f}" for k in range(w.n)], *np.array(w.cells()).T
    )
    lines.insert(1, f"{unit},°C,bar,mm/s")
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


def _beside(w: World, name: str, cells) -> list[str]:
    return rows_of(["time", *w.names, name], w.stamps(), *np.array(w.cells()).T, cells)


@kind
def numbers_that_float32_does_not_tell_apart(folder, rng):
    w = World(rng)
    name, first, step, digits = [("air_pressure", 101_325.0, 1e-3, 3), ("latitude", 48.123456, 1e-7, 7)][
        rng.integers(2)
    ]
    cells = [f"{first + step * v:.{digits}f}" for v in rng.integers(0, 3, w.n)]
    return Case(
        path=text(folder, _beside(w, name, cells)),
        must="asked",
        truth=w.truth(),
        answers={f"column:{name}": "leave out"},
        says="all within one step",
    )


@kind
def a_constant_with_the_rounding_of_a_program(folder, rng):
    w = World(rng)
    written = np.array(w.cells()).T
    w.rows, w.names = np.column_stack([w.rows, np.full(w.n, 0.3)]), [*w.names, "gain"]
    cells = np.where(rng.integers(0, 2, w.n), "0.30000000000000004", "0.3")
    lines = rows_of(["time", *w.names], w.stamps(), *written, cells)
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def an_array_that_float32_does_not_tell_apart(folder, rng):
    w = World(rng)
    narrow = 101_325 + rng.integers(0, 3, w.n) / 1000
    np.savez(
        folder / "x.npz",
        pump=np.column_stack([w.rows, narrow]),
        feature_names=[*w.names, "p"],
        sample_rate=1.0,
    )
    truth = Truth(sensors=w.names, machines={"x": w.rows}, rate=1.0)
    return Case(
        path=folder / "x.npz",
        must="asked",
        truth=truth,
        answers={"column:p": "leave out"},
        says="all within one step",
    )


@kind
def a_machine_that_stood_still_beside_one_that_moved(folder, rng):
    a, b, truth = two_pumps(rng)
    places = [48.1234567 + 1e-7 * rng.integers(0, 3, a.n), 48 + 0.5 * np.sin(np.arange(b.n) / 9)]
    for name, w, latitude in zip(truth.machines, (a, b), places, strict=True):
        lines = _beside(w, "latitude", [f"{v:.7f}" for v in latitude])
        text(folder, lines, name=f"d/{name}.csv")
        truth.machines[name] = np.column_stack([w.rows, latitude])
    truth.sensors = [*truth.sensors, "latitude"]
    return Case(path=folder / "d", must="understood", truth=truth)
