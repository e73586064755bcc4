"""What devices reported: anomalies, drift, and the drift summary that starts training."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, and_, select, true

from fleet.api.dependencies import Services, get_services
from fleet.api.paging import RowId, RowView, equals, newest_first, read_page
from fleet.errors import NotFoundError
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import Anomaly, DriftRecord
from fleet.verdicts import precision_of_family
from models.drift.labels import PrecisionSettings
from service.access import require
from service.paging import After, Limit, Page
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["observations"])

Since = Annotated[float | None, Query(description="received at or after, Unix seconds")]
Until = Annotated[float | None, Query(description="received before, Unix seconds")]


class ReportView(RowView):
    """What every report of a device says. `sent_at` is the device's clock, `received_at` ours."""

    device: str
    boot_id: str
    sequence: int
    sent_at: float
    received_at: float
    release: str


class EndView(BaseModel):
    """How an anomaly ended, and how long it was: `lasted_s` and `observed_at_s` are on the machine's own clock.

    It took `windows` windows, of which `windows_over` were over the threshold; the highest score was `peak_score`.
    `reason` is calm (the scores stayed below the threshold) or release (another model judges now). `sent_at` is the
    device's clock, `received_at` ours.
    """

    model_config = ConfigDict(from_attributes=True)
    observed_at_s: float
    lasted_s: float
    windows: int
    windows_over: int
    peak_score: float
    reason: str
    sent_at: float
    received_at: float


class AnomalyView(ReportView):
    """An anomaly. `sent_at` is the device's clock, `received_at` ours, `observed_at_s` the machine's.

    `end` is null while it lasts, or until the end has arrived. `episode` is the device's name for it; where that is null
    too, the agent is one that never tells of an end. `window_withheld`: the owner of the device lets no raw window leave
    it, and nobody can change that from here.
    """

    episode: str | None
    end: EndView | None
    score: float
    threshold: float
    window_index: int
    windows_over: int
    observed_at_s: float
    contributors: list[str]
    window_shape: list[int]
    window_withheld: bool | None


class AnomalyWithWindow(AnomalyView):
    """An anomaly with its raw window: base64 of little-endian float32 of `window_shape`, or null if it came without."""

    window: str | None


class DriftView(ReportView):
    """A drift report; `drift_score` ≥ 1 means a change.

    `state` is drifted, settled (elsewhere), changed (further) or recovered; `severity` is how far the sensor that moved most
    lies from its reference, in standard deviations; `shapes` are PSI and KS of the sensors that differ most, each with what
    chance alone gives.
    """

    state: str
    drift_score: float
    observed_at_s: float
    windows: int
    findings: list[dict[str, Any]]
    severity: float | None
    shapes: list[dict[str, Any]] | None


class DriftSummary(BaseModel):
    """How much of a family has drifted now. `devices` counts enrolled devices that were ever heard.

    `precision_drifted_since` (Unix s, or null) is the other kind of drift: people's verdicts on the alarms of the release
    judged last say that fewer of them are true than before (`GET /v1/precision/summary`).
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "family": "rotating-machine",
                "devices": 12,
                "drifted": 8,
                "share": 0.667,
                "since": 1767225600.0,
                "drifted_devices": ["press-1", "press-7"],
                "drift_since": {"press-1": 1767225600.0, "press-7": 1767225660.0},
                "precision_drifted_since": None,
            }
        }
    )
    family: str
    devices: int
    drifted: int
    share: float
    since: float | None
    drifted_devices: list[str]
    drift_since: dict[str, float]
    precision_drifted_since: float | None


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

    Counted are enrolled devices that were ever heard; `since` is when the first of those that drift now said so.
    """
    caller.check_family(family)
    heard = select(Device.id, Device.drifted, Device.drift_since).where(
        Device.family == family, Device.state == DeviceState.ENROLLED, Device.last_seen.is_not(None)
    )
    with services.database.read() as session:
        rows = session.execute(heard.order_by(Device.id)).tuples().all()
        precision = precision_of_family(session, family, PrecisionSettings())
    drift_since = {name: since for name, drifted, since in rows if drifted and since is not None}
    return DriftSummary(
        family=family,
        devices=len(rows),
        drifted=len(drift_since),
        share=len(drift_since) / len(rows) if rows else 0.0,
        since=min(drift_since.values(), default=None),
        drifted_devices=list(drift_since),
        drift_since=drift_since,
        precision_drifted_since=precision[0].drifted_since if precision else None,
    )


def _is_open(wanted: bool | None) -> ColumnElement[bool]:
    if wanted is None:
        return true()
    return Anomaly.episode.is_not(None) & ~Anomaly.end.has() if wanted else Anomaly.end.has()


def _received(
    table: type[Anomaly | DriftRecord], since: float | None, until: float | None
) -> ColumnElement[bool]:
    """That a row was received at or after `since` and before `until`, Unix seconds; None sets no bound."""
    return and_(
        true() if since is None else table.received_at >= since,
        true() if until is None else table.received_at < until,
    )
