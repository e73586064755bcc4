"""The product's own detection (`models.detection`), put together from healthy rows as a fleet would by its sums.

    local       each device alone: own scale, covariance and openings curve, no prior
    federated   what the fleet knows judges: its prior, and of the device its scale alone
    mixed       the product: the fleet is the prior, the device the evidence
    pooled      all rows in one place, one scale and one detector for all: what federation is to be compared with

Each before quantisation (float) and as it runs (int8). Rows with gaps are left out of fitting; where one is judged, what is missing counts as
the mean. Rows are seen in their context (`seen`), except by the pooled detector. Nothing is random, and nothing is set: budget and rules are the defaults but for the promise that is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detection_tables.alarms import AlarmRule
from detection_tables.devices import Device
from detection_tables.methods import Judge, Method, Promised
from detection_tables.seen import Seen, see
from models.detection.detector import Detector, fit_detector
from models.detection.openings import AlarmRules
from models.detection.prior import FleetPrior, fleet_prior
from models.detection.promise import AlarmBudget
from models.detection.scale import with_fleet_scale
from models.standardiser import Standardiser, fit_standardiser

__all__ = ["CONTEXTS", "PRODUCT", "DetectorScorer"]

Floats = NDArray[np.floating]
Rows = NDArray[np.float32]
Detectors: TypeAlias = Callable[[AlarmBudget], list[Detector]]
"""A detector for each device under a budget."""


class Fitted(NamedTuple):
    """What devices see, a detector for each, and for those whose profile may be switched off the same without one."""

    seen: list[Seen]
    detectors: Detectors
    unprofiled: dict[int, tuple[Seen, Detector]]


Fit: TypeAlias = Callable[[Sequence[Device]], Fitted]

RULES: Final = AlarmRules()
RULE: Final = AlarmRule(
    # Two of three windows is part of the statistic.
    opens_after_windows=1,
    closes_after_windows=RULES.closes_after_windows,
    closes_below_share=RULES.closes_below_share,
    again_after_windows=RULES.again_after_windows,
)


@dataclass(frozen=True, kw_only=True)
class DetectorScorer:
    """One device's detector behind its scale and its context; `unprofiled` takes over where the guard of its profile says so."""

    seen: Seen
    detector: Detector
    is_int8: bool
    unprofiled: tuple[Seen, Detector] | None = None
    is_timed: bool = True

    def window_scores(self, rows: Rows, starts: Sequence[int], first: int = 0) -> Floats:
        """See `methods.Scorer`."""
        return self._scores(rows, starts, first, is_timed=False)

    def timed_scores(self, rows: Rows, starts: Sequence[int], first: int = 0) -> Floats:
        """See `methods.Scorer`."""
        return self._scores(rows, starts, first, is_timed=True)

    def _scores(self, rows: Rows, starts: Sequence[int], first: int, *, is_timed: bool) -> Floats:
        ends = self.seen.profile_ends(rows, first) if self.unprofiled is not None else len(rows)
        scores = _follow(
            self.detector, self.seen.show(rows, first), starts, is_int8=self.is_int8, is_timed=is_timed
        )
        if self.unprofiled is not None and ends < len(rows):
            seen, detector = self.unprofiled
            instead = _follow(
                detector, seen.show(rows, first), starts, is_int8=self.is_int8, is_timed=is_timed
            )
            # In units of its own threshold.
            ratio = self.detector.promise.threshold / detector.promise.threshold
            scores[ends:] = ratio * instead[ends:]
        return scores


def _follow(
    detector: Detector, shown: Rows, starts: Sequence[int], *, is_int8: bool, is_timed: bool
) -> Floats:
    scores, furthest = detector.scores(shown, is_int8=is_int8)
    if not is_timed:
        return scores
    return np.concatenate(
        [
            detector.make_time_scales().follow(scores[begin:end], furthest[begin:end])
            for begin, end in pairwise([*starts, len(scores)])
        ]
    )


def _fit_local(devices: Sequence[Device]) -> Fitted:
    return _fit_all(devices, [fit_standardiser(device.healthy) for device in devices], None)


def _fit_fleet(devices: Sequence[Device], *, knows_own: bool, in_context: bool = True) -> Fitted:
    scales = [fit_standardiser(device.healthy) for device in devices]
    seen = [see(*pair, in_context=in_context) for pair in zip(devices, scales, strict=True)]
    prior = fleet_prior([(one.rows, one.unit) for one in seen], RULES)
    # As the agent does: a sensor that did not move here is judged by how far it moves elsewhere.
    scales = [with_fleet_scale(scale, prior.scale) for scale in scales]
    return _fit_all(devices, scales, prior, knows_own=knows_own, in_context=in_context)


def _fit_all(
    devices: Sequence[Device],
    scales: Sequence[Standardiser],
    prior: FleetPrior | None,
    *,
    knows_own: bool = True,
    in_context: bool = True,
) -> Fitted:
    def fit(one: Seen, budget: AlarmBudget) -> Detector:
        return fit_detector(one.rows, one.unit, prior, budget, RULES, knows_own=knows_own)

    seen = [see(*pair, in_context=in_context) for pair in zip(devices, scales, strict=True)]
    unprofiled = {
        place: (plain := see(device, scale, has_profile=False), fit(plain, AlarmBudget()))
        for place, (device, scale, one) in enumerate(zip(devices, scales, seen, strict=True))
        if one.context is not None and one.context.profile is not None
    }
    return Fitted(seen, lambda budget: [fit(one, budget) for one in seen], unprofiled)


def _fit_pooled(devices: Sequence[Device]) -> Fitted:
    scale = fit_standardiser(np.concatenate([device.healthy for device in devices]))
    seen = [see(device, scale, in_context=False) for device in devices]
    rows = np.concatenate([one.rows for one in seen])

    def detectors(budget: AlarmBudget) -> list[Detector]:
        return [fit_detector(rows, scale.scale, None, budget, RULES)] * len(devices)

    return Fitted(seen, detectors, {})


def _methods(name: str, fit: Fit) -> tuple[Method, ...]:
    """In float and in int8, which share what is fitted as long as they follow on each other."""

    @lru_cache(maxsize=1)
    def fit_once(devices: tuple[Device, ...]) -> Fitted:
        seen, detectors, unprofiled = fit(devices)
        return Fitted(seen, cache(detectors), unprofiled)

    return tuple(_method(name, fit_once, kind) for kind in ("float", "int8"))


def _method(name: str, fit: Callable[[tuple[Device, ...]], Fitted], kind: str) -> Method:
    def fit_all(devices: Sequence[Device], _: int) -> Promised:
        seen, detectors_of, unprofiled = fit(tuple(devices))
        # A budget moves the threshold and no score, so one scorer serves them all.
        scorers = [
            DetectorScorer(
                seen=one, detector=detector, is_int8=kind == "int8", unprofiled=unprofiled.get(place)
            )
            for place, (one, detector) in enumerate(zip(seen, detectors_of(AlarmBudget()), strict=True))
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

CONTEXTS: Final = tuple(
    _methods(name, fit)[1]
    for name, fit in (
        (
            "mixed without context",
            lambda devices: _fit_fleet(devices, knows_own=True, in_context=False),
        ),
        ("mixed", lambda devices: _fit_fleet(devices, knows_own=True)),
    )
)
"""What a profile and regimes are worth: the product as it runs without and with them."""
