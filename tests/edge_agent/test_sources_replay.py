"""Recordings are read exactly, refused with the place of the fault, and played at the speed asked for."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import SourceError
from edge_agent.sources.factory import open_source
from edge_agent.sources.pacing import Pace
from edge_agent.sources.port import Source
from edge_agent.sources.recording import read_csv, read_npz
from edge_agent.sources.settings import ReplaySettings
from models.features import raw_spec

pytestmark = pytest.mark.edge


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def replay(directory: Path, rows: int = 6, **settings: object) -> Source:
    np.savez(directory / "x.npz", a=np.arange(rows * 2, dtype=np.float32).reshape(rows, 2))
    return open_source(ReplaySettings(path=directory / "x.npz", key="a", **settings))  # type: ignore[arg-type]  # settings come from parameters


def test_a_csv_gives_its_columns_in_the_order_asked_for(tmp_path: Path) -> None:
    recording = read_csv(
        write(tmp_path / "x.csv", "t;a;b\n0;1;2\n1;3;4\n"), columns=("b", "a"), delimiter=";"
    )
    assert recording.names == ("b", "a")
    np.testing.assert_array_equal(recording.rows, [[2, 1], [4, 3]])


def test_a_missing_column_is_named_together_with_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "a,b\n1,2\n")
    with pytest.raises(SourceError, match=r"no column 'c'; the header has a, b"):
        read_csv(path, columns=("a", "c"))


@pytest.mark.parametrize("cell", ["12,5x", "broken", "nan", "inf", "1e39", ""])
def test_text_in_a_number_is_refused_with_file_line_and_column(tmp_path: Path, cell: str) -> None:
    path = write(tmp_path / "x.csv", f'a,b\n1,2\n3,"{cell}"\n')
    with pytest.raises(SourceError, match=r"x\.csv:3: column 'b' holds .* not a finite number"):
        read_csv(path)


def test_a_line_with_too_few_cells_is_refused_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"x\.csv:3: 1 cells, but the header names 2 columns"):
        read_csv(write(tmp_path / "x.csv", "a,b\n1,2\n3\n"))


@pytest.mark.parametrize(("text", "says"), [("", "is empty"), ("a,b\n", "no rows")])
def test_an_empty_csv_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        read_csv(write(tmp_path / "x.csv", text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n\xff\xfe,2\n")
    with pytest.raises(SourceError, match="cannot be read"):
        read_csv(path)


def test_a_missing_key_is_named_together_with_those_that_are_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", B1_1=np.ones((2, 2)), feature_names=np.array(["u", "v"]))
    with pytest.raises(SourceError, match=r"no array named 'B9'; source\.key must be one of B1_1"):
        read_npz(tmp_path / "x.npz", key="B9")


def test_nan_in_an_npz_is_refused_with_row_and_column(tmp_path: Path) -> None:
    table = np.ones((4, 2))
    table[2, 1] = np.nan
    np.savez(tmp_path / "x.npz", a=table, feature_names=np.array(["u", "v"]))
    with pytest.raises(SourceError, match=r"'a' row 2, column 'v': nan is not a finite number"):
        read_npz(tmp_path / "x.npz", key="a")


def test_feature_names_of_an_npz_become_the_spec(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones((2, 2)), feature_names=np.array(["u", "v"]))
    source = open_source(ReplaySettings(path=tmp_path / "x.npz", key="a"))
    assert source.spec.names == ("u", "v")
    assert source.spec.kind == "passthrough"


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2\n", b"PK\x03\x04 cut", b"\x80\x04K\x01.", b"\x93NUMPY\x01\x00"]
)
def test_a_file_that_is_no_npz_is_refused_in_our_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(SourceError, match=r"x\.npz is no NPZ archive, .*CSV has a name that ends in \.csv"):
        read_npz(tmp_path / "x.npz", key="a")


def _spoilt(member: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.npy", member)
    return archive.getvalue()


@pytest.mark.parametrize(
    "member", [b"", b"text", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8'", b"\x93NUMPY\x09\x09"]
)
def test_a_damaged_array_is_refused_in_our_words(tmp_path: Path, member: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(_spoilt(member))
    with pytest.raises(SourceError, match=r"'a' is (damaged, or holds objects|no array)"):
        read_npz(tmp_path / "x.npz", key="a")


def test_an_npz_that_would_run_code_is_refused_in_our_words(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([[print]], dtype=object))
    with pytest.raises(SourceError, match=r"'a' is damaged, or holds objects instead of numbers") as caught:
        read_npz(tmp_path / "x.npz", key="a")
    assert "pickle" not in str(caught.value)


def test_a_table_of_text_or_of_another_rank_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", text=np.array([["a"]]), flat=np.ones(3))
    for key in ("text", "flat"):
        with pytest.raises(SourceError, match=r"\(rows, columns\) of numbers"):
            read_npz(tmp_path / "x.npz", key=key)


def test_rows_outside_the_recording_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"rows \[0, 7\] lie outside the recording; it has rows 0 to 6"):
        _open_rows(tmp_path, (0, 7))
    with pytest.raises(SourceError, match="outside"):
        _open_rows(tmp_path, (3, 3))


def _open_rows(directory: Path, rows: tuple[int, int]) -> Source:
    np.savez(directory / "x.npz", a=np.arange(12, dtype=np.float32).reshape(6, 2))
    return open_source(ReplaySettings(path=directory / "x.npz", key="a", rows=rows))


def test_an_absent_file_and_a_foreign_suffix_are_refused(tmp_path: Path) -> None:
    for path in ("gone.csv", "gone.npz", "x.parquet"):
        with pytest.raises(SourceError, match=path):
            open_source(ReplaySettings(path=tmp_path / path, key="a"))


def test_windows_come_when_they_are_due_and_carry_machine_time(tmp_path: Path) -> None:
    source = replay(tmp_path, row_every_s=10.0, speed=60.0)
    first = source.next_window(100.0)
    assert first is not None
    assert (first.index, first.observed_at_s, first.samples.shape) == (0, 0.0, (1, 2))
    assert source.next_due_s == pytest.approx(100.0 + 10 / 60)
    assert source.next_window(100.1) is None
    second = source.next_window(100.17)
    assert second is not None
    assert (second.index, second.observed_at_s) == (1, 10.0)


def drain(source: Source, count: int) -> list[float]:
    windows = [source.next_window(1000.0 * i) for i in range(count)]
    return [float(w.samples[0, 0]) for w in windows if w is not None]


def test_a_loop_starts_over_and_machine_time_runs_on(tmp_path: Path) -> None:
    source = replay(tmp_path, rows=3)
    windows = [source.next_window(1000.0 * i) for i in range(5)]
    assert [float(w.samples[0, 0]) for w in windows] == [0, 2, 4, 0, 2]
    assert [w.observed_at_s for w in windows] == [0, 10, 20, 30, 40]


def test_without_loop_the_recording_ends_for_good(tmp_path: Path) -> None:
    source = replay(tmp_path, rows=3, loop=False)
    assert drain(source, 6) == [0, 2, 4]
    assert source.next_due_s == math.inf


def test_several_rows_make_a_raw_window_and_windows_follow_without_a_gap(tmp_path: Path) -> None:
    source = replay(tmp_path, rows=7, window_rows=3, row_every_s=0.5, loop=False)
    assert source.spec == raw_spec(("f0", "f1"), 3, sample_rate_hz=2.0)
    windows = [source.next_window(1000.0 * i) for i in range(3)]
    assert [None if w is None else w.samples[:, 0].tolist() for w in windows] == [[0, 2, 4], [6, 8, 10], None]
    assert [w.observed_at_s for w in windows if w is not None] == [0, 1.5]
    assert [w.streaming_bytes for w in windows if w is not None] == [24, 24]


def test_overlapping_windows_come_as_often_as_they_step_and_count_each_sample_once(tmp_path: Path) -> None:
    source = replay(tmp_path, rows=5, window_rows=3, step_rows=2, row_every_s=1.0)
    windows = [source.next_window(1000.0 * i) for i in range(3)]
    # The third does not reach over the end of the recording to its beginning.
    assert [w.samples[:, 0].tolist() for w in windows if w is not None] == [[0, 2, 4], [4, 6, 8], [0, 2, 4]]
    assert [w.observed_at_s for w in windows if w is not None] == [0, 2, 4]
    assert [w.streaming_bytes for w in windows if w is not None] == [16, 16, 16]


def test_a_recording_shorter_than_a_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"rows \[0, 6\] are 6, too few for one window of 8"):
        replay(tmp_path, window_rows=8)


def test_the_control_file_makes_it_jump_at_once(tmp_path: Path) -> None:
    source = replay(tmp_path, rows=6, control_file=tmp_path / "c.json")
    assert drain(source, 2) == [0, 2]
    write(tmp_path / "c.json", '{"rows": [4, 6], "loop": true}')
    assert [float(source.next_window(1e6 + 1000 * i).samples[0, 0]) for i in range(3)] == [8, 10, 8]


@pytest.mark.parametrize(
    "content", ['{"rows": [4, 60]}', '{"rows": "x"}', "{", '{"row": [1, 2]}', '{"rows": [5, 2]}', "\udcff"]
)
def test_a_bad_order_is_logged_once_and_the_replay_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    source = replay(tmp_path, rows=6, control_file=tmp_path / "c.json")
    (tmp_path / "c.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert drain(source, 3) == [0, 2, 4]
    assert len(caplog.records) == 1
    assert "refused" in caplog.text


def test_a_window_belongs_to_its_receiver(tmp_path: Path) -> None:
    source = replay(tmp_path, rows=2)
    source.next_window(0.0).samples[:] = 99
    assert drain(source, 3)[1] == 0


def test_a_reader_that_fell_far_behind_gets_a_new_schedule() -> None:
    pace = Pace(period_s=10.0, speed=10.0)
    assert pace.take(0.0)
    assert sum(pace.take(3.0) for _ in range(10)) == 3
    assert sum(pace.take(1000.0) for _ in range(10)) == 1


@pytest.mark.parametrize(("period_s", "speed"), [(0, 1), (1, 0), (-1, 1), (math.inf, 1), (1, math.nan)])
def test_a_pace_that_makes_no_sense_is_refused(period_s: float, speed: float) -> None:
    with pytest.raises(ValueError, match="pace needs"):
        Pace(period_s=period_s, speed=speed)
