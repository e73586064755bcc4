"""What a plan asks of its gates: which figures, how often a good release may be stopped, and how long is looked."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["GatePlan", "Metric", "OnNotSeen"]

Seconds = Annotated[float, Meta(ge=0, le=30 * 86400)]


class Metric(StrEnum):
    """What a release can do to a device; each is one one-sided test."""

    LATENCY_P99 = "latency_p99"  # inference takes longer
    ANOMALY_RATE = "anomaly_rate"  # more windows over the threshold
    ANOMALY_LOSS = "anomaly_loss"  # fewer of them: a model that grew deaf
    UNJUDGED = "unjudged"  # windows that got no score
    MEMORY = "memory"  # memory grows, a leak
    DRIFT_SCORE = "drift_score"  # statistic of the drift detectors ÷ threshold
    SIGHT = "sight"  # share of disturbed live windows that are seen
    RESTARTS = "restarts"  # restarts, crashes, and silence
    VERDICTS = "verdicts"  # people call its alarms false; this one only pauses


class OnNotSeen(StrEnum):
    """What follows at the end of a soak where harm was neither found nor excluded."""

    ASK_ONCE = "ask-once"  # pauses, unless it was known before the start, or a person has gone on in this rollout before
    PAUSE = "pause"
    CONTINUE = "continue"


class GatePlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the devices that have the release are compared with those that do not, each against its own past.

    metrics: which tests are made; none of them: there are no gates, as where a plan in JSON says null.
    false_stop: how often a rollout of a harmless release may be stopped, over all groups, tests and looks together.
    baseline_s: how much of a device's own past is compared with, seconds; four hours are free power.
    warm_up_s: left out after a device committed the release: a fresh start needs more memory and time.
    on_not_seen: what follows where a soak ends and nothing can be said.
    reactivate_controls: have the controls install what they run once more, so that both arms were handled alike.
    hold_out: controls that the last group leaves without the release until its soak ends; at most, with five percent of all devices.
    """

    metrics: Annotated[tuple[Metric, ...], Meta(max_length=9)] = tuple(Metric)
    false_stop: Annotated[float, Meta(gt=0, le=0.5)] = 0.05
    baseline_s: Annotated[float, Meta(gt=0, le=7 * 86400)] = 4 * 3600.0
    warm_up_s: Seconds = 900.0
    on_not_seen: OnNotSeen = OnNotSeen.ASK_ONCE
    reactivate_controls: bool = False
    hold_out: Annotated[int, Meta(ge=0, le=10_000)] = 20

    def __post_init__(self) -> None:
        """Raises ValueError where a metric is named twice."""
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"metrics name one twice: {', '.join(self.metrics)}")
