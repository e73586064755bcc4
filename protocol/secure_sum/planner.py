"""How many neighbours a device needs, and how many of their shares open a secret.

For a cohort of n devices of which ⌊γn⌋ may collude with the server and ⌊δn⌋ may vanish, a ring of degree k (over a random
order) with threshold t must satisfy, HG(N, K, k) being how many of k drawn from N are among K marked ones::

    secrecy       n·P[HG(n-1, ⌊γn⌋, k) ≥ t] ≤ 2^-σ            nobody has t colluding neighbours
                  n·P[HG(n-1, ⌊γn⌋, k) ≥ 2t-k] ≤ 2^-σ         the same if the server tells neighbours different stories
    connectivity  C(n,2)·Π_{i<k} (R-i)/(n-i) ≤ 2^-σ           R = ⌊γn⌋+⌊δn⌋: who is left is not cut in two
    correctness   n·P[HG(n-1, n-1-⌊δn⌋, k) < t] ≤ 2^-η        everybody keeps t neighbours

The plan is the smallest even k for which some t satisfies all of them, with the smallest such t. Up to 128 devices everybody is
everybody's neighbour, nothing is left to chance, and a majority (two thirds against different stories) is the threshold.

Not the graph itself (`graph`).

Source: Bell, Bonawitz, Gascón, Lepoint, Raykova, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead",
CCS 2020, section 3; Bonawitz et al., CCS 2017, section 6, for the complete graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.secure_sum.errors import InfeasiblePlanError
from protocol.secure_sum.messages import MAX_COHORT, MAX_DEGREE

__all__ = ["COMPLETE_UP_TO", "PlanRequest", "SumPlan", "plan", "secrecy_threshold"]

COMPLETE_UP_TO: Final = 128
"""Cohorts of up to so many devices use the complete graph."""

_NEVER: Final = -math.inf
"""log2 of a probability of zero."""


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What a plan is asked to withstand.

    Attributes:
        cohort: number of devices n, at least 2.
        corrupt_fraction: γ, share of the cohort that may collude with the server, in [0, 1).
        dropout_fraction: δ, share of the cohort that may vanish at any stage, in [0, 1).
        secrecy_bits: σ.
        correctness_bits: η.
        split_view_safe: secrecy must hold even if the server tells neighbours different stories.
    """

    cohort: int
    corrupt_fraction: float = 0.2
    dropout_fraction: float = 0.1
    secrecy_bits: int = 40
    correctness_bits: int = 20
    split_view_safe: bool = False


@dataclass(frozen=True, kw_only=True)
class SumPlan:
    """`degree` neighbours for each device; `threshold` shares open a secret."""

    degree: int
    threshold: int


def plan(request: PlanRequest) -> SumPlan:
    """The smallest degree, then the smallest threshold, that meet the request.

    Raises:
        InfeasiblePlanError: none does, or a figure is out of range; says which parameter to change and to what.
    """
    _check_request(request)
    found = _search(request)
    if found is None:
        raise InfeasiblePlanError(_what_would_help(request))
    return found


def secrecy_threshold(
    *, cohort: int, degree: int, corrupt_fraction: float, secrecy_bits: int, split_view_safe: bool
) -> int | None:
    """The smallest threshold that keeps a device's secrets in a graph it is offered; None where none does.

    A device checks the server's plan with its own assumptions: dropouts are the server's worry, secrecy is the device's.
    """
    if degree == cohort - 1 and cohort <= COMPLETE_UP_TO:
        return _complete_threshold(cohort, corrupt_fraction, split_view_safe=split_view_safe)
    return _ring_secrecy(cohort, degree, _share(corrupt_fraction, cohort), secrecy_bits, split_view_safe)


def _search(request: PlanRequest) -> SumPlan | None:
    n = request.cohort
    if n <= COMPLETE_UP_TO:
        return _complete_plan(request)
    corrupt, dropped = _share(request.corrupt_fraction, n), _share(request.dropout_fraction, n)
    largest = min(MAX_DEGREE, n - 2 - n % 2)
    if not _ring_plan(request, largest, corrupt, dropped):
        # Chance plays the smallest part in the largest degree: what fails there fails everywhere.
        return None
    for degree in range(2, largest + 1, 2):
        found = _ring_plan(request, degree, corrupt, dropped)
        if found:
            return found
    return None


def _complete_plan(request: PlanRequest) -> SumPlan | None:
    n = request.cohort
    threshold = _complete_threshold(n, request.corrupt_fraction, split_view_safe=request.split_view_safe)
    if threshold is None or n - _share(request.dropout_fraction, n) < threshold:
        return None
    return SumPlan(degree=n - 1, threshold=threshold)


def _complete_threshold(cohort: int, corrupt_fraction: float, *, split_view_safe: bool) -> int | None:
    # In the complete graph a device is a holder of its own share too: n holders, of whom the corrupt ones reveal both.
    corrupt = _share(corrupt_fraction, cohort)
    if split_view_safe:
        threshold = max(2 * cohort // 3 + 1, (cohort + corrupt) // 2 + 1)
    else:
        threshold = max(cohort // 2 + 1, corrupt + 1)
    return threshold if threshold <= cohort else None


def _ring_plan(request: PlanRequest, degree: int, corrupt: int, dropped: int) -> SumPlan | None:
    n = request.cohort
    if corrupt + dropped >= n:
        return None
    if _log2_disconnected(n, degree, corrupt + dropped) > -request.secrecy_bits:
        return None
    threshold = _ring_secrecy(n, degree, corrupt, request.secrecy_bits, request.split_view_safe)
    if threshold is None:
        return None
    kept = _log2_hypergeometric(n - 1, n - 1 - dropped, degree)
    below = _log2_sum(kept[:threshold]) + math.log2(n)
    return SumPlan(degree=degree, threshold=threshold) if below <= -request.correctness_bits else None


def _ring_secrecy(n: int, degree: int, corrupt: int, secrecy_bits: int, split_view_safe: bool) -> int | None:  # noqa: FBT001 - private, called by position with the formula's symbols
    tails = _log2_tails(_log2_hypergeometric(n - 1, corrupt, degree)) + math.log2(n)
    enough = np.flatnonzero(tails <= -secrecy_bits)
    # tails[j] is for "at least j colluders"; more than all k neighbours is impossible whatever k is.
    colluders = int(enough[0]) if enough.size else degree + 1
    threshold = -(-(colluders + degree) // 2) if split_view_safe else colluders
    return threshold if 1 <= threshold <= degree else None


def _log2_disconnected(n: int, degree: int, removed: int) -> float:
    if removed < degree:
        return _NEVER
    logs = _log2_factorials(n)
    # Π_{i<k} (R-i)/(n-i) = R!/(R-k)! · (n-k)!/n!
    cut = logs[removed] - logs[removed - degree] + logs[n - degree] - logs[n]
    return float(cut) + math.log2(math.comb(n, 2))


def _log2_hypergeometric(total: int, marked: int, drawn: int) -> NDArray[np.float64]:
    """log2 P[j of `drawn` are marked] for j = 0 … drawn, shape (drawn + 1,)."""
    logs = _log2_factorials(total)
    out = np.full(drawn + 1, _NEVER)
    j = np.arange(max(0, drawn + marked - total), min(drawn, marked) + 1)
    out[j] = (
        (logs[marked] - logs[j] - logs[marked - j])
        + (logs[total - marked] - logs[drawn - j] - logs[total - marked - drawn + j])
        - (logs[total] - logs[drawn] - logs[total - drawn])
    )
    return out


def _log2_tails(log2_chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """log2 P[at least j], by adding from the smallest."""
    return np.logaddexp2.accumulate(log2_chances[::-1])[::-1]


def _log2_sum(log2_chances: NDArray[np.float64]) -> float:
    return float(np.logaddexp2.reduce(log2_chances, initial=_NEVER))


@lru_cache(maxsize=4)
def _log2_factorials(largest: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log2(np.arange(1, largest + 1)))])


def _share(fraction: float, cohort: int) -> int:
    # 0.29 * 100 is 28.999999999999996: a share that is whole on paper must not lose a device.
    return math.floor(fraction * cohort + 1e-9)


def _check_request(request: PlanRequest) -> None:
    if not 2 <= request.cohort <= MAX_COHORT:
        raise InfeasiblePlanError(
            f"a secure sum needs 2 to {MAX_COHORT} devices, got cohort {request.cohort}; a sum over one device is "
            "that device's input"
        )
    for name in ("corrupt_fraction", "dropout_fraction"):
        value = getattr(request, name)
        if not 0 <= value < 1:
            raise InfeasiblePlanError(f"{name} must be in [0, 1), got {value}")
    for name in ("secrecy_bits", "correctness_bits"):
        value = getattr(request, name)
        if not 1 <= value <= 128:
            raise InfeasiblePlanError(f"{name} must be 1 to 128, got {value}")


def _what_would_help(request: PlanRequest) -> str:
    told = (
        f"no graph over {request.cohort} devices withstands corrupt_fraction {request.corrupt_fraction:g} and"
        f" dropout_fraction {request.dropout_fraction:g} at {request.secrecy_bits} bits of secrecy and"
        f" {request.correctness_bits} of correctness"
        + (" while neighbours may be told different stories" if request.split_view_safe else "")
    )
    ways = []
    dropout = _largest_hundredth(lambda value: replace(request, dropout_fraction=value))
    if dropout is not None and dropout < request.dropout_fraction:
        ways.append(f"lower dropout_fraction to {dropout:g}")
    corrupt = _largest_hundredth(lambda value: replace(request, corrupt_fraction=value))
    if corrupt is not None and corrupt < request.corrupt_fraction:
        ways.append(f"lower corrupt_fraction to {corrupt:g}")
    cohort = _smallest_cohort(request)
    if cohort is not None:
        ways.append(f"raise cohort to {cohort}")
    if request.split_view_safe and _search(replace(request, split_view_safe=False)):
        ways.append("set split_view_safe to false")
    return f"{told}: {' or '.join(ways) or 'lower dropout_fraction and corrupt_fraction, both are too high'}"


def _largest_hundredth(with_value: Callable[[float], PlanRequest]) -> float | None:
    """The largest of 0, 0.01 … 0.99 that is feasible, by bisection: less is never harder."""
    low, high = -1, 99
    while low < high:
        middle = (low + high + 1) // 2
        if _search(with_value(middle / 100)):
            low = middle
        else:
            high = middle - 1
    return None if low < 0 else low / 100


def _smallest_cohort(request: PlanRequest) -> int | None:
    """A larger cohort that is feasible, within 3 % of the smallest one; None where size does not help."""
    cohort = request.cohort
    while cohort < MAX_COHORT:
        cohort = max(cohort + 1, math.floor(cohort * 1.03))
        if cohort > MAX_COHORT:
            return None
        if _search(replace(request, cohort=cohort)):
            return cohort
    return None
