"""Is now the time to fetch a release? A device that is hot, on battery, or has used up its link for today waits, and says so.

Waiting is neutral: the fleet counts it neither for nor against a release. It is asked before a download only: what lies on the
device already, the release to go back to among it, never waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge_agent.readiness import Conditions, read_conditions
from edge_agent.settings import InstallationSettings

__all__ = ["FetchConditions"]

_DAY_S: Final = 86_400.0


class FetchConditions:
    """What keeps this device from fetching at present.

    Args:
        settings: the owner's limits.
        fetched_bytes: of releases, so far; it only grows.
        clock: seconds that nobody sets.
        conditions: of the hardware.
    """

    def __init__(
        self,
        settings: InstallationSettings,
        fetched_bytes: Callable[[], int],
        clock: Callable[[], float],
        conditions: Callable[[], Conditions] = read_conditions,
    ) -> None:
        self._settings, self._fetched_bytes = settings, fetched_bytes
        self._clock, self._conditions = clock, conditions
        self._day_s, self._day_bytes = clock(), fetched_bytes()

    def hindrance(self, missing_bytes: int) -> str:
        """Why so many bytes are not fetched now, in a sentence; empty where nothing speaks against it."""
        settings, conditions = self._settings, self._conditions()
        if conditions.temperature_c is not None and conditions.temperature_c > settings.maximum_temperature_c:
            return f"it is {conditions.temperature_c:g} °C hot, the limit is {settings.maximum_temperature_c:g} °C"
        if settings.require_power and conditions.on_mains is False:
            return "it runs on battery (installation.require_power = true)"
        return self._overdrawn(missing_bytes)

    def _overdrawn(self, missing_bytes: int) -> str:
        now_s, fetched, allowed = self._clock(), self._fetched_bytes(), self._settings.bytes_per_day
        if now_s - self._day_s >= _DAY_S:
            self._day_s, self._day_bytes = now_s, fetched
        used = fetched - self._day_bytes
        # A release that is larger than a day's share is fetched on a day of its own.
        if allowed is None or used == 0 or used + missing_bytes <= allowed:
            return ""
        return f"{used} of today's {allowed} bytes for releases are used, and {missing_bytes} are missing"
