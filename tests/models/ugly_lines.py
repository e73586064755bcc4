"""Lines that are no rows: torn ends, footers, headers again, tables that follow each other or lie on their side."""

from __future__ import annotations

import numpy as np
from ugly_world import Case, World, kind, rows_of, table, text

__all__: list[str] = []


@kind
def no_end_of_the_last_line(folder, rng):
    w = World(rng)
    return Case(path=text(folder, table(w), last=False), must="understood", truth=w.truth())


@kind
def torn_in_the_middle_of_a_line(folder, rng):
    w = World(rng)
    lines = table(w)
    lines.append("2026-02-10 11:59:59,61.")
    return Case(path=text(folder, lines, last=False), must="understood", truth=w.truth())


@kind
def torn_by_a_power_failure(folder, rng):
    w = World(rng)
    path = text(folder, table(w))
    path.write_bytes(path.read_bytes() + b"\0" * 512)
    return Case(path=path, must="understood", truth=w.truth())


@kind
def ragged_lines(folder, rng):
    w = World(rng, 300)
    lines = table(w)
    lines[50:50] = ["2026-02-10 08:30:48,61.2"]
    lines[90:90] = ["logger restarted"]
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def footer(folder, rng):
    w = World(rng)
    return Case(
        path=text(folder, [*table(w), "", "Average,61.20,1.512,0.0490", "End of file"]),
        must="understood",
        truth=w.truth(),
    )


@kind
def header_again_and_again(folder, rng):
    w = World(rng, 200)
    lines = table(w)
    for at in (150, 100, 50):
        lines.insert(at, lines[0])
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def another_header_in_the_middle(folder, rng):
    w = World(rng, 120)
    lines = table(w)
    turned = [",".join([p[0], p[2], p[1], p[3]]) for p in (line.split(",") for line in lines)]
    return Case(path=text(folder, [*lines, *turned]), must="refused", says="another header")


@kind
def two_columns_of_one_name(folder, rng):
    w = World(rng)
    w.names = ["temp", "temp (2)", "vibration"]
    return Case(
        path=text(folder, table(w, header=["time", "temp", "temp", "vibration"])),
        must="understood",
        truth=w.truth(),
    )


@kind
def two_tables_one_below_the_other(folder, rng):
    a, b = World(rng, 80), World(rng, 90)
    other = rows_of(
        ["time", "speed", "torque", "angle", "load"],
        b.stamps(),
        *np.array(b.cells()).T,
        np.array(b.cells()).T[0],
    )
    return Case(path=text(folder, [*table(a), "", *other]), must="refused", says="two tables")


@kind
def another_table_of_the_same_width(folder, rng):
    a, b = World(rng, 80), World(rng, 90)
    return Case(
        path=text(folder, [*table(a), "", *table(b, header=["time", "speed", "torque", "angle"])]),
        must="refused",
        says="another header",
    )


@kind
def a_line_end_in_a_name(folder, rng):
    w = World(rng)
    lines = table(w, ";", header=["time", '"temp\n(°C)"', "pressure", "vibration"])
    w.names = ["temp (°C)", "pressure", "vibration"]
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def a_table_on_its_side(folder, rng):
    w = World(rng)
    turned = [",".join(column) for column in zip(*(line.split(",") for line in table(w)), strict=True)]
    return Case(path=text(folder, turned), must="refused", says="on its side")


@kind
def three_lines_of_names(folder, rng):
    w = World(rng)
    lines = [",pump,pump,motor", ",mean,std,mean", "when,,,", *table(w)[1:]]
    w.names = ["pump mean", "pump std", "motor mean"]
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def columns_of_fixed_width_with_holes(folder, rng):
    w = World(rng)
    lines = ["   t_s      temp  pressure vibration"]
    lines += [
        f"{k * 0.5:6.1f} {c[0] if k % 3 else '':>9} {c[1]:>9} {c[2]:>9}" for k, c in enumerate(w.cells())
    ]
    return Case(path=text(folder, lines, name="x.txt"), must="refused", says="another number of cells")


@kind
def digits_without_anything_between(folder, rng):
    w = World(rng)
    lines = [f"{k:05d}{r[0]:07.2f}{r[1]:07.3f}" for k, r in enumerate(w.rows)]
    return Case(path=text(folder, lines, name="x.txt"), must="refused")


@kind
def statements_of_a_database(folder, rng):
    w = World(rng)
    verb = "INSERT"
    lines = [
        f"{verb} INTO readings VALUES ('{s}', {', '.join(c)});"
        for s, c in zip(w.stamps(), w.cells(), strict=True)
    ]
    return Case(path=text(folder, lines, name="x.csv"), must="refused")


@kind
def files_put_together_with_their_marks(folder, rng):
    w = World(rng, 200)
    lines = table(w)
    return Case(
        path=text(folder, [*lines[:101], "\ufeff" + lines[0], *lines[101:]]),
        must="understood",
        truth=w.truth(),
    )


@kind
def one_row_only(folder, rng):
    w = World(rng, 1)
    return Case(
        path=text(folder, table(w)), must="asked", truth=w.truth(rate=False), answers={"sample_rate": "none"}
    )


@kind
def a_line_of_factors(folder, rng):
    w = World(rng)
    lines = table(w)
    return Case(
        path=text(folder, [lines[0], "factor,0.1,0.01,1", *lines[1:]]),
        must="refused",
        says="a line of factors",
    )


@kind
def a_header_parted_otherwise(folder, rng):
    w = World(rng)
    lines = table(w)
    return Case(
        path=text(folder, [lines[0].replace(",", ";"), *lines[1:]]), must="refused", says="parted by ';'"
    )


@kind
def two_columns_short_a_header(folder, rng):
    w = World(rng)
    lines = table(w, ",", ",")
    return Case(
        path=text(folder, [lines[0] + ",", ",°C,bar,mm/s,", *(line + "," for line in lines[1:])]),
        must="refused",
        says="commas in the numbers",
    )
