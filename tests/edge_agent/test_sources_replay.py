"""Recordings are played at the speed asked for; how their files are read: tests/models/test_recordings_*.py."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.errors import SourceError
from edge_agent.sources.factory import open_source
from edge_agent.sources.pacing import Pace
from edge_agent.sources.port import Source
from edge_agent.sources.replay import ReplaySource
from edge_agent.sources.settings import ReplaySettings
from models.features import raw_spec

pytestmark = pytest.mark.edge


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def replay(directory: Path, rows: int = 6, **settings: object) -> Source:
    np.savez(directory / "x.npz", a=np.arange(rows * 2, dtype=np.float32).reshape(rows, 2))
    return open_source(ReplaySettings(path=directory / "x.npz", key="a", **settings))  # type: ignore[arg-type]  # settings come from parameters


def test_feature_names_of_an_npz_become_the_spec(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones((2, 2)), feature_names=np.array(["u", "v"]))
    source = open_source(ReplaySettings(path=tmp_path / "x.npz", key="a"))
    assert source.spec.names == ("u", "v")
    assert source.spec.kind == "passthrough"


def test_columns_of_either_kind_of_file_are_picked_and_ordered_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([[1.0, 2.0, 3.0]]), feature_names=np.array(["u", "v", "w"]))
    write(tmp_path / "x.csv", "u;v;w\n1;2;3\n")
    for path in ("x.npz", "x.csv"):
        settings = ReplaySettings(path=tmp_path / path, key="a", columns=("w", "u"), delimiter=";")
        source = open_source(settings)
        assert source.spec.names == ("w", "u")
        window = source.next_window(0.0)
        assert window is not None
        np.testing.assert_array_equal(window.samples, [[3, 1]])


def test_a_missing_value_reaches_the_window_as_nan(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", "u,v\n1,\n3,4\n")
    window = open_source(ReplaySettings(path=tmp_path / "x.csv")).next_window(0.0)
    assert window is not None
    np.testing.assert_array_equal(window.samples, np.array([[1, np.nan]], np.float32))


def test_what_was_read_and_what_was_not_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "x.csv", "time,u,v\n10:00:00,1,2\n10:00:01,3,4\n10:00:02,5")
    with caplog.at_level("INFO"):
        source = open_source(ReplaySettings(path=tmp_path / "x.csv"))
    assert isinstance(source, ReplaySource)
    read, clock, torn = source.summary
    assert read.endswith("x.csv: 2 rows of 2 columns: u, v")
    assert "column 'time' is a clock" in clock
    assert "'10:00:02,5' has no end of line" in torn
    assert [record.message for record in caplog.records] == [
        f"recording_read {line}" for line in source.summary
    ]


@given(content=st.binary(max_size=120), suffix=st.sampled_from([".csv", ".npz"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_source_or_are_refused_in_one_line(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    (tmp_path / f"x{suffix}").write_bytes(content)
    said = ""
    try:
        source = open_source(ReplaySettings(path=tmp_path / f"x{suffix}", key="a"))
    except SourceError as error:
        said = str(error)
    else:
        assert source.next_window(0.0) is not None
    assert "\n" not in said


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
