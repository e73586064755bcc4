"""``/precision``: is an alarm still worth getting up for? Per family and release, over time, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from fleet.api.dependencies import Services, get_services
from fleet.dashboard.access import signed_in
from fleet.dashboard.charts.bars import Bar, draw_bars
from fleet.dashboard.charts.shares import Share, draw_shares
from fleet.dashboard.rendering import page
from fleet.errors import NotFoundError
from fleet.lookups.precision import Judged, Period, count_alarms, count_verdicts, read_periods
from fleet.verdicts import ReleasePrecision, precision_of_family
from models.drift.labels import PrecisionSettings
from service.roles import Caller

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

DAY_S: Final = 86_400.0
SPANS: Final = {
    "7d": (7 * DAY_S, 28),
    "30d": (30 * DAY_S, 30),
    "90d": (90 * DAY_S, 30),
    "1y": (364 * DAY_S, 52),
}
"""How far back, and in how many periods."""

_SETTINGS: Final = PrecisionSettings()
_WORDS: Final = {"true": "true alarms", "false": "false alarms"}


@dataclass(frozen=True, kw_only=True)
class FamilyRow:
    """All verdicts of a family, and the release that was judged last."""

    name: str
    judged: Judged
    last: ReleasePrecision | None


@dataclass(frozen=True, kw_only=True)
class ReleaseRow:
    """What was said of a release's alarms, and how many of the span nobody judged."""

    watched: ReleasePrecision
    judged: Judged
    alarms: int


@router.get("/precision")
def show_precision(
    request: Request,
    _caller: Annotated[Caller, Depends(signed_in())],
    services: Annotated[Services, Depends(get_services)],
    family: Annotated[str, Query(max_length=64)] = "",
    span: Annotated[str, Query(max_length=4)] = "30d",
) -> Response:
    """Every family that was judged, and one of them in full."""
    if span not in SPANS:
        raise NotFoundError(f"span is {span!r}; valid are {', '.join(SPANS)}")
    length_s, count = SPANS[span]
    until = services.now()
    start = until - length_s
    with services.database.read() as session:
        judged = count_verdicts(session)
        families = []
        for name, verdicts in judged.items():
            last = precision_of_family(session, name, _SETTINGS, most=1)
            families.append(FamilyRow(name=name, judged=verdicts, last=last[0] if last else None))
        if family and family not in judged:
            raise NotFoundError(
                f"no alarm of a family {family!r} was judged; judged were {', '.join(judged) or 'none'}"
            )
        chosen = family or next(iter(_worst_first(families)), "")
        watched = precision_of_family(session, chosen, _SETTINGS)
        periods = read_periods(session, chosen, start=start, until=until, count=count)
        alarms = count_alarms(session, chosen, since=start)
    return page(
        request,
        "precision.html",
        title="Precision",
        live=("alarm",),
        families=families,
        chosen=chosen,
        span=span,
        spans=list(SPANS),
        releases=_releases(watched, alarms),
        unjudged_releases={
            name: many for name, many in alarms.items() if name not in {one.release for one in watched}
        },
        has_any=any(period.together.all for period in periods),
        **_drawn(periods, start, until),
    )


def _worst_first(families: Sequence[FamilyRow]) -> list[str]:
    """A family whose precision fell before the others."""
    return [
        row.name
        for row in sorted(families, key=lambda row: row.last is None or row.last.drifted_since is None)
    ]


def _releases(watched: Sequence[ReleasePrecision], alarms: Mapping[str, int]) -> list[ReleaseRow]:
    return [
        ReleaseRow(
            watched=one,
            judged=Judged(true=one.state.true_alarms, false=one.state.judged - one.state.true_alarms),
            alarms=alarms.get(one.release, 0),
        )
        for one in watched
    ]


def _drawn(periods: Sequence[Period], start: float, until: float) -> dict[str, Any]:
    bars, shares = [], []
    for period in periods:
        together = period.together
        bars.append(
            Bar(
                start=period.start,
                until=period.until,
                counts={"true": together.true, "false": together.false},
            )
        )
        if together.share is not None:
            low, high = together.interval
            words = f"{100 * together.share:.0f} % of {together.all} were true ({100 * low:.0f} to {100 * high:.0f} %)"
            at = (period.start + period.until) / 2
            shares.append(Share(at=at, value=together.share, low=low, high=high, words=words))
    return {
        "counts": draw_bars(bars, start=start, until=until, title="Verdicts", words=_WORDS, height=110),
        "shares": draw_shares(shares, start=start, until=until, title="Share of true alarms"),
    }
