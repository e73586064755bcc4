"""The CA of devices' certificates: what it signs, what it refuses to sign, and how it is changed."""

from __future__ import annotations

import base64
import itertools
import secrets
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet.certificate_requests import requested_key
from fleet.device_ca import DeviceCa
from fleet.errors import BadRequestError, ConflictError
from runtime.errors import SettingsError

NOW = 1_800_000_000.0
DAYS = 86400.0
PEM = serialization.Encoding.PEM


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def request(
    name: str = "press-7",
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | None = None,
    *,
    names: list[x509.NameAttribute[str]] | None = None,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = hashes.SHA256(),  # noqa: B008 - holds no state
    extension: x509.ExtensionType | None = None,
) -> str:
    subject = names if names is not None else [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if extension:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key or new_key(), algorithm).public_bytes(PEM).decode()


@pytest.fixture
def ca(tmp_path: Path) -> DeviceCa:
    authority = open_ca(tmp_path)
    authority.ensure(NOW)
    return authority


def open_ca(folder: Path) -> DeviceCa:
    return DeviceCa(folder, tenant="acme", random_bytes=secrets.token_bytes)


def leaf(chain: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates(chain.encode())[0]


def openssl_says(folder: Path, chain: str, trusted: str, purpose: str = "sslclient") -> str:
    (folder / "leaf.pem").write_text(chain)
    (folder / "trusted.pem").write_text(trusted)
    done = subprocess.run(
        [
            *("openssl", "verify", "-x509_strict", "-purpose", purpose, "-attime", str(int(NOW + 60))),
            *("-CAfile", folder / "trusted.pem", folder / "leaf.pem"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_certificate_names_the_device_alone_and_is_good_for_a_client_alone(
    ca: DeviceCa, tmp_path: Path
) -> None:
    key = new_key().public_key()
    issued = ca.issue("press-7", key, lifetime_s=30 * DAYS, now=NOW)
    certificate = leaf(issued.chain)
    assert certificate.subject.rfc4514_string() == "CN=press-7"
    assert certificate.public_key() == key
    assert certificate.not_valid_after_utc == datetime.fromtimestamp(NOW, UTC) + timedelta(days=30)
    assert certificate.not_valid_before_utc == datetime.fromtimestamp(NOW, UTC) - timedelta(hours=1)
    assert issued.ends_at == NOW + 30 * DAYS
    extensions = {extension.oid._name: extension for extension in certificate.extensions}
    assert set(extensions) == {
        *("basicConstraints", "keyUsage", "extendedKeyUsage"),
        *("subjectKeyIdentifier", "authorityKeyIdentifier"),
    }
    assert list(extensions["extendedKeyUsage"].value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert "OK" in openssl_says(tmp_path, issued.chain, ca.trusted())
    assert "OK" not in openssl_says(tmp_path, issued.chain, ca.trusted(), "sslserver")
    assert f"{certificate.serial_number:x}" == issued.serial


def test_serials_are_random_and_never_told_by_the_device(ca: DeviceCa) -> None:
    serials = {ca.issue("press-7", new_key().public_key(), lifetime_s=1, now=NOW).serial for _ in range(20)}
    assert len(serials) == 20
    assert {len(serial) for serial in serials} == {33}


def test_the_ca_is_made_once_its_key_is_private_and_it_comes_back_after_a_restart(tmp_path: Path) -> None:
    authorities = [open_ca(tmp_path / "data") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:  # the server and commands beside it
        list(pool.map(lambda authority: authority.ensure(NOW), authorities))
    assert len({authority.trusted() for authority in authorities}) == 1
    assert stat.S_IMODE((tmp_path / "data/device-ca.key").stat().st_mode) == 0o600
    assert "PRIVATE" not in authorities[0].trusted()
    assert authorities[0].trusted().count("BEGIN") == 1
    authorities[1]._make(tmp_path / "data/device-ca.key", NOW)  # it too had seen that there was none
    again = open_ca(tmp_path / "data")
    again.ensure(NOW + 1)
    assert again.trusted() == authorities[0].trusted()


def test_no_certificate_outlives_the_ca(ca: DeviceCa) -> None:
    late = NOW + 3645 * DAYS
    issued = ca.issue("press-7", new_key().public_key(), lifetime_s=30 * DAYS, now=late)
    assert issued.ends_at == NOW + 3650 * DAYS


def test_nothing_of_a_request_is_copied_but_its_key() -> None:
    key = new_key()
    names = [x509.DNSName("fleet"), x509.DNSName("aggregator")]
    pem = request(key=key, extension=x509.SubjectAlternativeName(names))
    assert requested_key(pem, "press-7") == key.public_key()


TWO_NAMES = [
    x509.NameAttribute(NameOID.COMMON_NAME, "press-7"),
    x509.NameAttribute(NameOID.COMMON_NAME, "fleet"),
]
MORE_THAN_A_NAME = [
    x509.NameAttribute(NameOID.COMMON_NAME, "press-7"),
    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "fleet"),
]


def tampered() -> str:
    good, other = request("press-7"), request("press-8")
    one, two = (
        x509.load_pem_x509_csr(text.encode()).public_bytes(serialization.Encoding.DER)
        for text in (good, other)
    )
    mixed = two[: len(two) // 2].replace(b"press-8", b"press-7") + two[len(two) // 2 :]
    assert mixed not in {one, two}
    body = base64.encodebytes(mixed).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: "", "one PEM block"),
        (lambda: "nonsense", "one PEM block"),
        (lambda: request() * 2, "more than one"),
        (lambda: request() + "x" * 5000, "4096"),
        (
            lambda: "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----",
            "does not parse",
        ),
        (
            lambda: "-----BEGIN CERTIFICATE REQUEST-----\n\u00e9\n-----END CERTIFICATE REQUEST-----",
            "does not parse",
        ),
        (lambda: request("press-8"), "CN=press-7"),
        (lambda: request("Press-7"), "CN=press-7"),
        (lambda: request("press-7\0.fleet"), "CN=press-7"),
        (lambda: request(names=[]), "CN=press-7"),
        (lambda: request(names=TWO_NAMES), "CN=press-7"),
        (lambda: request(names=TWO_NAMES[::-1]), "CN=press-7"),
        (lambda: request(names=MORE_THAN_A_NAME), "CN=press-7"),
        (lambda: request(key=rsa.generate_private_key(65537, 2048)), "P-256"),
        (lambda: request(key=ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (lambda: request(key=ed25519.Ed25519PrivateKey.generate(), algorithm=None), "P-256"),
        (lambda: request(algorithm=hashes.SHA384()), "SHA-256"),
        (tampered, "not signed"),
    ],
)
def test_a_request_that_is_anything_else_is_refused_with_words(make: Callable[[], str], words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        requested_key(make(), "press-7")


def test_a_damaged_request_never_raises_anything_else() -> None:
    good = request().encode()
    for place, bits in itertools.product(range(40, len(good) - 40, 7), (1, 4, 64)):
        damaged = bytearray(good)
        damaged[place] ^= bits
        try:
            requested_key(damaged.decode("latin-1"), "press-7")
        except BadRequestError:
            continue


def test_a_ca_is_rotated_without_a_moment_in_which_a_device_is_not_trusted(
    ca: DeviceCa, tmp_path: Path
) -> None:
    key = new_key().public_key()
    before = ca.issue("press-7", key, lifetime_s=30 * DAYS, now=NOW)
    ca.rotate(NOW)
    ca.rotate(NOW)  # a second time changes nothing
    both = ca.trusted()
    assert both.count("BEGIN CERTIFICATE") == 2
    assert ca.issue("press-7", key, lifetime_s=1, now=NOW).issuer == before.issuer
    running = open_ca(tmp_path)  # the server, which read the old key
    running.issue("press-7", key, lifetime_s=1, now=NOW)
    ca.switch()
    after = running.issue("press-7", key, lifetime_s=30 * DAYS, now=NOW)
    assert after.issuer != before.issuer
    assert ca.former() == [before.issuer]
    assert not (tmp_path / "device-ca-next.key").exists()
    for issued in (before, after):
        for trusted in (both, ca.trusted()):
            assert "OK" in openssl_says(tmp_path, issued.chain, trusted)
    ca.forget()
    assert ca.former() == []
    assert "OK" in openssl_says(tmp_path, after.chain, ca.trusted())
    assert "OK" not in openssl_says(tmp_path, before.chain, ca.trusted())


def test_a_switch_keeps_the_former_ca_trusted_though_its_list_was_lost(ca: DeviceCa, tmp_path: Path) -> None:
    before = ca.issue("press-7", new_key().public_key(), lifetime_s=30 * DAYS, now=NOW)
    ca.rotate(NOW)
    ca.trusted_file.unlink()
    ca.switch()
    assert ca.former() == [before.issuer]
    assert "OK" in openssl_says(tmp_path, before.chain, ca.trusted())


def test_a_power_cut_within_a_switch_loses_neither_ca(ca: DeviceCa, tmp_path: Path) -> None:
    before = ca.issue("press-7", new_key().public_key(), lifetime_s=30 * DAYS, now=NOW)
    ca.rotate(NOW)
    (tmp_path / "device-ca-next.key").rename(tmp_path / "device-ca.key")
    again = open_ca(tmp_path)
    again.ensure(NOW)
    after = again.issue("press-7", new_key().public_key(), lifetime_s=30 * DAYS, now=NOW)
    for issued in (before, after):
        assert "OK" in openssl_says(tmp_path, issued.chain, again.trusted())
    assert again.former() == [before.issuer]


def test_a_lost_key_is_told_and_replaced_only_when_somebody_says_so(ca: DeviceCa, tmp_path: Path) -> None:
    before = ca.issue("press-7", new_key().public_key(), lifetime_s=30 * DAYS, now=NOW)
    with pytest.raises(ConflictError, match="--lost"):
        ca.rotate(NOW, is_lost=True)
    (tmp_path / "device-ca.key").unlink()
    again = open_ca(tmp_path)
    with pytest.raises(SettingsError, match="restore the key from the backup"):
        again.ensure(NOW)
    with pytest.raises(SettingsError, match=r"device-ca\.key"):
        again.issue("press-7", new_key().public_key(), lifetime_s=1, now=NOW)
    again.rotate(NOW, is_lost=True)
    after = again.issue("press-7", new_key().public_key(), lifetime_s=30 * DAYS, now=NOW)
    for issued in (before, after):
        assert "OK" in openssl_says(tmp_path, issued.chain, again.trusted())


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_key_file_is_named_and_left_alone(ca: DeviceCa, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "device-ca.key").write_bytes(content)
    with pytest.raises(SettingsError, match=r"device-ca\.key"):
        open_ca(tmp_path).ensure(NOW)
    assert (tmp_path / "device-ca.key").read_bytes() == content


def test_switching_without_a_next_ca_is_refused(ca: DeviceCa) -> None:
    with pytest.raises(ConflictError, match="rotate"):
        ca.switch()
