"""Accounts that a real Mosquitto lost, kept too long or has from others: mended, named or left alone."""

from __future__ import annotations

import json
import secrets

import pytest
from fleet_api_world import is_problem
from fleet_world import Machine
from mosquitto_site import MosquittoSite
from mosquitto_world import site
from structlog.testing import capture_logs
from waiting import wait_until

from fleet.broker_accounts import dynamic_security
from fleet.broker_accounts.passwords import hash_password
from fleet.cli import broker_state
from fleet.storage.device_tables import Device, DeviceState
from protocol.messages.kinds import Kind
from protocol.topics import device_topic
from service.roles import Role

__all__ = ["site"]  # the fixture
pytestmark = pytest.mark.slow


def test_what_the_broker_lost_or_kept_too_long_is_mended_when_the_fleet_comes_back(
    site: MosquittoSite,
) -> None:
    stays, lost, disabled, renewed, revoked = (
        Machine(name=name) for name in ("stays", "lost", "disabled", "renewed", "revoked")
    )
    passwords = site.add_devices(stays, disabled, renewed, revoked)
    site.write_state()  # the backup that is restored below
    passwords |= site.add_devices(lost)
    with site.database.write() as session:
        session.get_one(Device, "revoked").state = DeviceState.REVOKED
        passwords["renewed"], session.get_one(Device, "renewed").broker_password_hash = site.keys.new(
            "renewed"
        )
    site.broker.start()
    site.command(command="disableClient", username="disabled")
    site.command(command="createClient", username="a-person", password="own")
    kept = site.connect("stays", passwords["stays"])
    assert not site.connect("lost", passwords["lost"]).is_in
    with site.fleet():
        for name in ("lost", "disabled", "renewed"):
            wait_until(lambda name=name: site.connect(name, passwords[name]).is_in, f"{name} to be let in")
        wait_until(lambda: not site.connect("revoked", passwords["revoked"]).is_in, "revoked to be shut out")
    kept.publish(device_topic("demo", "stays", Kind.HEALTH), "never disturbed")
    assert not kept.is_lost
    assert site.connect("a-person", "own").is_in
    assert site.connect("aggregator").is_in


def test_a_service_whose_password_file_changed_enters_with_the_new_one(site: MosquittoSite) -> None:
    site.write_state()
    site.broker.start()
    (site.folder / "aggregator.password").write_text("another-one\n")
    with site.fleet():
        wait_until(lambda: site.connect("aggregator", "another-one").is_in, "the new password")
    assert not site.connect("aggregator").is_in


def test_devices_of_an_older_fleet_come_along_in_the_state_and_are_named_when_the_broker_lost_them(
    site: MosquittoSite,
) -> None:
    site.add_devices(Machine(name="veteran"), entry=hash_password("made long ago", secrets.token_bytes(12)))
    site.write_state()
    site.broker.start()
    assert site.connect("veteran", "made long ago").is_in
    site.command(command="deleteClient", username="veteran")
    with capture_logs() as logs, site.fleet():
        wait_until(
            lambda: [line for line in logs if line["event"] == "broker_accounts_refused"], "the warning"
        )
    (warning,) = (line for line in logs if line["event"] == "broker_accounts_refused")
    assert list(warning["refusals"]) == ["veteran"]
    assert "enrol again" in warning["refusals"]["veteran"]


def test_an_account_that_any_client_id_opens_is_bound_to_its_device_when_the_fleet_connects(
    site: MosquittoSite,
) -> None:
    password = site.add_devices(Machine(name="d-1"))["d-1"]
    site.write_state()
    site.state.write_text(site.state.read_text().replace('"clientid": "d-1", ', ""))
    site.broker.start()
    assert site.connect("d-1", password, client_id="d-2").is_in
    with site.fleet():
        wait_until(
            lambda: not site.connect("d-1", password, client_id="d-2").is_in, "the account to be bound"
        )
        wait_until(lambda: site.connect("d-1", password).is_in, "the device to be let in")


def test_a_state_with_services_that_the_deployed_acl_does_not_name_is_printed_with_a_warning(
    site: MosquittoSite, capsys: pytest.CaptureFixture[str]
) -> None:
    broker_state(site.config)
    assert capsys.readouterr().err == ""
    site.config.write_text(site.config.read_text().replace("{ aggregator =", "{ dashboard ="))
    broker_state(site.config)
    printed = capsys.readouterr()
    assert "give ['dashboard'] rights" in printed.err
    assert "dashboard" in [client["username"] for client in json.loads(printed.out)["clients"]]


def test_an_account_that_is_not_this_fleets_is_never_touched_whoever_enrols_under_its_name(
    site: MosquittoSite,
) -> None:
    passwords = site.add_devices(Machine(name="pump-1"))
    site.write_state()
    site.broker.start()
    others = {
        "grafana": "a person's",
        "d-2": "fedge another-tenant salt",
        "pump-1": "fedge another-tenant salt",
    }
    site.command(command="deleteClient", username="pump-1")
    for name, textname in others.items():
        site.command(command="createClient", username=name, password="own", textname=textname)
    with capture_logs() as logs, site.fleet() as fleet:
        wait_until(
            lambda: [line for line in logs if "pump-1" in line.get("refusals", {})],
            "the fleet to leave pump-1",
        )
        for name in ("grafana", "d-2"):
            is_problem(fleet.enrol(Machine(name=name)), 409, name, "did not make")
            assert (
                fleet.call(
                    "POST", f"/v1/devices/{name}:revoke", Role.ADMIN, json={"confirm": name}
                ).status_code
                == 200
            )
        login = fleet.enrol(Machine(name="d-3")).json()["mqtt"]
        assert site.connect("d-3", login["password"]).is_in
        assert not site.connect("d-3", login["password"], client_id="d-1").is_in
        for name in others:
            assert site.connect(name, "own").is_in, name
    assert not site.connect("pump-1", passwords["pump-1"]).is_in


def test_a_broker_without_the_plugin_is_said_to_be_the_reason(
    site: MosquittoSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write_state()
    config = site.broker.folder / "mosquitto.conf"
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "plugin" not in line))
    config.write_text(config.read_text().replace("allow_anonymous false", "allow_anonymous true"))
    monkeypatch.setattr(dynamic_security, "ANSWER_TIMEOUT_S", 0.2)
    site.broker.start()
    with capture_logs() as logs, site.fleet():
        wait_until(lambda: [x for x in logs if x["event"] == "broker_accounts_not_confirmed"], "the warning")
    assert any("dynamic-security plugin" in line.get("hint", "") for line in logs)
