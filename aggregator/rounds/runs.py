"""What a training run is: its states, its rounds, and what people may read of it.

::

    INVITING ─► ROUND ─► ASSESSING ─► GATED ─► EXPORTING ─► PUBLISHING ─► COMPLETED
        │       ↺ k = 1..rounds          │          │
        └───────── FAILED / CANCELED     └──────────┴─► REJECTED_BY_GATE

Values only. A run is replaced, never changed: each step makes the next record, and the store keeps the last one. Every
field is safe to show to an operator: there is no update, no parameter and no sample in here.
"""

from __future__ import annotations

import math
import sys
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from protocol.names import DeviceId, FamilyName, RunId
from protocol.privacy_claim import PrivacyClaim

__all__ = [
    "FINAL_STATES",
    "WITH_DEVICES",
    "Check",
    "GroupRecord",
    "RefitRecord",
    "RefusedDevice",
    "RoundRecord",
    "RunState",
    "TrainingRun",
]


class RunState(StrEnum):
    """Where a run stands; the drawing is at the head of this file."""

    INVITING = "INVITING"
    ROUND = "ROUND"
    ASSESSING = "ASSESSING"
    GATED = "GATED"
    EXPORTING = "EXPORTING"
    PUBLISHING = "PUBLISHING"
    COMPLETED = "COMPLETED"
    REJECTED_BY_GATE = "REJECTED_BY_GATE"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


FINAL_STATES: Final = frozenset(
    {RunState.COMPLETED, RunState.REJECTED_BY_GATE, RunState.FAILED, RunState.CANCELED}
)
"""States that no step leaves."""

_LEARNING: Final = frozenset({"fit", "scale", "covariance", "curve"})

WITH_DEVICES: Final = frozenset({RunState.INVITING, RunState.ROUND, RunState.ASSESSING})
"""States in which devices take part: the invitation stands and the Flower run is open."""


class RefusedDevice(Struct, frozen=True, kw_only=True):
    """A device whose answer was not taken, and why."""

    device: DeviceId
    reason: str


class GroupRecord(Struct, frozen=True, kw_only=True):
    """One group of a secure round: who was asked and who is in its sum. `left_out` says why that is not used; empty where it is."""

    devices: tuple[DeviceId, ...]
    participants: tuple[DeviceId, ...] = ()
    left_out: str = ""


class RoundRecord(Struct, frozen=True, kw_only=True):
    """One question to one cohort: a round of training, or of what follows it.

    `kind` is ``fit``, ``scale``, ``covariance``, ``curve`` or ``assess``.

    `number` counts from 1, `attempt` too: a void round is tried again under the same number. Losses are means per
    held-out window over the participants of an assessment, of the champion and of the candidate; else there are none. `examples` are windows,
    of a round of training the devices that trained.
    `stages` says at which stage each of the refused and the lost failed.
    `groups` are those of a round that was asked in groups, each a secure sum of its own; `participants` are of the groups that are used.
    """

    kind: str
    number: int
    attempt: int
    started_at: float
    seconds: float
    asked: int
    participants: tuple[DeviceId, ...]
    refused: tuple[RefusedDevice, ...]
    lost: tuple[DeviceId, ...]
    spared: tuple[DeviceId, ...]
    stages: dict[DeviceId, str] = {}
    examples: int = 0
    loss_before: float | None = None
    loss_after: float | None = None
    groups: tuple[GroupRecord, ...] = ()
    is_void: bool = False
    note: str = ""


class Check(Struct, frozen=True, kw_only=True):
    """One check of the gate: a measured `value` against its `limit`; `reason` says it in one sentence.

    `is_warning`: passed, but somebody should look. JSON has no word for infinity or NaN: the largest number stands for either.
    """

    name: str
    value: float
    limit: float
    is_passed: bool
    reason: str
    is_warning: bool = False

    def __post_init__(self) -> None:
        """Keep the record writable whatever was measured."""
        if not math.isfinite(self.value):
            worst = math.copysign(sys.float_info.max, self.value)
            msgspec.structs.force_setattr(self, "value", worst)


class RefitRecord(Struct, frozen=True, kw_only=True):
    """What became of the fleet's prior: of how many `devices` it is, and on how many `windows` openings were counted, in a sentence.

    Without devices there is no new one: the release carries the champion's, and `reason` says why.
    """

    reason: str
    devices: int = 0
    windows: int = 0


class TrainingRun(Struct, frozen=True, kw_only=True):
    """A training run. Times are Unix seconds; `finished_rounds` counts rounds whose step was taken.

    `trigger` is ``person``, ``program``, ``drift``, ``precision`` or ``schedule``; `reason` is for people. `detail` says in one sentence why the run
    is where it is. `mode` is ``robust`` (secure sums in `groups`, which are the same for all its questions), ``private`` (with noise) or
    ``plain``, and `protection` what that means for poisoners. `refit` says what became of the
    fleet's prior, where devices judge by one. `rollout` is the fleet's id of the rollout that was started, if the family has a template. `privacy` is the
    claim after the last question; None before the first.
    """

    id: RunId
    family: FamilyName
    trigger: str
    reason: str
    requested_by: str
    rounds: int
    state: RunState
    created_at: float
    updated_at: float
    ended_at: float | None = None
    seed: int = 0
    mode: str = ""
    protection: str = ""
    groups: tuple[tuple[DeviceId, ...], ...] = ()
    finished_rounds: int = 0
    attempts: int = 0
    log: tuple[RoundRecord, ...] = ()
    base_release: str | None = None
    layout_sha256: str | None = None
    champion_loss: float | None = None
    candidate_loss: float | None = None
    alarm_rate: float | None = None
    threshold: float | None = None
    int8_error: float | None = None
    checks: tuple[Check, ...] = ()
    refit: RefitRecord | None = None
    release: str | None = None
    rollout: str | None = None
    privacy: PrivacyClaim | None = None
    detail: str = ""

    @property
    def is_over(self) -> bool:
        """Whether no step is left."""
        return self.state in FINAL_STATES

    @property
    def participants(self) -> frozenset[DeviceId]:
        """Every device that is in at least one sum of which the release is made."""
        return frozenset(
            device
            for entry in self.log
            if entry.kind in _LEARNING and not entry.is_void
            for device in entry.participants
        )

    @property
    def examples(self) -> int:
        """Windows that were counted behind the release: for the prior, or else in the assessment."""
        for kind in ("curve", "assess"):
            if found := [entry.examples for entry in self.log if entry.kind == kind and not entry.is_void]:
                return found[-1]
        return 0
