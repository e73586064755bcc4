"""``/anomalies``: what waits for a verdict, judged by keyboard, many at once, and taken back; and one anomaly with its window."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Form, Path, Query, Request
from fastapi.responses import Response
from markupsafe import Markup
from sqlalchemy.orm import Session

from fleet.api.dependencies import Services, get_services
from fleet.dashboard.access import signed_in
from fleet.dashboard.charts.windows import draw_channels, read_window, thumbnail
from fleet.dashboard.notices import see_other
from fleet.dashboard.rendering import page
from fleet.errors import BadRequestError
from fleet.lookups.anomalies import (
    find_anomaly,
    read_by_score,
    read_deeds,
    read_features,
    read_places,
)
from fleet.lookups.inbox import (
    Line,
    LineKind,
    Narrowed,
    Scope,
    Waiting,
    count_waiting,
    find_scope,
    read_lines,
    read_waiting,
)
from fleet.storage.verdict_tables import Verdict
from fleet.verdicts import find_said, give_verdicts, take_back
from models.drift.labels import PrecisionSettings
from service.paging import MAXIMUM_ROW_ID
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

ON_A_PAGE: Final = 25
OPENED: Final = 20
"""Anomalies of a line that are listed when it opens."""

AT_MOST: Final = 5000
"""Verdicts of one press of a button: each is a line of the audit log, and somebody waits."""

DAY_S: Final = 86_400.0
_SETTINGS: Final = PrecisionSettings()

RowId = Annotated[int, Path(ge=1, le=MAXIMUM_ROW_ID)]
Word = Annotated[str, Query(max_length=200)]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the page: `key` names it in a form and as a place on the page; `first` is its first anomaly, drawn small."""

    key: str
    place: str
    line: Line
    first: Waiting
    drawing: Markup | None
    members: Sequence[Waiting]


@router.get("/anomalies")
def show_inbox(
    request: Request,
    caller: Annotated[Caller, Depends(signed_in())],
    services: Annotated[Services, Depends(get_services)],
    *,
    order: Annotated[str, Query(pattern="^(oldest|score)$")] = "oldest",
    family: Word = "",
    site: Word = "",
    device: Word = "",
    scope: Word = "",
    after: Annotated[str | None, Query(max_length=400)] = None,
) -> Response:
    """Anomalies without a verdict in lines; `scope` is one line, opened."""
    narrowed = Narrowed(
        family=family or None,
        site=site or None,
        device=device or None,
        scope=Scope.parse(scope) if scope else None,
    )
    kept = {
        "order": "" if order == "oldest" else order,
        "family": family,
        "site": site,
        "device": device,
        "scope": scope,
    }
    with services.database.read() as session:
        lines, more = _read(session, narrowed, order, after, is_flat=bool(scope))
        rows = _rows(session, lines)
        families, sites = read_places(session)
        waiting = count_waiting(session, narrowed)
        deeds = read_deeds(session, caller.name, since=services.now() - DAY_S, limit=4)
    return page(
        request,
        "anomalies.html",
        title="Anomalies",
        live=("anomaly",),
        rows=rows,
        waiting=waiting,
        deeds=deeds,
        families=families,
        sites=sites,
        asked=kept,
        order=order,
        first=_address(kept) if after else None,
        next=_address(kept | {"after": more}) if more else None,
        here=_address(kept | {"after": after or ""}),
        by_score=_address(kept | {"order": "score"}),
        by_age=_address(kept | {"order": ""}),
    )


@router.post("/anomalies/judge")
def judge(
    caller: Annotated[Caller, Depends(signed_in(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
    said: Annotated[str, Form(max_length=300)],
    pick: Annotated[list[str], Form(max_length=1000)] = [],  # noqa: B006 - FastAPI copies it
    note: Annotated[str, Form(max_length=500)] = "",
    back: Annotated[str, Form(max_length=2000)] = "/anomalies",
) -> Response:
    """Say of the anomalies that are named or chosen whether they were true alarms.

    `said` is the verdict, what it is about (a key of a line, or ``chosen``), and where on the page to go on.
    """
    word, _, rest = said.partition("|")
    about, _, place = rest.partition("|")
    if word not in set(Verdict):
        raise BadRequestError(f"{word[:40]!r} is no verdict; valid are {', '.join(Verdict)}")
    keys = pick if about == "chosen" else [about]
    with services.database.read() as session:
        anomalies = [one for key in keys for one in _named(session, key)][: AT_MOST + 1]
    done = give_verdicts(
        services.database,
        anomalies[:AT_MOST],
        Verdict(word),
        note=note or None,
        caller=caller,
        now=services.now(),
        settings=_SETTINGS,
    )
    notice = f"{_many(len(done))} judged: {'true' if word == Verdict.TRUE_ALARM else 'false'} alarm"
    if not keys:
        notice = "nothing was chosen, so nothing was judged"
    elif len(anomalies) > AT_MOST:
        notice += "; more wait: judge the rest once more"
    return see_other(_local(back) + (f"#{place}" if re.fullmatch(r"a-\d{1,19}", place) else ""), notice)


@router.post("/anomalies/undo")
def undo(
    caller: Annotated[Caller, Depends(signed_in(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
    at: Annotated[float, Form(allow_inf_nan=False)],
    back: Annotated[str, Form(max_length=2000)] = "/anomalies",
) -> Response:
    """Take back what this person said at one time, as far as nobody has said anything else since."""
    with services.database.read() as session:
        anomalies = find_said(session, author=caller.name, at=at)
    done = take_back(services.database, anomalies, caller=caller, now=services.now(), said_at=at)
    return see_other(_local(back), f"{_many(len(done))} taken back: without a verdict again")


@router.get("/anomalies/{anomaly_id}")
def show_anomaly(
    anomaly_id: RowId,
    request: Request,
    _caller: Annotated[Caller, Depends(signed_in())],
    services: Annotated[Services, Depends(get_services)],
) -> Response:
    """One anomaly: its window with the channels that made the score, what the device remembers of it, and the verdict."""
    with services.database.read() as session:
        found, verdict = find_anomaly(session, anomaly_id)
        anomaly = found.anomaly
        features = read_features(session, [anomaly.release]).get(anomaly.release, {})
    window = read_window(anomaly.window, anomaly.window_shape)
    rate = features.get("sample_rate_hz")
    seconds = len(window) / rate if window is not None and len(window) > 1 and rate else None
    return page(
        request,
        "anomaly.html",
        title=f"Anomaly {anomaly_id}",
        live=(f"anomaly:{anomaly.device}",),
        found=found,
        anomaly=anomaly,
        verdict=verdict,
        channels=[]
        if window is None
        else draw_channels(window, features.get("names") or (), anomaly.contributors, seconds),
        samples=0 if window is None else len(window),
        channel_count=0 if window is None else window.shape[1],
        seconds=seconds,
    )


@router.post("/anomalies/{anomaly_id}/take-back")
def take_one_back(
    anomaly_id: RowId,
    caller: Annotated[Caller, Depends(signed_in(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> Response:
    """Take the verdict on one anomaly back, whoever gave it."""
    done = take_back(services.database, [anomaly_id], caller=caller, now=services.now())
    return see_other(
        f"/anomalies/{anomaly_id}",
        "the verdict is taken back" if done else "there was no verdict to take back",
    )


def _read(
    session: Session, narrowed: Narrowed, order: str, after: str | None, *, is_flat: bool
) -> tuple[list[Line], str | None]:
    """The lines of the page and the cursor of the next one; by score, and of one line that is opened, each is one anomaly."""
    if order == "oldest" and not is_flat:
        lines, last = read_lines(session, narrowed, after=_row_id(after), limit=ON_A_PAGE)
        return lines, None if last is None else str(last)
    if order == "score":
        anomalies, more = read_by_score(session, narrowed, after=after, limit=ON_A_PAGE)
    else:
        found = find_scope(session, narrowed, ON_A_PAGE + 1, after=_row_id(after))
        anomalies, more = found[:ON_A_PAGE], str(found[ON_A_PAGE - 1]) if len(found) > ON_A_PAGE else None
    known = read_waiting(session, anomalies, has_windows=False)
    return [_alone(known[number]) for number in anomalies if number in known], more


def _alone(one: Waiting) -> Line:
    at = one.anomaly.received_at
    return Line(
        kind=LineKind.ONE,
        anomalies=[one.anomaly.id],
        devices=1,
        family=one.family,
        device=one.anomaly.device,
        began=at,
        ended=at,
    )


def _rows(session: Session, lines: Sequence[Line]) -> list[Row]:
    firsts = read_waiting(session, [line.anomalies[0] for line in lines], has_windows=True)
    listed = [
        number for line in lines if line.kind is not LineKind.ONE for number in line.anomalies[1:OPENED]
    ]
    known = read_waiting(session, listed, has_windows=False) | firsts
    features = read_features(session, {one.anomaly.release for one in firsts.values()})
    rows = []
    for line in lines:
        first = firsts.get(line.anomalies[0])
        if first is None:
            continue
        anomaly = first.anomaly
        window = read_window(anomaly.window, anomaly.window_shape)
        names = features.get(anomaly.release, {}).get("names") or ()
        is_one = line.kind is LineKind.ONE
        rows.append(
            Row(
                key=str(anomaly.id) if is_one else str(line.scope),
                place=f"a-{anomaly.id}",
                line=line,
                first=first,
                drawing=None if window is None else thumbnail(window, names, anomaly.contributors),
                members=() if is_one else [known[one] for one in line.anomalies[:OPENED] if one in known],
            )
        )
    return rows


def _named(session: Session, key: str) -> list[int]:
    """The anomalies that a key of a line means, at most one more than are judged at once."""
    if key.isascii() and key.isdecimal() and len(key) <= 19 and int(key) <= MAXIMUM_ROW_ID:
        return [int(key)]
    return find_scope(session, Narrowed(scope=Scope.parse(key)), AT_MOST + 1)


def _row_id(after: str | None) -> int:
    if not after:
        return 0
    if not (after.isascii() and after.isdecimal() and len(after) <= 19 and int(after) <= MAXIMUM_ROW_ID):
        raise BadRequestError(f"{after[:40]!r} is no place in this list; leave after out for its beginning")
    return int(after)


def _address(asked: dict[str, Any]) -> str:
    told = {name: value for name, value in asked.items() if value}
    return f"/anomalies?{urlencode(told, quote_via=quote)}" if told else "/anomalies"


def _local(back: str) -> str:
    """An address of this page, and of nothing else."""
    return back if re.fullmatch(r"/anomalies(/\d{1,19})?(\?[\x21\x24-\x7e]*)?", back) else "/anomalies"


def _many(count: int) -> str:
    return "1 anomaly" if count == 1 else f"{count:,} anomalies"
