"""What an event changes about the fleet's view of its device: a pure rule, and the rows of a batch that it is applied to.

Events arrive late (the outbox of an earlier boot), twice and out of order. Each thing the fleet knows of a device is what
the last event of its stream said that speaks of it, whenever that arrived: `Device.heard` keeps for each where in the
stream it was said. So whatever the order of arrival, the view is the same in the end; only the times of arrival differ.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.storage.boot_tables import Position
from fleet.storage.bulk import among, update_rows
from fleet.storage.device_tables import Device, DeviceState
from protocol.messages.envelope import Event
from protocol.messages.kinds import DriftState
from protocol.messages.payloads import Birth, Death, DriftReport, Health, InstallReport

__all__ = ["SEEN_EVERY_S", "DeviceView", "Thing", "lose", "observe", "read_views", "write_views"]


SEEN_EVERY_S: Final = 10.0
"""How exactly it is kept when a device was last heard, where its word says nothing else of it: a row of a device is large, and
thousands of anomalies would each write one. Health is written each time."""

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


@dataclass(slots=True)
class DeviceView:
    """What a batch reads of a row of `Device`, and changes.

    `told` is what it is only ever told anew, by column. `is_changed`: it is to be written.
    """

    id: str
    state: str
    enrolled_again_at: float | None
    online: bool
    boot_id: str | None
    heard: dict[str, list[int]]
    heard_sent_at: float
    last_seen: float | None
    release: str | None
    release_since: float | None
    drifted: bool
    drift_since: float | None
    drift_score: float | None
    told: dict[str, Any] = field(default_factory=dict)
    is_changed: bool = False

    @property
    def is_enrolled(self) -> bool:
        """Whether the fleet lets it in."""
        return self.state == DeviceState.ENROLLED


_READ: Final = tuple(name for name in DeviceView.__slots__ if name not in {"told", "is_changed"})
_WRITTEN: Final = ("id", *_READ[_READ.index("online") :])
_QUERY: Final = select(*(Device.__table__.c[name] for name in _READ))


def read_views(session: Session, names: Collection[str]) -> dict[str, DeviceView]:
    """What is known of these devices; who is not in the answer is a stranger."""
    rows = session.connection().execute(
        _QUERY.where(among(session, [Device.id], [(name,) for name in names]))
    )
    return {row[0]: DeviceView(*row) for row in rows}


def write_views(session: Session, views: Iterable[DeviceView]) -> None:
    """Write those that have changed."""
    rows = [{name: getattr(view, name) for name in _WRITTEN} | view.told for view in views if view.is_changed]
    update_rows(session, Device, ("id",), rows)


def lose(device: DeviceView, boot_id: str, received_at: float) -> None:
    """Believe a last will: the boot we believe in is gone, as far as the broker knows.

    Not where the boot was heard after the will had come (Unix seconds): another replica may be behind with storing it.
    """
    is_behind = device.last_seen is not None and received_at < device.last_seen <= received_at + BEHIND_S
    if device.boot_id in {boot_id, None} and not is_behind:
        device.online, device.is_changed = False, True


def observe(
    device: DeviceView,
    event: Event,
    fields: dict[str, Any],
    *,
    position: Position,
    received_at: float,
    retained: bool,
    seen_every_s: float = SEEN_EVERY_S,
) -> None:
    """Bring `device` up to date with a stored event; `fields` is the event's data as `plain_data` gives it.

    That an event arrived proves that the device is reachable, unless it is older than the farewell of its device. A
    retained message is the broker's memory, and says nothing about now.

    Args:
        device: changed in place.
        event: what the device said.
        fields: the event's data by name.
        position: where the event stands in the stream of its device.
        received_at: Unix seconds by our clock.
        retained: whether the broker kept the message for us.
        seen_every_s: how exactly it is kept that a device was heard, and nothing else.
    """
    place = [*position]
    last, seen, was_online = device.heard.get(Thing.LAST, []), device.last_seen, device.online
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
                device.told |= {
                    "agent_version": birth.agent_version,
                    "hardware": birth.hardware,
                    # shown and never believed: what the device is, its claim says
                    "reported_family": birth.family,
                    "reported_labels": birth.labels,
                }
            _hear_release(device, birth.release, place, received_at)
        case Health() as health:
            if _is_news(device, Thing.HEALTH, place):
                device.told |= {
                    "last_health": fields,
                    "last_health_at": received_at,
                    "agent_state": health.state.value,
                }
            _hear_release(device, health.release, place, received_at)
            said = _Drift(health.drifted, health.drift_accepted, health.drift_score)
            _hear_drift(device, place, received_at, said)
        case DriftReport() as report:
            is_over = report.state in {DriftState.RECOVERED, DriftState.ACCEPTED}
            said = _Drift(not is_over, report.state is DriftState.ACCEPTED, report.drift_score)
            _hear_drift(device, place, received_at, said)
        case InstallReport() as report if report.active_release is not None:
            _hear_release(device, report.active_release, place, received_at)
        case _:
            # of the boot that is the present one already, and not for the first time in a while
            is_told = bool(event.boot_number) and place[:-1] == last[:-1] and device.online == was_online
            if is_told and not retained and seen is not None and 0 <= received_at - seen < seen_every_s:
                return
    device.is_changed = True


class _Drift(NamedTuple):
    """What a device says of drift: is it in it, and has a person called it normal?"""

    drifted: bool
    accepted: bool
    score: float


def _hear_drift(device: DeviceView, place: list[int], at: float, said: _Drift) -> None:
    """Note whether the machine has left its reference; `drift_since` is when it was first said.

    It stays where a person has called normal where the machine is: the device has learnt that, and its release has not.
    """
    if not _is_news(device, Thing.DRIFT, place):
        return
    if not (said.drifted or said.accepted):
        device.drift_since = None
    elif device.drift_since is None or (said.drifted and not device.drifted):
        device.drift_since = at
    device.drifted, device.drift_score = said.drifted, said.score


def _hear_release(device: DeviceView, release: str | None, place: list[int], at: float) -> None:
    if _is_news(device, Thing.RELEASE, place) and release != device.release:
        device.release, device.release_since = release, at


def _is_news(device: DeviceView, thing: Thing, place: list[int]) -> bool:
    """Whether nothing later has been said of a thing yet; then this is its last word."""
    heard = device.heard
    if heard.get(thing, []) >= place:
        return False
    heard[thing] = place
    return True
