"""Layouts: delimiters, encodings, headers, what stands before, between and after the rows."""

from __future__ import annotations

import numpy as np
from ugly_world import Case, World, kind, table, text

__all__: list[str] = []


@kind
def plain(folder, rng):
    w = World(rng)
    return Case(path=text(folder, table(w)), must="understood", truth=w.truth())


@kind
def semicolons_and_decimal_commas(folder, rng):
    w = World(rng)
    return Case(path=text(folder, table(w, ";", ",")), must="understood", truth=w.truth())


@kind
def tabs(folder, rng):
    w = World(rng)
    return Case(path=text(folder, table(w, "\t"), name="x.tsv"), must="understood", truth=w.truth())


@kind
def tabs_and_decimal_commas(folder, rng):
    w = World(rng)
    return Case(path=text(folder, table(w, "\t", ","), name="x.txt"), must="understood", truth=w.truth())


@kind
def bars(folder, rng):
    w = World(rng)
    return Case(path=text(folder, table(w, "|")), must="understood", truth=w.truth())


@kind
def aligned_by_spaces(folder, rng):
    w = World(rng)
    lines = ["  ".join(["elapsed_s".rjust(10), *(n.rjust(10) for n in w.names)])]
    lines += [
        "  ".join([f"{k * 0.5:10.2f}", *(c.rjust(10) for c in cells)]) for k, cells in enumerate(w.cells())
    ]
    w.times, w.step = np.arange(w.n) * 0.5, 0.5
    return Case(path=text(folder, lines, name="x.dat"), must="understood", truth=w.truth())


@kind
def stamps_with_a_space_in_a_table_of_spaces(folder, rng):
    w = World(rng)
    lines = ["time " + " ".join(w.names)] + [
        f"{s} {' '.join(c)}" for s, c in zip(w.stamps(), w.cells(), strict=True)
    ]
    return Case(path=text(folder, lines, name="x.txt"), must="understood", truth=w.truth())


@kind
def byte_order_mark_and_crlf(folder, rng):
    w = World(rng)
    return Case(
        path=text(folder, table(w), end="\r\n", encoding="utf-8-sig"), must="understood", truth=w.truth()
    )


@kind
def utf_16(folder, rng):
    w = World(rng)
    return Case(
        path=text(folder, table(w, "\t"), end="\r\n", encoding="utf-16"), must="understood", truth=w.truth()
    )


@kind
def utf_16_without_a_mark(folder, rng):
    w = World(rng)
    return Case(path=text(folder, table(w, ";"), encoding="utf-16-be"), must="understood", truth=w.truth())


@kind
def latin_1(folder, rng):
    w = World(rng)
    w.names = ["Temperatur °C", "Druck", "Schwingstärke"]
    return Case(path=text(folder, table(w, ";", ","), encoding="latin-1"), must="understood", truth=w.truth())


@kind
def cyrillic_without_unicode(folder, rng):
    w = World(rng)
    w.names = ["температура", "давление", "вибрация"]
    return Case(
        path=text(folder, table(w, ";", ","), encoding="cp1251"),
        must="asked",
        truth=w.truth(),
        answers={"encoding": "cp1251"},
        says="encoding",
    )


@kind
def old_macintosh(folder, rng):
    w = World(rng)
    return Case(path=text(folder, table(w), end="\r"), must="understood", truth=w.truth())


@kind
def no_header(folder, rng):
    w = World(rng)
    w.names = ["f1", "f2", "f3"]
    return Case(path=text(folder, table(w)[1:]), must="understood", truth=w.truth())


@kind
def units_row(folder, rng):
    w = World(rng)
    lines = table(w, ";")
    return Case(path=text(folder, [lines[0], ";°C;bar;mm/s", *lines[1:]]), must="understood", truth=w.truth())


@kind
def groups_over_names(folder, rng):
    w = World(rng)
    lines = table(w)[1:]
    w.names = ["Pump A T", "Pump A p", "Motor T"]
    return Case(
        path=text(folder, [",Pump A,,Motor", "time,T,p,T", "s,°C,bar,°C", *lines]),
        must="understood",
        truth=w.truth(),
    )


@kind
def preamble_of_an_instrument(folder, rng):
    w = World(rng)
    start = [
        "Logger XJ-200",
        "Serial;48213",
        "Operator;Ms. Grün",
        "Start;10.02.2026 08:30:00",
        "Channels;3",
        "",
    ]
    return Case(
        path=text(folder, start + table(w, ";", ",", "%d.%m.%Y %H:%M:%S")),
        must="asked",
        truth=w.truth(),
        answers={"date_order": "day-month-year"},
        says="date_order",
    )


@kind
def preamble_with_the_rate(folder, rng):
    w = World(rng)
    lines = [
        "# Sampling rate: 25.6 kHz",
        "# Channels: 3",
        ",".join(w.names),
        *(",".join(c) for c in w.cells()),
    ]
    w.step = 1 / 25600
    return Case(path=text(folder, lines), must="understood", truth=w.truth(times=False))


@kind
def comments_in_between(folder, rng):
    w = World(rng)
    lines = table(w)
    lines[20:20] = ["# door opened", "", "# door closed"]
    return Case(path=text(folder, ["# made by hand", *lines]), must="understood", truth=w.truth())


@kind
def header_in_a_comment(folder, rng):
    w = World(rng)
    lines = [
        "# t_s temp pressure vibration",
        *(f"{k * 0.25:.6e} {' '.join(f'{float(x):.8e}' for x in c)}" for k, c in enumerate(w.cells())),
    ]
    w.times, w.step = np.arange(w.n) * 0.25, 0.25
    return Case(path=text(folder, lines, name="x.txt"), must="understood", truth=w.truth())


@kind
def spreadsheet_hint(folder, rng):
    w = World(rng)
    return Case(path=text(folder, ["sep=;", *table(w, ";")]), must="understood", truth=w.truth())


@kind
def everything_quoted(folder, rng):
    w = World(rng)
    lines = [",".join(f'"{cell}"' for cell in line.split(",")) for line in table(w)]
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def text_with_delimiters_and_line_ends_in_quotes(folder, rng):
    w = World(rng)
    lines = table(w)
    notes = ['"all well, they say"', '""', '"first line\nsecond, line"', '"a ""quoted"" word"', '"ok"', '"x"']
    lines = [
        lines[0] + ",remark",
        *(f"{line},{notes[k % 4] if k % 7 == 0 else ''}" for k, line in enumerate(lines[1:])),
    ]
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def inches_in_the_header(folder, rng):
    w = World(rng)
    w.names = ["temp", 'pipe 5" flow', "vibration"]
    return Case(path=text(folder, table(w, ";")), must="understood", truth=w.truth())


@kind
def trailing_delimiters(folder, rng):
    w = World(rng)
    return Case(path=text(folder, [line + ";" for line in table(w, ";")]), must="understood", truth=w.truth())


@kind
def trailing_delimiters_but_not_in_the_header(folder, rng):
    w = World(rng)
    lines = table(w)
    return Case(
        path=text(folder, [lines[0], *(line + "," for line in lines[1:])]), must="understood", truth=w.truth()
    )


@kind
def empty_columns(folder, rng):
    w = World(rng)
    lines = [",,".join([*line.split(",")[:2], ",".join(line.split(",")[2:])]) for line in table(w)]
    return Case(path=text(folder, lines), must="understood", truth=w.truth())


@kind
def index_of_a_data_frame(folder, rng):
    w = World(rng)
    lines = table(w)
    return Case(
        path=text(folder, ["," + lines[0], *(f"{k},{line}" for k, line in enumerate(lines[1:]))]),
        must="understood",
        truth=w.truth(),
    )


@kind
def row_names_without_a_header_of_their_own(folder, rng):
    w = World(rng)
    lines = [
        " ".join(f'"{n}"' for n in w.names),
        *(f'"{k}" {" ".join(c)}' for k, c in enumerate(w.cells(), 1)),
    ]
    w.step = 0.1
    return Case(
        path=text(folder, lines, name="x.txt"),
        must="understood",
        truth=w.truth(times=False),
        given={"sample_rate": "10"},
    )


@kind
def columns_numbered_in_the_header(folder, rng):
    w = World(rng)
    lines = ["0,1,2", *(",".join(c) for c in w.cells())]
    w.names, w.step = ["0", "1", "2"], 0.5
    return Case(
        path=text(folder, lines), must="understood", truth=w.truth(times=False), given={"sample_rate": "2"}
    )


@kind
def printed_by_a_database(folder, rng):
    w = World(rng)
    lines = [
        " | ".join([" time".ljust(20), *(n.ljust(9) for n in w.names)]),
        "+".join(["-" * 21, *["-" * 11] * 3]),
    ]
    lines += [
        " " + " | ".join([s, *(c.rjust(9) for c in cells)])
        for s, cells in zip(w.stamps(), w.cells(), strict=True)
    ]
    return Case(
        path=text(folder, [*lines, f"({w.n} rows)"], name="x.txt"), must="understood", truth=w.truth()
    )


@kind
def table_of_a_wiki(folder, rng):
    w = World(rng)
    lines = [f"| {line.replace(',', ' | ')} |" for line in table(w)]
    return Case(
        path=text(folder, [lines[0], "|---|---|---|---|", *lines[1:]], name="x.txt"),
        must="understood",
        truth=w.truth(),
    )
