"""The gates once more on recordings that the agent's own scoring judged: fewer devices, real figures.

Eight servers (SMD), a row a minute. The product's detector is fitted to the first 5,000 rows of each, as the fleet and its devices would,
and judges the healthy rows that follow, in int8; no labelled row is read. A device here is a stretch of five and a quarter hours of
one server: four hours of past, a warm-up, an hour of soak. A fleet is 220 of these stretches, drawn anew for each rollout, and the
canaries are drawn from it by lot.

Measured, not drawn: windows over the threshold, the sight of disturbed windows as the agent tells it, and how long this machine took
for each window. Of memory, drift scores, restarts and verdicts there is nothing here, so nothing is told of them. What a release does is
done to the scores: another threshold or another arithmetic, judged again; a latency is a factor on the measured times.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from detection_tables.named_sets import NAMED_SETS
from detection_tables.product import PRODUCT, DetectorScorer
from numpy.typing import NDArray

from edge_agent.judges import MixtureJudge
from fleet.gates.arms import Arms, Shown
from fleet.gates.plan import GatePlan, Metric
from gates_lab.play import OURS, Setting, Tally, Trial, judge_looks
from models.detection.promise import AlarmBudget
from models.sight import disturb_each

__all__ = ["REPLAYED", "Replayed", "play_recordings", "replay"]

Floats = NDArray[np.float64]

BASELINE, WARM_UP, SOAK = 240, 15, 60
STRETCH: Final = BASELINE + WARM_UP + SOAK
"""Minutes, and rows."""

DEVICES: Final = 220
REMEMBERED: Final = 200
METRICS: Final = (Metric.LATENCY_P99, Metric.ANOMALY_RATE, Metric.ANOMALY_LOSS, Metric.UNJUDGED, Metric.SIGHT)


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A release as something done to the scores: the factor on the threshold, on the times, and whether it computes in float."""

    name: str
    threshold: float = 1.0
    latency: float = 1.0
    is_float: bool = False


REPLAYED: Final = (
    Replayed(name="the same detector"),
    Replayed(name="the same in float", is_float=True),
    Replayed(name="latency +15 %", latency=1.15),
    Replayed(name="latency +30 %", latency=1.3),
    Replayed(name="threshold x 4: hardly sees", threshold=4.0),
    Replayed(name="threshold x .5: sees too much", threshold=0.5),
)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Of every stretch and minute, (stretches, minutes): statistic ÷ threshold in int8 and float, the same of a disturbed copy, log µs."""

    ratio: Floats
    ratio_float: Floats
    disturbed: Floats
    log_latency: Floats


def replay(folder: Path) -> Rows:
    """Judge the later rows of all servers by the product, and cut them into stretches."""
    devices = NAMED_SETS["smd"](folder / "smd")
    product = next(method for method in PRODUCT if method.name == "mixed, int8").fit(devices, 0)
    budget = AlarmBudget()
    parts: list[tuple[Floats, ...]] = []
    for device, fitted in zip(devices, product(budget.alarms_per_1000_windows / 1000), strict=True):
        assert isinstance(fitted.scorer, DetectorScorer)
        detector = fitted.scorer.detector.with_budget(budget)
        shown = fitted.scorer.seen.show(device.later, len(device.healthy))
        judge = MixtureJudge(detector)
        figures = np.empty((4, len(shown)))
        for number, (row, other) in enumerate(zip(shown, disturb_each(shown), strict=True)):
            began = time.perf_counter()
            figures[0, number], _ = judge.judge(row)
            figures[3, number] = np.log(1e6 * (time.perf_counter() - began))
            figures[2, number] = judge.probe(other)
        figures[1] = detector.make_time_scales().follow(*detector.scores(shown, is_int8=False))
        figures[:3] /= judge.threshold.value
        rows = len(shown) // STRETCH * STRETCH
        parts.append(tuple(figure[:rows].reshape(-1, STRETCH) for figure in figures))
    ratio, ratio_float, disturbed, log_latency = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Rows(ratio=ratio, ratio_float=ratio_float, disturbed=disturbed, log_latency=log_latency)


def play_recordings(folder: Path, sizes: Sequence[int], *, rollouts: int, seed: int) -> Iterator[Trial]:
    """Every release with every size of canary, over the same draws."""
    rows = replay(folder)
    stretches = len(rows.ratio)
    plain = _tell(rows, Replayed(name=""), 0)
    setting = Setting(plan=GatePlan(metrics=METRICS))
    for release in REPLAYED:
        treated = _tell(rows, release, BASELINE)
        tallies = {size: Tally() for size in sizes}
        rng = np.random.default_rng(seed)
        for rollout in range(rollouts):
            fleet = rng.permutation(stretches)[:DEVICES]
            for size in sizes:
                looks = (
                    _arms(plain, treated, fleet, size, f"{seed}-{rollout}", max(1, look // 2))
                    for look in setting.looks
                )
                at, answer = judge_looks(looks, setting)
                tallies[size].add(answer, at=at)
        for size, tally in tallies.items():
            look_s = tuple(60.0 * max(1, look // 2) for look in setting.looks)
            yield Trial(
                method=OURS,
                world="recordings",
                release=release.name,
                canaries=size,
                tally=tally,
                look_s=look_s,
            )


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What devices tell of each minute, (stretches, minutes)."""

    over: NDArray[np.bool_]
    sight: Floats
    log_latency: Floats


def _tell(rows: Rows, release: Replayed, begin: int) -> _Told:
    """With the release from minute `begin` on; the sight is that of the last 200 probes since, one a minute, NaN before there were ten."""
    minutes = np.arange(STRETCH)
    factor = np.where(minutes >= begin, release.threshold, 1.0)
    ratio = np.where(minutes >= begin, rows.ratio_float, rows.ratio) if release.is_float else rows.ratio
    over = ratio > factor
    probes = (rows.disturbed > factor) & ~over
    asked = ~over
    age = minutes - begin
    told = np.where(age >= 0, _last(probes, begin), _last(probes, 0)) / np.maximum(
        np.where(age >= 0, _last(asked, begin), _last(asked, 0)), 1
    )
    enough = np.where(age >= 0, _last(asked, begin), _last(asked, 0)) >= 10
    return _Told(
        over=over,
        sight=np.where(enough, told, np.nan),
        log_latency=rows.log_latency + np.log(release.latency) * (minutes >= begin),
    )


def _last(flags: NDArray[np.bool_], begin: int) -> Floats:
    sums = np.cumsum(flags & (np.arange(STRETCH) >= begin), axis=1).astype(np.float64)
    sums[:, REMEMBERED:] -= sums[:, :-REMEMBERED].copy()
    return sums


def _arms(
    plain: _Told, treated: _Told, fleet: NDArray[np.int64], size: int, label: str, minutes: int
) -> Arms:
    begin = BASELINE + WARM_UP
    before = _shown(plain, fleet, 0, BASELINE)
    canaries = _shown(treated, fleet[:size], begin, begin + minutes)
    controls = _shown(plain, fleet[size:], begin, begin + minutes)
    names = Shown.__dataclass_fields__
    after = {name: np.concatenate([getattr(canaries, name), getattr(controls, name)]) for name in names}
    return Arms(
        devices=tuple(f"{label}-{row}" for row in range(len(fleet))),
        is_canary=np.arange(len(fleet)) < size,
        stratum=np.zeros(len(fleet), np.int64),
        before=before,
        after=Shown(**after),
        placebos=None,
        hazard_events=0.0,
        hazard_hours=BASELINE / 60 * len(fleet),
    )


def _shown(told: _Told, stretches: NDArray[np.int64], begin: int, end: int) -> Shown:
    count = np.full(len(stretches), float(end - begin))
    none, unknown = np.zeros(len(stretches)), np.full(len(stretches), np.nan)
    sight = told.sight[stretches, begin:end]
    known = np.isfinite(sight)
    with np.errstate(invalid="ignore"):
        shares = np.where(known, sight, 0).sum(axis=1) / known.sum(axis=1)
    return Shown(
        hours=count / 60,
        windows=count,
        judged=count,
        over=told.over[stretches, begin:end].sum(axis=1).astype(np.float64),
        log_latency=told.log_latency[stretches, begin:end].mean(axis=1),
        log_drift=unknown,
        memory_slope=unknown,
        sight=shares,
        restarts=none,
        first_event_hours=unknown,
        true_alarms=none,
        false_alarms=none,
    )
