"""The timeline of a rollout: all of it by the page, the latest of it with the rollout, and why a group failed however many devices spoke."""

from __future__ import annotations

import pytest
from rollout_world import RolloutWorld

from fleet.api.rollout_views import view_timeline
from fleet.errors import NotFoundError
from fleet.rollouts import timeline
from fleet.rollouts.states import Subject, Verb
from fleet.views.rollouts import TimelineLine


def read_all(
    world: RolloutWorld, rollout: str, *, limit: int, subject: Subject | None = None
) -> list[TimelineLine]:
    """Every line, as a client reads them that goes on after the last one it has."""
    lines: list[TimelineLine] = []
    while True:
        with world.database.read() as session:
            after = lines[-1].id if lines else 0
            page = view_timeline(session, rollout, after=after, limit=limit, subject=subject)
        assert len(page) <= limit
        if not page:
            return lines
        lines += page


def test_a_timeline_is_read_by_the_page_without_a_gap_while_it_grows(world: RolloutWorld) -> None:
    other = world.started(target_query="id==d00", groups=[{"percentage": 100}], success={})
    rollout = world.started(target_query="id!=d00", groups=[{"percentage": 100}], success={})
    world.say(other, Verb.CANCEL)
    world.say(rollout, Verb.ROLLBACK)
    whole = read_all(world, rollout, limit=1000)
    assert [line.id for line in whole] == sorted({line.id for line in whole})
    assert whole == read_all(world, rollout, limit=3)
    devices = read_all(world, rollout, limit=4, subject=Subject.DEVICE)
    assert devices == [line for line in whole if line.subject is Subject.DEVICE]
    assert {line.device for line in devices} == set(world.devices) - {"d00"}
    with pytest.raises(NotFoundError, match="there is no rollout 'ro-x'"):
        read_all(world, "ro-x", limit=3)


def test_with_a_rollout_come_its_latest_lines_and_devices_push_out_nothing_else(
    world: RolloutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "LATEST", 5)
    rollout = world.started(groups=[{"percentage": 100}], success={})
    world.say(rollout, Verb.ROLLBACK)
    shown, whole = world.view(rollout).timeline, read_all(world, rollout, limit=1000)
    assert [line.id for line in shown] == sorted(line.id for line in shown)
    of_devices = [line for line in whole if line.subject is Subject.DEVICE]
    others = [line for line in whole if line.subject is not Subject.DEVICE]
    assert {line.id for line in shown} == {line.id for line in (*of_devices[-5:], *others[-5:])}
    assert [line.state for line in shown if line.subject is Subject.ROLLOUT][-1] == "ROLLING_BACK"
