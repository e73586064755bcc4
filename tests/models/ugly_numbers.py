"""Numbers: decimal and thousands marks, units, missing values, sentinels."""

from __future__ import annotations

import numpy as np
from ugly_world import Case, World, kind, rows_of, table, text

__all__: list[str] = []


def _large(rng, count=200):
    w = World(rng, count)
    w.rows[:, 0] = np.round(rng.uniform(200, 4_000_000, w.n), 2)
    w.decimals = (2, 3, 4)
    return w


@kind
def thousands_by_commas_in_quotes(folder, rng):
    w = _large(rng)
    lines = rows_of(
        ["time", *w.names], w.stamps(), [f'"{v:,.2f}"' for v in w.rows[:, 0]], *np.array(w.cells()).T[1:]
    )
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def thousands_by_points(folder, rng):
    w = _large(rng)
    cells = [f"{v:,.2f}".translate(str.maketrans(",.", ".,")) for v in w.rows[:, 0]]
    lines = rows_of(["time", *w.names], w.stamps(), cells, *np.array(w.cells(",")).T[1:], delimiter=";")
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def thousands_by_spaces(folder, rng):
    w = _large(rng)
    cells = [f"{v:,.2f}".replace(",", "\u202f").replace(".", ",") for v in w.rows[:, 0]]
    lines = rows_of(["time", *w.names], w.stamps(), cells, *np.array(w.cells(",")).T[1:], delimiter=";")
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def thousands_by_apostrophes(folder, rng):
    w = _large(rng)
    cells = [f"{v:,.2f}".replace(",", "'") for v in w.rows[:, 0]]
    lines = rows_of(["time", *w.names], w.stamps(), cells, *np.array(w.cells()).T[1:], delimiter=";")
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def whole_thousands_that_look_like_decimals(folder, rng):
    w = World(rng, 200)
    w.rows[:, 0] = rng.integers(800, 1900, w.n)
    w.names = ["rpm"]
    w.rows = w.rows[:, :1]
    lines = rows_of(
        ["time", "rpm"], w.stamps(), [f"{int(v):,}".replace(",", ".") for v in w.rows[:, 0]], delimiter=";"
    )
    return Case(
        path=text(folder, lines), must="asked", truth=w.truth(), answers={"decimal": "comma"}, says="decimal"
    )


@kind
def three_digits_behind_a_comma(folder, rng):
    w = World(rng, 200)
    w.rows = np.round(rng.uniform(1.1, 9.9, (w.n, 1)), 3)
    w.names = ["level"]
    lines = rows_of(
        ["time", "level"], w.stamps(), [f"{v:.3f}".replace(".", ",") for v in w.rows[:, 0]], delimiter=";"
    )
    return Case(
        path=text(folder, lines), must="asked", truth=w.truth(), answers={"decimal": "comma"}, says="decimal"
    )


@kind
def decimal_commas_between_commas(folder, rng):
    w = World(rng)
    return Case(path=text(folder, table(w, ",", ",")), must="refused", says="commas in the numbers")


@kind
def a_column_of_decimal_commas(folder, rng):
    w = World(rng)
    w.rows, w.names, w.step = w.rows[:, :1], ["f0"], 0.01
    lines = [f"{v:.2f}".replace(".", ",") for v in w.rows[:, 0]]
    return Case(
        path=text(folder, lines),
        must="asked",
        truth=w.truth(times=False),
        answers={"delimiter": "none"},
        given={"sample_rate": "100"},
        says="delimiter",
    )


@kind
def scientific_notation(folder, rng):
    w = World(rng)
    lines = rows_of(["time", *w.names], w.stamps(), *[[f"{v:.9E}" for v in c] for c in w.rows.T])
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def fortran_exponents(folder, rng):
    w = World(rng)
    lines = rows_of(
        ["t_s", *w.names],
        [f"{k * 0.1:.4f}" for k in range(w.n)],
        *[[f"{v:.9E}".replace("E", "D") for v in c] for c in w.rows.T],
        delimiter=" ",
    )
    w.times, w.step = np.round(np.arange(w.n) * 0.1, 4), 0.1
    return Case(path=text(folder, lines, name="x.dat"), must="understood", truth=w.truth())


@kind
def units_in_every_cell(folder, rng):
    w = World(rng)
    c = np.array(w.cells(","))
    lines = rows_of(
        ["time", *w.names],
        w.stamps(),
        [f"{v} °C" for v in c[:, 0]],
        [f"{v} bar" for v in c[:, 1]],
        c[:, 2],
        delimiter=";",
    )
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def two_units_in_one_column(folder, rng):
    w = World(rng)
    cells = [f"{v:.2f} °C" if k % 5 else f"{v * 1.8 + 32:.2f} °F" for k, v in enumerate(w.rows[:, 0])]
    lines = rows_of(["time", *w.names], w.stamps(), cells, *np.array(w.cells()).T[1:])
    return Case(path=text(folder, lines), must="asked", says="units:temp")


@kind
def typographic_minus(folder, rng):
    w = World(rng)
    w.rows[:, 0] -= 60
    w.rows = np.round(w.rows, 4)
    lines = [line.replace(",-", ",\u2212") for line in table(w)]
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def missing_in_many_words(folder, rng):
    w = World(rng)
    c = np.array(w.cells(), dtype=object)
    for k, word in enumerate(
        ["", "NA", "-", "NaN", "null", "#N/A", "?", "n/a", "1.#QNAN", "--", "None", "inf"]
    ):
        c[5 + 4 * k, k % 3] = word
        w.rows[5 + 4 * k, k % 3] = np.nan
    return Case(
        path=text(folder, rows_of(["time", *w.names], w.stamps(), *c.T)), must="understood", truth=w.truth()
    )


@kind
def minus_999(folder, rng):
    w = World(rng)
    at = rng.choice(w.n, 6, replace=False)
    c = np.array(w.cells(), dtype=object)
    c[at, 1] = "-999.000"
    w.rows[at, 1] = np.nan
    return Case(
        path=text(folder, rows_of(["time", *w.names], w.stamps(), *c.T)), must="understood", truth=w.truth()
    )


@kind
def plus_9999(folder, rng):
    w = World(rng)
    at = rng.choice(w.n, 6, replace=False)
    c = np.array(w.cells(), dtype=object)
    c[at, 0] = "9999.00"
    w.rows[at, 0] = np.nan
    return Case(
        path=text(folder, rows_of(["time", *w.names], w.stamps(), *c.T)),
        must="asked",
        truth=w.truth(),
        answers={"missing:9999": "yes"},
        says="9999",
    )


@kind
def words_among_numbers(folder, rng):
    w = World(rng)
    c = np.array(w.cells(), dtype=object)
    c[10:14, 0] = "sensor cleaned"
    w.rows[10:14, 0] = np.nan
    return Case(
        path=text(folder, rows_of(["time", *w.names], w.stamps(), *c.T)),
        must="asked",
        truth=w.truth(),
        answers={"words:temp": "missing"},
        says="sensor cleaned",
    )


@kind
def decimal_marks_lost_half_way(folder, rng):
    w = World(rng, 200)
    cells = [f"{v:.2f}" if k < 100 else f"{v:.2f}".replace(".", "") for k, v in enumerate(w.rows[:, 0])]
    return Case(
        path=text(folder, rows_of(["time", *w.names], w.stamps(), cells, *np.array(w.cells()).T[1:])),
        must="asked",
        says="scale:temp",
    )


@kind
def thousands_by_commas_without_quotes(folder, rng):
    w = World(rng, 200)
    cells = [f"{900 + k:,}" for k in range(w.n)]
    return Case(
        path=text(
            folder, rows_of(["time", "count", "pressure"], w.stamps(), cells, np.array(w.cells()).T[1])
        ),
        must="refused",
        says="commas in the numbers",
    )


@kind
def quoted_decimal_commas_between_commas(folder, rng):
    w = World(rng)
    cells = [[f'"{c}"' for c in column] for column in np.array(w.cells(",")).T]
    return Case(
        path=text(folder, rows_of(["time", *w.names], w.stamps(), *cells)), must="understood", truth=w.truth()
    )


@kind
def negative_in_brackets(folder, rng):
    w = World(rng)
    cells = [f"({v:.2f})" if k % 5 == 0 else f"{v:.2f}" for k, v in enumerate(w.rows[:, 0])]
    return Case(
        path=text(folder, rows_of(["time", *w.names], w.stamps(), cells, *np.array(w.cells()).T[1:])),
        must="asked",
        says="words:temp",
    )


@kind
def hexadecimal(folder, rng):
    w = World(rng)
    cells = [hex(int(v * 1000)) for v in w.rows[:, 0]]
    return Case(
        path=text(folder, rows_of(["time", *w.names], w.stamps(), cells, *np.array(w.cells()).T[1:])),
        must="asked",
        says="column:temp",
    )


@kind
def text_that_looks_like_numbers(folder, rng):
    w = World(rng)
    cells = ["'" + c for c in np.array(w.cells()).T[0]]
    return Case(
        path=text(folder, rows_of(["time", *w.names], w.stamps(), cells, *np.array(w.cells()).T[1:])),
        must="understood",
        truth=w.truth(),
    )


@kind
def a_number_for_nothing_that_is_in_no_list(folder, rng):
    w = World(rng)
    at = rng.choice(w.n, 8, replace=False)
    c = np.array(w.cells(), dtype=object)
    c[at, 0] = "-200"
    w.rows[at, 0] = np.nan
    return Case(
        path=text(folder, rows_of(["time", *w.names], w.stamps(), *c.T)),
        must="asked",
        truth=w.truth(),
        answers={"missing:-200": "yes"},
        says="-200",
    )


@kind
def minus_one_for_nothing(folder, rng):
    w = World(rng)
    at = rng.choice(w.n, 8, replace=False)
    c = np.array(w.cells(), dtype=object)
    c[at, 0] = "-1"
    w.rows[at, 0] = np.nan
    return Case(
        path=text(folder, rows_of(["time", *w.names], w.stamps(), *c.T)),
        must="asked",
        truth=w.truth(),
        answers={"missing:-1": "yes"},
        says="-1",
    )


@kind
def endless_digits(folder, rng):
    w = World(rng)
    lines = table(w)
    lines[7] = lines[7] + "7" * 100_000
    return Case(path=text(folder, lines), must="asked", says="words:vibration")
