"""The link shows a certificate to a real Mosquitto that lets nobody in without one: renewed, ended, of another CA, none yet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_world import DEVICE, FAMILY, TENANT
from cryptography.hazmat.primitives.asymmetric import ec
from enrolling_fleet import DeviceAuthority
from mosquitto_broker import MosquittoBroker
from waiting import wait_until

from edge_agent.connection_certificate import make_request
from edge_agent.link import Fate, Message
from edge_agent.mqtt_link import MqttLink
from edge_agent.settings import MqttSettings
from edge_agent.telemetry import Identity, last_will, subscriptions
from protocol.identity import private_key_pem

IDENTITY = Identity(tenant=TENANT, device=DEVICE, family=FAMILY, boot_id="b1")
TOPIC = f"fedge/v1/{TENANT}/{DEVICE}/health"


class Door:
    """A broker that knows a device CA, and a device's file."""

    def __init__(self, folder: Path) -> None:
        self.authority = DeviceAuthority()
        self.file = folder / "connection.pem"
        (folder / "devices.pem").write_text(self.authority.pem)
        self.broker = MosquittoBroker(folder, settings=["log_type all"])
        with (self.broker.folder / "mosquitto.conf").open("a") as conf:
            conf.write(
                f"cafile {folder / 'devices.pem'}\nrequire_certificate true\nuse_identity_as_username true\n"
                "use_username_as_clientid true\n"
            )
        self.broker.start()
        self._links: list[MqttLink] = []

    def certify(self, authority: DeviceAuthority | None = None, **lie: float) -> None:
        key, request = make_request(DEVICE)
        chain = (authority or self.authority).issue(request, **lie)  # type: ignore[arg-type]  # the test's own words
        self.file.write_bytes(private_key_pem(key) + chain.encode())

    def connect(self) -> MqttLink:
        link = MqttLink(
            MqttSettings(
                url=self.broker.url, ca_file=self.broker.ca_file, keepalive_s=5, reconnect_max_s=0.3
            ),
            client_id=DEVICE,
            certificate=self.file,
            will=last_will(IDENTITY, 1.8e9),
            subscriptions=subscriptions(IDENTITY),
            wake=threading.Event().set,
        )
        self._links.append(link)
        return link

    def said(self) -> str:
        return self.broker.log.read_text()

    def close(self) -> None:
        for link in self._links:
            link.close(0.5)
        self.broker.stop()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path)
    yield made
    made.close()


def refused(link: MqttLink) -> Callable[[], bool]:
    return lambda: link.refusals >= 2


def test_the_name_in_the_certificate_is_the_devices_name_at_the_broker(door: Door) -> None:
    door.certify()
    link = door.connect()
    wait_until(lambda: link.is_connected, "the connection")
    assert f"as {DEVICE} " in door.said()
    assert f"u'{DEVICE}'" in door.said()


def test_a_device_without_a_certificate_waits_for_one_and_leaves_the_broker_alone(door: Door) -> None:
    before = door.said().count("New connection")
    link = door.connect()
    wait_until(lambda: "no certificate for the broker yet" in link.trouble, "the complaint")
    assert door.said().count("New connection") == before
    door.certify()
    wait_until(lambda: link.is_connected, "the connection")
    assert link.trouble == ""


def test_a_new_certificate_is_shown_at_once_and_nothing_that_was_said_is_lost(door: Door) -> None:
    door.certify()
    link = door.connect()
    wait_until(lambda: link.is_connected, "the connection")
    message = Message(topic=TOPIC, payload=b"{}")
    assert link.publish(message, ("b1", 1))
    door.certify()
    link.reconnect()
    wait_until(lambda: link.connections == 2 and link.is_connected, "the second connection")
    fates = {outcome.fate for outcome in link.take_outcomes() if ("b1", 1) in outcome.keys}
    assert fates & {Fate.TAKEN, Fate.UNSENT}, (
        "it arrived, or it is sent again; it is never blamed for the end"
    )
    assert Fate.LOST not in fates
    assert f"Received DISCONNECT from {DEVICE}" in door.said(), "so its will is not spoken"


@pytest.mark.parametrize("what", ["ended", "of another CA"])
def test_a_certificate_that_the_broker_refuses_is_counted_and_the_next_one_lets_the_device_in(
    door: Door, what: str
) -> None:
    if what == "ended":
        door.certify(begins_days=-2, ends_days=-1)
    else:
        door.certify(DeviceAuthority())
    link = door.connect()
    wait_until(refused(link), "the broker to refuse it twice")
    assert not link.is_connected
    assert link.trouble
    door.certify()
    wait_until(lambda: link.is_connected, "the connection")
    assert link.refusals == 0


def test_a_certificate_file_that_is_damaged_is_named_and_no_broker_is_bothered(door: Door) -> None:
    door.certify()
    other = ec.generate_private_key(ec.SECP256R1())
    chain = door.file.read_bytes().partition(b"-----BEGIN CERTIFICATE")
    door.file.write_bytes(private_key_pem(other) + b"".join(chain[1:]))
    link = door.connect()
    wait_until(lambda: "connection.pem cannot be shown to the broker" in link.trouble, "the complaint")
