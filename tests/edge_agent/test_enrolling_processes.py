"""Enrolment with real processes: the command that waits, an agent that watches until it is let in, and one that is shut out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from agent_world import (
    FAMILY,
    ROOT,
    TENANT,
    health_of_status,
    healthy,
    make_bundle,
    running_agent,
    status_of,
    write_device,
)
from chips import softhsm
from command_line import run_command
from enrolling_fleet import DeviceAuthority, EnrollingFleet
from https_world import HttpsServer, serving
from mosquitto_broker import MosquittoBroker
from waiting import died, wait_until

from edge_agent.enrolled import load_enrolled

pytestmark = pytest.mark.slow


@dataclass
class Site:
    """A fleet, a broker that lets in whom the fleet's device CA has certified, and a device that has not enrolled."""

    fleet: EnrollingFleet
    server: HttpsServer
    broker: MosquittoBroker
    config: Path

    @property
    def state(self) -> Path:
        return self.config.parent / "state"

    def enrol(self, *options: str) -> subprocess.CompletedProcess[str]:
        return run_command("edge_agent", "enrol", "--config", str(self.config), *options)

    def problems(self) -> str:
        return " | ".join(map(str, status_of(self.config).get("problems", [])))  # type: ignore[call-overload]  # a list

    def windows(self) -> int:
        return int(str(health_of_status(self.config).get("windows", 0)))


@contextmanager
def site(root: Path, **fleet: object) -> Iterator[Site]:
    enrolling = EnrollingFleet(family=FAMILY, **fleet)  # type: ignore[arg-type]  # the test's own words
    (root / "devices.pem").write_text(enrolling.authority.pem)
    broker = MosquittoBroker(root)
    with (broker.folder / "mosquitto.conf").open("a") as conf:
        conf.write(
            f"cafile {root / 'devices.pem'}\nrequire_certificate true\nuse_identity_as_username true\n"
            "use_username_as_clientid true\n"
        )
    with serving(root / "tls", enrolling) as server, broker:
        config = write_device(
            root,
            rows=healthy(400),
            speed=50.0,
            mqtt_url=broker.url,
            mqtt_ca=broker.ca_file,
            bundle=make_bundle(),
            extra=f'[fleet]\nurl = "{server.url}"\nca_file = "{server.ca_file}"\nclaim_token_file = "claim.token"\npoll_s = 0.5\n',
        )
        (root / "claim.token").write_text("claim-1\n")
        for name in ("device.key", "enrolment.json", "connection.pem"):
            (root / "state" / name).unlink(missing_ok=True)
        yield Site(enrolling, server, broker, config)


def test_the_command_waits_for_a_person_and_ends_when_one_has_approved(tmp_path: Path) -> None:
    with site(tmp_path, approves=False) as here:
        log = (tmp_path / "enrol.log").open("wb")
        child = subprocess.Popen(
            [sys.executable, "-m", "edge_agent", "enrol", "--config", str(here.config)],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(
                lambda: (
                    "waits for a person at the fleet: fedge-fleet devices approve device-"
                    in (tmp_path / "enrol.log").read_text()
                ),
                "the command to say that it waits",
                unless=lambda: died(child, tmp_path / "enrol.log"),
            )
            here.fleet.approves = True
            wait_until(lambda: child.poll() is not None, "the command to end")
            assert child.returncode == 0
            assert f"of tenant {TENANT}, family {FAMILY}" in (tmp_path / "enrol.log").read_text()
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
            log.close()


def test_a_command_that_shall_not_wait_ends_with_a_status_of_its_own(tmp_path: Path) -> None:
    with site(tmp_path, approves=False) as here:
        done = here.enrol("--no-wait")
        assert done.returncode == 75
        assert "fedge-fleet devices approve device-" in done.stderr
        here.fleet.approves = True
        assert here.enrol("--no-wait").returncode == 0


def test_an_agent_watches_while_it_waits_and_talks_once_it_is_let_in(tmp_path: Path) -> None:
    with site(tmp_path, approves=False) as here:
        assert here.enrol("--no-wait").returncode == 75
        with running_agent(here.config) as agent:
            log = here.config.parent / "agent.log"
            wait_until(lambda: here.windows() > 20, "windows", unless=lambda: died(agent, log))
            wait_until(
                lambda: "waits until a person at the fleet approves it" in here.problems(),
                "the status to say what is missing",
            )
            assert "no certificate for the broker yet" in here.problems()
            here.fleet.approves = True
            wait_until(
                lambda: status_of(here.config).get("broker_connected"),
                "the connection",
                unless=lambda: died(agent, log),
            )
            wait_until(lambda: "waits" not in here.problems(), "the status to be clean")
        assert not load_enrolled(here.state / "enrolment.json").is_waiting
        told = log.read_text()
        assert "PRIVATE KEY" not in told
        assert "claim-1" not in told


def test_a_revoked_device_goes_on_watching_and_says_why_it_is_alone(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        assert here.enrol().returncode == 0
        here.fleet.revoked = True
        (here.state / "connection.pem").unlink()
        with running_agent(here.config) as agent:
            wait_until(
                lambda: (
                    "gives this device no certificate" in here.problems() and "is revoked" in here.problems()
                ),
                "the status to say why",
                unless=lambda: died(agent, here.config.parent / "agent.log"),
            )
            before = here.windows()
            wait_until(lambda: here.windows() > before + 20, "it to go on watching")
            health = status_of(here.config)["health"]
            assert "is revoked" in json.dumps(health), (
                "the fleet's people read it there, where a road is left"
            )


def test_a_broker_that_trusts_another_device_ca_from_now_on_is_shown_one_of_its_certificates(
    tmp_path: Path,
) -> None:
    with site(tmp_path) as here:
        assert here.enrol().returncode == 0
        with running_agent(here.config) as agent:
            log = here.config.parent / "agent.log"

            def is_connected() -> bool:
                return bool(status_of(here.config).get("broker_connected"))

            wait_until(is_connected, "the connection", unless=lambda: died(agent, log))
            here.broker.stop()
            here.fleet.authority = DeviceAuthority()
            (tmp_path / "devices.pem").write_text(here.fleet.authority.pem)
            here.broker.start()
            wait_until(lambda: not is_connected(), "the loss")
            wait_until(is_connected, "the connection", unless=lambda: died(agent, log))
            assert len(here.fleet.issued) == 2, "one certificate, and no storm of them"


def test_a_device_lives_by_the_key_of_its_chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with site(tmp_path) as here, softhsm(tmp_path / "chip", monkeypatch) as chip:
        with here.config.open("a") as settings:
            settings.write(
                f'[identity]\nmodule = "{chip.settings.module}"\ntoken = "{chip.settings.token}"\n'
                f'pin_file = "{chip.settings.pin_file}"\n'
            )
        # a process of its own: a chip's library is loaded once a process, for the token of whichever test came first
        enrolling = [sys.executable, "-m", "edge_agent", "enrol", "--config", str(here.config)]
        subprocess.run(enrolling, check=True, capture_output=True)
        assert not (here.state / "device.key").exists()
        (here.state / "connection.pem").unlink()  # to be fetched by the running agent, with the chip
        with running_agent(here.config) as agent:
            wait_until(
                lambda: status_of(here.config).get("broker_connected"),
                "the connection",
                unless=lambda: died(agent, here.config.parent / "agent.log"),
            )
