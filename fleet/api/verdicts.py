"""Labels: people say which alarms were true, and the fleet says whether alarms still mean what they meant."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from fleet.api.dependencies import Services, get_services
from fleet.api.paging import RowId
from fleet.errors import NotFoundError
from fleet.storage.verdict_tables import Verdict, VerdictRecord
from fleet.verdicts import ReleasePrecision, give_verdict, precision_of_family
from fleet.views.observations import PrecisionSummary, PrecisionView, VerdictView
from models.drift.labels import PrecisionSettings
from service.access import require
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["verdicts"])

_SETTINGS = PrecisionSettings()


class VerdictGiven(BaseModel):
    """Was the alarm true? `note` is for people."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"verdict": "false_alarm", "note": "a forklift leant on the frame"}},
    )
    verdict: Verdict
    note: str = Field(default="", max_length=500)


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
            raise NotFoundError(f"anomaly {anomaly_id} has no verdict; give one with PUT to this address")
        return VerdictView.model_validate(record)


@router.get("/precision/summary")
def summarise_precision(
    family: Annotated[str, Query(max_length=64)],
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
) -> PrecisionSummary:
    """Whether a family's alarms are as true as they were: concept drift, seen from the verdicts people gave.

    Each release is a stream of its own, because another model is another opinion; `drifted` is that of the release judged
    last. Nothing is said before 30 verdicts.
    """
    with services.database.read() as session:
        found = precision_of_family(session, family, _SETTINGS)
    since = found[0].drifted_since if found else None
    return PrecisionSummary(
        family=family,
        drifted=since is not None,
        drifted_since=since,
        releases=[_precision_view(precision) for precision in found],
    )


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
