"""The service as it runs: a real process, the real broker, kill -9 of either, and the command line."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from command_line import run_command
from fleet_world import (
    NOW,
    TENANT,
    DeviceClient,
    Machine,
    anomaly,
    broker_process,
    bundle,
    enrol_directly,
    fleet_process,
    health,
    kill,
    make_claims,
    make_trust,
    operator_token,
    shown_by,
)
from free_ports import free_port
from mosquitto_broker import LocalCertificates
from secret_file import secret_file
from sqlalchemy import select
from waiting import AMPLE_S, wait_until

from fleet.ingest.store import EventStore
from fleet.metrics import FleetMetrics
from fleet.migrations.upgrade import open_storage
from fleet.storage.base import Database
from fleet.storage.device_tables import Desired
from fleet.storage.event_tables import Anomaly
from protocol.messages.envelope import decode
from protocol.messages.kinds import Kind
from protocol.messages.payloads import DesiredState
from service.roles import Role

pytestmark = pytest.mark.slow


class Site:
    """A folder with fleet.toml, and what a person would type there."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder, self._database_url = folder, database_url
        self.port = free_port()
        self.log = folder / "fleet.log"
        self.shut_out = folder / "shut-out"
        self.config = folder / "fleet.toml"
        make_trust(folder / "data")
        self.certificates = LocalCertificates(folder / "pki")
        self.certificates.service("fleet")
        self.config.write_text(
            f"""
            listen = "127.0.0.1:0"
            data_dir = "data"
            database_url = "{database_url}"
            tenant = "{TENANT}"
            [mqtt]
            url = "mqtts://127.0.0.1:{self.port}"
            ca_file = "pki/ca.pem"
            tls_cert = "pki/fleet.pem"
            tls_key = "pki/fleet.key"
            shut_out = "file"
            shut_out_file = "shut-out"
            reconnect_s = 0.1
            """
        )

    def cli(self, *arguments: str, status: int = 0) -> str:
        done = run_command("fleet", *arguments)
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    def database(self) -> Database:
        return open_storage(self._database_url)

    def token(self, role: Role = Role.ADMIN) -> str:
        database = self.database()
        with database.write() as session:
            token = operator_token(session, f"a-{role}", role)
        database.close()
        return token

    def claim(self) -> str:
        database = self.database()
        (claim,) = make_claims(database, now=time.time())
        database.close()
        return claim

    def enrol(self, url: str, machine: Machine) -> DeviceClient:
        answer = httpx.post(
            f"{url}/v1/enrolments",
            json=machine.enrolment(),
            headers={"Authorization": f"Bearer {self.claim()}"},
            timeout=AMPLE_S,
        )
        assert answer.status_code == 201, answer.text
        own = shown_by(machine, answer.json()["certificate"], self.folder)
        client = DeviceClient(self.port, machine.name, self.certificates.context(own))
        client.connected.wait()
        return client

    def broker(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        # the fleet makes its device CA when it starts; a broker that does not know it lets no device in
        return broker_process(self.port, self.folder, self.certificates)

    def stored(self) -> list[int]:
        database = self.database()
        with database.read() as session:
            rows = list(session.scalars(select(Anomaly.sequence).order_by(Anomaly.sequence)))
        database.close()
        return rows


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Site:
    return Site(tmp_path, database_url)


def is_connected(url: str) -> bool:
    return bool(httpx.get(f"{url}/healthz", timeout=AMPLE_S).json()["broker_connected"])


@pytest.fixture
def closing() -> Iterator[list[DeviceClient]]:
    clients: list[DeviceClient] = []
    yield clients
    for client in clients:
        client.close()


def test_killing_the_fleet_in_the_middle_of_ingest_loses_nothing_that_was_acknowledged(
    site: Site, closing: list[DeviceClient]
) -> None:
    machine = Machine(name="press-1")
    events = {n: machine.event(anomaly(window_index=n), sequence=n) for n in range(1, 401)}
    with site.broker():
        with fleet_process(site.config, site.log) as (child, url):
            wait_until(lambda: is_connected(url), "the fleet to reach the broker")
            client = site.enrol(url, machine)
            closing.append(client)
            for event in events.values():
                client.publish(event)
            wait_until(lambda: client.acked, "the first acknowledgement")
            kill(child)
            acked_before = {n for _, n in client.acked}
        assert acked_before
        assert acked_before <= set(site.stored())
        with fleet_process(site.config, site.log) as (_, url):
            wait_until(lambda: is_connected(url), "the new fleet to reach the broker")

            def resend() -> bool:
                missing = [e for n, e in events.items() if ("boot-1", n) not in client.acked]
                for event in missing:
                    client.publish(event)
                return not missing

            wait_until(resend, "every event to be acknowledged")
    assert site.stored() == list(range(1, 401))


def test_desired_states_reach_devices_again_after_the_broker_was_killed_and_forgot_them(
    site: Site, closing: list[DeviceClient]
) -> None:
    machine = Machine(name="press-1")
    with fleet_process(site.config, site.log) as (_, url):
        assert not is_connected(url)  # no broker yet: the API works all the same
        with site.broker() as broker:
            wait_until(lambda: is_connected(url), "the fleet to find the broker")
            first = site.enrol(url, machine)
            first.publish_raw(Kind.HEALTH, b'{"specversion"')  # a truncated payload disturbs nobody
            first.publish(machine.event(health()))
            wait_until(lambda: first.acked == {("boot-1", 1)}, "the health message to be acknowledged")
            first.close()
            database = site.database()
            with database.write() as session:
                session.add(
                    Desired(
                        device="press-1",
                        execution="e1",
                        release="motor/1",
                        counter=1,
                        set_at=NOW,
                        bundle_path="/v1/releases/motor/1/bundle",
                        bundle_sha256="0" * 64,
                        bundle_bytes=10,
                    )  # fmt: skip - one line of fields
                )
            database.close()
            kill(broker)
        wait_until(lambda: not is_connected(url), "the fleet to notice that the broker is gone")
        with site.broker():
            wait_until(lambda: is_connected(url), "the fleet to be back")
            second = site.enrol(url, machine)
            closing.append(second)
            wait_until(lambda: second.desired, "the retained desired state")
            state = decode(second.desired[0], Kind.DESIRED).data
    assert isinstance(state, DesiredState)
    assert (state.release, state.counter) == ("motor/1", 1)


def test_the_command_line_shows_tables_to_people_and_json_to_programs(site: Site) -> None:
    token_file = site.folder / "token"
    secret_file(token_file, site.token(Role.PUBLISHER))
    site.config.write_text(
        "tls_cert = 'pki/server.pem'\ntls_key = 'pki/server.key'\n" + site.config.read_text()
    )
    with fleet_process(site.config, site.log) as (_, url):
        assert url.startswith("https://")
        reach = ("--url", url, "--ca", str(site.certificates.ca_file), "--token-file", str(token_file))
        headers = {"Authorization": f"Bearer {token_file.read_text()}"}
        httpx.post(
            f"{url}/v1/releases", content=bundle(1), headers=headers, verify=str(site.certificates.ca_file)
        )
        assert "motor/1" in site.cli("releases", "list", *reach)
        assert "needs viewer" in site.cli("anomalies", *reach, status=1)
        secret_file(token_file, site.token(Role.VIEWER))
        assert json.loads(site.cli("releases", "list", "--json", *reach))[0]["id"] == "motor/1"
        assert json.loads(site.cli("devices", "list", "--json", *reach)) == []
        assert json.loads(site.cli("anomalies", "--json", *reach)) == []
        assert json.loads(site.cli("drift", "--summary", "--family", "motor", *reach))["devices"] == 0
        assert "nothing is known of its precision yet" in site.cli("precision", "--family", "motor", *reach)
        assert "needs operator" in site.cli("judge", "1", "false_alarm", *reach, status=1)
        assert json.loads(site.cli("dead-letters", "list", "--json", *reach)) == []
        assert "0 of 0 dead letters" in site.cli("dead-letters", "list", *reach)
        assert "Name one, or give" in site.cli("dead-letters", "drop", *reach, status=1)
        assert "needs operator" in site.cli("dead-letters", "replay", "--all", *reach, status=1)
        refused = site.cli("devices", "revoke", "press-1", "--yes", *reach, status=1)
        assert refused.count("\n") == 1
        assert "needs admin" in refused
        assert "certificate" in site.cli(
            "devices", "list", "--url", url, "--token-file", str(token_file), status=1
        )
        secret_file(token_file, "fo_wrong")
        assert "401" in site.cli("devices", "list", *reach, status=1)
    assert "no answer from the fleet" in site.cli("devices", "list", *reach, status=1)


def test_an_alarm_is_judged_on_the_command_line(site: Site) -> None:
    machine, token_file = Machine(name="press-1"), site.folder / "token"
    secret_file(token_file, site.token(Role.OPERATOR))
    database = site.database()
    enrol_directly(database, machine)
    EventStore(database, TENANT, FleetMetrics()).store([machine.arrival(anomaly())])
    database.close()
    with fleet_process(site.config, site.log) as (_, url):
        reach = ("--url", url, "--token-file", str(token_file))
        found = json.loads(site.cli("anomalies", "--json", *reach))[0]["id"]
        said = site.cli("judge", str(found), "false_alarm", "--note", "a forklift", *reach)
        assert f"anomaly {found} of motor/1: false_alarm" in said
        summary = json.loads(site.cli("precision", "--family", "motor", "--json", *reach))
        assert summary["releases"][0]["false_alarms"] == 1


def test_secrets_are_printed_once_and_files_of_secrets_are_private(site: Site) -> None:
    config = str(site.config)
    create = ("tokens", "create", "--role", "admin", "--name", "ann", "--person", "ann", "--config", config)
    token = site.cli(*create).strip()
    claim = site.cli("claims", "create", "--family", "motor", "--unreleased", "--config", config).split()[0]
    assert token.startswith("fo_")
    assert claim.startswith("fc_")
    listed = site.cli("tokens", "list", "--json", "--config", config)
    assert "ann" in listed
    assert token not in listed
    again = site.cli(*create, status=1)
    assert "exists" in again
    with fleet_process(site.config, site.log):
        for secret in ("device-ca.key", "instruction.key"):
            assert stat.S_IMODE((site.folder / "data" / secret).stat().st_mode) == 0o600
    assert token not in site.log.read_text()


def test_a_port_in_use_is_one_line_and_no_trace(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # in this process: another test's logs would go the service's way, for good
    monkeypatch.setattr("fleet.app.configure_logging", lambda *, as_json: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        site.config.write_text(site.config.read_text().replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"'))
        line = site.cli("serve", "--config", str(site.config), status=1)
    assert line.count("\n") == 1
    assert f"127.0.0.1:{port}" in line
    assert "choose another" in line


def test_sigterm_ends_the_service_with_status_0(site: Site) -> None:
    with fleet_process(site.config, site.log) as (child, _):
        child.terminate()
        assert child.wait() == 0
