"""When a training run starts by itself: the rules, and nothing else.

Pure: what the fleet's drift looks like, what has run before and the time of day are arguments. A person's request is
not asked here; it always starts a run unless one of the family is under way. Another program's rests as long as ours.

A drift trigger fires when at least `drift_share` of a family's devices drifted within the last `within_s` and are not back: a
fleet whose world changed shows many fresh reports, while machines that wear out one by one over a year do not. A device that is
out of drift because a person called normal where it is counts like one in drift: it has learnt that, its release has not. Labels can fire too: with `precision_drift`, when people's verdicts say that the alarms of the release mean less
than they did (the fleet watches that), once for each such drift. Then no automatic run starts for `cooldown_s` after the end of the last, whatever came of it, because the new release
needs time to reach the devices and a candidate that failed the gate would fail it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["DriftSummary", "RunHistory", "Trigger", "TriggerSettings", "decide_trigger", "is_resting"]

Seconds = Annotated[float, Meta(gt=0)]


class TriggerSettings(Struct, frozen=True, kw_only=True):
    """``[family.trigger]``: when a run starts by itself; times in seconds.

    Attributes:
        drift_share: share of the family that must have drifted, and not be back; None: drift starts nothing.
        precision_drift: whether people's verdicts may start a run.
        within_s: how fresh the drift must be.
        cooldown_s: after the end of the last run, also where another program asks. Devices answer each question once a day: a run that
            begins sooner spends rounds and fails.
        schedule_every_s: a run at least this often; None: no schedule.
    """

    drift_share: Annotated[float, Meta(gt=0, le=1)] | None = None
    precision_drift: bool = False
    within_s: Seconds = 86_400.0
    cooldown_s: Annotated[float, Meta(ge=0)] = 86_400.0
    schedule_every_s: Seconds | None = None

    @property
    def is_on(self) -> bool:
        """Whether anything but a person may start a run."""
        return self.drift_share is not None or self.schedule_every_s is not None or self.precision_drift


@dataclass(frozen=True, kw_only=True)
class DriftSummary:
    """How many `devices` a family has, and when (Unix s) each that drifted and is not back did.

    `drifted_since` holds None for a device of which the fleet does not know when: it counts as fresh.
    `precision_drifted_since` (Unix s): since when the release's alarms are false more often than they were; None: they are not.
    """

    devices: int
    drifted_since: tuple[float | None, ...]
    precision_drifted_since: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """What has run for a family before; `last_ended_at` is Unix s, None when nothing ever ended."""

    is_running: bool
    last_ended_at: float | None


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """Why a run starts: `kind` is ``drift``, ``precision`` or ``schedule``, `reason` is for people."""

    kind: str
    reason: str


def decide_trigger(
    settings: TriggerSettings,
    drift: DriftSummary,
    history: RunHistory,
    now: float,
    *,
    watching_since: float,
    minimum_devices: int,
) -> Trigger | None:
    """Say whether a run shall start now (Unix s), and why; a family of fewer than `minimum_devices` never does.

    `watching_since` is when this aggregator began to watch: the schedule of a family that never ran counts from there.
    """
    if history.is_running or drift.devices < minimum_devices:
        return None
    ended = history.last_ended_at
    if is_resting(settings, ended, now):
        return None
    return (
        _drift_trigger(settings, drift, now)
        or _precision_trigger(settings, drift, ended)
        or _schedule_trigger(settings, ended, now, watching_since)
    )


def is_resting(settings: TriggerSettings, last_ended_at: float | None, now: float) -> bool:
    """Whether a family's last run ended so lately that no program starts another one, at Unix second `now`."""
    return last_ended_at is not None and now - last_ended_at < settings.cooldown_s


def _drift_trigger(settings: TriggerSettings, drift: DriftSummary, now: float) -> Trigger | None:
    if settings.drift_share is None:
        return None
    fresh = sum(since is None or now - since <= settings.within_s for since in drift.drifted_since)
    if not fresh or fresh < settings.drift_share * drift.devices:
        return None
    return Trigger(
        kind="drift",
        reason=f"{fresh} of {drift.devices} devices drifted within {settings.within_s:g} s and are not back (limit: {settings.drift_share:.0%})",
    )


def _precision_trigger(settings: TriggerSettings, drift: DriftSummary, ended: float | None) -> Trigger | None:
    since = drift.precision_drifted_since
    # A run after the drift began has had its try: whether it helped, only verdicts on its release can tell.
    if not settings.precision_drift or since is None or (ended is not None and ended >= since):
        return None
    return Trigger(
        kind="precision",
        reason="people's verdicts: the alarms of the release are false more often than they were",
    )


def _schedule_trigger(
    settings: TriggerSettings, ended: float | None, now: float, watching_since: float
) -> Trigger | None:
    every = settings.schedule_every_s
    if every is None or now - (watching_since if ended is None else ended) < every:
        return None
    return Trigger(kind="schedule", reason=f"{every:g} s have passed since the last run")
