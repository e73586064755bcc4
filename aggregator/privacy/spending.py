"""What one device, and a family as a whole, have given so far, and what is left of the limits they have here.

Pure, from the ledger's history. The figures are those towards the aggregator, which are also those towards whoever reads them here: for
both know who took part. What the device itself counts, with the limits that its owner set, only the device knows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aggregator.privacy.accountant import add_up, server_epsilon
from aggregator.privacy.figures import figures
from aggregator.privacy.history import HeldRound
from aggregator.privacy.settings import FamilyBudget
from protocol.names import DeviceId, FamilyName, RunId

__all__ = [
    "DeviceSpending",
    "FamilySpending",
    "RunSpending",
    "Spent",
    "spent_by_device",
    "spent_by_family",
    "told",
]

MOST_RUNS: Final = 200
"""The newest of a device's runs that are told one by one; all of them count."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """An amount and its limit. `spent` may be infinite (a sum without noise); a `limit` of None is no limit."""

    spent: float
    limit: float | None

    @property
    def left(self) -> float | None:
        """How much more there may be, at least 0; None where nothing limits it."""
        return None if self.limit is None else max(0.0, self.limit - self.spent)


@dataclass(frozen=True, kw_only=True)
class RunSpending:
    """What a device gave to one run: how often it was `asked`, in how many `sums` that may have been seen it is, what these cost together."""

    run: RunId
    first_at: float
    last_at: float
    asked: int
    sums: int
    noiseless: int
    epsilon: float
    questions: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class DeviceSpending:
    """What a device gave to a family, over all runs. `noiseless` of its `sums` carried no noise: these nothing limits."""

    family: FamilyName
    delta: float
    epsilon: Spent
    sums: Spent
    noiseless: int
    runs: tuple[RunSpending, ...]


@dataclass(frozen=True, kw_only=True)
class FamilySpending:
    """What a family's rounds cost the device that gave most, and outsiders; `sums`: of the device that is in most."""

    family: FamilyName
    delta: float
    epsilon_server: Spent
    epsilon_release: Spent
    sums: Spent
    devices: int
    rounds: int
    noiseless: int


def spent_by_device(
    device: DeviceId, family: FamilyName, rounds: Sequence[HeldRound], budget: FamilyBudget
) -> DeviceSpending | None:
    """What `device` gave in `rounds`, all of `family`, the oldest first; None where it was never asked."""
    asked = [held for held in rounds if device in held.opened.cohort]
    if not asked:
        return None
    given = [held for held in asked if device in held.participants]
    by_run: dict[RunId, list[HeldRound]] = {}
    for held in asked:
        by_run.setdefault(held.opened.id.run, []).append(held)
    return DeviceSpending(
        family=family,
        delta=budget.delta,
        epsilon=Spent(spent=_epsilon(device, given, budget.delta), limit=budget.epsilon_server),
        sums=Spent(spent=len(given), limit=budget.maximum_participations),
        noiseless=sum(not held.multiplier for held in given),
        runs=tuple(
            _of_run(device, run, held, budget.delta)
            for run, held in reversed(list(by_run.items())[-MOST_RUNS:])
        ),
    )


def _of_run(device: DeviceId, run: RunId, asked: Sequence[HeldRound], delta: float) -> RunSpending:
    given = [held for held in asked if device in held.participants]
    return RunSpending(
        run=run,
        first_at=asked[0].opened.at,
        last_at=asked[-1].opened.at,
        asked=len(asked),
        sums=len(given),
        noiseless=sum(not held.multiplier for held in given),
        epsilon=_epsilon(device, given, delta),
        questions=dict(Counter(held.opened.id.question for held in given)),
    )


def _epsilon(device: DeviceId, given: Sequence[HeldRound], delta: float) -> float:
    return server_epsilon(add_up((held.cost, (device,)) for held in given), delta)


def spent_by_family(family: FamilyName, rounds: Sequence[HeldRound], budget: FamilyBudget) -> FamilySpending:
    """What all `rounds` of `family` cost, open ones at their worst."""
    figure = figures(rounds, budget.delta)
    seen = [held for held in rounds if held.is_seen_by_server]
    sums = Counter(device for held in seen for device in held.participants)
    return FamilySpending(
        family=family,
        delta=budget.delta,
        epsilon_server=Spent(spent=figure.server, limit=budget.epsilon_server),
        epsilon_release=Spent(spent=figure.release, limit=budget.epsilon_release),
        sums=Spent(spent=max(sums.values(), default=0), limit=budget.maximum_participations),
        devices=len(sums),
        rounds=len(seen),
        noiseless=sum(not held.multiplier for held in seen),
    )


def told(amount: float) -> float | None:
    """None for what nothing limits: JSON has no infinity."""
    return amount if math.isfinite(amount) else None
