"""Lines of text: CSV or JSON from a pipe, a serial port or standard input; what is no row is passed over and told."""

from __future__ import annotations

import itertools
import math
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import wait_until

from edge_agent.errors import SourceError
from edge_agent.sources.lines import LONGEST_LINE, LineReader, LineSource
from edge_agent.sources.live_settings import LineSettings
from edge_agent.sources.port import SourceWindow

pytestmark = pytest.mark.edge
COLUMNS = ("Pressure", "Flow")
SETTINGS = LineSettings(columns=COLUMNS)


def rows_of(text: str | bytes, settings: LineSettings = SETTINGS) -> list[list[float]]:
    data = text.encode() if isinstance(text, str) else text
    return [[float(value) for value in row] for row in LineReader(settings).take(data)]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1.5,7\n2.5,8\n", [[1.5, 7], [2.5, 8]]),
        ("Flow,Pressure\n7,1.5\n", [[1.5, 7]]),
        ("time,Pressure,Flow\n2026-01-01,1.5,7\n", [[1.5, 7]]),
        ('{"Flow": 7, "Pressure": 1.5, "more": [1]}\n', [[1.5, 7]]),
        ("# said\r\n1.5,7\r\n\r\n", [[1.5, 7]]),
        ("1.5,7\r2.5,8\r", [[1.5, 7], [2.5, 8]]),
        ("1.5,7\n2.5", [[1.5, 7]]),
        ("\ufeff1.5,7\n", [[1.5, 7]]),
    ],
)
def test_a_line_is_a_row(text: str, rows: list[list[float]]) -> None:
    assert rows_of(text) == rows


def test_a_decimal_comma_is_read_where_the_settings_say_so() -> None:
    settings = LineSettings(columns=COLUMNS, delimiter=";", decimal_comma=True)
    assert rows_of("1,5;7\n", settings) == [[1.5, 7]]
    assert rows_of("1,5;7\n", LineSettings(columns=COLUMNS, delimiter=";")) == [
        [pytest.approx(math.nan, nan_ok=True), 7]
    ]


@pytest.mark.parametrize("cell", ["", "NaN", "inf", "1e999", "1_000", "x", "9" * 1000, "-"])
def test_a_cell_that_is_no_number_is_missing(cell: str) -> None:
    ((pressure, flow),) = rows_of(f"{cell},7\n")
    assert math.isnan(pressure)
    assert flow == 7


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("1,2,3", "a line of 3 cells where 2 are expected"),
        ("x,y", "a line without a number"),
        ('{"Pressure": ', "a line that begins like JSON and is none"),
        ('{"other": 1}', "a JSON object with none of the columns"),
        ("{" * 50_000, "a line that begins like JSON and is none"),
        ("1" * 100_000, "a line of 100,000 bytes"),
        ("1" * 3_000_000, "a line of"),
    ],
)
def test_a_line_that_is_no_row_is_passed_over_and_told(line: str, why: str) -> None:
    reader = LineReader(SETTINGS)
    assert len(reader.take(f"1,2\n{line}\n3,4\n".encode())) == 2
    assert reader.passed_over == 1
    assert reader.why.startswith(why)


def test_a_line_without_end_holds_no_memory() -> None:
    reader = LineReader(SETTINGS)
    for _ in range(100):
        assert reader.take(b"1" * 60_000) == []
        assert len(reader._rest) <= LONGEST_LINE
    assert [row.tolist() for row in reader.take(b"\n3,4\n")] == [[3, 4]]
    assert reader.passed_over == 1


def test_a_first_line_that_lacks_a_column_is_refused_by_its_name() -> None:
    with pytest.raises(SourceError, match="names Pressure, Level, and lacks Flow"):
        rows_of("Pressure,Level\n1,2\n")


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=4))
def test_whatever_comes_in_whatever_pieces_gives_the_same_rows_or_a_refusal(
    data: bytes, cuts: list[int]
) -> None:
    data = data.replace(
        b"\r", b""
    )  # the pieces may part CR from LF, which makes an empty line more and no row more
    try:
        whole = LineReader(SETTINGS).take(data)
    except SourceError:
        return
    reader, edges, rows = (
        LineReader(SETTINGS),
        sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)}),
        [],
    )
    for first, end in itertools.pairwise(edges):
        rows += reader.take(data[first:end])
    np.testing.assert_array_equal(rows, whole)


def window_of(source: LineSource) -> SourceWindow:
    found: list[SourceWindow] = []

    def asked() -> bool:
        window = source.next_window(1.0)
        found.extend([] if window is None else [window])
        return bool(found)

    wait_until(asked, "a window")
    return found[0]


@pytest.fixture
def serial_port() -> Iterator[tuple[int, str]]:
    ours, theirs = pty.openpty()
    yield ours, os.ttyname(theirs)
    for descriptor in (ours, theirs):
        os.close(descriptor)


def test_a_serial_port_is_read_as_it_is(serial_port: tuple[int, str]) -> None:
    line, path = serial_port
    source = LineSource(LineSettings(input=path, columns=COLUMNS, baud=115_200, window_rows=2, every_s=0.5))
    assert source.next_window(0.0) is None  # opens it
    os.write(line, b"1.5,7\r\n\x03\x04\x1a")  # bytes that a terminal would take for keys
    os.write(line, b"\r\n2.5,8\r\n")
    window = window_of(source)
    assert window.samples.tolist() == [[1.5, 7], [2.5, 8]]
    assert source.spec.sample_rate_hz == 2
    source.close()


def test_a_pipe_whose_writer_went_away_is_read_again_when_another_comes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    source = LineSource(LineSettings(input=str(tmp_path / "pipe"), columns=COLUMNS))
    for value in (1.0, 2.0):
        assert source.next_window(0.0) is None
        # The other end opens only while ours is open.
        descriptor = wait_until(lambda: opened(tmp_path / "pipe", source), "the pipe to be open")
        os.write(descriptor, f"Flow,Pressure\n7,{value}\n".encode())
        os.close(descriptor)
        assert window_of(source).samples.tolist() == [[value, 7]]
    source.close()


def opened(path: Path, source: LineSource) -> int | None:
    source.next_window(0.0)
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


@pytest.mark.parametrize(
    ("make", "told"),
    [(lambda path: None, "No such file"), (Path.touch, "neither a serial port nor a named pipe")],
)
def test_what_is_no_port_is_refused(tmp_path: Path, make: object, told: str) -> None:
    assert callable(make)
    make(tmp_path / "port")
    with pytest.raises(SourceError, match=told):
        LineSource(LineSettings(input=str(tmp_path / "port"), columns=COLUMNS)).next_window(0.0)


def test_standard_input_is_read_to_its_end_and_is_then_over() -> None:
    program = (
        "import sys\nfrom edge_agent.sources.lines import LineSource\n"
        "from edge_agent.sources.live_settings import LineSettings\n"
        "source, seen = LineSource(LineSettings(columns=('Pressure', 'Flow'))), 0\n"
        "while source.next_due_s < float('inf'):\n"
        "    window = source.next_window(0.0)\n    seen += window is not None\n"
        "print(seen)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input="1,2\n3,4\n5,6", capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3"]
