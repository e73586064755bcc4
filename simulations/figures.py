"""The figures of a run, computed from its record: what the last screen, the report and the JSON show alike.

Pure. A false alarm is an alarm the fleet stored from a machine without an injected fault; its rate is per hour of
machine time that was watched in the same phase. Bandwidth saved compares telemetry with the bytes that streaming
every raw sample would have cost; training and update traffic are shown apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.detection.poisson import poisson_interval
from protocol.messages.payloads import Health
from simulations.record import Record, TrainingSeen

__all__ = ["AlarmRate", "Figures", "Promised", "compute_figures", "promised_by"]

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class AlarmRate:
    """False alarms and the share of windows over threshold, over some device-hours of machine time."""

    alarms: int
    device_hours: float
    per_device_hour: float
    windows_over_share: float


@dataclass(frozen=True, kw_only=True)
class Promised:
    """What devices promise of false alarms, and what came of it since each of them last learnt, true alarms among them.

    Attributes:
        per_1000: alarms in 1000 windows at most; None where no device promises any.
        alarms: that came, in so many `windows` of all devices together.
        low_per_1000, high_per_1000: exact 95 % interval of that in 1000.
        kept_on, devices: on how many of those that promise, the lower end of their own interval is within it.
    """

    per_1000: float | None
    alarms: int
    windows: int
    low_per_1000: float
    high_per_1000: float | None
    kept_on: int
    devices: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of one run. Seconds are wall seconds, bytes are payload bytes; None where it did not happen.

    Attributes:
        devices: how many the fleet has heard of.
        windows: scored by all devices together.
        machine_hours: of machine time that was watched, all devices together.
        faults_injected, faults_caught, faults_missed: by the world; caught is what has an alarm at the fleet.
        seconds_to_catch: from the injection to the alarm in the fleet's store; the slowest.
        times_published: alarms stored for one fault; the most.
        false_alarms_at_first: before the load changed; version 1.
        false_alarms_after_change: from the change until version 2 spreads.
        false_alarms_after_learning: with version 2 everywhere, until version 3 comes.
        promised: of false alarms, and whether it was kept at the end.
        raw_bytes: what streaming every sample would have cost.
        telemetry_bytes: what all messages but training and updates did cost; bandwidth_saved_pct compares the two.
        training_bytes, update_bytes: Flower's traffic, and bundles.
        inference_p50_us: median device's median; inference_p99_us: worst device's 99th percentile; microseconds.
        agent_memory_mb: proportional set size of the largest agent; with its learner, while a run lasts, the other.
        rounds: that were not void.
        seconds_per_round: mean, the devices' training included.
        devices_per_round: mean participants.
        loss_champion, loss_candidate: of the run's evaluation on held-out windows.
        int8_error: mean squared difference to the float model over the mean square of its output.
        privacy_mode: of the run's privacy claim, with what it says to a curious aggregator, a lying one, and of a poisoner.
        epsilon_server, epsilon_release, delta: of the same claim.
        seconds_training_run: from the decision to the published release.
        seconds_to_roll_out: version 2, from canary to everywhere.
        seconds_to_recover: version 3, from its rollout's start until every device runs version 2 again.
        final_release: what all devices run at the end; several are joined by commas.
        process_deaths: processes of the world that were found dead and started again.
        comparison: with recorded bearings: version 1, learning alone and learning together (`simulations.comparison`).
        seconds_total: the whole story.

    `pace` is how many times slower than a quiet
    machine this one seemed at the beginning; the story's own waits are so much longer. `epsilon_server` and `epsilon_release` are the claim's; None: nothing limits them. `secure_sums` counts sums that were
    released under masks, the evaluation's too.
    """

    devices: int
    windows: int
    machine_hours: float
    faults_injected: int
    faults_caught: int
    faults_missed: int
    seconds_to_catch: float | None
    times_published: int
    false_alarms_at_first: AlarmRate
    false_alarms_after_change: AlarmRate
    false_alarms_after_learning: AlarmRate
    promised: Promised
    raw_bytes: int
    telemetry_bytes: int
    bandwidth_saved_pct: float
    training_bytes: int
    update_bytes: int
    inference_p50_us: float
    inference_p99_us: float
    agent_memory_mb: float
    agent_and_learner_memory_mb: float
    rounds: int
    seconds_per_round: float | None
    devices_per_round: float | None
    loss_champion: float | None
    loss_candidate: float | None
    int8_error: float | None
    privacy_mode: str
    privacy_curious: str
    privacy_lying: str
    privacy_poisoner: str
    epsilon_server: float | None
    epsilon_release: float | None
    delta: float | None
    secure_sums: int
    seconds_training_run: float | None
    seconds_to_roll_out: float | None
    seconds_to_recover: float | None
    final_release: str
    process_deaths: int
    comparison: dict[str, float]
    seconds_total: float
    pace: float


def compute_figures(record: Record, *, learned_version: int = 2) -> Figures:
    """Compute every figure of a record; `learned_version` is the version that federated learning made."""
    seen = [device.health for device in record.devices.values()]
    change_began, _ = record.between("c")
    training = _last(record.trainings.values()) or TrainingSeen(run="", state="", began_s=0.0)
    numbered = [(int(r.release.rpartition("/")[2]), r) for r in record.rollouts.values()]
    good = _last(r for v, r in numbered if v == learned_version and r.state == "COMPLETED")
    bad = _last(r for v, r in numbered if v > learned_version)
    learned_from = good.ended_s if good and good.ended_s is not None else record.now_s
    bad_began = bad.began_s if bad else record.now_s
    caught = [f for f in record.faults if f.caught_s is not None]
    raw, telemetry = sum(d.raw_bytes for d in seen), sum(d.telemetry_bytes for d in seen)
    drilled = [r for r in training.rounds if not r.get("void")]
    return Figures(
        devices=len(seen),
        windows=sum(d.windows for d in seen),
        machine_hours=sum(d.machine_time_s for d in seen) / 3600,
        faults_injected=len(record.faults),
        faults_caught=len(caught),
        faults_missed=len(record.faults) - len(caught),
        seconds_to_catch=max((f.caught_s - f.at_s for f in caught if f.caught_s is not None), default=None),
        times_published=max((f.published for f in record.faults), default=0),
        false_alarms_at_first=_alarm_rate(record, 0.0, change_began),
        false_alarms_after_change=_alarm_rate(record, change_began, good.began_s if good else record.now_s),
        false_alarms_after_learning=_alarm_rate(record, learned_from, bad_began),
        promised=promised_by(seen),
        raw_bytes=raw,
        telemetry_bytes=telemetry,
        bandwidth_saved_pct=100 * (1 - telemetry / raw) if raw else 0.0,
        training_bytes=sum(d.training_bytes for d in seen),
        update_bytes=sum(d.update_bytes for d in seen),
        inference_p50_us=float(np.median([d.inference_p50_us for d in seen])) if seen else 0.0,
        inference_p99_us=max((d.inference_p99_us for d in seen), default=0.0),
        agent_memory_mb=max((d.memory_pss_bytes for d in seen), default=0) / 1e6,
        agent_and_learner_memory_mb=record.learning_memory_bytes / 1e6,
        rounds=len(drilled),
        seconds_per_round=_mean(_number(r, "seconds") for r in drilled),
        devices_per_round=_mean(float(_count(r, "participants")) for r in drilled),
        loss_champion=training.evaluation.get("champion_loss"),
        loss_candidate=training.evaluation.get("candidate_loss"),
        int8_error=training.evaluation.get("int8_error"),
        privacy_mode=_said(training, "mode") or "no claim",
        privacy_curious=_said(training, "curious"),
        privacy_lying=_said(training, "lying"),
        privacy_poisoner=_said(training, "poisoner"),
        epsilon_server=_claimed(training, "server"),
        epsilon_release=_claimed(training, "release"),
        delta=_number(training.privacy, "delta") or None,
        secure_sums=_secure_sums(training),
        seconds_training_run=training.ended_s - training.began_s if training.ended_s else None,
        seconds_to_roll_out=good.ended_s - good.began_s if good and good.ended_s else None,
        seconds_to_recover=bad.recovered_s - bad.began_s if bad and bad.recovered_s else None,
        final_release=", ".join(sorted({d.release or "none" for d in record.devices.values()})),
        process_deaths=len(record.deaths),
        comparison=dict(record.comparison),
        seconds_total=record.now_s,
        pace=record.pace,
    )


def promised_by(healths: Sequence[Health]) -> Promised:
    """What devices say of their promises, by their last health messages."""
    found = [h for h in healths if h.promised_per_1000 is not None]
    alarms, windows = sum(h.realised_alarms for h in found), sum(h.realised_windows for h in found)
    low, high = poisson_interval(alarms)
    return Promised(
        per_1000=max((h.promised_per_1000 or 0.0 for h in found), default=None),
        alarms=alarms,
        windows=windows,
        low_per_1000=1000 * low / windows if windows else 0.0,
        high_per_1000=1000 * high / windows if windows else None,
        kept_on=sum(h.realised_low_per_1000 <= (h.promised_per_1000 or 0.0) for h in found),
        devices=len(found),
    )


def _alarm_rate(record: Record, start_s: float, end_s: float) -> AlarmRate:
    """Alarms of machines that had no fault then, over the machine time that was watched then."""
    hours = over = windows = 0.0
    for trace in record.traces.values():
        inside = (trace.at_s >= start_s) & (trace.at_s < end_s) & ~_faulty(record, trace.device, trace.at_s)
        if inside.sum() < 2:
            continue
        steps = np.diff(trace.machine_s)  # negative where an agent was started again
        hours += float(steps[(steps > 0) & inside[1:] & inside[:-1]].sum()) / 3600
        over += float(trace.over[inside].sum())
        windows += float(inside.sum())
    alarms = sum(
        1
        for a in record.alarms
        if start_s <= a.at_s < end_s and not _faulty(record, a.device, np.array([a.at_s]))[0]
    )
    return AlarmRate(
        alarms=alarms,
        device_hours=hours,
        per_device_hour=alarms / hours if hours else 0.0,
        windows_over_share=over / windows if windows else 0.0,
    )


def _faulty(record: Record, device: str, at_s: NDArray[np.float64]) -> NDArray[np.bool_]:
    faulty = np.zeros(at_s.shape, bool)
    for fault in record.faults:
        if fault.device == device:
            faulty |= (at_s >= fault.at_s) & (at_s <= (fault.ended_s or np.inf))
    return faulty


def _last(items: Iterable[_Item]) -> _Item | None:
    found = list(items)
    return found[-1] if found else None


def _number(values: dict[str, object], key: str) -> float:
    value = values.get(key, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _count(values: dict[str, object], key: str) -> int:
    value = values.get(key)
    return len(value) if isinstance(value, list) else int(_number(values, key))


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _claimed(training: TrainingSeen, whom: str) -> float | None:
    figure = training.privacy.get(whom)
    value = figure.get("epsilon") if isinstance(figure, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _said(training: TrainingSeen, what: str) -> str:
    return str(training.privacy.get(what) or "")


def _secure_sums(training: TrainingSeen) -> int:
    rounds = training.privacy.get("rounds")
    if training.privacy.get("mode") == "plain":
        return 0
    return int(_number(rounds, "released")) if isinstance(rounds, dict) else 0
