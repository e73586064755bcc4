"""Cursor paging: an opaque cursor names the last item seen, so pages stay whole while items arrive.

A page is ``{"items": [...], "next_cursor": "..." | null}``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Final, Generic, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, Select, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from fleet.errors import BadRequestError
from fleet.storage.access_tables import AuditEntry
from fleet.storage.dead_letter_tables import DeadLetter
from fleet.storage.event_tables import Anomaly, DriftRecord

__all__ = [
    "MAXIMUM_ROW_ID",
    "Cursor",
    "Limit",
    "Page",
    "RowId",
    "RowView",
    "cut_page",
    "decode_cursor",
    "decode_row_cursor",
    "encode_cursor",
    "equals",
    "newest_first",
    "read_page",
]

MAXIMUM_LIMIT: Final = 1000
MAXIMUM_ROW_ID: Final = (1 << 63) - 1

Item = TypeVar("Item")
Row = TypeVar("Row", AuditEntry, Anomaly, DeadLetter, DriftRecord)
View = TypeVar("View", bound="RowView")
Limit = Annotated[int, Query(ge=1, le=MAXIMUM_LIMIT, description="most items on this page")]
RowId = Annotated[int, Path(ge=1, le=MAXIMUM_ROW_ID)]
Cursor = Annotated[str | None, Query(max_length=400, description="`next_cursor` of the page before")]


class Page(BaseModel, Generic[Item]):
    """One page; `next_cursor` is null on the last."""

    items: list[Item]
    next_cursor: str | None = None


class RowView(BaseModel):
    """A row that is listed by its number, as the API shows it."""

    model_config = ConfigDict(from_attributes=True)
    id: int


def equals(column: InstrumentedAttribute[str], value: str | None) -> ColumnElement[bool]:
    """That `column` is `value`; where none is given, every row."""
    return true() if value is None else column == value


def within(column: InstrumentedAttribute[str], values: Collection[str] | None) -> ColumnElement[bool]:
    """That `column` is one of `values`; None: every row."""
    return true() if values is None else column.in_(sorted(values))


def newest_first(table: type[Row], cursor: str | None, limit: int) -> Select[Row]:
    """Rows by id, the newest first, one more than the page holds: whether there is another page shows in it."""
    rows = select(table).order_by(table.id.desc()).limit(limit + 1)
    return rows.where(table.id < decode_row_cursor(cursor)) if cursor else rows


def read_page(session: Session, rows: Select[Row], view: type[View], limit: int) -> Page[View]:
    """The page of `rows`, which are `newest_first`, each as `view`."""
    return cut_page([view.model_validate(row) for row in session.scalars(rows)], limit, key=lambda v: v.id)


def cut_page(found: Sequence[Item], limit: int, key: Callable[[Item], str | int]) -> Page[Item]:
    """The page of the first `limit` items of `found`, which was asked for one more to see whether there is another.

    Args:
        found: at most `limit` + 1 items, in the order of the listing.
        limit: most items on the page.
        key: what the next page begins after.

    Examples:
        >>> page = cut_page(["a", "b", "c"], 2, key=str)
        >>> page.items, decode_cursor(page.next_cursor)
        (['a', 'b'], 'b')
        >>> cut_page(["a", "b"], 2, key=str).next_cursor is None
        True
    """
    items = list(found[:limit])
    return Page(items=items, next_cursor=encode_cursor(key(items[-1])) if len(found) > limit else None)


def encode_cursor(key: str | int) -> str:
    """The cursor that continues after the item with this key."""
    return base64.urlsafe_b64encode(str(key).encode()).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> str:
    """The key a cursor names; raises BadRequestError for one we never gave out."""
    try:
        return base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, UnicodeError, ValueError):
        raise BadRequestError(
            f"cursor {cursor[:40]!r} is not one of ours; use next_cursor of the page before, or leave it out"
        ) from None


def decode_row_cursor(cursor: str) -> int:
    """The row id a cursor of a listing by time names; raises BadRequestError for one we never gave out."""
    key = decode_cursor(cursor)
    # nineteen digits before they are read: a longer number is none of ours, and the database would not take it
    if not (key.isascii() and key.isdecimal() and len(key) <= 19 and int(key) <= MAXIMUM_ROW_ID):
        raise BadRequestError(f"cursor {cursor[:40]!r} is not one of this listing")
    return int(key)
