"""Releases whose harm is known, and what they do to the devices that run them, until crash or rollback."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.gates.plan import Metric
from gates_lab.worlds import (
    BINS_PER_HOUR,
    NOTICED_BINS,
    WINDOWS_PER_BIN,
    Course,
    Rng,
    draw_over,
    tell_sight,
)

__all__ = ["BAD", "EDGE", "GOOD", "HARMFUL", "RELEASES", "Release", "activate", "give"]

FRESH_MEMORY: Final = 0.06
FRESH_MEMORY_BINS: Final = 10.0
FRESH_LATENCY: Final = 0.1
FRESH_LATENCY_BINS: Final = 4.0
"""A fresh start needs less memory than later, and more time: both decay, memory in five minutes, latency in two."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a release does from its activation on; all factors are 1 and all rates 0 where it does nothing."""

    name: str
    latency: float = 1.0
    rate: float = 1.0
    unjudged: float = 1.0
    drift: float = 1.0
    leak_per_hour: float = 0.0  # of log PSS
    sight: float = 1.0
    crashes_per_hour: float = 0.0  # after which a device is silent for good
    asked: Metric | None = None  # the metric that shows it
    false_alarms: float = 0.0  # share of the alarms a person called real that are now called false


GOOD: Final = Release(name="good")
EDGE: Final = Release(
    name="as bad as the stop margins allow", latency=1.05, rate=1.1, unjudged=1.5, drift=1.25
)
"""In the null hypothesis still: may be stopped no more often than one that does nothing. (Of memory the fresh start takes its part.)"""

BAD: Final = (
    Release(name="latency +15 %", latency=1.15, asked=Metric.LATENCY_P99),
    Release(name="latency +30 %", latency=1.3),
    Release(name="anomaly rate x 2", rate=2.0, asked=Metric.ANOMALY_RATE),
    Release(name="anomaly rate x 5", rate=5.0),
    Release(name="blind: no alarms any more", rate=0.0, asked=Metric.ANOMALY_LOSS),
    Release(name="blind: sight x .2", sight=0.2, asked=Metric.SIGHT),
    Release(name="one of 100 windows unjudged", unjudged=11.0, asked=Metric.UNJUDGED),
    Release(name="leak of 10 % an hour", leak_per_hour=0.1, asked=Metric.MEMORY),
    Release(name="drift score x 2", drift=2.0, asked=Metric.DRIFT_SCORE),
    Release(name="silent crash, one an hour", crashes_per_hour=1.0),
    Release(name="silent crash within minutes", crashes_per_hour=30.0),
)

HARMFUL: Final = (
    Release(name="latency x 1.2", latency=1.2, asked=Metric.LATENCY_P99),
    Release(name="anomaly rate x 2", rate=2.0, asked=Metric.ANOMALY_RATE),
    Release(name="anomaly rate halved", rate=0.5, asked=Metric.ANOMALY_LOSS),
    Release(name="unjudged x 2", unjudged=2.0, asked=Metric.UNJUDGED),
    Release(name="leak of 5 % an hour", leak_per_hour=0.05, asked=Metric.MEMORY),
    Release(name="drift score x 1.5", drift=1.5, asked=Metric.DRIFT_SCORE),
    Release(name="sight -.10", sight=1 - 0.1 / 0.9, asked=Metric.SIGHT),
)
"""Exactly as bad as the pass margins call harmful: whoever passes one passes falsely."""

RELEASES: Final = {release.name: release for release in (GOOD, EDGE, *BAD, *HARMFUL)}


def give(release: Release, after: Course, commits: NDArray[np.int64], rng: Rng) -> Course:
    """The course of devices that run the release from bin `commits` (rollouts, devices) on; `after` is not changed."""
    since = np.arange(after.over.shape[-1]) - commits[..., None]
    is_on = since >= 0
    over = after.over
    if release.rate != 1:
        chance = np.minimum(after.chance * np.float32(release.rate), np.float32(0.95))
        over = np.where(is_on, draw_over(rng, chance, after.burst, after.episodes), over)
    unjudged = after.unjudged
    if release.unjudged != 1:
        more = rng.poisson((release.unjudged - 1) * 0.001 * WINDOWS_PER_BIN, unjudged.shape) * is_on
        unjudged = np.minimum(unjudged + more, WINDOWS_PER_BIN).astype(np.uint8)
    probes_seen = after.probes_seen
    if release.sight != 1:
        probes_seen = np.where(is_on, rng.binomial(probes_seen, release.sight), probes_seen).astype(np.uint8)
    turned = (rng.binomial(after.true_alarms, release.false_alarms) * is_on).astype(np.uint8)
    heard, event = after.heard, after.event
    if release.crashes_per_hour:
        crash = rng.exponential(BINS_PER_HOUR / release.crashes_per_hour, (*heard.shape[:2], 1)).astype(
            np.int64
        )
        heard = heard & (since < crash)
        event = (event & (since < crash)) | (since == crash + NOTICED_BINS)
    given = replace(
        after,
        over=over,
        unjudged=unjudged,
        probes_seen=probes_seen,
        true_alarms=after.true_alarms - turned,
        false_alarms=after.false_alarms + turned,
        heard=heard,
        event=event,
        log_latency=after.log_latency + np.float32(np.log(release.latency)) * is_on,
        log_drift=after.log_drift + np.float32(np.log(release.drift)) * is_on,
        log_memory=after.log_memory
        + np.maximum(since, 0).astype(np.float32) * np.float32(release.leak_per_hour / BINS_PER_HOUR),
    )
    return activate(given, commits)


def activate(after: Course, commits: NDArray[np.int64]) -> Course:
    """The same with what every activation at bin `commits` (rollouts, devices) brings: a fresh start's transient, sight forgotten."""
    since = np.arange(after.over.shape[-1], dtype=np.float32) - commits[..., None].astype(np.float32)
    is_on, since = since >= 0, np.maximum(since, 0)
    return replace(
        after,
        sight=np.where(is_on, tell_sight(after.probes_seen, commits), after.sight),
        log_memory=after.log_memory
        - np.float32(FRESH_MEMORY) * np.exp(-since / np.float32(FRESH_MEMORY_BINS)) * is_on,
        log_latency=after.log_latency
        + np.float32(FRESH_LATENCY) * np.exp(-since / np.float32(FRESH_LATENCY_BINS)) * is_on,
    )
