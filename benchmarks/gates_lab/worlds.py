"""Fleets that are made up, half a minute at a time: what every device would show if no release did anything.

    homogeneous   all devices are alike, and chance is all there is
    real          devices differ (rate σ 1, latency σ .4 of the logarithm), alarms come in bursts, machines wander a little
    harsh         they wander much, noise has Student's tails (3 degrees of freedom), half of all alarms come in episodes of five
                  minutes, a day's course and weather in both arms, some devices are late, some fall silent, some restart

Nothing here was fitted to the gates; the sizes are those of the design's prototype where it stated them, else chosen once.
Arrays have the shape (rollouts, devices, bins): many rollouts at a time, because a cell needs hundreds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BINS_PER_HOUR",
    "HARSH",
    "HOMOGENEOUS",
    "NOTICED_BINS",
    "PROBES_PER_BIN",
    "REAL",
    "WINDOWS_PER_BIN",
    "WORLDS",
    "Course",
    "World",
    "draw_course",
    "draw_over",
    "tell_sight",
]

Array = NDArray[np.float32]
Rng = np.random.Generator

BINS_PER_HOUR: Final = 120
"""Health comes every 30 s."""

WINDOWS_PER_BIN: Final = 30
PROBES_PER_BIN: Final = 5
REMEMBERED_BINS: Final = 40
EPISODE_BINS: Final = 10
EPISODE_RATE: Final = 0.3
"""Share of windows over the threshold while an episode lasts."""

SILENCE_BINS: Final = 20
NOTICED_BINS: Final = 4
"""A device that said nothing for two minutes is not online."""


@dataclass(frozen=True, kw_only=True)
class World:
    """How devices differ and how they behave; rates and noises are of logarithms unless said otherwise.

    Attributes:
        name: of the world.
        rate: share of windows over the threshold on the median device.
        rate_spread: σ over devices.
        latency_spread: σ over devices; the median device takes 1,000 µs.
        latency_noise: of one message.
        tails: degrees of freedom of Student's noise; 0 means normal.
        burst: correlation of the windows of one message: their share is drawn from a beta distribution.
        episodes: share of alarms that comes in episodes of five minutes.
        walk: σ of a device's own random walk in latency, drift score and rate (there twice as much), after one hour.
        day: amplitude of the day's course of the rate, in all devices alike; a third of it in latency.
        weather: σ of a step of the rate when the rollout begins, in all devices alike.
        sites: how many; a device is of site ``index mod sites``.
        site_weather: σ of such a step, in each site another.
        events_per_hour: restarts.
        silences_per_hour: of ten minutes.
        late: share of devices whose messages take ten minutes.
    """

    name: str
    rate: float = 0.01
    rate_spread: float = 0.0
    latency_spread: float = 0.0
    latency_noise: float = 0.1
    tails: float = 0.0
    burst: float = 0.0
    episodes: float = 0.0
    walk: float = 0.0
    day: float = 0.0
    weather: float = 0.0
    sites: int = 1
    site_weather: float = 0.0
    events_per_hour: float = 0.001
    silences_per_hour: float = 0.0
    late: float = 0.0


HOMOGENEOUS: Final = World(name="homogeneous")
REAL: Final = World(
    name="real", rate_spread=1.0, latency_spread=0.4, burst=0.05, walk=0.02, events_per_hour=0.002
)
HARSH: Final = World(
    name="harsh",
    rate_spread=1.0,
    latency_spread=0.4,
    latency_noise=0.15,
    tails=3.0,
    burst=0.05,
    episodes=0.5,
    walk=0.08,
    day=0.3,
    weather=0.2,
    events_per_hour=0.01,
    silences_per_hour=0.02,
    late=0.1,
)
WORLDS: Final = {world.name: world for world in (HOMOGENEOUS, REAL, HARSH)}


@dataclass(frozen=True, kw_only=True)
class Course:
    """What devices do, (rollouts, devices, bins) but for `lag`.

    Attributes:
        chance: of one window to be over the threshold, before bursts and episodes.
        over: windows over it.
        log_latency: of the message.
        log_drift: log(drift score + .01).
        log_memory: log PSS.
        probes_seen: of the message's five probes.
        sight: share seen of the last 200 probes since the judge in force was, as the agent tells it.
        unjudged: windows without a score.
        false_alarms: alarms that a person called false; `true_alarms`: real.
        heard: whether the message came at all.
        event: a restart, a crash, or the moment in which a silence is noticed.
        lag: (rollouts, devices), bins until a message arrives.
        burst: of the world.
        episodes: of the world.
    """

    chance: Array
    over: NDArray[np.uint8]
    log_latency: Array
    log_drift: Array
    log_memory: Array
    probes_seen: NDArray[np.uint8]
    sight: Array
    unjudged: NDArray[np.uint8]
    false_alarms: NDArray[np.uint8]
    true_alarms: NDArray[np.uint8]
    heard: NDArray[np.bool_]
    event: NDArray[np.bool_]
    lag: NDArray[np.int64]
    burst: float
    episodes: float

    def pick(self, devices: slice | NDArray[np.int64], bins: slice = slice(None)) -> Course:
        """These devices, in this order, and these bins; views where both are slices."""
        parts = {
            field.name: getattr(self, field.name)[:, devices, bins]
            for field in fields(self)
            if field.name not in {"lag", "burst", "episodes"}
        }
        return replace(self, **parts, lag=self.lag[:, devices])


def draw_course(world: World, rng: Rng, *, rollouts: int, devices: int, bins: int, start: int) -> Course:
    """A fleet `bins` half-minutes long; a rollout begins at bin `start`, which nothing but the weather knows. Device i is of site i mod sites."""
    shape = (rollouts, devices, bins)
    hours = np.arange(bins, dtype=np.float32) / BINS_PER_HOUR
    phase = rng.uniform(0, 24, (rollouts, 1, 1)).astype(np.float32)
    day = np.float32(world.day) * np.sin(2 * np.pi * (hours + phase) / 24, dtype=np.float32)
    weather = rng.normal(0, world.weather, (rollouts, 1)) + np.take(
        rng.normal(0, world.site_weather, (rollouts, world.sites)), np.arange(devices) % world.sites, axis=1
    )
    step = weather[:, :, None].astype(np.float32) * (np.arange(bins) >= start)
    chance = np.exp(_walk(rng, shape, 2 * world.walk) + day + step)
    chance *= (world.rate * np.exp(rng.normal(0, world.rate_spread, (*shape[:2], 1)))).astype(np.float32)
    np.minimum(chance, 0.9, out=chance)
    latency = _noise(rng, shape, world.latency_noise, world.tails) + _walk(rng, shape, world.walk) + day / 3
    latency += (np.log(1000) + rng.normal(0, world.latency_spread, (*shape[:2], 1))).astype(np.float32)
    drift = _noise(rng, shape, 0.2, world.tails) + _walk(rng, shape, world.walk)
    drift += rng.normal(np.log(0.3), 0.4, (*shape[:2], 1)).astype(np.float32)
    memory = _noise(rng, shape, 0.002, world.tails) + _walk(rng, shape, world.walk / 10)
    keen = rng.beta(18, 2, (*shape[:2], 1)).astype(np.float32)
    probes_seen = rng.binomial(PROBES_PER_BIN, np.broadcast_to(keen, shape)).astype(np.uint8)
    alarms = rng.poisson(0.3 / BINS_PER_HOUR, shape).astype(np.uint8)
    wrong = rng.binomial(alarms[alarms > 0], 0.3)
    false_alarms = np.zeros(shape, np.uint8)
    false_alarms[alarms > 0] = wrong
    heard, event = _silences(rng, shape, world)
    return Course(
        chance=chance,
        over=draw_over(rng, chance, world.burst, world.episodes),
        log_latency=latency,
        log_drift=drift,
        log_memory=memory,
        probes_seen=probes_seen,
        sight=tell_sight(probes_seen, np.zeros(shape[:2], np.int64)),
        unjudged=rng.poisson(0.001 * WINDOWS_PER_BIN, shape).astype(np.uint8),
        false_alarms=false_alarms,
        true_alarms=alarms - false_alarms,
        heard=heard,
        event=event,
        lag=20 * (rng.random(shape[:2]) < world.late),
        burst=world.burst,
        episodes=world.episodes,
    )


def tell_sight(probes_seen: NDArray[np.uint8], since: NDArray[np.int64]) -> Array:
    """The share seen of the last 200 probes from bin `since` (rollouts, devices) on; NaN before there were ten."""
    age = np.arange(1, probes_seen.shape[-1] + 1) - since[..., None]
    sums = np.cumsum(probes_seen * (age > 0), axis=-1, dtype=np.int32)
    sums[..., REMEMBERED_BINS:] -= sums[..., :-REMEMBERED_BINS].copy()
    told = np.clip(age, 1, REMEMBERED_BINS) * PROBES_PER_BIN
    return np.where(age * PROBES_PER_BIN >= 10, sums / told, np.nan).astype(np.float32)


def draw_over(rng: Rng, chance: Array, burst: float, episodes: float) -> NDArray[np.uint8]:
    """Windows over the threshold in each message, for each window's chance: in bursts, and a share of them in episodes."""
    quiet = chance * np.float32(1 - episodes)
    if burst:
        strength = np.float32(1 / burst - 1)
        first = rng.standard_gamma(quiet * strength, dtype=np.float32)
        second = rng.standard_gamma((1 - quiet) * strength, dtype=np.float32)
        quiet = first / np.maximum(first + second, np.float32(1e-30))
    over = rng.binomial(WINDOWS_PER_BIN, quiet).astype(np.uint8)
    if episodes:
        begins = rng.random(chance.shape, dtype=np.float32) < chance * np.float32(
            episodes / (EPISODE_RATE * EPISODE_BINS)
        )
        sums = np.cumsum(begins, axis=-1, dtype=np.int32)
        sums[..., EPISODE_BINS:] -= sums[..., :-EPISODE_BINS].copy()
        inside = sums > 0
        over[inside] = np.minimum(
            over[inside] + rng.binomial(WINDOWS_PER_BIN, EPISODE_RATE, np.count_nonzero(inside)),
            WINDOWS_PER_BIN,
        )
    return over


def _walk(rng: Rng, shape: tuple[int, int, int], per_hour: float) -> Array | np.float32:
    if not per_hour:
        return np.float32(0)
    steps = rng.standard_normal(shape, dtype=np.float32)
    steps *= np.float32(per_hour / np.sqrt(BINS_PER_HOUR))
    return np.cumsum(steps, axis=-1, out=steps)


def _noise(rng: Rng, shape: tuple[int, int, int], size: float, tails: float) -> Array:
    noise = rng.standard_normal(shape, dtype=np.float32)
    if tails:
        noise /= np.sqrt(rng.standard_gamma(tails / 2, shape, dtype=np.float32) * np.float32(2 / tails))
        # Nothing takes a billion times as long: one of 10⁸ draws would.
        np.clip(noise, -30, 30, out=noise)
    noise *= np.float32(size)
    return noise


def _silences(
    rng: Rng, shape: tuple[int, int, int], world: World
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    event = rng.random(shape, dtype=np.float32) < world.events_per_hour / BINS_PER_HOUR
    heard = np.ones(shape, np.bool_)
    if world.silences_per_hour:
        for rollout, device, begin in np.argwhere(
            rng.random(shape, dtype=np.float32) < world.silences_per_hour / BINS_PER_HOUR
        ):
            heard[rollout, device, begin : begin + SILENCE_BINS] = False
            event[rollout, device, begin + NOTICED_BINS : begin + NOTICED_BINS + 1] = True
    return heard, event
