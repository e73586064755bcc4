"""``/v1/rollouts``: create, preview, watch and steer rollouts.

Groups are drawn by the rollout's id, and the id follows from the ``Idempotency-Key``: the same key previews and then
creates the same groups, and a create that is sent twice makes one rollout.
"""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import Field

from fleet.api.dependencies import Services, get_services
from fleet.api.rollout_views import list_rollouts, view_executions, view_rollout, view_timeline
from fleet.rollouts.operations import create_rollout
from fleet.rollouts.plans import EXAMPLE_PLAN, MAXIMUM_GROUPS, RolloutPlan
from fleet.rollouts.saying import carry_out_verb, check_may_say, standing
from fleet.rollouts.states import RolloutState, Subject, Verb
from fleet.rollouts.target_devices import preview_rollout
from fleet.views.previews import PowerLineView, PowerView, Preview, PreviewGroup
from fleet.views.rollouts import ExecutionView, RolloutSummary, RolloutView, TimelineLine
from service.access import require
from service.confirmation import Confirmation, check_confirmed
from service.etags import IfMatch, versioned_tag
from service.idempotency import IdempotencyKey, minted_key, request_digest
from service.json_bodies import json_body
from service.paging import After, Limit, Page, cut_page, decode_cursor, decode_row_cursor, unknown_cursor
from service.roles import Caller, Role

__all__ = ["rollout_id_of", "router"]

router = APIRouter(prefix="/v1", tags=["rollouts"])

PlanBody = Annotated[RolloutPlan, Depends(json_body(RolloutPlan, example=EXAMPLE_PLAN))]
RolloutId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,64}$", examples=["ro-4f1c0a7be2d95386"])]


class VerbAsked(Confirmation):
    """What goes with a verb. `rollback_to`: of a rollback, the release that everybody goes back to, over what the plan says."""

    rollback_to: str | None = Field(default=None, max_length=80, examples=["rotating-machine/1"])


def rollout_id_of(caller: Caller, key: str) -> str:
    """The id of the rollout that `caller` makes under an idempotency key."""
    return f"ro-{request_digest(caller, key)[:16]}"


@router.post("/rollouts:preview")
def preview(
    caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
    plan: PlanBody,
    idempotency_key: IdempotencyKey = None,
) -> Preview:
    """The exact devices of each group, and what the gates would see of known harm; nothing is changed.

    Create with the `idempotency_key` that is answered, and exactly these groups are drawn, whoever creates.
    """
    key = idempotency_key or minted_key()
    targets, foresight = preview_rollout(
        services.database,
        plan,
        rollout_id_of(caller, key),
        services.now(),
        offline_after_s=services.settings.offline_after_s,
        kept=services.settings.retention,
    )
    return Preview(
        idempotency_key=key,
        release=plan.release,
        devices=sum(len(devices) for devices in targets.groups),
        groups=[
            PreviewGroup(
                number=number,
                name=group.name or f"group-{number}",
                percentage=group.percentage,
                count=group.count,
                devices=sorted(devices),
            )
            for number, (group, devices) in enumerate(zip(plan.drawn_groups, targets.groups, strict=True))
        ],
        already_running=list(targets.current),
        power=PowerView(
            lines=[PowerLineView.model_validate(line, from_attributes=True) for line in foresight.lines],
            words=list(foresight.words),
        ),
    )


@router.post("/rollouts", status_code=201)
def create(
    caller: Annotated[Caller, Depends(require(Role.OPERATOR, Role.PUBLISHER))],
    services: Annotated[Services, Depends(get_services)],
    plan: PlanBody,
    response: Response,
    idempotency_key: IdempotencyKey = None,
    start: Annotated[
        bool, Query(description="start it at once; where that is refused, nothing is created")
    ] = False,
) -> RolloutView:
    """Create a rollout; it is READY (or WAITING_FOR_APPROVAL) and begins with ``:start``, or at once with ``?start=true``.

    With an ``Idempotency-Key`` that was used before: 200 and that rollout if the plan is the same, else 409.
    """
    rollout_id = rollout_id_of(caller, idempotency_key or minted_key())
    created = create_rollout(
        services.database,
        plan,
        rollout_id,
        caller=caller,
        now=services.now(),
        approved_families=services.settings.approved_families,
        kept=services.settings.retention,
        starts=services.publisher if start else None,
    )
    services.wake_rollouts()
    if not created:
        response.status_code = 200
    return _view(services, rollout_id, response)


def _view(services: Services, rollout_id: str, response: Response) -> RolloutView:
    with services.database.read() as session:
        view = view_rollout(session, rollout_id, services.now())
    response.headers["ETag"] = versioned_tag(standing(view), view.model_dump_json().encode())
    return view


@router.get("/rollouts")
def index(
    caller: Annotated[Caller, Depends(require(Role.VIEWER, Role.PUBLISHER))],
    state: RolloutState | None = None,
    after: After = None,
    limit: Limit = 100,
    services: Services = Depends(get_services),
) -> Page[RolloutSummary]:
    """Rollouts, newest first, each with how many of its devices stand where; `state` leaves out the others."""
    before = _read_place(after) if after else None
    with services.database.read() as session:
        found = list_rollouts(session, state=state, families=caller.families, before=before, limit=limit + 1)
    return cut_page(found, limit, key=lambda rollout: f"{rollout.created_at!r} {rollout.id}")


def _read_place(cursor: str) -> tuple[float, str]:
    """When the rollout that a cursor names was created, and its id: it may be gone by now."""
    at, _, rollout = decode_cursor(cursor).partition(" ")
    try:
        created_at = float(at)
    except ValueError:
        raise unknown_cursor(cursor) from None
    if not (math.isfinite(created_at) and rollout and "\0" not in rollout):
        raise unknown_cursor(cursor)
    return created_at, rollout


@router.get("/rollouts/{rollout_id}", dependencies=[Depends(require(Role.VIEWER))])
def show(
    rollout_id: RolloutId, response: Response, services: Services = Depends(get_services)
) -> RolloutView:
    """One rollout with its groups and the latest lines of its timeline.

    `reason` says why it is in its present state, `waiting_for` what must happen next, `verbs` what it obeys now. The ETag goes with a
    verb, as If-Match.
    """
    return _view(services, rollout_id, response)


@router.get("/rollouts/{rollout_id}/groups/{number}/executions", dependencies=[Depends(require(Role.VIEWER))])
def executions(
    rollout_id: RolloutId,
    number: Annotated[int, Path(ge=0, le=MAXIMUM_GROUPS)],
    after: After = None,
    limit: Limit = 100,
    services: Services = Depends(get_services),
) -> Page[ExecutionView]:
    """The devices of a group and how far each is: attempts, what it ran before, its last step and progress."""
    device = decode_cursor(after) if after else ""
    with services.database.read() as session:
        found = view_executions(session, rollout_id, number, after=device, limit=limit + 1)
    return cut_page(found, limit, key=lambda execution: execution.device)


@router.get("/rollouts/{rollout_id}/timeline", dependencies=[Depends(require(Role.VIEWER))])
def timeline(
    rollout_id: RolloutId,
    subject: Subject | None = None,
    after: After = None,
    limit: Limit = 100,
    services: Services = Depends(get_services),
) -> Page[TimelineLine]:
    """Every transition of a rollout, its groups, its devices and its release, the first one first; `subject` leaves out the others."""
    line = decode_row_cursor(after) if after else 0
    with services.database.read() as session:
        found = view_timeline(session, rollout_id, after=line, limit=limit + 1, subject=subject)
    return cut_page(found, limit, key=lambda line: line.id)


@router.post("/rollouts/{rollout_id}:{verb}")
def carry_out(
    rollout_id: RolloutId,
    verb: Verb,
    response: Response,
    caller: Caller = Depends(require(Role.OPERATOR, Role.PUBLISHER)),
    services: Services = Depends(get_services),
    asked: VerbAsked | None = None,
    if_match: IfMatch = None,
) -> RolloutView:
    """Approve, start, pause, resume, cancel, roll back, or do not wait for the present group.

    What follows at once (the first group gets the release, every device goes back) has happened when this answers. 409
    names the present state and the verbs that it obeys, or the rollout that still has one of the devices. Rolling back withdraws
    the release, for good: 422 where `confirm` is not the rollout's id; the other verbs need none. With the ETag of what was read as
    If-Match: 412 where the rollout, or one of its groups, has entered another state since.
    """
    check_may_say(caller, verb)
    if verb is Verb.ROLLBACK:
        check_confirmed(asked, rollout_id, f"rolling back rollout {rollout_id}, which withdraws its release,")
    carry_out_verb(
        services.database,
        services.publisher,
        rollout_id,
        verb,
        caller=caller,
        now=services.now(),
        approved_families=services.settings.approved_families,
        if_match=if_match,
        rollback_to=None if asked is None else asked.rollback_to,
    )
    services.wake_rollouts()
    return _view(services, rollout_id, response)
