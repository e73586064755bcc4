"""Restarts, crashes and silence: whether canaries have their first one sooner than controls, and sooner than the fleet ever had.

Two e-values, which may be watched all the time: each is a wager against a harmless release whose mean stays below 1, so it
exceeds 1/α with probability α at most, whenever one stops (Ville 1939). Both bet on a hazard of 4, 20 or 100 times.

    against controls   mean over θ of Π θ^[is canary] (A + C) / (θA + C), a factor for each first event, A and C still without one
    against the past   mean over θ of θ^events exp(−(θ − 1) h₀ hours), h₀ the upper 95 % bound of the fleet's past hazard

A power cut restarts both arms, so the past alone would stop a good release; a bad day of the fleet is in both arms too, so controls
alone need many events. A release is stopped where the past says so at its full level and controls agree (E ≥ 10), and never for
one machine: only first events count, of at least two canaries.

Sources: ter Schure et al., "The anytime-valid logrank test", 2024 (arXiv:2011.06931); Lindon et al., "Anytime-valid inference
for multinomial count data", 2022. Upper bound: Wilson & Hilferty 1931.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.gates.arms import Shown
from fleet.gates.scores import log_choices

__all__ = [
    "HARMED_SHARE",
    "binomial_tail",
    "history_e",
    "logrank_e",
    "mean_of_exponentials",
    "time_at_risk",
    "upper_hazard",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

HARMED_SHARE: Final = 0.25
"""A release passes where it is excluded that so many of its devices restart, crash or fall silent within the soak."""

_BETS: Final = (4.0, 20.0, 100.0)


def time_at_risk(shown: Shown) -> tuple[Floats, Bools]:
    """(n,) hours until the first event, or that were watched without one, and whether there was one.

    NaN hours for a device of which nothing is known.
    """
    has_event = np.isfinite(shown.first_event_hours)
    watched = np.where(shown.hours > 0, shown.hours, np.nan)
    return np.where(has_event, shown.first_event_hours, watched), has_event


def logrank_e(hours: Floats, has_event: Bools, is_canary: Bools) -> float:
    """E-value of first events against equal hazards of the arms; 1 without an event. Arguments (n,); NaN hours are left out."""
    known = np.isfinite(hours)
    hours, has_event, is_canary = hours[known], has_event[known], is_canary[known]
    logs = np.zeros(len(_BETS))
    ends_canary, ends_control = np.sort(hours[is_canary]), np.sort(hours[~is_canary])
    for moment in np.unique(hours[has_event]):
        canaries = len(ends_canary) - int(np.searchsorted(ends_canary, moment, side="left"))
        controls = len(ends_control) - int(np.searchsorted(ends_control, moment, side="left"))
        now = has_event & (hours == moment)
        hit, events = int((now & is_canary).sum()), int(now.sum())
        logs += [_log_factor(bet, canaries, controls, hit, events) for bet in _BETS]
    return mean_of_exponentials(logs)


def _log_factor(bet: float, canaries: int, controls: int, hit: int, events: int) -> float:
    """Log likelihood ratio of `hit` canaries among `events` at one moment: Fisher's non-central hypergeometric."""
    if events == 1:
        return hit * math.log(bet) + math.log((canaries + controls) / (bet * canaries + controls))
    possible = range(max(0, events - controls), min(canaries, events) + 1)
    ways = np.array([log_choices(canaries, k) + log_choices(controls, events - k) for k in possible])
    tilted = ways + np.log(bet) * np.array(possible)
    return hit * math.log(bet) + float(np.logaddexp.reduce(ways) - np.logaddexp.reduce(tilted))


def history_e(events: float, hours: float, hazard: float) -> float:
    """E-value of so many first events in so many device hours against `hazard` an hour or less."""
    if hazard <= 0 or (hours <= 0 and not events):
        return 1.0
    return mean_of_exponentials(
        np.array([events * math.log(bet) - (bet - 1) * hazard * hours for bet in _BETS])
    )


def mean_of_exponentials(logs: Floats | Sequence[float]) -> float:
    """The e-value of bets made side by side, from the logarithm of each; never infinite."""
    return float(np.exp(min(700.0, float(np.logaddexp.reduce(logs)) - math.log(len(logs)))))


def upper_hazard(events: float, hours: float) -> float:
    """The upper 95 % bound of a hazard an hour, after `events` in `hours`; infinite where nothing was watched.

    Example:
        >>> round(upper_hazard(0, 100), 3)
        0.03
    """
    if hours <= 0:
        return math.inf
    more = events + 1
    return float(more * (1 - 1 / (9 * more) + 1.6449 / (3 * math.sqrt(more))) ** 3 / hours)


def binomial_tail(events: int, devices: int, share: float) -> float:
    """P(at most `events` of `devices`) where each has one with probability `share`."""
    return min(
        1.0,
        sum(
            math.exp(log_choices(devices, k) + k * math.log(share) + (devices - k) * math.log1p(-share))
            for k in range(events + 1)
        ),
    )
