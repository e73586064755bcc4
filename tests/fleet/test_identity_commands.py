"""What people type on the server and from afar: claims, approval, the device CA; and what its loss or theft asks for."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from fleet_api_world import Fleet, fleet, machine
from fleet_world import Machine
from sqlalchemy import update
from typer.testing import CliRunner

from fleet.cli import app
from fleet.client.client import FleetClient
from fleet.device_ca import DeviceCa
from fleet.storage.device_tables import Device
from protocol.errors import ProtocolError
from protocol.identity import fingerprint
from runtime.errors import FedgeError
from service.roles import Role

__all__ = ["fleet", "machine"]  # the fixtures

Cli = Callable[..., Any]


@pytest.fixture
def cli(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs ``fedge-fleet …`` on the fleet's own server, as the holder of an admin's token."""

    def connect(*_: object) -> FleetClient:
        headers = {"Authorization": f"Bearer {fleet.tokens[Role.ADMIN]}"}
        http = httpx.Client(transport=fleet.client._transport, base_url="http://testserver", headers=headers)
        return FleetClient(http, service="fleet")

    monkeypatch.setattr("fleet.commands.connection.connect", connect)
    config = fleet.folder / "fleet.toml"
    url = fleet.database.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("FEDGE_FLEET_SERVICE_DATABASE_URL", url)

    def run(*arguments: str, answer: str | None = None, refused: str | None = None) -> str:
        own = [] if arguments[0] == "devices" else ["--config", str(config)]
        result = CliRunner().invoke(app, [*arguments, *own], input=answer)
        if refused is not None:
            assert isinstance(result.exception, FedgeError | ProtocolError), result.output
            assert refused in str(result.exception)
            return str(result.exception)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def tokens_in(said: str) -> list[str]:
    return re.findall(r"^fc_\S+$", said, re.MULTILINE)


MOTOR = ("claims", "create", "--family", "motor", "--unreleased")


def test_claims_are_printed_once_listed_without_their_tokens_and_revoked_by_batch(
    fleet: Fleet, machine: Machine, cli: Cli
) -> None:
    said = cli(*MOTOR, "--site", "hall-7", "--label", "line=3", "--count", "3", "--valid", "12h")
    tokens = tokens_in(said)
    assert len(tokens) == 3
    assert fleet.enrol(machine, tokens[0]).json()["labels"] == {"line": "3"}
    told = cli("claims", "list", "--json")
    assert not any(token in told or token[3:] in told for token in tokens)
    ours = [row for row in json.loads(told) if row["site"] == "hall-7"]
    assert {row["used_by"] for row in ours} == {machine.name, None}
    assert [row["expires_at"] - row["created_at"] for row in ours] == [43200.0] * 3
    (batch,) = {row["name"] for row in ours}
    said = cli("claims", "revoke", batch, "--yes")
    assert "revoked: 2 of 3" in said
    assert machine.name in said
    assert fleet.enrol(Machine(name=f"{machine.name}-2"), tokens[1]).status_code == 401
    assert "revoked: 0 of 3" in cli("claims", "revoke", batch, "--yes")
    lines = fleet.call("GET", "/v1/audit", Role.ADMIN).text
    assert "claims_created" in lines
    assert "claims_revoked" in lines
    assert not any(token in lines for token in tokens)
    cli("claims", "revoke", "no-such", "--yes", refused="no claim 'no-such'")


def test_claims_go_into_a_new_file_that_only_its_owner_reads(fleet: Fleet, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "claims"
    assert tokens_in(cli(*MOTOR, "--count", "2", "--out", str(out))) == []
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert len(out.read_text().split()) == 2
    before, made = out.read_text(), len(json.loads(cli("claims", "list", "--json")))
    cli(*MOTOR, "--out", str(out), refused=str(out))
    assert out.read_text() == before
    assert len(json.loads(cli("claims", "list", "--json"))) == made, "what could not be written is no claim"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--valid", "7"), "'7' is no length of time"),
        (("--valid", "0d"), "'0d' is no length of time"),
        (("--valid", "-1d"), "'-1d' is no length of time"),
        (("--label", "line"), "name=value"),
        (("--label", "=3"), "name=value"),
        (("--label", "site=hall-1"), "site"),
        (("--site", "a\nb"), "site"),
        (("--count", "10001"), "10001"),
        (("--device", "fleet/x"), "fleet/x"),
        (("--device", "Fleet"), "the name of a service"),
    ],
)
def test_a_claim_that_is_none_is_refused_with_words(cli: Cli, options: tuple[str, str], words: str) -> None:
    cli(*MOTOR, *options, refused=words)


def test_a_family_that_no_release_has_must_be_meant(cli: Cli) -> None:
    cli("claims", "create", "--family", "moter", refused="no release is of family 'moter'")


def test_a_person_compares_the_key_before_a_device_that_waits_gets_in(
    fleet: Fleet, machine: Machine, cli: Cli
) -> None:
    (token,) = tokens_in(cli(*MOTOR, "--approve"))
    assert fleet.enrol(machine, token).json()["status"] == "waiting"
    mark = fingerprint(machine.key.public_key())
    cli("devices", "approve", machine.name, answer="n\n", refused="nobody was approved")
    cli("devices", "approve", machine.name, "--fingerprint", "0" * 64, refused="look again")
    said = cli("devices", "approve", machine.name, answer="y\n")
    assert mark in said
    assert fleet.enrol(machine, token).json()["status"] == "enrolled"
    other = Machine(name=f"{machine.name}-b")
    (token,) = tokens_in(cli(*MOTOR, "--approve"))
    fleet.enrol(other, token)
    assert "revoked" in cli("devices", "refuse", other.name, "--yes")
    assert fleet.enrol(other, token).status_code == 403
    said = cli("devices", "assign", machine.name, "--site", "hall-3", "--label", "line=9")
    assert "site hall-3, labels line=9" in said


def leaf(chain: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates(chain.encode())[0]


def renewed(fleet: Fleet, machine: Machine) -> x509.Certificate:
    body = machine.question()
    answer = fleet.call("POST", "/v1/device/certificate", machine.token(fleet.now()), json=body)
    assert answer.status_code == 200, answer.text
    return leaf(answer.json()["certificate"])


def trusts(pem: str, certificate: x509.Certificate) -> bool:
    for authority in x509.load_pem_x509_certificates(pem.encode()):
        try:
            certificate.verify_directly_issued_by(authority)
        except Exception:  # noqa: BLE001, S112 - whatever is wrong with it, it is not trusted
            continue
        return True
    return False


def test_a_stolen_device_ca_is_changed_while_the_fleet_runs_and_its_certificates_are_worth_nothing(
    fleet: Fleet, machine: Machine, cli: Cli
) -> None:
    old = leaf(fleet.enrol(machine).json()["certificate"])
    before = cli("device-ca")
    assert trusts(before, old)
    cli("device-ca", "switch", "--yes", refused="no next device CA")
    cli("device-ca", "rotate")
    assert trusts(before, renewed(fleet, machine)), (
        "until the broker knows the next one, the present one signs"
    )
    cli("device-ca", "switch", "--yes")
    new = renewed(fleet, machine)
    beside = cli("device-ca")
    assert trusts(beside, old)
    assert trusts(beside, new)
    cli("device-ca", "forget", "--stolen", "--yes")
    after = cli("device-ca")
    assert trusts(after, new)
    assert not trusts(after, old)
    assert after.count("BEGIN CERTIFICATE") == 1
    assert trusts(after, renewed(fleet, machine)), "over HTTPS, for which this CA counts nothing"


def test_a_former_ca_is_not_forgotten_while_devices_need_it(fleet: Fleet, machine: Machine, cli: Cli) -> None:
    fleet.enrol(machine)
    cli("device-ca", "rotate")
    cli("device-ca", "switch", "--yes")
    cli("device-ca", "forget", "--yes", refused="hold certificates of a former CA")
    with fleet.database.write() as session:  # the certificates of all others have ended
        session.execute(
            update(Device).where(Device.id != machine.name).values(certificate_ends_at=fleet.now())
        )
    cli(
        "device-ca",
        "forget",
        "--yes",
        refused=f"1 devices hold certificates of a former CA, e.g. {machine.name}",
    )
    renewed(fleet, machine)
    cli("device-ca", "forget", "--yes")
    assert cli("device-ca").count("BEGIN CERTIFICATE") == 1


def test_a_lost_device_ca_is_made_anew_and_devices_get_certificates_of_it(
    fleet: Fleet, machine: Machine, cli: Cli
) -> None:
    old = leaf(fleet.enrol(machine).json()["certificate"])
    (fleet.folder / "data" / "device-ca.key").unlink()
    cli("device-ca", refused="restore the key from the backup")
    body = machine.question()
    answer = fleet.call("POST", "/v1/device/certificate", machine.token(fleet.now()), json=body)
    assert answer.status_code == 500
    cli("device-ca", "rotate", "--lost")
    new = renewed(fleet, machine)
    trusted = cli("device-ca")
    assert trusts(trusted, old)
    assert trusts(trusted, new)
    assert said_of_ca(fleet)[-2:] == ["change_begun", "device_ca_rotated"]


@pytest.mark.parametrize(
    ("deed", "before"),
    [("rotate", ()), ("switch", ("rotate",)), ("forget", ("rotate", "switch"))],
)
def test_no_kill_leaves_a_device_ca_that_changed_without_a_line(
    fleet: Fleet, cli: Cli, monkeypatch: pytest.MonkeyPatch, deed: str, before: tuple[str, ...]
) -> None:
    asked = {"rotate": (), "switch": ("--yes",), "forget": ("--yes", "--stolen")}
    for done in before:
        cli("device-ca", done, *asked[done])
    change, known = getattr(DeviceCa, deed), said_of_ca(fleet)

    def killed(*arguments: Any, **options: Any) -> None:
        change(*arguments, **options)
        raise KilledError

    monkeypatch.setattr(DeviceCa, deed, killed)
    with pytest.raises(KilledError):
        cli("device-ca", deed, *asked[deed])
    assert said_of_ca(fleet) == [*known, "change_begun"]


class KilledError(Exception):
    """The command ended here."""


def said_of_ca(fleet: Fleet) -> list[str]:
    lines = fleet.call("GET", "/v1/audit?subject=device-ca&limit=100", Role.ADMIN).json()["items"]
    return [line["action"] for line in reversed(lines)]
