"""From scores to alarms: a personal threshold within the fleet's bounds, and a debouncer that speaks once.

The fleet publishes a threshold with each model (`protocol.manifest.ThresholdSpec`); a device may move it to its own
healthy quantile, but only within the published clamp, so that a sick machine cannot teach itself deafness.

Invariants: an alarm opens and closes alternately; thresholds are positive and finite.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.errors import InputError
from protocol.manifest import ThresholdSpec

__all__ = ["AlarmState", "Closed", "Opened", "PersonalThreshold", "personal_threshold"]

FEWEST_PERSONAL_SCORES: Final = 30
"""Below this the published threshold stands: a tail read from fewer scores is mostly luck."""


class PersonalThreshold(Struct, frozen=True, kw_only=True):
    """A device's threshold: the `value` in force, the `wanted` one before the clamp, and the n behind it."""

    value: float
    wanted: float
    fitted_on: int


def personal_threshold(spec: ThresholdSpec, personal_scores: NDArray[np.floating]) -> PersonalThreshold:
    """Move the published threshold to this device's own healthy scores, within the published bounds.

    Args:
        spec: the release's threshold.
        personal_scores: this device's healthy scores under that release, shape (n,), n may be 0.

    Raises:
        InputError: a score is negative or not finite.
    """
    scores = np.asarray(personal_scores, np.float64)
    if not (np.isfinite(scores).all() and (scores >= 0).all()):
        raise InputError("personal scores must be finite and not negative; leave unscored windows out")
    if len(scores) < FEWEST_PERSONAL_SCORES:
        return PersonalThreshold(value=spec.score, wanted=spec.score, fitted_on=len(scores))
    wanted = float(np.quantile(scores, spec.quantile)) * spec.margin
    lowest, highest = spec.personal_minimum * spec.score, spec.personal_maximum * spec.score
    return PersonalThreshold(value=min(max(wanted, lowest), highest), wanted=wanted, fitted_on=len(scores))


class Opened(Struct, frozen=True, kw_only=True):
    """An anomaly begins with this window; `windows_over` of the last ones were over the threshold."""

    score: float
    threshold: float
    windows_over: int = 1


class Closed(Struct, frozen=True, kw_only=True):
    """The anomaly is over: it lasted `windows` windows, `windows_over` of them over the threshold, up to `peak_score`."""

    windows: int
    windows_over: int
    peak_score: float


class AlarmState:
    """Debounces scores: opens once when enough recent windows are over, closes once when enough are clearly under.

    Args:
        opens_after_windows: windows over the threshold, among the last this many + 1, that open an alarm.
        closes_after_windows: windows in a row below `closes_below_share` × threshold that close it.
        closes_below_share: hysteresis in (0, 1].

    Attributes:
        is_open: is an anomaly going on?
        windows: windows of the anomaly that goes on, or that went on last.
        windows_over: those of them over the threshold.
        peak_score: the largest score of them.

    >>> alarm = AlarmState(opens_after_windows=2, closes_after_windows=1)
    >>> [type(alarm.update(score, threshold=1.0)).__name__ for score in (0.2, 1.3, 0.4, 1.5, 1.1, 0.3)]
    ['NoneType', 'NoneType', 'NoneType', 'Opened', 'NoneType', 'Closed']
    """

    def __init__(
        self, *, opens_after_windows: int = 2, closes_after_windows: int = 5, closes_below_share: float = 0.9
    ) -> None:
        if opens_after_windows < 1 or closes_after_windows < 1 or not 0 < closes_below_share <= 1:
            raise ValueError(
                "alarm settings must be opens_after_windows ≥ 1, closes_after_windows ≥ 1 and 0 < closes_below_share ≤ 1, "
                f"got {opens_after_windows}, {closes_after_windows}, {closes_below_share}"
            )
        self._opens_after, self._closes_after = opens_after_windows, closes_after_windows
        self._closes_below_share = closes_below_share
        self._recent: deque[bool] = deque(maxlen=opens_after_windows + 1)
        self._calm = self.windows = self.windows_over = 0
        self.peak_score = 0.0
        self.is_open = False

    def update(self, score: float, threshold: float) -> Opened | Closed | None:
        """Judge one window; at most one event a window. A NaN score counts as over: a broken model must be heard."""
        over = not score <= threshold
        if not self.is_open:
            self._recent.append(over)
            if over and sum(self._recent) >= self._opens_after:
                self.resume(windows=1, windows_over=1, peak_score=score)
                return Opened(score=score, threshold=threshold, windows_over=sum(self._recent))
            return None
        self.windows += 1
        self.windows_over += over
        self.peak_score = max(self.peak_score, score)
        self._calm = self._calm + 1 if score < self._closes_below_share * threshold else 0
        if self._calm < self._closes_after:
            return None
        closed = Closed(windows=self.windows, windows_over=self.windows_over, peak_score=self.peak_score)
        self.reset()
        return closed

    def resume(self, *, windows: int, windows_over: int, peak_score: float) -> None:
        """Go on with an anomaly that was open, after a restart."""
        self.is_open, self._calm = True, 0
        self.windows, self.windows_over, self.peak_score = windows, windows_over, peak_score

    def open_after(self, windows: int) -> None:
        """Open after another number of `windows` from now on; an anomaly that goes on goes on."""
        if windows != self._opens_after:
            self._opens_after, self._recent = windows, deque(maxlen=windows + 1)

    def reset(self) -> None:
        """Forget everything, e.g. after a new release went live."""
        self.is_open = False
        self._recent.clear()
