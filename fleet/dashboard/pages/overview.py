"""``/``: what needs a person first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from fleet.api.dependencies import Services, get_services
from fleet.api.rollout_views import list_rollouts
from fleet.dashboard.access import signed_in
from fleet.dashboard.rendering import page
from fleet.views.overview import MOST_COUNTED, PERSON_DECIDES, Overview, read_overview
from fleet.views.rollouts import RolloutSummary
from service.roles import Caller

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

WEEK_S: Final = 7 * 86_400.0
ROLLOUTS: Final = 6


@dataclass(frozen=True)
class Card:
    """One number that may need a person: how many, of what, in which tone, and where they are."""

    count: int
    what: str
    tone: str
    where: str


@router.get("/")
def show_overview(
    request: Request,
    _caller: Annotated[Caller, Depends(signed_in())],
    services: Annotated[Services, Depends(get_services)],
) -> Response:
    """The fleet in a screen, whatever its size."""
    with services.database.read() as session:
        overview = read_overview(session, since=services.now() - WEEK_S)
        rollouts = list_rollouts(session, state=None, families=None, before=None, limit=ROLLOUTS)
    return page(
        request,
        "overview.html",
        title="Overview",
        live=("device", "anomaly", "drift", "rollout", "alarm"),
        overview=overview,
        most=MOST_COUNTED,
        cards=[card for card in _cards(overview) if card.count],
        families=_families(overview),
        rollouts=_by_need(rollouts),
        tenant=services.settings.tenant,
    )


def _cards(overview: Overview) -> list[Card]:
    devices, rollouts = overview.devices, overview.rollouts
    return [
        Card(
            devices["blind"],
            "blind: they watch, and would not see a fault",
            "bad",
            _query("agent_state==blind"),
        ),
        Card(
            devices["silent"],
            "silent: not heard for too long",
            "bad",
            _query("state==enrolled;online==false"),
        ),
        Card(
            overview.identity_conflicts,
            "identities that two devices use",
            "bad",
            _query("identity_conflict==true"),
        ),
        Card(
            sum(rollouts.get(state, 0) for state in PERSON_DECIDES),
            "rollouts that wait for a person",
            "wait",
            "/rollouts",
        ),
        Card(overview.unjudged, "anomalies of this week without a verdict", "wait", "/anomalies"),
        Card(devices["drifted"], "drifted: their world left its reference", "wait", _query("drifted==true")),
        Card(devices["waiting"], "devices that ask to be let in", "wait", _query("state==waiting")),
        Card(overview.dead_letters, "messages that could not be taken", "wait", "/service"),
        Card(rollouts.get("RUNNING", 0), "rollouts under way", "go", "/rollouts"),
        Card(rollouts.get("ROLLING_BACK", 0), "rollouts on their way back", "bad", "/rollouts"),
    ]


def _query(text: str) -> str:
    return f"/devices?query={quote(text)}"


def _families(overview: Overview) -> list[tuple[str, int, list[tuple[str, int, float]]]]:
    """Family, its devices, and of each release how many run it and which share they are."""
    families = []
    for family, rows in groupby(overview.versions, key=lambda row: row[0]):
        counted = [(release, many) for _, release, many in rows]
        devices = sum(many for _, many in counted)
        families.append((family, devices, [(release, many, many / devices) for release, many in counted]))
    return families


def _by_need(rollouts: list[RolloutSummary]) -> list[RolloutSummary]:
    return sorted(rollouts, key=lambda rollout: rollout.state not in PERSON_DECIDES)
