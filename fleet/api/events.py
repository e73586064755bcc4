"""``GET /v1/events``: what changes in the fleet, as server-sent events.

Source: WHATWG HTML, section 9.2, "Server-sent events".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import StreamingResponse

from fleet.api.dependencies import Services, get_services
from fleet.changes.change import Change, ChangeKind, Marks
from fleet.changes.hub import Listener, Told
from runtime.settings_messages import nearest, unknown_key
from service.access import bearer_token, require
from service.errors import ForbiddenError, InvalidQueryError
from service.roles import Caller, Role, allows

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["events"])

MEDIA_TYPE: Final = "text/event-stream"
RETRY_MS: Final = 2000

_ALWAYS: Final = frozenset({ChangeKind.SKIPPED, ChangeKind.END})
_CHOICE: Final = tuple(kind for kind in ChangeKind if kind not in _ALWAYS)
EXAMPLE: Final = (
    "retry: 2000\n\nid: t812.a90.e88.d4.v3071.u412.g1767225600000\nevent: rollout\n"
    'data: {"kind":"rollout","at":1767225600.0,"name":"ro-4f1c0a7be2d95386","what":"group","group":0,"state":"SOAKING","was":"RUNNING"}\n\n'
)

Kinds = Annotated[
    str | None,
    Query(
        max_length=100,
        pattern=r"^[a-z]+(,[a-z]+)*$",
        description="only these kinds, with commas",
        examples=["rollout,alarm"],
    ),
]


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}, "example": EXAMPLE}},
            "description": "events, as they happen",
        }
    },
)
async def stream_events(
    caller: Annotated[Caller, Depends(require(Role.VIEWER, Role.PUBLISHER))],
    token: Annotated[str, Depends(bearer_token)],
    services: Annotated[Services, Depends(get_services)],
    kinds: Kinds = None,
    name: Annotated[str | None, Query(max_length=200, description="only of this rollout or device")] = None,
    last_event_id: Annotated[str | None, Header(max_length=200)] = None,
) -> StreamingResponse:
    """What changes: `rollout` (with its groups), `device`, `anomaly`, `drift`, `alarm`, `alert`, and for admins `audit`.

    `data` is JSON. Who comes back with the last id as ``Last-Event-ID`` hears what happened meanwhile; where that is more than 500 of
    a kind, the latest, and `skipped` names the kind. `end` says why nothing more comes: come back then. A publisher hears of rollouts of
    its families. What single devices do in a rollout is read from its groups.
    """
    wanted = _wanted(kinds, caller)
    since = Marks.parse(last_event_id) if last_event_id else None
    listener, told = await services.changes.listen(token, caller, since)

    def is_meant(change: Change) -> bool:
        if change.kind in _ALWAYS:
            return change.kind is ChangeKind.END or change.name in wanted
        is_its_family = caller.families is None or change.family in caller.families
        return change.kind in wanted and name in {None, change.name} and is_its_family

    return StreamingResponse(
        _lines(services, listener, told, is_meant),
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _lines(
    services: Services,
    listener: Listener,
    told: AsyncIterator[Told],
    is_meant: Callable[[Change], bool],
) -> AsyncIterator[bytes]:
    try:
        yield f"retry: {RETRY_MS}\n\n".encode()
        async for marks, change in told:
            if change is None:
                yield f": here\nid: {marks}\n\n".encode()
            elif is_meant(change):
                data = msgspec.json.encode(change).decode()
                yield f"id: {marks}\nevent: {change.kind}\ndata: {data}\n\n".encode()
    finally:
        services.changes.leave(listener)


def _wanted(kinds: str | None, caller: Caller) -> frozenset[str]:
    visible = [kind for kind in _CHOICE if _may_see(caller, kind)]
    if kinds is None:
        return frozenset(visible)
    asked = kinds.split(",")
    for kind in asked:
        if kind not in _CHOICE:
            known = set(map(str, _CHOICE))
            refused = replace(unknown_key(kind, (), known), field="kinds", value=kind, where="query")
            raise InvalidQueryError(f"kinds: {kind!r} is no kind of event; {nearest(kind, (), known)}").about(
                refused
            )
        if kind not in visible:
            raise ForbiddenError(f"{caller.actor} sees {', '.join(visible)}, and not {kind}")
    return frozenset(asked)


def _may_see(caller: Caller, kind: ChangeKind) -> bool:
    if caller.role is None or caller.role is Role.PUBLISHER:
        return kind is ChangeKind.ROLLOUT
    return kind is not ChangeKind.AUDIT or allows(caller.role, Role.ADMIN)
