"""Long CSV files, block by block: the fast way gives what the slow way gives, in little memory and with the right line."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from csv_world import refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from models.recordings.blocks import fast_rows
from models.recordings.cells import Layout, slow_rows
from models.recordings.csv import read_csv

pytestmark = pytest.mark.edge


def test_a_million_rows_take_less_than_three_times_their_data(tmp_path: Path) -> None:
    # A part of it here; benchmarks/recordings.py reads all of it, with the process's own memory and np.loadtxt beside it.
    count = 150_000
    line = "2026-01-01 10:00:00,20.125,1013.25,-0.5,"
    path = tmp_path / "x.csv"
    path.write_text("time,a,b,c,d\n" + "".join(f"{line}{n}\n" for n in range(count)))
    tracemalloc.start()
    found = read_csv(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.rows.shape == (count, 4)
    np.testing.assert_array_equal(found.rows[:, 3], np.arange(count))
    assert peak < 3 * found.rows.nbytes


def test_a_fault_far_inside_is_found_with_its_line(tmp_path: Path) -> None:
    lines = [f"{n},{n}.5\n" for n in range(60_000)]
    lines[54_321] = "1,x\n"
    assert "x.csv:54323: column 'b' holds 'x'" in refusal(tmp_path, "a,b\n" + "".join(lines))


def test_a_line_end_of_two_bytes_may_lie_on_the_edge_of_a_block(tmp_path: Path) -> None:
    for padding in range(4):
        lines = ["1,2\r\n"] * 60_000
        lines[59_000] = "1,x\r\n"
        said = refusal(tmp_path, "a,b" + " " * padding + "\r\n" + "".join(lines))
        assert "x.csv:59002: column 'b' holds 'x'" in said


CELL = st.one_of(
    st.sampled_from(
        [
            "1",
            "-2.5",
            "3e4",
            "",
            "nan",
            "NA",
            "true",
            '"1.5"',
            '""',
            ' "1"',
            "inf",
            "1e39",
            "x",
            "#",
            '"a,b"',
            '1"2"',
        ]
    ),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
    st.text("0123456789.,;eE+-_ \"'naNA\t#\r\0é", max_size=6),
)


@given(
    lines=st.lists(st.lists(CELL, min_size=1, max_size=4), min_size=1, max_size=6),
    width=st.integers(1, 4),
    places=st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True),
    delimiter=st.sampled_from(",;\t"),
)
@settings(max_examples=150, deadline=None)
def test_the_fast_way_gives_what_the_slow_way_gives_or_leaves_it_to_it(
    lines: list[list[str]], width: int, places: list[int], delimiter: str
) -> None:
    layout = Layout(
        where="x",
        delimiter=delimiter,
        names=tuple("abcd"[:width]),
        places=tuple(place for place in places if place < width) or (0,),
    )
    block = "".join(delimiter.join(cells) + "\n" for cells in lines).encode()
    fast = fast_rows(block, layout)
    if fast is not None:
        np.testing.assert_array_equal(fast, slow_rows(block, 1, layout)[0])


def test_numbers_empty_cells_words_and_quotes_go_the_fast_way() -> None:
    layout = Layout(where="x", delimiter=",", names=("t", "a", "b"), places=(1, 2))
    for block in (b"x,1,2\n", b"x,,2\n", b"x,1,\n", b'"x","1","2"\n', b"x,NA,true\n", b'x,"",null\n'):
        assert fast_rows(block, layout) is not None, block


@pytest.mark.parametrize(
    "block",
    [
        b'5,"x,6"\n',
        b"1,2,3\n#4,5,6\n",
        b'1,"2"0,3\n',
        b'1,2,"3\n',
        b'"1",2,3"\n',
        b"1,2\n",
        b"1,2,3,4\n2,3\n",
        b"\n",
        b"1,2,inf\n",
    ],
)
def test_what_the_fast_way_would_misread_it_leaves_alone(block: bytes) -> None:
    for places in ((0,), (1,), (2,)):
        layout = Layout(where="x", delimiter=",", names=("a", "b", "c"), places=places)
        if not block.endswith(b"inf\n") or 2 in places:
            assert fast_rows(block, layout) is None
