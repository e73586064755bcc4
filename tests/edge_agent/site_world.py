"""A real fleet service beside a real Mosquitto and a device that both know, for stories from one end to the other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
from agent_world import DEVICE, RELEASE_KEY, TENANT, manifest_of
from command_line import run_command
from mosquitto_broker import MosquittoBroker
from sealing_world import FLEET_KEY
from trust_world import Keys, list_bundles, make_repository
from waiting import died, wait_until

from edge_agent.identity_key import load_device_key
from fleet.migrations.upgrade import open_storage
from fleet.settings import load_fleet_settings
from fleet.storage.device_tables import Device
from protocol.identity import fingerprint, private_key_pem, public_key_pem
from protocol.messages.envelope import Event, encode, kind_of
from protocol.messages.payloads import Payload
from protocol.topics import device_topic


class Site:
    """The device of the configuration `agent`, enrolled at a fleet that is not started yet.

    `extra` are more lines of fleet.toml: those for HTTPS, without which it speaks HTTP, or a database's.
    """

    def __init__(
        self, folder: Path, broker: MosquittoBroker, agent: Path, *, port: int, extra: str = ""
    ) -> None:
        self.broker, self.folder, self.agent, self.log = broker, folder, agent, folder / "fleet.log"
        certificate, key = broker.certificates.service("fleet")
        self.config = folder / "fleet.toml"
        self.config.write_text(
            f'listen = "127.0.0.1:{port}"\n{extra}data_dir = "data"\ntenant = "{TENANT}"\n'
            f'[mqtt]\nurl = "{broker.url}"\nca_file = "{broker.ca_file}"\n'
            f'tls_cert = "{certificate}"\ntls_key = "{key}"\nshut_out = "none"\nreconnect_s = 0.1\n'
        )
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / "instruction.key").write_bytes(private_key_pem(FLEET_KEY))
        self.repository = make_repository(
            folder / "data", Keys(families={"pump": RELEASE_KEY}, fleet=FLEET_KEY)
        )
        self._bring_along(folder / "data" / "trust" / "metadata", agent.parent)
        self._enrol()

    def _bring_along(self, metadata: Path, device: Path) -> None:
        """The device pins this repository, and its image brought it along, with the factory's release listed."""
        factory = device / "state" / "bundles" / "factory.fedge"
        if factory.exists():
            content = factory.read_bytes()
            list_bundles(self.repository, {manifest_of(content).release: content}, RELEASE_KEY)
        (device / "root.json").write_bytes(self.repository.read("1.root.json"))
        shutil.rmtree(device / "state" / "trust")
        shutil.copytree(metadata, device / "state" / "trust")

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
                )
            )
        database.close()

    def token(self, role: str) -> str:
        """A new token of the fleet's."""
        whose = ("--family", "*") if role == "publisher" else ("--person", role)
        made = run_command(
            "fleet", "tokens", "create", "--role", role, "--name", role, "--config", str(self.config), *whose
        )
        return made.stdout.split()[-1]

    @contextmanager
    def fleet(self) -> Iterator[None]:
        """The fleet service as a process."""
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

    def say_as_the_broker(self, word: Payload) -> None:
        """A retained word that is not the fleet's."""
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="eve")
        client.tls_set_context(self.broker.client_tls(self.broker.certificates.service("eve")))
        client.connect("127.0.0.1", self.broker.port)
        client.loop_start()
        event = Event(source="fleet", boot_id="eve", sequence=1, time=1.8e9, data=word)
        topic = device_topic(TENANT, DEVICE, kind_of(word))
        client.publish(topic, encode(event), qos=1, retain=True).wait_for_publish()
        client.disconnect()
        client.loop_stop()

    def log_of_agent(self) -> str:
        return (self.agent.parent / "agent.log").read_text()
