"""The outbox: nothing leaves it before the fleet has stored it; bounds evict metrics first; a bad disk is survived."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from edge_agent.outbox import Outbox, OutboxEntry
from edge_agent.settings import OutboxSettings
from protocol.messages.envelope import Event, encode, kind_of
from protocol.messages.kinds import AgentState, Kind
from protocol.messages.payloads import Ack, AnomalyEvent, BootAck, Health, Payload

pytestmark = pytest.mark.edge
NOW = 1_800_000_000.0


def _anomaly(window: str = "") -> AnomalyEvent:
    return AnomalyEvent(
        release="f/1", score=2.0, threshold=1.0, window_index=3, observed_at_s=1.0, window=window
    )


def _health() -> Health:
    return Health(state=AgentState.WATCHING, release="f/1", uptime_s=1.0)


def _event(sequence: int, data: Payload, boot: str = "b1", made_s: float = NOW) -> OutboxEntry:
    event = Event(source="d", boot_id=boot, sequence=sequence, time=NOW, data=data)
    return OutboxEntry(
        boot_id=boot, sequence=sequence, kind=kind_of(data), created_s=made_s, payload=encode(event)
    )


def _ack(*ranges: tuple[int, int], boot: str = "b1") -> Ack:
    return Ack(boots=(BootAck(boot_id=boot, ranges=ranges),))


def _open(path: Path, **limits: object) -> Outbox:
    return Outbox.open(path / "outbox.sqlite", OutboxSettings(**limits), now_s=NOW)  # type: ignore[arg-type] # keywords of the test


def _sequences(outbox: Outbox, clock_s: float = 0.0) -> list[int]:
    return [e.sequence for e in outbox.due(clock_s)]


def test_an_event_leaves_only_when_an_ack_names_its_boot_and_sequence(tmp_path: Path) -> None:
    outbox = _open(tmp_path)
    outbox.put([_event(i, _anomaly()) for i in range(1, 6)], now_s=NOW)
    assert outbox.acknowledge([_ack((1, 2), (4, 4))]) == 3
    assert outbox.acknowledge([_ack((1, 100), boot="other")]) == 0
    assert _sequences(outbox) == [3, 5]


def test_a_repeated_or_unknown_ack_changes_nothing(tmp_path: Path) -> None:
    outbox = _open(tmp_path)
    outbox.put([_event(1, _anomaly())], now_s=NOW)
    assert [outbox.acknowledge([_ack((1, 1))]) for _ in range(2)] == [1, 0]
    assert outbox.acknowledge([_ack((5, 2)), Ack(boots=())]) == 0
    assert len(outbox) == 0


def test_events_are_sent_again_after_the_timeout_and_after_a_reconnect_but_not_before(tmp_path: Path) -> None:
    outbox = _open(tmp_path, resend_s=10.0)
    outbox.put([_event(1, _anomaly())], now_s=NOW)
    assert _sequences(outbox, 0.0) == [1]
    assert _sequences(outbox, 9.0) == []
    assert _sequences(outbox, 10.5) == [1]
    outbox.reconnected()
    assert _sequences(outbox, 11.0) == [1]


def test_anomalies_are_sent_first_and_at_most_the_window_in_flight(tmp_path: Path) -> None:
    outbox = _open(tmp_path, in_flight=3)
    outbox.put([_event(i, _health()) for i in range(1, 5)] + [_event(9, _anomaly())], now_s=NOW)
    assert _sequences(outbox) == [9, 1, 2]
    assert _sequences(outbox) == []
    outbox.acknowledge([_ack((9, 9))])
    assert _sequences(outbox) == [3]


def test_putting_an_event_twice_keeps_one(tmp_path: Path) -> None:
    outbox = _open(tmp_path)
    outbox.put([_event(1, _anomaly()), _event(1, _anomaly())], now_s=NOW)
    assert len(outbox) == 1


def test_a_full_outbox_gives_up_health_before_anomalies(tmp_path: Path) -> None:
    outbox = _open(tmp_path, maximum_bytes=65_536, in_flight=1000)
    outbox.put([_event(1, _anomaly("A" * 30_000))], now_s=NOW)
    for i in range(2, 200):
        outbox.put([_event(i, _health())], now_s=NOW)
    outbox.put([_event(500, _anomaly("A" * 30_000))], now_s=NOW)
    kinds = [e.kind for e in outbox.due(0.0)]
    assert kinds.count(Kind.ANOMALY) == 2
    assert outbox.evicted > 150
    outbox.put([_event(501, _anomaly("A" * 30_000))], now_s=NOW)
    assert [e.sequence for e in outbox.due(100.0) if e.kind is Kind.ANOMALY] == [500, 501]


def test_events_older_than_the_limit_go_but_not_those_of_an_unset_clock(tmp_path: Path) -> None:
    outbox = _open(tmp_path, maximum_age_s=3600.0)
    outbox.put([_event(1, _anomaly())], now_s=NOW)
    outbox.put([_event(2, _anomaly(), made_s=100.0)], now_s=100.0)
    outbox.put([_event(3, _anomaly(), made_s=NOW + 7200)], now_s=NOW + 7200)
    assert _sequences(outbox) == [2, 3]
    assert outbox.evicted == 1


def test_a_disk_that_refuses_keeps_events_in_memory_and_saves_them_later(tmp_path: Path) -> None:
    outbox = _open(tmp_path)
    outbox._db.execute(
        "PRAGMA query_only = ON"
    )  # SQLite itself then refuses every write, as a read-only disk does
    for i in range(1, 301):
        outbox.put([_event(i, _health() if i <= 100 else _anomaly())], now_s=NOW)
    assert outbox.is_failing
    assert len(outbox) == 256
    assert outbox.evicted == 44
    assert _sequences(outbox, 0.0)[0] == 45
    outbox.acknowledge([_ack((45, 50))])
    assert len(outbox) == 250
    outbox._db.execute("PRAGMA query_only = OFF")
    outbox.put([_event(400, _anomaly())], now_s=NOW)
    assert not outbox.is_failing
    outbox.close()
    assert len(_open(tmp_path)) == 251


def test_a_damaged_database_is_set_aside_and_a_new_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "outbox.sqlite").write_bytes(b"this is not a database" * 100)
    outbox = _open(tmp_path)
    outbox.put([_event(1, _anomaly())], now_s=NOW)
    assert len(outbox) == 1
    assert (tmp_path / f"outbox.sqlite.damaged-{int(NOW)}").exists()
    assert "outbox_damaged" in caplog.text


def test_a_disk_that_takes_no_database_leaves_an_outbox_in_memory_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = _open(tmp_path / "missing")
    outbox.put([_event(1, _anomaly())], now_s=NOW)
    assert outbox.is_volatile
    assert _sequences(outbox) == [1]
    assert outbox.acknowledge([_ack((1, 1))]) == 1
    assert "is the directory writable and the disk not full?" in caplog.text


def test_an_anomaly_is_fully_synchronous_and_the_file_is_private(tmp_path: Path) -> None:
    outbox = _open(tmp_path)
    outbox.put([_event(1, _health())], now_s=NOW)
    statements: list[str] = []
    outbox._db.set_trace_callback(statements.append)
    outbox.put([_event(2, _anomaly())], now_s=NOW)
    assert statements[0] == "PRAGMA synchronous = FULL"
    assert any(s.startswith("INSERT") for s in statements)
    assert outbox._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (tmp_path / "outbox.sqlite").stat().st_mode & 0o777 == 0o600
    other = sqlite3.connect(tmp_path / "outbox.sqlite")
    assert other.execute("SELECT count(*) FROM events").fetchone() == (2,)
    other.close()
