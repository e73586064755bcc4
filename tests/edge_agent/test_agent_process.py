"""The real agent process with a real broker: kill -9, no broker, lost acknowledgements, poison, a clean stop."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from agent_broker import ListeningFleet, agents_broker
from agent_world import (
    ARCHITECTURE,
    DEVICE,
    FAMILY,
    ROOT,
    TENANT,
    faulty,
    health_of_status,
    healthy,
    make_bundle,
    running_agent,
    status_of,
    write_device,
)
from command_line import run_command
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from free_ports import free_port
from mosquitto_broker import MosquittoBroker
from waiting import wait_until

from edge_agent.version import AGENT_VERSION
from protocol.messages.kinds import DeathReason, Kind
from protocol.messages.payloads import AnomalyClosed, AnomalyEvent, Birth, Death, TrainingInvitation
from protocol.topics import device_topic, training_topic

pytestmark = pytest.mark.slow

RESEND = "[outbox]\nresend_s = 0.5\n"
INVITATION = TrainingInvitation(
    run_id="run-1",
    family=FAMILY,
    base_release="pump/1",
    layout_sha256="0" * 64,
    flower_address="127.0.0.1:1",
    issued_at=0.0,
    expires_at=4e9,
)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    made = agents_broker(tmp_path)
    yield made
    made.stop()


def _device(directory: Path, broker: MosquittoBroker, extra: str = RESEND) -> Path:
    # 70 healthy windows for the scale, then a fault of 20 windows in every 100: anomalies come steadily.
    quiet = healthy(70, 9) * 0.5
    rows = np.concatenate([healthy(100), *([faulty(20), quiet] * 3)])
    return write_device(
        directory,
        rows=rows,
        speed=100.0,
        mqtt_url=broker.url,
        mqtt_ca=broker.ca_file,
        bundle=make_bundle(),
        extra=extra,
    )


def _stored_anomalies(config: Path) -> set[str]:
    database = sqlite3.connect(config.parent / "state" / "outbox.sqlite", timeout=5)
    try:
        rows = database.execute("SELECT boot_id, sequence FROM events WHERE kind = 'anomaly'").fetchall()
    finally:
        database.close()
    return {f"{DEVICE}/{boot}/{sequence}" for boot, sequence in rows}


def _episodes(fleet: ListeningFleet, ids: set[str]) -> set[str]:
    return {data.episode for i in ids if isinstance(data := fleet.events[i].data, AnomalyEvent)}


def _ends(fleet: ListeningFleet) -> list[str]:
    """The anomalies that ended, as often as it was said."""
    return [e.data.episode for e in fleet.of(Kind.CLOSED) if isinstance(e.data, AnomalyClosed)]


def test_kill_9_without_a_broker_loses_no_anomaly_and_no_end_of_one(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    config = _device(tmp_path, broker)
    with running_agent(config) as agent:
        wait_until(lambda: health_of_status(config).get("anomalies", 0) >= 2, "two anomalies")  # type: ignore[operator] # a number
        # The count is ahead of the outbox for a moment; what opened in between is in the detection's memory.
        wait_until(lambda: len(_stored_anomalies(config)) >= 2, "both in the outbox")
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    kept = _stored_anomalies(config)
    assert "broker_unreachable" in (tmp_path / "agent.log").read_text()
    broker.start()
    fleet = ListeningFleet(broker)
    try:
        with running_agent(config):
            wait_until(lambda: kept <= set(fleet.events), "the anomalies of the first boot")
            wait_until(lambda: _episodes(fleet, kept) <= set(_ends(fleet)), "the end of each of them")
            wait_until(
                lambda: (health_of_status(config)["restarts"], health_of_status(config)["crashes"]) == (1, 1),
                "the crash counted",
            )
            wait_until(
                lambda: not kept & _stored_anomalies(config), "their deletion after the acknowledgement"
            )
            wait_until(
                lambda: len({e.boot_id for e in fleet.of(Kind.BIRTH)}) == 2, "the births of both boots"
            )
        assert len(_ends(fleet)) == len(set(_ends(fleet)))
        anomaly = fleet.events[min(kept)].data
        assert isinstance(anomaly, AnomalyEvent)
        assert anomaly.window_shape == (1, 6)
    finally:
        fleet.close()


def test_lost_acknowledgements_mean_repetition_and_no_loss_and_duplicated_ones_nothing(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    broker.start()
    fleet = ListeningFleet(broker, acknowledges=False)
    config = _device(tmp_path, broker)
    try:
        with running_agent(config):
            wait_until(lambda: len(fleet.of(Kind.ANOMALY)) >= 1, "an anomaly")
            first = fleet.of(Kind.ANOMALY)[0].id
            wait_until(lambda: fleet.deliveries.count(first) >= 2, "its repetition")
            assert first in _stored_anomalies(config)
            fleet.acknowledge_all()
            fleet.acknowledge_all()
            wait_until(lambda: first not in _stored_anomalies(config), "its deletion")
    finally:
        fleet.close()


def test_a_broker_that_dies_and_returns_costs_no_event(tmp_path: Path, broker: MosquittoBroker) -> None:
    broker.start()
    fleet = ListeningFleet(broker)
    config = _device(tmp_path, broker)
    try:
        with running_agent(config) as agent:
            wait_until(lambda: len(fleet.of(Kind.ANOMALY)) >= 1, "an anomaly")
            fleet.close()
            broker.stop()
            before = health_of_status(config)["anomalies"]
            wait_until(lambda: health_of_status(config)["anomalies"] > before, "an anomaly while alone")  # type: ignore[operator] # numbers
            broker.start()
            fleet = ListeningFleet(broker)
            wait_until(lambda: len(fleet.of(Kind.ANOMALY)) >= 1, "the anomaly from the time alone")
            agent.terminate()
            assert agent.wait() == 0
    finally:
        fleet.close()


def test_poison_on_every_downlink_is_counted_and_the_agent_goes_on(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    broker.start()
    fleet = ListeningFleet(broker)
    config = _device(tmp_path, broker)
    poison = [b"{", b"\x00\xff\xfe", b"[" * 5000, b"null", b'{"specversion":"9"}', b"x" * 140_000]
    try:
        with running_agent(config) as agent:
            wait_until(lambda: bool(status_of(config).get("broker_connected")), "the connection")
            for payload in poison:
                for topic in (
                    device_topic(TENANT, DEVICE, Kind.ACK),
                    device_topic(TENANT, DEVICE, Kind.DESIRED),
                ):
                    fleet.publish(topic, payload)
            wait_until(lambda: status_of(config)["malformed_downlinks"] == 2 * len(poison), "the count")
            assert agent.poll() is None
            wait_until(lambda: len(fleet.of(Kind.ANOMALY)) >= 1, "an anomaly after the poison")
        log = (tmp_path / "agent.log").read_text()
        assert "Traceback" not in log
        assert log.count("downlink_refused") == 2 * len(poison)
    finally:
        fleet.close()


def test_birth_death_and_the_last_will_tell_when_a_device_comes_and_goes(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    broker.start()
    fleet = ListeningFleet(broker)
    config = _device(tmp_path, broker)
    try:
        with running_agent(config) as agent:
            wait_until(lambda: len(fleet.of(Kind.BIRTH)) == 1, "the birth")
            birth = fleet.of(Kind.BIRTH)[0].data
            assert isinstance(birth, Birth)
            assert (birth.release, birth.hardware, birth.labels) == ("pump/1", "rpi4", {"site": "hall-1"})
            assert birth.agent_version == AGENT_VERSION
            agent.terminate()
            assert agent.wait() == 0
        wait_until(lambda: len(fleet.of(Kind.DEATH)) == 1, "the farewell")
        assert fleet.of(Kind.DEATH)[0].data == Death(reason=DeathReason.SHUTDOWN)
        with running_agent(config) as agent:
            wait_until(lambda: len(fleet.of(Kind.BIRTH)) == 2, "the second birth")
            agent.send_signal(signal.SIGKILL)
            agent.wait()
            wait_until(lambda: len(fleet.of(Kind.DEATH)) == 2, "the last will")
        will = fleet.of(Kind.DEATH)[-1]
        assert (will.data, will.sequence) == (Death(reason=DeathReason.LOST), 0)
    finally:
        fleet.close()


def test_an_invitation_is_declined_with_a_reason_while_the_device_is_not_ready(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    broker.start()
    fleet = ListeningFleet(broker)
    config = _device(tmp_path, broker)
    try:
        with running_agent(config):
            fleet.tell(Kind.TRAINING, INVITATION)
            wait_until(lambda: "no [flower] table" in str(status_of(config).get("learner")), "the reason")
            fleet.publish(training_topic(TENANT, FAMILY), b"", retain=True)
            wait_until(lambda: status_of(config)["learner"] == "no training run is open", "the clearing")
    finally:
        fleet.close()


def test_a_killed_learner_is_replaced_and_an_orphan_ended_while_the_agent_watches_on(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    broker.start()
    fleet = ListeningFleet(broker)
    (tmp_path / "ca.pem").write_text(_ca_certificate())
    config = _device(tmp_path, broker, RESEND + '[flower]\nca_file = "ca.pem"\n')
    invitation = TrainingInvitation(
        run_id="run-1",
        family=FAMILY,
        base_release="pump/1",
        layout_sha256=ARCHITECTURE.layout_sha256,
        flower_address=f"127.0.0.1:{free_port()}",
        issued_at=0.0,
        expires_at=4e9,
    )

    def learner_pid() -> int | None:
        pid = status_of(config).get("learner_pid")
        return pid if isinstance(pid, int) and Path(f"/proc/{pid}").exists() else None

    try:
        with running_agent(config) as agent:
            fleet.tell(Kind.TRAINING, invitation)
            wait_until(lambda: learner_pid() is not None, "the learner")
            first = learner_pid()
            assert first is not None
            os.kill(first, signal.SIGKILL)
            windows = health_of_status(config)["windows"]
            wait_until(lambda: learner_pid() not in {None, first}, "another learner")
            assert health_of_status(config)["windows"] > windows  # type: ignore[operator] # numbers
            orphan = learner_pid()
            agent.send_signal(signal.SIGKILL)
            agent.wait()
        with running_agent(config) as agent:
            wait_until(lambda: not Path(f"/proc/{orphan}").exists(), "the end of the orphan")
            wait_until(lambda: learner_pid() is not None, "its successor")
            last = learner_pid()
            fleet.publish(training_topic(TENANT, FAMILY), b"", retain=True)
            wait_until(lambda: not Path(f"/proc/{last}").exists(), "the end of training with the run")
            assert agent.poll() is None
        assert "learner_crashed run=run-1 status=-9" in (tmp_path / "agent.log").read_text()
    finally:
        fleet.close()


def _ca_certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(day)
        .not_valid_after(day + dt.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_agent", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_commands_answer_people_and_programs(tmp_path: Path, broker: MosquittoBroker) -> None:
    config = _device(tmp_path, broker)
    assert (
        "is fine: family pump, 6 features"
        in run_command("edge_agent", "check-config", "--config", str(config)).stdout
    )
    before = run_command("edge_agent", "status", "--config", str(config))
    assert (before.returncode, "has the agent been started" in before.stderr) == (2, True)
    with running_agent(config):
        wait_until(lambda: health_of_status(config).get("windows", 0) > 70, "some windows")  # type: ignore[operator] # a number
        told = run_command("edge_agent", "status", "--config", str(config), "--json")
        assert told.returncode == 0
        found = json.loads(told.stdout)
        assert (found["running"], found["device"], found["health"]["release"]) == (True, DEVICE, "pump/1")
        assert found["process"] == "runs"
        shown = run_command("edge_agent", "status", "--config", str(config))
        assert shown.returncode == 0
        assert "pump/1" in shown.stdout
        second = _command("run", "--config", str(config))
        assert second.returncode == 2
        assert "in use by another agent" in second.stderr
        assert "Traceback" not in second.stderr


DRIVER = """
import time
from pathlib import Path
import numpy as np
from edge_agent.sources.pacing import Pace
from edge_agent.sources.port import SourceWindow
from models.features import passthrough_spec

HERE = Path(__file__).parent
made = 0

class Driver:
    spec = passthrough_spec([f"feature-{i}" for i in range(6)])

    def __init__(self):
        global made
        made += 1
        self.number, self.pace, self.index = made, Pace(period_s=1.0, speed=100.0), 0
        self.draw = np.random.default_rng(made)

    @property
    def next_due_s(self):
        return self.pace.next_due_s

    def next_window(self, now):
        while (HERE / "blocked").exists() and self.number == 1:
            time.sleep(0.01)
        if (HERE / "leak").exists():
            self.kept = [*getattr(self, "kept", []), *(open(__file__) for _ in range(50))]
        if not self.pace.take(now):
            return None
        self.index += 1
        row = self.draw.normal(size=(1, 6)).astype(np.float32)
        return SourceWindow(samples=row, observed_at_s=float(self.index), index=self.index - 1)

    def close(self):
        raise SystemExit("I never close")

def make(*, speed):
    return Driver()
"""


def _plugged(config: Path, *lines: str) -> Path:
    """The device with a plug-in for a source."""
    text = config.read_text()
    start, end = text.index("[source]"), text.index("[detection]")
    source = "\n".join(["[source]", 'kind = "plugin"', 'factory = "driver_of_a_test:make"', *lines, ""])
    config.write_text(text[:start] + source + text[end:])
    (config.parent / "driver_of_a_test.py").write_text(DRIVER)
    return config


def _windows(config: Path) -> int:
    found = health_of_status(config).get("windows", 0)
    assert isinstance(found, int)
    return found


def test_a_driver_that_blocks_is_named_here_and_in_the_fleet_replaced_and_holds_up_nothing_else(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    broker.start()
    fleet = ListeningFleet(broker)
    config = _plugged(_device(tmp_path, broker), "answers_within_s = 4.0")
    said = "no windows come: the source driver_of_a_test:make has not answered for "
    try:
        with running_agent(config) as agent:
            wait_until(lambda: _windows(config) > 70, "windows")
            (tmp_path / "blocked").touch()
            wait_until(lambda: said in str(status_of(config)["problems"]), "the driver's name in the status")
            fleet.tell(Kind.TRAINING, INVITATION)
            wait_until(
                lambda: any(said in str(e.data.problems) for e in fleet.of(Kind.HEALTH)),  # type: ignore[union-attr] # of health
                "the driver's name in the fleet",
            )
            wait_until(
                lambda: "no [flower] table" in str(status_of(config).get("learner")), "an answer meanwhile"
            )
            log = tmp_path / "agent.log"
            wait_until(
                lambda: "source_restarted source=driver_of_a_test:make" in log.read_text(), "its successor"
            )
            before = _windows(config)
            wait_until(lambda: _windows(config) > before + 20, "windows of its successor")
            wait_until(lambda: said not in str(status_of(config)["problems"]), "no problem any more")
            assert (tmp_path / "blocked").exists(), "the first one is blocked still"
            agent.terminate()
            assert agent.wait() == 0
    finally:
        fleet.close()


def test_a_driver_that_leaks_files_is_started_anew_before_there_are_none(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    config = _plugged(_device(tmp_path, broker))
    with running_agent(config) as agent:
        wait_until(lambda: _windows(config) > 70, "windows")
        (tmp_path / "leak").touch()
        wait_until(lambda: agent.poll() is not None, "its end")
        assert agent.returncode == 75
    log = (tmp_path / "agent.log").read_text()
    assert "files are open: something leaks, a driver perhaps" in log
    (tmp_path / "leak").unlink()
    with running_agent(config):
        before = _windows(config)
        wait_until(lambda: _windows(config) > before, "windows again")
        assert health_of_status(config)["crashes"] == 0, "it had said goodbye"


def test_status_looks_at_the_process_and_not_at_a_date(tmp_path: Path, broker: MosquittoBroker) -> None:
    config = _device(tmp_path, broker)
    status_file = tmp_path / "state" / "status.json"

    def status(**changes: float) -> tuple[int, str]:
        if changes:
            status_file.write_text(json.dumps(status_of(config) | changes))
        done = run_command("edge_agent", "status", "--config", str(config))
        return done.returncode, done.stdout

    with running_agent(config) as agent:
        wait_until(lambda: health_of_status(config).get("windows", 0) > 0, "a window")  # type: ignore[operator] # a number
        agent.send_signal(signal.SIGSTOP)
        assert status(written_at_s=0.0)[0] == 0, "whatever date it is"
        written = status_of(config)["written_boot_s"]
        assert isinstance(written, float)
        code, told = status(written_boot_s=written - 60)
        assert (code, "hangs: process" in told) == (3, True)
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        code, told = status(written_boot_s=written)
        assert (code, "not running" in told) == (1, True), "at once"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "--config", "/nowhere/agent.toml"), "cannot read /nowhere/agent.toml"),
        (("status",), "Missing option '--config'"),
        (("fly",), "No such command 'fly'"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(words: tuple[str, ...], expected: str) -> None:
    done = _command(*words)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        ("state/enrolment.json", "run `fedge-agent enrol"),
        ("release.pub.pem", "is not a public key file"),
        ("rows.npz", "rows.npz"),
    ],
)
def test_a_device_that_is_not_set_up_is_told_what_is_missing(
    tmp_path: Path, broker: MosquittoBroker, spoil: str, expected: str
) -> None:
    config = _device(tmp_path, broker)
    (tmp_path / spoil).unlink()
    done = _command("run", "--config", str(config))
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_the_resident_process_imports_nothing_for_people() -> None:
    heavy = ("typer", "rich", "httpx", "asyncio", "click", "flwr", "tensorflow", "pydantic", "requests")
    script = f"import sys, edge_agent.app\nprint([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_version_is_that_of_the_distribution() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert pyproject["project"]["version"] == AGENT_VERSION
