"""``/v1/training-runs``: start, list, read, cancel."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from aggregator.api.run_view import run_summary, run_view
from aggregator.errors import RunConflictError
from aggregator.run_scheduler import RunScheduler
from service.access import require
from service.idempotency import IdempotencyKey, request_digest
from service.paging import After, Limit, cut_page, decode_cursor
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1/training-runs", tags=["training runs"])

Viewer = Annotated[Caller, Depends(require(Role.VIEWER))]
Operator = Annotated[Caller, Depends(require(Role.OPERATOR))]
RunName = Annotated[str, Path(max_length=64, pattern="^[A-Za-z0-9._-]+$")]


class RunRequest(BaseModel):
    """Body of ``POST /v1/training-runs``; `rounds` absent takes the family's setting."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"family": "rotating-machine", "reason": "new bearings in hall 2", "rounds": 5}]
        },
    )

    family: Annotated[str, Field(min_length=1, max_length=64)]
    reason: Annotated[str, Field(max_length=500)] = "a person asked for it"
    rounds: Annotated[int, Field(ge=0, le=1000)] | None = None


@router.post("", status_code=201)
def start(
    body: RunRequest,
    request: Request,
    response: Response,
    operator: Operator,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Start a run. 404: unknown family. 409: the family is training already.

    With an ``Idempotency-Key`` that was used before: 200 and that run if the same was asked for, else 409.
    """
    scheduler: RunScheduler = request.app.state.scheduler
    run_id = idempotency_key and f"run-{request_digest(operator, idempotency_key)[:16]}"
    if run_id and (known := scheduler.store.find(run_id)) is not None:
        is_same = (known.family, known.reason) == (body.family, body.reason)
        if not is_same or body.rounds not in {None, known.rounds}:
            raise RunConflictError(
                f"run {run_id} of {known.family} was asked for under this Idempotency-Key, and is another one; use a new key"
            )
        response.status_code = 200
        return run_view(known)
    run = scheduler.start_run(
        body.family,
        trigger="person",
        reason=body.reason,
        requested_by=operator.name,
        rounds=body.rounds,
        run_id=run_id,
    )
    return run_view(run)


@router.get("")
def list_runs(
    request: Request,
    _viewer: Viewer,
    family: Annotated[str | None, Query(max_length=64)] = None,
    after: After = None,
    limit: Limit = 100,
) -> dict[str, Any]:
    """Runs, the newest first."""
    scheduler: RunScheduler = request.app.state.scheduler
    before = decode_cursor(after) if after else None
    found = scheduler.store.recent(family=family, before=before, limit=limit + 1)
    return cut_page([run_summary(run) for run in found], limit, key=lambda run: str(run["id"])).model_dump()


@router.get("/{run_id}")
def read(run_id: RunName, request: Request, _viewer: Viewer) -> dict[str, Any]:
    """One run, complete, at any time of its life."""
    scheduler: RunScheduler = request.app.state.scheduler
    return run_view(scheduler.store.get(run_id))


@router.post("/{run_id}:cancel", status_code=202)
def cancel(run_id: RunName, request: Request, _operator: Operator) -> dict[str, Any]:
    """Ask for the end of a run; it ends within a second or at its next step. 409: it has ended."""
    scheduler: RunScheduler = request.app.state.scheduler
    return run_summary(scheduler.store.request_cancel(run_id))
