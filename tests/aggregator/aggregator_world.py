"""A small world for the aggregator's tests: devices that train in-process, a fleet in memory, a clock that is told.

The training is the real one (the device's own `LocalLearner` on a real training model), the collector is the real one; only the roads
between the machines are short.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from answerers import anchor
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from aggregator.errors import FleetRefusedError, FlowerRunEndedError
from aggregator.exporter import SigningExporter
from aggregator.rounds.attendance import Pacing
from aggregator.rounds.cohort_link import DeviceReply, Ticket
from aggregator.rounds.cohorts import CohortSettings
from aggregator.rounds.collector import Collector, PlainCollector
from aggregator.rounds.coordinator import Coordinator
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.journal import RunJournal
from aggregator.rounds.ports import Exporter, Member, ReleaseRecord
from aggregator.rounds.round_settings import RoundSettings
from aggregator.rounds.run_store import RunStore
from aggregator.rounds.runs import RunState, TrainingRun
from aggregator.rounds.sum_policy import SecureSumSettings
from edge_agent.learner.local_learner import LocalLearner
from models.architecture import Architecture, initial_parameters
from models.detection.openings import AlarmRules
from models.detection.prior import fleet_prior
from models.drift.reference import fit_reference
from models.export.isolated import export_training_model
from models.export.release import ReleaseContent, build_release
from models.training_model import TrainingModel
from protocol.bundle import TrustedKeys
from protocol.manifest import FeatureSpec, ThresholdSpec
from protocol.messages.payloads import TrainingInvitation
from protocol.names import DeviceId, FamilyName, RunId
from protocol.questions import Question
from protocol.training import TrainingSettings

ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(6, 4, 6))
FAMILY = FamilyName("pump")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = TrustedKeys([KEY.public_key()])
POLICY = FamilySettings(
    name=FAMILY,
    training=TrainingSettings(
        epochs=3, batch_size=16, learning_rate=0.3, trust_radius=50.0, update_norm=10.0
    ),
    rounds=RoundSettings(count=3, attempts=2, deadline_s=5.0, join_timeout_s=5.0, join_settle_s=1.0),
    cohort=CohortSettings(minimum_devices=2, over_selection=1.0),
    secure_sum=SecureSumSettings(enabled=False),
)


@cache
def trainer() -> TrainingModel:
    """One LiteRT trainer for all devices; its state is overwritten by every call."""
    return TrainingModel(export_training_model(ARCHITECTURE), ARCHITECTURE)


@cache
def first_bundle(
    version: int = 1, *, is_mixture: bool = False, training: TrainingSettings | None = None
) -> bytes:
    rng = np.random.default_rng(0)
    content = ReleaseContent(
        architecture=ARCHITECTURE,
        parameters=initial_parameters(ARCHITECTURE, 1),
        low=np.full(ARCHITECTURE.tensor_count, -4.0),
        high=np.full(ARCHITECTURE.tensor_count, 4.0),
        features=FeatureSpec(kind="passthrough", names=tuple("abcdef")),
        threshold=ThresholdSpec(score=3.0, quantile=0.999, margin=1.1, fitted_on=100),
        reference=fit_reference(rng.normal(size=(50, 6)), rng.uniform(0.1, 1.0, 50)),
        family=FAMILY,
        version=version,
        created_at=0.0,
        training=training or POLICY.training,
        prior=fleet_prior([(rows_of(i), unit_of(i)) for i in range(20, 23)], AlarmRules())
        if is_mixture
        else None,
    )
    return build_release(content, signing_key=KEY)


def rows_of(device: int) -> NDArray[np.float32]:
    """80 windows on a 2-dimensional manifold, another corner of it for each device."""
    rng = np.random.default_rng(device)
    basis = np.random.default_rng(99).normal(size=(2, 6))
    return (rng.normal(size=(80, 2)) @ basis + 0.05 * rng.normal(size=(80, 6))).astype(np.float32)


def unit_of(device: int) -> NDArray[np.float64]:
    """What one standardised step is in a device's own units: machines differ by about as much as they are alike."""
    return np.exp(0.3 * np.random.default_rng([device, 1]).normal(size=6))


class Killed(BaseException):
    """What a test raises where the process dies."""


@dataclass
class InProcessLink:
    """Implements `CohortLink`; `spoil` may replace a device's answer, or return None for silence."""

    devices: Sequence[DeviceId]
    spoil: Callable[[DeviceId, Question, NDArray[np.float32]], NDArray[np.float32] | None]
    profile: TrainingSettings = POLICY.training
    asked: list[tuple[Question, tuple[DeviceId, ...]]] = field(default_factory=list)
    sent: list[tuple[Question, Mapping[str, NDArray[np.float32]]]] = field(default_factory=list)
    is_broken: bool = False
    learners: dict[DeviceId, LocalLearner] = field(default_factory=dict)

    def ask(
        self,
        devices: Sequence[DeviceId],
        question: Question,
        arrays: Mapping[str, NDArray[np.float32]],
        *,
        lifetime_s: float,
        answer_size: int,
    ) -> dict[Ticket, DeviceId]:
        if self.is_broken:
            self.is_broken = False
            raise FlowerRunEndedError("the Flower run is over")
        self.asked.append((question, tuple(devices)))
        self.sent.append((question, arrays))
        self._question, self._arrays = question, arrays
        return {Ticket(f"{len(self.asked)}-{device}"): device for device in devices}

    def replies(self, tickets: Collection[Ticket], *, wait_s: float) -> list[DeviceReply[np.ndarray]]:
        replies = []
        for ticket in tickets:
            device = DeviceId(ticket.split("-", 1)[1])
            vector = self.spoil(device, self._question, self._answer(device))
            if vector is None:
                replies.append(DeviceReply(ticket=ticket, device=device, failure="went offline", lost=True))
            else:
                replies.append(DeviceReply(ticket=ticket, device=device, content=vector))
        return replies

    def withdraw(self, tickets: Collection[Ticket]) -> None:
        pass

    def _answer(self, device: DeviceId) -> NDArray[np.float32]:
        learner = self.learners.get(device)
        if learner is None:
            learner = self.learners[device] = LocalLearner(
                trainer(),
                rows_of(self.devices.index(device)),
                anchor=anchor(ARCHITECTURE.layout_sha256, initial_parameters(ARCHITECTURE, 1), self.profile),
                champion=initial_parameters(ARCHITECTURE, 1),
                maximum_examples=1000,
                unit=unit_of(self.devices.index(device)),
                random_bytes=bytes,
            )
        vector = learner.answer(self._question, self._arrays)
        learner.settle()
        return vector


@dataclass
class InProcessSession:
    link: InProcessLink
    present: frozenset[DeviceId]
    outcomes: list[str] = field(default_factory=list)

    @property
    def collector(self) -> Collector:
        return PlainCollector(self.link)

    def joined(self) -> Mapping[DeviceId, str]:
        return dict.fromkeys(self.present, "joined")

    def close(self, outcome: str) -> None:
        self.outcomes.append(outcome)


@dataclass
class InProcessFederation:
    session: InProcessSession
    opened: list[tuple[RunId, tuple[DeviceId, ...]]] = field(default_factory=list)

    def open(self, run: RunId, roster: Mapping[DeviceId, bytes], policy: FamilySettings) -> InProcessSession:
        self.opened.append((run, tuple(sorted(roster))))
        return self.session


@dataclass
class FleetInMemory:
    devices: Sequence[DeviceId]
    bundles: dict[int, bytes] = field(default_factory=lambda: {1: first_bundle()})
    desired: dict[int, int] = field(default_factory=dict)
    withdrawn: set[int] = field(default_factory=set)
    rollouts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    on_publish: Callable[[], None] = lambda: None

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def members(self, family: FamilyName) -> list[Member]:
        self._fail()
        return [Member(device=d, public_key=d.encode(), is_online=True) for d in self.devices]

    def releases(self, family: FamilyName) -> list[ReleaseRecord]:
        self._fail()
        return [
            ReleaseRecord(
                release=f"{family}/{v}",
                version=v,
                is_withdrawn=v in self.withdrawn,
                desired_devices=self.desired.get(v, 0),
            )
            for v in self.bundles
        ]

    def bundle(self, family: FamilyName, version: int) -> bytes:
        self._fail()
        return self.bundles[version]

    def publish(self, content: bytes) -> None:
        from protocol.bundle import peek_manifest

        self._fail()
        version = peek_manifest(content).version
        if self.bundles.setdefault(version, content) != content:
            raise FleetRefusedError(f"{FAMILY}/{version} exists with other bytes", 409)
        self.on_publish()

    def start_rollout(self, template: Mapping[str, Any], release: str, name: str) -> str:
        self._fail()
        self.rollouts.setdefault(name, {**template, "release": release})
        return f"rollout-{list(self.rollouts).index(name) + 1}"


@dataclass
class BoardInMemory:
    standing: dict[str, TrainingInvitation] = field(default_factory=dict)
    posted: list[TrainingInvitation] = field(default_factory=list)

    def post(self, invitation: TrainingInvitation) -> None:
        self.standing[invitation.family] = invitation
        self.posted.append(invitation)

    def clear(self, family: FamilyName) -> None:
        self.standing.pop(family, None)


@dataclass
class Clock:
    """Time that passes only when somebody sleeps."""

    now_s: float = 1_000.0
    is_stopping: bool = False

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    @property
    def pacing(self) -> Pacing:
        return Pacing(now=self.now, sleep=self.sleep, is_stopping=lambda: self.is_stopping, draw=lambda: 0.5)


class World:
    """Everything a coordinator needs; attributes may be bent by a test before it runs."""

    def __init__(self, directory: Path, *, devices: int = 4, policy: FamilySettings = POLICY) -> None:
        self.devices = tuple(DeviceId(f"pump{i}") for i in range(devices))
        self.policy, self.clock, self.path = policy, Clock(), directory / "runs.sqlite"
        self.store = RunStore(self.path)
        profile = policy.training.settled(50.0)
        self.fleet, self.board = FleetInMemory(self.devices), BoardInMemory()
        self.fleet.bundles[1] = first_bundle(training=profile)
        self.link = InProcessLink(self.devices, lambda _device, _question, vector: vector, profile)
        self.session = InProcessSession(self.link, frozenset(self.devices))
        self.federation = InProcessFederation(self.session)
        self.exporter: Exporter = SigningExporter(KEY)

    def coordinator(self) -> Coordinator:
        return Coordinator(
            journal=RunJournal(self.store, TRUSTED, self.clock.pacing, 30.0),
            families={FAMILY: self.policy},
            fleet=self.fleet,
            federation=self.federation,
            board=self.board,
            exporter=self.exporter,
            flower_address="127.0.0.1:9092",
            pacing=self.clock.pacing,
        )

    def add_run(self, name: str = "run-1") -> TrainingRun:
        run = TrainingRun(
            id=RunId(name),
            family=FAMILY,
            trigger="person",
            reason="a test",
            requested_by="tester",
            rounds=self.policy.rounds.count,
            state=RunState.INVITING,
            created_at=self.clock.now(),
            updated_at=self.clock.now(),
            seed=3,
        )
        self.store.add(run)
        return run

    def run(self) -> TrainingRun:
        return self.coordinator().advance(self.add_run().id)

    def reopen(self) -> None:
        """What a restart after kill -9 sees: the file, and nothing that was in memory."""
        self.store.close()
        self.store = RunStore(self.path)
        self.session.outcomes.clear()
