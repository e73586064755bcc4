"""``/rollouts`` and each of them: what it waits for, what its gates see, what came of every device; and its verbs, each asked twice."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Form, Path, Request
from fastapi.responses import Response
from markupsafe import Markup

from fleet.api import rollouts as api
from fleet.api.dependencies import Services, get_services
from fleet.api.rollout_views import view_rollout
from fleet.dashboard.access import signed_in
from fleet.dashboard.charts.intervals import draw_axis
from fleet.dashboard.charts.parts import draw_parts
from fleet.dashboard.gate_rows import MEANINGS, gate_rows, look_charts
from fleet.dashboard.notices import see_other
from fleet.dashboard.rendering import page
from fleet.dashboard.rollout_words import deed_of, words_for
from fleet.rollouts.plans import MAXIMUM_GROUPS
from fleet.rollouts.reach import count_failures, read_reach
from fleet.rollouts.saying import check_may_say, standing
from fleet.rollouts.states import FAILURES, RolloutState, Subject, Verb
from fleet.views.rollouts import GroupView, RolloutView
from protocol.messages.kinds import InstallStatus
from service.errors import ChangedMeanwhileError
from service.etags import versioned_tag
from service.paging import After
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/rollouts", include_in_schema=False)

ROWS: Final = 50
LATEST: Final = 25
"""Lines of the timeline on the rollout's own page."""

Viewer = Annotated[Caller, Depends(signed_in())]
Operator = Annotated[Caller, Depends(signed_in(Role.OPERATOR))]
Shared = Annotated[Services, Depends(get_services)]

PARTS: Final[tuple[tuple[frozenset[str], str, str], ...]] = (
    (frozenset({InstallStatus.SUCCEEDED}), "good", "have it"),
    (frozenset({InstallStatus.IN_PROGRESS}), "go", "installing"),
    (frozenset({InstallStatus.DEFERRED}), "wait", "put it off"),
    (frozenset(FAILURES), "bad", "failed or went back"),
    (frozenset({InstallStatus.QUEUED}), "off", "waiting"),
    (frozenset({InstallStatus.CANCELED}), "off", "canceled"),
)
"""How devices stand, for one bar."""

PAST: Final[dict[Verb, str]] = {
    Verb.APPROVE: "approved",
    Verb.START: "started",
    Verb.PAUSE: "paused",
    Verb.RESUME: "goes on",
    Verb.CANCEL: "canceled",
    Verb.ROLLBACK: "goes back",
    Verb.TRIGGER_NEXT_GROUP: "went on to the next group",
    Verb.RETRY_FAILED: "tries again",
}


@router.get("")
def list_rollouts(
    request: Request,
    caller: Viewer,
    services: Shared,
    state: RolloutState | None = None,
    after: After = None,
) -> Response:
    """All rollouts, the newest first."""
    found = api.index(caller, state, after, ROWS, services)
    return page(
        request,
        "rollouts.html",
        title="Rollouts",
        live=("rollout",),
        rollouts=[(one, _bar(one.counts, one.name)) for one in found.items],
        next_page=_address("/rollouts", state=state, after=found.next_cursor) if found.next_cursor else None,
        first_page=_address("/rollouts", state=state) if after else None,
        state=state,
        states=list(RolloutState),
    )


@router.get("/{rollout_id}")
def show_rollout(rollout_id: api.RolloutId, request: Request, caller: Viewer, services: Shared) -> Response:
    """One rollout: what it waits for and why, its gates, its groups."""
    with services.database.read() as session:
        view = view_rollout(session, rollout_id, services.now())
        failures = count_failures(session, rollout_id)
    judged = _judged(view)
    return page(
        request,
        "rollout.html",
        title=view.name,
        live=(f"rollout:{rollout_id}",),
        rollout=view,
        words=words_for(view, caller),
        needs_another=view.state is RolloutState.WAITING_FOR_APPROVAL and caller.person == view.author,
        whole=_bar(view.counts, view.name),
        devices=sum(view.counts.values()),
        groups=[(group, _bar(group.counts, group.name)) for group in view.groups],
        judged=judged,
        look=judged.looks[-1] if judged else None,
        gates=gate_rows(judged.looks[-1]) if judged else [],
        axis=draw_axis(),
        over_time=look_charts(judged.looks) if judged else [],
        earlier=[group for group in view.groups if group.looks and group is not judged],
        meanings=MEANINGS,
        failures=failures,
        timeline=[line for line in view.timeline if line.subject is not Subject.DEVICE][-LATEST:][::-1],
        plan=json.dumps(view.plan, indent=2, ensure_ascii=False),
    )


def _judged(view: RolloutView) -> GroupView | None:
    """The group that was looked at last."""
    looked = [group for group in view.groups if group.looks]
    return max(looked, key=lambda group: (group.looks[-1].at, group.number), default=None)


def _bar(counts: dict[str, int], title: str) -> Markup:
    parts = [(sum(counts.get(state, 0) for state in states), tone, words) for states, tone, words in PARTS]
    return draw_parts(parts, title=f"devices of {title}")


def _address(path: str, **query: Any) -> str:
    given = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
    return f"{path}?{given}" if given else path


@router.get("/{rollout_id}/groups/{number}", dependencies=[Depends(signed_in())])
def show_group(
    *,
    rollout_id: api.RolloutId,
    number: Annotated[int, Path(ge=0, le=MAXIMUM_GROUPS)],
    request: Request,
    services: Shared,
    after: After = None,
) -> Response:
    """The devices of one group: how far each is, and what came of judging live windows by both releases."""
    found = api.executions(rollout_id, number, after, ROWS, services)
    view = api.show(rollout_id, Response(), services)
    group = view.groups[number]
    here = f"/rollouts/{rollout_id}/groups/{number}"
    return page(
        request,
        "rollout_group.html",
        title=f"{view.name}: {group.name}",
        live=(f"rollout:{rollout_id}",),
        rollout=view,
        group=group,
        bar=_bar(group.counts, group.name),
        executions=found.items,
        next_page=_address(here, after=found.next_cursor) if found.next_cursor else None,
        first_page=here if after else None,
    )


@router.get("/{rollout_id}/timeline", dependencies=[Depends(signed_in())])
def show_timeline(
    *,
    rollout_id: api.RolloutId,
    request: Request,
    services: Shared,
    subject: Subject | None = None,
    after: After = None,
) -> Response:
    """Every transition, the first one first."""
    found = api.timeline(rollout_id, subject, after, ROWS, services)
    view = api.show(rollout_id, Response(), services)
    here = f"/rollouts/{rollout_id}/timeline"
    return page(
        request,
        "rollout_timeline.html",
        title=f"{view.name}: what happened",
        rollout=view,
        lines=found.items,
        subject=subject,
        subjects=list(Subject),
        next_page=_address(here, subject=subject, after=found.next_cursor) if found.next_cursor else None,
        first_page=_address(here, subject=subject) if after else None,
    )


@router.get("/{rollout_id}/{verb}")
def ask_verb(
    rollout_id: api.RolloutId, verb: Verb, request: Request, caller: Operator, services: Shared
) -> Response:
    """What the verb would do, to how many devices; nothing is done yet."""
    check_may_say(caller, verb)
    with services.database.read() as session:
        view = view_rollout(session, rollout_id, services.now())
        reach = read_reach(session, rollout_id)
    word = next((one for one in words_for(view, caller) if one.verb is verb), None)
    return page(
        request,
        "rollout_verb.html",
        title=view.name,
        rollout=view,
        verb=verb,
        deed=deed_of(verb, view, reach),
        refusal="a rollout in this state does not obey it" if word is None else word.refusal,
        standing=versioned_tag(standing(view), b""),
        ways_back=verb is Verb.ROLLBACK,
    )


@router.post("/{rollout_id}/{verb}")
def say_verb(
    *,
    rollout_id: api.RolloutId,
    verb: Verb,
    caller: Operator,
    services: Shared,
    standing: Annotated[str, Form(max_length=200)],
    rollback_to: Annotated[str, Form(max_length=80)] = "",
) -> Response:
    """Say it, to the rollout as it stood when the person was asked; a second click finds it changed, and does nothing."""
    asked = api.VerbAsked(confirm=rollout_id, rollback_to=rollback_to.strip() or None)
    try:
        view = api.carry_out(rollout_id, verb, Response(), caller, services, asked, standing)
        notice = f"{view.name} {PAST[verb]}: it is {view.state} now"
    except ChangedMeanwhileError:
        view = api.show(rollout_id, Response(), services)
        notice = (
            f"{view.name} changed in between, and is {view.state} now; say it again if it shall still be done"
        )
    return see_other(f"/rollouts/{rollout_id}", notice)
