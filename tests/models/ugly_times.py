"""Times: stamps of all forms, orders of day and month, epochs, gaps and steps back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
from ugly_world import START, Case, World, kind, rows_of, table, text

__all__: list[str] = []


def _timed(folder, w, stamps, must="understood", head="time", **more):
    return Case(
        path=text(folder, rows_of([head, *w.names], stamps, *np.array(w.cells()).T)),
        must=must,
        truth=w.truth(),
        **more,
    )


@kind
def iso_with_zone(folder, rng):
    w = World(rng)
    return _timed(folder, w, [(x + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%S+02:00") for x in w.when])


@kind
def iso_with_z_and_millis(folder, rng):
    w = World(rng, step_s=0.25)
    return _timed(folder, w, [x.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z" for x in w.when])


@kind
def epoch_seconds(folder, rng):
    w = World(rng, step_s=60)
    return _timed(folder, w, [int(t) for t in w.times], head="timestamp")


@kind
def epoch_millis_without_a_name(folder, rng):
    w = World(rng)
    path = text(folder, [f"{int(t * 1000)},{','.join(c)}" for t, c in zip(w.times, w.cells(), strict=True)])
    w.names = ["f1", "f2", "f3"]
    return Case(path=path, must="understood", truth=w.truth())


@kind
def epoch_micros(folder, rng):
    w = World(rng, step_s=0.001)
    return _timed(folder, w, [round(t * 1e6) for t in w.times], head="ts_us")


@kind
def epoch_nanos(folder, rng):
    w = World(rng)
    return _timed(folder, w, [int(t) * 10**9 for t in w.times], head="time")


@kind
def day_first_proved_by_a_day(folder, rng):
    w = World(rng, 200, step_s=7200)
    return _timed(folder, w, w.stamps("%d/%m/%Y %H:%M"))


@kind
def month_first_with_half_days(folder, rng):
    w = World(rng, 200, step_s=7200)
    return _timed(folder, w, w.stamps("%m/%d/%Y %I:%M %p"))


@kind
def month_first_proved_by_midnight(folder, rng):
    w = World(rng, 150, step_s=600)
    shift = datetime(2026, 3, 4, 20, tzinfo=UTC) - START
    w.when = [x + shift for x in w.when]
    w.times = w.times + shift.total_seconds()
    return _timed(folder, w, w.stamps("%m/%d/%Y %H:%M:%S"))


@kind
def day_or_month_first(folder, rng):
    w = World(rng, 200)
    return _timed(
        folder,
        w,
        w.stamps("%d/%m/%Y %H:%M:%S"),
        "asked",
        answers={"date_order": "day-month-year"},
        says="date_order",
    )


@kind
def two_digits_of_a_year(folder, rng):
    w = World(rng, 200)
    return _timed(
        folder,
        w,
        w.stamps("%d.%m.%y %H:%M:%S"),
        "asked",
        answers={"date_order": "day-month-year"},
        says="date_order",
    )


@kind
def dates_in_two_orders(folder, rng):
    w = World(rng, 200, step_s=10_800)
    forms = ["%d/%m/%Y %H:%M" if k < 130 else "%m/%d/%Y %H:%M" for k in range(w.n)]
    return _timed(
        folder, w, [x.strftime(f) for x, f in zip(w.when, forms, strict=True)], "refused", says="two orders"
    )


@kind
def names_of_months(folder, rng):
    w = World(rng, step_s=3600)
    return _timed(folder, w, w.stamps("%d-%b-%Y %H:%M:%S"))


@kind
def date_and_time_in_two_columns(folder, rng):
    w = World(rng, step_s=900)
    lines = rows_of(
        ["Date", "Time", *w.names], w.stamps("%Y-%m-%d"), w.stamps("%H:%M:%S"), *np.array(w.cells()).T
    )
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def a_column_for_each_part_of_the_time(folder, rng):
    w = World(rng, step_s=3600)
    parts = [
        [x.year for x in w.when],
        [x.month for x in w.when],
        [x.day for x in w.when],
        [x.hour for x in w.when],
        [x.minute for x in w.when],
    ]
    lines = rows_of(["year", "month", "day", "hour", "minute", *w.names], *parts, *np.array(w.cells()).T)
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def compact_stamps(folder, rng):
    w = World(rng)
    return _timed(folder, w, w.stamps("%Y%m%dT%H%M%SZ"))


@kind
def fourteen_digits(folder, rng):
    w = World(rng)
    return _timed(folder, w, w.stamps("%Y%m%d%H%M%S"), head="timestamp")


@kind
def days_of_a_spreadsheet(folder, rng):
    w = World(rng, step_s=60)
    days = [f"{t / 86400 + 25569:.10f}" for t in w.times]
    return _timed(folder, w, days, head="Date")


@kind
def time_of_day_past_midnight(folder, rng):
    w = World(rng, 100, step_s=900)
    stamps = w.stamps("%H:%M:%S")
    w.times = w.times - datetime(2026, 2, 10, tzinfo=UTC).timestamp()
    return _timed(folder, w, stamps)


@kind
def milliseconds_since_the_start(folder, rng):
    w = World(rng, step_s=0.02)
    w.times = np.arange(w.n) * 0.02
    return _timed(folder, w, [20 * k for k in range(w.n)], head="Time (ms)")


@kind
def a_time_without_a_unit(folder, rng):
    w = World(rng, step_s=60)
    w.times = np.arange(w.n) * 60.0
    return _timed(folder, w, range(w.n), "asked", answers={"time_unit": "min"}, says="time_unit")


@kind
def no_time_and_no_rate(folder, rng):
    w = World(rng, step_s=0.1)
    lines = [",".join(w.names), *(",".join(c) for c in w.cells())]
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(times=False),
        answers={"sample_rate": "10"},
        says="sample_rate",
    )


@kind
def gaps(folder, rng):
    w = World(rng, 200)
    w.when = [x + timedelta(seconds=3600 if k >= 80 else 0) for k, x in enumerate(w.when)]
    w.times = np.array([x.timestamp() for x in w.when])
    return _timed(folder, w, w.stamps())


@kind
def rows_twice(folder, rng):
    w = World(rng, 200)
    keep = np.sort(np.append(np.arange(w.n), [20, 21, 90]))
    w.rows, w.times, w.when, w.n = w.rows[keep], w.times[keep], [w.when[k] for k in keep], len(keep)
    return _timed(folder, w, w.stamps())


@kind
def an_hour_twice_in_autumn(folder, rng):
    w = World(rng, 200, step_s=60)
    w.when = [x - timedelta(hours=1 if k >= 100 else 0) for k, x in enumerate(w.when)]
    w.times = np.array([x.timestamp() for x in w.when])
    return _timed(folder, w, w.stamps())


@kind
def newest_first(folder, rng):
    w = World(rng)
    lines = table(w)
    return Case(path=text(folder, [lines[0], *lines[:0:-1]]), must="understood", truth=w.truth())


@kind
def out_of_order(folder, rng):
    w = World(rng)
    lines = table(w)
    body = [lines[1 + k] for k in rng.permutation(w.n)]
    return Case(
        path=text(folder, [lines[0], *body]),
        must="asked",
        truth=w.truth(),
        answers={"order": "sort"},
        says="order",
    )


@kind
def uneven_steps(folder, rng):
    w = World(rng, 200)
    w.times = np.round(START.timestamp() + np.cumsum(rng.exponential(30, w.n)), 3)
    w.when = [datetime.fromtimestamp(t, UTC) for t in w.times]
    return Case(
        path=text(folder, rows_of(["time", *w.names], [f"{t:.3f}" for t in w.times], *np.array(w.cells()).T)),
        must="asked",
        says="steps",
    )


@kind
def stamps_coarser_than_rows(folder, rng):
    w = World(rng, 300, step_s=0.1)
    return _timed(folder, w, w.stamps())


@kind
def a_clock_that_is_unset(folder, rng):
    w = World(rng)
    w.when = [x - (START - datetime(1904, 1, 2, tzinfo=UTC)) for x in w.when]
    return Case(path=text(folder, table(w)), must="refused", says="1904")


@kind
def a_date_beside_an_hour(folder, rng):
    w = World(rng, 200, step_s=3600)
    lines = rows_of(
        ["date", "hour", *w.names], w.stamps("%Y-%m-%d"), [x.hour for x in w.when], *np.array(w.cells()).T
    )
    w.times = w.times - 1800
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def a_clock_for_each_sensor(folder, rng):
    w = World(rng, 100)
    other = [
        (x + timedelta(milliseconds=300 * k)).strftime("%Y-%m-%d %H:%M:%S.%f") for k, x in enumerate(w.when)
    ]
    c = np.array(w.cells()).T
    return Case(
        path=text(folder, rows_of(["t1", "temp", "t2", "pressure"], w.stamps(), c[0], other, c[1])),
        must="asked",
        says="both tell the time",
    )


@kind
def central_european_time(folder, rng):
    w = World(rng)
    return _timed(folder, w, [(x + timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S CET") for x in w.when])


@kind
def a_zone_in_every_second_row(folder, rng):
    w = World(rng)
    return _timed(
        folder, w, [s + ("Z" if k % 2 else "") for k, s in enumerate(w.stamps())], "refused", says="time zone"
    )


@kind
def weeks_of_a_year(folder, rng):
    w = World(rng)
    return _timed(
        folder,
        w,
        [f"2026-W07-{k % 7 + 1}" for k in range(w.n)],
        "asked",
        says="no time in a form that is read",
    )


@kind
def seconds_that_a_spreadsheet_rounded(folder, rng):
    w = World(rng)
    return _timed(folder, w, [f"{t:.5E}" for t in w.times], "asked", says="")


@kind
def hours_or_minutes(folder, rng):
    w = World(rng, 100, step_s=60)
    w.times = w.times - datetime(2026, 2, 10, tzinfo=UTC).timestamp()
    return _timed(folder, w, w.stamps("%H:%M"), "asked", answers={"time_unit": "min"}, says="time_unit")


@kind
def days_since_the_year_0(folder, rng):
    w = World(rng)
    return _timed(folder, w, [f"{t / 86_400 + 719_529:.9f}" for t in w.times], "asked", says="time_unit")


@kind
def seconds_since_1904(folder, rng):
    w = World(rng)
    return _timed(folder, w, [int(t) + 2_082_844_800 for t in w.times], "asked", says="time_unit")


@kind
def hours_with_fractions(folder, rng):
    w = World(rng, step_s=36)
    w.times = np.arange(w.n) * 36.0
    return _timed(folder, w, [f"{k / 100:.2f}" for k in range(w.n)], head="run time [h]")


@kind
def averages_that_look_like_dates(folder, rng):
    w = World(rng, 150)
    lines = table(w)
    for at in (120, 80, 40):
        lines.insert(at, "Avg 2026-02-10,61.00,1.500,0.0500")
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def weekdays_and_months_in_full(folder, rng):
    w = World(rng)
    return _timed(folder, w, w.stamps("%A %d %B %Y %H:%M:%S"))


@kind
def local_time_before_universal_time(folder, rng):
    w = World(rng)
    local = [(x + timedelta(hours=2)).strftime("%Y-%m-%d %H:%M:%S") for x in w.when]
    return Case(
        path=text(folder, rows_of(["local", "utc", *w.names], local, w.stamps(), *np.array(w.cells()).T)),
        must="understood",
        truth=w.truth(),
    )


@kind
def rows_that_hold_half_of_the_columns_each(folder, rng):
    w = World(rng, 100)
    lines = ["time,temp,pressure,vibration"]
    for s, c in zip(w.stamps(), w.cells(), strict=True):
        lines += [f"{s},{c[0]},,", f"{s},,{c[1]},{c[2]}"]
    return Case(
        path=text(folder, lines), must="asked", truth=w.truth(), answers={"repeats": "merge"}, says="repeats"
    )


@kind
def every_third_row_is_missing(folder, rng):
    w = World(rng, 200)
    keep = rng.uniform(size=w.n) > 0.3
    w.rows, w.times, w.when, w.n = (
        w.rows[keep],
        w.times[keep],
        [x for x, k in zip(w.when, keep, strict=True) if k],
        int(keep.sum()),
    )
    return _timed(folder, w, w.stamps())
