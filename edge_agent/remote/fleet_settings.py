"""Which value of the settings that a fleet may change is in force, and why.

    default < agent.toml < fleet, where agent.toml lets it (``[remote] settings``) and the value lies within its bounds

A name that is not on the list (`protocol.fleet_settings`), or a value outside its bounds, is refused by name, and the
others are obeyed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from edge_agent.settings import DetectionSettings, HealthSettings, Settings
from protocol.fleet_settings import FLEET_SETTINGS
from protocol.limits import MAX_SETTINGS
from protocol.messages.commands import SettingInForce, Value
from protocol.messages.kinds import SettingSource

__all__ = ["PLACES", "SettingsInForce", "judge_settings", "with_fleet_settings"]

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a setting stands: `read` gives it from agent.toml's settings, `put` changes it there."""

    read: Callable[[Settings], float]
    put: Callable[[Settings, float], Settings]


def _put_budget(settings: Settings, **change: float) -> Settings:
    detection = settings.detection
    return replace(settings, detection=replace(detection, budget=replace(detection.budget, **change)))


PLACES: Final[Mapping[str, _Place]] = {
    "detection.budget.alarms_per_1000_windows": _Place(
        read=lambda s: s.detection.budget.alarms_per_1000_windows,
        put=lambda s, value: _put_budget(s, alarms_per_1000_windows=value),
    ),
    "detection.budget.shortest_event_windows": _Place(
        read=lambda s: s.detection.budget.shortest_event_windows,
        put=lambda s, value: _put_budget(s, shortest_event_windows=int(value)),
    ),
    "health.every_s": _Place(
        read=lambda s: s.health.every_s,
        put=lambda s, value: replace(s, health=replace(s.health, every_s=value)),
    ),
}
"""Of each of `FLEET_SETTINGS`."""

_MOST_UNKNOWN: Final = 8
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
    for name, place in PLACES.items():
        own = place.read(settings)
        source = SettingSource.DEFAULT if own == _DEFAULTS[name] else SettingSource.FILE
        if name not in wishes:
            found.append(SettingInForce(name=name, value=own, source=source))
            continue
        wish = wishes[name]
        refused = FLEET_SETTINGS[name].refusal(wish) if name in settings.remote.settings else _PINNED
        refused = refused or (unmet or {}).get(name, "")
        if refused or isinstance(wish, str):
            found.append(SettingInForce(name=name, value=own, source=source, refused=refused[:200]))
        else:
            found.append(SettingInForce(name=name, value=float(wish), source=SettingSource.FLEET))
    # Each is told with every health message: a broker that makes names up must not make those large.
    unknown = [name for name in wishes if name not in PLACES][:_MOST_UNKNOWN]
    found += [
        SettingInForce(name=name, value=None, source=SettingSource.DEFAULT, refused=_UNKNOWN)
        for name in unknown
    ]
    return tuple(found[:MAX_SETTINGS])


def with_fleet_settings(settings: Settings, in_force: tuple[SettingInForce, ...]) -> Settings:
    """The settings of agent.toml with what the fleet has a say in."""
    for one in in_force:
        if one.source is SettingSource.FLEET and one.value is not None:
            settings = PLACES[one.name].put(settings, one.value)
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
        try:
            refused = apply(effective)
        except Exception as error:  # noqa: BLE001 - whatever a wish does to us, what was in force stays so
            log.error("settings_not_applied error=%r", error)  # noqa: TRY400 - one line
            refused = dict.fromkeys(PLACES, f"it could not be put in force: {type(error).__name__}")
        if refused:
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
