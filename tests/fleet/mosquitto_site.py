"""A fleet and its Mosquitto: over TLS, with the acl of deploy/ and the dynamic-security plugin that the fleet commands."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import paho.mqtt.client as paho
from fastapi.testclient import TestClient
from fleet_api_world import Fleet
from fleet_world import NOW, TENANT, Machine, make_trust
from mosquitto_broker import MosquittoBroker
from paho.mqtt.enums import CallbackAPIVersion
from waiting import wait_until

from fleet.app import build_app
from fleet.broker_accounts.assembly import open_passwords, state_of_broker
from fleet.broker_accounts.broker_state import COMMAND_TOPIC, RESPONSE_TOPIC
from fleet.migrations.upgrade import open_storage
from fleet.settings import load_fleet_settings
from fleet.storage.device_tables import Device
from protocol.identity import fingerprint, public_key_pem

DEPLOYED = Path(__file__).parents[2] / "deploy" / "mosquitto"
SENTINEL = "the end"
MOST_DIALS = 3


class Client:
    """One MQTT connection that remembers how it was greeted, what it was told, and whether it was thrown out."""

    def __init__(
        self, broker: MosquittoBroker, user: str | None, password: str | None = None, *, client_id: str = ""
    ) -> None:
        self.greetings: list[str] = []
        self.heard: list[tuple[str, str]] = []
        self.is_lost = False
        self._subscribed = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv311)
        self._client.tls_set_context(broker.client_tls())
        if user is not None:
            self._client.username_pw_set(user, password)
        self._client.on_connect = lambda *a: self.greetings.append(str(a[3]))
        self._client.on_message = lambda _c, _d, m: self.heard.append((m.topic, m.payload.decode()))
        self._client.on_subscribe = self._count
        self._client.on_disconnect = self._note_loss
        # A broker that hangs up before it has said anything has decided nothing: a device dials again, and so do we.
        for _ in range(MOST_DIALS):
            self.is_lost = False
            self._client.connect("127.0.0.1", broker.port)
            self.turn(lambda: bool(self.greetings) or self.is_lost, "the broker's greeting")
            if self.greetings:
                return
        raise AssertionError(f"the broker hung up {MOST_DIALS} times without a greeting")

    @property
    def is_in(self) -> bool:
        """Whether the broker took us."""
        return self.greetings == ["Success"]

    def _count(self, *_: object) -> None:
        self._subscribed += 1

    def _note_loss(self, *_: object) -> None:
        self.is_lost = True

    def turn(self, done: Callable[[], bool], what: str) -> None:
        """Serve the connection until something has happened."""

        def served() -> bool:
            self._client.loop(0.01)
            return done()

        wait_until(served, what)

    def subscribe(self, topic: str) -> None:
        before = self._subscribed
        self._client.subscribe(topic, qos=1)
        self.turn(lambda: self._subscribed > before, f"the subscription to {topic}")

    def publish(self, topic: str, text: str) -> None:
        sent = self._client.publish(topic, text, qos=1)
        self.turn(sent.is_published, f"the broker to take {topic}")

    def flood(self, topic: str, texts: Sequence[str]) -> None:
        """Publish many messages as fast as the broker takes them."""
        self._client.loop_start()
        sent = [self._client.publish(topic, text, qos=1) for text in texts]
        wait_until(lambda: all(one.is_published() for one in sent), "the broker to take the flood")
        self._client.loop_stop()

    def read_until_sentinel(self) -> None:
        """Read whatever waits, as fast as it comes."""
        self._client.loop_start()
        wait_until(lambda: any(text == SENTINEL for _, text in list(self.heard)), "the sentinel")
        self._client.loop_stop()

    def topics_until_sentinel(self) -> list[str]:
        self.turn(lambda: any(text == SENTINEL for _, text in self.heard), "the sentinel")
        return [topic for topic, text in self.heard if text != SENTINEL]

    def close(self) -> None:
        """Hang up and give every descriptor back: paho's select() knows none above 1023, and waits for ever then."""
        self._client.disconnect()
        self._client._reset_sockets()


class MosquittoSite:
    """A folder with fleet.toml and a broker that knows the fleet; who starts what is up to the test."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.state = folder / "dynamic-security.json"
        acl = folder / "acl"
        shutil.copy(DEPLOYED / "acl", acl)
        acl.chmod(0o600)
        self.broker = MosquittoBroker(
            folder,
            settings=[
                "plugin mosquitto_dynamic_security.so",
                f"plugin_opt_config_file {self.state}",
                f"acl_file {acl}",
                "allow_anonymous false",
                "log_type all",
            ],
        )
        make_trust(folder / "data")
        self.passwords = {name: secrets.token_urlsafe() for name in ("fleet", "aggregator")}
        for name, password in self.passwords.items():
            (folder / f"{name}.password").write_text(f"{password}\n")
        self.config = folder / "fleet.toml"
        self.config.write_text(
            f"""
            listen = "127.0.0.1:0"
            data_dir = "data"
            database_url = "{database_url}"
            tenant = "{TENANT}"
            [mqtt]
            url = "{self.broker.url}"
            ca_file = "{self.broker.ca_file}"
            password_file = "fleet.password"
            services = {{ aggregator = "aggregator.password" }}
            reconnect_s = 0.1
            """
        )
        self.settings = load_fleet_settings(self.config)
        self.database = open_storage(self.settings.effective_database_url)
        self.keys = open_passwords(self.settings, secrets.token_bytes)
        self._clients = ExitStack()

    def write_state(self) -> None:
        """What `fedge-fleet broker-state` prints, where the plugin reads it."""
        self.state.write_text(json.dumps(state_of_broker(self.settings, self.database, self.keys)))
        self.state.chmod(0o600)

    def add_devices(self, *machines: Machine, entry: str | None = None) -> dict[str, str]:
        """Put enrolled devices into the database, as many enrolments before would have; returns their passwords."""
        passwords = {}
        with self.database.write() as session:
            for machine in machines:
                passwords[machine.name], own = self.keys.new(machine.name)
                session.add(
                    Device(
                        id=machine.name,
                        fingerprint=fingerprint(machine.key.public_key()),
                        public_key=public_key_pem(machine.key.public_key()).decode(),
                        hardware="rpi4",
                        family="motor",
                        labels={},
                        enrolled_at=NOW,
                        broker_password_hash=entry or own,
                    )
                )
        return passwords

    def connect(
        self, user: str | None, password: str | None = None, *, client_id: str | None = None
    ) -> Client:
        """Connect as somebody; services have their passwords and any client id, devices their name as client id."""
        known = self.passwords.get(user or "")
        if client_id is None:
            client_id = "" if known else user or ""
        client = Client(self.broker, user, known if password is None else password, client_id=client_id)
        self._clients.callback(client.close)
        return client

    @contextmanager
    def fleet(self) -> Iterator[Fleet]:
        """The fleet's whole app in this process."""
        with TestClient(build_app(self.settings, self.database), raise_server_exceptions=False) as client:
            yield Fleet(client, self.database, self.folder)

    def command(self, **command: object) -> None:
        """What a person does with mosquitto_ctrl."""
        person = self.connect("fleet")
        person.subscribe(RESPONSE_TOPIC)
        person.publish(COMMAND_TOPIC, json.dumps({"commands": [command]}))
        person.turn(lambda: bool(person.heard), "the plugin's answer")
        assert "error" not in person.heard[0][1], person.heard[0][1]
        person.close()

    def close(self) -> None:
        self._clients.close()
        self.broker.stop()
        self.database.close()
