"""What reference recordings say together: the prior of version 1, each recording a device, and what a device will see with it.

rows of each recording, standardised by its own first ─► `models.detection.fleet_prior` ─► prior.bin
                  four fifths of them, and the prior ─► detector ─► the last fifth, slightly disturbed ─► sight
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.detection.detector import FEWEST_ROWS, Detector, fit_detector
from models.detection.openings import AlarmRules
from models.detection.prior import FleetPrior, fleet_prior
from models.detection.promise import AlarmBudget
from models.sight import Probed, disturb_each
from runtime.errors import SettingsError

__all__ = ["MixtureSight", "Recording", "mixture_sight", "prior_of"]

Recording = tuple[NDArray[np.float32], NDArray[np.float64]]
"""Standardised rows (n, F) in the order of time, and what one is in the sensor's own units (F,)."""

_HELD_OUT: Final = 5
"""The last fifth is never fitted on: as far as the promise of a detector reaches."""


def prior_of(recordings: Sequence[Recording]) -> FleetPrior:
    """The prior of recordings of at least 20 rows; shorter ones are left out.

    Raises:
        SettingsError: there is none so long.
    """
    long = [recording for recording in recordings if len(recording[0]) >= FEWEST_ROWS]
    if not long:
        raise SettingsError(
            f"no recording has {FEWEST_ROWS} rows, from which a fleet's prior can be made; record more, or set"
            ' detector = "network"'
        )
    return fleet_prior(long, AlarmRules())


class MixtureSight(NamedTuple):
    """Shares of slightly disturbed windows, in [0, 1]: over the threshold in force at first, and over what healthy windows hardly exceed.

    Between the two lies what few windows cost: a promise is kept with care where little was counted, and the threshold comes down
    with each run that counts more. What more windows cannot cure is the second.
    """

    in_force: float
    at_most: float


def mixture_sight(recordings: Sequence[Recording], prior: FleetPrior) -> MixtureSight:
    """How much of slight disturbances a device will see with the default budget.

    A disturbance lasts two windows, the shortest event that matters by default; what the averages over more would add is left out.
    """
    found = [_probe(rows, unit, prior) for rows, unit in recordings]
    shares = (
        Probed(sum(p.seen for p in side), sum(p.probes for p in side)).share
        for side in zip(*found, strict=True)
    )
    return MixtureSight(*shares)


def _probe(rows: NDArray[np.float32], unit: NDArray[np.float64], prior: FleetPrior) -> tuple[Probed, Probed]:
    fitted, held_out = np.split(rows, [len(rows) - len(rows) // _HELD_OUT])
    if len(fitted) < FEWEST_ROWS or len(held_out) < 2:
        return Probed(0, 0), Probed(0, 0)
    detector = fit_detector(fitted, unit, prior, AlarmBudget(), AlarmRules())
    before, now = held_out[:-1], held_out[1:]
    calm, disturbed = (
        _lasting(detector, *two) for two in ((before, now), (disturb_each(before), disturb_each(now)))
    )

    def seen(level: float) -> Probed:
        is_calm = calm <= level
        return Probed(int((is_calm & (disturbed > level)).sum()), int(is_calm.sum()))

    return seen(detector.promise.threshold), seen(1.0)


def _lasting(
    detector: Detector, before: NDArray[np.float32], now: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The statistic (n,) of two windows in a row, over in both: what the first time scale asks for."""
    scores = np.minimum(np.transpose(detector.scores(before)), np.transpose(detector.scores(now)))
    lasting = detector.make_time_scales().lasting
    return np.array([lasting(*window) for window in scores.tolist()])
