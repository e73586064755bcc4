"""Who holds the broker, against a real agent behind a real Mosquitto: nothing is obeyed, forgotten or unsaid that the fleet did not say.

Row by row of the attack matrix; what needs no process is in `test_fleet_words.py` and `test_installation_words.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from agent_broker import ListeningFleet
from agent_process_world import broker
from agent_world import (
    DEVICE,
    FAMILY,
    TENANT,
    healthy,
    make_bundle,
    running_agent,
    status_of,
    write_device,
)
from cryptography.hazmat.primitives.asymmetric import ec
from hostile_fleet import hostile_fleet
from installation_world import ask
from mosquitto_broker import MosquittoBroker
from msgspec.structs import replace
from sealing_world import FLEET_KEY, OTHER_KEY, fleet_event
from securesystemslib.signer import SSlibKey
from waiting import wait_until

from edge_agent.identity_key import load_device_key
from protocol.messages.commands import Command, CommandResult, Commands
from protocol.messages.envelope import Event, encode, kind_of
from protocol.messages.kinds import InstallStatus, Kind
from protocol.messages.payloads import Ack, BootAck, DesiredState, InstallReport, Payload, RefusedEvent
from protocol.sealed_events import check_seal
from protocol.topics import device_topic
from protocol.trust_roles import FLEET_ROLE

__all__ = ["broker"]  # the fixture
pytestmark = pytest.mark.slow

OF: dict[str, Any] = {"tenant": TENANT, "device": DEVICE}
EXTRA = "[outbox]\nresend_s = 1.0\n"


class Thief:
    """Holds the broker: says what he likes on any topic, as often as he likes."""

    def __init__(self, broker: MosquittoBroker) -> None:
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="eve")
        self._client.tls_set_context(broker.client_tls(broker.certificates.service("eve")))
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def say(self, *events: Event, retain: bool = False) -> None:
        for event in events:
            topic = device_topic(TENANT, DEVICE, kind_of(event.data))
            self._client.publish(topic, encode(event), qos=1, retain=retain).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@dataclass
class Scene:
    """A device that runs pump/1, its fleet, and a thief at the broker."""

    config: Path
    fleet: ListeningFleet
    thief: Thief
    bundle: bytes

    def wish(self, counter: int) -> DesiredState:
        """The release that runs, asked for again: on the disk, proven, and a word that can be obeyed at once."""
        return replace(ask(self.bundle, 1, counter, family=FAMILY), execution=f"e{counter}")

    def reports(self, execution: str = "") -> list[InstallReport]:
        said = [event.data for event in self.fleet.of(Kind.REPORT)]
        return [one for one in said if isinstance(one, InstallReport) and execution in one.execution]

    def results(self) -> list[CommandResult]:
        return [one.data for one in self.fleet.of(Kind.RESULT) if isinstance(one.data, CommandResult)]

    def ended(self, execution: str) -> Callable[[], bool]:
        return lambda: any(one.status is InstallStatus.SUCCEEDED for one in self.reports(execution))

    @property
    def refused(self) -> int:
        counted = status_of(self.config)["malformed_downlinks"]
        assert isinstance(counted, int)
        return counted

    @property
    def problems(self) -> str:
        return str(status_of(self.config)["problems"])


@pytest.fixture
def scene(tmp_path: Path, broker: MosquittoBroker) -> Iterator[Scene]:
    broker.start()
    bundle = make_bundle(1)
    config = write_device(
        tmp_path / "device",
        rows=healthy(300),
        speed=50.0,
        mqtt_url=broker.url,
        mqtt_ca=broker.ca_file,
        connection=broker.certificates.connection(DEVICE),
        bundle=bundle,
        extra=EXTRA,
    )
    fleet, thief = ListeningFleet(broker, acknowledges=False), Thief(broker)
    try:
        with running_agent(config):
            wait_until(lambda: status_of(config).get("broker_connected"), "the device to connect")
            wait_until(lambda: fleet.of(Kind.HEALTH), "its first words")
            yield Scene(config, fleet, thief, bundle)
    finally:
        thief.close()
        fleet.close()


def acknowledging(fleet: ListeningFleet) -> Ack:
    """That everything which was ever heard is stored, or is refused for good."""
    boots: dict[str, list[tuple[int, int]]] = {}
    for event in list(fleet.events.values()):
        boots.setdefault(event.boot_id, []).append((event.sequence, event.sequence))
    refused = tuple(
        RefusedEvent(boot_id=boot, sequence=first, reason="never mind")
        for boot, ranges in boots.items()
        for first, _ in ranges[:50]
    )
    acked = tuple(BootAck(boot_id=boot, ranges=tuple(ranges)) for boot, ranges in boots.items())
    return Ack(boots=acked, refused=refused)


def forgeries(word: Payload) -> list[Event]:
    true = fleet_event(word, **OF)
    return [
        replace(true, seal=None),  # as a fleet of 7cc0d60 says it
        fleet_event(word, **OF, key=OTHER_KEY),
        fleet_event(word, tenant=TENANT, device="another"),
        fleet_event(word, tenant="another", device=DEVICE),
        fleet_event(word, **OF, not_after=1_700_000_000),
    ]


def test_what_the_brokers_holder_makes_up_is_counted_and_told_and_never_obeyed(scene: Scene) -> None:
    recommission = Command(number=10**6, action="recommission", expires_at=4e9)
    forged: list[Payload] = [
        scene.wish(10**6),
        Commands(counter=10**6, settings={"health.every_s": 20.0}, outstanding=(recommission,)),
        acknowledging(scene.fleet),
    ]
    known, sent = len(scene.fleet.events), 0
    for word in forged:
        for event in forgeries(word):
            scene.thief.say(event, retain=kind_of(word) is not Kind.ACK)
            sent += 1
    wait_until(lambda: scene.refused >= sent, "all of it to be refused")
    assert f"{sent} messages in the fleet's name were not obeyed" in scene.problems
    assert (scene.reports(), scene.results()) == ([], [])
    assert int(str(status_of(scene.config)["health"]["outbox_events"])) >= known > 0  # type: ignore[index] # JSON
    scene.fleet.acknowledges = True
    scene.fleet.acknowledge_all()
    scene.fleet.tell(Kind.DESIRED, scene.wish(5))
    wait_until(scene.ended("e5"), "what the fleet says itself, under a counter that nobody used up")
    key = load_device_key(scene.config.parent / "state" / "device.key").public_key()
    for event in scene.fleet.of(Kind.REPORT):
        check_seal(event, [key], tenant=TENANT, device=DEVICE, now_s=0.0)


def test_old_words_that_the_fleet_did_seal_bring_nothing_back_and_fill_nothing(scene: Scene) -> None:
    scene.fleet.acknowledges = True
    kept: list[Event] = []
    for counter in (5, 7):
        kept.append(fleet_event(scene.wish(counter), **OF))
        scene.thief.say(kept[-1], retain=True)  # he carries it, which is all the same
        wait_until(scene.ended(f"e{counter}"), "an instruction to be carried out")
    command = Command(number=9, action="diagnose", expires_at=4e9)
    kept.append(fleet_event(Commands(counter=9, outstanding=(command,)), **OF))
    scene.thief.say(kept[-1])
    wait_until(lambda: any(one.number == 9 for one in scene.results()), "the command")
    kept.append(fleet_event(Commands(counter=8, settings={"health.every_s": 20.0}), **OF))
    reports, results = len(scene.reports()), len(scene.results())
    for _ in range(60):  # reordered, delayed, again and again
        scene.thief.say(*kept[::-1], retain=True)
    scene.fleet.tell(Kind.DESIRED, scene.wish(11))
    wait_until(scene.ended("e11"), "the next instruction")
    outdated = [one for one in scene.results() if one.code == "outdated"]
    # how far it is, once for each kind; and an answer to what it had answered, once
    assert len(outdated) <= 2
    assert len(scene.results()) - results <= 2 + 1
    assert len([one for one in scene.reports() if "e11" not in one.execution]) - reports <= 4
    assert not [one for one in scene.reports() if one.status is InstallStatus.REJECTED]
    assert sum("command_begun number=9 " in line for line in log_of(scene).splitlines()) == 1


def log_of(scene: Scene) -> str:
    return (scene.config.parent / "agent.log").read_text()


def test_the_instruction_key_is_changed_without_touching_the_device(tmp_path: Path) -> None:
    """A stolen key: the ceremony names another one; what the thief seals is refused, what the fleet seals is obeyed."""
    stolen, following = FLEET_KEY, ec.generate_private_key(ec.SECP256R1())
    with hostile_fleet(tmp_path, fleet_key=stolen) as fleet, running_agent(fleet.config):

        def outcome(execution: str) -> Callable[[], object]:
            return lambda: (
                f'"execution":"{execution}"' in ((fleet.config.parent / "state" / "install.json").read_text())
            )

        wait_until(lambda: status_of(fleet.config).get("commissioned"), "the device to watch")
        bundle = make_bundle(2)
        fleet.list(bundle)
        fleet.want(bundle, 2, 2)
        wait_until(outcome("e2"), "a word by the first key")
        fleet.repository.delegate(FLEET_ROLE, [SSlibKey.from_crypto(following.public_key())], [])
        fleet.repository.publish()
        fleet.repository.fleet_key = following
        fleet.want(bundle, 2, 3)
        wait_until(outcome("e3"), "a word by the next key")
        fleet.repository.fleet_key = stolen
        fleet.want(bundle, 2, 4)
        wait_until(
            lambda: "not signed by whom it must come from" in str(status_of(fleet.config)["problems"]),
            "the thief's word to be refused",
        )
        fleet.repository.fleet_key = following
        fleet.want(bundle, 2, 5)
        wait_until(outcome("e5"), "the fleet's next word")
        assert not outcome("e4")()
