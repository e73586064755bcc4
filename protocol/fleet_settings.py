"""The closed list of settings that a fleet may change on a device, and between which bounds.

Their names are those of agent.toml. The bounds are narrower than there: whoever owns the fleet can at worst do what the
bounds allow. No limit of privacy, power or memory is on the
list, and nothing that switches detection, learning or checking off: those are the owner's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["FLEET_SETTINGS", "SettingBounds"]


@dataclass(frozen=True, kw_only=True)
class SettingBounds:
    """What a fleet may set; `lowest` and `highest` are included."""

    lowest: float
    highest: float
    is_whole: bool = False

    def refusal(self, value: object) -> str:
        """Why a value is not taken, in one sentence; empty where it is."""
        kind = "a whole number" if self.is_whole else "a number"
        wanted = f"valid is {kind} from {self.lowest:g} to {self.highest:g}"
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{str(value)[:40]!r} is no number; {wanted}"
        if not self.lowest <= value <= self.highest or (self.is_whole and value != int(value)):
            return f"{value:g} is outside its bounds; {wanted}"
        return ""


FLEET_SETTINGS: Final[Mapping[str, SettingBounds]] = {
    # From one alarm in a hundred windows (more would be taken for noise, and no longer looked at) to one in a million. How few a
    # device can keep and still hear depends on what it has learnt: where most values could open no alarm any more, it says
    # no, and asks itself again later.
    "detection.budget.alarms_per_1000_windows": SettingBounds(lowest=0.001, highest=10.0),
    # The two that there are.
    "detection.budget.shortest_event_windows": SettingBounds(lowest=1, highest=2, is_whole=True),
    # More often would cost a phone link half a megabyte an hour; more seldom, a rollout would wait for its evidence and a fleet
    # take the device for lost. Anomalies never wait for it.
    "health.every_s": SettingBounds(lowest=10.0, highest=300.0),
}
