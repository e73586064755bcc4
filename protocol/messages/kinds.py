"""The kinds of message, the words that travel in topics, and the states that travel in messages."""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "AgentState",
    "ClosedReason",
    "CommandAction",
    "CommandStatus",
    "DeathReason",
    "DriftState",
    "InstallStatus",
    "InstallStep",
    "Kind",
    "RefusalCode",
    "SettingSource",
    "ShadowOutcome",
]


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
    COMMANDS = "commands"
    RESULT = "result"
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

    It has left it (drifted), has come to rest elsewhere (settled), moves on from there (changed). Drift is over where it is back,
    or a release was committed whose reference is another (recovered), and where a person called normal where it went and the
    device has learnt that (accepted): then the machine is not back, and its release does not know what it does.
    """

    DRIFTED = "drifted"
    SETTLED = "settled"
    CHANGED = "changed"
    RECOVERED = "recovered"
    ACCEPTED = "accepted"


class AgentState(StrEnum):
    """What the agent is doing, for people who watch."""

    STARTING = "starting"
    WAITING_FOR_RELEASE = "waiting-for-release"
    COMMISSIONING = "commissioning"  # fitting the device's own standardiser
    WATCHING = "watching"
    BLIND = "blind"  # none of the last windows could be judged, or the source has delivered none for a minute
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
    SHADOWING = "SHADOWING"
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


class ShadowOutcome(StrEnum):
    """What came of judging live windows by a candidate beside the release that runs."""

    PASSED = "passed"
    REFUSED = "refused"
    INCONCLUSIVE = "inconclusive"  # too few windows could be compared: neither for nor against it
    SKIPPED = "skipped"  # there was nothing to compare it with


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


class CommandAction(StrEnum):
    """What a device can be told to do once."""

    REACTIVATE = "reactivate"  # install the release that runs once more, for an honest comparison
    RECOMMISSION = "recommission"  # learn the machine's scale again
    ACCEPT_AS_NORMAL = "accept-as-normal"  # windows set aside up to `until_s` may be learnt
    DIAGNOSE = "diagnose"  # send a bounded bundle of log and state
    RETRY_PARKED = "retry-parked"  # offer events that were parked to the fleet again


class CommandStatus(StrEnum):
    """What became of a command. A device never says the first, nor the last two."""

    WAITING = "WAITING"  # the device has not answered
    IN_PROGRESS = "IN_PROGRESS"  # begun, and takes its time
    DONE = "DONE"
    FAILED = "FAILED"
    REFUSED = "REFUSED"  # not begun, and `code` says why
    EXPIRED = "EXPIRED"  # not begun in time
    INTERRUPTED = "INTERRUPTED"  # the agent was stopped in the middle of it, and does not begin it twice
    CANCELED = "CANCELED"  # taken back by a person before it was begun
    SUPERSEDED = "SUPERSEDED"  # a later one of its kind says the same and more

    @property
    def is_final(self) -> bool:
        """Is there nothing more to come?"""
        return self not in {CommandStatus.WAITING, CommandStatus.IN_PROGRESS}


class RefusalCode(StrEnum):
    """Why a device did not begin a command."""

    UNKNOWN = "unknown"  # an action or argument that this agent does not know
    FORBIDDEN = "forbidden"  # agent.toml does not allow it from afar
    INVALID = "invalid"  # an argument outside its bounds
    TOO_OFTEN = "too-often"  # another of its kind was begun a short time ago
    UNDER_WAY = "under-way"  # another of its kind has not ended
    NOT_READY = "not-ready"  # this device is in no state for it
    STALE = "stale"  # its number is not above those that were obeyed
    OUTDATED = (
        "outdated"  # not a command, but a whole word: its counter is not above that of one that was obeyed
    )


class SettingSource(StrEnum):
    """Who said what a setting is."""

    DEFAULT = "default"
    FILE = "file"
    FLEET = "fleet"
