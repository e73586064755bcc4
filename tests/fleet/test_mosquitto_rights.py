"""A real Mosquitto with the accounts that the fleet's file made: who gets in, and what each may say and hear."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from databases import Databases
from fleet_world import Machine
from mosquitto_site import SENTINEL, MosquittoSite
from mosquitto_world import site

from protocol.messages.kinds import Kind
from protocol.topics import DOWNLINK_KINDS, UPLINK_KINDS, device_topic, training_topic

__all__ = ["site"]  # the fixture
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(
    databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[MosquittoSite, dict[str, str]]]:
    """A broker with two devices, both as the fleet's file made them."""
    with databases.fresh() as url:
        site = MosquittoSite(tmp_path_factory.mktemp("two"), url)
        passwords = site.add_devices(Machine(name="d-1"), Machine(name="d-2"))
        site.write_state()
        site.broker.start()
        yield site, passwords
        site.close()


def test_only_who_has_an_account_gets_in(two: tuple[MosquittoSite, dict[str, str]]) -> None:
    site, passwords = two
    for user in ("fleet", "aggregator"):
        assert site.connect(user).is_in
    for user, password in passwords.items():
        assert site.connect(user, password).is_in
    for user, password in ((None, None), ("d-1", passwords["d-2"]), ("stranger", passwords["d-1"])):
        assert site.connect(user, password).greetings == ["Not authorized"]


def test_a_device_cannot_take_the_client_id_of_another_and_throw_it_out(
    two: tuple[MosquittoSite, dict[str, str]],
) -> None:
    site, passwords = two
    victim = site.connect("d-2", passwords["d-2"])
    for client_id in ("d-2", "fedge-fleet-1", ""):
        assert site.connect("d-1", passwords["d-1"], client_id=client_id).greetings == ["Not authorized"]
    victim.publish(device_topic("acme", "d-2", Kind.HEALTH), "still here")
    assert not victim.is_lost


def test_a_device_speaks_on_its_own_uplink_topics_only(two: tuple[MosquittoSite, dict[str, str]]) -> None:
    site, passwords = two
    fleet, device = site.connect("fleet"), site.connect("d-1", passwords["d-1"])
    fleet.subscribe("fedge/v1/#")
    own = [device_topic("acme", "d-1", kind) for kind in sorted(UPLINK_KINDS)]
    forbidden = [
        *(device_topic("acme", "d-2", kind) for kind in sorted(UPLINK_KINDS)),
        *(device_topic("acme", "d-1", kind) for kind in sorted(DOWNLINK_KINDS)),
        training_topic("acme", "motor"),
    ]
    for topic in own + forbidden:
        device.publish(topic, "x")
    fleet.publish("fedge/v1/sentinel", SENTINEL)
    assert fleet.topics_until_sentinel() == own


def test_a_device_hears_its_own_orders_and_the_invitations_of_the_aggregator(
    two: tuple[MosquittoSite, dict[str, str]],
) -> None:
    site, passwords = two
    fleet, aggregator = site.connect("fleet"), site.connect("aggregator")
    device = site.connect("d-1", passwords["d-1"])
    device.subscribe("fedge/v1/#")
    own = [device_topic("acme", "d-1", kind) for kind in sorted(DOWNLINK_KINDS)]
    others = [device_topic("acme", "d-2", kind) for kind in (*sorted(DOWNLINK_KINDS), Kind.ANOMALY)]
    for topic in own + others:
        fleet.publish(topic, "x")
    aggregator.publish(device_topic("acme", "d-1", Kind.DESIRED), "an order that is not the aggregator's")
    aggregator.publish(training_topic("acme", "motor"), "x")
    aggregator.publish(training_topic("acme", "press"), SENTINEL)
    assert device.topics_until_sentinel() == [*own, training_topic("acme", "motor")]


@pytest.mark.parametrize("user", ["d-1", "aggregator"])
def test_nobody_but_the_fleet_commands_the_broker_or_hears_its_answers(
    two: tuple[MosquittoSite, dict[str, str]], user: str
) -> None:
    site, passwords = two
    intruder = site.connect(user, passwords.get(user))
    intruder.subscribe("$CONTROL/#")
    intruder.publish(
        "$CONTROL/dynamic-security/v1", '{"commands": [{"command": "createClient", "username": "m"}]}'
    )
    site.command(command="createClient", username=f"after-{user}", password="p")
    with pytest.raises(AssertionError, match="Client not found"):
        site.command(command="getClient", username="m")
    assert intruder.heard == []
