"""One process leads, another one takes over within seconds, and what a former leader still writes is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_world import kill
from sqlalchemy import select
from waiting import died, wait_until

from fleet.app import serve
from fleet.errors import NotLeaderError
from fleet.leadership import PostgresqlLeadership, alone_on, is_led
from fleet.migrations.upgrade import open_storage
from fleet.settings import Settings
from fleet.storage.access_tables import AuditEntry
from fleet.storage.base import Database
from fleet.storage.replica_tables import LeaderRecord
from service.errors import StartError


class Runner:
    """`leader_process` as a child of this test."""

    def __init__(self, folder: Path, url: str, name: str, stops: str = "") -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as out:
            program = Path(__file__).with_name("leader_process.py")
            self.child = subprocess.Popen([sys.executable, program, url, name, stops], stdout=out, stderr=out)

    def said(self, word: str) -> bool:
        return word in self.log.read_text().splitlines()

    def wait_for(self, word: str) -> None:
        wait_until(
            lambda: self.said(word),
            f"{self.log.stem} to say {word!r}",
            unless=lambda: died(self.child, self.log),
        )

    def is_stopped(self) -> bool:
        return Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def runners() -> Iterator[list[Runner]]:
    made: list[Runner] = []
    yield made
    for one in made:
        one.child.kill()
        one.child.wait()


@pytest.fixture
def meeting(postgresql_url: str) -> Iterator[Database]:
    """The database of all the others, open in this process too."""
    opened = open_storage(postgresql_url)
    yield opened
    opened.close()


def rows(url: str) -> list[tuple[str, str]]:
    database = open_storage(url)
    with database.read() as session:
        found = session.execute(select(AuditEntry.actor, AuditEntry.subject).order_by(AuditEntry.id))
        lines = list(found)
    database.close()
    return lines


@pytest.mark.slow
@pytest.mark.parametrize(("stops", "then"), [("before", "refused"), ("within", "ended")])
def test_a_leader_that_was_stopped_and_wakes_up_writes_nothing_more(
    tmp_path: Path, postgresql_url: str, runners: list[Runner], stops: str, then: str
) -> None:
    runners.append(first := Runner(tmp_path, postgresql_url, "first", stops))
    wait_until(first.is_stopped, "the leader to stop", unless=lambda: died(first.child, first.log))
    runners.append(second := Runner(tmp_path, postgresql_url, "second"))
    second.wait_for("wrote 3")
    os.kill(first.child.pid, signal.SIGCONT)
    first.wait_for(then)
    first.wait_for("leads no more")
    second.wait_for("wrote 10")
    written = rows(postgresql_url)
    assert written[:2] == [("first", "1"), ("first", "2")]
    assert {actor for actor, _ in written[2:]} == {"second"}, "nothing of the former leader after its epoch"


@pytest.mark.slow
def test_another_process_leads_within_seconds_after_the_leader_was_killed(
    tmp_path: Path, postgresql_url: str, runners: list[Runner]
) -> None:
    runners += [Runner(tmp_path, postgresql_url, "a"), Runner(tmp_path, postgresql_url, "b")]
    first = wait_until(lambda: next((r for r in runners if r.said("wrote 1")), None), "somebody to lead")
    assert first is not None
    (second,) = (one for one in runners if one is not first)
    assert not second.said("leads")
    began = time.monotonic()
    kill(first.child)
    second.wait_for("wrote 1")
    assert [line for line in second.log.read_text().splitlines() if line.startswith("leads")] == ["leads"]
    print(f"led again {time.monotonic() - began:.2f} s after the kill")


def leadership(database: Database, name: str, words: list[str] | None = None) -> PostgresqlLeadership:
    heard = [] if words is None else words
    return PostgresqlLeadership(database, instance=name, installation="one", hear=heard.append)


@pytest.mark.slow
def test_who_loses_its_connection_leads_no_more_at_once_and_may_lead_again_under_another_epoch(
    meeting: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.leadership.LOOKS_EVERY_S", 0.05)

    def end_its_session() -> None:
        with meeting.engine.begin() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )

    async def main() -> None:
        led = leadership(meeting, "only")
        begun: list[int] = []
        late: list[str] = []
        go_on = asyncio.Event()

        def write_late() -> None:
            try:
                with led.database.write():
                    late.append("written")
            except NotLeaderError:
                late.append("refused")

        async def work() -> None:
            begun.append(len(begun))
            if len(begun) == 1:
                try:
                    await asyncio.Event().wait()
                finally:
                    # what is begun in the first term and goes on in the second, as a thread does
                    await go_on.wait()
                    await asyncio.to_thread(write_late)
            await asyncio.Event().wait()

        running = asyncio.gather(led.run(), led.while_leading(work))
        try:
            await led.wait_until_leader()
            await asyncio.sleep(0.1)
            with led.database.write():
                pass
            assert await asyncio.to_thread(is_led, meeting)
            await asyncio.to_thread(end_its_session)
            await led._follows.wait()
            with pytest.raises(NotLeaderError), led.database.write():
                pass
            await led.wait_until_leader()
            go_on.set()
            while len(begun) < 2:
                await asyncio.sleep(0.01)
            assert late == ["refused"], "it leads again, but not under the epoch in which this was begun"
            with meeting.read() as session:
                assert session.scalar(select(LeaderRecord.epoch)) == 2
        finally:
            go_on.set()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.slow
def test_what_a_follower_changes_is_told_to_all_with_its_commit(meeting: Database) -> None:
    words: list[str] = []

    async def main() -> None:
        led = leadership(meeting, "only", words)
        running = asyncio.gather(led.run(), led.while_leading(asyncio.Event().wait))  # type: ignore[arg-type] # never returns
        await led.wait_until_leader()
        for who in (meeting, led.database):
            with who.write() as session:
                session.connection().exec_driver_sql("UPDATE rollouts SET name = name")
        while not words:
            await asyncio.sleep(0.01)
        assert words == ["rollouts"], "the leader tells itself nothing"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_a_sqlite_database_is_served_by_one_process_and_a_second_one_is_refused_with_words(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/data/fleet.sqlite"
    with (
        alone_on(url),
        pytest.raises(StartError, match=rf"process {os.getpid()} serves .*fleet.sqlite already.*PostgreSQL"),
        alone_on(url),
    ):
        raise AssertionError("two serve it")
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "data/fleet.sqlite")
    with alone_on(f"sqlite:///{tmp_path}/link.sqlite"), pytest.raises(StartError), alone_on(url):
        raise AssertionError("two serve it, each by its own name")


def test_a_service_does_not_begin_on_a_database_that_another_one_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # in this process: another test's logs would go the service's way, for good
    monkeypatch.setattr("fleet.app.configure_logging", lambda *, as_json: None)
    settings = Settings(data_dir=tmp_path, tenant="demo", listen="127.0.0.1:0")
    with alone_on(settings.effective_database_url), pytest.raises(StartError, match=r"serves .* already"):
        serve(settings)
    assert not (tmp_path / "fleet.sqlite").exists(), "and has not touched it"
