"""Several machines: columns, files, long tables, lists of faults."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from ugly_world import START, Case, Truth, World, kind, table, text, two_pumps

__all__: list[str] = []


@kind
def machines_interleaved(folder, rng):
    a, b, truth = two_pumps(rng)
    lines = ["time,device," + ",".join(a.names)]
    for s, x, y in zip(a.stamps(), a.cells(), b.cells(), strict=True):
        lines += [f"{s},pump-1,{','.join(x)}", f"{s},pump-2,{','.join(y)}"]
    return Case(path=text(folder, lines), must="understood", truth=truth)


@kind
def machines_one_after_the_other(folder, rng):
    a, b, truth = two_pumps(rng)
    truth.machines = {"1": a.rows, "2": b.rows}
    truth.times = {"1": a.times, "2": b.times}
    lines = ["machine_id;time;" + ";".join(a.names)]
    for number, w in ((1, a), (2, b)):
        lines += [f"{number};{s};{';'.join(c)}" for s, c in zip(w.stamps(), w.cells(","), strict=True)]
    return Case(path=text(folder, lines), must="understood", truth=truth)


@kind
def a_file_for_each_machine(folder, rng):
    a, b, truth = two_pumps(rng)
    text(folder, table(a), name="d/pump-1.csv")
    text(folder, table(b), name="d/pump-2.csv")
    (folder / "d" / "README.md").write_text("# what this is\n")
    return Case(path=folder / "d", must="understood", truth=truth)


@kind
def a_column_moved_in_one_file(folder, rng):
    a, b, truth = two_pumps(rng)
    text(folder, table(a), name="d/pump-1.csv")
    lines = [",".join([p[0], p[3], p[1], p[2]]) for p in (line.split(",") for line in table(b))]
    text(folder, lines, name="d/pump-2.csv")
    return Case(path=folder / "d", must="understood", truth=truth)


@kind
def a_file_with_another_machine_s_columns(folder, rng):
    a, b, truth = two_pumps(rng)
    text(folder, table(a), name="d/pump-1.csv")
    text(folder, table(b), name="d/pump-2.csv")
    text(folder, table(World(rng), header=["time", "speed", "torque", "angle"]), name="d/robot.csv")
    return Case(path=folder / "d", must="understood", truth=truth)


@kind
def one_file_proves_the_order_for_its_neighbour(folder, rng):
    a, b = World(rng, 120), World(rng, 120, step_s=1.0)
    shift = datetime(2026, 2, 17, 8, tzinfo=UTC) - START
    b.when, b.times = [x + shift for x in b.when], b.times + shift.total_seconds()
    truth = Truth(
        sensors=a.names,
        machines={"pump-1": a.rows, "pump-2": b.rows},
        times={"pump-1": a.times, "pump-2": b.times},
        rate=1.0,
    )
    text(folder, table(a, form="%d/%m/%Y %H:%M:%S"), name="d/pump-1.csv")
    text(folder, table(b, form="%d/%m/%Y %H:%M:%S"), name="d/pump-2.csv")
    return Case(path=folder / "d", must="understood", truth=truth)


@kind
def a_long_table(folder, rng):
    a, b, truth = two_pumps(rng, 80)
    lines = ["id,time,variable,value"]
    for s, x, y in zip(a.stamps(), a.cells(), b.cells(), strict=True):
        for machine, cells in (("pump-1", x), ("pump-2", y)):
            lines += [f"{machine},{s},{name},{cell}" for name, cell in zip(a.names, cells, strict=True)]
    lines[0] = "device_id,time,variable,value"
    return Case(path=text(folder, lines), must="understood", truth=truth)


@kind
def a_long_table_with_units_and_holes(folder, rng):
    w = World(rng, 80)
    units = dict(zip(w.names, ("°C", "bar", "mm/s"), strict=True))
    lines = ["timestamp;tag;value;unit"]
    for k, (s, cells) in enumerate(zip(w.stamps(), w.cells(","), strict=True)):
        for c, (name, cell) in enumerate(zip(w.names, cells, strict=True)):
            if k % 13 == 5 and c == 1:
                w.rows[k, c] = np.nan
            else:
                lines.append(f"{s};{name};{cell};{units[name]}")
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def events_in_a_file_of_their_own(folder, rng):
    a, b, truth = two_pumps(rng)
    text(folder, table(a), name="d/pump-1.csv")
    text(folder, table(b), name="d/pump-2.csv")
    text(
        folder,
        [
            "machine,start,end,kind",
            f"pump-2,{a.stamps()[50]},{a.stamps()[70]},leak",
            f"pump-2,{a.stamps()[90]},{a.stamps()[95]},leak",
        ],
        name="d/failures.csv",
    )
    y = np.zeros(120, int)
    y[50:71] = y[90:96] = 1
    truth.labels = {"pump-1": np.zeros(120, int), "pump-2": y}
    return Case(path=folder / "d", must="understood", truth=truth)


@kind
def labels_in_a_file_of_their_own(folder, rng):
    w = World(rng)
    y = (np.arange(w.n) > w.n * 0.6).astype(int)
    text(folder, table(w), name="d/x.csv")
    text(folder, ["label", *map(str, y)], name="d/x_label.csv")
    return Case(path=folder / "d", must="understood", truth=w.truth(labels={"x": y}))


@kind
def numbers_that_name_sensors(folder, rng):
    w = World(rng, 80)
    lines = ["time,sensor_id,value"]
    for s, cells in zip(w.stamps(), w.cells(), strict=True):
        lines += [f"{s},{number},{cell}" for number, cell in zip((101, 102, 103), cells, strict=True)]
    w.names = ["101", "102", "103"]
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(),
        answers={"column:sensor_id": "variable"},
        says="sensor_id",
    )


@kind
def things_that_may_be_machines_or_sensors(folder, rng):
    w = World(rng, 80)
    lines = ["entity_id,state,last_changed"]
    for s, cells in zip(w.stamps(), w.cells(), strict=True):
        lines += [
            f"sensor.{name},{cell},{s.replace(' ', 'T')}Z" for name, cell in zip(w.names, cells, strict=True)
        ]
    w.names = [f"sensor.{name}" for name in w.names]
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(),
        answers={"column:entity_id": "variable"},
        says="entity_id",
    )


@kind
def engines_and_cycles_without_names(folder, rng):
    a, b, c = World(rng, 80), World(rng, 90), World(rng, 70)
    lines = [
        f"{e} {k} {' '.join(cells)}  "
        for e, w in enumerate((a, b, c), 1)
        for k, cells in enumerate(w.cells(), 1)
    ]
    truth = Truth(sensors=["f2", "f3", "f4"], machines={"1": a.rows, "2": b.rows, "3": c.rows})
    return Case(
        path=text(folder, lines, name="x.txt"),
        must="asked",
        truth=truth,
        answers={"sample_rate": "none"},
        says="sample_rate",
    )


@kind
def halves_of_a_benchmark_in_folders(folder, rng):
    a, b = World(rng, 80), World(rng, 90)
    y = (np.arange(90) > 60).astype(int)
    for half, w in (("train", a), ("test", b)):
        text(folder, [",".join(c) for c in w.cells()], name=f"d/{half}/machine-1-1.txt")
    text(folder, [str(k) for k in y], name="d/test_label/machine-1-1.txt")
    truth = Truth(
        sensors=["f0", "f1", "f2"],
        machines={"machine-1-1": np.concatenate([a.rows, b.rows])},
        labels={"machine-1-1": np.append(np.full(80, -1), y)},
        rate=1 / 60,
    )
    return Case(path=folder / "d", must="understood", truth=truth, given={"sample_rate": "0.0166667"})


@kind
def a_file_for_each_day(folder, rng):
    w = World(rng, 120)
    lines = table(w)
    text(folder, lines[:61], name="d/pump_2026-02-10.csv")
    text(folder, [lines[0], *lines[61:]], name="d/pump_2026-02-11.csv")
    return Case(
        path=folder / "d",
        must="asked",
        truth=w.truth("pump"),
        answers={"files": "parts"},
        says="differ by a date alone",
    )


@kind
def a_machine_whose_decimal_marks_are_lost(folder, rng):
    for k in range(4):
        w = World(rng, 100)
        lines = table(w, ";", ",")
        text(folder, [line.replace(",", "") for line in lines] if k == 3 else lines, name=f"d/pump-{k}.csv")
    return Case(path=folder / "d", must="asked", says="decimal mark lost")


@kind
def sites_and_pumps(folder, rng):
    ws = {(s, p): World(rng, 60) for s in ("north", "south") for p in ("p1", "p2")}
    lines = ["time,site,pump,temp,pressure,vibration"]
    for k in range(60):
        lines += [f"{w.stamps()[k]},{s},{p},{','.join(w.cells()[k])}" for (s, p), w in ws.items()]
    first = ws["north", "p1"]
    truth = Truth(sensors=first.names, machines={f"{s}-{p}": w.rows for (s, p), w in ws.items()}, rate=1.0)
    return Case(path=text(folder, lines), must="understood", truth=truth)


@kind
def every_row_twice(folder, rng):
    w = World(rng, 60)
    lines = table(w)
    return Case(
        path=text(folder, [lines[0], *(line for line in lines[1:] for _ in range(2))]),
        must="asked",
        truth=w.truth(),
        answers={"repeats": "drop"},
        says="repeats",
    )


@kind
def units_that_differ_from_file_to_file(folder, rng):
    a, b, _ = two_pumps(rng)
    for name, w, unit in (("pump-1", a, "°C"), ("pump-2", b, "°F")):
        lines = table(w)
        text(folder, [lines[0], f",{unit},bar,mm/s", *lines[1:]], name=f"d/{name}.csv")
    return Case(path=folder / "d", must="asked", says="units:temp")
