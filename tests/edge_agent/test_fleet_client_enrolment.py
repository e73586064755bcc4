"""Enrolling against a real TLS server on loopback."""

from __future__ import annotations

import base64
import os
import random
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from enrolling_fleet import DeviceAuthority, EnrollingFleet, settings
from https_world import Reply, Request, make_certificate, serving

from edge_agent.connection_certificate import accept_certificate, make_request, read_lifetime
from edge_agent.enrolled import check_settings, load_enrolled
from edge_agent.enrolment import device_name, enrol_device
from edge_agent.errors import FleetAnswerError, FleetConflictError, FleetDeniedError, NotEnrolledError
from edge_agent.identity_key import load_device_key
from protocol.identity import fingerprint
from runtime.errors import SettingsError, StorageError

pytestmark = [
    pytest.mark.edge,
    # of serial numbers that are none, while certificates are spoiled
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
]


def certificates(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


def test_enrolling_makes_a_private_key_and_keeps_the_certificate_with_its_own(tmp_path: Path) -> None:
    fleet = EnrollingFleet()
    with serving(tmp_path / "tls", fleet) as server:
        mine = settings(tmp_path, server.url, server.ca_file)
        enrolled = enrol_device(mine)
    key = load_device_key(mine.paths.device_key)
    assert enrolled == load_enrolled(mine.paths.enrolment)
    assert enrolled.device == device_name(key.public_key()) == f"device-{fingerprint(key.public_key())[:12]}"
    assert (enrolled.family, enrolled.site, enrolled.labels) == ("pump", "hall-1", {"line": "2"})
    assert enrolled.fingerprint == fingerprint(key.public_key())
    for path in (mine.paths.device_key, mine.paths.enrolment, mine.paths.connection):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    leaf, issuer = certificates(mine.paths.connection.read_bytes())
    assert leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == enrolled.device
    assert issuer == fleet.authority.certificate
    assert leaf.public_key() != key.public_key(), "what TLS uses is another key than what signs for good"
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(mine.paths.connection)


def test_enrolling_again_keeps_the_identity_and_brings_another_connection_key(tmp_path: Path) -> None:
    with serving(tmp_path / "tls", EnrollingFleet()) as server:
        mine = settings(tmp_path, server.url, server.ca_file)
        first = enrol_device(mine)
        before = certificates(mine.paths.connection.read_bytes())[0].public_key()
        assert enrol_device(mine) == first
    assert certificates(mine.paths.connection.read_bytes())[0].public_key() != before


def test_a_device_that_waits_for_a_person_is_kept_as_waiting_and_asks_the_same_again(tmp_path: Path) -> None:
    fleet = EnrollingFleet(approves=False)
    with serving(tmp_path / "tls", fleet) as server:
        mine = settings(tmp_path, server.url, server.ca_file)
        waiting = enrol_device(mine)
        assert waiting.is_waiting
        assert load_enrolled(mine.paths.enrolment).is_waiting
        assert not mine.paths.connection.exists()
        fleet.approves = True
        assert not enrol_device(mine).is_waiting
    first, second = fleet.asked
    assert (first.device, first.public_key) == (second.device, second.public_key)
    assert mine.paths.connection.exists()


def test_the_claim_token_is_neither_stored_nor_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    with serving(tmp_path / "tls", EnrollingFleet()) as server:
        mine = settings(tmp_path, server.url, server.ca_file)
        enrol_device(mine)
    stored = b"".join(path.read_bytes() for path in mine.state_dir.rglob("*") if path.is_file())
    assert b"claim-1" not in stored
    assert "claim-1" not in caplog.text
    assert "PRIVATE" not in caplog.text


STRANGER = ec.generate_private_key(ec.SECP256R1())
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
    "an enrolment of a fleet before certificates": (
        lambda _: Reply(201, b'{"device":"x","tenant":"demo","mqtt":{"username":"x","password":"y"}}'),
        FleetAnswerError,
        "the fleet's answer is not an enrolment",
    ),
    "another device": (
        EnrollingFleet(answer={"device": "x"}),
        FleetAnswerError,
        "the fleet answered for 'x'",
    ),
    "another tenant": (
        EnrollingFleet(answer={"tenant": "x"}),
        FleetAnswerError,
        "enrol tenant 'demo', the fleet answered for 'x'",
    ),
    "another family": (
        EnrollingFleet(answer={"family": "x"}),
        FleetAnswerError,
        "enrol family 'pump', the fleet answered for 'x'",
    ),
    "no certificate": (EnrollingFleet(answer={"certificate": ""}), FleetAnswerError, "does not parse"),
    "half a certificate": (
        EnrollingFleet(answer={"certificate": "-----BEGIN CERTIFICATE-----\nMIIB"}),
        FleetAnswerError,
        "does not parse",
    ),
    "a certificate for another key": (
        EnrollingFleet(lie={"key": STRANGER.public_key()}),
        FleetAnswerError,
        "for another key than the one that it was asked for",
    ),
    "a certificate for another name": (
        EnrollingFleet(lie={"name": "pump-9"}),
        FleetAnswerError,
        "it is for 'CN=pump-9'",
    ),
    "a certificate of another CA than the one beside it": (
        EnrollingFleet(lie={"signed_by": STRANGER}),
        FleetAnswerError,
        "not signed by the device CA that came with it",
    ),
    "a server's certificate": (
        EnrollingFleet(lie={"usage": ExtendedKeyUsageOID.SERVER_AUTH}),
        FleetAnswerError,
        "it is not for clients",
    ),
    "a certificate that never ends": (
        EnrollingFleet(lie={"ends_days": 4000}),
        FleetAnswerError,
        "it is good from",
    ),
    "a certificate that had ended before this version was made": (
        EnrollingFleet(lie={"begins_days": -4000, "ends_days": -3990}),
        FleetAnswerError,
        "it is good from",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_is_one_clear_line_and_leaves_no_enrolment(tmp_path: Path, what: str) -> None:
    answer, kind, expected = REFUSALS[what]
    with serving(tmp_path / "tls", answer) as server:
        mine = settings(tmp_path, server.url, server.ca_file)
        with pytest.raises(kind, match=expected) as told:
            enrol_device(mine)
    assert "\n" not in str(told.value)
    assert not mine.paths.enrolment.exists()
    assert not mine.paths.connection.exists()


def test_a_certificate_that_is_over_is_refused_where_the_date_is_known(tmp_path: Path) -> None:
    fleet = EnrollingFleet(lie={"begins_days": -30, "ends_days": -1})
    with serving(tmp_path / "tls", fleet) as server:
        mine = settings(tmp_path, server.url, server.ca_file)
        with pytest.raises(FleetAnswerError, match="by a clock that is kept"):
            enrol_device(mine, time.time)
        assert not enrol_device(mine, lambda: None).is_waiting, "a board without a clock cannot tell"


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


@pytest.mark.parametrize("cut", [0, 1, 100, 300, 700])
def test_a_cut_certificate_file_counts_as_none_and_enrolling_again_mends_it(tmp_path: Path, cut: int) -> None:
    with serving(tmp_path / "tls", EnrollingFleet()) as server:
        mine = settings(tmp_path, server.url, server.ca_file)
        enrolled = enrol_device(mine)
        whole = mine.paths.connection.read_bytes()
        mine.paths.connection.write_bytes(whole[:cut])
        assert read_lifetime(mine.paths.connection, enrolled.device) is None
        enrol_device(mine)
        assert read_lifetime(mine.paths.connection, enrolled.device) is not None


def test_a_disk_that_is_full_in_the_middle_leaves_a_device_that_can_enrol_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = EnrollingFleet()
    with serving(tmp_path / "tls", fleet) as server:
        mine = settings(tmp_path, server.url, server.ca_file)
        for writes in (
            0,
            1,
            1,
        ):  # fails: the identity key; the certificate; the enrolment, as there is a key by now
            left = [writes]

            def replace(source: Path, target: Path, left: list[int] = left) -> None:
                if left[0] == 0:
                    raise OSError(28, "No space left on device")
                left[0] -= 1
                os.replace(source, target)  # noqa: PTH105 - what is replaced here is Path.replace itself

            with monkeypatch.context() as disk:
                disk.setattr(Path, "replace", replace)
                with pytest.raises(StorageError, match="No space left"):
                    enrol_device(mine)
            assert not mine.paths.enrolment.exists()
        enrolled = enrol_device(mine)
    assert len({asked.public_key for asked in fleet.asked}) == 1, "one identity, however often it was asked"
    assert load_enrolled(mine.paths.enrolment) == enrolled


def test_a_secret_that_others_may_read_is_closed_to_them_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path / "tls", EnrollingFleet()) as server:
        mine = settings(tmp_path, server.url, server.ca_file)
        enrol_device(mine)
    mine.paths.device_key.chmod(0o644)
    load_device_key(mine.paths.device_key)
    assert stat.S_IMODE(mine.paths.device_key.stat().st_mode) == 0o600
    assert "secret_was_open" in caplog.text
    assert "mode=0644" in caplog.text


def test_a_secret_that_stays_open_to_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "device.key").touch(0o644)

    def denied(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", denied)
    with pytest.raises(StorageError, match=r"has mode 0644, so others may read this secret.*chmod 600"):
        load_device_key(tmp_path / "device.key")


def test_settings_of_another_tenant_or_family_than_the_claims_are_told(tmp_path: Path) -> None:
    with serving(tmp_path / "tls", EnrollingFleet()) as server:
        enrolled = enrol_device(settings(tmp_path, server.url, server.ca_file))
    for more in ({"tenant": "other"}, {"family": "other"}):
        (what,) = more
        with pytest.raises(SettingsError, match=f"{what} = 'other', but this device is enrolled in"):
            check_settings(settings(tmp_path, "https://127.0.0.1:1", tmp_path, **more), enrolled)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_bytes_stand_in_a_certificate_it_is_refused_in_one_line_or_says_what_was_signed(
    tmp_path: Path, seed: int
) -> None:
    authority, draw = DeviceAuthority(), random.Random(seed)
    key, request = make_request("pump-07")
    made = certificates(authority.issue(request).encode())[0]
    leaf, told = made.public_bytes(serialization.Encoding.DER), []
    for _ in range(500):
        spoiled = bytearray(leaf)
        for _change in range(draw.choice((1, 1, 2, 5))):
            spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
        body = base64.encodebytes(spoiled).decode()
        chain = f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n{authority.pem}"
        try:
            accept_certificate(tmp_path / "connection.pem", chain, key, device="pump-07", now_s=None)
        except FleetAnswerError as error:
            told.append(str(error))
        else:
            assert certificates(chain.encode())[0].tbs_certificate_bytes == made.tbs_certificate_bytes
    assert told
    assert not any("\n" in line for line in told)
