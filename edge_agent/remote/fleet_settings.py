"""The closed list of settings that may come from a fleet, their bounds, and which value is in force.

    default < agent.toml < fleet, where agent.toml lets it (``[remote] settings``) and the value lies within the bounds here

The bounds are narrower than those of agent.toml, because these values come over the broker unsigned: whoever owns the
broker can at worst do what the bounds allow. No limit of privacy, power or memory is on the list, and nothing that
switches detection, learning or checking off: those are the owner's. A name that is not on the list, or a value outside
its bounds, is refused by name, and the others are obeyed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from edge_agent.settings import DetectionSettings, HealthSettings, Settings
from protocol.limits import MAX_SETTINGS
from protocol.messages.commands import SettingInForce, Value
from protocol.messages.kinds import SettingSource

__all__ = ["FLEET_SETTINGS", "FleetSetting", "SettingsInForce", "judge_settings", "with_fleet_settings"]


@dataclass(frozen=True, kw_only=True)
class FleetSetting:
    """One setting of the list.

    `lowest` and `highest` are included; `read` gives it from agent.toml, `put` changes it there.
    """

    lowest: float
    highest: float
    is_whole: bool = False
    read: Callable[[Settings], float]
    put: Callable[[Settings, float], Settings]

    def refusal(self, value: Value) -> str:
        """Why a value is not taken, in one sentence; empty where it is."""
        kind = "a whole number" if self.is_whole else "a number"
        wanted = f"valid is {kind} from {self.lowest:g} to {self.highest:g}"
        if isinstance(value, str | bool) or not math.isfinite(value):
            return f"{str(value)[:40]!r} is no number; {wanted}"
        if not self.lowest <= value <= self.highest or (self.is_whole and value != int(value)):
            return f"{value:g} is outside its bounds; {wanted}"
        return ""


def _put_budget(settings: Settings, **change: float) -> Settings:
    detection = settings.detection
    return replace(settings, detection=replace(detection, budget=replace(detection.budget, **change)))


FLEET_SETTINGS: Final[Mapping[str, FleetSetting]] = {
    # From one alarm in a hundred windows (more would be taken for noise, and no longer looked at) to one in a million. How few a
    # device can keep and still hear depends on what it has learnt: where most values could open no alarm any more, it says
    # no, and asks itself again later.
    "detection.budget.alarms_per_1000_windows": FleetSetting(
        lowest=0.001,
        highest=10.0,
        read=lambda s: s.detection.budget.alarms_per_1000_windows,
        put=lambda s, value: _put_budget(s, alarms_per_1000_windows=value),
    ),
    # The two that there are.
    "detection.budget.shortest_event_windows": FleetSetting(
        lowest=1,
        highest=2,
        is_whole=True,
        read=lambda s: s.detection.budget.shortest_event_windows,
        put=lambda s, value: _put_budget(s, shortest_event_windows=int(value)),
    ),
    # More often would cost a phone link half a megabyte an hour; more seldom, a rollout would wait for its evidence and a fleet
    # take the device for lost. Anomalies never wait for it.
    "health.every_s": FleetSetting(
        lowest=10.0,
        highest=300.0,
        read=lambda s: s.health.every_s,
        put=lambda s, value: replace(s, health=replace(s.health, every_s=value)),
    ),
}
"""By the name that agent.toml has for it."""

_PINNED: Final = "this device's own agent.toml keeps it ([remote] settings)"
_UNKNOWN: Final = "this agent knows no such setting that a fleet may change"
_DEFAULTS: Final = {
    "detection.budget.alarms_per_1000_windows": DetectionSettings().budget.alarms_per_1000_windows,
    "detection.budget.shortest_event_windows": DetectionSettings().budget.shortest_event_windows,
    "health.every_s": HealthSettings().every_s,
}


def judge_settings(
    settings: Settings, wishes: Mapping[str, Value], unmet: Mapping[str, str] | None = None
) -> tuple[SettingInForce, ...]:
    """What is in force of the list and why, and what was wished for in vain.

    Args:
        settings: agent.toml's.
        wishes: the fleet's, by name.
        unmet: those of them that this device cannot meet at present, each with the reason.
    """
    found = []
    for name, setting in FLEET_SETTINGS.items():
        own = setting.read(settings)
        source = SettingSource.DEFAULT if own == _DEFAULTS[name] else SettingSource.FILE
        if name not in wishes:
            found.append(SettingInForce(name=name, value=own, source=source))
            continue
        wish = wishes[name]
        refused = setting.refusal(wish) if name in settings.remote.settings else _PINNED
        refused = refused or (unmet or {}).get(name, "")
        if refused or isinstance(wish, str):
            found.append(SettingInForce(name=name, value=own, source=source, refused=refused[:200]))
        else:
            found.append(SettingInForce(name=name, value=float(wish), source=SettingSource.FLEET))
    unknown = [name for name in wishes if name not in FLEET_SETTINGS]
    found += [
        SettingInForce(name=name, value=None, source=SettingSource.DEFAULT, refused=_UNKNOWN)
        for name in unknown
    ]
    return tuple(found[:MAX_SETTINGS])


def with_fleet_settings(settings: Settings, in_force: tuple[SettingInForce, ...]) -> Settings:
    """The settings of agent.toml with what the fleet has a say in."""
    for one in in_force:
        if one.source is SettingSource.FLEET and one.value is not None:
            settings = FLEET_SETTINGS[one.name].put(settings, one.value)
    return settings


class SettingsInForce:
    """Which settings are in force: agent.toml's, and over them what the fleet wishes and this device can do.

    Args:
        settings: agent.toml's.
        wishes: the fleet's, as they were obeyed last.
        unmet: as `judge_settings`.

    Attributes:
        effective: agent.toml with what the fleet has a say in.
        told: what is in force and why, for people.
    """

    def __init__(
        self, settings: Settings, wishes: Mapping[str, Value], unmet: Mapping[str, str] | None = None
    ) -> None:
        self._own = settings
        self.told = judge_settings(settings, wishes, unmet)
        self.effective = with_fleet_settings(settings, self.told)

    def obey(
        self, wishes: Mapping[str, Value], apply: Callable[[Settings], Mapping[str, str]]
    ) -> Mapping[str, str]:
        """Put what can be of the wishes in force at once.

        Args:
            wishes: all of the fleet's; a setting that is not among them is agent.toml's again.
            apply: makes settings effective; says by name, with the reason, which of them it left as they were.

        Returns:
            The wishes that the device cannot meet at present.
        """
        unmet: Mapping[str, str] = {}
        told = judge_settings(self._own, wishes)
        effective = with_fleet_settings(self._own, told)
        if refused := apply(effective):
            # A setting that cannot be met goes back to the file's, and with it those it was judged together with.
            unmet = {name: reason for name, reason in refused.items() if name in wishes}
            told = judge_settings(self._own, wishes, unmet)
            effective = with_fleet_settings(self._own, told)
            apply(effective)
        self.told, self.effective = told, effective
        return unmet

    @property
    def noteworthy(self) -> tuple[SettingInForce, ...]:
        """What is not simply the default: what a fleet has to hear of."""
        return tuple(one for one in self.told if one.source is not SettingSource.DEFAULT or one.refused)
