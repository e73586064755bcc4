"""Labels: people say which alarms were true, and the fleet says whether alarms still mean what they meant."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from fleet.api.dependencies import Services, get_services
from fleet.api.paging import RowId
from fleet.errors import NotFoundError
from fleet.lookups.precision import check_known
from fleet.storage.verdict_tables import Verdict, VerdictRecord
from fleet.verdicts import (
    AT_ONCE,
    ReleasePrecision,
    give_verdict,
    give_verdicts,
    precision_of_family,
    take_back,
)
from fleet.views.observations import PrecisionSummary, PrecisionView, VerdictsView, VerdictView
from models.drift.labels import PrecisionSettings
from service.access import require
from service.paging import MAXIMUM_ROW_ID, After, Limit, Page, cut_page, decode_row_cursor
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["verdicts"])

AnomalyId = Annotated[int, Field(ge=1, le=MAXIMUM_ROW_ID)]
_SETTINGS = PrecisionSettings()


class VerdictGiven(BaseModel):
    """Was the alarm true? `note` is for people."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"verdict": "false_alarm", "note": "a forklift leant on the frame"}},
    )
    verdict: Verdict
    note: str = Field(default="", max_length=500)


class VerdictsGiven(BaseModel):
    """The same of many anomalies; `verdict` null takes back what was said of them. Without a `note` the old one stays."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"anomalies": [4711, 4712], "verdict": "false_alarm", "note": "a crane"}
        },
    )
    anomalies: Annotated[list[AnomalyId], Field(min_length=1, max_length=AT_ONCE)]
    verdict: Verdict | None
    note: str | None = Field(default=None, max_length=500)


@router.put("/anomalies/{anomaly_id}/verdict")
def judge_anomaly(
    anomaly_id: RowId,
    given: VerdictGiven,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> VerdictView:
    """Say whether an anomaly was a true alarm; again to correct it. Durable when answered, with author and time."""
    record = give_verdict(
        services.database,
        anomaly_id,
        given.verdict,
        note=given.note,
        caller=caller,
        now=services.now(),
        settings=_SETTINGS,
    )
    return VerdictView.model_validate(record)


@router.post("/anomalies:judge")
def judge_anomalies(
    given: VerdictsGiven,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> VerdictsView:
    """Say the same of many anomalies at once, or take what was said of them back (`verdict` null): a storm is one thing."""
    if given.verdict is None:
        done = take_back(services.database, given.anomalies, caller=caller, now=services.now())
    else:
        done = give_verdicts(
            services.database,
            given.anomalies,
            given.verdict,
            note=given.note,
            caller=caller,
            now=services.now(),
            settings=_SETTINGS,
        )
    left = sorted(set(given.anomalies) - set(done))
    return VerdictsView(verdict=given.verdict, anomalies=sorted(done), left_out=left)


@router.delete("/anomalies/{anomaly_id}/verdict", status_code=204, response_class=Response)
def take_verdict_back(
    anomaly_id: RowId,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> None:
    """Take a verdict back: nobody has judged the anomaly any more, and the audit log keeps who had. 404 where there is none."""
    if not take_back(services.database, [anomaly_id], caller=caller, now=services.now()):
        raise _no_verdict(anomaly_id)


@router.get("/anomalies/{anomaly_id}/verdict")
def show_verdict(
    anomaly_id: RowId,
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
) -> VerdictView:
    """The present verdict on an anomaly; 404 where nobody has given one."""
    with services.database.read() as session:
        record = session.get(VerdictRecord, anomaly_id)
        if record is None:
            raise _no_verdict(anomaly_id)
        return VerdictView.model_validate(record)


@router.get("/verdicts")
def list_verdicts(
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
    after: After = None,
    limit: Limit = 100,
) -> Page[VerdictView]:
    """The verdicts that stand, by the number of what they are about, the oldest anomaly first."""
    rows = select(VerdictRecord).order_by(VerdictRecord.anomaly).limit(limit + 1)
    if after:
        rows = rows.where(VerdictRecord.anomaly > decode_row_cursor(after))
    with services.database.read() as session:
        views = [VerdictView.model_validate(record) for record in session.scalars(rows)]
    return cut_page(views, limit, key=lambda view: view.anomaly)


@router.get("/precision/summary")
def summarise_precision(
    family: Annotated[str, Query(max_length=64)],
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
) -> PrecisionSummary:
    """Whether a family's alarms are as true as they were: concept drift, seen from the verdicts people gave.

    Each release is a stream of its own, because another model is another opinion; `drifted` is that of the release judged
    last. Nothing is said before 30 verdicts. 404 for a family that has no device, no release and no verdict.
    """
    with services.database.read() as session:
        check_known(session, family)
        found = precision_of_family(session, family, _SETTINGS)
    since = found[0].drifted_since if found else None
    return PrecisionSummary(
        family=family,
        drifted=since is not None,
        drifted_since=since,
        releases=[_precision_view(precision) for precision in found],
    )


def _no_verdict(anomaly_id: int) -> NotFoundError:
    return NotFoundError(f"anomaly {anomaly_id} has no verdict; give one with PUT to this address")


def _precision_view(precision: ReleasePrecision) -> PrecisionView:
    state = precision.state
    return PrecisionView(
        release=precision.release,
        judged=state.judged,
        true_alarms=state.true_alarms,
        false_alarms=state.judged - state.true_alarms,
        precision=state.precision,
        baseline=state.baseline,
        recent=state.recent,
        drifted_since=precision.drifted_since,
    )
