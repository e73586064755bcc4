"""Sight: of what a detector ought to see, how much does it see? The one figure that a deaf detector cannot pass.

All other gates are upper bounds (false alarms, loss, int8 error): a model that never alarms keeps every one. So healthy
windows are disturbed, the detector scores them, and the share over the threshold in force is its sight:

    healthy row ─► one sensor, in turn, by ±3 of its sd ─► score ─► over the threshold? ─► share
                   after the last sensor once ±3 sd along the first principal direction

The sign changes with every round of sensors, for a detector may be deaf on one side only. The principal direction is
what sensors do together, where a model that only learnt to copy sees nothing. Windows over the threshold as they are
tell nothing, and are not disturbed.

`probe` is for whoever has many rows (a release, a learner); `SightMeter` for a device, one disturbance at a time.
Neither knows a clock, and neither changes what it is given.

Invariants: a share lies in [0, 1]; disturbed rows stay within ±`CLIP`, as all rows that a model sees.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.standardiser import CLIP

__all__ = ["SHIFT_SDS", "Probed", "SightMeter", "disturb_each", "principal_direction", "probe", "sight"]

SHIFT_SDS: Final = 3.0
"""What a person would call plainly off: one healthy value in 400 lies further out."""

REMEMBERED_PROBES: Final = 200
"""A share of 200 is known within ± 7 points, and at ten probes a minute it is of the last twenty minutes."""

FEWEST_PROBES: Final = 10
"""A share of fewer is luck, and speaks of the first sensors only."""

_POWER_STEPS: Final = 30
"""Enough for a leading direction that leads; where two are equal, either is as good."""

Float = NDArray[np.float32]
Floats = NDArray[np.floating]


class Probed(NamedTuple):
    """`seen` of `probes` disturbed windows were over the threshold. Both add up over devices."""

    seen: int
    probes: int

    @property
    def share(self) -> float:
        """The sight; 0 where nothing could be probed, for then nothing was shown to be seen."""
        return self.seen / self.probes if self.probes else 0.0


def sight(
    score_rows: Callable[[Float], Floats], rows: Floats, threshold: float, *, sensors: int | None = None
) -> float:
    """The share of disturbed rows over `threshold`, in [0, 1]; arguments as of `probe`."""
    return probe(score_rows, rows, threshold, sensors=sensors).share


def probe(
    score_rows: Callable[[Float], Floats], rows: Floats, threshold: float, *, sensors: int | None = None
) -> Probed:
    """Disturb each row in one way, all ways in turn, and count what is seen; few rows are used more than once.

    Args:
        score_rows: anomaly scores (m,) of standardised rows (m, F).
        rows: healthy windows in this machine's own units (n, F); those over the threshold are left out.
        threshold: the one in force.
        sensors: how many sensors a row is of, where it holds several samples of each, sample by sample; default F.
    """
    x = np.asarray(rows, np.float32)
    if not len(x):
        return Probed(0, 0)
    calm = x[np.asarray(score_rows(x)) <= threshold]
    if not len(calm):
        return Probed(0, 0)
    count = sensors or x.shape[1]
    # Two rounds at least: every sensor once upwards and once downwards.
    numbers = np.arange(max(len(calm), 2 * (count + 1)))
    disturbed = _disturbed(calm[numbers % len(calm)], numbers, principal_direction(calm), count)
    seen = ~(np.asarray(score_rows(disturbed)) <= threshold)
    return Probed(int(np.count_nonzero(seen)), len(numbers))


def disturb_each(rows: Floats, *, sensors: int | None = None, first: int = 0) -> Float:
    """Each row (n, F) disturbed once, the ways in turn from number `first`: for a sum whose threshold is known only after it.

    Sums of what they score are a `Probed` as soon as there is a threshold; rows that are over it by themselves are among them.
    """
    x = np.asarray(rows, np.float32)
    count = sensors or x.shape[1]
    # Two rounds are all ways; a larger number begins within them.
    numbers = first % (2 * (count + 1)) + np.arange(len(x))
    return _disturbed(x, numbers, principal_direction(x), count)


def principal_direction(rows: Floats) -> Float:
    """The direction (F,) in which rows (n, F) vary most, as long as one sd of theirs along it; 0 for fewer than two."""
    x = np.asarray(rows, np.float32)
    if len(x) < 2:
        return np.zeros(x.shape[-1], np.float32)
    x = x - x.mean(axis=0)
    direction = x[int(np.argmax(np.square(x).sum(axis=1)))]
    for _ in range(_POWER_STEPS):
        length = math.sqrt(float(direction @ direction))
        if length == 0.0:
            return np.zeros(x.shape[1], np.float32)
        direction = x.T @ (x @ (direction / length)) / (len(x) - 1)
    # The last step made it as long as the variance along it.
    return np.asarray(direction / max(float(direction @ direction) ** 0.25, 1e-12), np.float32)


class SightMeter:
    """One device's sight over its last probes, under the model and threshold in force.

    Args:
        sensors: how many sensors a row is of.
        remembered: probes that count; at least a round of all sensors.
    """

    def __init__(self, sensors: int, *, remembered: int = REMEMBERED_PROBES) -> None:
        self._sensors = sensors
        self._seen: deque[bool] = deque(maxlen=max(remembered, sensors + 1))
        self._number = 0
        self._direction: Float | None = None

    @property
    def share(self) -> float | None:
        """The sight, in [0, 1]; None before there were ten probes."""
        return sum(self._seen) / len(self._seen) if len(self._seen) >= FEWEST_PROBES else None

    @property
    def is_aimed(self) -> bool:
        """Does it know the principal direction?"""
        return self._direction is not None

    def aim(self, rows: Floats) -> None:
        """Take the principal direction from healthy rows (n, F), n may be 0."""
        self._direction = principal_direction(rows)

    def reset(self) -> None:
        """Another model or threshold is in force: what the one before saw is no figure of this one."""
        self._seen.clear()
        self._direction = None

    def probe(
        self,
        score_row: Callable[[Float], float],
        row: Float,
        threshold: float,
        *,
        missing: NDArray[np.bool_] | None = None,
    ) -> None:
        """Disturb the latest window (F,), which is not over the threshold, in the next way and note what is seen.

        Args:
            score_row: the anomaly score of one row.
            row: standardised.
            threshold: the one in force.
            missing: sensors (S,) that deliver nothing: what happens to them cannot be seen.
        """
        number, self._number = self._number, self._number + 1
        sensor = number % (self._sensors + 1)
        if missing is not None and sensor < self._sensors and missing[sensor]:
            self._seen.append(False)
            return
        direction = self._direction if self._direction is not None else np.zeros(len(row), np.float32)
        disturbed = _disturbed(row[None, :], np.array([number]), direction, self._sensors)[0]
        self._seen.append(not score_row(disturbed) <= threshold)


def _disturbed(rows: Floats, numbers: NDArray[np.integer], direction: Float, sensors: int) -> Float:
    """Row i (of m, F) in way `numbers`[i]; a new array."""
    disturbed = np.array(rows, np.float32)
    rounds, way = np.divmod(numbers, sensors + 1)
    shift = np.where(rounds % 2, -SHIFT_SDS, SHIFT_SDS).astype(np.float32)
    alone = np.flatnonzero(way < sensors)
    # A sensor's samples are `sensors` values apart.
    disturbed.reshape(len(rows), -1, sensors)[alone, :, way[alone]] += shift[alone, None]
    together = np.flatnonzero(way == sensors)
    disturbed[together] += shift[together, None] * direction
    return np.clip(disturbed, -CLIP, CLIP, out=disturbed)
