"""For whoever runs the service: is it well, who changed what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from fleet.api.dependencies import Services, get_services
from fleet.api.paging import equals, newest_first, read_page
from fleet.audit import read_head
from fleet.storage.access_tables import AuditEntry
from fleet.views.operations import AuditView, HeadView, HealthView
from service.access import require
from service.paging import After, Limit, Page
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(tags=["operations"])


@router.get("/healthz", responses={503: {"model": HealthView, "description": "the database does not answer"}})
async def health(services: Annotated[Services, Depends(get_services)], response: Response) -> HealthView:
    """Whether the service answers and its database does, as last seen: nothing is asked, so nothing can make it wait. Open to everybody.

    200, or 503 while the database does not answer: for whoever sends requests elsewhere meanwhile. The process itself is well;
    starting it anew mends nothing.
    """
    outage = services.database.watch.outage
    is_away = outage is not None and not outage.only_writes
    if is_away:
        response.status_code = 503
    gauge = services.metrics.registry.get_sample_value
    return HealthView(
        status="away" if is_away else "ok",
        broker_connected=bool(gauge("fedge_fleet_broker_connected")),
        leads=bool(gauge("fedge_fleet_leads")),
        is_storing=outage is None and bool(gauge("fedge_fleet_storing")),
        database=None if outage is None else outage.kind,
    )


@router.get("/v1/audit")
def list_audit(
    _caller: Annotated[Caller, Depends(require(Role.ADMIN))],
    services: Annotated[Services, Depends(get_services)],
    subject: Annotated[str | None, Query(max_length=200)] = None,
    action: Annotated[str | None, Query(max_length=64)] = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[AuditView]:
    """The audit log, newest first: every change, and every refusal an operator should know of; never a secret.

    `subject` is what was changed (a device, a release, ``anomaly/17``), `action` in the past tense (``device_revoked``).
    """
    rows = newest_first(AuditEntry, after, limit).where(
        equals(AuditEntry.subject, subject), equals(AuditEntry.action, action)
    )
    with services.database.read() as session:
        return read_page(session, rows, AuditView, limit)


@router.get("/v1/audit/head")
def show_audit_head(
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
) -> HeadView:
    """The end of the audit log, for whoever keeps it where the fleet cannot write."""
    with services.database.read() as session:
        head = read_head(session)
    return HeadView(id=head.id, sha256=head.sha256)
