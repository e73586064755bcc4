"""Whether a fleet's prior can carry a promise, and what the checks of a network mean where it does not judge.

Pure. What judges in a release for the mixture is made on each device (`models.detection`); the network stays as what drift, probes and
the first twenty windows look at. So of a network that learned nothing a person is told, and the release stands.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from aggregator.rounds.release_checks import check_first_sight
from aggregator.rounds.runs import Check
from models.detection.openings import LEVELS
from models.detection.prior import FleetPrior
from models.detection.promise import AlarmBudget, make_promise

__all__ = ["check_mixture_sight", "check_prior", "only_warn"]


def check_prior(prior: FleetPrior) -> Check:
    """Whether the default budget, of openings and of time in alarm, is kept at any level, at each age, and supported by what was counted."""
    budget = AlarmBudget()
    promises = {age: make_promise(curve, budget, fitted_on=0) for age, curve in prior.curves.items()}
    deaf = sorted(age for age, promise in promises.items() if promise.threshold >= LEVELS[-1])
    kept = [promise for age, promise in promises.items() if age not in deaf]
    fewest = 3.0 / budget.rate
    said = f"the prior of {prior.devices} devices counts openings on {prior.most_windows:,} windows of the detectors that saw most"
    if not kept:
        said += ": at no level do they keep 1 alarm in 1,000 windows. Record more of healthy machines"
    elif deaf:
        said += (
            f"; detectors fitted on {', '.join(map(str, deaf))} windows keep 1 alarm in 1,000 windows at no level,"
            " and such devices hear next to nothing. Record more of healthy machines"
        )
    elif all(promise.is_provisional for promise in kept):
        said += f"; 1 alarm in 1,000 windows is a promise from {fewest:,.0f} on, and provisional until devices have counted more"
    return Check(
        name="prior",
        value=float(prior.most_windows),
        limit=fewest,
        is_passed=bool(kept),
        is_warning=bool(kept) and (bool(deaf) or all(promise.is_provisional for promise in kept)),
        reason=said,
    )


def check_mixture_sight(in_force: float, at_most: float, *, accepts_blind: bool) -> Check:
    """What a mixture sees at the threshold in force, in [0, 1], and what it would see if many windows had been counted.

    Few windows make a high threshold, which comes down by itself: a warning. What no window cures is refused.
    """
    check = check_first_sight(max(in_force, at_most), accepts_blind=accepts_blind)
    if not check.is_passed or check.is_warning or in_force >= check.limit:
        return msgspec.structs.replace(check, value=in_force)
    return msgspec.structs.replace(
        check,
        value=in_force,
        is_warning=True,
        reason=f"{in_force:.0%} of slightly disturbed windows are over the threshold that keeps 1 alarm in 1,000 windows (at least"
        f" {check.limit:.0%}): it was counted on few windows, and comes down with each run that counts more of them, to {at_most:.0%} at"
        " most. Until then alarms are of what many sensors show",
    )


def only_warn(checks: Iterable[Check]) -> tuple[Check, ...]:
    """The same checks, of a model that does not judge: what fails is said, and refuses nothing."""
    return tuple(
        msgspec.structs.replace(check, is_passed=True, is_warning=check.is_warning or not check.is_passed)
        for check in checks
    )
