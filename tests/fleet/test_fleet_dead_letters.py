"""Dead letters: kept once, told to the device, bounded, looked at, replayed through the same judging, dropped."""

from __future__ import annotations

import base64
import secrets
from typing import Any

import pytest
from fleet_api_world import Fleet, fleet, is_problem, machine
from fleet_world import NOW, TENANT, Machine, anomaly, arrival, enrol_directly, health, of_a_newer_agent
from sqlalchemy import delete, func, select, text, update

from fleet.ingest import dead_letters
from fleet.ingest.judging import Arrival, RefusalReason
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.storage.access_tables import AuditEntry
from fleet.storage.base import Database
from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import Anomaly
from protocol.limits import MAX_PAYLOAD_BYTES
from protocol.messages.envelope import encode
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack, RefusedEvent
from protocol.topics import device_topic
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures


@pytest.fixture
def enrolled(fleet: Fleet, machine: Machine) -> Machine:
    enrol_directly(fleet.database, machine)
    return machine


def store_of(database: Database) -> EventStore:
    return EventStore(database, TENANT, FleetMetrics())


def letters(fleet: Fleet, machine: Machine) -> list[dict[str, Any]]:
    answer = fleet.call("GET", "/v1/dead-letters", params={"device": machine.name})
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_what_cannot_be_taken_is_kept_once_however_often_it_comes_and_its_device_may_forget_it(
    fleet: Fleet, enrolled: Machine
) -> None:
    bad, good = of_a_newer_agent(enrolled.arrival(anomaly())), enrolled.arrival(anomaly())
    store = store_of(fleet.database)
    for batch in ([bad, good, bad], [bad]):
        ack = store.store(batch).acks[enrolled.name]
        (told,) = set(ack.refused)
        assert (told.boot_id, told.sequence) == ("boot-1", 1)
        assert "version 2" in told.reason
    assert [
        [r for b in ack.boots for r in b.ranges] for ack in (store.store([good]).acks[enrolled.name],)
    ] == [[(2, 2)]]
    (letter,) = letters(fleet, enrolled)
    assert (letter["times"], letter["boot_id"], letter["sequence"], letter["reason"]) == (
        3,
        "boot-1",
        1,
        "version",
    )
    shown = fleet.call("GET", f"/v1/dead-letters/{letter['id']}").json()
    assert base64.b64decode(shown["payload"]) == bad.payload


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\xfe", b"[" * 1000, b'{"bootid": "b"', b'{"bootid": "", "sequence": 3}', b'{"sequence": 0}'],
)
def test_what_names_no_event_is_kept_and_nothing_is_told(
    fleet: Fleet, enrolled: Machine, payload: bytes
) -> None:
    topic = device_topic(TENANT, enrolled.name, Kind.HEALTH)
    result = store_of(fleet.database).store(
        [Arrival(topic=topic, payload=payload, retained=False, received_at=NOW)]
    )
    assert not result.acks
    (letter,) = letters(fleet, enrolled)
    assert (letter["boot_id"], letter["sequence"], letter["size_bytes"]) == (None, None, len(payload))


def test_of_a_payload_that_is_too_large_the_beginning_is_kept_and_it_is_never_replayed(
    fleet: Fleet, enrolled: Machine
) -> None:
    topic = device_topic(TENANT, enrolled.name, Kind.HEALTH)
    huge = Arrival(topic=topic, payload=b" " * 5_000_000, retained=False, received_at=NOW)
    store_of(fleet.database).store([huge])
    (letter,) = letters(fleet, enrolled)
    shown = fleet.call("GET", f"/v1/dead-letters/{letter['id']}").json()
    assert (letter["size_bytes"], len(base64.b64decode(shown["payload"]))) == (5_000_000, 4096)
    answer = fleet.call("POST", f"/v1/dead-letters/{letter['id']}:replay", Role.OPERATOR)
    assert answer.json() == {"stored": [], "refused": [letter["id"]], "more": False}


def test_a_letter_is_replayed_after_an_upgrade_and_stored_as_of_when_it_first_came(
    fleet: Fleet, enrolled: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = of_a_newer_agent(enrolled.arrival(anomaly(score=7.5)))
    store_of(fleet.database).store([late])
    (letter,) = letters(fleet, enrolled)
    path = f"/v1/dead-letters/{letter['id']}:replay"
    is_problem(fleet.call("POST", path), 403, "operator")
    assert fleet.call("POST", path, Role.OPERATOR).json()["refused"] == [letter["id"]]
    understood = {f"dev.fedge.{kind.value}.v2": kind for kind in Kind}
    monkeypatch.setattr("protocol.messages.envelope._KIND_OF_TYPE", understood)  # the upgrade
    assert fleet.call("POST", path, Role.OPERATOR).json()["stored"] == [letter["id"]]
    is_problem(fleet.call("POST", path, Role.OPERATOR), 404, str(letter["id"]))
    assert letters(fleet, enrolled) == []
    (stored,) = fleet.call("GET", f"/v1/anomalies?device={enrolled.name}").json()["items"]
    assert (stored["score"], stored["received_at"], stored["sequence"]) == (7.5, NOW + 1, 1)
    view = fleet.call("GET", f"/v1/devices/{enrolled.name}").json()
    assert (view["online"], view["last_seen"]) == (False, None)  # a letter says nothing about now
    # the device sends it once more, because it never heard: it is stored already
    assert store_of(fleet.database).store([late]).duplicates == 1
    with fleet.database.read() as session:
        lines = session.scalars(select(AuditEntry).where(AuditEntry.subject == enrolled.name))
        assert [line.action for line in lines][-1] == "dead_letter_replayed"


def test_letters_are_chosen_by_device_and_reason_and_dropped(fleet: Fleet, enrolled: Machine) -> None:
    other = Machine(name=f"{enrolled.name}-b")
    enrol_directly(fleet.database, other)
    foreign = Arrival(
        topic=device_topic(TENANT, enrolled.name, Kind.ANOMALY),
        payload=encode(other.event(anomaly())),
        retained=False,
        received_at=NOW,
    )
    store_of(fleet.database).store(
        [of_a_newer_agent(enrolled.arrival(anomaly())), foreign, of_a_newer_agent(other.arrival(anomaly()))]
    )
    assert [one["reason"] for one in letters(fleet, enrolled)] == ["wrong_source", "version"]
    summary = fleet.call("GET", "/v1/dead-letters/summary").json()
    assert (summary["devices"][enrolled.name], summary["devices"][other.name]) == (2, 1)
    for path in ("/v1/dead-letters:drop", "/v1/dead-letters:replay"):
        is_problem(fleet.call("POST", path, Role.OPERATOR, json={}), 400, '"all": true')
        is_problem(fleet.call("POST", path, json={"device": enrolled.name}), 403, "operator")
    chosen = {"device": enrolled.name, "reason": "version"}
    dropped = fleet.call(
        "POST", "/v1/dead-letters:drop", Role.OPERATOR, json=chosen | {"confirm": enrolled.name}
    ).json()
    assert len(dropped["dropped"]) == 1
    assert [one["reason"] for one in letters(fleet, enrolled)] == ["wrong_source"]
    assert len(letters(fleet, other)) == 1


def test_every_letter_has_its_turn_though_those_before_it_are_refused_again(
    fleet: Fleet, enrolled: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.api.dead_letters.AT_ONCE", 2)
    sent = [enrolled.arrival(anomaly()) for _ in range(5)]
    store_of(fleet.database).store([of_a_newer_agent(one) for one in sent])
    numbers = sorted(one["id"] for one in letters(fleet, enrolled))
    asked: dict[str, Any] = {"device": enrolled.name}
    first = fleet.call("POST", "/v1/dead-letters:replay", Role.OPERATOR, json=asked).json()
    assert first == {"stored": [], "refused": numbers[:2], "more": True}
    asked["after"] = numbers[1]
    then = fleet.call("POST", "/v1/dead-letters:replay", Role.OPERATOR, json=asked).json()
    assert then == {"stored": [], "refused": numbers[2:4], "more": True}
    with fleet.database.write() as session:
        session.execute(delete(DeadLetter).where(DeadLetter.id == numbers[2]))
    monkeypatch.setattr(
        "fleet.api.dead_letters.select_letters", lambda *_: numbers[2:4]
    )  # it made room when it had been chosen
    then = fleet.call("POST", "/v1/dead-letters:replay", Role.OPERATOR, json=asked).json()
    assert then == {"stored": [], "refused": [numbers[3]], "more": False}
    dropped = fleet.call(
        "POST", "/v1/dead-letters:drop", Role.OPERATOR, json=asked | {"confirm": enrolled.name}
    ).json()
    assert dropped == {"dropped": [numbers[3]], "more": False}
    gone = {"confirm": str(numbers[3])}
    is_problem(
        fleet.call("POST", f"/v1/dead-letters/{numbers[3]}:drop", Role.OPERATOR, json=gone),
        404,
        str(numbers[3]),
    )


def test_strangers_and_revoked_devices_fill_neither_the_letters_nor_the_audit_log(database: Database) -> None:
    gone = Machine(name="gone")
    enrol_directly(database, gone)
    with database.write() as session:
        session.execute(update(Device).values(state=DeviceState.REVOKED))
    strange = [
        arrival(Machine(name=f"x-{secrets.token_hex(4)}", key=gone.key).event(health())) for _ in range(40)
    ]
    broken = [
        Arrival(topic=one.topic, payload=one.payload[:-9], retained=False, received_at=NOW) for one in strange
    ]
    result = store_of(database).store(
        [*strange, *broken, gone.arrival(health()), of_a_newer_agent(strange[0])]
    )
    assert not result.acks
    assert {refusal.reason for refusal in result.refusals} == {RefusalReason.UNKNOWN_DEVICE}
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(DeadLetter)) == 0
        assert session.scalar(select(func.count()).select_from(AuditEntry)) == 1


def test_letters_are_bounded_for_each_device_and_in_all_and_the_oldest_make_room(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MOST_OF_A_DEVICE", 5)
    monkeypatch.setattr(dead_letters, "MOST", 8)
    one, other = Machine(name="one"), Machine(name="other")
    enrol_directly(database, one, other)
    store = store_of(database)
    store.store([of_a_newer_agent(other.arrival(health())) for _ in range(4)])
    for _ in range(3):
        store.store([of_a_newer_agent(one.arrival(health())) for _ in range(4)])
    assert held(database) == [
        *(("other", n) for n in (2, 3, 4)),
        *(("one", n) for n in (8, 9, 10, 11, 12)),
    ]
    with database.read() as session:
        dropped = dict(session.execute(select(Device.id, Device.dead_letters_dropped)).all())
    assert dropped == {"one": 7, "other": 1}


def test_a_device_is_not_told_to_forget_an_anomaly_for_which_there_is_no_room(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MOST_OF_A_DEVICE", 5)
    monkeypatch.setattr(dead_letters, "MOST", 8)
    one, other = Machine(name="one"), Machine(name="other")
    enrol_directly(database, one, other)
    store = store_of(database)
    sent = [of_a_newer_agent(one.arrival(anomaly())) for _ in range(7)]
    told = [
        event.sequence
        for part in (sent[:4], sent[4:])
        for event in store.store(part).acks.get("one", Ack(boots=())).refused
    ]
    assert told == [1, 2, 3, 4, 5]
    assert held(database) == [("one", n) for n in told]
    result = store.store([of_a_newer_agent(other.arrival(anomaly())) for _ in range(4)])
    assert [event.sequence for event in result.acks["other"].refused] == [1, 2, 3], (
        "the room of all is bounded"
    )
    with database.write() as session:
        assert set(session.scalars(select(Device.dead_letters_dropped))) == {0}, (
            "none that was told of is lost"
        )
        session.execute(delete(DeadLetter).where(DeadLetter.sequence < 3))
    told = [event.sequence for event in store.store(sent[5:]).acks["one"].refused]
    assert told == [6, 7], "what comes again finds the room that a person made"


def held(database: Database) -> list[tuple[str, int | None]]:
    with database.read() as session:
        letters = select(DeadLetter.device, DeadLetter.sequence).order_by(DeadLetter.id)
        return list(session.execute(letters).all())


def test_health_that_cannot_be_taken_pushes_no_anomaly_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MOST_OF_A_DEVICE", 5)
    monkeypatch.setattr(dead_letters, "MOST", 8)
    press, saw = Machine(name="press-1"), Machine(name="saw-1")
    store = store_of(database)
    for one in (press, saw):
        enrol_directly(database, one)
        store.store([of_a_newer_agent(one.arrival(anomaly(score=score))) for score in (1.0, 2.0)])
        for uptime_s in range(20):
            store.store([of_a_newer_agent(one.arrival(health(uptime_s=uptime_s)))])
    with database.read() as session:
        kept = session.scalars(select(DeadLetter.topic).order_by(DeadLetter.id)).all()
    assert len(kept) == 8
    assert sum(topic.endswith("/anomaly") for topic in kept) == 4


def test_large_letters_are_bounded_by_their_bytes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MOST_BYTES_OF_A_DEVICE", 3 * MAX_PAYLOAD_BYTES)
    machine = Machine(name="one")
    enrol_directly(database, machine)
    topic = device_topic(TENANT, "one", Kind.HEALTH)
    for number in range(6):
        payload = str(number).encode() * MAX_PAYLOAD_BYTES
        store_of(database).store([Arrival(topic=topic, payload=payload, retained=False, received_at=NOW)])
    with database.read() as session:
        assert session.scalar(select(func.sum(DeadLetter.size_bytes))) == 3 * MAX_PAYLOAD_BYTES


def refuse_scores_of_666(database: Database) -> None:
    """As a column that cannot hold a value."""
    with database.write() as session:
        if database.engine.dialect.name == "postgresql":
            session.execute(text("ALTER TABLE anomalies ADD CONSTRAINT no_666 CHECK (score <> 666)"))
        else:
            session.execute(
                text(
                    "CREATE TRIGGER no_666 BEFORE INSERT ON anomalies WHEN new.score = 666"
                    " BEGIN SELECT RAISE(ABORT, 'no 666'); END"
                )
            )


def test_a_value_that_the_database_refuses_becomes_a_letter_and_its_neighbours_are_stored(
    database: Database,
) -> None:
    machine = Machine(name="press-1")
    enrol_directly(database, machine)
    refuse_scores_of_666(database)
    batch = [machine.arrival(anomaly(score=666.0 if n == 3 else 1.0)) for n in range(8)]
    result = store_of(database).store(batch)
    ack = result.acks["press-1"]
    assert {n for boot in ack.boots for a, z in boot.ranges for n in range(a, z + 1)} == {1, 2, 3, 5, 6, 7, 8}
    assert [(event.boot_id, event.sequence) for event in ack.refused] == [("boot-1", 4)]
    with database.read() as session:
        assert session.scalars(select(DeadLetter.reason)).one() == "unstorable"
        assert session.scalar(select(func.count()).select_from(Anomaly)) == 7


def test_an_error_in_our_own_code_condemns_one_message_and_keeps_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(name="press-1")
    enrol_directly(database, machine)
    real = __import__("fleet.ingest.store", fromlist=["observe"]).observe

    def fails_for_the_third(device: Device, event: Any, *rest: Any, **named: Any) -> None:
        if event.sequence == 3:
            raise KeyError("a case that nobody has thought of")
        real(device, event, *rest, **named)

    monkeypatch.setattr("fleet.ingest.store.observe", fails_for_the_third)
    result = store_of(database).store([machine.arrival(health()) for _ in range(6)])
    assert result.acks["press-1"].refused[0].sequence == 3
    assert sum(result.stored.values()) == 5


def test_a_letter_of_letters_that_no_database_keeps_is_kept_all_the_same(database: Database) -> None:
    machine = Machine(name="press-1", boot="b\0b")
    enrol_directly(database, machine)
    result = store_of(database).store([machine.arrival(health())])
    assert result.acks["press-1"].refused == (
        RefusedEvent(
            boot_id="b\0b", sequence=1, reason="the boot id 'b\\x00b' holds a NUL, which no database keeps"
        ),
    )
    with database.read() as session:
        assert session.scalars(select(DeadLetter.boot_id)).one() == "b\N{REPLACEMENT CHARACTER}b"
