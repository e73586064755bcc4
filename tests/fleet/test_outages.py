"""A real fleet whose real database is killed, restarted or locked: refused with a time to come back, told once each way, and nobody starves."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from databases import PostgresqlServer
from fastapi.testclient import TestClient
from fleet_world import TENANT, Machine, enrol_directly, fleet_process, make_trust, operator_token
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs
from waiting import AMPLE_S, wait_until

from fleet.app import build_app
from fleet.migrations.upgrade import open_storage
from fleet.settings import load_fleet_settings
from fleet.storage import base
from fleet.storage.base import WRITE_LOCK, Database
from fleet.storage.outages import DatabaseAwayError, OutageWatch
from service.roles import Role

pytestmark = pytest.mark.slow


def settle(folder: Path, database_url: str) -> tuple[Path, dict[str, str]]:
    """A fleet's folder with its settings, an admin's token, and a device ``press-1`` in its database."""
    make_trust(folder / "data")
    config = folder / "fleet.toml"
    config.write_text(
        f'listen = "127.0.0.1:0"\ndata_dir = "data"\ndatabase_url = "{database_url}"\ntenant = "{TENANT}"\n'
    )
    database = open_storage(database_url)
    enrol_directly(database, Machine(name="press-1"))
    with database.write() as session:
        token = operator_token(session, "ann", Role.ADMIN, time.time())
    database.close()
    return config, {"Authorization": f"Bearer {token}"}


class Asking:
    """Threads that read, write and listen without a pause, and note what they were answered."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.url, self.headers = url, headers
        self.answers: Counter[tuple[str, int]] = Counter()
        self.unwell: list[str] = []
        self.heard: list[str] = []
        self._stop = threading.Event()
        asks = (self._read, self._read, self._write, self._stream)
        self._threads = [threading.Thread(target=ask) for ask in asks]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def count(self, what: str, status: int) -> int:
        return self.answers[what, status]

    def _note(self, what: str, answer: httpx.Response) -> None:
        self.answers[what, answer.status_code] += 1
        is_as_documented = answer.is_success or (
            answer.status_code == 503
            and answer.headers.get("Retry-After", "").isdecimal()
            and "database" in answer.json()["detail"]
        )
        if not is_as_documented:
            self.unwell.append(f"{what}: {answer.status_code} {answer.text[:300]}")

    def _read(self) -> None:
        with httpx.Client(base_url=self.url, headers=self.headers, timeout=AMPLE_S) as http:
            while not self._stop.is_set():
                self._note("read", http.get("/v1/devices"))

    def _write(self) -> None:
        with httpx.Client(base_url=self.url, headers=self.headers, timeout=AMPLE_S) as http:
            number = 0
            while not self._stop.is_set():
                number += 1
                body = {"settings": {"health.every_s": 10 + number % 20}}
                self._note("write", http.put("/v1/devices/press-1/settings", json=body))

    def _stream(self) -> None:
        with (
            httpx.Client(base_url=self.url, headers=self.headers, timeout=AMPLE_S) as http,
            http.stream("GET", "/v1/events?kinds=audit") as answer,
        ):
            self.answers["stream", answer.status_code] += 1
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    self.heard.append(json.loads(line.removeprefix("data: "))["what"])
                if self._stop.is_set():
                    return


def test_postgresql_killed_and_restarted_under_reads_writes_and_a_stream(
    tmp_path: Path, server: PostgresqlServer
) -> None:
    config, headers = settle(tmp_path, f"postgresql+psycopg://fedge@/fleet?host={server.folder}")
    log = tmp_path / "fleet.log"
    with (
        fleet_process(config, log) as (child, url),
        Asking(url, headers) as asking,
    ):
        wait_until(lambda: asking.count("write", 200) and asking.heard, "the fleet to answer")
        server.stop(signal.SIGQUIT)
        wait_until(
            lambda: asking.count("read", 503) > 5 and asking.count("write", 503) > 1, "that to be noticed"
        )
        unwell = httpx.get(f"{url}/healthz", timeout=AMPLE_S)
        assert (unwell.status_code, unwell.json()["database"]) == (503, "it does not answer")
        assert httpx.get(f"{url}/v1/devices", timeout=AMPLE_S).status_code == 401, "needs no database"
        server.start()
        reads, writes, heard = asking.count("read", 200), asking.count("write", 200), len(asking.heard)
        wait_until(
            lambda: (
                asking.count("read", 200) > reads + 5
                and asking.count("write", 200) > writes + 1
                and len(asking.heard) > heard
            ),
            "everybody to be answered again",
        )
        assert httpx.get(f"{url}/healthz", timeout=AMPLE_S).json()["database"] is None
        child.terminate()
        asking._stop.set()
        child.wait()
    assert asking.unwell == []
    assert asking.count("stream", 200) == 1, "one connection, which outlived the outage"
    lines = log.read_text()
    assert [lines.count(f'"{event}"') for event in ("database_away", "database_back")] == [1, 1], lines
    assert [line for line in lines.splitlines() if "Traceback" in line] == []


def test_while_another_program_holds_the_lock_a_crowd_of_writers_leaves_room_for_readers(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "QUEUE_S", AMPLE_S)  # who waits in vain would wait for ever
    monkeypatch.setattr(base, "CROWD_S", 0.01)
    make_trust(tmp_path / "data")
    (tmp_path / "fleet.toml").write_text(f'data_dir = "data"\ntenant = "{TENANT}"\n')
    enrol_directly(database, Machine(name="press-1"))
    with database.write() as session:
        token = operator_token(session, "ann", Role.ADMIN, time.time())
    crowd = 60
    settings = load_fleet_settings(tmp_path / "fleet.toml")
    answers: list[Any] = []
    with TestClient(build_app(settings, database), raise_server_exceptions=False) as http:
        http.headers["Authorization"] = f"Bearer {token}"
        path, body = "/v1/devices/press-1/settings", {"settings": {"health.every_s": 20}}
        release = threading.Event()
        holding = threading.Event()

        def hold() -> None:
            engine = create_engine(database.engine.url, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                is_sqlite = engine.dialect.name == "sqlite"
                connection.exec_driver_sql(
                    "BEGIN IMMEDIATE" if is_sqlite else f"SELECT pg_advisory_lock({WRITE_LOCK})"
                )
                holding.set()
                release.wait()
                connection.exec_driver_sql(
                    "ROLLBACK" if is_sqlite else f"SELECT pg_advisory_unlock({WRITE_LOCK})"
                )
            engine.dispose()

        threads = [threading.Thread(target=hold)]
        threads[0].start()
        holding.wait()
        threads += [
            threading.Thread(target=lambda: answers.append(http.put(path, json=body))) for _ in range(crowd)
        ]
        for thread in threads[1:]:
            thread.start()
        try:
            most = crowd - base.CROWD - 1
            wait_until(
                lambda: len(answers) >= most - 5, "the crowd to be sent away", progress=lambda: len(answers)
            )
            assert {answer.status_code for answer in answers} == {503}
            assert http.get("/v1/devices").status_code == 200, "who reads is answered meanwhile"
            health = http.get("/healthz").json()
            assert (health["status"], health["is_storing"]) == ("ok", False)
            assert health["database"] == "another transaction holds it"
        finally:
            release.set()
            for thread in threads:
                thread.join()
        assert {answer.status_code for answer in answers[most:]} <= {200, 503}
        assert http.put(path, json=body).status_code == 200
        wait_until(
            lambda: http.put(path, json=body).is_success and http.get("/healthz").json()["database"] is None,
            "that to be believed",
        )


def test_a_transaction_that_said_nothing_for_too_long_is_the_roads_fault_and_no_failure_of_ours(
    database: Database,
) -> None:
    if database.engine.dialect.name == "sqlite":
        return  # there nobody ends a transaction of ours
    others = create_engine(database.engine.url)

    def is_gone(number: int | None) -> bool:
        with others.connect() as connection:
            found = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
            return connection.scalar(found, {"pid": number}) == 0

    def say_nothing() -> None:
        with database.write() as session:
            number = session.scalar(text("SELECT pg_backend_pid()"))
            session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '1ms'"))
            wait_until(lambda: is_gone(number), "the server to end the session")
            session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseAwayError, match="does not answer"):
        say_nothing()
    others.dispose()

    def is_well() -> bool:
        with database.write() as session:
            session.execute(text("SELECT 1"))
        return database.watch.outage is None

    wait_until(is_well, "that to be believed")


def fail(reason: str) -> None:
    raise OperationalError("SELECT 1", {}, Exception(reason))


def test_a_connection_that_still_answers_while_the_database_goes_down_is_no_return() -> None:
    seconds = [0.0]
    watch = OutageWatch(lambda: seconds[0])
    with capture_logs() as logs:
        with watch.watched(writes=False):  # begun before, and done after
            with pytest.raises(DatabaseAwayError), watch.watched(writes=False):
                fail("terminating connection")
            seconds[0] = 0.01
        assert watch.outage is not None
        with watch.watched(writes=True):  # right after it, by a connection whose end is still to come
            seconds[0] = 1.0
        assert watch.outage is not None
        with pytest.raises(DatabaseAwayError), watch.watched(writes=True):
            fail("terminating connection")
        assert [line["event"] for line in logs] == ["database_away"]
        seconds[0] = 2.0
        with watch.watched(writes=False):
            pass
    assert watch.outage is None
    assert [(line["event"], line.get("away_s")) for line in logs] == [
        ("database_away", None),
        ("database_back", 2.0),
    ]


def test_that_nothing_can_be_written_does_not_hide_that_reading_is_possible_again() -> None:
    seconds = [0.0]
    watch = OutageWatch(lambda: seconds[0])
    with pytest.raises(DatabaseAwayError), watch.watched(writes=False):
        fail("connection refused")
    seconds[0] = 5.0
    with pytest.raises(DatabaseAwayError), watch.watched(writes=True):
        raise DatabaseAwayError("another transaction holds it")
    with watch.watched(writes=False):
        pass
    assert watch.outage is None
