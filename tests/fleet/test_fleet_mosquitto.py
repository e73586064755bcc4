"""A real Mosquitto with the fleet as the owner of its accounts: who gets in, what each may say, and what survives."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from databases import Databases
from fleet_api_world import is_problem
from fleet_world import NOW, TENANT, Machine, anomaly, closed, fleet_process
from mosquitto_broker import MosquittoBroker
from mosquitto_site import DEPLOYED, SENTINEL, Client, MosquittoSite
from structlog.testing import capture_logs
from waiting import AMPLE_S, wait_until

from fleet.auth.claim_tokens import create_claim
from fleet.broker_accounts import dynamic_security
from fleet.broker_accounts.passwords import hash_password
from fleet.cli import broker_state
from fleet.storage.device_tables import Device, DeviceState
from protocol.messages.commands import Commands
from protocol.messages.envelope import decode, encode, kind_of
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack
from protocol.topics import DOWNLINK_KINDS, UPLINK_KINDS, device_topic, training_topic
from service.roles import Role

pytestmark = pytest.mark.slow

BURSTS, AT_ONCE, ACCOUNTS = 30, 8, 200


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[MosquittoSite]:
    site = MosquittoSite(tmp_path, database_url)
    yield site
    site.close()


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


def test_with_the_deployed_limits_no_event_is_dropped_while_the_fleet_reads_nothing_for_a_moment(
    tmp_path: Path,
) -> None:
    # QoS 1 to a client that is connected and silent: with Mosquitto's defaults (20 + 1000) most of these are dropped
    many = 2500
    limits = [line for line in (DEPLOYED / "fedge.conf").read_text().splitlines() if line.startswith("max_")]
    assert len(limits) == 3
    with MosquittoBroker(tmp_path, settings=limits) as broker:
        fleet, devices = Client(broker, None), Client(broker, None)
        fleet.subscribe("fedge/v1/#")
        devices.flood("fedge/v1/demo/d-1/health", [*(str(n) for n in range(many)), SENTINEL])
        fleet.read_until_sentinel()
        assert [text for _, text in fleet.heard] == [*(str(n) for n in range(many)), SENTINEL]


@pytest.mark.slow
def test_thirty_bursts_of_eight_enrolments_leave_no_device_outside(site: MosquittoSite) -> None:
    site.add_devices(*(Machine(name=f"old-{n}") for n in range(ACCOUNTS)))
    with site.database.write() as session:
        claim = create_claim(
            session,
            name="t",
            uses=BURSTS * AT_ONCE,
            now=NOW,
            lifetime_s=None,
            random_bytes=secrets.token_bytes,
        )
    site.write_state()
    site.broker.start()
    with (
        fleet_process(site.config, site.folder / "fleet.log") as (_, url),
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {claim}"}, timeout=AMPLE_S) as http,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):

        def enrol(machine: Machine) -> tuple[int, bool]:
            answer = http.post("/v1/enrolments", json=machine.enrolment())
            if answer.status_code != 201:
                return answer.status_code, False
            login = answer.json()["mqtt"]
            with closing(site.connect(login["username"], login["password"])) as client:
                return 201, client.is_in

        for burst in range(BURSTS):
            devices = [Machine(name=f"new-{burst}-{n}") for n in range(AT_ONCE)]
            assert list(pool.map(enrol, devices)) == [(201, True)] * AT_ONCE, f"burst {burst}"


def test_a_revoked_device_is_thrown_out_and_stays_out(site: MosquittoSite) -> None:
    site.write_state()
    site.broker.start()
    with site.fleet() as fleet:
        claim = fleet.claim(uses=2)
        logins = [fleet.enrol(Machine(name=name), claim).json()["mqtt"] for name in ("d-1", "d-2")]
        first, second = (site.connect(login["username"], login["password"]) for login in logins)
        assert first.is_in
        assert second.is_in
        for _ in range(2):  # twice, since an answer may get lost
            answer = fleet.call("POST", "/v1/devices/d-2:revoke", Role.ADMIN)
            assert (answer.status_code, answer.json()["state"]) == (200, "revoked")
        second.turn(lambda: second.is_lost, "the broker to throw d-2 out")
        assert site.connect("d-2", logins[1]["password"]).greetings == ["Not authorized"]
        first.publish(device_topic("demo", "d-1", Kind.HEALTH), "still here")


def test_an_end_is_heard_from_a_device_and_what_is_normal_reaches_it_again_after_the_broker_forgot(
    site: MosquittoSite,
) -> None:
    machine = Machine(name="d-1")
    password = site.add_devices(machine)["d-1"]
    site.write_state()
    site.broker.start()
    with site.fleet() as fleet:
        wait_until(
            lambda: fleet.call("GET", "/healthz").json()["broker_connected"], "the fleet to reach the broker"
        )
        device = site.connect("d-1", password)
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
        assert heard_as_normal(site.connect("d-1", password)) == counter


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
    machine = Machine(name="d-1")
    password = site.add_devices(machine)["d-1"]
    site.write_state()
    site.broker.start()
    with site.fleet() as fleet:
        wait_until(lambda: fleet.call("GET", "/healthz").json()["broker_connected"], "the fleet")
        device = site.connect("d-1", password)
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


def test_enrolling_again_replaces_the_password(site: MosquittoSite) -> None:
    site.write_state()
    site.broker.start()
    machine = Machine(name="d-1")
    with site.fleet() as fleet:
        claim = fleet.claim()
        old, new = (fleet.enrol(machine, claim).json()["mqtt"]["password"] for _ in range(2))
        assert old != new
        assert site.connect("d-1", old).greetings == ["Not authorized"]
        assert site.connect("d-1", new).is_in


def test_without_a_broker_an_enrolment_is_refused_with_what_to_do_and_is_made_when_the_broker_is_there(
    site: MosquittoSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write_state()
    monkeypatch.setattr(dynamic_security, "PATIENCE_S", 0.2)
    known, unknown = Machine(name="d-1"), Machine(name="d-2")
    with site.fleet() as fleet:
        claim = fleet.claim(uses=2)
        for machine in (known, unknown):
            is_problem(fleet.enrol(machine, claim), 503, machine.name, "repeat this call")
        is_problem(fleet.call("POST", "/v1/devices/d-2:revoke", Role.ADMIN), 503, "d-2")
        site.broker.start()
        monkeypatch.undo()
        answer = wait_until(
            lambda: (a := fleet.enrol(known, claim)).status_code == 201 and a, "the fleet to reach the broker"
        )
        assert site.connect("d-1", answer.json()["mqtt"]["password"]).is_in
        is_problem(fleet.enrol(unknown, claim), 403, "revoked")


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
        claim = fleet.claim(uses=3)
        for name in ("grafana", "d-2"):
            is_problem(fleet.enrol(Machine(name=name), claim), 409, name, "did not make")
            assert fleet.call("POST", f"/v1/devices/{name}:revoke", Role.ADMIN).status_code == 200
        login = fleet.enrol(Machine(name="d-3"), claim).json()["mqtt"]
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


@pytest.mark.slow
def test_no_password_ever_stands_in_a_log(site: MosquittoSite) -> None:
    site.write_state()
    site.broker.start()
    log = site.folder / "fleet.log"
    with ExitStack() as stack:
        _, url = stack.enter_context(fleet_process(site.config, log))
        with site.database.write() as session:
            claim = create_claim(
                session, name="t", uses=1, now=NOW, lifetime_s=None, random_bytes=secrets.token_bytes
            )
        login = httpx.post(
            f"{url}/v1/enrolments",
            json=Machine(name="d-1").enrolment(),
            headers={"Authorization": f"Bearer {claim}"},
            timeout=AMPLE_S,
        ).json()["mqtt"]
        assert site.connect("d-1", login["password"]).is_in
    said = log.read_text() + site.broker.log.read_text()
    assert "createClient" in said
    for secret in (login["password"], claim, *site.passwords.values()):
        assert secret not in said
