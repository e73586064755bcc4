"""Files as strangers export them, each of a kind that was once misread: verdicts under other names, halves of days, torn ends."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
from ugly_world import START, Case, World, kind, rows_of, table, text

__all__: list[str] = []


def _with_column(w: World, name: str, cells) -> list[str]:
    return rows_of(["time", *w.names, name], w.stamps(), *np.array(w.cells()).T, cells)


def _faults(w: World) -> np.ndarray:
    return (np.arange(w.n) > w.n * 0.7).astype(int)


@kind
def labels_whose_ones_are_healthy(folder, rng):
    w = World(rng)
    y, name = _faults(w), str(rng.choice(["no_fault", "fault_free", "not_anomalous"]))
    return Case(
        path=text(folder, _with_column(w, name, 1 - y)),
        must="asked",
        truth=w.truth(labels={"x": y}),
        answers={f"normal:{name}": "1"},
        says="which of them is normal operation",
    )


@kind
def a_verdict_of_health(folder, rng):
    w = World(rng)
    y, name = _faults(w), str(rng.choice(["healthy", "is_normal", "ok", "status"]))
    cells = 1 - y if rng.integers(2) or name in {"ok", "status"} else np.where(y, "False", "True")
    return Case(
        path=text(folder, _with_column(w, name, cells)),
        must="asked",
        truth=w.truth(labels={"x": y}),
        answers={f"column:{name}": "label"} | ({"normal:status": "1"} if name == "status" else {}),
        says=f"column:{name}=label",
    )


@kind
def a_verdict_in_words(folder, rng):
    w = World(rng)
    y = _faults(w)
    cells = np.where(y, "FAIL", "PASS") if rng.integers(2) else np.where(y, "NOK", "OK")
    return Case(
        path=text(folder, _with_column(w, "result", cells)),
        must="understood",
        truth=w.truth(labels={"x": y}),
    )


@kind
def a_label_under_one_of_its_other_names(folder, rng):
    w = World(rng)
    y, name = _faults(w), str(rng.choice(["incident", "outage", "malfunction", "breakdown", "Ausfall"]))
    return Case(
        path=text(folder, _with_column(w, name, y)), must="understood", truth=w.truth(labels={"x": y})
    )


@kind
def a_score_of_somebody_else(folder, rng):
    w = World(rng)
    lines = _with_column(w, "anomaly_score", [f"{v:.4f}" for v in rng.random(w.n)])
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(),
        answers={"column:anomaly_score": "leave out"},
        says="a detector must not be given the answer",
    )


@kind
def parts_of_a_second_without_leading_zeros(folder, rng):
    w = World(rng, 200)
    stamps = [f"2026-02-10 08:30:{k * 5 // 1000:02d}.{k * 5 % 1000}" for k in range(195, 195 + w.n)]
    lines = rows_of(["time", *w.names], stamps, *np.array(w.cells()).T)
    return Case(path=text(folder, lines), must="refused", says="leading zeros are missing")


@kind
def parts_of_a_second_without_trailing_zeros(folder, rng):
    w = World(rng, step_s=0.125)
    stamps = [
        s.rstrip("0").rstrip(".") if "." in s else s
        for s in (f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond:06d}" for when in w.when)
    ]
    return Case(
        path=text(folder, rows_of(["time", *w.names], stamps, *np.array(w.cells()).T)),
        must="understood",
        truth=w.truth(),
    )


@kind
def two_machines_that_take_turns_without_a_name(folder, rng):
    a, b = World(rng, 150), World(rng, 150)
    b.rows[:, 0] += 500
    lines = ["time," + ",".join(a.names)]
    for stamp, one, other in zip(a.stamps(), a.cells(), b.cells(), strict=True):
        lines += [",".join([stamp, *one]), ",".join([stamp, *other])]
    return Case(path=text(folder, lines), must="asked", says="more than one machine")


@kind
def hours_of_half_a_day_without_their_half(folder, rng):
    w = World(rng, 200, step_s=60)
    start = START.replace(hour=11, minute=50, day=13)
    stamps = [f"{start + timedelta(minutes=k):%Y-%m-%d %I:%M:%S}" for k in range(w.n)]
    lines = rows_of(["time", *w.names], stamps, *np.array(w.cells()).T)
    return Case(path=text(folder, lines), must="asked", says="is AM or PM missing")


@kind
def a_zone_in_the_name_of_the_clock(folder, rng):
    w = World(rng)
    lines = table(w, header=["Date Time GMT+02:00", *w.names])
    w.times = w.times - 7200
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def a_last_number_that_is_torn(folder, rng):
    w = World(rng)
    lines = table(w)
    lines[-1] = lines[-1].rpartition(",")[0] + ",0"
    w.rows, w.times = w.rows[:-1], w.times[:-1]
    return Case(path=text(folder, lines, last=False), must="understood", truth=w.truth())


@kind
def a_register_with_a_sign_read_without(folder, rng):
    w = World(rng)
    values = np.rint(50 * np.sin(np.arange(w.n) / 7)).astype(int) % 65536
    lines = _with_column(w, "reg", values)
    w.names, w.rows = [*w.names, "reg"], np.column_stack([w.rows, values])
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(),
        answers={"column:reg": "sensor"},
        says="a register with a sign",
    )


@kind
def a_sensor_with_the_word_of_a_label(folder, rng):
    w = World(rng)
    name, cells = (
        str(rng.choice(["target_position", "light_barrier_broken", "event_valve"])),
        np.arange(w.n) // 5 % 2,
    )
    lines = _with_column(w, name, cells)
    w.names, w.rows = [*w.names, name], np.column_stack([w.rows, cells])
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(),
        answers={f"column:{name}": "sensor"},
        says="something the machine gives",
    )


@kind
def a_register_that_says_nothing_scaled(folder, rng):
    w = World(rng)
    lines = table(w)
    for k in (5, 20, 21, 40):
        cells = lines[k].split(",")
        lines[k] = ",".join([cells[0], "3276.7", *cells[2:]])
        w.rows[k - 1, 0] = np.nan
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(),
        answers={"missing:3276.7": "yes"},
        says="does it mean a missing value",
    )
