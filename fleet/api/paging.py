"""Cursor paging: an opaque cursor names the last item seen, so pages stay whole while items arrive.

A page is ``{"items": [...], "next_cursor": "..." | null}``.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from fleet.errors import BadRequestError

__all__ = ["Cursor", "Limit", "Page", "decode_cursor", "encode_cursor"]

MAXIMUM_LIMIT: Final = 1000

Item = TypeVar("Item")
Limit = Annotated[int, Query(ge=1, le=MAXIMUM_LIMIT, description="most items on this page")]
Cursor = Annotated[str | None, Query(max_length=400, description="`next_cursor` of the page before")]


class Page(BaseModel, Generic[Item]):
    """One page; `next_cursor` is null on the last."""

    items: list[Item]
    next_cursor: str | None = None


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
