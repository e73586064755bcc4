"""Secure rounds in one process: real roles, real collector, a link of two lines, devices that can be made to fail."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from answerers import Answers
from cryptography.hazmat.primitives.asymmetric import ec

from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.privacy.settings import FamilyBudget
from aggregator.rounds.cohort_link import DeviceReply, Ticket
from aggregator.rounds.secure_collector import SecureCollector
from aggregator.rounds.stage_link import StageRequest
from aggregator.rounds.sum_policy import SecureSumSettings, SumPolicy
from edge_agent.learner.refusals import code_of
from edge_agent.learner.sum_participant import Answerer, SumParticipant
from edge_agent.privacy.account import DeviceAccount
from edge_agent.privacy.limits import OwnerLimits
from protocol.names import DeviceId, FamilyName
from protocol.questions import AnswerLayout, AssessQuestion, FitQuestion, Question, assess_layout, fit_layout
from protocol.refusals import write_refusal
from protocol.secure_sum.device_role import DevicePolicy
from protocol.sum_terms import SumStage
from protocol.training import TrainingSettings

PARAMETERS, TENSORS, FEATURES = 5, 3, 2
FAMILY = FamilyName("press")
PROFILE = TrainingSettings(trust_radius=50.0, update_norm=10.0)
FIT_LAYOUT, ASSESS_LAYOUT = fit_layout(PARAMETERS), assess_layout(TENSORS, FEATURES)
QUESTION = FitQuestion(run_id="run-1", round_number=1, layout_sha256="0" * 64, profile_sha256=PROFILE.sha256)
ASSESSMENT = AssessQuestion(run_id="run-1", layout_sha256="0" * 64, profile_sha256=PROFILE.sha256)
ARRAYS = {"parameters": np.arange(PARAMETERS, dtype=np.float32)}
NO_BUDGET, FLOORS = FamilyBudget(), DevicePolicy()
# As many rounds as a test wants, over whoever answers.
NO_LIMITS = OwnerLimits(
    answers_per_day=10_000, fits_per_snapshot=10_000, fixed_companions=False, fewest_exchanged=1
)
POLICY = SumPolicy(
    norm_limit=10.0, maximum_examples=1000, stages=SecureSumSettings(stage_deadline_s=2.0, grace_s=0.0)
)


def layout_of(kind: str) -> AnswerLayout:
    return FIT_LAYOUT if kind == "train.fit" else ASSESS_LAYOUT


class SeededBytes:
    """A deterministic stream of bytes, as unpredictable to the code under test as the real one."""

    def __init__(self, seed: str) -> None:
        self._seed, self._count = seed.encode(), 0

    def __call__(self, count: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(self._seed + self._count.to_bytes(8, "big")).digest(count)


@dataclass
class Device:
    """One device: key, account, and what it answers."""

    id: DeviceId
    key: ec.EllipticCurvePrivateKey
    budget: DeviceAccount
    answer: np.ndarray
    asked: list[Question] = field(default_factory=list)
    side: SumParticipant | None = None


class Roster:
    """The fleet's word on who is who; a test may forge it."""

    def __init__(self) -> None:
        self.held: dict[DeviceId, ec.EllipticCurvePublicKey] = {}

    def keys(self, expected: frozenset[DeviceId]) -> Mapping[DeviceId, ec.EllipticCurvePublicKey]:
        return self.held


class World:
    """A cohort, an aggregator's collector and ledger; `spoil` may bend any message on its way back, or swallow it."""

    def __init__(
        self,
        directory: Path,
        count: int,
        *,
        policy: SumPolicy = POLICY,
        limits: OwnerLimits = NO_LIMITS,
        budget: FamilyBudget = NO_BUDGET,
        floors: DevicePolicy = FLOORS,
        answers: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.roster, self.now = Roster(), 0.0
        self.devices: dict[DeviceId, Device] = {}
        self.floors = floors
        for index in range(count):
            name = DeviceId(f"press-{index:03d}")
            device = Device(
                id=name,
                key=ec.derive_private_key(1000 + index, ec.SECP256R1()),
                budget=DeviceAccount(directory / f"{name}.sqlite", limits),
                answer=(answers or update)(index),
            )
            self.devices[name] = device
            self.roster.held[name] = device.key.public_key()
            self.start(name)
        self.accounts = PrivacyAccounts(directory / "ledger.sqlite", {FAMILY: budget}, now=lambda: self.now)
        self.spoil: Callable[[str, DeviceId, bytes], bytes | None] = lambda _stage, _device, message: message
        self.bend: Callable[[StageRequest], StageRequest] = lambda request: request
        self.seen: list[tuple[str, DeviceId, bytes]] = []
        self.policy = policy
        self._outbox: dict[Ticket, tuple[StageRequest, DeviceId]] = {}
        self._count, self._random_bytes = 0, SeededBytes("aggregator")

    def start(self, name: DeviceId) -> None:
        """(Re)start a device's learner: nothing of a round survives it."""
        device = self.devices[name]

        def answer(question: Question, _arrays: Mapping[str, np.ndarray]) -> np.ndarray:
            device.asked.append(question)
            return device.answer

        device.side = self.participant(name, Answers(answer, layout_of))

    def participant(
        self,
        name: DeviceId,
        learner: Answerer,
    ) -> SumParticipant:
        """The device's real side of a secure round, as new."""
        device = self.devices[name]
        return SumParticipant(
            name,
            identity_key=device.key,
            roster=self.roster,
            policy=self.floors,
            budget=device.budget,
            learner=learner,
            random_bytes=SeededBytes(f"{name} {self.now}"),
            now=lambda: self.now,
        )

    def collector(self) -> SecureCollector:
        keys = {device.id: device.key.public_key() for device in self.devices.values()}
        return SecureCollector(
            self,
            roster=keys,
            policy=self.policy,
            accounts=self.accounts,
            family=FAMILY,
            random_bytes=self._random_bytes,
            clock=lambda: self.now,
        )

    # The port `StageLink`.

    def send(self, request: StageRequest, *, lifetime_s: float) -> dict[Ticket, DeviceId]:
        request = self.bend(request)
        tickets = {}
        for device in request.messages:
            self._count += 1
            ticket = Ticket(f"{self._count}")
            self._outbox[ticket] = (request, device)
            tickets[ticket] = device
        return tickets

    def replies(self, tickets: Collection[Ticket], *, wait_s: float) -> list[DeviceReply[bytes]]:
        replies, is_silent = [], True
        for ticket in tickets:
            if ticket not in self._outbox:
                continue
            request, device = self._outbox.pop(ticket)
            try:
                message = self._answer(request, self.devices[device])
            except Exception as refusal:  # noqa: BLE001 - a device's failure, as Flower would carry it
                is_silent = False
                words = write_refusal(code_of(refusal))
                replies.append(DeviceReply(ticket=ticket, device=device, failure=words))
                continue
            # The door takes no more, and Flower's envelope lies around it.
            assert len(message) + 4096 <= request.reply_bytes
            bent = self.spoil(request.kind, device, message)
            if bent is not None:
                is_silent = False
                self.seen.append((request.kind, device, bent))
                replies.append(DeviceReply(ticket=ticket, device=device, content=bent))
        self.now += wait_s if is_silent else 0.01
        return replies

    def withdraw(self, tickets: Collection[Ticket]) -> None:
        for ticket in tickets:
            self._outbox.pop(ticket, None)

    @staticmethod
    def _answer(request: StageRequest, device: Device) -> bytes:
        side, message = device.side, request.messages[device.id]
        assert side is not None
        match request.kind:
            case SumStage.ADVERTISE.value:
                return side.advertise(message, request.terms)
            case SumStage.SHARE.value:
                return side.share_keys(message)
            case SumStage.CONFIRM.value:
                return side.confirm(message)
            case SumStage.UNMASK.value:
                return side.unmask(message)
            case _:
                return side.mask(message, request.question, request.arrays)


def update(index: int) -> np.ndarray:
    """A move of 0.01·index in every direction, and one vote."""
    return FIT_LAYOUT.pack({"update": np.full(PARAMETERS, 0.01 * index), "votes": np.array([1.0])})
