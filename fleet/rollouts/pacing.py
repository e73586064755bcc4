"""When, how fast and how often: the parts of a plan that say nothing about the release itself, and what they allow now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct, field

from fleet.rollouts.windows import Cron, check_time_zone

__all__ = [
    "ExponentialRate",
    "Gift",
    "Quarantine",
    "Rate",
    "Retries",
    "Schedule",
    "Timeouts",
    "Window",
    "held_until",
    "next_gift_at",
    "recent_gifts",
    "slice_now",
]

SLICE_S: Final = 1.0
"""A group is told in slices, at most one a second: each is one transaction."""

SLICE_MOST: Final = 1000
"""Devices in one slice: events wait a quarter of a second for such a transaction, and sixty thousand a minute is enough."""

Seconds = Annotated[float, Meta(ge=0, le=30 * 86400)]


class ExponentialRate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rate that grows with what has succeeded: × `increment_factor` for each `on_succeeded` devices that run the release."""

    base_per_minute: Annotated[int, Meta(ge=1, le=1_000_000)]
    increment_factor: Annotated[float, Meta(ge=1.1, le=10)] = 2.0
    on_succeeded: Annotated[int, Meta(ge=1, le=1_000_000)] = 100


class Rate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many devices a minute are told, at most; beside it, a ramp that begins slowly."""

    maximum_per_minute: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000_000
    exponential: ExponentialRate | None = None


class Window(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time in which devices may be told: it begins as `cron` says (five fields, the device's local time) and lasts."""

    cron: Annotated[str, Meta(min_length=9, max_length=200)]
    duration_s: Annotated[float, Meta(ge=60, le=7 * 86400)]

    def __post_init__(self) -> None:
        """Raises ValueError where `cron` is not five fields, or names no time that ever comes."""
        Cron.parse(self.cron)


class Schedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a rollout gives the release. Going back never waits for a window.

    start_at: not before this Unix second; None: at once.
    windows: in one of them; none: always.
    time_zone: of devices whose assigned label ``time_zone`` names none, as ``Europe/Berlin``.
    """

    start_at: Annotated[float, Meta(ge=0, le=4_102_444_800)] | None = None
    windows: Annotated[tuple[Window, ...], Meta(max_length=20)] = ()
    time_zone: Annotated[str, Meta(min_length=1, max_length=64)] = "UTC"

    def __post_init__(self) -> None:
        """Raises ValueError where the time zone is not known."""
        check_time_zone(self.time_zone)


class Quarantine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device that failed so often (executions of any rollout, in the penalty before) is left out until the penalty is over."""

    device_failures: Annotated[int, Meta(ge=1, le=1000)] = 3
    penalty_s: Annotated[float, Meta(ge=60, le=30 * 86400)] = 86400.0


class Timeouts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long is too long, seconds."""

    queued_s: Seconds = 86400.0  # an unreachable device may take a day; then it counts as timed out
    in_progress_s: Seconds = 3600.0  # from the device's first word on it to its end
    step_s: Seconds = 600.0  # without a word during an installation
    health_s: Seconds = 900.0  # after the soak, for health that a limit still misses: silence is harm
    rollback_s: Seconds = (
        600.0  # for devices that are online to confirm; then a rollback is done without them
    )


class Retries(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often an execution is tried again, by the way in which it failed."""

    failed: Annotated[int, Meta(ge=0, le=10)] = field(name="FAILED", default=0)
    timed_out: Annotated[int, Meta(ge=0, le=10)] = field(name="TIMED_OUT", default=0)


class Gift(NamedTuple):
    """`devices` were told at Unix second `at`."""

    at: float
    devices: int


def recent_gifts(gifts: Sequence[Gift], now: float) -> tuple[Gift, ...]:
    """Those of the minute before `now`. What a clock that was set back calls the future happened just now."""
    return tuple(Gift(min(at, now), devices) for at, devices in gifts if min(at, now) + 60 > now)


def slice_now(rate: Rate, gifts: Sequence[Gift], succeeded: int, now: float) -> int:
    """How many devices may be told at once at Unix second `now`: never more in any minute than `rate` says.

    Args:
        rate: the plan's.
        gifts: `recent_gifts`, earliest first.
        succeeded: devices that run the release, which the exponential rate grows with.
        now: Unix seconds.

    Examples:
        >>> rate = Rate(maximum_per_minute=90)
        >>> slice_now(rate, [], 0, 100.0), slice_now(rate, [Gift(99.5, 1)], 0, 100.0)
        (2, 1)
        >>> slice_now(rate, [Gift(50.0, 60), Gift(99.0, 29)], 0, 100.0)
        1
    """
    per_minute = _per_minute(rate, succeeded)
    spacing_s = max(SLICE_S, 60 / per_minute)
    lately = sum(gift.devices for gift in gifts if gift.at + spacing_s > now)
    told = sum(gift.devices for gift in gifts)
    at_once = min(SLICE_MOST, math.ceil(per_minute * spacing_s / 60))
    return max(0, min(per_minute - told, at_once - lately))


def next_gift_at(rate: Rate, gifts: Sequence[Gift], succeeded: int, now: float) -> float:
    """When `slice_now` is worth asking again, Unix seconds; `now` where it gives something already. Arguments as there."""
    if slice_now(rate, gifts, succeeded, now):
        return now
    per_minute = _per_minute(rate, succeeded)
    spacing_s = max(SLICE_S, 60 / per_minute)
    spaced = next((at for at in (gift.at + spacing_s for gift in gifts) if at > now), now)
    return max(spaced, gifts[0].at + 60) if sum(gift.devices for gift in gifts) >= per_minute else spaced


def _per_minute(rate: Rate, succeeded: int) -> int:
    ramp = rate.exponential
    if ramp is None:
        return rate.maximum_per_minute
    # beyond the maximum the power does not matter, and would not fit a float
    steps = min(succeeded // ramp.on_succeeded, math.ceil(math.log(1_000_000, ramp.increment_factor)))
    return min(rate.maximum_per_minute, math.floor(ramp.base_per_minute * ramp.increment_factor**steps))


def held_until(quarantine: Quarantine, failures: Sequence[float], now: float) -> float | None:
    """Until when a device that failed at these times is left out, Unix seconds; None where it is not.

    Examples:
        >>> held_until(Quarantine(device_failures=2, penalty_s=100.0), [10.0, 50.0, 20.0], 60.0)
        120.0
    """
    # each counts for one penalty: when the newest `device_failures` of them are no longer all within one, it is over
    newest = sorted((min(at, now) for at in failures), reverse=True)[: quarantine.device_failures]
    if len(newest) < quarantine.device_failures or newest[-1] + quarantine.penalty_s <= now:
        return None
    return newest[-1] + quarantine.penalty_s
