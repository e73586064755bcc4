"""Files as loggers and databases export them, each of a kind that a trial with strangers' files found misread or asked about in vain."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
from ugly_world import Case, Truth, World, kind, rows_of, table, text

__all__: list[str] = []


def _columns(w: World) -> np.ndarray:
    return np.array(w.cells()).T


# --- times --------------------------------------------------------------------------------------------------------------------------------


@kind
def dates_parted_by_spaces(folder, rng):
    w = World(rng, 200, step_s=600)
    return Case(path=text(folder, table(w, form="%d %m %Y %H:%M")), must="understood", truth=w.truth())


@kind
def a_time_of_day_before_its_date(folder, rng):
    w = World(rng, 200, step_s=600)
    return Case(path=text(folder, table(w, form="%H:%M:%S %d/%m/%Y")), must="understood", truth=w.truth())


@kind
def stretches_of_time(folder, rng):
    w = World(rng, step_s=60)
    ends = [s[:-3] + "59.0" for s in w.stamps("%Y-%m-%dT%H:%M:%S.0")]
    stamps = [f"{a}/{b}" for a, b in zip(w.stamps("%Y-%m-%dT%H:%M:%S.0"), ends, strict=True)]
    lines = rows_of(["period", *w.names], stamps, *_columns(w), delimiter=";")
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def a_clock_that_ticks_beside_the_rows(folder, rng):
    """100 rows a second on a clock of 64 ticks a second: now one row to a tick, now two."""
    w = World(rng, 400, step_s=0.01)
    ticks = np.floor(np.arange(w.n) * w.step * 64) / 64
    stamps = [f"2026-02-10 08:30:{t:06.3f}" for t in ticks]
    truth = w.truth(rate=False, times=False)
    case = Case(
        path=text(folder, rows_of(["time", *w.names], stamps, *_columns(w))), must="understood", truth=truth
    )
    truth.rate = w.n / (ticks[-1] + 1 / 64)
    return case


@kind
def a_date_of_digits_behind_a_number(folder, rng):
    w = World(rng, step_s=60)
    stamps = [f"01{t}" for t in w.stamps("%Y%m%d%H%M")]
    lines = [",".join([t, *cells]) for t, cells in zip(stamps, w.cells(), strict=True)]
    return Case(path=text(folder, lines), must="asked", says="whose digits read as a date")


@kind
def a_nameless_column_that_counts_moments(folder, rng):
    w = World(rng, step_s=0.5)
    steps = np.arange(w.n) * w.step + 1.25
    if rng.integers(2):
        steps[w.n // 2 :] -= steps[w.n // 2] - 1.25
    lines = [
        "\t".join([f"{t:.6f}", *cells]).replace(".", ",") for t, cells in zip(steps, w.cells(), strict=True)
    ]
    truth = Truth(sensors=["f1", "f2", "f3"], machines={"x": w.rows}, times={"x": steps}, rate=2.0)
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=truth,
        answers={"column:f0": "time", "time_unit": "s"},
        says="is it the time of the rows",
    )


@kind
def parts_of_the_time_without_names(folder, rng):
    w = World(rng, 150, step_s=60)
    lines = [
        f" {t:%Y} {t.timetuple().tm_yday:3} {t.month:2} {t.day:2} {t.hour:2} {t.minute:2} " + "  ".join(cells)
        for t, cells in zip(w.when, w.cells(), strict=True)
    ]
    truth = Truth(sensors=["f6", "f7", "f8"], machines={"x": w.rows}, times={"x": w.times}, rate=1 / 60)
    return Case(path=text(folder, lines, name="x.dat"), must="understood", truth=truth)


@kind
def days_of_long_ago(folder, rng):
    w = World(rng, 120, step_s=86_400)
    years = np.datetime64("1955-01-01") + np.arange(w.n)
    truth = w.truth()
    truth.times = {"x": years.astype("datetime64[s]").astype(float)}
    return Case(
        path=text(folder, rows_of(["date", *w.names], years, *_columns(w))), must="understood", truth=truth
    )


# --- columns ------------------------------------------------------------------------------------------------------------------------------


@kind
def sensors_with_the_word_data_in_their_names(folder, rng):
    w = World(rng)
    w.names = ["MotorData.Speed", "MotorData.IsForce", "NVLData.Position"]
    w.rows[:, 1] = 0
    w.rows[w.n // 2 :, 1] = 1
    w.decimals = (2, 0, 4)
    return Case(path=text(folder, table(w)), must="understood", truth=w.truth())


@kind
def pumps_that_run_or_not(folder, rng):
    w = World(rng)
    marks = (rng.random((w.n, 3)) < 0.6).astype(float)
    marks[marks == 0] = np.nan
    names = ["Pump1", "Pump2", "Pump3"]
    cells = [["" if np.isnan(v) else "1" for v in row] for row in marks]
    lines = rows_of(["time", *w.names, *names], w.stamps(), *_columns(w), *np.array(cells).T)
    w.names, w.rows = [*w.names, *names], np.column_stack([w.rows, marks])
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def names_that_are_numbers_but_one(folder, rng):
    w = World(rng)
    lines = rows_of(["date", "0", "1", "OT"], w.stamps(), *_columns(w))
    w.names = ["0", "1", "OT"]
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def a_timer_with_the_word_ok_in_its_name(folder, rng):
    w = World(rng)
    w.rows[:, 0] = np.where(rng.random(w.n) < 0.9, 600, 590)
    w.names, w.decimals = ["Grid OK Timer", *w.names[1:]], (0, 3, 4)
    return Case(path=text(folder, table(w)), must="understood", truth=w.truth())


@kind
def a_long_table_whose_clock_is_coarse(folder, rng):
    w = World(rng, 120)
    lines = ["Series;Time;Value"]
    for k, cells in enumerate(w.cells()):
        stamp = w.when[k - k % 4].strftime("%Y-%m-%dT%H:%M:%S+00:00")
        lines += [f"{name};{stamp};{value}" for name, value in zip(w.names, cells, strict=True)]
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(),
        answers={"repeats": "coarse clock"},
        says="repeat a time and a variable",
    )


@kind
def values_of_many_units_under_each_other(folder, rng):
    w = World(rng, 40)
    names, units = rng.permutation(40), ["°C", "bar", "mm/s", "%"]
    lines = [f"sensor {n};{v};{units[n % 4]};hall" for n, v in zip(names, w.rows[:, 0], strict=True)]
    return Case(
        path=text(folder, ["Name;Messwert;Einheit;Standort", *lines]),
        must="refused",
        says="holds several units",
    )


@kind
def sensors_that_name_themselves_beside_several_values(folder, rng):
    a, b = World(rng, 90), World(rng, 90)
    rows = [
        {"time": t, "sensor_id": name, "temp": cells[0], "vibration": cells[2]}
        for k in range(90)
        for name, t, cells in (
            ("A", a.stamps()[k], a.rows[k].tolist()),
            ("B", b.stamps()[k], b.rows[k].tolist()),
        )
    ]
    keep = [0, 2]
    truth = Truth(
        sensors=["temp", "vibration"],
        machines={"A": a.rows[:, keep], "B": b.rows[:, keep]},
        times={"A": a.times, "B": b.times},
        rate=1.0,
    )
    return Case(
        path=text(folder, [json.dumps(row) for row in rows], name="x.jsonl"),
        must="asked",
        truth=truth,
        answers={"column:sensor_id": "device"},
        says="machines apart",
    )


@kind
def numbers_of_messages(folder, rng):
    w = World(rng)
    numbers = rng.permutation(10_000)[: w.n]
    name = str(rng.choice(["id", "CAN_ID", "message_id"]))
    lines = rows_of([name, "time", *w.names], numbers, w.stamps(), *_columns(w))
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def axes_called_x_y_and_z(folder, rng):
    w = World(rng)
    w.names, w.decimals = ["accel_x", "accel_y", "accel_z"], (1, 0, 1)
    w.rows = np.round(w.rows)
    return Case(path=text(folder, table(w)), must="understood", truth=w.truth())


@kind
def times_of_day_without_leading_zeros(folder, rng):
    w = World(rng, 300, step_s=17)
    stamps = [f"{t.hour}:{t.minute}:{t.second}" for t in w.when]
    truth = w.truth()
    truth.times = {"x": w.times - (w.times[0] // 86400) * 86400}
    return Case(
        path=text(folder, rows_of(["time", *w.names], stamps, *_columns(w))), must="understood", truth=truth
    )


@kind
def hours_and_minutes_as_one_number_beside_a_date(folder, rng):
    w = World(rng, 200, step_s=600)
    w.when, w.times = w.when[20:], w.times[20:]
    w.rows, w.n = w.rows[20:], w.n - 20
    lines = rows_of(
        ["date", "time_24h", *w.names],
        [f"{t:%Y-%m-%d}" for t in w.when],
        [f"{t:%H%M}" for t in w.when],
        *_columns(w),
    )
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def a_table_of_an_oscilloscope(folder, rng):
    w = World(rng, step_s=1e-4)
    lines = ["CH1,CH2,CH3,Start,Increment,", "Volt,Volt,Volt,-6.00000e-02,1.00000e-04"]
    lines += [",".join([f"{v:.5e}" for v in row]) + "," for row in w.rows]
    truth = Truth(sensors=["f0", "f1", "f2"], machines={"x": w.rows}, rate=1e4)
    return Case(path=text(folder, lines), must="understood", truth=truth)


@kind
def a_local_time_beside_seconds_since_1970(folder, rng):
    w = World(rng)
    local = [(t + timedelta(hours=5.5)).strftime("%Y-%m-%dT%H:%M:%S") for t in w.when]
    lines = rows_of(["Timestamp", *w.names, "Datetime"], [f"{t:.3f}" for t in w.times], *_columns(w), local)
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def a_long_table_without_names(folder, rng):
    w = World(rng, 100)
    rows = [
        f"{t},{name},{value}"
        for t, cells in zip(w.stamps(), w.cells(), strict=True)
        for name, value in zip(w.names, cells, strict=True)
    ]
    return Case(
        path=text(folder, rows),
        must="asked",
        truth=w.truth(),
        answers={"column:f1": "variable"},
        says="does it name what each row measures",
    )


@kind
def a_log_that_was_begun_anew_in_another_form(folder, rng):
    w = World(rng)
    old = [f'{t:.2f},0x104,"[{rng.integers(99)}, 38, 131]"' for t in w.times[:30]]
    return Case(
        path=text(folder, ["Timestamp,ID,Data", *old, *table(w)[1:]]),
        must="refused",
        says="two tables in the file",
    )


@kind
def numbers_that_name_what_is_measured(folder, rng):
    w = World(rng, 100)
    rows = [
        f"{t},{256 * (k + 1)},{value}"
        for t, cells in zip(w.stamps(), w.cells(), strict=True)
        for k, value in enumerate(cells)
    ]
    truth = w.truth()
    truth.sensors = ["256", "512", "768"]
    return Case(
        path=text(folder, ["time,message_id,signal_value", *rows]),
        must="asked",
        truth=truth,
        answers={"column:message_id": "variable"},
        says="column:message_id=variable",
    )


@kind
def a_colon_between_a_compact_date_and_time(folder, rng):
    w = World(rng, step_s=60)
    return Case(path=text(folder, table(w, form="%Y%m%d:%H%M")), must="understood", truth=w.truth())


@kind
def names_in_a_comment_that_is_parted_otherwise(folder, rng):
    w = World(rng)
    rows = ["  ".join([f"{t:.0f}", *cells]) for t, cells in zip(w.times, w.cells(), strict=True)]
    head = ["% a summary of what was measured", "% Timestamp, " + ", ".join(w.names)]
    return Case(path=text(folder, [*head, *rows], name="x.txt"), must="understood", truth=w.truth())
