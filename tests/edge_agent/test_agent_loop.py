"""The agent's loop with fakes at its ports: what is published, what a failing part does to the rest."""

from __future__ import annotations

import base64
import dataclasses
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
from agent_world import ARCHITECTURE, SPEC, TRUSTED, faulty, healthy, make_bundle

from edge_agent.agent import Agent
from edge_agent.agent_ports import Clocks
from edge_agent.detection_memory import DetectionMemory
from edge_agent.errors import SampleBufferError, SourceError
from edge_agent.health import Counters, LatencyReservoir
from edge_agent.installation.active import ActiveRelease
from edge_agent.installation.journal import BundleRef
from edge_agent.learner_supervisor import LearnerSupervisor
from edge_agent.mqtt_link import Incoming
from edge_agent.outbox import Outbox
from edge_agent.pipeline import Pipeline
from edge_agent.reporting import Facts, StatusReporter
from edge_agent.sample_buffer import SampleBuffer
from edge_agent.settings import load_settings
from edge_agent.sources.port import SourceWindow
from edge_agent.status import Status, load_counters, read_status
from edge_agent.telemetry import Identity, Telemetry
from models.bundles import read_bundle
from protocol.bundle import open_bundle
from protocol.manifest import FeatureSpec
from protocol.messages.envelope import Event, decode, encode
from protocol.messages.kinds import AgentState, DriftState, InstallStatus, InstallStep, Kind
from protocol.messages.payloads import (
    AnomalyEvent,
    Birth,
    Death,
    DesiredState,
    DriftReport,
    Health,
    InstallReport,
    Payload,
    TrainingInvitation,
)

pytestmark = pytest.mark.edge
IDENTITY = Identity(tenant="demo", device="pump-07", family="pump", boot_id="b1")
CONFIG = (
    'state_dir = "state"\ntenant = "demo"\nfamily = "pump"\nhardware = "rpi4"\nrelease_keys = ["k.pem"]\n'
    '[source]\nkind = "simulated"\n[detection]\ncommissioning_windows = 60\nreference_windows = 60\n'
    "[health]\nevery_s = 10\nstatus_every_s = 1\n"
)


class FakeSource:
    """Gives a row a second of its own clock; raises what it is told to."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self.error: SourceError | None = None
        self.spec: FeatureSpec = SPEC
        self.is_closed = False
        self.index = 0

    @property
    def next_due_s(self) -> float:
        return 0.0 if self.rows else float("inf")

    def next_window(self, now: float) -> SourceWindow | None:
        if self.error is not None:
            raise self.error
        if not self.rows:
            return None
        self.index += 1
        return SourceWindow(
            samples=self.rows.pop(0)[None, :], observed_at_s=float(self.index), index=self.index - 1
        )

    def close(self) -> None:
        self.is_closed = True


class FakeInstallation:
    def __init__(self) -> None:
        self.now: ActiveRelease | None = None
        self.reports: list[InstallReport] = []
        self.asked: list[DesiredState] = []
        self.windows: list[tuple[float | None, str | None]] = []

    def give(self, version: int, *, is_trial: bool, generation: int, model: bytes | None = None) -> None:
        content = make_bundle(version)
        bundle = read_bundle(open_bundle(content, TRUSTED))
        if model is not None:
            bundle = dataclasses.replace(bundle, int8_model=model)
        self.now = ActiveRelease(
            ref=BundleRef(release=f"pump/{version}", sha256=bundle.sha256),
            bundle=bundle,
            generation=generation,
            is_trial=is_trial,
        )

    def submit(self, desired: DesiredState) -> None:
        self.asked.append(desired)

    def poll(self) -> list[InstallReport]:
        taken, self.reports = self.reports, []
        return taken

    def active(self) -> ActiveRelease | None:
        return self.now

    def on_window(self, score: float | None, latency_us: float, error: str | None = None) -> None:
        self.windows.append((score, error))

    def step(self) -> InstallStep:
        return InstallStep.IDLE


class FakeLink:
    def __init__(self) -> None:
        self.is_connected = True
        self.connections = 1
        self.sent: list[bytes] = []
        self.arrived: list[Incoming] = []

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        self.sent.append(payload)
        return True

    def take_messages(self) -> list[Incoming]:
        taken, self.arrived = self.arrived, []
        return taken

    def close(self, timeout_s: float) -> None:
        self.is_connected = False


class World:
    """One agent whose every outside is here. Time passes 0.1 s a turn."""

    def __init__(self, directory: Path) -> None:
        (directory / "agent.toml").write_text(CONFIG)
        settings = load_settings(directory / "agent.toml")
        settings.state_dir.mkdir(exist_ok=True)
        self.paths = settings.paths
        self.now_s = 0.0
        self.source, self.installation, self.link = FakeSource(), FakeInstallation(), FakeLink()
        self.installation.give(1, is_trial=False, generation=1)
        self.counters = load_counters(self.paths.counters)
        self.outbox = Outbox.open(self.paths.outbox, settings.outbox, now_s=self._wall())
        self.buffer = SampleBuffer(self.paths.buffer, 6, 1 << 20)
        self.flush_error: SampleBufferError | None = None
        self.polled: DesiredState | None = None
        facts = Facts(settings=settings, identity=IDENTITY, agent_version="0", pid=1)
        self.learner = LearnerSupervisor(
            self.paths, start=self._no_learner, refusal=lambda _i, _n: "not in this test", draw=lambda: 0.0
        )
        self.agent = Agent(
            birth=Birth(agent_version="0", hardware="rpi4", family="pump"),
            source=self.source,
            pipeline=Pipeline(
                SPEC,
                settings.detection,
                memory=DetectionMemory(self.paths),
                buffer=self.buffer,
                clock=lambda: 0.0,
            ),
            telemetry=Telemetry(IDENTITY, self.outbox, self.link, self.counters),
            installation=self.installation,
            learner=self.learner,
            reporter=StatusReporter(facts, self.outbox, self.buffer),
            counters=self.counters,
            latencies=LatencyReservoir(random.Random(1)),
            flush_rows=self._flush,
            requested=self._take_polled,
            score_log=None,
            clocks=Clocks(monotonic=lambda: self.now_s, wall=self._wall, wait=self._wait),
        )

    def _wall(self) -> float:
        return 1_800_000_000.0 + self.now_s

    def _wait(self, timeout_s: float) -> bool:
        # A wait without end would hang a real loop too.
        assert timeout_s <= 0.26
        self.now_s += 0.1
        return False

    def _flush(self) -> None:
        if self.flush_error is not None:
            raise self.flush_error

    def _take_polled(self) -> DesiredState | None:
        taken, self.polled = self.polled, None
        return taken

    def _no_learner(self) -> None:  # type: ignore[return] # never called: the refusal above always refuses
        raise AssertionError

    def watch(self, rows: np.ndarray) -> None:
        self.source.rows += list(rows)
        for _ in range(len(rows) + 3):
            self.turn()

    def turn(self) -> None:
        self.agent.step()
        self.now_s += 0.1

    def said(self, kind: type[Payload]) -> list[Payload]:  # type: ignore[valid-type] # Payload is a union of structs
        seen = {decode(p).id: decode(p).data for p in self.link.sent}
        return [d for d in seen.values() if isinstance(d, kind)]  # type: ignore[arg-type] # as above

    def arrive(self, kind: Kind, data: Payload) -> None:
        level = "training/pump" if kind is Kind.TRAINING else f"pump-07/{kind.value}"
        payload = encode(Event(source="fleet", boot_id="f", sequence=1, time=self._wall(), data=data))
        self.link.arrived.append(Incoming(topic=f"fedge/v1/demo/{level}", payload=payload))

    def status(self) -> Status:
        return read_status(self.paths.status)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


DESIRED = DesiredState(
    execution="e1", release="pump/2", counter=2, bundle_path="/v1/x", bundle_sha256="0" * 64, bundle_bytes=1
)


def test_an_anomaly_is_said_once_with_its_raw_window_and_health_counts_it(world: World) -> None:
    world.watch(healthy(100))
    world.watch(faulty(20))
    (anomaly,) = world.said(AnomalyEvent)
    assert isinstance(anomaly, AnomalyEvent)
    assert anomaly.release == "pump/1"
    assert anomaly.window_shape == (1, 6)
    raw = np.frombuffer(base64.b64decode(anomaly.window), "<f4")
    assert np.array_equal(raw, faulty(20)[anomaly.window_index - 100])
    world.now_s += 11
    world.turn()
    health = world.said(Health)[-1]
    assert isinstance(health, Health)
    assert (health.windows, health.anomalies, health.state) == (120, 1, AgentState.WATCHING)
    assert health.windows_over_threshold >= 20
    assert health.raw_bytes == 120 * 24
    assert health.machine_time_s == 119.0
    assert health.buffered_windows == 120


def test_drift_is_said_and_taken_back_when_a_new_release_is_committed(world: World) -> None:
    world.watch(healthy(150))
    world.watch(healthy(200, 3) + 1.0)
    world.installation.give(2, is_trial=True, generation=2)
    world.watch(healthy(10, 4) + 1.0)
    world.installation.give(2, is_trial=False, generation=2)
    world.watch(healthy(3, 5) + 1.0)
    reports = [r for r in world.said(DriftReport) if isinstance(r, DriftReport)]
    assert [(r.release, r.state) for r in reports] == [
        ("pump/1", DriftState.DRIFTED),
        ("pump/2", DriftState.RECOVERED),
    ]


def test_states_tell_what_the_agent_waits_for(world: World) -> None:
    release, world.installation.now = world.installation.now, None
    world.watch(healthy(2))
    assert world.agent.state is AgentState.WAITING_FOR_RELEASE
    world.installation.now = release
    world.watch(healthy(2))
    assert world.agent.state is AgentState.COMMISSIONING
    world.watch(healthy(60))
    assert world.agent.state is AgentState.WATCHING


def test_a_first_release_that_was_undone_judges_no_more(world: World) -> None:
    world.watch(healthy(100))
    world.installation.now = None
    world.watch(faulty(20))
    assert world.said(AnomalyEvent) == []
    assert world.agent.state is AgentState.WAITING_FOR_RELEASE
    assert world.agent.release is None


def test_a_source_that_fails_is_counted_and_asked_again_later(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.source.error = SourceError("sensor unplugged")
    for _ in range(20):
        world.turn()
    assert world.counters.source_errors == 1
    assert caplog.text.count("sensor unplugged") == 1
    world.source.error = None
    world.now_s += 5
    world.watch(healthy(5))
    assert world.counters.windows == 5


def test_a_model_that_cannot_be_loaded_is_told_to_the_installer_with_every_window(world: World) -> None:
    world.watch(healthy(100))
    world.installation.give(2, is_trial=True, generation=2, model=b"\0" * 4 + b"TFL3" + b"\0" * 100)
    world.installation.windows.clear()
    world.watch(healthy(5))
    errors = [error for _, error in world.installation.windows]
    assert len(errors) == 5
    assert all("cannot be loaded" in (error or "") for error in errors)
    world.watch(faulty(5))
    (anomaly,) = world.said(AnomalyEvent)
    assert isinstance(anomaly, AnomalyEvent)
    assert anomaly.release == "pump/1", "the model before goes on judging"


def test_a_disk_that_takes_no_rows_does_not_stop_the_watch(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.watch(healthy(100))
    world.flush_error = SampleBufferError("No space left on device")
    world.watch(faulty(20))
    assert len(world.said(AnomalyEvent)) == 1
    assert "No space left" in caplog.text


def test_desired_states_of_both_roads_reach_the_installer_and_its_reports_the_fleet(world: World) -> None:
    world.arrive(Kind.DESIRED, DESIRED)
    world.polled = msgspec.structs.replace(DESIRED, counter=3)
    world.watch(healthy(3))
    assert [d.counter for d in world.installation.asked] == [2, 3]
    report = InstallReport(
        execution="e1",
        release="pump/2",
        counter=2,
        step=InstallStep.COMMITTED,
        status=InstallStatus.SUCCEEDED,
    )
    world.installation.reports.append(report)
    world.now_s += 1
    world.turn()
    assert world.said(InstallReport) == [report]


def test_an_invitation_is_considered_and_an_expired_one_ignored(world: World) -> None:
    invitation = TrainingInvitation(
        run_id="r1",
        family="pump",
        base_release="pump/1",
        layout_sha256=ARCHITECTURE.layout_sha256,
        flower_address="127.0.0.1:1",
        issued_at=0.0,
        expires_at=world._wall() + 60,
    )
    world.arrive(Kind.TRAINING, msgspec.structs.replace(invitation, expires_at=1.0))
    world.turn()
    assert world.learner.note == "no training run is open"
    world.arrive(Kind.TRAINING, invitation)
    world.now_s += 1
    world.turn()
    assert world.learner.note == "not in this test"


def test_a_new_connection_is_followed_by_health_at_once(world: World) -> None:
    world.watch(healthy(3))
    before = len(world.said(Health))
    world.link.connections += 1
    world.now_s += 0.3
    world.turn()
    assert len(world.said(Health)) == before + 1


def test_the_run_begins_with_birth_and_ends_with_death(world: World) -> None:
    world.source.rows = list(healthy(5))
    turns = iter(range(20))
    step = world.agent.step

    def counted() -> float:
        if next(turns) == 10:
            world.agent.stop()
        return step()

    world.agent.step = counted  # type: ignore[method-assign] # the only way to stop after so many turns
    world.agent.run()
    (birth,) = world.said(Birth)
    assert isinstance(birth, Birth)
    assert birth.release == "pump/1"
    assert len(world.said(Death)) == 1
    assert isinstance(decode(world.link.sent[-1]).data, Death)
    assert world.source.is_closed
    assert world.status().health.state is AgentState.STOPPING


def test_counters_continue_after_a_restart(world: World, tmp_path: Path) -> None:
    world.watch(healthy(100))
    world.now_s += 10
    world.turn()
    world.outbox.close()
    again = World(tmp_path)
    again.watch(healthy(10))
    assert again.counters.windows == 110
    assert again.counters.machine_time_s == 99 + 9


def test_damaged_counters_begin_at_zero(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world.paths.counters.write_bytes(b'{"windows": "x"}')
    assert load_counters(world.paths.counters) == Counters()
    assert "counting from zero" in caplog.text


def test_the_status_file_says_everything_and_grows_stale(world: World) -> None:
    world.watch(healthy(100))
    world.now_s += 2
    world.turn()
    status = world.status()
    assert status.health.windows == 100
    assert status.threshold is not None
    assert status.commissioned
    assert not status.is_stale(status.written_at_s + 5)
    assert status.is_stale(status.written_at_s + 60)
