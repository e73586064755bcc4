"""A fleet and its Mosquitto, with the files that the fleet writes for it; everybody shows a certificate."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi.testclient import TestClient
from fleet_api_world import Fleet
from fleet_world import TENANT, Machine, enrol_directly, make_trust
from free_ports import free_port
from mosquitto_broker import MosquittoBroker
from paho.mqtt.enums import CallbackAPIVersion
from waiting import wait_until

from fleet.app import build_app
from fleet.broker_door.assembly import write_broker_files
from fleet.broker_door.broker_files import SERVICES, BrokerPlaces, configuration
from fleet.broker_door.plugin_state import COMMAND_TOPIC, RESPONSE_TOPIC
from fleet.device_ca import DeviceCa
from fleet.migrations.upgrade import open_storage
from fleet.settings import load_fleet_settings
from protocol.identity import load_private_key, private_key_pem

SENTINEL = "the end"
MOST_DIALS = 3


class Client:
    """One MQTT connection that remembers how it was greeted, what it was told, and whether it was thrown out."""

    def __init__(
        self,
        broker: MosquittoBroker,
        own: tuple[Path, Path] | None,
        *,
        client_id: str = "",
        user: str | None = None,
        will: str | None = None,
        clean: bool = True,
    ) -> None:
        """Dial; `own` certificate and key are shown, `client_id` and `user` are said, `will` is the topic of a retained will."""
        self.greetings: list[str] = []
        self.heard: list[tuple[str, str]] = []
        self.is_lost = False
        self._granted: list[str] = []
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id or "anything",
            protocol=paho.MQTTv311,
            clean_session=clean,
        )
        self._client.tls_set_context(broker.client_tls(own))
        if user is not None:
            self._client.username_pw_set(user, "password")
        if will is not None:
            self._client.will_set(will, "will", qos=1, retain=True)
        self._client.on_connect = lambda *a: self.greetings.append(str(a[3]))
        self._client.on_message = lambda _c, _d, m: self.heard.append((m.topic, m.payload.decode()))
        self._client.on_subscribe = lambda *a: self._granted.append(str(a[3][0]))
        self._client.on_disconnect = self._note_loss
        # A broker that hangs up before it has said anything may have decided nothing: a device dials again, and so do we.
        for _ in range(MOST_DIALS):
            self.is_lost = False
            with contextlib.suppress(ssl.SSLError):
                self._client.connect("127.0.0.1", broker.port)
                self.turn(lambda: bool(self.greetings) or self.is_lost, "the broker's greeting")
            if self.greetings:
                return

    @property
    def is_in(self) -> bool:
        """Whether the broker took us."""
        return self.greetings == ["Success"]

    def _note_loss(self, *_: object) -> None:
        self.is_lost = True

    def turn(self, done: Callable[[], bool], what: str) -> None:
        """Serve the connection until something has happened."""

        def served() -> bool:
            self._client.loop(0.01)
            return done()

        wait_until(served, what)

    def subscribe(self, topic: str) -> str:
        """Ask to hear a topic; returns the broker's word, or "lost" where it hung up instead."""
        before = len(self._granted)
        self._client.subscribe(topic, qos=1)
        self.turn(lambda: len(self._granted) > before or self.is_lost, f"the subscription to {topic}")
        return "lost" if self.is_lost else self._granted[-1]

    def publish(self, topic: str, text: str, *, retain: bool = False) -> None:
        """Say something and wait for the broker's acknowledgement."""
        sent = self._client.publish(topic, text, qos=1, retain=retain)
        self.turn(sent.is_published, f"the broker to take {topic}")

    def flood(self, topics: Iterable[str], text: str, *, retain: bool = False) -> None:
        """Publish to each of these topics as fast as the broker takes it."""
        self._client.loop_start()
        sent = [self._client.publish(topic, text, qos=1, retain=retain) for topic in topics]
        wait_until(lambda: all(one.is_published() for one in sent), "the broker to take the flood")
        self._client.loop_stop()

    def die(self) -> None:
        """Vanish without a word, as at a power cut."""
        self._client._reset_sockets()

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
    """A folder with fleet.toml and a broker with the fleet's files; who starts what is up to the test."""

    def __init__(self, folder: Path, database_url: str, *, is_shared: bool = False) -> None:
        """`is_shared`: for several replicas, who come in by a listener of their own."""
        self.folder = folder
        self.files = files = folder / "mosquitto"
        services = free_port()
        places = BrokerPlaces(
            folder=files,
            state=files / "dynamic-security.json",
            services=f"{services} 127.0.0.1" if is_shared else "",
        )
        self.state = places.state
        self.broker = MosquittoBroker(
            folder,
            settings=["log_type all"],
            configure=lambda port: configuration(replace(places, listen=f"{port} 127.0.0.1")),
        )
        make_trust(folder / "data")
        certificate, key = self.broker.certificates.service("fleet")
        self.config = folder / "fleet.toml"
        self.config.write_text(
            f"""
            listen = "127.0.0.1:0"
            data_dir = "data"
            database_url = "{database_url}"
            tenant = "{TENANT}"
            [mqtt]
            url = "{f"mqtts://127.0.0.1:{services}" if is_shared else self.broker.url}"
            shared = {str(is_shared).lower()}
            ca_file = "{self.broker.ca_file}"
            tls_cert = "{certificate}"
            tls_key = "{key}"
            reconnect_s = 0.1
            """
        )
        self.settings = load_fleet_settings(self.config)
        self.database = open_storage(self.settings.effective_database_url)
        self.device_ca = DeviceCa(self.settings.data_dir, tenant=TENANT, random_bytes=secrets.token_bytes)
        self.device_ca.ensure(time.time())
        files.mkdir()
        (files / "broker.pem").write_bytes(self.broker.certificates.certificate.read_bytes())
        (files / "broker.key").write_bytes(self.broker.certificates.key.read_bytes())
        self._places = places
        self._clients = ExitStack()

    def write_files(self) -> None:
        """What `fedge-fleet broker-files` writes, where Mosquitto reads it."""
        write_broker_files(
            self.settings,
            self.database,
            self._places.folder,
            services_ca=self.broker.ca_file.read_bytes(),
            device_ca=self.device_ca.trusted().encode(),
            places=self._places,
        )

    def start(self) -> None:
        """Start the broker with the files as they must be now."""
        self.write_files()
        self.broker.start()

    def certificate(self, device: str, *, lifetime_s: float = 3600.0) -> tuple[Path, Path]:
        """A certificate and its key, as the fleet's own CA gives them to a device."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self.device_ca.issue(device, key.public_key(), lifetime_s=lifetime_s, now=time.time())
        files = self.folder / f"{device}.pem", self.folder / f"{device}.key"
        files[0].write_text(issued.chain)
        files[1].write_bytes(private_key_pem(key))
        return files

    def device_ca_for_forgers(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        """Key and certificate of the device CA."""
        content = (self.settings.data_dir / "device-ca.key").read_bytes()
        return load_private_key(content), x509.load_pem_x509_certificate(content)

    def shown_certificate(self) -> bytes:
        """What the broker shows whoever dials."""
        context = self.broker.client_tls(self.broker.certificates.service("fleet"))
        with (
            socket.create_connection(("127.0.0.1", self.broker.port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
        ):
            return line.getpeercert(binary_form=True) or b""

    def reload(self) -> None:
        """What `systemctl reload mosquitto` does; returns once it was done."""
        before = self.broker.log.read_text().count("Reloading config.")
        assert self.broker.process is not None
        self.broker.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.broker.log.read_text().count("Reloading config.") > before, "the reload")

    def add_devices(self, *machines: Machine) -> None:
        """Put enrolled devices into the database, as many enrolments before would have."""
        enrol_directly(self.database, *machines)

    def connect(self, name: str, **how: Any) -> Client:
        """Connect as somebody, with a certificate of the CA that gives one to him; `how` as in `Client`."""
        if name in SERVICES:
            own = self.broker.certificates.service(name)
        elif (self.folder / f"{name}.pem").exists():
            own = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        else:
            own = self.certificate(name)
        return self.dial(own, **how)

    def dial(self, own: tuple[Path, Path] | None, **how: Any) -> Client:
        """Connect with this certificate and key, or without any."""
        client = Client(self.broker, own, **how)
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
