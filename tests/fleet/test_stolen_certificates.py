"""Certificates that are stolen: what docs/broker.md says to do, played with a real Mosquitto and its files."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mosquitto_site import MosquittoSite
from typer.testing import CliRunner

from fleet.cli import app
from fleet.plant.certificates import ServicesCa
from protocol.messages.kinds import Kind
from protocol.topics import device_topic

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]
HEALTH = device_topic("demo", "d-1", Kind.HEALTH)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[MosquittoSite]:
    made = MosquittoSite(tmp_path, f"sqlite:///{tmp_path}/fleet.sqlite")
    yield made
    made.close()


def make(pki: Path, *services: str, host: str = "127.0.0.1") -> None:
    """A CA of its own, and of it a certificate for each service, as `fedge init` makes them."""
    pki.mkdir()
    authority = ServicesCa(key_file=pki / "ca.key", file=pki / "ca.pem")
    authority.ensure(time.time())
    for service in services:
        certificate, key = own(pki, service)
        authority.issue(service, [host], file=certificate, key_file=key, now=time.time())


def own(pki: Path, service: str) -> tuple[Path, Path]:
    return pki / f"{service}.pem", pki / f"{service}.key"


def believe(site: MosquittoSite, services_ca: Path) -> None:
    """Have the fleet write the broker's files for this CA, and start the broker anew."""
    places = ("--folder", site.files, "--state", site.state, "--listen", f"{site.broker.port} 127.0.0.1")
    arguments = ("--config", site.config, "--out", site.files, "--services-ca", services_ca, *places)
    done = CliRunner().invoke(app, ["broker-files", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    site.broker.stop()
    site.broker.start()


def test_a_stolen_certificate_of_fleet_or_aggregator_opens_nothing_once_the_broker_believes_another_ca(
    site: MosquittoSite, tmp_path: Path
) -> None:
    site.start()
    thieves = {name: site.broker.certificates.service(name) for name in ("fleet", "aggregator")}
    assert all(site.dial(stolen).is_in for stolen in thieves.values())
    make(tmp_path / "pki-2", "fleet", "aggregator")
    believe(site, tmp_path / "pki-2" / "ca.pem")
    for name, stolen in thieves.items():
        assert site.dial(stolen).greetings == [], name
        assert site.dial(own(tmp_path / "pki-2", name)).is_in, name
    device = site.connect("d-1")  # it goes on trusting the servers of the first CA, and notices nothing
    fleet = site.dial(own(tmp_path / "pki-2", "fleet"))
    fleet.subscribe("fedge/v1/#")
    device.publish(HEALTH, "as ever")
    fleet.turn(lambda: bool(fleet.heard), "what the device says")


def test_a_stolen_key_of_the_broker_opens_no_broker_and_plays_no_other_service(
    site: MosquittoSite, tmp_path: Path
) -> None:
    pki = tmp_path / "pki"
    make(pki, "broker", host="broker.example.com")
    site.write_files()
    believe(site, pki / "ca.pem")
    assert site.dial(own(pki, "broker")).greetings == [], "it is no client's"
    check = ["openssl", "verify", "-CAfile", pki / "ca.pem", "-verify_hostname", "fleet.example.com"]
    assert subprocess.run([*check, pki / "broker.pem"], check=False, capture_output=True).returncode != 0


def test_with_a_new_services_ca_everywhere_the_old_one_opens_nothing_and_serves_nobody(
    site: MosquittoSite, tmp_path: Path
) -> None:
    site.start()
    forged = site.broker.certificates.service("d-1")  # with the stolen CA key: any device's name
    assert site.dial(forged).is_in
    make(tmp_path / "pki-2", "fleet", "aggregator", "broker")
    for kind in ("pem", "key"):
        shutil.copy(tmp_path / "pki-2" / f"broker.{kind}", site.files)
    believe(site, tmp_path / "pki-2" / "ca.pem")
    old_device = site.certificate("d-1")
    assert site.dial(old_device).greetings == [], "a device with the old ca.pem does not believe the broker"
    shutil.copy(tmp_path / "pki-2" / "ca.pem", site.broker.ca_file)
    assert site.dial(old_device).is_in
    assert site.dial(own(tmp_path / "pki-2", "fleet")).is_in
    assert site.dial(forged).greetings == []
