"""A device that an agent of commit 7cc0d60 left behind (golden/device_of_7cc0d60.tar.xz): nothing of its is lost, and no person is needed.

That agent had a broker password and no certificate. Its identity key is the same, and its fleet knows it by that.
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from agent_world import running_agent, status_of
from command_line import run_command
from enrolling_fleet import EnrollingFleet
from https_world import HttpsServer, serving
from mosquitto_broker import MosquittoBroker
from trust_repository import TrustRepository
from waiting import died, wait_until

from edge_agent.connection_certificate import read_lifetime
from edge_agent.enrolled import load_enrolled
from edge_agent.identity_key import load_device_key
from edge_agent.outbox_owner import owner_of
from edge_agent.privacy.account import DeviceAccount
from edge_agent.settings import load_agent_settings
from protocol.identity import fingerprint

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden" / "device_of_7cc0d60.tar.xz"
DEVICE, EVENTS, ANOMALIES, ROWS, ANSWERS = "pump-07", 20, 3, 100, 2
"""What that agent left."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN) as golden:
        golden.extractall(tmp_path / "device", filter="data")
    return tmp_path / "device"


@pytest.fixture
def fleet(folder: Path) -> EnrollingFleet:
    known = load_device_key(folder / "state" / "device.key").public_key()
    return EnrollingFleet(devices={DEVICE: known})


@pytest.fixture
def server(fleet: EnrollingFleet, tmp_path: Path) -> Iterator[HttpsServer]:
    with serving(tmp_path / "tls", fleet) as made:
        yield made


@pytest.fixture
def broker(fleet: EnrollingFleet, tmp_path: Path) -> Iterator[MosquittoBroker]:
    (tmp_path / "devices.pem").write_text(fleet.authority.pem)
    broker = MosquittoBroker(tmp_path)
    with (broker.folder / "mosquitto.conf").open("a") as conf:
        conf.write(
            f"cafile {tmp_path / 'devices.pem'}\nrequire_certificate true\nuse_identity_as_username true\n"
            "use_username_as_clientid true\n"
        )
    with broker:
        yield broker


def brought_up_to_date(folder: Path, server: HttpsServer, broker: MosquittoBroker) -> Path:
    """agent.toml as a person leaves it when the agent is updated: the same machine, its fleet and its broker."""
    config = folder / "agent.toml"
    (folder / "root.json").write_bytes(TrustRepository().pinned)
    config.write_text(
        config.read_text()
        .replace('url = "mqtt://127.0.0.1:9"\n', f'url = "{broker.url}"\nca_file = "{broker.ca_file}"\n')
        .replace('release_keys = ["release.pub.pem"]\n', "")
        + '[trust]\nroot = "root.json"\n'
        + f'[fleet]\nurl = "{server.url}"\nca_file = "{server.ca_file}"\n'
    )
    return config


def kept_events(folder: Path) -> set[tuple[str, int]]:
    with closing(sqlite3.connect(folder / "state" / "outbox.sqlite")) as outbox:
        return set(outbox.execute("SELECT boot_id, sequence FROM events"))


def test_a_device_of_7cc0d60_gets_its_certificate_by_its_key_and_keeps_all_it_had(
    folder: Path, server: HttpsServer, broker: MosquittoBroker
) -> None:
    config, state = brought_up_to_date(folder, server, broker), folder / "state"
    before, scale = kept_events(folder), (state / "standardiser.json").read_bytes()
    assert len(before) == EVENTS
    with running_agent(config) as agent:
        log = folder / "agent.log"
        wait_until(
            lambda: status_of(config).get("broker_connected"),
            "the connection",
            unless=lambda: died(agent, log),
        )
        status = status_of(config)
        agent.terminate()
        agent.wait()
    assert read_lifetime(state / "connection.pem", DEVICE) is not None
    assert status["commissioned"], "what is normal here was not forgotten"
    health = status["health"]
    assert isinstance(health, dict)
    assert health["buffered_windows"] >= ROWS
    assert health["release"] == "pump/1", "the repository lists nothing yet: what was let in once runs on"
    assert health["windows"] > 344, "the count goes on"
    assert health["anomalies"] >= ANOMALIES
    assert before <= kept_events(folder), "nobody has acknowledged them: they wait, under the same name"
    assert (state / "standardiser.json").read_bytes() == scale
    assert "outbox_set_aside" not in log.read_text()
    settings = load_agent_settings(config)
    with DeviceAccount(settings.paths.privacy, settings.privacy) as account:
        assert account.spending().participations == ANSWERS


def test_the_configuration_of_7cc0d60_is_refused_with_what_to_write_and_not_a_byte_of_the_state_changes(
    folder: Path,
) -> None:
    before = {path: path.read_bytes() for path in (folder / "state").rglob("*") if path.is_file()}
    for command in ("run", "status", "check-config", "privacy", "enrol"):
        told = run_command("edge_agent", command, "--config", str(folder / "agent.toml"))
        assert told.returncode == 2
        (line,) = told.stderr.splitlines()[-1:]
        assert (
            "unknown key 'release_keys'; releases are believed by the fleet's signed repository now" in line
        )
        assert 'write [trust] root = "root.json" instead' in line
    assert {path: path.read_bytes() for path in (folder / "state").rglob("*") if path.is_file()} == before


def test_a_device_of_7cc0d60_that_its_fleet_no_longer_knows_says_what_to_do_and_watches(
    folder: Path, fleet: EnrollingFleet, server: HttpsServer, broker: MosquittoBroker
) -> None:
    fleet.devices.clear()
    config = brought_up_to_date(folder, server, broker)
    with running_agent(config) as agent:

        def told() -> bool:
            problems = json.dumps(status_of(config).get("problems", []))
            return "no certificate for the broker" in problems and "run `fedge-agent enrol`" in problems

        wait_until(told, "the status to say what to do", unless=lambda: died(agent, folder / "agent.log"))
        assert status_of(config)["commissioned"]
    assert len(kept_events(folder)) >= EVENTS


def test_a_device_of_7cc0d60_whose_settings_name_no_fleet_says_so_and_watches(
    folder: Path, server: HttpsServer, broker: MosquittoBroker
) -> None:
    config = brought_up_to_date(folder, server, broker)
    config.write_text(config.read_text().partition("[fleet]")[0])
    with running_agent(config) as agent:
        wait_until(
            lambda: "agent.toml names no [fleet]" in json.dumps(status_of(config).get("problems", [])),
            "the status to say what is missing",
            unless=lambda: died(agent, folder / "agent.log"),
        )
        assert status_of(config)["commissioned"]


def test_an_enrolment_of_7cc0d60_is_read_as_what_it_is(folder: Path) -> None:
    enrolled = load_enrolled(folder / "state" / "enrolment.json")
    assert (enrolled.device, enrolled.tenant, enrolled.family, enrolled.is_waiting) == (
        DEVICE,
        "demo",
        "",
        False,
    )
    key = load_device_key(folder / "state" / "device.key")
    owner = owner_of(folder / "state" / "device.key", enrolled)
    assert owner.fingerprint == fingerprint(key.public_key()), "so its events stay its own"
