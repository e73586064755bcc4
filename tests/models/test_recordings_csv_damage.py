"""What is no CSV, or no whole one: torn lines, other files, any bytes at all, each refused in one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from csv_world import read, refusal, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import RecordingError
from models.recordings.csv import read_csv

pytestmark = pytest.mark.edge

TORN = "has no end of line, as if the recorder had lost its power while it wrote"


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
