"""What an event changes about the fleet's view of its device: a pure rule over the row.

Events may arrive late (the outbox of an earlier boot) or out of order. Only news changes the view: a later sequence
of the same boot, a birth, or an event of an unknown boot that is younger by the device's own clock. That any event
arrived at all proves that the device is reachable.
"""

from __future__ import annotations

from typing import Any

from fleet.storage.device_tables import Device
from protocol.messages.envelope import Event
from protocol.messages.kinds import DriftState
from protocol.messages.payloads import Birth, Death, DriftReport, Health, InstallReport

__all__ = ["observe", "set_drift"]


def observe(
    device: Device, event: Event, fields: dict[str, Any], *, received_at: float, retained: bool
) -> None:
    """Bring `device` up to date with a stored event; `fields` is the event's data as `plain_data` gives it.

    A retained message is the broker's memory: it says nothing about now, except that a last will of the boot we
    believe in means that the device is gone.

    Args:
        device: the row; changed in place.
        event: what the device said.
        fields: the event's data by name.
        received_at: Unix seconds by our clock.
        retained: whether the broker kept the message for us.
    """
    if isinstance(event.data, Death):
        if event.boot_id == device.boot_id or device.boot_id is None:
            device.online = False
        return
    if not retained:
        device.online = True
        device.last_seen = max(device.last_seen or 0.0, received_at)
    if not _is_news(device, event):
        return
    device.boot_id, device.heard_sequence, device.heard_sent_at = event.boot_id, event.sequence, event.time
    match event.data:
        case Birth() as birth:
            device.agent_version, device.hardware = birth.agent_version, birth.hardware
            device.family, device.labels = birth.family, dict(birth.labels)
            _set_release(device, birth.release, received_at)
        case Health() as health:
            device.last_health, device.last_health_at = fields, received_at
            device.agent_state = health.state.value
            _set_release(device, health.release, received_at)
            set_drift(device, drifted=health.drifted, score=health.drift_score, at=received_at)
        case DriftReport() as report:
            set_drift(
                device,
                drifted=report.state is not DriftState.RECOVERED,
                score=report.drift_score,
                at=received_at,
            )
        case InstallReport() as report if report.active_release is not None:
            _set_release(device, report.active_release, received_at)
        case _:
            pass


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


def _is_news(device: Device, event: Event) -> bool:
    """Whether `event` is later than all that shaped the view: by sequence within a boot, by birth or clock between boots."""
    if event.boot_id == device.boot_id:
        return event.sequence > device.heard_sequence
    return isinstance(event.data, Birth) or device.boot_id is None or event.time > device.heard_sent_at


def _set_release(device: Device, release: str | None, at: float) -> None:
    if release != device.release:
        device.release, device.release_since = release, at
