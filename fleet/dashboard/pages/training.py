"""``/training``: what the aggregator says of its runs, and what a device has given in privacy; why a run was refused stands first.

Everything here comes from another service (`fleet.aggregator_client`): it may be away, and then the page says so and comes all the same.
"""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool

from fleet.aggregator_answers import DevicePrivacy, FamilyPrivacies, Round, RunPage, TrainingRun
from fleet.api.dependencies import Services, get_services
from fleet.dashboard.access import signed_in
from fleet.dashboard.charts.parts import draw_parts
from fleet.dashboard.rendering import page
from fleet.dashboard.training_words import explain_run, family_words, loss_words
from fleet.lookups.devices import find_device_view
from fleet.views.devices import DeviceView
from service.paging import After

__all__ = ["router"]

router = APIRouter(include_in_schema=False, dependencies=[Depends(signed_in())])

Shared = Annotated[Services, Depends(get_services)]
ROWS: Final = 30
LIVE: Final = ("rollout",)
"""What a run makes shows as a rollout; what it does until then the fleet is not told, and an open page is made anew each minute."""

DEVICES: Final = 200
"""Names of devices of one round that are shown."""


@router.get("/training")
async def list_runs(
    request: Request,
    services: Shared,
    family: Annotated[str | None, Query(max_length=64)] = None,
    after: After = None,
) -> Response:
    """Runs, the newest first, and what each family has spent of its privacy."""
    runs = await services.aggregator.get(RunPage, "training-runs", family=family, after=after, limit=ROWS)
    spent = await services.aggregator.get(FamilyPrivacies, "privacy")
    found = runs.what
    return page(
        request,
        "training.html",
        title="Training",
        live=LIVE,
        is_configured=services.aggregator.is_configured,
        runs=runs,
        families=() if spent.what is None else spent.what.items,
        words={} if spent.what is None else {one.family: family_words(one) for one in spent.what.items},
        family=family,
        next_page=_address(family, found.next_cursor) if found is not None and found.next_cursor else None,
        first_page=_address(family, None) if after else None,
    )


def _address(family: str | None, after: str | None) -> str:
    query = {name: value for name, value in (("family", family), ("after", after)) if value is not None}
    return f"/training?{urlencode(query)}" if query else "/training"


@router.get("/training/{run_id}")
async def show_run(
    run_id: Annotated[str, Path(max_length=64, pattern="^[A-Za-z0-9._-]+$")],
    request: Request,
    services: Shared,
) -> Response:
    """One run: why it ended as it did, its rounds, its candidate against the champion, and what it cost."""
    said = await services.aggregator.get(TrainingRun, "training-runs", run_id)
    run = said.what
    rounds = [] if run is None else [*run.rounds, *run.refits, *run.assessments]
    return page(
        request,
        "training_run.html",
        title=run_id,
        live=LIVE,
        status=404 if said.is_missing else 200,
        said=said,
        run=run,
        ended=None if run is None else explain_run(run),
        losses=None if run is None else loss_words(run),
        rounds=[(one, _bar(one)) for one in sorted(rounds, key=lambda one: (one.started_at, one.number))],
        named=DEVICES,
    )


def _bar(one: Round) -> Markup:
    """Whom a round asked, and what came of them."""
    answered, refused, lost = len(one.participants), len(one.refused), len(one.lost)
    others = max(0, one.asked - answered - refused - lost)
    parts = [
        (0 if one.void else answered, "good", "are in the sum"),
        (answered if one.void else 0, "off", "answered in vain"),
        (refused, "bad", "refused"),
        (lost, "wait", "fell silent"),
        (others, "off", "not needed"),
    ]
    return draw_parts(parts, title=f"devices of round {one.number}")


def _find(services: Services, device_id: str) -> DeviceView:
    with services.database.read() as session:
        return find_device_view(session, device_id)


@router.get("/devices/{device_id}/privacy")
async def show_privacy(device_id: str, request: Request, services: Shared) -> Response:
    """What a device has given, run by run, and what is left of its budget."""
    device = await run_in_threadpool(_find, services, device_id)
    said = await services.aggregator.get(DevicePrivacy, "privacy", "devices", device_id)
    return page(
        request,
        "device_privacy.html",
        title=f"{device_id}: privacy given",
        device=device,
        where=f"/devices/{quote(device_id, safe='')}",
        said=said,
        families=() if said.what is None else said.what.families,
    )
