"""An outbox whose disk or file gives way under it: detection goes on, anomalies wait in memory and are saved later."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from outbox_world import FILE, ack, anomaly, event, health, moment, on_disk, open_outbox, send, sequences

from edge_agent.outbox import Outbox
from edge_agent.settings import OutboxSettings

pytestmark = pytest.mark.edge


def _refuse(outbox: Outbox) -> None:
    """SQLite refuses every change of the file, as on a read-only disk; what is in memory only may change."""
    changes = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}

    def judge(
        action: int, _table: str | None, _column: str | None, database: str | None, _in: str | None
    ) -> int:
        return sqlite3.SQLITE_DENY if action in changes and database == "main" else sqlite3.SQLITE_OK

    outbox._kept._store._db.set_authorizer(judge)


def _heal(outbox: Outbox) -> None:
    outbox._kept._store._db.set_authorizer(None)


def test_a_disk_that_refuses_keeps_events_in_memory_and_saves_them_later(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    _refuse(outbox)
    for i in range(1, 301):
        outbox.put([event(i, health() if i <= 100 else anomaly())], now=moment())
    assert outbox.is_failing
    assert len(outbox) == 256
    assert outbox.evicted == 44
    sent = sequences(outbox)
    assert sent[0] == 101, "anomalies first"
    assert outbox.acknowledge([ack((1, 1000))], 0.1) == len(sent)
    assert len(outbox) == 256 - len(sent)
    assert len(sequences(outbox, 0.2)) == len(sent), "the next ones follow"
    _heal(outbox)
    outbox.put([event(400, anomaly())], now=moment())
    assert not outbox.is_failing
    outbox.close()
    assert len(open_outbox(tmp_path)) == 257 - len(sent)


def test_what_waits_in_memory_is_bounded_in_bytes(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    _refuse(outbox)
    outbox.put([event(i, anomaly("A" * 120_000)) for i in range(1, 100)], now=moment())
    assert 10 < len(outbox) < 20


def test_what_the_fleet_has_is_not_sent_again_though_the_disk_does_not_let_it_go(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(i, anomaly()) for i in range(1, 4)], now=moment())
    send(outbox)
    _refuse(outbox)
    assert outbox.acknowledge([ack((1, 2))], 0.1) == 2
    assert [number for s in range(1, 100) for number in sequences(outbox, s * 10.0)].count(1) == 0
    _heal(outbox)
    outbox.put([event(9, anomaly())], now=moment(100.0))
    assert on_disk(tmp_path) == [3, 9]


def test_a_damaged_database_is_set_aside_and_a_new_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(b"this is not a database" * 100)
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, anomaly())], now=moment())
    assert len(outbox) == 1
    assert (tmp_path / f"{FILE}.damaged-{int(moment().wall_s)}").exists()
    assert "outbox_damaged" in caplog.text


def test_of_what_is_set_aside_the_last_two_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / FILE).write_bytes(b"this is not a database" * 100)
        Outbox.open(tmp_path / FILE, OutboxSettings(), now=moment(float(number))).close()
        time.sleep(0.01)
    aside = sorted(p.name for p in tmp_path.glob(f"{FILE}.damaged-*"))
    assert aside == [f"{FILE}.damaged-{int(moment(float(n)).wall_s)}" for n in (3, 4)]


def test_a_database_that_is_damaged_in_the_middle_of_a_run_is_begun_anew_with_what_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(i, anomaly("A" * 3000)) for i in range(1, 201)], now=moment())
    outbox._kept._store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray((tmp_path / FILE).read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 40 * 4096] = b"\xa5" * (40 * 4096)
    with (tmp_path / FILE).open("r+b") as file:
        file.write(content)
    for second in range(60):
        outbox.put([event(1000 + second, anomaly())], now=moment(float(second)))
        for entry in send(outbox, float(second)):
            outbox.acknowledge([ack((entry.sequence, entry.sequence))], float(second))
    waiting = [e.sequence for e in outbox._kept._store.entries()]
    assert [n for n in waiting if n >= 1000] == [], "what came after the damage was delivered"
    assert "outbox_begun_anew reason=damaged" in caplog.text
    assert not outbox.is_failing
    assert list(tmp_path.glob(f"{FILE}.damaged-*"))
    outbox.put([event(2000, anomaly())], now=moment(61.0))
    assert 2000 in on_disk(tmp_path)


def test_a_file_that_is_deleted_under_the_agent_is_written_anew_with_all_that_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(i, anomaly()) for i in range(1, 4)], now=moment())
    send(outbox)
    for path in tmp_path.glob(f"{FILE}*"):
        path.unlink()
    outbox.put([event(4, anomaly())], now=moment(1.0))
    assert on_disk(tmp_path) == [1, 2, 3, 4]
    assert "outbox_begun_anew reason=removed events=3" in caplog.text
    assert sequences(outbox, 2.0) == [4], "what was sent is remembered"


def test_a_folder_that_is_gone_is_said_until_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    outbox = open_outbox(folder)
    outbox.put([event(1, anomaly())], now=moment())
    shutil.rmtree(folder)
    for second in range(1, 30):
        outbox.put([event(1 + second, anomaly())], now=moment(float(second)))
        assert outbox.is_failing
    folder.mkdir()
    outbox.put([event(99, anomaly())], now=moment(60.0))
    assert not outbox.is_failing
    assert on_disk(folder) == [*range(1, 31), 99]


def test_a_disk_that_takes_no_database_leaves_an_outbox_in_memory_until_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "missing"
    outbox = open_outbox(folder)
    outbox.put([event(1, anomaly()), event(2, anomaly())], now=moment())
    assert outbox.is_volatile
    assert sequences(outbox) == [1, 2]
    assert outbox.acknowledge([ack((1, 1))], 0.1) == 1
    assert "is the directory writable and the disk not full?" in caplog.text
    outbox.put([event(i, anomaly("A" * 120_000)) for i in range(10, 40)], now=moment(1.0))
    assert len(outbox) < 20, "memory is not a disk"
    folder.mkdir()
    outbox.put([event(99, anomaly())], now=moment(20.0))
    assert not outbox.is_volatile
    assert on_disk(folder)[-1] == 99
    assert 2 in on_disk(folder) or outbox.evicted


def test_somebody_who_looks_into_the_file_and_never_stops_costs_bounded_space_and_is_said(
    tmp_path: Path,
) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, anomaly())], now=moment())
    reader = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM events").fetchone()
    log = tmp_path / f"{FILE}-wal"
    for minute in range(1, 400):
        at = moment(61.0 * minute)
        outbox.put([event(10 * minute, anomaly("A" * 100_000)), event(10 * minute + 1, health())], now=at)
        for entry in send(outbox, 61.0 * minute):
            outbox.acknowledge([ack((entry.sequence, entry.sequence))], 61.0 * minute)
    assert log.stat().st_size < 36_000_000
    assert "another process keeps the outbox open, and its log has grown" in outbox.problems()[0]
    reader.close()
    outbox._kept._store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    outbox.put([event(9_998, anomaly())], now=moment(61.0 * 401))
    outbox.put([event(9_999, anomaly())], now=moment(61.0 * 402))
    assert not any("another process" in text for text in outbox.problems())
    assert {9_998, 9_999} <= set(on_disk(tmp_path))


def test_another_process_that_writes_holds_the_loop_for_a_tenth_of_a_second_at_most(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, anomaly())], now=moment())
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    outbox.put([event(2, anomaly())], now=moment(1.0))
    assert time.monotonic() - began < 2.0, "two seconds were SQLite's own patience"
    assert outbox.is_failing
    assert sequences(outbox, 1.0) == [2, 1]
    other.execute("ROLLBACK")
    other.close()
    outbox.put([event(3, anomaly())], now=moment(2.0))
    assert on_disk(tmp_path) == [1, 2, 3]


def test_an_anomaly_is_fully_synchronous_and_the_file_is_private(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, health())], now=moment())
    statements: list[str] = []
    database = outbox._kept._store._db
    database.set_trace_callback(statements.append)
    outbox.put([event(2, anomaly())], now=moment())
    assert statements[0] == "PRAGMA synchronous = FULL"
    assert any(s.startswith("INSERT") for s in statements)
    database.set_trace_callback(None)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert on_disk(tmp_path) == [1, 2]


def test_a_file_of_an_older_version_is_opened_with_all_that_waits(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / FILE)
    old.executescript(
        "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, boot_id TEXT NOT NULL, sequence INTEGER NOT NULL,"
        " kind TEXT NOT NULL, rank INTEGER NOT NULL, created_s REAL NOT NULL, payload BLOB NOT NULL, UNIQUE (boot_id, sequence))"
    )
    waiting = event(1, anomaly())
    old.execute(
        "INSERT INTO events (boot_id, sequence, kind, rank, created_s, payload) VALUES ('b0', 1, 'anomaly', 4, 5.0, ?)",
        (waiting.payload,),
    )
    old.commit()
    old.close()
    outbox = open_outbox(tmp_path)
    assert [(e.boot_id, e.made.is_set) for e in send(outbox)] == [("b0", False)]


def test_a_file_set_aside_that_is_taken_away_just_now_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.of-pump-07-1").symlink_to(tmp_path / "gone")  # it is listed, and cannot be looked at
    outbox = open_outbox(tmp_path)
    outbox.put([event(1, anomaly())], now=moment(61.0))
    assert on_disk(tmp_path) == [1]
