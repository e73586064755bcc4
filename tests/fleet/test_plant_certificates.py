"""The services' certificates, as OpenSSL judges them: each for its own names, and the broker's for no client."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509

from fleet.plant.certificates import SERVICES, ServicesCa, names_in, names_of, read_certificate
from runtime.errors import SettingsError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]


@pytest.fixture
def authority(tmp_path: Path) -> ServicesCa:
    made = ServicesCa(key_file=tmp_path / "ca.key", file=tmp_path / "ca.pem")
    assert made.ensure(time.time())
    assert not made.ensure(time.time())
    return made


def issue(authority: ServicesCa, service: str, *names: str) -> Path:
    folder = authority.file.parent
    certificate = folder / f"{service}.pem"
    authority.issue(service, names, file=certificate, key_file=folder / f"{service}.key", now=time.time())
    return certificate


def is_good(certificate: Path, purpose: str, *name: str) -> bool:
    ca = certificate.with_name("ca.pem")
    check = ["openssl", "verify", "-x509_strict", "-CAfile", ca, "-purpose", purpose, *name, certificate]
    return subprocess.run(check, check=False, capture_output=True).returncode == 0


def test_each_service_is_good_for_its_own_names_and_the_broker_enters_no_broker(
    authority: ServicesCa,
) -> None:
    fleet = issue(authority, "fleet", "127.0.0.1", "fleet.example.com", "::1")
    broker = issue(authority, "broker", "broker.example.com")
    for name in (
        ("-verify_ip", "127.0.0.1"),
        ("-verify_hostname", "fleet.example.com"),
        ("-verify_ip", "::1"),
    ):
        assert is_good(fleet, "sslserver", *name)
        assert is_good(fleet, "sslclient", *name)
    assert is_good(broker, "sslserver", "-verify_hostname", "broker.example.com")
    assert not is_good(broker, "sslserver", "-verify_hostname", "fleet.example.com")
    assert not is_good(broker, "sslclient")
    subjects = [read_certificate(path).subject.rfc4514_string() for path in (fleet, broker)]
    assert subjects == ["CN=fleet", "CN=broker"]
    for secret in ("ca.key", "fleet.key", "broker.key"):
        assert (fleet.parent / secret).stat().st_mode & 0o077 == 0


def test_a_service_is_named_as_devices_this_machine_and_containers_dial_it() -> None:
    for service in SERVICES:
        assert names_of(service, "plant.example.com")[0] == "plant.example.com"
        assert {"localhost", "127.0.0.1", "::1", service} <= set(names_of(service, "plant.example.com"))
    assert names_of("fleet", "localhost").count("localhost") == 1


def test_names_are_read_back_as_they_were_given(authority: ServicesCa) -> None:
    given = ("plant.example.com", "192.0.2.7", "2001:db8::7")
    assert set(names_in(read_certificate(issue(authority, "fleet", *given)))) == set(given)
    assert (
        not read_certificate(authority.file)
        .extensions.get_extension_for_class(x509.BasicConstraints)
        .value.path_length
    )


def test_without_its_key_the_ca_signs_nothing_and_makes_no_second_one(authority: ServicesCa) -> None:
    certificate = issue(authority, "fleet", "localhost")
    before = certificate.read_bytes()
    authority.key_file.rename(authority.key_file.with_name("safe"))
    with pytest.raises(SettingsError, match=r"ca\.key is not here"):
        issue(authority, "fleet", "localhost")
    assert not authority.ensure(time.time())
    assert certificate.read_bytes() == before
    authority.key_file.with_name("safe").rename(authority.key_file)
    ca = authority.file.read_bytes()
    authority.file.unlink()
    assert not authority.ensure(time.time())
    assert authority.file.read_bytes() == ca, "who was interrupted goes on with the same CA"
    authority.key_file.write_bytes(authority.key_file.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0])
    authority.file.unlink()
    with pytest.raises(SettingsError, match="restore it from the backup"):
        authority.ensure(time.time())
