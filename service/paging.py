"""Pages of a listing: an opaque cursor names the last item seen, so pages stay whole while items come and go.

A page is ``{"items": [...], "next_cursor": "..." | null}``; the next one is asked for with ``after=`` and that cursor. A cursor
says where in the order to go on and is found by an index: a deep page costs what the first does, and what it names may be gone.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from runtime.errors import Refused
from service.errors import InvalidQueryError

__all__ = [
    "MAXIMUM_ROW_ID",
    "After",
    "Limit",
    "Page",
    "cut_page",
    "decode_cursor",
    "decode_row_cursor",
    "encode_cursor",
    "unknown_cursor",
]

MAXIMUM_LIMIT: Final = 1000
MAXIMUM_ROW_ID: Final = (1 << 63) - 1

Item = TypeVar("Item")
Limit = Annotated[int, Query(ge=1, le=MAXIMUM_LIMIT, description="most items on this page")]
After = Annotated[str | None, Query(max_length=400, description="`next_cursor` of the page before")]


class Page(BaseModel, Generic[Item]):
    """One page; `next_cursor` is null on the last."""

    items: list[Item]
    next_cursor: str | None = None


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
    """The key a cursor names; raises InvalidQueryError for one we never gave out."""
    try:
        return base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, UnicodeError, ValueError):
        raise unknown_cursor(cursor) from None


def decode_row_cursor(cursor: str) -> int:
    """The row id a cursor of a listing by time names; raises InvalidQueryError for one we never gave out."""
    key = decode_cursor(cursor)
    # nineteen digits before they are read: a longer number is none of ours, and the database would not take it
    if not (key.isascii() and key.isdecimal() and len(key) <= 19 and int(key) <= MAXIMUM_ROW_ID):
        raise unknown_cursor(cursor)
    return int(key)


def unknown_cursor(cursor: str) -> InvalidQueryError:
    """The refusal of a cursor that this listing never gave out."""
    allowed = "next_cursor of the page before"
    refused = Refused(field="after", value=cursor[:40], allowed=allowed, where="query")
    return InvalidQueryError(
        f"cursor {cursor[:40]!r} is none of this listing; give {allowed}, or leave after out for the first page"
    ).about(refused)
