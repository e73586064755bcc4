"""The end of an anomaly is told once, with its totals, whatever happens between its opening and it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from agent_loop_world import World, world
from agent_world import faulty, healthy
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.episodes import Episodes, RememberedEpisodes
from edge_agent.settings import DetectionSettings
from edge_agent.sources.port import SourceWindow
from models.thresholds import Opened
from protocol.messages.envelope import decode
from protocol.messages.kinds import ClosedReason
from protocol.messages.payloads import AnomalyClosed, AnomalyEvent

__all__ = ["world"]  # the fixture
pytestmark = pytest.mark.edge
CALM = healthy(30, 2) * np.float32(0.3)


class KilledError(BaseException):
    """What a kill -9 is to the code that was running: nothing catches it."""


def window(index: int) -> SourceWindow:
    return SourceWindow(samples=np.zeros((1, 1), np.float32), observed_at_s=float(index), index=index)


def told(*worlds: World) -> tuple[list[AnomalyEvent], list[AnomalyClosed]]:
    """Every opening and every end that any start of a device sent, an event sent twice counted once."""
    seen = {decode(p).id: decode(p).data for w in worlds for p in w.link.sent}
    opened = [data for data in seen.values() if isinstance(data, AnomalyEvent)]
    return opened, [data for data in seen.values() if isinstance(data, AnomalyClosed)]


def test_the_end_is_told_with_what_the_anomaly_was(world: World) -> None:
    world.watch(healthy(100))
    world.watch(faulty(20))
    world.watch(CALM)
    (opened,), (closed,) = told(world)
    assert opened.episode == closed.episode
    assert len(opened.episode) == 16
    assert closed.release == opened.release == "pump/1"
    assert closed.reason is ClosedReason.CALM
    first = opened.window_index
    assert closed.windows == 120 - first + 5
    assert closed.windows_over == 120 - first
    assert closed.lasted_s == closed.windows - 1, "a window a second"
    assert closed.observed_at_s == opened.observed_at_s + closed.lasted_s
    assert closed.peak_score >= opened.score


def test_two_anomalies_have_two_names_and_two_ends(world: World) -> None:
    world.watch(healthy(100))
    for _ in range(2):
        world.watch(faulty(5))
        world.watch(CALM)
    opened, closed = told(world)
    assert [o.episode for o in opened] == [c.episode for c in closed]
    assert len({o.episode for o in opened}) == 2


def test_another_model_ends_it_and_says_so(world: World) -> None:
    world.watch(healthy(100))
    world.watch(faulty(10))
    world.installation.give(2, is_trial=True, generation=2)
    world.watch(faulty(10))
    opened, (closed,) = told(world)
    assert [o.release for o in opened] == ["pump/1", "pump/2"]
    assert (closed.episode, closed.release, closed.reason) == (
        opened[0].episode,
        "pump/1",
        ClosedReason.RELEASE,
    )
    assert closed.windows == closed.windows_over == 110 - opened[0].window_index


def test_a_release_that_is_taken_away_ends_it_too(world: World) -> None:
    world.watch(healthy(100))
    world.watch(faulty(10))
    world.installation.now = None
    world.watch(faulty(10))
    _, (closed,) = told(world)
    assert closed.reason is ClosedReason.RELEASE
    world.now_s += 2
    world.turn()
    assert not world.status().alarm_open


def test_a_restart_in_the_middle_goes_on_with_the_same_anomaly_and_its_totals(
    world: World, tmp_path: Path
) -> None:
    world.watch(healthy(100))
    world.watch(faulty(40))
    world.now_s += 11  # a health message: totals are remembered
    world.turn()
    again = World(tmp_path, "b2")
    again.watch(faulty(10))
    again.watch(CALM)
    (opened,), (closed,) = told(world, again)
    assert closed.episode == opened.episode
    before = 140 - opened.window_index
    assert closed.windows == before + 10 + 5
    assert closed.windows_over == before + 10
    assert closed.lasted_s == (before - 1) + (15 - 1)


def test_a_new_release_that_came_while_the_agent_was_down_ends_it(world: World, tmp_path: Path) -> None:
    world.watch(healthy(100))
    world.watch(faulty(10))
    again = World(tmp_path, "b2")
    again.installation.give(2, is_trial=False, generation=1)
    again.watch(CALM)
    (opened,), (closed,) = told(world, again)
    assert (closed.episode, closed.reason) == (opened.episode, ClosedReason.RELEASE)


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("at", range(8))
def test_a_kill_at_any_write_neither_loses_an_end_nor_tells_it_twice(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, is_done: bool
) -> None:
    """The device dies before, or just after, the write number `at` since the anomaly began to build."""
    world.watch(healthy(100))
    left = [at]

    def dying(write):
        def wrapped(*arguments, **named):
            left[0] -= 1
            if left[0] == -1 and not is_done:
                raise KilledError
            found = write(*arguments, **named)
            if left[0] == -1:
                raise KilledError
            return found

        return wrapped

    world.outbox.put = dying(world.outbox.put)  # type: ignore[method-assign] # where a device can die
    memory = world.agent._pipeline._memory
    memory.save_remembered = dying(memory.save_remembered)  # type: ignore[method-assign] # as above
    rows = np.concatenate([faulty(6), CALM, faulty(6, 3), CALM])
    try:
        world.watch(rows)
        world.now_s += 11
        world.turn()
    except KilledError:
        pass
    seen = world.source.index - 100
    again = World(tmp_path, "b2")
    again.watch(rows[seen:])
    again.watch(CALM)
    opened, closed = told(world, again)
    assert sorted(o.episode for o in opened) == sorted({o.episode for o in opened})
    assert sorted(c.episode for c in closed) == sorted({c.episode for c in closed})
    assert {o.episode for o in opened} == {c.episode for c in closed}
    assert len(opened) == 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=12),
    st.sets(st.integers(0, 100), max_size=6),
)
def test_what_opens_ends_once_under_its_name_wherever_it_is_restarted(
    stretches: list[tuple[bool, int]], restarts: set[int]
) -> None:
    """Stretches of windows over and far below the threshold; restarts as after a power cut just after a save."""
    names = iter(f"e{i}" for i in range(1000))
    series = [over for over, length in stretches for _ in range(length)] + [False] * 5
    episodes = Episodes(DetectionSettings(), RememberedEpisodes(), lambda: next(names))
    opened: list[str] = []
    ended: list[AnomalyClosed] = []
    for i, over in enumerate(series):
        if i in restarts:
            episodes = Episodes(DetectionSettings(), episodes.remembered, lambda: next(names))
        score = 2.0 if over else 0.1
        change = episodes.update(score, 1.0, window(i), "pump/1")
        if isinstance(change, Opened):
            opened.append(episodes.id)
        ended += [m for m in episodes.take_untold() if isinstance(m, AnomalyClosed)]
        episodes.told()
    for _ in range(5):
        episodes.update(0.0, 1.0, window(999), "pump/1")
    ended += [m for m in episodes.take_untold() if isinstance(m, AnomalyClosed)]
    assert [e.episode for e in ended] == opened
    assert all(1 <= e.windows_over <= e.windows - 5 for e in ended)
    assert sum(e.windows_over for e in ended) <= sum(series)
