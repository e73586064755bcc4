"""The product's own detection (`models.detection`), put together from healthy rows as a fleet would by its sums.

    local       each device alone: own scale, covariance and openings curve, no prior
    federated   what the fleet knows judges: its prior, and of the device its scale alone
    mixed       the product: the fleet is the prior, the device the evidence
    pooled      all rows in one place, one scale and one detector for all: what federation is to be compared with

Each before quantisation (float) and as it runs (int8). Rows with gaps are left out of fitting; where one is judged, what is missing counts as
the mean. Nothing is random, and nothing is set: budget and rules are the defaults but for the promise that is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detection_tables.alarms import AlarmRule
from detection_tables.devices import Device
from detection_tables.methods import Judge, Method, Promised
from models.detection.detector import Detector, fit_detector
from models.detection.openings import AlarmRules
from models.detection.prior import fleet_prior
from models.detection.promise import AlarmBudget
from models.detection.scale import with_fleet_scale
from models.standardiser import Standardiser, fit_standardiser

__all__ = ["PRODUCT"]

Floats = NDArray[np.floating]
Rows = NDArray[np.float32]
Fitted: TypeAlias = tuple[list[Standardiser], Callable[[AlarmBudget], list[Detector]]]
Fit: TypeAlias = Callable[[Sequence[Device]], Fitted]
"""Devices → their scales, and a detector for each under a budget."""

RULES: Final = AlarmRules()
RULE: Final = AlarmRule(
    # Two of three windows is part of the statistic.
    opens_after_windows=1,
    closes_after_windows=RULES.closes_after_windows,
    closes_below_share=RULES.closes_below_share,
    again_after_windows=RULES.again_after_windows,
)


@dataclass(frozen=True, kw_only=True)
class _DetectorScorer:
    """One device's detector behind its scale."""

    scale: Standardiser
    detector: Detector
    is_int8: bool
    is_timed: bool = True

    def window_scores(self, rows: Rows, _: Sequence[int]) -> Floats:
        """See `methods.Scorer`."""
        return self._scores(rows)[0]

    def timed_scores(self, rows: Rows, starts: Sequence[int]) -> Floats:
        """See `methods.Scorer`."""
        scores, furthest = self._scores(rows)
        return np.concatenate(
            [
                self.detector.make_time_scales().follow(scores[begin:end], furthest[begin:end])
                for begin, end in pairwise([*starts, len(scores)])
            ]
        )

    def _scores(self, rows: Rows) -> tuple[Floats, Floats]:
        return self.detector.scores(np.nan_to_num(self.scale.apply(rows)), is_int8=self.is_int8)


def _whole(scale: Standardiser, device: Device) -> Rows:
    rows = scale.apply(device.healthy)
    return rows[np.isfinite(rows).all(axis=1)]


def _own_scales(devices: Sequence[Device]) -> tuple[list[Standardiser], list[Rows]]:
    scales = [fit_standardiser(device.healthy) for device in devices]
    return scales, [_whole(scale, device) for scale, device in zip(scales, devices, strict=True)]


def _fit_local(
    devices: Sequence[Device],
) -> Fitted:
    scales, fleet = _own_scales(devices)
    return scales, lambda budget: [
        fit_detector(rows, scale.scale, None, budget, RULES)
        for scale, rows in zip(scales, fleet, strict=True)
    ]


def _fit_fleet(devices: Sequence[Device], *, knows_own: bool) -> Fitted:
    scales, fleet = _own_scales(devices)
    prior = fleet_prior([(rows, scale.scale) for scale, rows in zip(scales, fleet, strict=True)], RULES)
    # As the agent does: a sensor that did not move here is judged by how far it moves elsewhere.
    scales = [with_fleet_scale(scale, prior.scale) for scale in scales]
    fleet = [_whole(scale, device) for scale, device in zip(scales, devices, strict=True)]
    return scales, lambda budget: [
        fit_detector(rows, scale.scale, prior, budget, RULES, knows_own=knows_own)
        for scale, rows in zip(scales, fleet, strict=True)
    ]


def _fit_pooled(
    devices: Sequence[Device],
) -> Fitted:
    scale = fit_standardiser(np.concatenate([device.healthy for device in devices]))
    rows = np.concatenate([_whole(scale, device) for device in devices])

    def detectors(budget: AlarmBudget) -> list[Detector]:
        return [fit_detector(rows, scale.scale, None, budget, RULES)] * len(devices)

    return [scale] * len(devices), detectors


def _methods(name: str, fit: Fit) -> tuple[Method, ...]:
    """In float and in int8, which share what is fitted as long as they follow on each other."""

    @lru_cache(maxsize=1)
    def fit_once(devices: tuple[Device, ...]) -> Fitted:
        scales, detectors_of = fit(devices)
        return scales, cache(detectors_of)

    return tuple(_method(name, fit_once, kind) for kind in ("float", "int8"))


def _method(name: str, fit: Callable[[tuple[Device, ...]], Fitted], kind: str) -> Method:
    def fit_all(devices: Sequence[Device], _: int) -> Promised:
        scales, detectors_of = fit(tuple(devices))
        # A budget moves the threshold and no score, so one scorer serves them all.
        scorers = [
            _DetectorScorer(scale=scale, detector=detector, is_int8=kind == "int8")
            for scale, detector in zip(scales, detectors_of(AlarmBudget()), strict=True)
        ]

        def judges(promise: float) -> list[Judge]:
            detectors = detectors_of(AlarmBudget(alarms_per_1000_windows=1000 * promise))
            return [
                Judge(
                    scorer=scorer,
                    threshold=detector.promise.threshold,
                    rule=RULE,
                    is_provisional=detector.promise.is_provisional,
                    horizon=detector.promise.horizon_windows,
                    supported=detector.promise.text,
                )
                for scorer, detector in zip(scorers, detectors, strict=True)
            ]

        return judges

    return Method(name=f"{name}, {kind}", fit=fit_all)


PRODUCT: Final = tuple(
    method
    for name, fit in (
        ("local", _fit_local),
        ("federated", lambda devices: _fit_fleet(devices, knows_own=False)),
        ("mixed", lambda devices: _fit_fleet(devices, knows_own=True)),
        ("pooled", _fit_pooled),
    )
    for method in _methods(name, fit)
)
