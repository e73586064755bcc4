"""What a good release meets in the field, and must not be stopped for: a situation each, in the harsh world unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fleet.gates.plan import GatePlan
from gates_lab.play import Setting
from gates_lab.worlds import BINS_PER_HOUR, HARSH, NOTICED_BINS, Course, Rng, World, draw_over

__all__ = ["SITUATIONS", "Situation"]


@dataclass(frozen=True, kw_only=True)
class Situation:
    """A world and a setting. `is_promised`: whether the bound on false stops is meant to hold in it; `sizes`: canaries; `releases`: beside a good one."""

    name: str
    setting: Setting
    world: World = HARSH
    is_promised: bool = True
    sizes: tuple[int, ...] = (5, 20)
    releases: tuple[str, ...] = ()


def cut_power(course: Course, start: int, _: int, rng: Rng) -> Course:
    """Once in the soak the power of everything fails for five minutes; devices come back within two minutes of each other."""
    at = start + 30 + rng.integers(10, 100, (course.lag.shape[0], 1, 1))
    bins = np.arange(course.heard.shape[-1])
    back = at + 10 + rng.integers(0, 5, (*course.lag.shape, 1))
    return replace(
        course,
        heard=course.heard & ~((bins >= at) & (bins < back)),
        event=course.event | (bins == at + NOTICED_BINS),
        log_memory=course.log_memory
        - np.float32(0.06) * np.exp(-np.maximum(bins - back, 0) / np.float32(10)) * (bins >= back),
    )


def restart_nightly(course: Course, start: int, _: int, rng: Rng) -> Course:
    """Every device restarts once within the same twenty minutes of the soak, as it does each night; the baseline has no night."""
    at = (
        start
        + 30
        + rng.integers(5, 60, (course.lag.shape[0], 1, 1))
        + rng.integers(0, 40, (*course.lag.shape, 1))
    )
    bins = np.arange(course.heard.shape[-1])
    return replace(
        course,
        heard=course.heard & (bins != at),
        event=course.event | (bins == at),
        log_memory=course.log_memory
        - np.float32(0.06) * np.exp(-np.maximum(bins - at, 0) / np.float32(10)) * (bins >= at),
    )


def cut_site(course: Course, start: int, _: int, rng: Rng) -> Course:
    """Once in the soak one site of ten is cut off for good, with its share of both arms."""
    sites = np.arange(course.lag.shape[1]) % 10
    cut = sites[None, :] == rng.integers(0, 10, (course.lag.shape[0], 1))
    at = start + 30 + rng.integers(5, 100, (course.lag.shape[0], 1, 1))
    bins = np.arange(course.heard.shape[-1])
    return replace(
        course,
        heard=course.heard & ~(cut[..., None] & (bins >= at)),
        event=course.event | (cut[..., None] & (bins == at + NOTICED_BINS)),
    )


def hush_controls(course: Course, start: int, canaries: int, _: Rng) -> Course:
    """Ten minutes into the soak nothing is heard of the controls any more."""
    return _hush(course, start, np.arange(course.lag.shape[1])[None, :] >= canaries)


def hush_loud_controls(course: Course, start: int, canaries: int, _: Rng) -> Course:
    """The half of the controls that alarm most falls silent ten minutes into the soak: not by chance."""
    loud = course.over[..., :start].sum(axis=-1)
    is_loud = loud > np.median(loud, axis=1, keepdims=True)
    return _hush(course, start, is_loud & (np.arange(course.lag.shape[1]) >= canaries))


def delay_words(course: Course, _: int, __: int, rng: Rng) -> Course:
    """Four of ten devices are heard twenty minutes late."""
    return replace(course, lag=40 * (rng.random(course.lag.shape) < 0.4))


def delay_canaries(course: Course, _: int, canaries: int, __: Rng) -> Course:
    """All canaries are heard twenty minutes late: what they fetch is in the way."""
    return replace(
        course, lag=np.broadcast_to(40 * (np.arange(course.lag.shape[1]) < canaries), course.lag.shape)
    )


def change_shift(course: Course, start: int, _: int, rng: Rng) -> Course:
    """Twenty minutes into the soak another shift begins: all devices alarm three times as often, and take a quarter longer."""
    return _shift(course, start + 30 + 40, rng)


def hush_and_shift(course: Course, start: int, canaries: int, rng: Rng) -> Course:
    """Nothing is heard of the controls any more, and then another shift begins."""
    return change_shift(hush_controls(course, start, canaries, rng), start, canaries, rng)


def shift_while_given(course: Course, start: int, _: int, rng: Rng) -> Course:
    """Another shift begins while the release is still being given."""
    return _shift(course, start + 30 + 60, rng)


def _shift(course: Course, at: int, rng: Rng) -> Course:
    bins = np.arange(course.heard.shape[-1]) >= at
    chance = np.minimum(course.chance * np.where(bins, np.float32(3), np.float32(1)), np.float32(0.9))
    return replace(
        course,
        chance=chance,
        over=np.where(bins, draw_over(rng, chance, course.burst, course.episodes), course.over),
        log_latency=course.log_latency + np.float32(np.log(1.25)) * bins,
    )


def storm(course: Course, start: int, _: int, rng: Rng) -> Course:
    """With the rollout begins weather that slows every device by a fifth, and raises its drift score, each by another amount."""
    bins = np.arange(course.heard.shape[-1]) >= start
    slower = rng.normal(0.2, 0.1, (*course.lag.shape, 1)).astype(np.float32) * bins
    return replace(course, log_latency=course.log_latency + slower, log_drift=course.log_drift + 2 * slower)


def _hush(course: Course, start: int, who: np.ndarray) -> Course:  # type: ignore[type-arg] # bool (rollouts, devices)
    bins = np.arange(course.heard.shape[-1])
    at = start + 30 + 20
    return replace(
        course,
        heard=course.heard & ~(who[..., None] & (bins >= at)),
        event=course.event | (who[..., None] & (bins == at + NOTICED_BINS)),
    )


def _first_site(course: Course, _: int, canaries: int, __: Rng) -> Course:
    """Brings the devices of site 0 to the front, so that they are the canaries."""
    devices = course.lag.shape[1]
    order = np.argsort(np.arange(devices) % (devices // canaries), kind="stable")
    return course.pick(order)


_ALL: Final = (
    Situation(name="commits spread over 10 minutes", setting=Setting(spread_bins=20)),
    Situation(name="commits spread over an hour", setting=Setting(spread_bins=BINS_PER_HOUR)),
    Situation(
        name="power cut in both arms",
        setting=Setting(disturb=cut_power),
        releases=("silent crash, one an hour",),
    ),
    Situation(
        name="all restart within 20 minutes",
        setting=Setting(disturb=restart_nightly),
        releases=("silent crash, one an hour",),
    ),
    Situation(
        name="one site of ten is cut off",
        world=replace(HARSH, sites=10),
        setting=Setting(disturb=cut_site, strata=10),
    ),
    Situation(
        name="controls fall silent", setting=Setting(disturb=hush_controls), releases=("anomaly rate x 5",)
    ),
    Situation(name="another shift begins in the soak", setting=Setting(disturb=change_shift)),
    Situation(
        name="controls fall silent, then another shift begins", setting=Setting(disturb=hush_and_shift)
    ),
    Situation(
        name="another shift begins while commits are spread over an hour",
        setting=Setting(disturb=shift_while_given, spread_bins=BINS_PER_HOUR),
    ),
    Situation(name="the loud half of the controls falls silent", setting=Setting(disturb=hush_loud_controls)),
    Situation(name="4 of 10 devices are heard 20 minutes late", setting=Setting(disturb=delay_words)),
    Situation(
        name="the canaries are heard 20 minutes late",
        setting=Setting(disturb=delay_canaries),
        releases=("anomaly rate x 5",),
    ),
    Situation(name="a storm slows all", setting=Setting(disturb=storm)),
    Situation(
        name="ten sites with weather each, canaries drawn within them",
        world=replace(HARSH, sites=10, site_weather=0.3),
        setting=Setting(strata=10),
    ),
    Situation(
        name="eleven sites with weather each, one is the canary",
        world=replace(HARSH, sites=11, site_weather=0.3),
        setting=Setting(disturb=_first_site),
        is_promised=False,
        sizes=(20,),
    ),
    Situation(
        name="sham re-activation, warm-up 2 minutes",
        setting=Setting(plan=GatePlan(reactivate_controls=True, warm_up_s=120)),
    ),
    Situation(
        name="no sham, warm-up 2 minutes", setting=Setting(plan=GatePlan(warm_up_s=120)), is_promised=False
    ),
)

SITUATIONS: Final = {situation.name: situation for situation in _ALL}
