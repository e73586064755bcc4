"""Through a real Mosquitto: what a device says arrives, and what it must hear survives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fleet_api_world import Fleet
from fleet_world import TENANT, Machine, anomaly, closed
from mosquitto_site import SENTINEL, Client, MosquittoSite
from mosquitto_world import site
from waiting import wait_until

from protocol.messages.commands import Commands
from protocol.messages.envelope import decode, encode, kind_of
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack
from protocol.topics import device_topic
from service.roles import Role

__all__ = ["site"]  # the fixture
pytestmark = pytest.mark.slow


@contextmanager
def fleet_and_device(site: MosquittoSite) -> Iterator[tuple[Fleet, Machine]]:
    """A fleet that has reached the broker, and one device."""
    machine = Machine(name="d-1")
    site.add_devices(machine)
    site.start()
    with site.fleet() as fleet:
        wait_until(
            lambda: fleet.call("GET", "/healthz").json()["broker_connected"], "the fleet to reach the broker"
        )
        yield fleet, machine


def test_with_the_deployed_limits_no_event_is_dropped_while_the_fleet_reads_nothing_for_a_moment(
    site: MosquittoSite,
) -> None:
    # QoS 1 to a client that is connected and silent: with Mosquitto's defaults (20 + 1000) most of these are dropped
    site.start()
    fleet, device = site.connect("fleet"), site.connect("d-1")
    fleet.subscribe("fedge/v1/#")
    topic = device_topic(TENANT, "d-1", Kind.HEALTH)
    device.flood([topic] * 2500, "x")
    device.publish(topic, SENTINEL)
    fleet.read_until_sentinel()
    assert len(fleet.heard) == 2501


def test_an_end_is_heard_from_a_device_and_what_is_normal_reaches_it_again_after_the_broker_forgot(
    site: MosquittoSite,
) -> None:
    with fleet_and_device(site) as (fleet, machine):
        device = site.connect("d-1")
        for said in (anomaly(episode="e"), closed("e")):
            event = machine.event(said)
            device.publish(device_topic(TENANT, "d-1", kind_of(said)), encode(event).decode())
        ended = "/v1/anomalies?device=d-1&open=false"
        wait_until(lambda: fleet.call("GET", ended).json()["items"], "the end of the anomaly")
        assert fleet.call("POST", "/v1/devices/d-1/normal", Role.OPERATOR).status_code == 200
        counter = fleet.call("GET", "/v1/devices/d-1").json()["commands_counter"]
        assert heard_as_normal(device) == counter
        site.broker.stop()
        site.broker.start()
        assert heard_as_normal(site.connect("d-1")) == counter


def heard_as_normal(device: Client) -> int:
    """The number of the acceptance that the broker keeps for d-1, or is about to get from the fleet."""
    device.subscribe(device_topic(TENANT, "d-1", Kind.COMMANDS))
    device.turn(lambda: bool(device.heard), "the retained commands")
    data = decode(device.heard[0][1].encode(), Kind.COMMANDS).data
    assert isinstance(data, Commands)
    (command,) = data.outstanding
    assert command.action == "accept-as-normal"
    return command.number


def test_a_device_hears_which_of_its_events_will_never_be_stored_and_a_person_sees_them(
    site: MosquittoSite,
) -> None:
    with fleet_and_device(site) as (fleet, machine):
        device = site.connect("d-1")
        device.subscribe(device_topic(TENANT, "d-1", Kind.ACK))
        newer = encode(machine.event(anomaly())).decode().replace(".v1", ".v2")
        for text in (newer, encode(machine.event(anomaly())).decode(), '{"nothing": "of ours"}'):
            device.publish(device_topic(TENANT, "d-1", Kind.ANOMALY), text)
        stored: set[tuple[int, int]] = set()
        refused: set[int] = set()

        def is_told() -> bool:
            for _, text in device.heard:
                ack = decode(text.encode(), Kind.ACK).data
                assert isinstance(ack, Ack)
                stored.update(part for boot in ack.boots for part in boot.ranges)
                refused.update(one.sequence for one in ack.refused)
            return bool(stored and refused)

        device.turn(is_told, "the fleet to answer")
        assert (stored, refused) == ({(2, 2)}, {1})
        letters = wait_until(
            lambda: len(found := fleet.call("GET", "/v1/dead-letters").json()["items"]) == 2 and found,
            "both letters",
        )
        assert [one["reason"] for one in letters] == ["malformed", "version"]
