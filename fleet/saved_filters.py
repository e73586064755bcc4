"""Device queries that people keep under a name: their own, and those that they share with everybody.

Whose a filter is goes by the person who answers for a token, so that it is there under another token of theirs. Everybody keeps
their own; who shares one changes what others see, which takes an operator.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import func, or_, select, true
from sqlalchemy.orm import Session

from fleet import audit
from fleet.device_query import device_filter
from fleet.errors import ConflictError, NotFoundError, UnacceptableError
from fleet.storage.filter_tables import SavedFilter
from service.errors import ForbiddenError
from service.roles import Caller, Role, allows

__all__ = ["forget_filter", "list_filters", "owner_of", "save_filter"]

MOST: Final = 50
"""Of one owner: more is no list that anybody reads."""


def owner_of(caller: Caller) -> str:
    """Whose filters this caller keeps."""
    return caller.person or caller.name


def list_filters(session: Session, caller: Caller) -> list[SavedFilter]:
    """Their own and the shared ones, by name."""
    mine = or_(SavedFilter.owner == owner_of(caller), SavedFilter.is_shared == true())
    return list(session.scalars(select(SavedFilter).where(mine).order_by(SavedFilter.name, SavedFilter.id)))


def save_filter(
    session: Session, name: str, query: str, *, is_shared: bool, caller: Caller, now: float
) -> SavedFilter:
    """Keep `query` under `name`; the one of theirs that has the name is another one from then on.

    Raises:
        QuerySyntaxError: the query does not parse.
        UnacceptableError: it, or the name, is empty.
        ConflictError: they keep as many as anybody may.
        ForbiddenError: they may not share.
    """
    name, query = " ".join(name.split()), query.strip()
    if not name or not query:
        raise UnacceptableError(
            "a saved filter needs a name and a query; the empty query selects every device"
        )
    device_filter(query, where="body")
    _check_sharing(caller, is_shared=is_shared)
    owner = owner_of(caller)
    mine = select(SavedFilter).where(SavedFilter.owner == owner)
    kept = session.scalar(mine.where(SavedFilter.name == name))
    if kept is None:
        count = session.scalar(select(func.count()).select_from(mine.subquery())) or 0
        if count >= MOST:
            raise ConflictError(f"{owner} keeps {count} filters; at most {MOST}, so forget one first")
        kept = SavedFilter(owner=owner, name=name, created_at=now)
        session.add(kept)
    else:
        _check_sharing(caller, is_shared=kept.is_shared)
    kept.query, kept.is_shared = query, is_shared
    session.flush()
    _tell(session, kept, "filter_saved", caller, now)
    return kept


def forget_filter(session: Session, filter_id: int, *, caller: Caller, now: float) -> None:
    """Forget one of their own, or as an admin any that is shared; raises NotFoundError where it is neither."""
    kept = session.get(SavedFilter, filter_id)
    is_admin = caller.role is not None and allows(caller.role, Role.ADMIN)
    is_theirs = kept is not None and (kept.owner == owner_of(caller) or (kept.is_shared and is_admin))
    if kept is None or not is_theirs:
        raise NotFoundError(f"there is no saved filter {filter_id} of {owner_of(caller)}")
    _tell(session, kept, "filter_forgotten", caller, now)
    session.delete(kept)


def _check_sharing(caller: Caller, *, is_shared: bool) -> None:
    if is_shared and not (caller.role is not None and allows(caller.role, Role.OPERATOR)):
        raise ForbiddenError(f"{caller.actor} cannot share a filter: that takes an operator")


def _tell(session: Session, kept: SavedFilter, action: str, caller: Caller, now: float) -> None:
    """What everybody sees is in the audit log; what somebody keeps for themselves is their own matter."""
    if kept.is_shared:
        audit.record(
            session,
            at=now,
            actor=caller.actor,
            action=action,
            subject=f"filter/{kept.id}",
            name=kept.name,
            query=kept.query,
        )
