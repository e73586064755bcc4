"""What time it is, as far as this device knows: ages by a clock that no one can set, dates only where they are known.

Two clocks. `boot_s` counts seconds since the kernel started, sleep included; nobody can set it, and ages within one start of
the device (`kernel_boot`) are taken from it. `wall_s` is the date. It is **known to be set** once the kernel said that a time service
keeps it; from then on it runs by the boot clock, so that a step of the system clock changes nothing until the kernel says
again that the clock is kept. Where it is not known (a board without a battery, a plant without a time server) `wall_s` is the system clock,
never before the last time that was trusted, nor before this version was made.

::

    system clock ─► steps? ─► kept by a time service, and steady? ─► known: offset to the boot clock, held through steps
                                        └─ no ─► system clock, but within [last trusted time, LATEST_S]

Not a judge of certificates or of events: who asks decides what to do with a clock that is not set. Any thread may ask.

Source: adjtimex(2) (TIME_ERROR: the clock is not synchronised; settimeofday(2) clears the state); systemd-timesyncd.service(8)
for ``/run/systemd/timesync/synchronized``; clock_gettime(2) for CLOCK_BOOTTIME.
"""

from __future__ import annotations

import ctypes
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from edge_agent.version import MADE_AFTER_S
from runtime.durable_files import read_bytes, write_durably
from runtime.errors import StorageError

__all__ = ["LATEST_S", "TrustedClock", "boot_clock_s", "is_kept_by_a_time_service", "kernel_boot"]

log = logging.getLogger(__name__)

LATEST_S: Final = MADE_AFTER_S + 50 * 365.25 * 86400
"""A clock beyond this is wrong, whoever keeps it: no version of this program is used for fifty years."""
STEP_S: Final = 1.0
"""A time service slews what is less; what is more was set."""
STEADY_S: Final = 60.0
"""After a step, a clock that is said to be kept is believed once it stood this long: some are stepped twice."""
TRUSTED_AFTER_S: Final = 600.0
"""A kept clock raises the floor only after this long: a date that is wrong for a moment must not stay for ever."""
TAKEN_BACK_AFTER_S: Final = 3600.0
"""A clock kept steadily below the floor for so long is right, and the floor was not."""
_SLACK_S: Final = 60.0
"""The floor lies so far below the time that raised it: a kept clock may be set back by seconds."""
_LOOK_EVERY_S: Final = 0.2
_ASK_EVERY_S: Final = 1.0
_KEEP_EVERY_S: Final = 3600.0
_DRIFT: Final = 0.001
"""The kernel corrects a clock by at most half of this rate (500 ppm)."""
_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 512
"""More than `struct timex` takes on any machine; all zero, its first field (`modes`) says that nothing shall be changed."""


class _Kept(Struct, kw_only=True):
    """What survives a restart: the floor and what was heard; and for restarts of the agent alone, what was known in this start of the device."""

    trusted_s: float
    boot: str = ""
    offset_s: float | None = None
    heard_s: float | None = None


class TrustedClock:
    """The clocks of this device."""

    def __init__(
        self,
        file: Path,
        *,
        system: Callable[[], float] = time.time,
        boot: Callable[[], float] | None = None,
        is_kept: Callable[[], bool] | None = None,
        boot_name: str | None = None,
    ) -> None:
        """Continue from what is remembered; a file that is missing or damaged is none.

        Args:
            file: where the last trusted time is kept.
            system: Unix seconds, as set by whoever may set them.
            boot: seconds since the device started, which nobody can set; default the kernel's.
            is_kept: does a time service keep the system clock? Default: ask the kernel.
            boot_name: which start of the device this is; default the kernel's.
        """
        self._file = file
        self._system = system
        self._boot = boot or boot_clock_s
        self._is_kept = is_kept or is_kept_by_a_time_service
        self.kernel_boot: Final = kernel_boot() if boot_name is None else boot_name
        self._lock = threading.Lock()
        kept = _load(file)
        self._floor_s, self._floor_boot_s = _within(kept.trusted_s), self._boot()
        self._heard_offset_s: float | None = None
        if kept.heard_s is not None and _within(kept.heard_s) == kept.heard_s:
            self._heard_offset_s = kept.heard_s - self._floor_boot_s
        is_same_start = bool(kept.boot) and kept.boot == self.kernel_boot
        offset_s = kept.offset_s if is_same_start else None
        if offset_s is not None and not MADE_AFTER_S <= offset_s + self._floor_boot_s <= LATEST_S:
            offset_s = None
        self._offset_s = offset_s
        self._seen_offset_s: float | None = None
        self._seen_boot_s = self._floor_boot_s
        self._stood_since_s = float("-inf")
        self._low_since_s: float | None = None
        self._asked_s = float("-inf")
        self._kept_now = False
        self._saved_s = self._floor_boot_s if is_same_start else float("-inf")
        self._is_complaining = False
        self._last = 0.0, float("-inf")
        self.steps = 0
        self.last_step_s = 0.0

    def boot_s(self) -> float:
        """Seconds since the device started, sleep included; never goes back, comparable within one `kernel_boot`."""
        return self._boot()

    def wall_s(self) -> float:
        """Unix seconds, the best that is known; finite, never before this version was made, nor after `LATEST_S`."""
        (wall_s, at_s), boot_s = self._last, self._boot()
        if 0.0 <= boot_s - at_s < _LOOK_EVERY_S:
            return wall_s + boot_s - at_s  # for every window: no lock, and one clock
        with self._lock:
            return self._look()

    @property
    def is_set(self) -> bool:
        """Is `wall_s` known to be right, within seconds?"""
        with self._lock:
            self._look()
            return self._offset_s is not None

    def known_s(self) -> float | None:
        """`wall_s` where it is known to be right, else None."""
        with self._lock:
            wall_s = self._look()
            return wall_s if self._offset_s is not None else None

    def earliest_s(self) -> float:
        """Unix seconds that it is at least: `known_s`, else the last time that was trusted or heard, and what has passed since.

        For what has an end: a clock that nobody set, years ahead, ends nothing, and one that was set back revives nothing.
        """
        with self._lock:
            wall_s = self._look()
            return wall_s if self._offset_s is not None else self._floor_now_s(self._boot())

    def hear(self, told_s: float) -> None:
        """Somebody whom this device trusts says what time it is; the last word counts, where nobody keeps the clock.

        So a fleet whose clock was wrong, or somebody who was it for a moment, is not believed for longer than until the next word.
        A date that no clock of this version may show is not believed, nor one before a kept clock's.
        """
        with self._lock:
            self._look()
            if self._offset_s is None and MADE_AFTER_S <= told_s <= LATEST_S:
                self._heard_offset_s = told_s - self._boot()
                self._saved_s = float("-inf")
                self._look()

    def save_if_due(self) -> None:
        """Remember the last trusted time, once an hour and when the clock becomes known. A disk that refuses is told once."""
        with self._lock:
            self._look()
            boot_s = self._boot()
            is_heard = self._heard_offset_s is not None
            is_worth_a_write = self._offset_s is not None or is_heard or self._floor_s > MADE_AFTER_S
            if not is_worth_a_write or boot_s - self._saved_s < _KEEP_EVERY_S:
                return
            self._saved_s = boot_s
            kept = _Kept(
                trusted_s=self._kept_floor_s(boot_s),
                boot=self.kernel_boot,
                offset_s=self._offset_s,
                heard_s=None if self._heard_offset_s is None else self._heard_offset_s + boot_s,
            )
        try:
            write_durably(self._file, msgspec.json.encode(kept))
            self._is_complaining = False
        except StorageError as error:
            if not self._is_complaining:
                log.warning("trusted_time_not_saved error=%s", error)
            self._is_complaining = True

    def _look(self) -> float:
        """Take both clocks in; returns `wall_s`."""
        boot_s, system_s = self._boot(), self._system()
        wall_s = self._weigh(boot_s, system_s)
        self._last = wall_s, boot_s
        return wall_s

    def _weigh(self, boot_s: float, system_s: float) -> float:
        self._find_step(system_s - boot_s, boot_s)
        if boot_s - self._asked_s >= _ASK_EVERY_S:
            self._asked_s, self._kept_now = boot_s, self._is_kept()
        floor_s = self._floor_now_s(boot_s)
        stood_s = boot_s - self._stood_since_s
        if self._kept_now and stood_s >= STEADY_S and system_s <= LATEST_S:
            if system_s >= floor_s:
                self._believe(system_s, boot_s, stood_s)
            elif self._is_low_for_long(boot_s):
                log.warning("trusted_time_taken_back from_s=%.0f to_s=%.0f", floor_s, system_s)
                self._floor_s, self._floor_boot_s = max(system_s, MADE_AFTER_S), boot_s
                self._heard_offset_s = None
        else:
            self._low_since_s = None
        if self._offset_s is not None:
            return self._offset_s + boot_s
        return min(max(system_s, self._floor_now_s(boot_s)), LATEST_S) if math.isfinite(system_s) else floor_s

    def _find_step(self, offset_s: float, boot_s: float) -> None:
        seen_s, self._seen_offset_s = self._seen_offset_s, offset_s
        elapsed_s, self._seen_boot_s = boot_s - self._seen_boot_s, boot_s
        if seen_s is not None and not abs(offset_s - seen_s) <= STEP_S + _DRIFT * elapsed_s:
            self.steps += 1
            self.last_step_s = offset_s - seen_s
            self._stood_since_s = boot_s
            self._asked_s = float("-inf")
            log.warning("clock_stepped by_s=%.0f steps=%d", self.last_step_s, self.steps)

    def _believe(self, system_s: float, boot_s: float, stood_s: float) -> None:
        self._low_since_s = None
        if self._offset_s is None:
            self._saved_s = float("-inf")
        self._offset_s = system_s - boot_s
        if min(stood_s, boot_s - self._floor_boot_s) >= TRUSTED_AFTER_S:
            self._raise_floor(system_s - _SLACK_S)

    def _is_low_for_long(self, boot_s: float) -> bool:
        if self._low_since_s is None:
            self._low_since_s = boot_s
        return boot_s - self._low_since_s >= TAKEN_BACK_AFTER_S

    def _raise_floor(self, time_s: float) -> None:
        self._floor_s, self._floor_boot_s = _within(time_s), self._boot()

    def _floor_now_s(self, boot_s: float) -> float:
        floor_s, heard_offset_s = self._kept_floor_s(boot_s), self._heard_offset_s
        return floor_s if heard_offset_s is None else max(floor_s, min(heard_offset_s + boot_s, LATEST_S))

    def _kept_floor_s(self, boot_s: float) -> float:
        return self._floor_s + max(0.0, boot_s - self._floor_boot_s)


def boot_clock_s() -> float:
    """The kernel's seconds since the device started, sleep included where it tells."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def kernel_boot(file: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """Which start of this device it is; empty where the kernel does not tell: then no two are the same."""
    try:
        return file.read_text(encoding="ascii").strip()[:64]
    except (OSError, ValueError):
        return ""


def is_kept_by_a_time_service(stamp: Path = Path("/run/systemd/timesync/synchronized")) -> bool:
    """Does the kernel say that a time service keeps the clock? Where it may not be asked, did systemd's ever set it?"""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):  # no Linux
        state = -1
    return stamp.exists() if state < 0 else state != _TIME_ERROR


def _load(file: Path) -> _Kept:
    try:
        content = read_bytes(file)
        return _Kept(trusted_s=MADE_AFTER_S) if content is None else msgspec.json.decode(content, type=_Kept)
    except (StorageError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("trusted_time_unreadable path=%s error=%s", file, error)
        return _Kept(trusted_s=MADE_AFTER_S)


def _within(time_s: float) -> float:
    return time_s if MADE_AFTER_S < time_s <= LATEST_S else MADE_AFTER_S
