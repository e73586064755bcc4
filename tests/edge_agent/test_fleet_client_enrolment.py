"""Enrolling against a real TLS server on loopback."""

from __future__ import annotations

import base64
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from https_world import Reply, Request, make_certificate, serving

from edge_agent.enrolled import load_device_key, load_enrolled
from edge_agent.enrolment import device_name, enrol_device
from edge_agent.errors import FleetAnswerError, FleetConflictError, FleetDeniedError, NotEnrolledError
from edge_agent.settings import FleetSettings, Settings
from protocol.identity import fingerprint, load_public_key, verify_statement
from runtime.errors import SettingsError

pytestmark = pytest.mark.edge


def settings(root: Path, url: str, ca_file: Path, claim: str | None = "claim-1\n") -> Settings:
    if claim is not None:
        (root / "claim.token").write_text(claim)
    return Settings(
        state_dir=root / "state",
        tenant="demo",
        family="pump",
        hardware="rpi4",
        source={"kind": "simulated"},  # type: ignore[arg-type]  # not looked at here
        release_keys=(),
        labels={"site": "hall-1"},
        fleet=FleetSettings(url=url, ca_file=ca_file, claim_token_file=root / "claim.token"),
    )


def accept(request: Request) -> Reply:
    """What the fleet does: check the claim and the signature, hand out a broker account."""
    assert (request.method, request.path) == ("POST", "/v1/enrolments")
    assert request.headers["authorization"] == "Bearer claim-1"
    asked = msgspec.json.decode(request.body)
    assert asked.keys() == {"device", "public_key", "hardware", "family", "labels", "signature"}
    key = load_public_key(asked["public_key"].encode())
    statement = f"{asked['device']}\n{fingerprint(key)}".encode()
    verify_statement(key, "enrolment/v1", statement, base64.b64decode(asked["signature"]))
    account = {"username": asked["device"], "password": "made-by-the-fleet"}
    return Reply(201, msgspec.json.encode({"device": asked["device"], "tenant": "demo", "mqtt": account}))


def test_enrolling_makes_a_private_key_and_keeps_the_account(tmp_path: Path) -> None:
    with serving(tmp_path / "tls", accept) as server:
        mine = settings(tmp_path, server.url, server.ca_file)
        enrolled = enrol_device(mine)
    key = load_device_key(mine.paths.device_key)
    assert enrolled == load_enrolled(mine.paths.enrolment)
    assert enrolled.device == device_name(key.public_key()) == f"device-{fingerprint(key.public_key())[:12]}"
    for path in (mine.paths.device_key, mine.paths.enrolment):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_enrolling_again_keeps_the_identity(tmp_path: Path) -> None:
    with serving(tmp_path / "tls", accept) as server:
        mine = settings(tmp_path, server.url, server.ca_file)
        first = enrol_device(mine)
        assert enrol_device(mine).device == first.device


def test_the_claim_token_is_neither_stored_nor_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    with serving(tmp_path / "tls", accept) as server:
        mine = settings(tmp_path, server.url, server.ca_file)
        enrol_device(mine)
    stored = b"".join(path.read_bytes() for path in mine.state_dir.rglob("*") if path.is_file())
    assert b"claim-1" not in stored
    assert "claim-1" not in caplog.text
    assert "made-by-the-fleet" not in caplog.text


REFUSALS: dict[str, tuple[Callable[[Request], Reply], type[Exception], str]] = {
    "a used claim": (
        lambda _: Reply(401),
        FleetDeniedError,
        "may be used up or wrong; ask the fleet's operator",
    ),
    "another key": (
        lambda _: Reply(409),
        FleetConflictError,
        "To join as another device, remove .*device.key",
    ),
    "no enrolment": (lambda _: Reply(201, b"{}"), FleetAnswerError, "the fleet's answer is not an enrolment"),
    "another device": (
        lambda _: Reply(201, b'{"device":"x","tenant":"demo","mqtt":{"username":"x","password":"y"}}'),
        FleetAnswerError,
        "the fleet answered for 'x'",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_is_one_clear_line_and_leaves_no_enrolment(tmp_path: Path, what: str) -> None:
    answer, kind, expected = REFUSALS[what]
    with serving(tmp_path / "tls", answer) as server:
        mine = settings(tmp_path, server.url, server.ca_file)
        with pytest.raises(kind, match=expected):
            enrol_device(mine)
    assert not mine.paths.enrolment.exists()


@pytest.mark.parametrize("token", [None, "", "two words", "x" * 2000, "tökén"])
def test_an_unusable_claim_token_file_is_named(tmp_path: Path, token: str | None) -> None:
    ca, _, _ = make_certificate(tmp_path / "tls")
    with pytest.raises(SettingsError, match=r"claim_token_file .*claim\.token"):
        enrol_device(settings(tmp_path, "https://127.0.0.1:1", ca, token))


def test_a_damaged_device_key_is_not_replaced_silently(tmp_path: Path) -> None:
    ca, _, _ = make_certificate(tmp_path / "tls")
    mine = settings(tmp_path, "https://127.0.0.1:1", ca)
    mine.state_dir.mkdir()
    mine.paths.device_key.write_bytes(b"-----BEGIN NOTHING-----")
    with pytest.raises(NotEnrolledError, match="is not a device key"):
        enrol_device(mine)
    assert mine.paths.device_key.read_bytes() == b"-----BEGIN NOTHING-----"
