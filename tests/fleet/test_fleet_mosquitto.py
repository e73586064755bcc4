"""A real Mosquitto with the fleet as the owner of its accounts: who enrols gets in, who is revoked stays out."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import httpx
import pytest
from fleet_api_world import is_problem
from fleet_world import Machine, fleet_process, make_claims
from mosquitto_site import MosquittoSite
from mosquitto_world import site
from waiting import AMPLE_S, wait_until

from fleet.broker_accounts import dynamic_security
from protocol.messages.kinds import Kind
from protocol.topics import device_topic
from service.roles import Role

__all__ = ["site"]  # the fixture
pytestmark = pytest.mark.slow

BURSTS, AT_ONCE, ACCOUNTS = 30, 8, 200


@pytest.mark.slow
def test_thirty_bursts_of_eight_enrolments_leave_no_device_outside(site: MosquittoSite) -> None:
    site.add_devices(*(Machine(name=f"old-{n}") for n in range(ACCOUNTS)))
    claims = make_claims(site.database, BURSTS * AT_ONCE, now=time.time())
    site.write_state()
    site.broker.start()
    with (
        fleet_process(site.config, site.folder / "fleet.log") as (_, url),
        httpx.Client(base_url=url, timeout=AMPLE_S) as http,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):

        def enrol(machine: Machine) -> tuple[int, bool]:
            headers = {"Authorization": f"Bearer {claims.pop()}"}
            answer = http.post("/v1/enrolments", json=machine.enrolment(), headers=headers)
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
        logins = [fleet.enrol(Machine(name=name)).json()["mqtt"] for name in ("d-1", "d-2")]
        first, second = (site.connect(login["username"], login["password"]) for login in logins)
        assert first.is_in
        assert second.is_in
        for _ in range(2):  # twice, since an answer may get lost
            answer = fleet.call("POST", "/v1/devices/d-2:revoke", Role.ADMIN, json={"confirm": "d-2"})
            assert (answer.status_code, answer.json()["state"]) == (200, "revoked")
        second.turn(lambda: second.is_lost, "the broker to throw d-2 out")
        assert site.connect("d-2", logins[1]["password"]).greetings == ["Not authorized"]
        first.publish(device_topic("demo", "d-1", Kind.HEALTH), "still here")


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
        claim, other = fleet.claim(), fleet.claim()
        for machine, own in ((known, claim), (unknown, other)):
            is_problem(fleet.enrol(machine, own), 503, machine.name, "repeat this call")
        is_problem(
            fleet.call("POST", "/v1/devices/d-2:revoke", Role.ADMIN, json={"confirm": "d-2"}), 503, "d-2"
        )
        site.broker.start()
        monkeypatch.undo()
        answer = wait_until(
            lambda: (a := fleet.enrol(known, claim)).status_code == 201 and a, "the fleet to reach the broker"
        )
        assert site.connect("d-1", answer.json()["mqtt"]["password"]).is_in
        is_problem(fleet.enrol(unknown, claim), 403, "revoked")


@pytest.mark.slow
def test_no_password_ever_stands_in_a_log(site: MosquittoSite) -> None:
    site.write_state()
    site.broker.start()
    log = site.folder / "fleet.log"
    with ExitStack() as stack:
        _, url = stack.enter_context(fleet_process(site.config, log))
        (claim,) = make_claims(site.database, now=time.time())
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
