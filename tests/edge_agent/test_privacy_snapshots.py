"""The windows that questions are answered from: a durable copy that outlives the buffer, and is renewed by new windows alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from privacy_world import CONTENT, DAY_S, Owned, asked, devices

from edge_agent.errors import NotReadyError, PrivacyRefusedError
from edge_agent.privacy import snapshots
from edge_agent.privacy.limits import OwnerLimits
from edge_agent.privacy.snapshots import Content
from edge_agent.sample_buffer import BufferedRows
from protocol.questions import FIT, SCALE
from runtime.errors import StorageError

pytestmark = pytest.mark.edge


def device(folder: Path, *, windows: int = 100) -> Owned:
    owned = Owned(folder)
    owned.watch(windows)
    return owned


def last_of(rows: BufferedRows) -> int:
    """Which window is the newest."""
    return int(rows.machine_s[-1])


def rows_at(times: list[int], value: float = 1.0) -> BufferedRows:
    machine_s = np.array(times, np.float64)
    return BufferedRows(
        rows=np.full((len(times), 2), value, np.float32), machine_s=machine_s, wall_s=1.8e9 + machine_s
    )


def test_a_learner_answers_from_the_same_windows_as_the_one_before_it_while_the_buffer_goes_on(
    tmp_path: Path,
) -> None:
    d = device(tmp_path)
    first = d.snapshot()
    d.watch(50)
    d.open()
    again = d.snapshot()
    assert last_of(d.buffered()) == 149
    for name in ("rows", "machine_s", "wall_s"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert again.rows.dtype == np.float32


def test_a_buffer_that_shrank_takes_nothing_from_the_snapshot(tmp_path: Path) -> None:
    d = device(tmp_path)
    d.snapshot()
    d.clock.pass_s(2 * DAY_S)
    d.first = 98
    assert len(d.buffered()) == 2
    assert len(d.snapshot()) == 100


def test_fewer_windows_than_the_owner_wants_make_no_snapshot(tmp_path: Path) -> None:
    d = device(tmp_path, windows=31)
    with pytest.raises(NotReadyError, match=r"31 windows are buffered; this device answers from 32 or more"):
        d.snapshot()
    d.watch(1)
    assert len(d.snapshot()) == 32


def test_rows_that_are_moved_kept_twice_or_scaled_anew_are_not_new_windows(tmp_path: Path) -> None:
    d = device(tmp_path)
    times = list(range(100))
    d.account.take_snapshot(CONTENT, rows_at(times))
    d.answer(asked(SCALE))
    d.clock.pass_s(DAY_S)
    for same in (times + times, times[50:] + times[:50], times[:20] + [-1, -2] * 20 + times[20:]):
        d.account.take_snapshot(CONTENT, rows_at(same))
        with pytest.raises(PrivacyRefusedError, match="revealed 1 times"):
            d.account.check(asked(SCALE))
    scaled = Content(columns=CONTENT.columns, scale="another")
    assert float(d.account.take_snapshot(scaled, rows_at(times, 7.0)).rows[0, 0]) == 7.0
    with pytest.raises(PrivacyRefusedError, match="revealed 1 times"):
        d.account.check(asked(SCALE))


def test_windows_come_back_from_before_the_snapshot_and_are_not_new(tmp_path: Path) -> None:
    d = device(tmp_path)
    d.account.take_snapshot(CONTENT, rows_at(list(range(100, 200))))
    d.answer(asked(SCALE))
    d.clock.pass_s(DAY_S)
    d.account.take_snapshot(CONTENT, rows_at(list(range(20, 150))))
    with pytest.raises(PrivacyRefusedError, match="revealed 1 times"):
        d.account.check(asked(SCALE))


@pytest.mark.parametrize("harm", ["gone", "cut", "changed"])
def test_a_copy_that_the_disk_lost_is_made_again_without_a_new_allowance(tmp_path: Path, harm: str) -> None:
    d = device(tmp_path)
    d.snapshot()
    d.answer(asked(SCALE))
    d.answer(asked(FIT), "abcd")
    (copy,) = (tmp_path / "snapshot").iterdir()
    content = copy.read_bytes()
    if harm == "gone":
        copy.unlink()
    else:
        copy.write_bytes(content[:-8] if harm == "cut" else content[:-1] + b"x")
    d.watch(500)
    d.open()
    assert last_of(d.snapshot()) == 599
    with pytest.raises(PrivacyRefusedError, match="revealed 1 times"):
        d.account.check(asked(SCALE))
    with pytest.raises(PrivacyRefusedError, match="a, b, c, d only"):
        d.account.check_cohort(asked(FIT), devices("aefg"))


def test_a_disk_that_takes_no_new_copy_leaves_the_old_one_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = device(tmp_path)
    d.snapshot()
    d.answer(asked(SCALE))
    d.watch(64)
    d.clock.pass_s(DAY_S)
    with monkeypatch.context() as disk:

        def refuse(path: Path, *_: object, **__: object) -> None:
            raise StorageError(f"cannot write {path}: No space left on device")

        disk.setattr(snapshots, "write_durably", refuse)
        assert last_of(d.snapshot()) == 99
        with pytest.raises(PrivacyRefusedError, match="revealed 1 times"):
            d.account.check(asked(SCALE))
    assert last_of(d.snapshot()) == 163
    d.answer(asked(SCALE))


def test_a_disk_that_takes_no_first_copy_is_told(tmp_path: Path) -> None:
    d = device(tmp_path)
    (tmp_path / "snapshot").write_text("a file where a folder belongs")
    with pytest.raises(StorageError, match="snapshot"):
        d.snapshot()
    assert d.account.spending().participations == 0


def test_one_copy_lies_on_the_disk_and_nobody_else_reads_it(tmp_path: Path) -> None:
    d = device(tmp_path)
    for _ in range(3):
        d.snapshot()
        d.watch(32)
        d.clock.pass_s(DAY_S)
    (tmp_path / "snapshot" / ".snapshot-ab.rows.12.tmp").write_bytes(b"left by a kill")
    d.snapshot()
    (copy,) = (tmp_path / "snapshot").iterdir()
    assert copy.stat().st_mode & 0o077 == 0


def test_two_learners_that_renew_at_once_answer_from_one_copy(tmp_path: Path) -> None:
    d = device(tmp_path)
    first, second = d.account, d.open()
    one = first.take_snapshot(CONTENT, rows_at(list(range(64))))
    other = second.take_snapshot(CONTENT, rows_at(list(range(96))))
    assert last_of(one) == last_of(other) == 63
    for account in (first, second):
        account.check(asked(SCALE))


def test_as_many_new_windows_as_the_owner_says(tmp_path: Path) -> None:
    d = Owned(tmp_path, OwnerLimits(snapshot_windows=100, snapshot_every_s=60.0))
    d.watch(100)
    d.snapshot()
    for windows, newest in ((99, 99), (1, 199)):
        d.watch(windows)
        d.clock.pass_s(60.0)
        assert last_of(d.snapshot()) == newest
