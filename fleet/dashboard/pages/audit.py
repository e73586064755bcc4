"""``/audit``: who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from fleet.api.dependencies import Services, get_services
from fleet.api.operations import list_audit, show_audit_head
from fleet.dashboard.access import signed_in
from fleet.dashboard.addresses import with_query
from fleet.dashboard.rendering import page
from service.paging import After
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

LINES = 50


@router.get("/audit")
def show_audit(
    request: Request,
    caller: Annotated[Caller, Depends(signed_in(Role.ADMIN))],
    services: Annotated[Services, Depends(get_services)],
    subject: Annotated[str, Query(max_length=200)] = "",
    action: Annotated[str, Query(max_length=64)] = "",
    after: After = None,
) -> Response:
    """The audit log, newest first."""
    found = list_audit(caller, services, subject or None, action or None, after, LINES)
    return page(
        request,
        "audit.html",
        title="Audit",
        live=() if after else ("audit", "alarm"),
        lines=found.items,
        head=show_audit_head(caller, services),
        subject=subject,
        action=action,
        first=with_query("/audit", subject=subject, action=action) if after else None,
        following=found.next_cursor
        and with_query("/audit", subject=subject, action=action, after=found.next_cursor),
    )
