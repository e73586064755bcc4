"""A real Mosquitto with the fleet as its doorkeeper: who is revoked is thrown out and stays out, whatever was lost meanwhile."""

from __future__ import annotations

import time

import pytest
from fleet_api_world import Fleet, is_problem
from fleet_world import Machine
from mosquitto_site import SENTINEL, MosquittoSite
from mosquitto_world import site
from structlog.testing import capture_logs
from waiting import wait_until

from fleet.broker_door import dynamic_security
from fleet.storage.device_tables import Device, DeviceState
from protocol.messages.kinds import Kind
from protocol.topics import DOWNLINK_KINDS, device_topic, training_topic, uplink_filter
from service.roles import Role

__all__ = ["site"]  # the fixture
pytestmark = pytest.mark.slow
TENANT = "demo"


def revoke(fleet: Fleet, name: str) -> None:
    answer = fleet.call("POST", f"/v1/devices/{name}:revoke", Role.ADMIN, json={"confirm": name})
    assert (answer.status_code, answer.json()["state"]) == (200, "revoked")


def fleet_is_there(fleet: Fleet) -> None:
    wait_until(
        lambda: fleet.call("GET", "/healthz").json()["broker_connected"], "the fleet to reach the broker"
    )


def test_a_revoked_device_is_out_when_the_call_returns_and_can_neither_say_nor_hear_anything(
    site: MosquittoSite,
) -> None:
    site.add_devices(Machine(name="stays"), Machine(name="out"))
    site.start()
    death, health = (device_topic(TENANT, "out", kind) for kind in (Kind.DEATH, Kind.HEALTH))
    with site.fleet() as fleet:
        fleet_is_there(fleet)
        stays, out = site.connect("stays"), site.connect("out", will=death, clean=False)
        for topic in (device_topic(TENANT, "out", Kind.DESIRED), training_topic(TENANT, "motor")):
            out.subscribe(topic)
        for _ in range(2):  # twice, since an answer may get lost
            revoke(fleet, "out")
        out.turn(lambda: out.is_lost, "the broker to hang up")
        stays.publish(device_topic(TENANT, "stays", Kind.HEALTH), "still here")
        assert not stays.is_lost
    # whoever is the fleet or the aggregator now speaks to it, also into the session that it left behind
    fleet_now, aggregator = site.connect("fleet"), site.connect("aggregator")
    for kind in (Kind.HEALTH, Kind.DEATH):
        fleet_now.subscribe(uplink_filter(TENANT, kind))
    for kind in sorted(DOWNLINK_KINDS):
        fleet_now.publish(device_topic(TENANT, "out", kind), "for out", retain=True)
    aggregator.publish(training_topic(TENANT, "motor"), "an invitation", retain=True)
    again = site.connect("out", will=death, clean=False)
    assert again.is_in, "its certificate is good: a connection is all that it has"
    for topic in ("#", "fedge/v1/#", device_topic(TENANT, "out", Kind.ACK), "$share/g/fedge/v1/#", "$SYS/#"):
        assert again.subscribe(topic) == "Unspecified error"
    again.publish(health, "x", retain=True)
    again.die()
    stays.publish(device_topic(TENANT, "stays", Kind.HEALTH), SENTINEL)
    assert fleet_now.topics_until_sentinel() == []
    last = site.connect("out", clean=False)
    last.publish(health, "x")  # answered after whatever waited for it
    assert (again.heard, last.heard, out.heard) == ([], [], [])


def test_forty_revocations_in_a_row_are_all_confirmed(site: MosquittoSite) -> None:
    # with memory_limit the plugin of 2.0.11 falls silent after ten
    names = [f"d-{n}" for n in range(40)]
    site.add_devices(*(Machine(name=name) for name in names))
    site.start()
    with site.fleet() as fleet:
        fleet_is_there(fleet)
        for name in names:
            revoke(fleet, name)
    assert is_mute(site, names[-1])


def test_what_the_broker_forgot_kept_too_long_or_has_from_others_is_mended_when_the_fleet_comes_back(
    site: MosquittoSite,
) -> None:
    names = ("stays", "forgotten", "loosened", "persons", "back")
    site.add_devices(*(Machine(name=name) for name in names))
    set_state(site, DeviceState.REVOKED, "loosened", "back")
    site.start()  # the backup that is restored
    set_state(site, DeviceState.REVOKED, "forgotten", "persons")
    set_state(site, DeviceState.ENROLLED, "back")
    site.command(command="removeClientRole", username="loosened", rolename="fedge-shut-out")
    for person in ("persons", "grafana"):
        site.command(command="createClient", username=person, password="p", textname="a person's")
    site.command(command="setDefaultACLAccess", acls=[{"acltype": "publishClientSend", "allow": True}])
    kept = site.connect("stays")
    with site.fleet():
        for name in ("forgotten", "loosened", "persons"):
            wait_until(lambda name=name: is_mute(site, name), f"{name} to be shut out")
        wait_until(lambda: not is_mute(site, "back"), "the one that was let in again to be heard")
        kept.publish(device_topic(TENANT, "stays", Kind.HEALTH), "never disturbed")
        assert not kept.is_lost
    site.command(command="getClient", username="grafana")
    fleet = site.connect("fleet")
    fleet.subscribe("#")
    kept.publish("elsewhere", "what the plugin allows by default")
    kept.publish(device_topic(TENANT, "stays", Kind.HEALTH), SENTINEL)
    assert fleet.topics_until_sentinel() == []


def set_state(site: MosquittoSite, state: DeviceState, *names: str) -> None:
    with site.database.write() as session:
        for name in names:
            session.get_one(Device, name).state = state


def is_mute(site: MosquittoSite, name: str) -> bool:
    """Whether the broker lets a device hear nothing."""
    return site.connect(name).subscribe(device_topic(TENANT, name, Kind.ACK)) == "Unspecified error"


def test_without_a_broker_a_revocation_says_what_to_do_and_is_made_when_the_broker_is_there(
    site: MosquittoSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add_devices(Machine(name="out"))
    site.write_files()
    monkeypatch.setattr(dynamic_security, "PATIENCE_S", 0.2)
    with site.fleet() as fleet:
        asked = fleet.call("POST", "/v1/devices/out:revoke", Role.ADMIN, json={"confirm": "out"})
        is_problem(asked, 503, "out", "repeat this call")
        assert fleet.call("GET", "/v1/devices/out").json()["state"] == "revoked"
        site.broker.start()
        monkeypatch.undo()
        wait_until(lambda: is_mute(site, "out"), "the broker to be told")
        revoke(fleet, "out")


def test_a_broker_without_the_plugin_is_said_to_be_the_reason(
    site: MosquittoSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write_files()
    config = site.broker.folder / "mosquitto.conf"
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "plugin" not in line))
    monkeypatch.setattr(dynamic_security, "ANSWER_TIMEOUT_S", 0.2)
    site.broker.start()
    with capture_logs() as logs, site.fleet():
        wait_until(lambda: [x for x in logs if x["event"] == "broker_door_not_confirmed"], "the warning")
    assert any("dynamic-security plugin" in line.get("hint", "") for line in logs)


def test_a_reload_throws_nobody_out_and_lets_nobody_in_and_serves_the_new_certificate(
    site: MosquittoSite,
) -> None:
    site.add_devices(Machine(name="stays"), Machine(name="out"))
    set_state(site, DeviceState.REVOKED, "out")
    site.start()
    stays, before = site.connect("stays"), site.shown_certificate()
    site.broker.certificates.renew_server(site.files / "broker.pem", site.files / "broker.key")
    site.reload()
    assert site.shown_certificate() != before
    assert is_mute(site, "out"), "the plugin is still asked before the acl file"
    stays.publish(device_topic(TENANT, "stays", Kind.HEALTH), "still here")
    assert not stays.is_lost


def test_a_ca_that_is_no_longer_trusted_lets_in_until_the_broker_is_started_anew(site: MosquittoSite) -> None:
    site.start()
    former = site.certificate("d-1")
    for step in (lambda: site.device_ca.rotate(time.time()), site.device_ca.switch, site.device_ca.forget):
        step()
    site.write_files()
    site.reload()
    assert site.dial(former).is_in, "a reload does not read cafile: docs/broker.md says restart"
    site.broker.stop()
    site.broker.start()
    assert not site.dial(former).is_in
    assert site.dial(site.certificate("d-1")).is_in
