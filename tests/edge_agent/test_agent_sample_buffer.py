"""The sample buffer: bounded, crash-safe, readable while it is written."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from edge_agent.sample_buffer import SampleBuffer, fingerprint_of, read_rows
from models.features import passthrough_spec
from runtime.errors import StorageError

pytestmark = pytest.mark.edge

COLUMNS = passthrough_spec(tuple("abcd"))
WIDER = passthrough_spec(tuple("abcdef"))
SWAPPED = passthrough_spec(tuple("abdc"))
HEAD_BYTES, RECORD_BYTES = 48, 4 + 8 + 8 + 4 * 4


def _fill(buffer: SampleBuffer, start: int, stop: int, features: int = 4) -> None:
    for i in range(start, stop):
        buffer.append(np.full(features, i, np.float32), float(i), 1e9 + i)


def test_rows_come_back_in_order_with_their_machine_time(tmp_path: Path) -> None:
    buffer = SampleBuffer(tmp_path / "b", COLUMNS, 1 << 20)
    _fill(buffer, 0, 100)
    buffer.flush()
    read = read_rows(tmp_path / "b", COLUMNS)
    assert read.machine_s.tolist() == list(range(100))
    assert (read.rows == np.arange(100, dtype=np.float32)[:, None]).all()
    assert read.wall_s.tolist() == [1e9 + i for i in range(100)]
    assert len(buffer) == len(read) == 100
    assert read_rows(tmp_path / "b", COLUMNS, newest=7).machine_s.tolist() == list(range(93, 100))


def test_pending_rows_are_counted_and_given_to_the_newest(tmp_path: Path) -> None:
    buffer = SampleBuffer(tmp_path / "b", COLUMNS, 1 << 20)
    _fill(buffer, 0, 5)
    assert len(buffer) == 5
    assert buffer.newest(2).machine_s.tolist() == [3.0, 4.0]


def test_the_oldest_rows_go_when_the_bound_is_reached(tmp_path: Path) -> None:
    bound = 64 * 1024
    buffer = SampleBuffer(tmp_path / "b", COLUMNS, bound)
    _fill(buffer, 0, 10_000)
    buffer.flush()
    size = sum(p.stat().st_size for p in (tmp_path / "b").iterdir())
    read = read_rows(tmp_path / "b", COLUMNS)
    assert size <= bound + 16 * HEAD_BYTES
    assert read.machine_s[-1] == 9999
    assert np.all(np.diff(read.machine_s) == 1)
    assert len(read) == len(buffer) > 0.85 * bound / RECORD_BYTES


@pytest.mark.parametrize("cut", [1, 5, RECORD_BYTES - 1])
def test_a_torn_last_record_is_dropped_and_writing_goes_on(tmp_path: Path, cut: int) -> None:
    buffer = SampleBuffer(tmp_path / "b", COLUMNS, 1 << 20)
    _fill(buffer, 0, 10)
    buffer.flush()
    (segment,) = (tmp_path / "b").iterdir()
    segment.write_bytes(segment.read_bytes()[:-cut])
    again = SampleBuffer(tmp_path / "b", COLUMNS, 1 << 20)
    assert len(again) == 9
    _fill(again, 10, 12)
    again.close()
    assert read_rows(tmp_path / "b", COLUMNS).machine_s.tolist() == [*range(9), 10, 11]


def test_a_flipped_bit_ends_a_segment_at_the_record_before(tmp_path: Path) -> None:
    buffer = SampleBuffer(tmp_path / "b", COLUMNS, 1 << 20)
    _fill(buffer, 0, 10)
    buffer.flush()
    (segment,) = (tmp_path / "b").iterdir()
    content = bytearray(segment.read_bytes())
    content[HEAD_BYTES + RECORD_BYTES * 6 + 20] ^= 1
    segment.write_bytes(bytes(content))
    assert read_rows(tmp_path / "b", COLUMNS).machine_s.tolist() == list(range(6))


def test_rows_of_another_width_are_removed_by_the_writer_and_skipped_by_a_reader(tmp_path: Path) -> None:
    old = SampleBuffer(tmp_path / "b", COLUMNS, 1 << 20)
    _fill(old, 0, 10)
    old.close()
    assert len(read_rows(tmp_path / "b", WIDER)) == 0
    assert len(SampleBuffer(tmp_path / "b", WIDER, 1 << 20)) == 0
    assert list((tmp_path / "b").iterdir()) == []


def test_rows_of_swapped_columns_are_no_rows_though_their_width_is_the_same(tmp_path: Path) -> None:
    old = SampleBuffer(tmp_path / "b", COLUMNS, 1 << 20)
    _fill(old, 0, 10)
    old.close()
    assert fingerprint_of(tmp_path / "b") == COLUMNS.fingerprint
    assert len(read_rows(tmp_path / "b", SWAPPED)) == 0
    assert len(SampleBuffer(tmp_path / "b", SWAPPED, 1 << 20)) == 0


def test_rows_of_an_older_build_are_read_where_their_width_fits(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    head = b"FEDGEROW" + (4).to_bytes(4, "little")
    body = struct.pack("<d4f", 7.0, 1, 2, 3, 4)
    record = zlib.crc32(body).to_bytes(4, "little") + body
    content = head + zlib.crc32(head).to_bytes(4, "little") + 3 * record + b"torn"
    (tmp_path / "b" / "rows-00000003.seg").write_bytes(content)
    assert fingerprint_of(tmp_path / "b") == ""
    assert len(read_rows(tmp_path / "b", WIDER)) == 0
    buffer = SampleBuffer(tmp_path / "b", COLUMNS, 1 << 20)
    _fill(buffer, 0, 1)
    found = buffer.newest()
    assert found.machine_s.tolist() == [7, 7, 7, 0]
    assert found.wall_s.tolist() == [0, 0, 0, 1e9]
    assert found.rows[0].tolist() == [1, 2, 3, 4]


def test_what_was_synced_is_on_disk_and_asking_again_is_free(tmp_path: Path) -> None:
    buffer = SampleBuffer(tmp_path / "b", COLUMNS, 1 << 20)
    buffer.sync()
    _fill(buffer, 0, 3)
    buffer.sync()
    assert len(read_rows(tmp_path / "b", COLUMNS)) == 3
    for segment in (tmp_path / "b").iterdir():
        segment.unlink()
    with pytest.raises(StorageError, match="survive a power cut"):
        buffer.sync()


def test_a_folder_without_rows_is_about_no_columns(tmp_path: Path) -> None:
    assert fingerprint_of(tmp_path / "missing") is None
    (tmp_path / "rows-00000001.seg").write_bytes(b"not a segment")
    assert fingerprint_of(tmp_path) is None


def test_garbage_in_the_directory_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "rows-00000001.seg").write_bytes(b"not a segment")
    (tmp_path / "rows-x.seg").write_bytes(b"")
    assert len(read_rows(tmp_path, COLUMNS)) == 0
    assert len(read_rows(tmp_path / "missing", COLUMNS)) == 0


def test_a_row_of_another_shape_is_refused(tmp_path: Path) -> None:
    buffer = SampleBuffer(tmp_path / "b", COLUMNS, 1 << 20)
    with pytest.raises(ValueError, match=r"\(4,\), got \(3,\)"):
        buffer.append(np.zeros(3, np.float32), 0.0, 0.0)


def test_a_disk_that_refuses_is_told_and_older_rows_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = SampleBuffer(tmp_path / "b", COLUMNS, 1 << 20)
    _fill(buffer, 0, 3)
    buffer.flush()
    _fill(buffer, 3, 5)
    with monkeypatch.context() as patch:
        patch.setattr("os.write", _no_space)
        with pytest.raises(StorageError, match=r"No space left.*2 rows dropped"):
            buffer.flush()
    _fill(buffer, 5, 6)
    buffer.flush()
    assert read_rows(tmp_path / "b", COLUMNS).machine_s.tolist() == [0, 1, 2, 5]


def test_clearing_forgets_everything(tmp_path: Path) -> None:
    buffer = SampleBuffer(tmp_path / "b", COLUMNS, 1 << 20)
    _fill(buffer, 0, 100)
    buffer.clear()
    assert len(buffer) == 0
    _fill(buffer, 0, 1)
    assert len(buffer.newest(10)) == 1


def _no_space(*_: object) -> int:
    raise OSError(28, "No space left on device")
