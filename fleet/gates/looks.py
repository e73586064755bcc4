"""When a group is looked at, and how much of the permitted false stops each look may spend.

Looks are at doubling times: half as much again would be nearly the same look. What a rollout may spend (five percent)
is shared so that no order of events can spend more:

    rollout ── half: first group ──┐            ┌── each metric alike ── looks, in proportion to what each adds
            └─ half: later groups ─┴─ 4/5 soak ─┤
                                   └─ 1/5 after it ── 2 S: a half of it, 4 S: a quarter, …

Within the soak the spending function is α·t (Kim & DeMets, "Design and analysis of group sequential tests based on the
type I error spending rate function", 1987, ρ = 1; Lan & DeMets, "Discrete sequential boundaries for clinical trials",
1983), and each look tests at what it adds alone: the sum of all is a bound whatever the looks have to do with another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fleet.gates.plan import GatePlan

__all__ = [
    "HEALTH_INTERVAL_S",
    "PASS_LEVEL",
    "Levels",
    "Look",
    "extension_time",
    "has_placebos",
    "levels",
    "look_times",
]

HEALTH_INTERVAL_S: Final = 30.0
"""How often a device tells how it is; two looks within one interval would see the same."""

PASS_LEVEL: Final = 0.05
"""How often a release with harm of the size that matters may pass a metric, at the end of the soak."""

_LOOKS: Final = 6
_RESERVED: Final = 0.2
_PLACEBO_LOOKS: Final = 2


@dataclass(frozen=True, kw_only=True)
class Levels:
    """What p-values of one metric of one group have to be below.

    Attributes:
        test: of a test at this look.
        last: of a test at the last look of the soak, the greatest of all.
        soak: of all looks of the soak together.
        placebo: of a comparison with past hours, made at two looks.
        process: of what may be watched all the time (e-values), over the whole of the group.
        passing: of the test that harm is as large as matters.
    """

    test: float
    last: float
    soak: float
    placebo: float
    process: float
    passing: float


@dataclass(frozen=True, kw_only=True)
class Look:
    """Which look it is (`number` from 1 of `of`), whether the soak is over, and what p-values have to be below."""

    number: int
    of: int
    is_last: bool
    levels: Levels

    @property
    def name(self) -> str:
        """As in a sentence."""
        return f"look {self.number} of {self.of}"

    @property
    def is_of_placebos(self) -> bool:
        """See `has_placebos`."""
        return has_placebos(self.number, self.of)


def has_placebos(number: int, of: int) -> bool:
    """Whether look `number` (from 1) of `of` compares with past hours: at an eighth of the soak and at its end."""
    return number in {of, of - 3}


def look_times(soak_s: float) -> tuple[float, ...]:
    """When a group is looked at, in seconds since its warm-up was over; the last is the end of the soak.

    Args:
        soak_s: how long the group soaks; 0: there is no look.

    Examples:
        >>> look_times(3600)
        (112.5, 225.0, 450.0, 900.0, 1800.0, 3600.0)
        >>> look_times(60)
        (30.0, 60.0)
        >>> look_times(5)
        (5.0,)
    """
    if soak_s <= 0:
        return ()
    times = [float(soak_s) / 2**halvings for halvings in reversed(range(_LOOKS))]
    return tuple(time for time in times if time >= HEALTH_INTERVAL_S) or (float(soak_s),)


def extension_time(soak_s: float, extension: int) -> float:
    """When a group that was not decided is looked at again: twice the soak, four times, and so on (`extension` from 1)."""
    return soak_s * 2.0**extension


def levels(
    plan: GatePlan, group: int, groups: int, *, number: int = 1, of: int = 1, extension: int = 0
) -> Levels:
    """What one metric may spend at look `number` (from 1) of `of` in `group` (from 0) of `groups`.

    Args:
        plan: how much the rollout may spend, and on how many metrics.
        group: with gates, counted from 0.
        groups: of the plan.
        number: of the look; after the soak the last.
        of: how many looks the soak has.
        extension: 0 within the soak; else the how-manieth look after it.

    Raises:
        ValueError: there is no such group or look.

    Example:
        >>> found = levels(GatePlan(), 0, 3, number=6, of=6)
        >>> round(found.test, 6), found.test == found.last
        (0.001129, True)
    """
    if not 0 <= group < groups:
        raise ValueError(f"group {group} of {groups}: it is counted from 0 and below {groups}")
    if not 1 <= number <= of or extension < 0:
        raise ValueError(
            f"look {number} of {of}, extension {extension}: looks count from 1 to {of}, extensions from 0"
        )
    share = plan.false_stop
    if groups > 1:
        share = share / 2 if group == 0 else share / 2 / (groups - 1)
    metric = share / len(plan.metrics)
    soak = metric * (1 - _RESERVED)
    whole = float(2**of - 1)
    test = soak * 2 ** (number - 1) / whole if extension == 0 else metric * _RESERVED / 2**extension
    return Levels(
        test=test,
        last=soak * 2 ** (of - 1) / whole,
        soak=soak,
        placebo=soak / _PLACEBO_LOOKS,
        process=metric,
        passing=PASS_LEVEL / 2**extension,
    )
