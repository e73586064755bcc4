"""Columns that are no sensors: flags, categories, meters, labels."""

from __future__ import annotations

import numpy as np
from ugly_world import Case, World, kind, rows_of, table, text

__all__: list[str] = []


@kind
def flags_and_categories(folder, rng):
    w = World(rng)
    on, mode = rng.integers(0, 2, w.n), rng.choice(["auto", "manual", "service"], w.n)
    lines = rows_of(
        ["time", *w.names, "heater", "mode"],
        w.stamps(),
        *np.array(w.cells()).T,
        np.where(on, "ON", "OFF"),
        mode,
    )
    w.names, w.rows = [*w.names, "heater"], np.column_stack([w.rows, on])
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def constant_and_dead_columns(folder, rng):
    w = World(rng)
    lines = rows_of(
        ["time", *w.names, "setpoint", "spare"], w.stamps(), *np.array(w.cells()).T, ["25"] * w.n, [""] * w.n
    )
    w.names, w.rows = [*w.names, "setpoint"], np.column_stack([w.rows, np.full(w.n, 25)])
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def a_meter_that_only_grows(folder, rng):
    w = World(rng, 200)
    meter = np.round(1234.5 + np.cumsum(rng.uniform(0, 0.4, w.n)), 3)
    lines = rows_of(
        ["time", *w.names, "energy_kwh"], w.stamps(), *np.array(w.cells()).T, [f"{v:.3f}" for v in meter]
    )
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(),
        answers={"column:energy_kwh": "leave out"},
        says="energy_kwh",
    )


@kind
def labels_of_ones(folder, rng):
    w = World(rng)
    y = (np.arange(w.n) > w.n * 0.7).astype(int)
    lines = rows_of(["time", *w.names, "anomaly"], w.stamps(), *np.array(w.cells()).T, y)
    return Case(path=text(folder, lines), must="understood", truth=w.truth(labels={"x": y}))


@kind
def labels_in_words(folder, rng):
    w = World(rng)
    y = (np.arange(w.n) > w.n * 0.7).astype(int)
    lines = rows_of(
        ["time", *w.names, "Normal/Attack"],
        w.stamps(),
        *np.array(w.cells()).T,
        np.where(y, "Attack", "Normal"),
    )
    return Case(path=text(folder, lines), must="understood", truth=w.truth(labels={"x": y}))


@kind
def labels_of_minus_one(folder, rng):
    w = World(rng)
    y = (np.arange(w.n) > w.n * 0.7).astype(int)
    lines = rows_of(["time", *w.names, "label"], w.stamps(), *np.array(w.cells()).T, np.where(y, -1, 1))
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(labels={"x": y}),
        answers={"normal:label": "1"},
        says="normal:label",
    )


@kind
def an_alarm_of_its_own(folder, rng):
    w = World(rng)
    y = (rng.uniform(size=w.n) > 0.9).astype(int)
    lines = rows_of(["time", *w.names, "alarm"], w.stamps(), *np.array(w.cells()).T, y)
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(),
        answers={"column:alarm": "leave out"},
        says="alarm",
    )


@kind
def remaining_life(folder, rng):
    w = World(rng)
    lines = rows_of(["time", *w.names, "RUL"], w.stamps(), *np.array(w.cells()).T, range(w.n, 0, -1))
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def a_sensor_that_happens_to_count(folder, rng):
    w = World(rng, 100)
    lines = rows_of(["time", *w.names, "position"], w.stamps(), *np.array(w.cells()).T, range(100))
    w.names, w.rows = [*w.names, "position"], np.column_stack([w.rows, np.arange(100)])
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(),
        answers={"column:position": "sensor"},
        says="position",
    )


@kind
def a_few_rows_that_rise(folder, rng):
    w = World(rng, 12)
    w.rows[:, 0] = 20 + np.arange(12)
    return Case(path=text(folder, table(w)), must="understood", truth=w.truth())


@kind
def ones_that_mean_normal(folder, rng):
    w = World(rng)
    y = (np.arange(w.n) > w.n * 0.7).astype(int)
    lines = rows_of(["time", *w.names, "is_healthy"], w.stamps(), *np.array(w.cells()).T, 1 - y)
    truth = w.truth(labels={"x": y})
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=truth,
        answers={"column:is_healthy": "label"},
        says="is_healthy",
    )


@kind
def conditions_in_words(folder, rng):
    w = World(rng)
    y = (np.arange(w.n) > w.n * 0.7).astype(int)
    lines = rows_of(
        ["time", *w.names, "condition"],
        w.stamps(),
        *np.array(w.cells()).T,
        np.where(y, "inner race", "fault-free"),
    )
    truth = w.truth(labels={"x": y})
    answers = {"column:condition": "label", "normal:condition": "fault-free"}
    return Case(path=text(folder, lines), must="asked", truth=truth, answers=answers, says="condition")


@kind
def ones_of_a_name_that_says_both(folder, rng):
    w = World(rng)
    y = (np.arange(w.n) > w.n * 0.7).astype(int)
    lines = rows_of(["time", *w.names, "Normal/Attack"], w.stamps(), *np.array(w.cells()).T, y)
    truth = w.truth(labels={"x": y})
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=truth,
        answers={"normal:Normal/Attack": "0"},
        says="normal:Normal/Attack",
    )
