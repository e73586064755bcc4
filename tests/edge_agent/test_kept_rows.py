"""Which rows may be learnt: not those of alarms and drift, until a person calls them normal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.kept_rows import KeptRows, RowStores, open_stores
from edge_agent.settings import BufferSettings, StatePaths
from models.detection.profile import Periods
from models.features import passthrough_spec
from models.thresholds import AlarmState, Opened

pytestmark = pytest.mark.edge
SPEC = passthrough_spec(("a", "b"))


class World:
    """Rows are numbered; `learnt` and `waiting` are what lies in the two stores."""

    def __init__(self, root: Path, accepting_until_s: float = 0.0) -> None:
        self.root = root
        self.stores: RowStores = open_stores(StatePaths(root), SPEC, BufferSettings())
        self.rows = KeptRows(self.stores, depth=3, accepting_until_s=accepting_until_s)
        self.at = 0

    def keep(self, windows: str) -> None:
        """``.`` calm, ``o`` over the threshold, ``A`` in an alarm or in drift."""
        for window in windows:
            self.at += 1
            row = np.full(2, self.at, np.float32)
            self.rows.keep(
                (row, float(self.at), 1000.0 + self.at), is_over=window == "o", is_suspect=window == "A"
            )

    @property
    def learnt(self) -> list[int]:
        return self.stores.buffer.newest().machine_s.astype(int).tolist()

    @property
    def waiting(self) -> list[int]:
        return self.stores.set_aside.newest().machine_s.astype(int).tolist()

    def restart(self, accepting_until_s: float = 0.0) -> World:
        self.stores.close()
        return World(self.root, accepting_until_s)


def test_calm_windows_may_be_learnt_at_once_and_in_order(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.keep("....")
    assert (world.learnt, world.waiting) == ([1, 2, 3, 4], [])


def test_an_alarm_takes_the_windows_that_built_it_up_with_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.keep("..o.AAA..")
    assert world.learnt == [1, 2, 8, 9]
    assert world.waiting == [3, 4, 5, 6, 7]
    assert world.rows.set_aside == 5


def test_one_window_over_that_builds_nothing_up_is_learnt_after_all_and_in_order(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.keep(".o..")
    assert world.learnt == [1]
    world.keep("...")
    assert world.learnt == list(range(1, 8))
    world.keep("o.o.o.o.o....")
    assert world.learnt == list(range(1, 21))
    assert world.waiting == []


def test_an_acceptance_moves_what_was_set_aside_until_then_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.keep("..AAAA")
    assert world.rows.accept(1004.0) == 2
    assert (world.learnt, world.waiting) == ([1, 2, 3, 4], [5, 6])
    assert world.rows.accept(1004.0) == 0
    world.keep(".A")
    assert (world.learnt, world.waiting) == ([1, 2, 3, 4, 7], [5, 6, 8])


@pytest.mark.parametrize("moment", ["keep_only", "append", "sync"])
def test_an_acceptance_cut_short_by_a_power_failure_is_finished_and_no_row_is_lost_or_comes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    world = World(tmp_path)
    world.keep(".AAA")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(world.stores.set_aside, moment, die)
    with pytest.raises(KeyboardInterrupt):
        world.rows.accept(1003.0)
    assert world.restart().waiting[-1] == 4, "what was not accepted waits on"
    again = world.restart(accepting_until_s=1003.0)
    assert (again.learnt, again.waiting) == ([1, 2, 3], [4])


def test_a_disk_that_refuses_leaves_what_waits_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    world.keep("AA")
    world.rows.flush()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.stores.buffer, "_write", refuse)
    assert world.rows.accept(2000.0) == 0
    assert world.waiting == [1, 2]
    assert "rows_not_accepted" in caplog.text


def test_another_scale_forgets_the_rows_of_the_one_before(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.keep("..Ao")
    world.rows.restart([(np.zeros(2, np.float32), 9.0, 1.0)])
    assert (world.learnt, world.waiting) == ([9], [])


def test_what_waits_is_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.stores = open_stores(StatePaths(tmp_path), SPEC, BufferSettings(set_aside_bytes=64 * 1024))
    world.rows = KeptRows(world.stores, depth=3, accepting_until_s=0.0)
    world.keep("A" * 5000)
    assert 1500 < world.rows.set_aside < 64 * 1024 // 28
    assert world.waiting[-1] == 5000


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4))
def test_every_row_is_in_one_store_in_order_and_none_of_an_alarm_is_learnt(
    tmp_path_factory: pytest.TempPathFactory, overs: list[bool], opens_after: int
) -> None:
    world = World(tmp_path_factory.mktemp("rows"))
    world.rows = KeptRows(world.stores, depth=opens_after + 1, accepting_until_s=0.0)
    alarm = AlarmState(opens_after_windows=opens_after, closes_after_windows=3)
    suspect: set[int] = set()
    for at, is_over in enumerate(overs):
        change = alarm.update(2.0 if is_over else 0.1, 1.0)
        is_suspect = alarm.is_open or change is not None
        if isinstance(change, Opened):
            suspect |= {i for i in range(max(0, at - opens_after), at) if overs[i]}
        if is_suspect:
            suspect.add(at)
        row = np.zeros(2, np.float32)
        world.rows.keep((row, float(at), float(at)), is_over=is_over, is_suspect=is_suspect)
    held = [int(row[1]) for row, _ in world.rows._held]
    assert sorted(world.learnt + world.waiting + held) == list(range(len(overs)))
    assert world.learnt == sorted(world.learnt)
    assert world.waiting == sorted(world.waiting)
    assert suspect <= set(world.waiting)


def test_an_acceptance_that_dies_before_it_removes_anything_leaves_each_waiting_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.keep(".AAA")
    world.rows.flush()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            world.rows.accept(1003.0)
    assert world.waiting == [2, 3, 4, 4], "written again, and nothing removed"
    again = world.restart(accepting_until_s=1003.0)
    assert (again.learnt, again.waiting) == ([1, 2, 3], [4])


def test_cycles_are_summed_over_all_rows_of_this_clock_and_some_from_all_over_are_given_back(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.keep("." * 3000)
    world.stores.buffer.flush()
    cycles = world.rows.cycles((100.0, 1000.0), 0.0, most=100)
    of_all = world.stores.buffer.newest()
    for periods in cycles.periods:
        naive = Periods(periods.period_s, 3000.0, 2)
        naive.add(of_all.rows, of_all.machine_s)
        assert periods.whole == naive.whole
        np.testing.assert_allclose(periods.courses(), naive.courses())
    assert 50 <= len(cycles.rows) <= 130
    assert (np.diff(cycles.rows.machine_s) > 0).all()
    assert cycles.rows.machine_s[0] < 200
    assert world.rows.span_s == 2999
    later = world.rows.cycles((100.0,), 1000.0 + 2500.0, most=100)  # the wall's clock
    assert later.periods[0].whole == [0, 1, 2, 3, 4]
    assert later.rows.machine_s.min() == 2500


def test_rows_that_were_set_aside_and_accepted_late_are_of_the_same_clock(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.keep("." * 400 + "A" * 100 + "." * 500)
    assert world.rows.accept(5000.0) == 100
    (periods,) = world.rows.cycles((100.0,), 0.0, most=1000).periods
    assert periods.whole == list(range(10))
    assert World(tmp_path / "empty").rows.span_s == -np.inf
