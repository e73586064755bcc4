"""Dead letters: messages of devices that could not be taken; looked at, replayed after an upgrade or a mend, dropped."""

from __future__ import annotations

import base64
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import undefer

from fleet.api.dependencies import Services, get_services
from fleet.api.paging import RowId, newest_first, read_page
from fleet.errors import BadRequestError, NotFoundError
from fleet.ingest.judging import RefusalReason
from fleet.ingest.replay import drop, replay, select_letters, which
from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.device_tables import Device
from fleet.views.operations import (
    DeadLetterSummary,
    DeadLetterView,
    DeadLetterWithPayload,
    DropView,
    ReplayView,
)
from service.access import require
from service.confirmation import Confirmation, check_confirmed
from service.paging import MAXIMUM_ROW_ID, After, Limit, Page
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["dead letters"])

AT_ONCE: Final = 500
"""Letters replayed or dropped by one call; some seconds of work."""

OfDevice = Annotated[str | None, Query(max_length=64)]
ForReason = Annotated[RefusalReason | None, Query(description="why it was not taken")]


class Chosen(BaseModel):
    """Letters of a device, for a reason, or both; none of the two only with `all`: every letter.

    `after`: only those with a greater id. Who asks for `more` names the greatest id of the answer before, so that letters
    which are refused again do not come first for ever.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"device": "press-7", "reason": "version"}}
    )
    device: str | None = Field(default=None, max_length=64)
    reason: RefusalReason | None = None
    all: bool = False
    after: Annotated[int, Field(ge=0, le=MAXIMUM_ROW_ID)] = 0


class ChosenForGood(Chosen):
    """The same, to be dropped. `confirm` repeats the device, where there is none the reason, and of every letter "all"."""

    model_config = ConfigDict(json_schema_extra={"example": {"device": "press-7", "confirm": "press-7"}})
    confirm: str | None = Field(default=None, max_length=64)


@router.get("/dead-letters")
def list_dead_letters(
    *,
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
    device: OfDevice = None,
    reason: ForReason = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[DeadLetterView]:
    """Messages that could not be taken, the newest first, without what was sent: that is one call each."""
    rows = newest_first(DeadLetter, after, limit).where(which(device, reason))
    with services.database.read() as session:
        return read_page(session, rows, DeadLetterView, limit)


@router.get("/dead-letters/summary")
def summarise_dead_letters(
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
) -> DeadLetterSummary:
    """How many there are: something to watch, beside the metric `fedge_fleet_dead_letters`."""
    with services.database.read() as session:
        counted = [
            dict(session.execute(select(column, func.count()).group_by(column)).all())
            for column in (DeadLetter.reason, DeadLetter.device)
        ]
        dropped = session.scalar(select(func.sum(Device.dead_letters_dropped))) or 0
    reasons, devices = counted
    return DeadLetterSummary(
        letters=sum(reasons.values()), reasons=reasons, devices=devices, dropped=int(dropped)
    )


@router.get("/dead-letters/{letter_id}")
def show_dead_letter(
    letter_id: RowId,
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
) -> DeadLetterWithPayload:
    """One letter, with what was sent."""
    with services.database.read() as session:
        letter = session.get(DeadLetter, letter_id, options=[undefer(DeadLetter.payload)])
        if letter is None:
            raise _unknown(letter_id)
        view = DeadLetterView.model_validate(letter)
        payload = base64.b64encode(letter.payload).decode()
    return DeadLetterWithPayload(**view.model_dump(), payload=payload)


@router.post("/dead-letters/{letter_id}:replay")
def replay_dead_letter(
    letter_id: RowId,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> ReplayView:
    """Judge one letter again: stored, and the letter gone; or refused, and it stays with the reason of now."""
    done = _replay(services, [letter_id], caller, more=False)
    if not done.stored and not done.refused:
        raise _unknown(letter_id)
    return done


@router.post("/dead-letters:replay")
def replay_dead_letters(
    chosen: Chosen,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> ReplayView:
    """Judge letters again, the oldest first: after an upgrade of the fleet, say those of reason `version`."""
    letters, more = _choose(services, chosen)
    return _replay(services, letters, caller, more=more)


@router.post("/dead-letters/{letter_id}:drop")
def drop_dead_letter(
    letter_id: RowId,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
    asked: Confirmation | None = None,
) -> DropView:
    """Drop one letter for good. 422 where `confirm` is not its id."""
    check_confirmed(asked, str(letter_id), f"dropping letter {letter_id}")
    dropped = drop(services.database, [letter_id], actor=caller.actor, now=services.now())
    if not dropped:
        raise _unknown(letter_id)
    return DropView(dropped=dropped, more=False)


@router.post("/dead-letters:drop")
def drop_dead_letters(
    chosen: ChosenForGood,
    caller: Annotated[Caller, Depends(require(Role.OPERATOR))],
    services: Annotated[Services, Depends(get_services)],
) -> DropView:
    """Drop letters for good, the oldest first. 422 where `confirm` does not repeat what is chosen."""
    letters, more = _choose(services, chosen)
    asked = None if chosen.confirm is None else Confirmation(confirm=chosen.confirm)
    check_confirmed(asked, chosen.device or chosen.reason or "all", "dropping letters")
    dropped = drop(services.database, letters, actor=caller.actor, now=services.now())
    return DropView(dropped=dropped, more=more)


def _choose(services: Services, chosen: Chosen) -> tuple[list[int], bool]:
    if chosen.all != (chosen.device is None and chosen.reason is None):
        raise BadRequestError(
            'which letters? Give a "device", a "reason" or both; or "all": true, and neither of them'
        )
    found = select_letters(services.database, which(chosen.device, chosen.reason), chosen.after, AT_ONCE + 1)
    return found[:AT_ONCE], len(found) > AT_ONCE


def _replay(services: Services, letters: list[int], caller: Caller, *, more: bool) -> ReplayView:
    done = replay(services.database, services.events, letters, actor=caller.actor, now=services.now())
    if done.stored:
        services.wake_rollouts()
    return ReplayView(stored=list(done.stored), refused=list(done.refused), more=more)


def _unknown(letter_id: int) -> NotFoundError:
    return NotFoundError(f"there is no dead letter {letter_id}; list them with GET /v1/dead-letters")
