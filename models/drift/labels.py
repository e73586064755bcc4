"""Concept drift: do the detector's alarms still mean what they meant? Asked where people say which of them were true.

::

    verdict on an alarm ─► error: 0 true, 1 false ─┬─► Page–Hinkley ──────────────┐
    (weeks later, few)                             ├─► ADWIN ─────────────────────┼─► drifted, until the precision
                                                   └─► drop of > 5 % since the    ┘   is back at its baseline
                                                       first verdicts

The other drift detectors look at inputs, and see a change whether it matters or not; this one looks at what matters and
sees it late. Only alarms are judged, so it speaks of precision; missed faults have no verdict here.

Invariants: pure and cheap, so the state is the list of verdicts itself and is computed anew from it; precision is in
[0, 1]; drift is told only for alarms that got worse.

Source for the interval: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
(1927).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import Struct

from models.drift.adwin import Adwin
from models.drift.page_hinkley import PageHinkley

__all__ = ["PrecisionSettings", "PrecisionState", "PrecisionWatch", "watch_precision", "wilson_bound"]


class PrecisionSettings(Struct, frozen=True, kw_only=True):
    """How a stream of verdicts is watched.

    The first `baseline` verdicts say how precise alarms were; the last `recent` say how precise they are. A drop counts
    when it exceeds `tolerance` of the baseline and `confidence_z` standard errors, so that one unlucky week is none.
    """

    baseline: int = 30
    recent: int = 30
    tolerance: float = 0.05
    confidence_z: float = 1.645
    page_hinkley_limit: float = 8.0
    adwin_delta: float = 0.002


@dataclass(frozen=True, kw_only=True)
class PrecisionState:
    """What the verdicts say so far.

    `judged` alarms of which `true_alarms` were true; `baseline` and `recent` are shares, None before there are enough.
    `drifted_at` is the index of the verdict with which the present drift began, None when there is none; `found_by` then
    names the detectors that said so, in the order in which they did.
    """

    judged: int
    true_alarms: int
    baseline: float | None
    recent: float | None
    drifted_at: int | None
    found_by: tuple[str, ...]

    @property
    def precision(self) -> float | None:
        """Share of true alarms among all judged ones; None without any."""
        return self.true_alarms / self.judged if self.judged else None


class PrecisionWatch:
    """One stream of verdicts, e.g. of one release."""

    def __init__(self, settings: PrecisionSettings | None = None) -> None:
        self._settings = settings or PrecisionSettings()
        self._page_hinkley = PageHinkley(limit=self._settings.page_hinkley_limit)
        self._adwin = Adwin(delta=self._settings.adwin_delta)
        self._first: list[bool] = []
        self._last: deque[bool] = deque(maxlen=self._settings.recent)
        self._judged = self._true = 0
        self._drifted_at: int | None = None
        self._found_by: list[str] = []

    def update(self, *, is_true_alarm: bool) -> None:
        """Add one verdict, in the order in which they were given."""
        if len(self._first) < self._settings.baseline:
            self._first.append(is_true_alarm)
        self._last.append(is_true_alarm)
        self._judged += 1
        self._true += is_true_alarm
        error = 0.0 if is_true_alarm else 1.0
        earlier = self._adwin.mean
        found = {
            "page-hinkley": self._page_hinkley.update(error),
            "adwin": self._adwin.update(error) and self._adwin.mean > earlier,
            "drop": self._has_dropped(),
        }
        fired = [name for name, has_fired in found.items() if has_fired and name not in self._found_by]
        if fired:
            self._drifted_at = self._judged - 1 if self._drifted_at is None else self._drifted_at
            self._found_by += fired
        elif self._drifted_at is not None and self._is_back():
            self._drifted_at, self._found_by = None, []

    def state(self) -> PrecisionState:
        """What the verdicts say so far."""
        return PrecisionState(
            judged=self._judged,
            true_alarms=self._true,
            baseline=self._baseline(),
            recent=_share(self._last) if len(self._last) == self._settings.recent else None,
            drifted_at=self._drifted_at,
            found_by=tuple(self._found_by),
        )

    def _baseline(self) -> float | None:
        return _share(self._first) if len(self._first) == self._settings.baseline else None

    def _has_dropped(self) -> bool:
        baseline, settings = self._baseline(), self._settings
        if baseline is None or self._judged < settings.baseline + settings.recent:
            return False
        best = wilson_bound(sum(self._last), len(self._last), settings.confidence_z)
        # The baseline is no truth either: its own doubt is taken off.
        doubt = settings.confidence_z * math.sqrt(baseline * (1 - baseline) / settings.baseline)
        return best < (1 - settings.tolerance) * baseline - doubt / 2

    def _is_back(self) -> bool:
        baseline = self._baseline()
        if baseline is None or self._drifted_at is None:
            return False
        has_enough = self._judged - self._drifted_at > self._settings.recent
        return has_enough and _share(self._last) >= (1 - self._settings.tolerance) * baseline


def watch_precision(verdicts: Iterable[bool], settings: PrecisionSettings | None = None) -> PrecisionState:
    """The state after a whole stream of verdicts (True: the alarm was true), in the order in which they were given."""
    watch = PrecisionWatch(settings)
    for verdict in verdicts:
        watch.update(is_true_alarm=verdict)
    return watch.state()


def wilson_bound(successes: int, trials: int, z: float) -> float:
    """The largest share that `successes` of `trials` are compatible with, `z` standard errors upwards."""
    share = successes / trials
    centre = share + z**2 / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return (centre + reach) / (1 + z**2 / trials)


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values)
