"""Parts on their own: settings, migrations, transactions, what waits to be published, intake."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from databases import Databases
from fleet_world import NOW, TENANT, Machine, anomaly, enrol_directly
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from fleet import audit, errors
from fleet.app import check_files
from fleet.errors import FleetError
from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.migrations.upgrade import open_storage
from fleet.mqtt.outgoing import Outgoing
from fleet.settings import Settings, load_fleet_settings
from fleet.storage.access_tables import AuditEntry
from fleet.storage.base import Database, open_database
from fleet.storage.device_tables import Device
from fleet.storage.schema import METADATA
from protocol.limits import MAX_PAYLOAD_BYTES, MAX_RANGES
from protocol.messages.envelope import Event, encode
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack, BootAck
from runtime.errors import SettingsError, StorageError
from service.errors import StartError

MINIMAL = """
data_dir = "data"
tenant = "demo"
"""


def settings_of(folder: Path, content: str) -> Settings:
    (folder / "fleet.toml").write_text(content)
    return load_fleet_settings(folder / "fleet.toml")


def test_paths_are_relative_to_the_file_and_the_database_lies_in_data_dir(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, MINIMAL)
    assert settings.effective_database_url == f"sqlite:///{tmp_path}/data/fleet.sqlite"


def test_an_environment_variable_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDGE_FLEET_SERVICE_TENANT", "factory")
    assert settings_of(tmp_path, MINIMAL).tenant == "factory"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (MINIMAL + 'tls_crt = "x"', "fleet.toml:4: unknown key 'tls_crt'; did you mean 'tls_cert'?"),
        (MINIMAL + "[mqtt]\nulr='mqtt://127.0.0.1'", "did you mean 'mqtt.url'?"),
        (MINIMAL + "[enrolment]\nclaims='x'", "certificate_lifetime_s"),
        (MINIMAL + "zzzz = 1", "valid here"),
        (MINIMAL.replace("tenant", "#"), "tenant is missing"),
        (MINIMAL.replace('"demo"', '"de/mo"'), "'de/mo'"),
        (MINIMAL + "release_keys = ['x']", "said by the signed repository"),
        (MINIMAL + "listen = '127.0.0.1'", "not host:port"),
        (MINIMAL + "listen = '127.0.0.1:99999'", "not host:port"),
        (MINIMAL + "listen = '0.0.0.0:8443'", "reachable from other machines"),
        (MINIMAL + "tls_cert = 'x'", "belong together"),
        (MINIMAL + "offline_after_s = -1", "offline_after_s"),
        (MINIMAL + "[mqtt]\nurl='mqtt://broker.example'", "mqtts://"),
        (MINIMAL + "[mqtt]\nurl='mqtt://a:b@127.0.0.1'", "no user"),
        (MINIMAL + "[mqtt]\nurl='http://127.0.0.1'", "mqtt://"),
        (MINIMAL + "[mqtt]\nurl='mqtts://b'", "needs tls_cert and tls_key"),
        (MINIMAL + "[mqtt]\nurl='mqtt://127.0.0.1'\nshut_out_file='x'", "do not belong together"),
        (MINIMAL + "[mqtt]\nurl='mqtt://127.0.0.1'\nshut_out='file'", "needs a shut_out_file"),
        (MINIMAL + "[mqtt]\nurl='mqtt://127.0.0.1'\nshut_out='sighup'", "dynamic-security"),
        (MINIMAL + "[mqtt]\nurl='mqtts://b'\nusername='fleet'", "by the name in its certificate"),
        (MINIMAL + "[mqtt]\nurl='mqtts://b'\npassword_file='x'", "give tls_cert and tls_key"),
        (MINIMAL + "[mqtt]\nurl='mqtts://b'\naccounts='password-file'", "shut_out says how"),
        (MINIMAL + "[mqtt]\nurl='mqtts://b'\naccounts_file='x'", "shut_out_file names who is revoked"),
        (
            MINIMAL + "[mqtt]\nurl='mqtts://b'\nservices={aggregator='x'}",
            "shows the broker its own certificate",
        ),
        ("tenant = ", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_valid(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_of(tmp_path, content)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_of_settings_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml"):
        load_fleet_settings(tmp_path / "none.toml")


def test_files_that_the_settings_name_are_checked_before_anything_starts(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, MINIMAL + "tls_cert = 'c'\ntls_key = 'k'")
    with pytest.raises(StartError, match="cannot be used"):
        check_files(settings)
    settings = settings_of(tmp_path, MINIMAL + "[mqtt]\nurl='mqtts://b'\ntls_cert='p'\ntls_key='p'")
    (tmp_path / "p").write_text("\n")
    with pytest.raises(
        SettingsError, match=r"mqtt\.tls_cert .*p and mqtt\.tls_key .*p cannot be used together"
    ):
        check_files(settings)


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite+nodriver:///x"])
def test_a_database_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises((SettingsError, Exception), match=r"valid|driver|dialect"):
        open_database(url)


def test_the_migrations_give_exactly_the_tables_of_the_code(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_the_folder_of_a_new_sqlite_file_is_made(tmp_path: Path) -> None:
    open_storage(f"sqlite:///{tmp_path}/new/fleet.sqlite").close()
    assert (tmp_path / "new/fleet.sqlite").exists()


def test_several_programs_may_bring_one_database_up_to_date_at_the_same_time(databases: Databases) -> None:
    with databases.fresh(is_migrated=False) as url:
        together = threading.Barrier(4)

        def start() -> Database:
            together.wait()
            return open_storage(url)

        with ThreadPoolExecutor(4) as pool:
            opened = [pool.submit(start) for _ in range(4)]
        for one in opened:
            with one.result().read() as session:
                assert session.scalars(select(AuditEntry)).all() == []
            one.result().close()


def test_migrating_twice_changes_nothing_and_a_newer_schema_is_refused(database_url: str) -> None:
    database = open_storage(database_url)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(StorageError, match="9999"):
        open_storage(database_url)


def test_sqlite_commits_are_durable(tmp_path: Path) -> None:
    database = open_storage(f"sqlite:///{tmp_path}/fleet.sqlite")
    with database.read() as session:
        assert session.execute(text("PRAGMA synchronous")).scalar() == 2
        assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1
    database.close()


def test_what_a_writer_read_stays_true_until_it_commits(database: Database, database_url: str) -> None:
    other = open_storage(database_url)  # as another process: it shares no lock

    def write_many(through: Database) -> None:
        for _ in range(20):
            with through.write() as session:
                # a number that is free is looked for and then taken, as every decision of the fleet is made
                taken = session.scalar(select(func.count()).select_from(AuditEntry))
                audit.record(session, at=NOW, actor="a", action="x", subject=str(taken))

    threads = [threading.Thread(target=write_many, args=(d,)) for d in (database, other, database)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        assert sorted(map(int, session.scalars(select(AuditEntry.subject)))) == list(range(60))
    other.close()


def test_a_reader_sees_one_moment_from_its_first_look_to_its_last(database: Database) -> None:
    with database.read() as reading:
        assert reading.scalar(select(func.count()).select_from(AuditEntry)) == 0
        with database.write() as session:
            audit.record(session, at=NOW, actor="a", action="x", subject="s")
        assert reading.scalar(select(func.count()).select_from(AuditEntry)) == 0
    with database.read() as reading:
        assert reading.scalar(select(func.count()).select_from(AuditEntry)) == 1


def test_a_write_that_raises_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as session:
            audit.record(session, at=NOW, actor="a", action="x", subject="s")
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as session:
        assert session.scalars(select(AuditEntry)).all() == []


def test_waiting_acknowledgements_of_a_device_merge_and_fit_a_payload() -> None:
    async def story() -> None:
        outgoing = Outgoing()
        outgoing.acknowledge({"a": Ack(boots=(BootAck(boot_id="b", ranges=((1, 3),)),))})
        outgoing.acknowledge({"a": Ack(boots=(BootAck(boot_id="b", ranges=((4, 6), (9, 9))),))})
        assert outgoing.take_acks() == {"a": (Ack(boots=(BootAck(boot_id="b", ranges=((1, 6), (9, 9))),)),)}
        assert outgoing.take_acks() == {}
        big = 10**17
        ranges = tuple((big + 2 * n, big + 2 * n) for n in range(3 * MAX_RANGES + 1))
        outgoing.acknowledge({"a": Ack(boots=(BootAck(boot_id="b" * 64, ranges=ranges),))})
        messages = outgoing.take_acks()["a"]
        assert tuple(r for m in messages for boot in m.boots for r in boot.ranges) == ranges
        for message in messages:
            event = Event(source="fleet", boot_id="x", sequence=1, time=NOW, data=message)
            assert len(encode(event)) < MAX_PAYLOAD_BYTES

    asyncio.run(story())


def test_announcing_from_a_thread_wakes_the_loop_once_per_device() -> None:
    async def story() -> None:
        outgoing = Outgoing()
        await asyncio.gather(*(asyncio.to_thread(outgoing.announce, ["a", "b"]) for _ in range(5)))
        await asyncio.to_thread(outgoing.announce, ["b"], Kind.COMMANDS)
        await outgoing.retained_waiting.wait()
        assert outgoing.take_news(9) == [(Kind.DESIRED, "a"), (Kind.DESIRED, "b"), (Kind.COMMANDS, "b")]
        assert outgoing.take_news(9) == []
        assert not outgoing.retained_waiting.is_set()

    asyncio.run(story())


def test_a_store_that_cannot_write_acknowledges_nothing(database: Database) -> None:
    machine = Machine(name="a")
    enrol_directly(database, machine)
    with database.write() as session:
        session.execute(text("ALTER TABLE anomalies RENAME TO anomalies_of_another_build"))
    with pytest.raises(SQLAlchemyError):
        EventStore(database, TENANT, FleetMetrics()).store([machine.arrival(anomaly())])
    with database.read() as session:
        assert session.get(Device, "a") is not None
        assert session.scalars(text("SELECT count(*) FROM event_ranges")).one() == 0


def test_every_error_is_in_the_tree_and_the_tree_names_only_errors() -> None:
    drawn = {
        word.strip("│├└─ ").split()[0]
        for word in (errors.__doc__ or "").splitlines()
        if "Error" in word and not word.startswith("Everything")
    }
    assert drawn == set(errors.__all__)
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), FleetError)
