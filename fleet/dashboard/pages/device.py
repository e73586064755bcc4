"""``/devices/{id}``: how one device is and was, on one axis of time: score, alarms, releases, drift, latency, memory, sight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from fleet.api.dependencies import Services, get_services
from fleet.dashboard.access import signed_in
from fleet.dashboard.device_charts import draw_device
from fleet.dashboard.rendering import page
from fleet.errors import NotFoundError
from fleet.lookups.device_past import (
    count_verdicts,
    read_alarms,
    read_drifts,
    read_executions,
    read_letters,
    read_release_changes,
)
from fleet.lookups.devices import find_device_view, list_boots, list_commands
from fleet.lookups.series import SPANS, read_series
from fleet.views.devices import DeviceView
from service.roles import Caller

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

LATEST: Final = 10


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The false alarms that were promised against those that came; `state` is kept, exceeded, undecided or none."""

    state: str
    tone: str
    words: str


@router.get("/devices/{device_id}")
def show_device(
    device_id: str,
    request: Request,
    caller: Annotated[Caller, Depends(signed_in())],
    services: Annotated[Services, Depends(get_services)],
    span: Annotated[str, Query(max_length=4)] = "1d",
) -> Response:
    """One device over a span that ends now."""
    if span not in SPANS:
        raise NotFoundError(f"span is {span!r}; valid are {', '.join(SPANS)}")
    until = services.now()
    start = until - SPANS[span]
    with services.database.read() as session:
        device = find_device_view(session, device_id)
        caller.check_family(device.family)
        series = read_series(
            session, device_id, start=start, until=until, offline_after_s=services.settings.offline_after_s
        )
        alarms = read_alarms(session, device_id, start=start, until=until)
        drifts = read_drifts(session, device_id, start=start, until=until)
        changes = read_release_changes(session, device_id, start=start, until=until)
        letters, latest_letters = read_letters(session, device_id, 5)
        values: dict[str, Any] = {
            "boots": list_boots(session, device_id, LATEST)[::-1],
            "executions": read_executions(session, device_id, LATEST),
            "commands": list_commands(session, device_id, after=None, limit=LATEST).items,
            "verdicts": count_verdicts(session, device_id),
        }
    return page(
        request,
        "device.html",
        title=device_id,
        live=(f"device:{device_id}", f"anomaly:{device_id}", f"drift:{device_id}"),
        device=device,
        health=device.last_health or {},
        budget=_budget(device),
        span=span,
        spans=list(SPANS),
        series=series,
        charts=draw_device(series, alarms, changes, drifts),
        alarms=alarms[:LATEST],
        alarm_count=len(alarms),
        drifts=drifts[:LATEST],
        changes=changes[::-1][:LATEST],
        letters=letters,
        latest_letters=latest_letters,
        **values,
    )


def _budget(device: DeviceView) -> Budget:
    """Whether the device keeps what it promised: by the exact interval that it tells itself, so that chance is no fault."""
    health = device.last_health or {}
    promised = health.get("promised_per_1000")
    if promised is None:
        return Budget(
            state="none",
            tone="off",
            words="Nothing is promised: too few windows were seen to promise anything.",
        )
    low, high = health.get("realised_low_per_1000") or 0.0, health.get("realised_high_per_1000")
    alarms, windows = health.get("realised_alarms") or 0, health.get("realised_windows") or 0
    came = f"{alarms} in {windows:,} windows came, so between {low:.3g} and {'any number' if high is None else f'{high:.3g}'} in 1000"
    said = f"At most {promised:.3g} false alarms in 1000 windows are promised; {came}."
    if health.get("is_promise_provisional"):
        said += " The promise is provisional: fewer windows stand behind it than it needs."
    if low > promised:
        return Budget(
            state="exceeded", tone="bad", words=f"{said} That is more, unless they were true alarms."
        )
    if high is not None and high <= promised:
        return Budget(state="kept", tone="good", words=said)
    return Budget(state="undecided", tone="go", words=f"{said} That does not contradict it.")
