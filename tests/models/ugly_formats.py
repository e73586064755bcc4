"""Files in the formats of loggers and databases: LabVIEW, JSON lines, InfluxDB, Campbell, HOBO, WinCC."""

from __future__ import annotations

import json

import numpy as np
from ugly_world import Case, Truth, World, kind, rows_of, table, text

__all__: list[str] = []


def _columns(w: World) -> np.ndarray:
    return np.array(w.cells()).T


def _labview(w: World, x_columns: str, mark: str, names: list[str], rows: list[list[str]]) -> list[str]:
    step = f"{w.step:.6f}".replace(".", mark)
    channels = len(w.names)
    about = ["LabVIEW Measurement", "Writer_Version\t2", "Separator\tTab", f"Decimal_Separator\t{mark}"]
    about += ["Multi_Headings\tNo", f"X_Columns\t{x_columns}", "Time_Pref\tAbsolute", "Date\t2026/02/10"]
    of_channels = [
        f"Channels\t{channels}",
        "\t".join(["Samples", *[str(w.n)] * channels]),
        "\t".join(["X_Dimension", *["Time"] * channels]),
        "\t".join(["X0", *[f"0{mark}0E+0"] * channels]),
        "\t".join(["Delta_X", *[step] * channels]),
    ]
    end = "***End_of_Header***"
    return [*about, end, "\t", *of_channels, end, "\t".join([*names, "Comment"]), *map("\t".join, rows)]


@kind
def labview_without_a_column_of_times(folder, rng):
    w = World(rng, step_s=0.002)
    mark = str(rng.choice([".", ","]))
    lines = _labview(w, "No", mark, ["X_Value", *w.names], [["", *cells] for cells in w.cells(mark)])
    truth = w.truth()
    truth.times = {"x": np.arange(w.n) * w.step}
    return Case(path=text(folder, lines, name="x.lvm"), must="understood", truth=truth)


@kind
def labview_with_a_column_of_times_for_each_channel(folder, rng):
    w = World(rng, step_s=0.5)
    names = [name for sensor in w.names for name in ("X_Value", sensor)]
    rows = [
        [cell for value in cells for cell in (f"{k * w.step:.6f}", value)]
        for k, cells in enumerate(w.cells())
    ]
    rows[7].append("pump was opened")
    truth = w.truth()
    truth.times = {"x": np.arange(w.n) * w.step}
    return Case(
        path=text(folder, _labview(w, "Multi", ".", names, rows), name="x.lvm"),
        must="understood",
        truth=truth,
    )


@kind
def labview_with_clocks_of_their_own(folder, rng):
    w = World(rng, step_s=0.002)
    lines = _labview(w, "No", ".", ["X_Value", *w.names], [["", *cells] for cells in w.cells()])
    lines = [line.replace("0.002000", "0.004000", 1) for line in lines]
    return Case(path=text(folder, lines, name="x.lvm"), must="refused", says="clocks of their own")


@kind
def labview_with_columns_of_times_that_run_apart(folder, rng):
    w = World(rng, step_s=0.5)
    names = [name for sensor in w.names for name in ("X_Value", sensor)]
    rows = [
        [cell for c, value in enumerate(cells) for cell in (f"{k * w.step * (1 + c / 50):.6f}", value)]
        for k, cells in enumerate(w.cells())
    ]
    lines = _labview(w, "Multi", ".", names, rows)
    return Case(path=text(folder, lines, name="x.lvm"), must="refused", says="clocks of their own (X_Value")


@kind
def labview_with_decimal_commas_and_rows_without_any(folder, rng):
    w = World(rng, step_s=0.125)
    rows = [["", *cells] for cells in w.cells(",")]
    for k in (3, 11):
        rows[k] = ["", *["NaN"] * len(w.names)]
    lines = _labview(w, "No", ",", ["X_Value", *w.names], rows)
    told = w.rows.copy()
    for k in (3, 11):
        told[k] = np.nan
    truth = w.truth()
    truth.machines, truth.times = {"x": told}, {"x": np.arange(w.n) * w.step}
    return Case(path=text(folder, lines, name="x.lvm"), must="understood", truth=truth)


@kind
def a_name_for_comments_that_no_row_has(folder, rng):
    w = World(rng)
    lines = rows_of(["time", *w.names], w.stamps(), *_columns(w), delimiter="\t")
    lines[0] += "\tComment"
    return Case(path=text(folder, lines, name="x.lvm"), must="understood", truth=w.truth())


@kind
def json_lines(folder, rng):
    w = World(rng)
    rows = [
        {"ts": stamp, "plant": {"temp": a, "pressure": b}, "vibration": c}
        for stamp, (a, b, c) in zip(w.stamps(), w.rows.tolist(), strict=True)
    ]
    lines = [json.dumps(row) for row in rows]
    if rng.integers(2):
        lines.insert(3, "")
    truth = w.truth()
    truth.sensors = ["plant.temp", "plant.pressure", "vibration"]
    return Case(
        path=text(folder, lines, name=str(rng.choice(["x.jsonl", "x.ndjson", "x.log"]))),
        must="understood",
        truth=truth,
    )


@kind
def json_lines_with_a_torn_end(folder, rng):
    w = World(rng)
    lines = [json.dumps({"ts": t, "temp": v}) for t, v in zip(w.stamps(), w.rows[:, 0].tolist(), strict=True)]
    torn = str(
        rng.choice(['{"ts": "2026-02-10 11:59:59", "temp": 6', '{"ts": "2026-02-1', '{"ts": "x", "temp"'])
    )
    truth = w.truth()
    truth.sensors, truth.machines = ["temp"], {"x": w.rows[:, :1]}
    return Case(path=text(folder, [*lines, torn], name="x.jsonl", last=False), must="understood", truth=truth)


@kind
def json_lines_with_lists(folder, rng):
    w = World(rng)
    lines = [json.dumps({"device": "p1", "rows": [{"temp": v}]}) for v in w.rows[:, 0]]
    return Case(path=text(folder, lines, name="x.jsonl"), must="refused", says="a line for each moment")


@kind
def json_lines_of_two_kinds(folder, rng):
    w = World(rng, 450)
    lines = [json.dumps({"ts": t, "temp": v}) for t, v in zip(w.stamps(), w.rows[:, 0], strict=True)]
    lines[430] = json.dumps({"ts": "2026-02-10 09:00:00", "level": "error"})
    return Case(path=text(folder, lines, name="x.jsonl"), must="refused", says="two kinds of messages")


@kind
def annotated_tables_of_influxdb(folder, rng):
    w = World(rng, 60)
    notes = ["#group,false,false,true,true,false,false,true,true", "#default,_result,,,,,,,"]
    head = ",result,table,_start,_stop,_time,_value,_field,_measurement"
    stamps = w.stamps("%Y-%m-%dT%H:%M:%SZ")
    lines: list[str] = []
    for number, name in enumerate(w.names):
        lines += [*notes, head]
        lines += [
            f",,{number},{stamps[0]},{stamps[-1]},{t},{v:.9g},{name},pump"
            for t, v in zip(stamps, w.rows[:, number], strict=True)
        ]
        lines.append("")
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def a_table_of_a_campbell_logger(folder, rng):
    w = World(rng)
    lines = [
        '"TOA5","CR1000","CR1000","80299","CR1000.Std.31","CPU:PUMP.CR1","36933","Table1"',
        '"TIMESTAMP","RECORD",' + ",".join(f'"{n}"' for n in w.names),
        '"TS","RN","Deg C","bar/s/m","umol/s/m^2"',
        '"","","Avg","Smp","Max"',
        *(
            f'"{t}",{k},{",".join(cells)}'
            for k, (t, cells) in enumerate(zip(w.stamps(), w.cells(), strict=True))
        ),
    ]
    return Case(path=text(folder, lines, name="x.dat"), must="understood", truth=w.truth())


@kind
def events_named_behind_the_sensors(folder, rng):
    """HOBO: columns for events that are empty in nearly all rows, so that each line ends in delimiters."""
    w = World(rng)
    lines = [
        f"{k + 1},{t},{','.join(cells)},{'Logged' if k == 0 else ''},,"
        for k, (t, cells) in enumerate(zip(w.stamps("%m/%d/%y %I:%M:%S %p"), w.cells(), strict=True))
    ]
    w.when = [t.replace(day=20) for t in w.when]
    w.times = np.array([t.timestamp() for t in w.when])
    lines = [line.replace("02/10/26", "02/20/26") for line in lines]
    head = '"#","Date Time, GMT+00:00",' + ",".join(w.names) + ",Detached,Connected,End Of File"
    return Case(
        path=text(folder, ['"Plot Title: 10710335"', head, *lines]), must="understood", truth=w.truth()
    )


@kind
def a_long_table_of_wincc(folder, rng):
    w = World(rng, 80)
    lines = ['"VarName";"TimeString";"VarValue";"Validity";"Time_ms"']
    for k, (t, cells) in enumerate(zip(w.stamps("%d.%m.%Y %H:%M:%S"), w.cells(","), strict=True)):
        serial = f"{(w.times[k] / 86400 + 25569) * 1e6:.6f}".replace(".", ",")
        lines += [f'"{n}";"{t}";{v};1;{serial}' for n, v in zip(w.names, cells, strict=True)]
    lines = [line.replace("10.02.2026", "20.02.2026") for line in lines]
    lines.insert(1 + 3 * int(rng.integers(w.n)), '"$RT_OFF$";"20.02.2026 08:30:00";0;2;46073354166')
    truth = w.truth()
    truth.times = {"x": w.times + 10 * 86400}
    return Case(path=text(folder, lines), must="understood", truth=truth)


@kind
def an_archive_with_labels_in_arrays_of_their_own(folder, rng):
    w = World(rng, 200)
    y = (np.arange(200) > 150).astype(int)
    many = {"X": w.rows, "t": np.arange(200) * w.step, "y": y}
    case = int(rng.integers(3))
    if case == 1:
        many = {"signal": w.rows, "labels": y[:, None], "fs": 1.0}
    elif case == 2:
        windows = w.rows.reshape(20, 10, 3)
        many, y = (
            {"x": windows, "y": (np.arange(20) > 15).astype(int), "fs": 1.0},
            np.repeat(np.arange(20) > 15, 10),
        )
    np.savez(folder / "x.npz", **many)
    truth = Truth(
        sensors=["f0", "f1", "f2"], machines={"x": w.rows}, labels={"x": y.astype(np.int8)}, rate=1.0
    )
    must, given = ("understood", {"time_unit": "s"}) if case == 0 else ("understood", {})
    return Case(path=folder / "x.npz", must=must, truth=truth, given=given)


@kind
def halves_with_labels_of_their_own(folder, rng):
    w = World(rng, 200)
    y = (rng.random(200) < 0.3).astype(int)
    np.savez(
        folder / "x.npz", X_train=w.rows[:120], y_train=y[:120], X_test=w.rows[120:], y_test=y[120:], fs=1.0
    )
    truth = Truth(sensors=["f0", "f1", "f2"], machines={"X": w.rows}, labels={"X": y}, rate=1.0)
    return Case(path=folder / "x.npz", must="understood", truth=truth)


@kind
def names_that_differ_by_their_ending(folder, rng):
    a, b = World(rng, 90), World(rng, 90)
    text(folder, table(a), name="x.csv")
    text(folder, table(b, delimiter="\t"), name="x.tsv")
    truth = Truth(sensors=a.names, machines={"x.csv": a.rows, "x.tsv": b.rows}, rate=1.0)
    return Case(
        path=folder,
        must="asked",
        truth=truth,
        answers={"files": "machines"},
        says="differ by their endings alone",
    )


@kind
def a_data_set_of_ignition(folder, rng):
    w = World(rng)
    lines = ['"#NAMES"', '"t_stamp",' + ",".join(f'"{n}"' for n in w.names), '"#TYPES"', '"date","D","D","D"']
    lines.append(f'"#ROWS","{w.n}"')
    lines += [",".join(f'"{c}"' for c in (t, *cells)) for t, cells in zip(w.stamps(), w.cells(), strict=True)]
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def words_of_a_historian_in_the_first_row(folder, rng):
    w = World(rng)
    cells = w.cells()
    cells[0] = ["[-11059] No Good Data For Calculation", "I/O Timeout", cells[0][2]]
    cells[9][1] = "I/O Timeout"
    w.rows[0, :2] = w.rows[9, 1] = np.nan
    lines = rows_of(["Timestamp", *w.names], w.stamps("%d-%b-%y %H:%M:%S"), *np.array(cells).T)
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(),
        answers={"words:temp": "missing", "words:pressure": "missing"},
        says="among numbers",
    )


@kind
def states_of_home_assistant(folder, rng):
    w = World(rng, 80)
    lines, cells = ["entity_id,state,last_changed"], w.cells()
    for k in range(w.n):
        name = f"sensor.{w.names[k % 3]}"
        lines.append(f"{name},{cells[k][k % 3]},2026-02-10T08:{30 + k // 60:02d}:{k % 60:02d}.000Z")
    truth = Truth(
        sensors=["state"],
        machines={f"sensor.{name}": w.rows[k::3, [k]] for k, name in enumerate(w.names)},
        times={f"sensor.{name}": w.times[k::3] for k, name in enumerate(w.names)},
        rate=1 / 3,
    )
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=truth,
        answers={"column:entity_id": "device"},
        says="column:entity_id",
    )


@kind
def a_word_of_bits(folder, rng):
    w = World(rng)
    words = [f"{k % 7:08b}" for k in range(w.n)]
    return Case(
        path=text(folder, rows_of(["time", *w.names, "status_word"], w.stamps(), *_columns(w), words)),
        must="asked",
        truth=w.truth(),
        answers={"column:status_word": "leave out"},
        says="are they bits",
    )


@kind
def rows_of_three_axes_in_turns(folder, rng):
    w = World(rng, 90)
    lines = rows_of(["time", "axis", *w.names], w.stamps(), ["X", "Y", "Z"] * 30, *_columns(w))
    truth = Truth(
        sensors=w.names,
        machines={axis: w.rows[k::3] for k, axis in enumerate("XYZ")},
        times={axis: w.times[k::3] for k, axis in enumerate("XYZ")},
        rate=1 / 3,
    )
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=truth,
        answers={"column:axis": "device"},
        says="column:axis=device",
    )


@kind
def ticks_since_the_year_1(folder, rng):
    w = World(rng, step_s=10)
    ticks = [621_355_968_000_000_000 + round(t) * 10_000_000 for t in w.times]
    return Case(
        path=text(folder, rows_of(["ticks", *w.names], ticks, *_columns(w))),
        must="understood",
        truth=w.truth(),
    )
