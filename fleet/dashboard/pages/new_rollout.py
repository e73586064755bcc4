"""``/rollouts/new``: a plan, then its exact devices and what its gates would see, and only then the rollout.

The form carries an idempotency key from its first page on, so that the groups that are shown are the groups that are drawn, and a
button that is pressed twice makes one rollout.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import Response

from fleet.api import releases as releases_api
from fleet.api import rollouts as api
from fleet.api.dependencies import Services, get_services
from fleet.api.statuses import STATUSES
from fleet.dashboard.access import signed_in
from fleet.dashboard.notices import see_other
from fleet.dashboard.plan_form import Misplaced, PlanForm, new_form, place_of, read_plan
from fleet.dashboard.rendering import page
from fleet.errors import UnavailableError
from fleet.rollouts.plans import RolloutPlan
from fleet.rollouts.saying import is_approved_family
from fleet.storage.rollout_tables import RolloutRecord
from fleet.views.previews import Preview
from runtime.errors import FedgeError, StorageError
from service.idempotency import minted_key
from service.json_bodies import read_json_body
from service.problems import problem_of
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/rollouts", include_in_schema=False)

Operator = Annotated[Caller, Depends(signed_in(Role.OPERATOR))]
Shared = Annotated[Services, Depends(get_services)]
Short = Annotated[str, Form(max_length=200)]

NAMED: Final = 2000
"""Devices of a group that are named; the others are counted."""

RELEASES: Final = 200
_KEY: Final = re.compile(r"pv-[0-9a-f]{32}")


@router.get("/new")
def show_form(
    request: Request,
    caller: Operator,
    services: Shared,
    release: Annotated[str, Query(max_length=80)] = "",
    query: Annotated[str, Query(max_length=2000)] = "",
) -> Response:
    """An empty form, or one for a `release` or the devices of a `query`."""
    return _page(request, caller, services, new_form(release=release, target_query=query))


@router.post("/new")
def preview_plan(
    request: Request, caller: Operator, services: Shared, typed: Annotated[PlanForm, Form()]
) -> Response:
    """What the plan would reach and see, or what is wrong with it, beside the field."""
    form = typed if _is_fresh(services, caller, typed.key) else typed.model_copy(update={"key": minted_key()})
    try:
        plan = read_plan(form)
        preview = api.preview(caller, services, plan, form.key)
    except FedgeError as error:
        if isinstance(error, StorageError | UnavailableError):
            raise
        problem = problem_of(error, STATUSES, request.url.path)
        status = 422 if problem is None else problem.status_code
        return _page(request, caller, services, form, wrong=place_of(error, form), status=status)
    return _page(request, caller, services, form, plan=plan, preview=preview)


def _is_fresh(services: Services, caller: Caller, key: str) -> bool:
    """Whether a rollout may still be made under `key`: who came back from one that was made wants another."""
    if not _KEY.fullmatch(key):
        return False
    with services.database.read() as session:
        return session.get(RolloutRecord, api.rollout_id_of(caller, key)) is None


@router.post("")
def create(
    *,
    caller: Operator,
    services: Shared,
    key: Annotated[str, Form(pattern=_KEY.pattern, max_length=100)],
    plan: Annotated[str, Form(max_length=60_000)],
    start: Short = "",
) -> Response:
    """Make the rollout that was previewed, and start it if that was the button; the same form again makes no second one."""
    wanted = read_json_body(_plain(plan), RolloutPlan)
    view = api.create(caller, services, wanted, Response(), key, bool(start) and not _waits(services, wanted))
    return see_other(f"/rollouts/{view.id}", f"{view.name} is {view.state.replace('_', ' ').lower()}")


def _plain(plan: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(plan, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return {}  # which is no plan, and is refused as that


def _waits(services: Services, plan: RolloutPlan) -> bool:
    """Whether another person has to approve it first."""
    return (
        plan.require_approval
        or plan.force
        or is_approved_family(plan.family, services.settings.approved_families)
    )


def _page(
    request: Request,
    caller: Caller,
    services: Services,
    form: PlanForm,
    *,
    plan: RolloutPlan | None = None,
    preview: Preview | None = None,
    wrong: Misplaced | None = None,
    status: int = 200,
) -> Response:
    found = releases_api.list_releases(caller, services, None, None, RELEASES).items
    offered = [one for one in found if one.withdrawn_at is None and one.listed_at is not None]
    return page(
        request,
        "new_rollout.html",
        title="New rollout",
        status=status,
        form=form,
        releases=[one.id for one in offered][::-1],
        wrong=wrong,
        preview=preview,
        plan=None if plan is None else msgspec.json.encode(plan).decode(),
        soaks=[] if plan is None else [group.soak_s for group in plan.drawn_groups],
        waits=plan is not None and _waits(services, plan),
        named=NAMED,
    )
