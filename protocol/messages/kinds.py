"""The kinds of message, the words that travel in topics, and the states that travel in messages."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["AgentState", "ClosedReason", "DeathReason", "DriftState", "InstallStatus", "InstallStep", "Kind"]


class Kind(StrEnum):
    """What a message says; also the last level of its topic."""

    BIRTH = "birth"
    DEATH = "death"
    ANOMALY = "anomaly"
    CLOSED = "closed"
    DRIFT = "drift"
    HEALTH = "health"
    REPORT = "report"
    DESIRED = "desired"
    ACK = "ack"
    NORMAL = "normal"
    TRAINING = "training"


class DeathReason(StrEnum):
    """Why a device went silent."""

    SHUTDOWN = "shutdown"
    LOST = "lost"  # the broker published the last will


class ClosedReason(StrEnum):
    """Why an anomaly is over."""

    CALM = "calm"  # the scores stayed clearly below the threshold
    RELEASE = "release"  # another model judges now: what it calls an anomaly is a new one


class DriftState(StrEnum):
    """Whether the device's world still looks like the reference its model was fitted on.

    It has left it (drifted), has come to rest elsewhere (settled), moves on from there (changed), is back (recovered).
    """

    DRIFTED = "drifted"
    SETTLED = "settled"
    CHANGED = "changed"
    RECOVERED = "recovered"


class AgentState(StrEnum):
    """What the agent is doing, for people who watch."""

    STARTING = "starting"
    WAITING_FOR_RELEASE = "waiting-for-release"
    COMMISSIONING = "commissioning"  # fitting the device's own standardiser
    WATCHING = "watching"
    BLIND = "blind"  # windows come, and none of the last ones could be judged
    STOPPING = "stopping"


class InstallStep(StrEnum):
    """Where an installation stands (../docs/fleet.md draws the machine)."""

    IDLE = "IDLE"
    CHECKING = "CHECKING"
    DEFERRED = "DEFERRED"
    DOWNLOADING = "DOWNLOADING"
    VERIFYING = "VERIFYING"
    STAGED = "STAGED"
    PROBING = "PROBING"
    ACTIVATING = "ACTIVATING"
    TRIAL = "TRIAL"
    COMMITTED = "COMMITTED"
    REJECTED = "REJECTED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    CANCELED = "CANCELED"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLED_BACK = "ROLLED_BACK"
    INCONSISTENT = "INCONSISTENT"


class InstallStatus(StrEnum):
    """How the fleet counts an execution on a device."""

    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    DEFERRED = "DEFERRED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    TIMED_OUT = "TIMED_OUT"
    CANCELED = "CANCELED"
    ROLLED_BACK = "ROLLED_BACK"
