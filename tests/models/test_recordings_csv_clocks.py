"""Clocks among the columns of a CSV: left out and told, and nothing else is taken for one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from csv_world import read, refusal, rows

pytestmark = pytest.mark.edge


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("datetime", ["2020-02-08 13:30:47", "2020-02-08 13:30:48", "2020-02-08 13:30:48"]),
        ("x", ["2020-02-08T13:30:47.123Z", "2020-02-08T13:30:48+01:00", "2020-02-08T13:30:49"]),
        ("x", ["08.02.2020", "08.02.2020", "09.02.2020"]),
        ("x", ["2/8/2020 1:30 PM", "2/8/2020 1:31 PM", "2/8/2020 1:32 PM"]),
        ("x", ["8-Feb-2020", "8-Feb-2020", "9-Feb-2020"]),
        ("x", ["1580000000", "1580000001", "1580000001"]),
        ("x", ["1580000000123", "1580000000223", "1580000000323"]),
        ("x", ["1580000000.5", "1580000060.5", "1580000160.5"]),
        ("Time (s)", ["0", "0.1", "0.2"]),
        ("timestamp", ["5", "6", "8"]),
        ("t", ["0", "1", "3"]),
        ("index", ["0", "1", "2"]),
        ("time_stamp", ["", "6", "8"]),
        ("Unnamed: 0", ["0", "1", "2"]),
        ("sampleTime", ["0", "0.1", "0.2"]),
        ("seconds since start", ["0", "0.1", "0.2"]),
        ("ts", ["1580000500", "1580000000", "1580000001"]),
    ],
)
def test_a_clock_is_left_out_and_told(tmp_path: Path, name: str, cells: list[str]) -> None:
    found = read(tmp_path, f"{name},a\n" + "".join(f"{cell},{3 - n}\n" for n, cell in enumerate(cells)))
    assert found.names == ("a",)
    np.testing.assert_array_equal(found.rows, rows([3], [2], [1]))
    assert len(found.notes) == 1
    assert re.match(rf"column '{re.escape(name)}' is a clock .*was left out", found.notes[0])


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("energy", ["100", "101", "102"]),
        ("weight", ["10", "8", "11"]),
        ("t", ["20", "20", "21"]),
        ("no", ["5", "7", "6"]),
        ("pressure", ["1.5e9", "1.4e9", "1.5e9"]),
        ("time", ["7", "7", "7"]),
    ],
)
def test_what_only_resembles_a_clock_is_a_sensor(tmp_path: Path, name: str, cells: list[str]) -> None:
    found = read(tmp_path, f"{name},a\n" + "".join(f"{cell},1\n" for cell in cells))
    assert found.names == (name, "a")


def test_a_clock_that_a_logger_started_anew_is_one(tmp_path: Path) -> None:
    lines = "".join(f"{n % 15},{n * 7 % 5}\n" for n in range(60))
    assert read(tmp_path, "time,a\n" + lines).names == ("a",)


def test_a_sensor_that_may_be_a_clock_is_told(tmp_path: Path) -> None:
    lines = "".join(f"{n / 10},{n * 7 % 5},{n * 3 % 7}\n" for n in range(60))
    found = read(tmp_path, "x,a,cycle_time\n" + lines)
    assert found.names == ("x", "a", "cycle_time")
    x, cycle = found.notes
    assert x.startswith("column 'x' grows at every row, as a clock or a counter does; it was read as")
    assert cycle.startswith(
        "column 'cycle_time' has the name of a clock, but does not grow as one; it was read"
    )


def test_a_clock_of_numbers_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    assert read(tmp_path, "time,a\n1,5\n2,5\n", columns=("time",)).names == ("time",)
    assert "it is a time" in refusal(tmp_path, "time,a\n10:00:00,5\n", columns=("time", "a"))


def test_a_file_of_clocks_alone_has_no_sensor(tmp_path: Path) -> None:
    assert "has no sensor" in refusal(tmp_path, "time,index\n1,1\n2,2\n")
    assert "has no sensor" in refusal(tmp_path, "date\n2020-01-01\n2020-01-02\n")
