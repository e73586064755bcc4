"""A release on its way through a real fleet service, a real Mosquitto that somebody else writes to, and a real agent."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
import pytest
from agent_broker import FLEET_PASSWORD, agents_broker
from agent_world import (
    DEVICE,
    RELEASE_KEY,
    TENANT,
    healthy,
    make_bundle,
    running_agent,
    status_of,
    write_device,
)
from command_line import run_command
from cryptography.hazmat.primitives import serialization
from free_ports import free_port
from https_world import make_certificate
from installation_world import ask
from mosquitto_broker import MosquittoBroker
from waiting import died, wait_until

from edge_agent.enrolled import load_device_key
from edge_agent.fleet_client import FleetEndpoint
from fleet.migrations.upgrade import open_storage
from fleet.settings import load_fleet_settings
from fleet.storage.device_tables import Device
from protocol.identity import fingerprint, public_key_pem
from protocol.limits import MAX_INTEGER
from protocol.messages.envelope import Event, encode
from protocol.messages.kinds import Kind
from protocol.messages.payloads import DesiredState
from protocol.topics import device_topic

pytestmark = pytest.mark.long


class Site:
    """A broker, a fleet with HTTPS beside it, and a device with a factory bundle that both know."""

    def __init__(self, folder: Path, broker: MosquittoBroker) -> None:
        self.broker, self.folder, self.log = broker, folder, folder / "fleet.log"
        port, (ca, _, _) = free_port(), make_certificate(folder)
        self.url = f"https://127.0.0.1:{port}"
        self.agent = write_device(
            folder / "device",
            rows=healthy(2000),
            speed=20.0,
            mqtt_url=broker.url,
            mqtt_ca=broker.ca_file,
            bundle=make_bundle(1),
            extra=f'[fleet]\nurl = "{self.url}"\nca_file = "{ca}"\n',
        )
        (folder / "fleet.password").write_text(f"{FLEET_PASSWORD}\n")
        self.config, self.endpoint = folder / "fleet.toml", FleetEndpoint(url=self.url, ca_file=ca)
        self.config.write_text(
            f'listen = "127.0.0.1:{port}"\ntls_cert = "tls.pem"\ntls_key = "tls.key"\ndata_dir = "data"\n'
            f'tenant = "{TENANT}"\nrelease_keys = ["device/release.pub.pem"]\n'
            f'[mqtt]\nurl = "{broker.url}"\nca_file = "{broker.ca_file}"\npassword_file = "fleet.password"\n'
            'accounts = "none"\nreconnect_s = 0.1\n'
        )
        self._enrol()
        made = {
            role: run_command(
                "fleet", "tokens", "create", "--role", role, "--name", role, "--config", str(self.config)
            )
            for role in ("admin", "publisher")
        }
        self._tokens = {role: done.stdout.split()[-1] for role, done in made.items()}

    def _enrol(self) -> None:
        database = open_storage(load_fleet_settings(self.config).effective_database_url)
        key = load_device_key(self.agent.parent / "state" / "device.key").public_key()
        with database.write() as session:
            session.add(
                Device(
                    id=DEVICE,
                    fingerprint=fingerprint(key),
                    public_key=public_key_pem(key).decode(),
                    hardware="rpi4",
                    family="pump",
                    labels={},
                    enrolled_at=0.0,
                    broker_password_hash="-",
                )
            )
        database.close()

    @contextmanager
    def fleet(self) -> Iterator[None]:
        with self.log.open("ab") as log:
            start = self.log.stat().st_size
            child = subprocess.Popen(
                [sys.executable, "-m", "fleet", "serve", "--config", str(self.config)], stdout=log, stderr=log
            )
        try:
            wait_until(
                lambda: '"listening"' in self.log.read_text()[start:],
                "the fleet to listen",
                unless=lambda: died(child, self.log),
            )
            yield
        finally:
            child.kill()
            child.wait()

    def call(self, role: str, method: str, path: str, body: bytes | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self._tokens[role]}", "Content-Type": "application/json"}
        answer = self.endpoint.exchange(method, path, headers=headers, body=body)
        return msgspec.json.decode(answer.body or b"{}")

    def roll_out(self, version: int, threshold: float = 4.0) -> str:
        """Publish a release and give it to the device; returns the rollout."""
        self.call("publisher", "POST", "/v1/releases", make_bundle(version, threshold=threshold))
        plan = {"name": "r", "release": f"pump/{version}", "groups": [{"percentage": 100}]}
        rollout = self.call("admin", "POST", "/v1/rollouts", msgspec.json.encode(plan))["id"]
        self.call("admin", "POST", f"/v1/rollouts/{rollout}:start", b"")
        return str(rollout)

    def execution(self, rollout: str) -> dict[str, Any]:
        (one,) = self.call("admin", "GET", f"/v1/rollouts/{rollout}/groups/0/executions")["items"]
        found: dict[str, Any] = one
        return found

    def say_as_the_broker(self, desired: DesiredState) -> None:
        """A retained word that is not the fleet's."""
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="eve")
        client.tls_set_context(self.broker.client_tls())
        client.username_pw_set("fleet", FLEET_PASSWORD)
        client.connect("127.0.0.1", self.broker.port)
        client.loop_start()
        event = Event(source="fleet", boot_id="eve", sequence=1, time=1.8e9, data=desired)
        topic = device_topic(TENANT, DEVICE, Kind.DESIRED)
        client.publish(topic, encode(event), qos=1, retain=True).wait_for_publish()
        client.disconnect()
        client.loop_stop()

    def log_of_agent(self) -> str:
        return (self.agent.parent / "agent.log").read_text()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    broker = agents_broker(tmp_path)
    broker.start()
    yield Site(tmp_path, broker)
    broker.stop()


def release_of(site: Site) -> str:
    health = status_of(site.agent).get("health", {})
    assert isinstance(health, dict)
    return str(health.get("release"))


def is_watching(site: Site) -> bool:
    return bool(status_of(site.agent).get("commissioned"))


def ended(site: Site, rollout: str) -> dict[str, Any] | None:
    one = site.execution(rollout)
    return None if one["shadow"] is None or one["state"] in {"QUEUED", "IN_PROGRESS", "DEFERRED"} else one


def test_whatever_a_hostile_broker_sends_the_fleets_next_release_gets_through_and_no_other(
    site: Site,
) -> None:
    pem = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert (site.agent.parent / "release.pub.pem").read_bytes() == RELEASE_KEY.public_key().public_bytes(*pem)
    with site.fleet(), running_agent(site.agent):
        wait_until(lambda: is_watching(site), "the device to watch")
        first = site.roll_out(2)
        told = wait_until(
            lambda: (one := site.execution(first))["state"] == "SUCCEEDED" and one, "the first release"
        )
        assert (told["shadow"]["outcome"], told["shadow"]["windows"], told["shadow"]["champion"]) == (
            "passed",
            30,
            "pump/1",
        )
        assert release_of(site) == "pump/2"

        # An older release, signed and stored at the fleet, under every kind of counter; and nonsense.
        for counter, family in ((MAX_INTEGER, "pump"), (10**9, "pump"), (MAX_INTEGER, "fan")):
            site.say_as_the_broker(ask(make_bundle(1), 1, counter, family=family))
        wait_until(lambda: "desired_refuted" in site.log_of_agent(), "the first of them to be looked up")
        wait_until(
            lambda: any("who else writes to the broker?" in p for p in status_of(site.agent)["problems"]),  # type: ignore[attr-defined]  # a list
            "the device to say so",
        )

        second = site.roll_out(3)
        wait_until(lambda: site.execution(second)["state"] == "SUCCEEDED", "the next release")
        assert release_of(site) == "pump/3"
        assert "release=pump/1 trial=True" not in site.log_of_agent()


def test_an_absurd_release_is_refused_on_the_device_before_it_was_ever_active_and_the_fleet_shows_why(
    site: Site,
) -> None:
    with site.fleet(), running_agent(site.agent):
        wait_until(lambda: is_watching(site), "the device to watch")
        for version, threshold, why in ((2, 1e-6, "deafening"), (3, 1e9, "blind")):
            rollout = site.roll_out(version, threshold)
            one = wait_until(partial(ended, site, rollout), "the refusal")
            assert one["shadow"]["outcome"] == "refused"
            assert one["shadow"]["note"].startswith(why)
            view = site.call("admin", "GET", f"/v1/rollouts/{rollout}")
            said = [line["reason"] for line in view["timeline"] if line["state"] == "REJECTED"]
            assert len(said) == 1
            assert said[0].startswith(f"refused beside the release that runs: {why}")
            assert release_of(site) == "pump/1"
        assert site.log_of_agent().count("release_adopted") == 2, "as the factory's, and as what judges"


def test_offline_with_a_damaged_bundle_and_journal_the_factorys_bundle_watches(site: Site) -> None:
    site.broker.stop()
    state = site.agent.parent / "state"
    with running_agent(site.agent) as child:
        wait_until(lambda: is_watching(site), "the device to watch")
        child.send_signal(signal.SIGKILL)
        child.wait()
    (staged,) = [path for path in (state / "bundles").glob("*.fedge") if path.name != "factory.fedge"]
    staged.write_bytes(staged.read_bytes()[:-100])
    for journal in (None, b"\x00" * 64):
        if journal is not None:
            (state / "install.json").write_bytes(journal)
            staged.write_bytes(b"worn out")
        (state / "status.json").unlink()
        with running_agent(site.agent) as child:
            wait_until(lambda: is_watching(site), "the device to watch again")
            assert release_of(site) == "pump/1"
            child.send_signal(signal.SIGKILL)
            child.wait()
        assert staged.read_bytes() == make_bundle(1)
