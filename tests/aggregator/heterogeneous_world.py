"""Devices whose optima differ, on a convex problem: the true answer is known, so drift of local training can be measured.

Each device has rows (a_1, a_2, b) and minimises the mean of ½(a·w - b)²; both its curvature and its optimum are its own. `LinearModel` stands
where `models.training_model.TrainingModel` stands; learner, round, optimiser and collectors are the real ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import secure_world
from answerers import anchor
from family_changes import changed
from numpy.typing import NDArray

from aggregator.rounds.admission import check_answer
from aggregator.rounds.attendance import Attendance
from aggregator.rounds.cohorts import Cohort, CohortSettings
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.optimizers import FedAvg
from aggregator.rounds.reports import CohortSum
from aggregator.rounds.runs import RunState, TrainingRun
from aggregator.rounds.sum_policy import SecureSumSettings
from aggregator.rounds.training import ModelState, train_round
from edge_agent.learner.local_learner import LocalLearner
from models.architecture import Architecture
from models.training_model import TrainingModel
from protocol.names import DeviceId, FamilyName, RunId
from protocol.training import TrainingSettings

WEIGHTS = 2
RUN = RunId("run-1")
POLICY = FamilySettings(
    name=FamilyName("press"),
    training=TrainingSettings(
        epochs=20, batch_size=1000, learning_rate=0.1, trust_radius=100.0, update_norm=20.0
    ),
    secure_sum=SecureSumSettings(enabled=False),
    cohort=CohortSettings(minimum_devices=2),
)


@dataclass(frozen=True)
class LinearArchitecture:
    """The figures of an `Architecture` that a learner and a round ask for."""

    kind: str = "linear"
    layers: tuple[int, ...] = (3, 1)
    feature_count: int = 3
    parameter_count: int = WEIGHTS
    tensor_count: int = 1
    layout_sha256: str = "f" * 64


ARCHITECTURE = cast("Architecture", LinearArchitecture())


class LinearModel:
    """Least squares by gradient descent, written from the equations."""

    architecture = ARCHITECTURE

    def restore(self, flat: NDArray[Any], correction: NDArray[Any] | None = None) -> None:
        self.w = np.array(flat, np.float64)
        self.anchor = self.w.copy()
        self.correction = np.zeros(WEIGHTS) if correction is None else np.array(correction, np.float64)

    def save(self) -> NDArray[np.float32]:
        return self.w.astype(np.float32)

    def train(self, x: NDArray[Any], settings: TrainingSettings, *, labels: object = None) -> float:
        residual = x[:, :2] @ self.w - x[:, 2]
        gradient = x[:, :2].T @ residual / len(x) + self.correction
        gradient += settings.proximal * (self.w - self.anchor)
        self.w -= settings.learning_rate * gradient
        return float(np.mean(residual**2) / 2)

    def infer(self, x: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        residual = x[:, :2] @ self.w - x[:, 2]
        return x, (residual**2 / 2).astype(np.float32)


def rows_of(device: int) -> NDArray[np.float32]:
    """50 rows; no row is noisy, so a device alone would reach its own optimum exactly."""
    rng = np.random.default_rng(device)
    a = rng.normal(size=(50, 2)) * [[0.3, 1.5], [1.5, 0.3], [1.0, 1.0], [0.4, 0.4], [1.3, 0.8]][device % 5]
    optimum = np.array([[3.0, -1.0], [-2.0, 2.0], [0.0, 4.0], [5.0, 5.0], [-3.0, -3.0]][device % 5])
    return np.column_stack([a, a @ optimum]).astype(np.float32)


def optimum_of(devices: int) -> NDArray[np.float64]:
    """Where the mean loss over what is trained on is least: NumPy's least squares, independent of any method here."""
    half = np.random.default_rng(0).permutation(40)[:20]
    kept = [rows[np.arange(len(rows)) % 5 != 4][half] for rows in map(rows_of, range(devices))]
    rows = np.concatenate(kept).astype(np.float64)
    return np.asarray(np.linalg.lstsq(rows[:, :2], rows[:, 2], rcond=None)[0])


def learner_of(device: int) -> LocalLearner:
    model = cast("TrainingModel", LinearModel())
    return LocalLearner(
        model,
        rows_of(device),
        anchor=anchor(ARCHITECTURE.layout_sha256, np.zeros(WEIGHTS), POLICY.training),
        supports=lambda *_: np.ones(WEIGHTS, np.bool_),
        champion=np.zeros(WEIGHTS, np.float32),
        maximum_examples=10_000,
        random_bytes=bytes,  # the same half each time: what is measured here is the drift of training and not of halves
    )


class PlainDevices:
    """Implements what `train_round` needs of an `Attendance`; answers are added up in the open."""

    shortage = ""

    def __init__(self, count: int) -> None:
        self.learners = {DeviceId(f"press-{i:03d}"): learner_of(i) for i in range(count)}

    def gather(self) -> frozenset[DeviceId]:
        return frozenset(self.learners)

    def ask(self, asked: CohortQuestion, cohort: Cohort) -> CohortSum:
        total = np.zeros(asked.layout.total)
        for device in cohort.devices:
            answer = self.learners[device].answer(asked.question, asked.arrays)
            check_answer(asked.layout, answer, asked.admission)
            self.learners[device].settle()
            total += answer
        return CohortSum(participants=cohort.devices, total=total)


class SecureDevices(secure_world.World):
    """The same devices behind real masks: real roles, real collector."""

    shortage = ""

    def __init__(self, directory: Path, count: int) -> None:
        self.learners = dict[DeviceId, LocalLearner]()
        policy = replace(secure_world.POLICY, norm_limit=20.0, maximum_examples=10_000)
        super().__init__(directory, count, policy=policy)

    def start(self, name: DeviceId) -> None:
        """(Re)start a device's learner: what it knew is gone."""
        learner = self.learners[name] = learner_of(int(name.rpartition("-")[2]))
        self.devices[name].side = self.participant(name, learner)

    def gather(self) -> frozenset[DeviceId]:
        return frozenset(self.devices)

    def ask(self, asked: CohortQuestion, cohort: Cohort) -> CohortSum:
        return self.collector().collect(asked, cohort, deadline_s=5.0)


class Fleet:
    """A training run over `devices` by `policy`, round by round, from w = 0."""

    def __init__(self, devices: PlainDevices | SecureDevices, **changes: object) -> None:
        self.attendance = cast("Attendance", devices)
        self.policy = changed(POLICY, **changes)
        for learner in devices.learners.values():
            learner._profile = self.policy.training
            learner._anchor = msgspec.structs.replace(learner._anchor, profile=self.policy.training)
        self.model = ModelState(
            parameters=np.zeros(WEIGHTS, np.float32),
            moments=np.zeros((0, WEIGHTS)),
        )
        self.run = TrainingRun(
            id=RUN, family=POLICY.name, trigger="person", reason="", requested_by="", rounds=1000,
            state=RunState.ROUND, created_at=0.0, updated_at=0.0, seed=1,
        )  # fmt: skip

    def play(self, rounds: int) -> NDArray[np.float32]:
        """Take so many rounds; returns w."""
        for _ in range(rounds):
            outcome = train_round(
                self.run,
                self.policy,
                FedAvg(),
                architecture=ARCHITECTURE,
                model=self.model,
                attendance=self.attendance,
                anchors=np.zeros((1, WEIGHTS)),
                started_at=0.0,
            )
            assert outcome.total is not None, outcome.record.note
            self.model = outcome.model
            self.run = type(self.run)(
                **{name: getattr(self.run, name) for name in self.run.__struct_fields__}
                | {"finished_rounds": self.run.finished_rounds + 1}
            )
        return self.model.parameters
