"""What devices reported: anomalies, drift, and the drift summary that starts training."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from sqlalchemy import ColumnElement, and_, select, true

from fleet.api.dependencies import Services, get_services
from fleet.api.paging import RowId, equals, newest_first, read_page
from fleet.errors import NotFoundError
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import LASTS, WAITS, Anomaly, DriftRecord
from fleet.verdicts import precision_of_family
from fleet.views.observations import (
    AnomalyView,
    AnomalyWithWindow,
    DriftSummary,
    DriftView,
)
from models.drift.labels import PrecisionSettings
from service.access import require
from service.paging import After, Limit, Page
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["observations"])

Since = Annotated[float | None, Query(description="received at or after, Unix seconds")]
Until = Annotated[float | None, Query(description="received before, Unix seconds")]


@router.get("/anomalies")
def list_anomalies(
    *,
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
    device: Annotated[str | None, Query(max_length=64)] = None,
    is_open: Annotated[
        bool | None,
        Query(alias="open", description="whether it still lasts; leaves out what never tells of its end"),
    ] = None,
    judged: Annotated[bool | None, Query(description="whether a verdict stands on it")] = None,
    since: Since = None,
    until: Until = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[AnomalyView]:
    """Anomalies, newest first, without their raw windows: those are one call each.

    `since` and `until` are about when the fleet received them; a device that was away sends late what it saw early.
    """
    rows = newest_first(Anomaly, after, limit).where(
        _received(Anomaly, since, until), equals(Anomaly.device, device), _is_open(is_open)
    )
    if judged is not None:
        rows = rows.where(Anomaly.is_judged == true() if judged else WAITS)
    with services.database.read() as session:
        return read_page(session, rows, AnomalyView, limit)


@router.get("/anomalies/{anomaly_id}")
def show_anomaly(
    anomaly_id: RowId,
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
) -> AnomalyWithWindow:
    """One anomaly with the raw window that made it, the only raw data that ever leaves a device; null where its owner withholds it."""
    with services.database.read() as session:
        row = session.get(Anomaly, anomaly_id)
        if row is None:
            raise NotFoundError(f"there is no anomaly {anomaly_id}; list them with GET /v1/anomalies")
        window = None if row.window is None else base64.b64encode(row.window).decode()
        view = AnomalyView.model_validate(row)
    return AnomalyWithWindow(**view.model_dump(), window=window)


@router.get("/drift")
def list_drift(
    *,
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
    family: Annotated[str | None, Query(max_length=64)] = None,
    device: Annotated[str | None, Query(max_length=64)] = None,
    since: Since = None,
    until: Until = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[DriftView]:
    """Drift reports, newest first: what each device said when its world left its reference, or came back to it."""
    rows = newest_first(DriftRecord, after, limit).where(
        _received(DriftRecord, since, until), equals(DriftRecord.device, device)
    )
    if family is not None:
        rows = rows.where(DriftRecord.device.in_(select(Device.id).where(Device.family == family)))
    with services.database.read() as session:
        return read_page(session, rows, DriftView, limit)


@router.get("/drift/summary")
def summarise_drift(
    family: Annotated[str, Query(max_length=64)],
    caller: Annotated[Caller, Depends(require(Role.VIEWER, Role.PUBLISHER))],
    services: Annotated[Services, Depends(get_services)],
) -> DriftSummary:
    """The share of a family that is in drift now: the one call that the aggregator's trigger polls.

    Counted are enrolled devices that were ever heard; `since` is when the first of those that drift now said so. `drift_since`
    also has the devices that drifted to where a person has called normal: they have learnt that, and their release has not.
    """
    caller.check_family(family)
    heard = select(Device.id, Device.drifted, Device.drift_since).where(
        Device.family == family, Device.state == DeviceState.ENROLLED, Device.last_seen.is_not(None)
    )
    with services.database.read() as session:
        rows = session.execute(heard.order_by(Device.id)).all()
        precision = precision_of_family(session, family, PrecisionSettings())
    drifted = {name: since for name, is_drifted, since in rows if is_drifted and since is not None}
    return DriftSummary(
        family=family,
        devices=len(rows),
        drifted=len(drifted),
        share=len(drifted) / len(rows) if rows else 0.0,
        since=min(drifted.values(), default=None),
        drifted_devices=list(drifted),
        drift_since={name: since for name, _, since in rows if since is not None},
        precision_drifted_since=precision[0].drifted_since if precision else None,
    )


def _is_open(wanted: bool | None) -> ColumnElement[bool]:
    if wanted is None:
        return true()
    return LASTS if wanted else Anomaly.end.has()


def _received(
    table: type[Anomaly | DriftRecord], since: float | None, until: float | None
) -> ColumnElement[bool]:
    """That a row was received at or after `since` and before `until`, Unix seconds; None sets no bound."""
    return and_(
        true() if since is None else table.received_at >= since,
        true() if until is None else table.received_at < until,
    )
