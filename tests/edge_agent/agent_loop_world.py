"""The agent's loop with fakes at its ports: a source, an installation and a link that do what a test tells them."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
from agent_world import SPEC, TRUSTED, make_bundle
from fake_link import FakeLink
from sealing_world import SealedAtOnce, fleet_message, fleet_words

from edge_agent.agent import Agent
from edge_agent.agent_ports import Clocks, Hands
from edge_agent.detection_memory import DetectionMemory
from edge_agent.errors import SourceError
from edge_agent.health import Interval, LatencyReservoir, Vitals
from edge_agent.installation.active import ActiveRelease
from edge_agent.installation.journal import BundleRef
from edge_agent.judgement import Judged, Unjudged
from edge_agent.kept_rows import open_stores
from edge_agent.learner_supervisor import LearnerSupervisor
from edge_agent.link import Message
from edge_agent.outbox import Outbox
from edge_agent.outbox_entry import Moment
from edge_agent.pipeline import Pipeline
from edge_agent.process_sight import ProcessSight, ThisProcess
from edge_agent.remote.actions import AcceptAsNormal, Diagnose, Recommission
from edge_agent.remote.diagnosis import Diagnosis
from edge_agent.remote.executor import Executor
from edge_agent.remote.fleet_settings import SettingsInForce
from edge_agent.remote.journal import CommandFile
from edge_agent.remote.log_ring import LogRing
from edge_agent.reporting import StatusReporter
from edge_agent.sample_buffer import SampleBuffer
from edge_agent.settings import Settings, load_agent_settings
from edge_agent.sources.port import SourceWindow
from edge_agent.status import Status, load_counters, read_status
from edge_agent.telemetry import Identity, OwnRoads, Telemetry
from edge_agent.trusted_clock import TrustedClock
from models.bundles import read_bundle
from models.detection.prior import FleetPrior
from protocol.bundle import open_bundle
from protocol.manifest import FeatureSpec
from protocol.messages.commands import Command, CommandResult, Commands
from protocol.messages.envelope import Event, decode
from protocol.messages.kinds import InstallStep, Kind
from protocol.messages.payloads import Birth, DesiredState, InstallReport, Payload, ShadowReport
from runtime.errors import StorageError

SIGHT = ProcessSight(boot_s=0.0, kernel_boot="another machine's")
IDENTITY = Identity(tenant="demo", device="pump-07", family="pump", boot_id="b1")
CONFIG = (
    'state_dir = "state"\ntenant = "demo"\nfamily = "pump"\nhardware = "rpi4"\n[trust]\nroot = "r"\n'
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
        self.beside: ActiveRelease | None = None
        self.shadows: list[tuple[str, ShadowReport | str]] = []

    def give(
        self,
        version: int,
        *,
        is_trial: bool,
        generation: int,
        model: bytes | None = None,
        prior: FleetPrior | None = None,
    ) -> None:
        content = make_bundle(version, prior=prior)
        bundle = read_bundle(open_bundle(content, TRUSTED))
        if model is not None:
            bundle = dataclasses.replace(bundle, int8_model=model)
        self.now = ActiveRelease(
            ref=BundleRef(release=f"pump/{version}", sha256=bundle.sha256),
            bundle=bundle,
            generation=generation,
            is_trial=is_trial,
        )

    def submit(self, desired: DesiredState) -> list[CommandResult]:
        self.asked.append(desired)
        return []

    def poll(self) -> list[InstallReport]:
        taken, self.reports = self.reports, []
        return taken

    def active(self) -> ActiveRelease | None:
        return self.now

    def on_window(self, score: float | None, latency_us: float, error: str | None = None) -> None:
        self.windows.append((score, error))

    def step(self) -> InstallStep:
        return InstallStep.IDLE

    def problems(self) -> list[str]:
        return []

    def candidate(self) -> ActiveRelease | None:
        return self.beside

    def on_shadow(self, sha256: str, told: ShadowReport | str) -> None:
        self.shadows.append((sha256, told))


class Polled:
    """A road past the broker; `word` is what the fleet answered there."""

    def __init__(self) -> None:
        self.word: Event | None = None
        self.forgotten = 0

    def take(self) -> Event | None:
        taken, self.word = self.word, None
        return taken

    def forget(self) -> None:
        self.forgotten += 1


class Buffer(SampleBuffer):
    """Refuses to flush what it is told to refuse."""

    flush_error: StorageError | None = None

    def flush(self) -> None:
        if self.flush_error is not None:
            raise self.flush_error
        super().flush()


class World:
    """One agent whose every outside is here. Time passes 0.1 s a turn; `boot_id` tells starts apart, `more` is added to agent.toml; the wall's clock is off by `wall_offset_s`."""

    def __init__(self, directory: Path, boot_id: str = "b1", *, more: str = "") -> None:
        identity = dataclasses.replace(IDENTITY, boot_id=boot_id)
        config = directory / "agent.toml"
        if not config.exists() or config.read_text() != CONFIG + more:
            config.write_text(CONFIG + more)
        settings = load_agent_settings(directory / "agent.toml")
        settings.state_dir.mkdir(exist_ok=True)
        self.paths = settings.paths
        self.now_s = self.wall_offset_s = 0.0
        self.clock = TrustedClock(
            self.paths.clock,
            system=lambda: 1_800_000_000.0 + self.wall_offset_s + self.now_s,
            boot=lambda: self.now_s,
            is_kept=lambda: False,
            boot_name="k1",
        )
        self.source, self.installation, self.link = FakeSource(), FakeInstallation(), FakeLink()
        self.installation.give(1, is_trial=False, generation=1)
        self.counters = load_counters(self.paths.counters)
        self.outbox = Outbox.open(
            self.paths.outbox,
            settings.outbox,
            now=self._now(),
            withholds_windows=not settings.privacy.send_windows,
        )
        self.buffer = Buffer(self.paths.buffer, SPEC, 1 << 20)
        others = open_stores(self.paths, SPEC, settings.buffer)
        self.polled = Polled()
        self.learner = LearnerSupervisor(
            self.paths,
            start=self._no_learner,
            distrust=lambda asked, now: None if now < asked.expires_at else "it has expired",
            refusal=lambda _i, _n: "not in this test",
            draw=lambda: 0.0,
        )
        self.vitals = Vitals(
            counters=self.counters,
            latencies=LatencyReservoir(random.Random(1)),
            started_clock_s=0.0,
            started_wall_s=self._wall(),
            interval=Interval(started_s=0.0),
        )
        commands = CommandFile(self.paths.commands)
        in_force = SettingsInForce(settings, commands.journal.settings, commands.journal.unmet)
        self.ring = LogRing()
        pipeline = Pipeline(
            SPEC,
            in_force.effective.detection,
            memory=DetectionMemory(self.paths, SPEC),
            stores=dataclasses.replace(others, buffer=self.buffer),
            clock=lambda: 0.0,
            wall=self._wall,
        )
        self.pipeline = pipeline
        self.executor = Executor(
            commands,
            actions={
                "recommission": Recommission(pipeline, allows_afresh=False, monotonic=self._monotonic),
                "accept-as-normal": AcceptAsNormal(pipeline, wall=self._wall, monotonic=self._monotonic),
                "diagnose": Diagnose(
                    Diagnosis(settings, self.ring).make,
                    monotonic=self._monotonic,
                ),
            },
            allowed=settings.remote.commands,
            settings=in_force,
            apply=self._apply,
            monotonic=self._monotonic,
            known_wall=self._wall,
        )
        hands = Hands(installation=self.installation, learner=self.learner, executor=self.executor)
        telemetry = Telemetry(
            identity,
            self.outbox,
            self.link,
            self.counters,
            now=self._now,
            words=fleet_words("demo", "pump-07", monotonic=self._monotonic),
            sealing=SealedAtOnce("demo", "pump-07"),
            roads=OwnRoads(asked=(self.polled,)),
        )
        reporter = StatusReporter(
            settings,
            identity,
            process=ThisProcess(pid=1, started_ticks=1, clock=self.clock),
            outbox=self.outbox,
            buffer=self.buffer,
            pipeline=pipeline,
            telemetry=telemetry,
            hands=hands,
        )
        self.agent = Agent(
            birth=Birth(agent_version="0", hardware="rpi4", family="pump"),
            source=self.source,
            pipeline=pipeline,
            telemetry=telemetry,
            hands=hands,
            reporter=reporter,
            vitals=self.vitals,
            score_log=None,
            clocks=Clocks(monotonic=self._monotonic, wall=self._wall, wait=self._wait),
        )

    def _apply(self, settings: Settings) -> dict[str, str]:
        refused = self.pipeline.set_budget(settings.detection.budget)
        return {"detection.budget.alarms_per_1000_windows": refused} if refused else {}

    def _monotonic(self) -> float:
        return self.now_s

    def _now(self) -> Moment:
        return Moment(wall_s=self._wall(), boot_s=self.now_s, kernel_boot="k1", is_set=True)

    def _wall(self) -> float:
        return self.clock.wall_s()

    def _wait(self, timeout_s: float) -> bool:
        # A wait without end would hang a real loop too.
        assert timeout_s <= 0.26
        self.now_s += 0.1
        return False

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
        payload = fleet_message(data, tenant="demo", device="pump-07")
        self.link.arrived.append(Message(topic=f"fedge/v1/demo/{level}", payload=payload))

    def accept_as_normal(self, number: int) -> None:
        """The fleet's word that all which was set aside until now is normal."""
        command = Command(
            number=number, action="accept-as-normal", expires_at=4e9, arguments={"until_s": self._wall()}
        )
        self.arrive(Kind.COMMANDS, Commands(counter=number, outstanding=(command,)))

    def status(self) -> Status:
        return read_status(self.paths.status)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def judged(judgements: list[Judged | Unjudged]) -> list[Judged]:
    return [j for j in judgements if isinstance(j, Judged)]
