"""What a plant is doing now, through the APIs of its services and nothing else: `fedge status` sees what every client may see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from fleet.client.client import FleetClient
from fleet.views.alerts import GroupView
from fleet.views.devices import DeviceView
from fleet.views.observations import AnomalyView
from fleet.views.overview import UNDER_WAY
from fleet.views.rollouts import RolloutSummary
from runtime.errors import FedgeError
from service.client import ApiClient

__all__ = ["PlantStatus", "read_status"]

MOST: Final = 1_000_000
"""Every page is read: a count that stops at a limit is no count."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PlantStatus:
    """One look.

    Attributes:
        at: Unix seconds.
        is_reached: whether the fleet answered; else `problems` says why, and the rest is not known.
        devices: every one that was not revoked, whoever needs a person first.
        anomalies: those that last.
        rollouts: those that are not over, the newest first; else the newest one.
        run: the newest training run, as the aggregator shows it; None: there is none.
        problems: sentences for people: alarms that last, what could not be read, what devices say of themselves.
    """

    at: float
    is_reached: bool = True
    devices: list[DeviceView] = field(default_factory=list)
    anomalies: list[AnomalyView] = field(default_factory=list)
    rollouts: list[RolloutSummary] = field(default_factory=list)
    run: Mapping[str, Any] | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many devices are in which plight."""
        enrolled = [one for one in self.devices if one.state == "enrolled"]
        return {
            "devices": len(self.devices),
            "online": sum(one.online for one in enrolled),
            "offline": sum(not one.online for one in enrolled),
            "waiting": len(self.devices) - len(enrolled),
            "in alarm": sum(one.open_alarms > 0 for one in enrolled),
            "drifted": sum(one.drifted for one in enrolled),
        }


def read_status(fleet: FleetClient, aggregator: ApiClient, now: float) -> PlantStatus:
    """Ask both services. What one of them does not answer is a problem in the status, and no error.

    Args:
        fleet: of the plant.
        aggregator: of the plant.
        now: Unix seconds.
    """
    problems: list[str] = []

    def ask(question: Callable[[], Iterable[T]]) -> list[T]:
        try:
            return list(question())
        except FedgeError as error:
            if (said := str(error)) not in problems:
                problems.append(said)
            return []

    devices = ask(lambda: fleet.listing(DeviceView, "/v1/devices", {}, MOST))
    if problems:  # no need to wait four times for somebody who is not there
        return PlantStatus(at=now, is_reached=False, problems=problems)
    devices = sorted((one for one in devices if one.state != "revoked"), key=_need)
    anomalies = ask(lambda: fleet.listing(AnomalyView, "/v1/anomalies", {"open": "true"}, MOST))
    rollouts = ask(lambda: fleet.listing(RolloutSummary, "/v1/rollouts", {}, 100))
    groups = ask(lambda: fleet.listing(GroupView, "/v1/alert-groups", {"open": "true"}, MOST))
    runs = ask(lambda: aggregator.pages("/v1/training-runs", {}, 1))
    under_way = [one for one in rollouts if one.state in UNDER_WAY]
    told = [f"{group.title}: {', '.join(group.first)}" for group in groups if group.lasting]
    return PlantStatus(
        at=now,
        devices=devices,
        anomalies=anomalies,
        rollouts=under_way or rollouts[:1],
        run=runs[0] if runs else None,
        problems=[*problems, *told, *(f"{one.id}: {said}" for one in devices for said in _said(one))],
    )


def _need(device: DeviceView) -> tuple[bool, bool, bool, bool, str]:
    return (
        device.state == "enrolled",
        device.online,
        not device.open_alarms,
        not device.drifted and not _said(device),
        device.id,
    )


def _said(device: DeviceView) -> list[str]:
    told = (device.last_health or {}).get("problems") or ()
    return [*filter(None, [device.identity_conflict]), *map(str, told)]
