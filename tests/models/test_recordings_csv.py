"""CSV by strangers: what its cells say is what is read, and whatever is not read is said, with its place."""

from __future__ import annotations

import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import RecordingError
from models.recordings.blocks import fast_rows
from models.recordings.cells import Layout, slow_rows
from models.recordings.csv import read_csv
from models.recordings.recording import Recording

pytestmark = pytest.mark.edge

NAN = float("nan")
TORN = "has no end of line, as if the recorder had lost its power while it wrote"


def read(folder: Path, content: str | bytes, **how: object) -> Recording:
    path = folder / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_csv(path, **how)  # type: ignore[arg-type]  # settings come from parameters


def refusal(folder: Path, content: str | bytes, **how: object) -> str:
    with pytest.raises(RecordingError) as refused:
        read(folder, content, **how)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,2\n3,4\n",
        "a,b\r\n1,2\r\n3,4\r\n",
        "a,b\r1,2\r3,4\r",
        "\ufeffa,b\n1,2\n3,4\n",
        '"a","b"\n"1","2"\n"3","4"\n',
        "a, b \n  1,\t2\n 3 ,4\n",
        "a,b\n\n1,2\n\n3,4\n\n",
        "# recorded by hand\na,b\n1,2\n# the pump was oiled\n3,4\n",
        "a,b\n+1e0,2.\n.3E+1,4.0\n",
        "a,b,\n1,2,\n3,4,\n",
        ",a,b\n0,1,2\n1,3,4\n",
        "time,a,b\n10:00:00,1,2\n10:00:01,3,4\n",
        'a,b\n1,2\n3,4\n"',
    ],
    ids=str,
)
def test_the_same_numbers_are_read_however_a_program_writes_them(tmp_path: Path, content: str) -> None:
    found = read(tmp_path, content)
    assert found.names == ("a", "b")
    np.testing.assert_array_equal(found.rows, rows([1, 2], [3, 4]))


def test_lines_without_cells_are_counted(tmp_path: Path) -> None:
    found = read(tmp_path, "a\n1\n\n# oiled\n  \nNA\n2\n")
    np.testing.assert_array_equal(found.rows, rows([1], [NAN], [2]))
    assert found.notes[0] == "3 lines without cells, blank ones and comments (#), were passed over"
    np.testing.assert_array_equal(read(tmp_path, "a\n1\n\nNA\n").rows, rows([1], [NAN]))


def test_columns_come_in_the_order_asked_for(tmp_path: Path) -> None:
    found = read(tmp_path, "t;a;b\n0;1;2\n1;3;4\n", columns=("b", "a"), delimiter=";")
    assert found.names == ("b", "a")
    np.testing.assert_array_equal(found.rows, rows([2, 1], [4, 3]))


def test_a_missing_column_is_named_together_with_those_that_are_there(tmp_path: Path) -> None:
    said = refusal(tmp_path, "a,b,\n1,2,\n", columns=("a", "c"))
    assert said.endswith("no column 'c'; there are a, b")
    assert "both named 'a'" in refusal(tmp_path, "a,b\n1,2\n", columns=("a", "a"))


def test_two_columns_of_one_name_are_refused_with_their_places(tmp_path: Path) -> None:
    said = refusal(tmp_path, "a,b, a\n1,2,3\n")
    assert said.endswith("x.csv:1: columns 1 and 3 are both named 'a'; give each a name of its own")


@pytest.mark.parametrize(
    "content",
    [
        "1.5,2.5\n3,4\n",
        "1,2\n3,4\n",
        "-1,nan\n1,2\n",
        "2024-01-01 10:00:00,1,2\n2024-01-01 10:00:01,3,4\n",
        "pump-7,1.5,2.5\npump-7,1.6,2.4\n",
        "# a b\n1,2\n3,4\n",
        "28,1,2,130,0,2,?\n29,1,2,120,0,0,?\n",
    ],
)
def test_a_file_without_a_header_does_not_lose_its_first_row(tmp_path: Path, content: str) -> None:
    assert "holds values; the first line must name the columns" in refusal(tmp_path, content)


def test_numbers_may_be_names_among_others(tmp_path: Path) -> None:
    assert read(tmp_path, "rpm,1,2\n5,6,7\n").names == ("rpm", "1", "2")


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("1_000", "which is not a finite number; write it without underscores"),
        ("12,5", "write a decimal point instead of the comma"),
        ("1,234,567.5", "without thousands separators"),
        ("1 234", "without thousands separators"),
        ("1'234.5", "without thousands separators"),
        ("2024-01-01T10:00:00Z", "it is a time"),
        ("inf", "leave the cell empty where a value is missing"),
        ("-Infinity", "leave the cell empty where a value is missing"),
        ("1e39", "beyond float32"),
        ("9" * 60, "beyond float32"),
        ("0x10", "which is not a finite number"),
        ("٣", "leave a column of text out"),
        ("idle", "leave a column of text out"),
        ("1.2.3", "not a finite number"),
        ("1e", "not a finite number"),
        ("--1", "not a finite number"),
        ("12.5 °C", "without a unit"),
        ("45%", "without a unit"),
        ("1.5 2.5", "set the delimiter that parts them"),
        ("−5", "leave a column of text out"),
    ],
)
def test_a_cell_that_is_no_number_is_refused_with_its_place_and_a_way_out(
    tmp_path: Path, cell: str, hint: str
) -> None:
    said = refusal(tmp_path, f'a,b\n1,2\n3,"{cell}"\n')
    assert "x.csv:3: column 'b' holds" in said
    assert hint in said


@pytest.mark.parametrize(
    "word", ["", "nan", "NaN", "NA", "n/a", "null", "NULL", "None", "?", "-", '""', '"NA"', "  "]
)
def test_an_empty_cell_or_a_word_for_it_is_a_missing_value_and_is_counted(tmp_path: Path, word: str) -> None:
    found = read(tmp_path, f"a,b\n1,{word}\n{word},4\n5,6\n")
    np.testing.assert_array_equal(found.rows, rows([1, NAN], [NAN, 4], [5, 6]))
    assert found.notes == ("column 'a' misses 1 of 3 values", "column 'b' misses 1 of 3 values")


def test_a_column_that_never_has_a_value_is_told(tmp_path: Path) -> None:
    assert "column 'b' has no value in any row" in read(tmp_path, "a,b\n1,\n2,\n").notes


@pytest.mark.parametrize("words", [("true", "false"), ("True", "FALSE"), ('"true"', "0")])
def test_flags_are_one_and_zero(tmp_path: Path, words: tuple[str, str]) -> None:
    found = read(tmp_path, f"a,b\n1,{words[0]}\n2,{words[1]}\n")
    np.testing.assert_array_equal(found.rows, rows([1, 1], [2, 0]))


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


@pytest.mark.parametrize("torn", ["5,6", "5", "5,61.", "5,6\0\0\0\0", "\0" * 4096, '5,"6', "\xff\xfe"])
def test_a_last_line_without_an_end_is_not_believed(tmp_path: Path, torn: str) -> None:
    found = read(tmp_path, b"a,b\n1,2\n3,4\n" + torn.encode("latin-1"))
    np.testing.assert_array_equal(found.rows, rows([1, 2], [3, 4]))
    assert len(found.notes) == 1
    assert TORN in found.notes[0]


def test_a_file_whose_only_row_is_torn_has_no_rows(tmp_path: Path) -> None:
    assert TORN in refusal(tmp_path, "a,b\n1,2")
    assert refusal(tmp_path, "a,b").endswith("has a header but no rows")


def test_a_line_that_was_torn_in_the_middle_of_a_file_is_refused_with_its_number(tmp_path: Path) -> None:
    assert "x.csv:3: 3 cells, but the header names 2 columns" in refusal(tmp_path, "a,b\n1,2\n3,45,6\n7,8\n")
    assert "x.csv:3: 1 cells" in refusal(tmp_path, "a,b\n1,2\n3\n")
    assert "x.csv:3: holds NUL bytes" in refusal(tmp_path, b"a,b\n1,2\n\0\0\0\0\n3,4\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty: it has 0 bytes"),
        (b"\n\n  \n", "the recording is empty"),
        (b"a,b\n", "has a header but no rows"),
        (b",,\n1,2,3\n", "names no column"),
        (b"a;b\n1,5;2,5\n", "is delimiter = ';' meant?"),
        (b"a\tb\n1\t2\n", r"is delimiter = '\t' meant?"),
        (b"a,b\n1,5,2,5\n", "are there commas in the numbers? write decimal points"),
        (b"a,b\n1,2,\n", "ends with a delimiter and the header does not"),
        ("a,b\n1,2\n".encode("utf-16"), "text in UTF-16"),
        ("a,b\n1,2\n".encode("utf-16-le"), "NUL bytes; it is no text in UTF-8"),
        ("temp °C,b\n1,2\n".encode("cp1252"), "byte 0xb0 is no text in UTF-8"),
        (b"a,b\n1,\xb02\n", "x.csv:2: byte 0xb0 is no text in UTF-8"),
        (b"PK\x03\x04....", "a zip archive"),
        (b"\x93NUMPY\x01\x00", "a single NumPy array"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"a,b\n" + b"1" * 2_000_000, "x.csv:2: a line of more than 1,048,576 bytes"),
        (b'a,b\n1,"2\n3",4\n', "x.csv:2: unexpected end of data; a quoted cell ends in its line"),
        (b'a,b\n1,"2"3\n', "x.csv:2:"),
        (b"a," + b"n" * 300 + b"\n1,2\n", "a name has 1 to 200 printable characters"),
    ],
)
def test_what_is_no_csv_of_numbers_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes, said: str
) -> None:
    assert said in refusal(tmp_path, content)


def test_no_file_a_folder_and_a_pipe_are_refused_and_none_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    for name, said in (
        ("absent.csv", "cannot be read: No such file"),
        ("gone.csv", "cannot be read: No such file"),
        (".", "is a folder"),
        ("pipe.csv", "is no regular file"),
        ("x.csv\0", "cannot be read: embedded null byte"),
    ):
        with pytest.raises(RecordingError, match=said):
            read_csv(tmp_path / name)


def test_a_link_to_a_recording_is_one(tmp_path: Path) -> None:
    read(tmp_path, "a\n1\n")
    (tmp_path / "link.csv").symlink_to("x.csv")
    assert read_csv(tmp_path / "link.csv").names == ("a",)


@pytest.mark.parametrize("delimiter", ["1", "a", ".", '"', "\n", "é", "-", ",,", ""])
def test_what_parts_no_cells_is_no_delimiter(tmp_path: Path, delimiter: str) -> None:
    assert "parts no cells" in refusal(tmp_path, "a,b\n1,2\n", delimiter=delimiter)


def test_numbers_that_float32_cannot_tell_apart_are_told(tmp_path: Path) -> None:
    found = read(tmp_path, "total,a\n123456789,1\n123456790,0\n123456791,2\n")
    assert len(found.notes) == 1
    assert "column 'total' lies between 123456792 and 123456792, where float32 tells" in found.notes[0]
    assert not read(tmp_path, "a,b\n20.5,1013.1\n21.5,1013.9\n22,1012.1\n").notes


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


@given(
    content=st.one_of(st.binary(max_size=200), st.text('ab,;1.5\n\r"#_-\t\0', max_size=80).map(str.encode))
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_recording_or_are_refused(tmp_path: Path, content: bytes) -> None:
    for delimiter in ",;":
        said = ""
        try:
            found = read(tmp_path, content, delimiter=delimiter)
        except RecordingError as error:
            said = str(error)
        else:
            assert found.rows.shape == (len(found.rows), len(found.names))
            assert not np.isinf(found.rows).any()
        assert "\n" not in said
