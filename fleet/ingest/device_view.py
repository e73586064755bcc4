"""What an event changes about the fleet's view of its device: a pure rule over the row.

Events arrive late (the outbox of an earlier boot), twice and out of order. Each thing the fleet knows of a device is what
the last event of its stream said that speaks of it, whenever that arrived: `Device.heard` keeps for each where in the
stream it was said. So whatever the order of arrival, the view is the same in the end; only the times of arrival differ.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from sqlalchemy.orm.attributes import flag_modified

from fleet.storage.boot_tables import Position
from fleet.storage.device_tables import Device
from protocol.messages.envelope import Event
from protocol.messages.kinds import DriftState
from protocol.messages.payloads import Birth, Death, DriftReport, Health, InstallReport

__all__ = ["Thing", "lose", "observe", "set_drift"]


BEHIND_S: Final = 60.0
"""How far one replica may be behind another. What was heard later than that was heard by a clock of ours that was ahead."""


class Thing(StrEnum):
    """What is known of a device, each from another event; a key of `Device.heard`."""

    LAST = "last"  # any event: which boot is the present one
    BIRTH = "birth"
    HEALTH = "health"
    DRIFT = "drift"
    RELEASE = "release"
    FAREWELL = "farewell"


def lose(device: Device, boot_id: str, received_at: float) -> None:
    """Believe a last will: the boot we believe in is gone, as far as the broker knows.

    Not where the boot was heard after the will had come (Unix seconds): another replica may be behind with storing it.
    """
    is_behind = device.last_seen is not None and received_at < device.last_seen <= received_at + BEHIND_S
    if device.boot_id in {boot_id, None} and not is_behind:
        device.online = False


def observe(
    device: Device,
    event: Event,
    fields: dict[str, Any],
    *,
    position: Position,
    received_at: float,
    retained: bool,
) -> None:
    """Bring `device` up to date with a stored event; `fields` is the event's data as `plain_data` gives it.

    That an event arrived proves that the device is reachable, unless it is older than the farewell of its device. A
    retained message is the broker's memory, and says nothing about now.

    Args:
        device: the row; changed in place.
        event: what the device said.
        fields: the event's data by name.
        position: where the event stands in the stream of its device.
        received_at: Unix seconds by our clock.
        retained: whether the broker kept the message for us.
    """
    place = [*position]
    if not retained and not isinstance(event.data, Death):
        device.last_seen = received_at  # not the latest one: our clock may have been ahead
        device.online = device.online or device.heard.get(Thing.FAREWELL, []) < place
    if _is_news(device, Thing.LAST, place):
        device.boot_id, device.heard_sent_at = event.boot_id, max(device.heard_sent_at, event.time)
    match event.data:
        case Death():
            if _is_news(device, Thing.FAREWELL, place) and device.heard[Thing.LAST] == place:
                device.online = False
        case Birth() as birth:
            if _is_news(device, Thing.BIRTH, place):
                device.agent_version, device.hardware = birth.agent_version, birth.hardware
                # shown and never believed: what the device is, its claim says
                device.reported_family, device.reported_labels = birth.family, dict(birth.labels)
            _hear_release(device, birth.release, place, received_at)
        case Health() as health:
            if _is_news(device, Thing.HEALTH, place):
                device.last_health, device.last_health_at = fields, received_at
                device.agent_state = health.state.value
            _hear_release(device, health.release, place, received_at)
            _hear_drift(device, place, received_at, drifted=health.drifted, score=health.drift_score)
        case DriftReport() as report:
            drifted = report.state is not DriftState.RECOVERED
            _hear_drift(device, place, received_at, drifted=drifted, score=report.drift_score)
        case InstallReport() as report if report.active_release is not None:
            _hear_release(device, report.active_release, place, received_at)
        case _:
            pass
    # a change inside a dictionary does not show by itself
    flag_modified(device, "heard")


def set_drift(device: Device, *, drifted: bool, score: float, at: float) -> None:
    """Note whether the device's world has left its reference; `drift_since` is when it was first said.

    Args:
        device: the row; changed in place.
        drifted: what the device says now.
        score: largest detector statistic ÷ its threshold; ≥ 1 means drift.
        at: Unix seconds.
    """
    if drifted and not device.drifted:
        device.drift_since = at
    elif not drifted:
        device.drift_since = None
    device.drifted, device.drift_score = drifted, score


def _hear_drift(device: Device, place: list[int], at: float, *, drifted: bool, score: float) -> None:
    if _is_news(device, Thing.DRIFT, place):
        set_drift(device, drifted=drifted, score=score, at=at)


def _hear_release(device: Device, release: str | None, place: list[int], at: float) -> None:
    if _is_news(device, Thing.RELEASE, place) and release != device.release:
        device.release, device.release_since = release, at


def _is_news(device: Device, thing: Thing, place: list[int]) -> bool:
    """Whether nothing later has been said of a thing yet; then this is its last word."""
    heard = device.heard
    if heard.get(thing, []) >= place:
        return False
    heard[thing] = place
    return True
