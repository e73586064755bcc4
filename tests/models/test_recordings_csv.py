"""CSV by strangers: what its cells say is what is read, and a cell that is no number is refused with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from csv_world import read, refusal, rows

pytestmark = pytest.mark.edge

NAN = float("nan")


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


@pytest.mark.parametrize("delimiter", ["1", "a", ".", '"', "\n", "é", "-", ",,", ""])
def test_what_parts_no_cells_is_no_delimiter(tmp_path: Path, delimiter: str) -> None:
    assert "parts no cells" in refusal(tmp_path, "a,b\n1,2\n", delimiter=delimiter)


def test_numbers_that_float32_cannot_tell_apart_are_told(tmp_path: Path) -> None:
    found = read(tmp_path, "total,a\n123456789,1\n123456790,0\n123456791,2\n")
    assert len(found.notes) == 1
    assert "column 'total' lies between 123456792 and 123456792, where float32 tells" in found.notes[0]
    assert not read(tmp_path, "a,b\n20.5,1013.1\n21.5,1013.9\n22,1012.1\n").notes
