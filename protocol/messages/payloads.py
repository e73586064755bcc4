"""The data of each message kind, version 1.

Every field has a unit in its name or a plain meaning; a field with a default was or may be added later, so that
older senders stay readable. Struct names are what travels; changing a field's meaning needs a new version.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, field
from msgspec.structs import replace

from protocol.labels import Labels, OneLine
from protocol.limits import MAX_RANGES, MAX_REFUSED, MAX_SETTINGS
from protocol.messages.commands import CommandResult, Commands, SettingInForce
from protocol.messages.fields import Count, Name, Positive, Rate, Release, Sha256, Text, Word
from protocol.messages.kinds import (
    AgentState,
    ClosedReason,
    DeathReason,
    DriftState,
    InstallStatus,
    InstallStep,
    ShadowOutcome,
)

__all__ = [
    "Ack",
    "AnomalyClosed",
    "AnomalyEvent",
    "Birth",
    "BootAck",
    "Death",
    "DesiredState",
    "DetectorFinding",
    "DriftReport",
    "Health",
    "InstallReport",
    "Payload",
    "RefusedEvent",
    "SensorShape",
    "ShadowReport",
    "TrainingInvitation",
]


class Birth(Struct, frozen=True, kw_only=True):
    """A device is here: what it is and what it runs. Sent once per boot."""

    agent_version: Name
    hardware: OneLine
    family: Word
    release: Release | None = None
    runtime: Text = ""
    capabilities: Annotated[tuple[Word, ...], Meta(max_length=32)] = ()
    labels: Labels = field(default_factory=dict)


class Death(Struct, frozen=True, kw_only=True):
    """A device is gone. Also the MQTT last will, then with sequence 0."""

    reason: DeathReason


class AnomalyEvent(Struct, frozen=True, kw_only=True):
    """One anomaly, published once when it opens.

    `window` is base64 of the raw window, little-endian float32, shape (`window_shape`); absent where it would not
    fit a payload. `observed_at_s` is the machine's own clock (recording or simulated time), seconds. `episode` names
    this anomaly among all of its device, for `AnomalyClosed`; empty from agents that never told of an end.
    `window_withheld`: the device's owner lets no window leave (``[privacy] send_windows = false``).
    """

    release: Name
    score: float
    threshold: float
    window_index: Count
    observed_at_s: float
    windows_over: Count = 1
    contributors: tuple[str, ...] = ()
    window: str = ""
    window_shape: tuple[int, ...] = ()
    episode: Annotated[str, Meta(max_length=64)] = ""
    window_withheld: bool | UnsetType = UNSET

    def without_window(self, *, is_withheld: bool = False) -> AnomalyEvent:
        """The same without its raw window; `is_withheld`: by its owner's word."""
        return replace(
            self, window="", window_shape=(), window_withheld=True if is_withheld else self.window_withheld
        )


class AnomalyClosed(Struct, frozen=True, kw_only=True):
    """The anomaly `episode` is over. It lasted `windows` windows, the opening one included, also over restarts.

    `windows_over` of them were over the threshold; `lasted_s` and `observed_at_s` are on the machine's own clock.
    """

    episode: Annotated[str, Meta(min_length=1, max_length=64)]
    release: Name
    observed_at_s: float
    lasted_s: Annotated[float, Meta(ge=0)]
    windows: Positive
    windows_over: Count
    peak_score: float
    reason: ClosedReason = ClosedReason.CALM


class DetectorFinding(Struct, frozen=True, kw_only=True):
    """One detector that fired: which, on which sensor, its statistic against its threshold."""

    detector: Name
    sensor: Name
    statistic: float
    threshold: float


class SensorShape(Struct, frozen=True, kw_only=True):
    """How far a sensor's recent distribution is from its reference: PSI and the Kolmogorov-Smirnov distance.

    Beside each is what chance alone gives on average at as many independent windows.
    """

    sensor: Name
    psi: float
    psi_by_chance: float
    ks: float
    ks_by_chance: float


class DriftReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The device's world has left its reference, come to rest elsewhere, moved on from there, or returned.

    `drift_score` is the largest statistic ÷ threshold that is news (≥ 1 means a change). `severity` is how far the level of
    the sensor that has moved most lies from the reference, in its standard deviations there; None until it is measured.
    `shapes` are the sensors whose distribution differs most, that one first.
    """

    release: Name
    state: DriftState
    drift_score: float
    observed_at_s: float
    windows: Count
    findings: tuple[DetectorFinding, ...] = ()
    severity: Annotated[float, Meta(ge=0)] | None = None
    shapes: Annotated[tuple[SensorShape, ...], Meta(max_length=64)] = ()


class Health(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counters of one device, cumulative since it was commissioned unless named `interval_*`.

    The most frequent message by far, so fields that hold their default do not travel.

    `anomaly_rate` is windows over threshold ÷ judged windows, in the interval; `score_mean` and `score_max` are over the judged ones too,
    and `threshold` is the one that the last of them was compared with; None: none was, or an agent from before it told.
    A window is *unjudged* if a model was in force and gave no score for it; windows of commissioning are not.
    `interval_judged` is None from agents that did not count: read `judged`. Bytes are payload bytes,
    but `telemetry_bytes` all that left for the broker. `outbox_refused` events the fleet would never take; `outbox_parked` ended
    connections and wait for a person, or another version of the agent.
    `machine_time_s` is how much machine time the device has watched.
    `restarts` counts starts after the first, `crashes` those of them that no farewell preceded; `stage_failures` what went
    wrong inside the agent that nobody had foreseen, and that stopped nothing.
    `missing` names sensors that deliver nothing usable at present; the rest stay watched.
    `commissioned_share` is how far commissioning is, in [0, 1]; `is_provisional` says that it ended at its cap, unsettled.
    `clipped_share` is the share of recent values at the end of the standardised range, in [0, 1].
    `drifted` says that the machine is not where its reference was taken; once it has come to rest elsewhere,
    `drift_severity` is how far, as in `DriftReport`. `drift_accepted` says that a person called normal where it drifted to, since
    the release was committed; once the device has learnt that, it is not `drifted` any more, though the machine is not back.
    `sight` is the share of disturbed live windows over the threshold in force, in [0, 1]; None before there were ten.
    `set_aside_windows` waits for somebody to say whether it is normal.
    `obeyed` is the counter of the last `Commands` that was; `settings` are those of a fleet's reach that are not the default,
    and those that it asked for in vain.
    `promised_per_1000` is how many false alarms in 1000 windows are promised at most; None: nothing is, and what follows is 0.
    `supported_per_1000` is the fewest that the windows behind the promise can show; a smaller promise `is_promise_provisional`.
    Since the promise was made, over restarts: `realised_alarms` in `realised_windows` judged ones, the exact 95 % interval of that
    in 1000, the share of time in alarm; true alarms are among them. It holds for `promise_horizon_left` more windows.
    `problems` are sentences for people, the gravest first.
    """

    state: AgentState
    release: Release | None
    uptime_s: float
    windows: Count = 0
    windows_over_threshold: Count = 0
    anomalies: Count = 0
    interval_s: float = 0.0
    interval_windows: Count = 0
    anomaly_rate: float = 0.0
    score_mean: float = 0.0
    score_max: float = 0.0
    threshold: float | None = None
    drift_score: float = 0.0
    drifted: bool = False
    drift_accepted: bool = False
    drift_severity: Annotated[float, Meta(ge=0)] | None = None
    machine_time_s: float = 0.0
    inference_p50_us: float = 0.0
    inference_p99_us: float = 0.0
    memory_pss_bytes: Count = 0
    raw_bytes: Count = 0
    telemetry_bytes: Count = 0
    training_bytes: Count = 0
    update_bytes: Count = 0
    outbox_events: Count = 0
    outbox_evicted: Count = 0
    outbox_refused: Count = 0
    outbox_parked: Count = 0
    buffered_windows: Count = 0
    training_run: str | None = None
    install_step: InstallStep = InstallStep.IDLE
    unjudged_windows: Count = 0
    interval_judged: Count | None = None
    restarts: Count = 0
    crashes: Count = 0
    stage_failures: Count = 0
    missing: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()
    commissioned_share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    is_provisional: bool = False
    clipped_share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    sight: Annotated[float, Meta(ge=0, le=1)] | None = None
    set_aside_windows: Count = 0
    obeyed: Count = 0
    settings: Annotated[tuple[SettingInForce, ...], Meta(max_length=MAX_SETTINGS)] = ()
    promised_per_1000: Rate | None = None
    supported_per_1000: Rate | None = None
    is_promise_provisional: bool = False
    promise_horizon_left: Count = 0
    realised_alarms: Count = 0
    realised_windows: Count = 0
    realised_low_per_1000: Rate = 0.0
    realised_high_per_1000: Rate | None = None
    time_in_alarm_share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    problems: Annotated[tuple[Annotated[str, Meta(max_length=300)], ...], Meta(max_length=8)] = ()

    @property
    def judged(self) -> int:
        """Windows of the interval that got a score, as far as the sender knows."""
        return self.interval_windows if self.interval_judged is None else self.interval_judged


class ShadowReport(Struct, frozen=True, kw_only=True):
    """A candidate beside the release that runs (`champion`), on the same live windows of one machine.

    `windows` were judged by both while the machine was calm: no alarm open, no drift under investigation; `skipped` came while
    there was no time for it. Over their own thresholds were `champion_over`, `candidate_over` and `both_over` of them; between
    `extra_share_low` and `extra_share_high` of calm windows are anomalies to the candidate alone (95 %, exact). Of `probes`
    copies of them in which one thing was put plainly off, each saw so many. `rank_correlation` is Spearman's, of their scores;
    None where it cannot be told. Latencies are medians; `errors` are windows that the candidate could not judge.
    `note` is a sentence for people.
    """

    outcome: ShadowOutcome
    note: Annotated[str, Meta(max_length=300)] = ""
    champion: Annotated[str, Meta(max_length=200)] = ""
    windows: Count = 0
    skipped: Count = 0
    errors: Count = 0
    champion_over: Count = 0
    candidate_over: Count = 0
    both_over: Count = 0
    extra_share_low: Annotated[float, Meta(ge=0, le=1)] = 0.0
    extra_share_high: Annotated[float, Meta(ge=0, le=1)] = 1.0
    probes: Count = 0
    champion_seen: Count = 0
    candidate_seen: Count = 0
    rank_correlation: Annotated[float, Meta(ge=-1, le=1)] | None = None
    champion_latency_us: Rate = 0.0
    candidate_latency_us: Rate = 0.0


class InstallReport(Struct, frozen=True, kw_only=True):
    """How far a device is with a desired state; the last word per `execution` counts.

    `shadow` is what came of judging by the release beside the one before it, from ACTIVATING on.
    """

    execution: Name
    release: Name
    counter: Count
    step: InstallStep
    status: InstallStatus
    progress: Annotated[float, Meta(ge=0, le=1)] = 0.0
    reason: Text = ""
    active_release: Release | None = None
    shadow: ShadowReport | UnsetType = UNSET


class DesiredState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a device shall run. Retained; `counter` only ever grows, so an old one can be told and refused.

    A rollback is the old content under a new counter. `bundle_path` is relative to the fleet's base URL. `is_approved`:
    a person approved a rollout of this release.
    """

    execution: Name
    release: Name
    counter: Positive
    bundle_path: Annotated[str, Meta(pattern="^/v1/", max_length=300)]
    bundle_sha256: Sha256
    bundle_bytes: Positive
    is_approved: bool = False

    def asks_the_same(self, other: DesiredState | None) -> bool:
        """Whether `other` asks for the same bytes under the same counter, whatever either says of an approval."""
        return other is not None and replace(self, is_approved=other.is_approved) == other


class BootAck(Struct, frozen=True, kw_only=True):
    """Ranges [first, last] (both included) of sequences of one boot that the fleet has stored durably."""

    boot_id: Name
    ranges: Annotated[tuple[tuple[Positive, Positive], ...], Meta(max_length=MAX_RANGES)]


class RefusedEvent(Struct, frozen=True, kw_only=True):
    """An event that the fleet cannot take for what it claims to be, and never will; it is kept there as a dead letter."""

    boot_id: Name
    sequence: Positive
    reason: Annotated[str, Meta(max_length=200)]


class Ack(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fleet has these events on disk, the refused ones as dead letters; the device may forget them all."""

    boots: tuple[BootAck, ...]
    refused: Annotated[tuple[RefusedEvent, ...], Meta(max_length=MAX_REFUSED)] = ()


class TrainingInvitation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A training run is open. Retained until it ends; ignored after `expires_at` (Unix seconds).

    `flower_address` is ``host:port`` of the Flower Fleet API (TLS). Devices of `family` whose readiness check
    agrees join; they wait a random part of `spread_s` first, so that a fleet does not arrive at once.
    `signature` is the aggregator's, over all the rest (`protocol.invitations`): the broker may be anybody's.
    """

    run_id: Name
    family: Name
    base_release: Name
    layout_sha256: Sha256
    flower_address: Name
    issued_at: float
    expires_at: float
    minimum_windows: Count = 64
    spread_s: float = 0.0
    signature: Annotated[str, Meta(max_length=128)] = ""


Payload = (
    Birth
    | Death
    | AnomalyEvent
    | AnomalyClosed
    | DriftReport
    | Health
    | InstallReport
    | DesiredState
    | Commands
    | CommandResult
    | Ack
    | TrainingInvitation
)
