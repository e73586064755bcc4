"""Which devices are asked in a round, and how many answers make the round count.

Pure: randomness comes in as a generator. Over-selection asks more devices than are needed, so that the slowest do not
hold the round up; the quorum says below which number of answers a round is void.

Source: Bonawitz et al., Towards Federated Learning at Scale: System Design, MLSys 2019, arXiv:1902.01046v2, section 3
(selection of 130 % of the goal count, a minimum fraction that must report).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta, Struct

from aggregator.privacy.ledger_entries import FixedCohort, PoissonCohort, Sampling
from aggregator.privacy.poisson_draws import largest_draw, nominal_size
from protocol.names import DeviceId

__all__ = ["Cohort", "CohortSettings", "Group", "select_cohort"]


class CohortSettings(Struct, frozen=True, kw_only=True):
    """``[family.cohort]``: who is asked in a round.

    Attributes:
        fraction: of the devices that are there; never fewer than the quorum. Of groups, those that train; at least three of them.
        over_selection: so many times as many are asked as are waited for, so that slow devices hold nobody up. Not of groups, whose
            devices answer together or not at all.
        minimum_devices: the quorum; fewer answers make a round void.
        group_devices: sums without noise are taken in groups of so many devices, and up to three more, from three times as many devices
            on. Ask for more where owners' own floors (``privacy.minimum_cohort``) are higher.
        sampling: ``poisson`` draws each device with probability `fraction`, independently of all others and from the operating
            system's randomness: only then does ε of a release profit from devices that were not drawn.
    """

    fraction: Annotated[float, Meta(gt=0, le=1)] = 1.0
    over_selection: Annotated[float, Meta(ge=1)] = 1.2
    minimum_devices: Annotated[int, Meta(ge=1)] = 3
    group_devices: Annotated[int, Meta(ge=4, le=100)] = 4
    sampling: Literal["fixed", "poisson"] = "fixed"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Devices that add up among themselves; their sum is none below `quorum`, and not waited for beyond `enough` (None: everybody)."""

    devices: tuple[DeviceId, ...]
    quorum: int
    enough: int | None = None

    @property
    def target(self) -> int:
        """Answers that are waited for."""
        return len(self.devices) if self.enough is None else min(self.enough, len(self.devices))


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Who is asked, and how many answers count.

    The round closes at `enough` answers (None: waits for everyone or the deadline) and is void below `quorum`. `sampling` says
    how the cohort was drawn, for the privacy ledger; None: everybody who was there is in it. A secure round may be asked in `groups`,
    which together are the `devices`; it is void where fewer than `fewest_groups` give a sum.
    """

    devices: tuple[DeviceId, ...]
    enough: int | None = None
    quorum: int
    sampling: Sampling | None = None
    groups: tuple[Group, ...] = ()
    fewest_groups: int = 1

    @property
    def target(self) -> int:
        """Answers that close the round."""
        return len(self.devices) if self.enough is None else min(self.enough, len(self.devices))

    @property
    def largest(self) -> int:
        """Devices that its terms are made for: its own, or those of the largest draw where nobody outside may learn how many were drawn."""
        own = max(len(group.devices) for group in self.parts)
        return own if self._hidden is None else max(self._hidden.largest or 0, own)

    @property
    def taken_as(self) -> int | None:
        """The size that its sum is read as being of, where its own is hidden."""
        if self._hidden is None:
            return None
        return nominal_size(self._hidden.rate, self._hidden.population, self.quorum, self.largest)

    @property
    def _hidden(self) -> PoissonCohort | None:
        sampling = self.sampling
        # Sums of groups carry no noise, and without noise nothing is hidden.
        if self.groups or not isinstance(sampling, PoissonCohort) or sampling.largest is None:
            return None
        return sampling

    @property
    def parts(self) -> tuple[Group, ...]:
        """The groups; the whole cohort where it is not asked in groups."""
        return self.groups or (Group(devices=self.devices, quorum=self.quorum, enough=self.enough),)


def select_cohort(online: Iterable[DeviceId], settings: CohortSettings, rng: np.random.Generator) -> Cohort:
    """Draw a cohort, uniformly and without replacement, from the devices `online`.

    With fewer devices online than the quorum the cohort holds them all and cannot reach its quorum: the caller calls
    the round void, or waits.

    >>> cohort = select_cohort(map(DeviceId, "abcdefghij"), CohortSettings(fraction=0.5, over_selection=1.2,
    ...                        minimum_devices=2), np.random.default_rng(0))
    >>> len(cohort.devices), cohort.enough, cohort.quorum
    (6, 5, 2)
    """
    candidates = sorted(set(online))
    if settings.sampling == "poisson":
        return _poisson_cohort(candidates, settings, rng)
    goal = min(max(math.ceil(settings.fraction * len(candidates)), settings.minimum_devices), len(candidates))
    asked = min(math.ceil(goal * settings.over_selection), len(candidates))
    # Where there are too few devices to over-select, the goal gives way: one straggler must not hold everyone up.
    enough = min(goal, math.ceil(asked / settings.over_selection))
    chosen = rng.choice(len(candidates), size=asked, replace=False) if asked else ()
    return Cohort(
        devices=tuple(sorted(candidates[i] for i in chosen)),
        enough=max(enough, settings.minimum_devices),
        quorum=settings.minimum_devices,
        sampling=FixedCohort(size=asked, population=len(candidates)) if asked else None,
    )


def _poisson_cohort(
    candidates: Sequence[DeviceId], settings: CohortSettings, rng: np.random.Generator
) -> Cohort:
    """No over-selection and no closing early: who is in must not depend on who else is, nor on who is fast.

    What is larger than the sums of the round may be is drawn again (`aggregator.privacy.poisson_draws`); one draw in a hundred is.
    """
    rate, count, quorum = settings.fraction, len(candidates), settings.minimum_devices
    largest = max(largest_draw(rate, count, quorum), 1)
    coins = rng.random(count) < rate
    while int(coins.sum()) > largest:
        coins = rng.random(count) < rate
    devices = tuple(device for device, is_in in zip(candidates, coins, strict=True) if is_in)
    return Cohort(
        devices=devices,
        enough=max(len(devices), settings.minimum_devices),
        quorum=settings.minimum_devices,
        sampling=PoissonCohort(rate=rate, population=count, largest=largest) if candidates else None,
    )
