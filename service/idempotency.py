"""``Idempotency-Key``: what was asked for twice is done once, however the first answer was lost.

A key belongs to who gives it: two people's keys may be the same word. One that a preview gave out (`minted_key`) belongs to whoever
has it, so that one person may preview and another one create.

Source: draft-ietf-httpapi-idempotency-key-header-07 (2025).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Annotated, Final

from fastapi import Header

from service.roles import Caller

__all__ = ["IdempotencyKey", "minted_key", "request_digest"]

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1, max_length=200, description="the same request under the same key is carried out once"
    ),
]

_MINTED: Final = re.compile(r"pv-[0-9a-f]{32}")


def minted_key() -> str:
    """A new key that nobody else can come upon."""
    return f"pv-{secrets.token_hex(16)}"


def request_digest(caller: Caller, key: str) -> str:
    """What a request under this key is known by, 64 hex digits."""
    owner = "" if _MINTED.fullmatch(key) else caller.actor
    return hashlib.sha256(f"{owner}\n{key}".encode("utf-8", "surrogatepass")).hexdigest()
