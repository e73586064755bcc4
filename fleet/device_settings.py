"""Set what a fleet may set on its devices, and say what came of it.

The list and its bounds are `protocol.fleet_settings`; a value outside is refused here already, by name, so that nobody
waits for three hundred devices to say so. What a device does is its own affair all the same: its owner may keep a
setting, and `Health.settings` says what is in force there and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.orm import Session

from fleet import audit
from fleet.device_commands import read_words, step_counter
from fleet.errors import UnacceptableError
from fleet.storage.command_tables import DeviceCommands
from fleet.storage.device_tables import Device
from protocol.fleet_settings import FLEET_SETTINGS
from runtime.errors import Refused
from runtime.settings_messages import unknown_key

__all__ = ["SettingsState", "check_settings", "settings_state", "write_settings"]

_HEALTH: Final = "health.every_s"


@dataclass(frozen=True, kw_only=True)
class SettingsState:
    """The settings of one device.

    wanted: what the fleet asks for; by whom and when (Unix seconds).
    in_force: what the device said last: name → value, source, refusal.
    is_obeyed: the device has heard of what is wanted; None: nothing ever was.
    """

    device: str
    wanted: dict[str, float]
    set_by: str | None
    set_at: float | None
    in_force: dict[str, dict[str, Any]]
    is_obeyed: bool | None


def check_settings(settings: Mapping[str, float], *, offline_after_s: float) -> None:
    """Whether a fleet may ask for these; `offline_after_s` is the silence after which it takes a device for offline.

    Raises:
        UnacceptableError: names what is wrong, and what would be valid.
    """
    for name, value in settings.items():
        if name not in FLEET_SETTINGS:
            raise UnacceptableError(
                f"{name[:80]!r} is no setting that comes from a fleet; those are {', '.join(FLEET_SETTINGS)}"
            ).about(unknown_key(name, ("settings",), set(FLEET_SETTINGS)))
        if refusal := FLEET_SETTINGS[name].refusal(value):
            refused = Refused(field=f"settings.{name}", value=value, allowed=refusal)
            raise UnacceptableError(f"{name}: {refusal}").about(refused)
    if settings.get(_HEALTH, 0.0) > offline_after_s / 2:
        raise UnacceptableError(
            f"{_HEALTH}: with {settings[_HEALTH]:g} s between two words of it a device would be taken for offline, which this fleet"
            f" does after {offline_after_s:g} s; at most half of that, or raise offline_after_s in fleet.toml"
        )


def write_settings(
    session: Session, devices: Sequence[str], settings: Mapping[str, float], *, actor: str, now: float
) -> list[str]:
    """Make `settings` all that the fleet asks of each of `devices`; returns those for which that is a change."""
    words = read_words(session, devices)
    changed = []
    for device in devices:
        word = words.get(device)
        before = word.settings if word is not None else {}
        if before == dict(settings):
            continue
        word = step_counter(session, device, word, now)
        word.settings, word.settings_counter = dict(settings), word.counter
        word.settings_by, word.settings_at = actor, now
        audit.record(
            session,
            at=now,
            actor=actor,
            action="settings_set",
            subject=device,
            settings=dict(settings),
            before=before,
        )
        changed.append(device)
    return changed


def settings_state(device: Device, word: DeviceCommands | None) -> SettingsState:
    """What is asked of a device, and what it last said is in force."""
    health = device.last_health or {}
    told = {one["name"]: one for one in health.get("settings") or ()}
    asked = word is not None and word.settings_counter > 0
    return SettingsState(
        device=device.id,
        wanted=dict(word.settings) if word is not None else {},
        set_by=word.settings_by if word is not None else None,
        set_at=word.settings_at if word is not None else None,
        in_force={
            name: {
                "value": one["value"],
                "source": one["source"],
                "refused": one.get("refused", ""),
            }
            for name, one in told.items()
        },
        is_obeyed=(health.get("obeyed") or 0) >= word.settings_counter
        if asked and word is not None
        else None,
    )
