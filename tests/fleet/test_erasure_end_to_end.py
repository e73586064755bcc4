"""An erasure for real: over HTTPS, with a real Mosquitto, of a device that is online and goes on speaking."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from secret_file import secret_file

sys.path.append(str(Path(__file__).parents[1] / "edge_agent"))

from agent_broker import ListeningFleet
from agent_process_world import alarming_device, broker
from agent_world import DEVICE, TENANT, running_agent
from command_line import run_command
from free_ports import free_port
from https_world import make_certificate
from mosquitto_broker import MosquittoBroker
from site_world import Site
from waiting import wait_until

from edge_agent.fleet_client import FleetEndpoint
from fleet.migrations.upgrade import open_storage
from fleet.storage.schema import METADATA
from protocol.messages.envelope import encode, kind_of
from protocol.messages.kinds import Kind
from protocol.topics import device_topic

__all__ = ["broker"]  # the fixture
pytestmark = pytest.mark.long

DUPLICATES = "fedge_fleet_events_duplicate_total"
STRANGERS = 'fedge_fleet_events_refused_total{reason="unknown_device"}'
EVENT_TABLES = [
    table for table in METADATA.sorted_tables if {"device", "boot_id", "sequence"} <= {*table.c.keys()}
]


class ErasingSite(Site):
    """A machine that alarms steadily, an admin at the command line, and somebody who keeps all messages of the broker."""

    def __init__(self, folder: Path, broker: MosquittoBroker, database_url: str) -> None:
        port, (self._ca, _, _) = free_port(), make_certificate(folder)
        self._url = f"https://127.0.0.1:{port}"
        tls = 'tls_cert = "tls.pem"\ntls_key = "tls.key"\n'
        agent = alarming_device(folder / "device", broker)
        super().__init__(folder, broker, agent, port=port, extra=f'{tls}database_url = "{database_url}"\n')
        secret_file(folder / "admin.token", self.token("admin"))
        self.database = open_storage(database_url)
        self._endpoint = FleetEndpoint(url=self._url, ca_file=self._ca)
        self.listener = ListeningFleet(broker, acknowledges=False)

    def close(self) -> None:
        self.listener.close()
        self.database.close()

    def run(self, *words: str) -> str:
        """``fedge-fleet devices …`` as an admin."""
        road = ("--url", self._url, "--ca", str(self._ca), "--token-file", str(self.folder / "admin.token"))
        done = run_command("fleet", "devices", *words, *road)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stored(self) -> set[tuple[str, str, int]]:
        """(table, boot, sequence) of every event of the device that the fleet holds."""
        with self.database.read() as session:
            return {
                (table.name, boot, sequence)
                for table in EVENT_TABLES
                for boot, sequence in session.execute(
                    sa.select(table.c.boot_id, table.c.sequence).where(table.c.device == DEVICE)
                )
            }

    def counted(self, name: str) -> float:
        """A counter of the fleet service's."""
        token = (self.folder / "admin.token").read_text()
        text = self._endpoint.exchange(
            "GET", "/metrics", headers={"Authorization": f"Bearer {token}"}
        ).body.decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def anomalies(self) -> set[tuple[str, str, int]]:
        return {one for one in self.stored() if one[0] == "anomalies"}

    def say_again(self) -> int:
        """Everything that the device said so far, from its first word on, as a broker brings it late; returns how much."""
        said = list(self.listener.events.values())
        for event in said:
            self.listener.publish(device_topic(TENANT, DEVICE, kind_of(event.data)), encode(event))
        return len(said)

    def device(self) -> Any:
        return json.loads(self.run("show", DEVICE))


def test_of_a_device_that_is_online_nothing_that_was_erased_comes_back_by_late_messages_and_the_new_is_stored(
    tmp_path: Path, broker: MosquittoBroker, database_url: str
) -> None:
    broker.start()
    site = ErasingSite(tmp_path, broker, database_url)
    try:
        with site.fleet(), running_agent(site.agent) as agent:
            wait_until(lambda: len(site.anomalies()) >= 2, "two anomalies at the fleet")
            assert site.device()["labels"] == {"site": "hall-1"}
            before = site.stored()
            assert {table for table, _, _ in before} >= {"anomalies", "health_reports"}

            done = json.loads(site.run("erase", DEVICE, "--yes", "--json"))
            assert done["rows"]["anomalies"] >= 2
            assert agent.poll() is None, "it watches on"
            assert not before & site.stored()
            said = site.say_again()
            assert said >= len(before)
            wait_until(
                lambda: site.counted(DUPLICATES) >= len(before),
                "the late messages to be taken for what they are",
            )
            assert not before & site.stored()
            seen = site.anomalies()
            wait_until(lambda: site.anomalies() - seen, "what it makes from then on")
            assert site.device()["online"]
            assert not before & site.stored()

        # Its word of the second start brings what it says of itself; what it had not delivered is stored, the rest is not.
        with site.fleet(), running_agent(site.agent):
            wait_until(lambda: site.device()["labels"] == {"site": "hall-1"}, "its next birth")
            assert not before & site.stored()

            # For good: it is online still, and speaks to nobody.
            site.run("revoke", DEVICE, "--yes")
            assert json.loads(site.run("erase", DEVICE, "--yes", "--json"))["state"] == "revoked"
            said = site.say_again()
            heard = len(site.listener.of(Kind.ANOMALY))
            wait_until(lambda: site.counted(STRANGERS) >= said, "the late messages to be dropped")
            wait_until(lambda: len(site.listener.of(Kind.ANOMALY)) > heard, "it to speak on")
            assert site.stored() == set()
            assert (site.device()["labels"], site.device()["last_health"]) == ({}, None)
    finally:
        site.close()
    assert "Traceback" not in site.log.read_text()
