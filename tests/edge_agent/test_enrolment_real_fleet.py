"""Enrolment, approval, renewal and refusal against the real fleet service: the device's side does not imagine it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from enrolling_fleet import settings
from test_certificate_keeper import Hands
from test_fleet_client_real_fleet import Fleet

from edge_agent.certificate_keeper import CertificateKeeper
from edge_agent.commands.enrolling import WAITING, enrol_and_wait
from edge_agent.connection_certificate import make_request, read_lifetime
from edge_agent.enrolled import load_enrolled
from edge_agent.enrolment import enrol_device
from edge_agent.errors import FleetAnswerError, FleetDeniedError
from edge_agent.fleet_client import FleetClient
from edge_agent.identity_key import open_identity
from edge_agent.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp("site") / "fleet")
    with made.serving():
        yield made


def device(root: Path, fleet: Fleet, *terms: str, **more: str) -> Settings:
    claim = fleet.cli("claims", "create", "--family", "pump", "--unreleased", *terms)
    return settings(root, fleet.url, fleet.ca, f"{claim}\n", **more)


def client(mine: Settings, fleet: Fleet) -> FleetClient:
    name = load_enrolled(mine.paths.enrolment).device
    return FleetClient(endpoint=fleet.endpoint, device=name, key=open_identity(mine))


def keeper(mine: Settings, fleet: Fleet) -> CertificateKeeper:
    hands = Hands()
    return CertificateKeeper(
        mine, load_enrolled(mine.paths.enrolment), client(mine, fleet), clock=hands, link=hands
    )


def test_what_the_claim_says_is_what_the_device_is(tmp_path: Path, fleet: Fleet) -> None:
    mine = device(tmp_path, fleet, "--site", "hall-9", "--label", "line=4")
    enrolled = enrol_device(mine)
    assert (enrolled.site, enrolled.labels) == ("hall-9", {"line": "4"}), "and not what agent.toml says"
    lifetime = read_lifetime(mine.paths.connection, enrolled.device)
    assert lifetime is not None
    assert 29 * 86400 < lifetime.ends_s - time.time() <= 30 * 86400


def test_a_person_approves_and_the_device_needs_neither_its_claim_nor_a_hand(
    tmp_path: Path, fleet: Fleet
) -> None:
    mine = device(tmp_path, fleet, "--approve")
    waiting = enrol_device(mine)
    assert waiting.is_waiting
    (tmp_path / "claim.token").unlink()
    keeping = keeper(mine, fleet)
    keeping.turn()
    assert "waits for a person: fedge-fleet devices approve" in keeping.trouble
    with pytest.raises(FleetDeniedError, match="waits for a person"):
        client(mine, fleet).desired()
    admin = fleet.cli("tokens", "create", "--role", "admin", "--name", f"a-{waiting.device}", "--person", "a")
    fleet.call(
        admin, f"/v1/devices/{waiting.device}:approve", f'{{"fingerprint": "{waiting.fingerprint}"}}'.encode()
    )
    keeping.turn()
    keeping.turn()
    assert keeping.trouble == ""
    assert not load_enrolled(mine.paths.enrolment).is_waiting
    assert read_lifetime(mine.paths.connection, waiting.device) is not None
    assert client(mine, fleet).desired().state is None


def test_a_lost_certificate_is_given_anew_and_a_revoked_device_gets_none(
    tmp_path: Path, fleet: Fleet
) -> None:
    mine = device(tmp_path, fleet)
    enrolled = enrol_device(mine)
    mine.paths.connection.unlink()
    keeping = keeper(mine, fleet)
    keeping.turn()
    assert read_lifetime(mine.paths.connection, enrolled.device) is not None
    admin = fleet.cli(
        "tokens", "create", "--role", "admin", "--name", f"a-{enrolled.device}", "--person", "a"
    )
    fleet.call(admin, f"/v1/devices/{enrolled.device}:revoke", f'{{"confirm": "{enrolled.device}"}}'.encode())
    with pytest.raises(FleetDeniedError, match="is revoked"):
        client(mine, fleet).certificate(make_request(enrolled.device)[1])
    mine.paths.connection.unlink()
    again = keeper(mine, fleet)
    again.turn()
    assert "gives this device no certificate" in again.trouble
    with pytest.raises(FleetDeniedError, match="revoked"):
        enrol_device(mine)


@pytest.mark.parametrize(
    ("more", "told"),
    [({"tenant": "acme"}, 'set tenant = "demo" in agent.toml'), ({"family": "valve"}, 'set family = "pump"')],
)
def test_settings_of_another_fleet_or_family_are_told_before_the_claim_is_used(
    tmp_path: Path, fleet: Fleet, more: dict[str, str], told: str
) -> None:
    claim = fleet.cli("claims", "create", "--family", "pump", "--unreleased")
    with pytest.raises(FleetAnswerError, match="the claim is not used") as error:
        enrol_device(settings(tmp_path, fleet.url, fleet.ca, claim, **more))
    assert told in str(error.value)
    assert enrol_device(settings(tmp_path, fleet.url, fleet.ca, claim)).family == "pump"


def test_a_certificate_for_another_name_is_not_given(tmp_path: Path, fleet: Fleet) -> None:
    mine = device(tmp_path, fleet)
    enrol_device(mine)
    for name in ("fleet", "pump-9", "training"):
        with pytest.raises(FleetAnswerError, match="400"):
            client(mine, fleet).certificate(make_request(name)[1])


def test_the_command_tells_the_fingerprint_that_the_person_compares(
    tmp_path: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = device(tmp_path, fleet, "--approve")
    assert enrol_and_wait(mine, is_patient=False) == WAITING
    assert load_enrolled(mine.paths.enrolment).fingerprint in capsys.readouterr().err


def test_the_request_of_an_agent_of_7cc0d60_is_answered_with_what_to_do_and_spends_nothing(
    tmp_path: Path, fleet: Fleet
) -> None:
    frozen = Path(__file__).parent / "golden" / "enrolment_request_of_7cc0d60.json"
    claim = fleet.cli("claims", "create", "--family", "pump", "--unreleased")
    with pytest.raises(FleetAnswerError) as told:
        fleet.call(claim, "/v1/enrolments", frozen.read_bytes())
    assert 400 <= told.value.status < 500
    assert "install the agent of this fleet's version and start it with the state directory" in str(
        told.value
    )
    assert enrol_device(settings(tmp_path, fleet.url, fleet.ca, claim)).family == "pump"
