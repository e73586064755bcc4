"""When, how fast and how often: the parts of a plan that say nothing about the release itself."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

__all__ = ["ExponentialRate", "Quarantine", "Rate", "Retries", "Schedule", "Timeouts", "Window"]

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


class Schedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a rollout gives the release. Going back never waits for a window.

    start_at: not before this Unix second; None: at once.
    windows: in one of them; none: always.
    time_zone: of devices whose assigned label ``time_zone`` names none, as ``Europe/Berlin``.
    """

    start_at: Annotated[float, Meta(ge=0, le=4_102_444_800)] | None = None
    windows: Annotated[tuple[Window, ...], Meta(max_length=20)] = ()
    time_zone: Annotated[str, Meta(min_length=1, max_length=64)] = "UTC"


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
        600.0  # for devices that are online to confirm a rollback before it is called done without them
    )


class Retries(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often an execution is tried again, by the way in which it failed."""

    failed: Annotated[int, Meta(ge=0, le=10)] = field(name="FAILED", default=0)
    timed_out: Annotated[int, Meta(ge=0, le=10)] = field(name="TIMED_OUT", default=0)
