"""The end of an anomaly: stored once, joined to its anomaly whichever comes first, shown and selected by."""

from __future__ import annotations

from itertools import permutations

import pytest
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import TENANT, Machine, anomaly, closed, enrol_directly
from sqlalchemy import func, select

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.event_tables import AnomalyEnd
from protocol.messages.kinds import ClosedReason

__all__ = ["fleet", "machine"]  # the fixtures


def store(fleet: Fleet) -> EventStore:
    return EventStore(fleet.database, TENANT, FleetMetrics())


def ends(fleet: Fleet, machine: Machine) -> int:
    with fleet.database.read() as session:
        mine = select(func.count()).where(AnomalyEnd.device == machine.name)
        return session.scalar(mine) or 0


def shown(fleet: Fleet, machine: Machine, **query: str) -> list[dict[str, object]]:
    answer = fleet.call("GET", "/v1/anomalies", params={"device": machine.name} | query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, object]] = answer.json()["items"]
    return items


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("together", [True, False])
def test_an_end_is_stored_once_and_joined_in_whatever_order_and_however_often_the_messages_come(
    fleet: Fleet, machine: Machine, order: tuple[int, ...], together: bool
) -> None:
    enrol_directly(fleet.database, machine)
    opening, end = machine.arrival(anomaly(episode="e-1")), machine.arrival(closed("e-1"))
    # the agent was killed before it learnt that its first word had arrived, and says it again under another sequence
    again = machine.arrival(closed("e-1", peak_score=99.0))
    messages = [(opening, end, again)[place] for place in order] + [end, opening]
    for batch in [messages] if together else [[message] for message in messages]:
        result = store(fleet).store(batch)
        assert not result.refusals
    assert ends(fleet, machine) == 1
    (item,) = shown(fleet, machine)
    assert item["end"] == {
        "observed_at_s": 90.0,
        "lasted_s": 20.0,
        "windows": 9,
        "windows_over": 7,
        "peak_score": 4.5,  # of the end that the device said first, whichever arrived first
        "reason": "calm",
        "sent_at": end.received_at - 1,
        "received_at": end.received_at,
    }
    assert shown(fleet, machine, open="true") == []
    assert shown(fleet, machine, open="false") == [item]


def test_an_end_without_its_anomaly_is_kept_and_acknowledged(fleet: Fleet, machine: Machine) -> None:
    enrol_directly(fleet.database, machine)
    result = store(fleet).store([machine.arrival(closed("evicted", reason=ClosedReason.RELEASE))])
    assert result.acks[machine.name].boots[0].ranges == ((1, 1),)
    assert (ends(fleet, machine), shown(fleet, machine)) == (1, [])


def test_open_anomalies_are_those_of_which_no_end_has_come_and_old_agents_are_in_neither_list(
    fleet: Fleet, machine: Machine
) -> None:
    enrol_directly(fleet.database, machine)
    told = [anomaly(episode="lasts", score=3.0), anomaly(episode="over", score=4.0), anomaly(score=5.0)]
    store(fleet).store([*map(machine.arrival, told), machine.arrival(closed("over"))])
    assert [item["score"] for item in shown(fleet, machine)] == [5.0, 4.0, 3.0]
    assert [item["episode"] for item in shown(fleet, machine)] == [None, "over", "lasts"]
    assert [item["score"] for item in shown(fleet, machine, open="true")] == [3.0]
    assert [item["score"] for item in shown(fleet, machine, open="false")] == [4.0]
    number = shown(fleet, machine, open="false")[0]["id"]
    assert fleet.call("GET", f"/v1/anomalies/{number}").json()["end"]["reason"] == "calm"
    is_problem(fleet.call("GET", "/v1/anomalies?open=perhaps"), 422, "open")


def test_two_devices_may_call_their_anomalies_the_same(fleet: Fleet, machine: Machine) -> None:
    other = Machine(name=f"{machine.name}-b")
    enrol_directly(fleet.database, machine, other)
    store(fleet).store([one.arrival(anomaly(episode="1")) for one in (machine, other)])
    store(fleet).store([machine.arrival(closed("1", lasted_s=1.0))])
    assert shown(fleet, other)[0]["end"] is None
    store(fleet).store([other.arrival(closed("1", lasted_s=2.0))])
    assert [shown(fleet, one)[0]["end"]["lasted_s"] for one in (machine, other)] == [1.0, 2.0]  # type: ignore[index] # an object
