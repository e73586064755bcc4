"""A candidate against the release that runs, on the same live windows: counted here, and judged.

Pure: counts in, a `ShadowReport` out. One machine and some tens of windows cannot say which of two good detectors is better,
and are not asked to: the fleet's gate compares many devices for days. They can say that a candidate is absurd, before it was
ever in charge:

* it **fails**: a window that the champion judged, it cannot. One is enough, as one would end its trial;
* it is **deafening**: of the windows that are calm to the champion it calls more than a tenth anomalies. A device may promise one
  false alarm in a thousand windows; where one in ten is over the threshold an alarm is hardly ever closed, and nobody listens;
* it is **blind**: of the plain disturbances that the champion sees it misses more than half. A champion whose own promise is
  provisional is no measure of that: its level may be low only because few windows support a higher one.

Both limits must be exceeded with certainty: the exact one-sided 99.9 % bound (Clopper and Pearson) of what was counted lies beyond
them, so that of a thousand candidates that are just at the limit one is refused by chance. With 30 windows that is 10 of them, or 16 of
18 disturbances. What one machine cannot tell: whether a candidate that alarms where the champion is calm is deafening, or the
champion blind to a fault that is there. Then the refusal is wrong, and a person reads the counts at the fleet.

Source: C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
Biometrika 26 (1934).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from protocol.messages.kinds import ShadowOutcome
from protocol.messages.payloads import ShadowReport

__all__ = ["ShadowLimits", "Tally", "share_at_least"]

_BISECTIONS: Final = 50
_FEWEST_FOR_RANKS: Final = 5


class ShadowLimits(Struct, frozen=True, kw_only=True):
    """What a candidate may do beside the champion, and how long it is watched.

    Attributes:
        windows: calm windows that are compared.
        extra_share: of calm windows that are anomalies to the candidate alone.
        lost_share: of the disturbances seen by the champion that the candidate misses.
        certainty: with which a limit must be exceeded.
        deferred_after_s: without a comparable window the fleet need not wait, as in a trial.
        give_up_after_s: then the installation goes on without a verdict: what it would end may be the very fault of the
            release that runs, and the trial and the fleet's gate come after.
        busy_after_s: windows came all this time, and none left time for a second judge: none will.
        unlike_windows: of an anomaly or a drift. What lasts so long is no passing event, and the candidate may be what ends it.
        ready_within_s: a candidate that is not fitted by then will not be.
    """

    windows: int = 30
    extra_share: float = 0.1
    lost_share: float = 0.5
    certainty: float = 0.999
    deferred_after_s: float = 120.0
    give_up_after_s: float = 3600.0
    busy_after_s: float = 60.0
    unlike_windows: int = 60
    ready_within_s: float = 300.0


class Tally:
    """What was counted so far, of the windows of so many `sensors`."""

    def __init__(self, champion: str, candidate: str, limits: ShadowLimits, sensors: int) -> None:
        self._champion, self._candidate, self._limits = champion, candidate, limits
        self.sensors = sensors
        self._over = np.zeros((2, 2), np.int64)  # [by the champion, by the candidate]
        self._scores: list[tuple[float, float]] = []
        self._latencies: list[tuple[float, float]] = []
        self._seen = np.zeros((2, 2), np.int64)
        self.skipped = 0

    @property
    def windows(self) -> int:
        """Windows compared."""
        return len(self._scores)

    @property
    def is_full(self) -> bool:
        """Are there as many as were asked for?"""
        return self.windows >= self._limits.windows

    def add(
        self, *, scores: tuple[float, float], over: tuple[bool, bool], latencies_us: tuple[float, float]
    ) -> None:
        """A calm window that both judged: the champion's figure, then the candidate's."""
        self._scores.append(scores)
        self._over[int(over[0]), int(over[1])] += 1
        self._latencies.append(latencies_us)

    def add_probe(self, *, champion_sees: bool, candidate_sees: bool) -> None:
        """A copy of such a window in which one thing was put plainly off."""
        self._seen[int(champion_sees), int(candidate_sees)] += 1

    def failed(self, why: str) -> ShadowReport:
        """The verdict on a candidate that could not judge a window, or could not be made ready."""
        return self._report(ShadowOutcome.REFUSED, f"{self._candidate} cannot judge here: {why}", errors=1)

    def verdict(self, in_the_way: str = "") -> ShadowReport:
        """The verdict on what was counted; `in_the_way` says why it is no more."""
        limits = self._limits
        calm, extra = int(self._over[0].sum()), int(self._over[0, 1])
        seen, lost = int(self._seen[1].sum()), int(self._seen[1, 0])
        if share_at_least(extra, calm, limits.certainty) > limits.extra_share:
            low = share_at_least(extra, calm, limits.certainty)
            return self._report(
                ShadowOutcome.REFUSED,
                f"deafening: {self._candidate} calls {extra} of {calm} windows anomalies that are none to"
                f" {self._champion}; at least {low:.0%} are, and {limits.extra_share:.0%} are allowed",
            )
        if share_at_least(lost, seen, limits.certainty) > limits.lost_share:
            return self._report(
                ShadowOutcome.REFUSED,
                f"blind: of {seen} disturbances that {self._champion} sees, {self._candidate} misses {lost};"
                f" {limits.lost_share:.0%} are allowed",
            )
        if not self.is_full:
            few = f"only {self.windows} of {limits.windows} windows could be compared"
            return self._report(ShadowOutcome.INCONCLUSIVE, f"{few}: {in_the_way}" if in_the_way else few)
        return self._report(
            ShadowOutcome.PASSED, f"{self.windows} windows judged by both, and no absurd difference"
        )

    def _report(self, outcome: ShadowOutcome, note: str, *, errors: int = 0) -> ShadowReport:
        over, seen, calm = self._over, self._seen, int(self._over[0].sum())
        latencies = np.median(self._latencies, axis=0) if self._latencies else (0.0, 0.0)
        return ShadowReport(
            outcome=outcome,
            note=" ".join(note.split())[:300],
            champion=self._champion,
            windows=self.windows,
            skipped=self.skipped,
            errors=errors,
            champion_over=int(over[1].sum()),
            candidate_over=int(over[:, 1].sum()),
            both_over=int(over[1, 1]),
            extra_share_low=share_at_least(int(over[0, 1]), calm, 0.975),
            extra_share_high=1.0 - share_at_least(int(over[0, 0]), calm, 0.975),
            probes=int(seen.sum()),
            champion_seen=int(seen[1].sum()),
            candidate_seen=int(seen[:, 1].sum()),
            rank_correlation=_rank_correlation(np.array(self._scores, np.float64)),
            champion_latency_us=round(float(latencies[0]), 1),
            candidate_latency_us=round(float(latencies[1]), 1),
        )


@lru_cache(maxsize=256)
def share_at_least(count: int, of: int, certainty: float) -> float:
    """The exact lower bound of a share of which `count` were seen among `of`; 0 where there were none.

    >>> round(share_at_least(10, 30, 0.999), 3)
    0.11
    """
    if count <= 0:
        return 0.0
    low, high = 0.0, count / of
    for _ in range(_BISECTIONS):
        share = (low + high) / 2
        low, high = (share, high) if _as_many(count, of, share) < 1 - certainty else (low, share)
    return low


def _as_many(count: int, of: int, share: float) -> float:
    """How probable it is that `count` or more of `of` are seen."""
    return math.fsum(math.comb(of, n) * share**n * (1 - share) ** (of - n) for n in range(count, of + 1))


def _rank_correlation(scores: NDArray[np.float64]) -> float | None:
    if len(scores) < _FEWEST_FOR_RANKS:
        return None
    ranks = np.array([_ranks(scores[:, 0]), _ranks(scores[:, 1])])
    spread = ranks.std(axis=1)
    if not spread.all():
        return None
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    correlation = float((centred[0] * centred[1]).mean() / (spread[0] * spread[1]))
    return round(min(1.0, max(-1.0, correlation)), 3)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0 on; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[place], np.float64)
