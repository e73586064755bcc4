"""Tokens: a prefix and 256 random bits, printed once, stored as SHA-256 only.

SHA-256 without a salt or stretching suffices because a token is 256 bits of randomness: there is no dictionary. The
prefix says what a token is for, so that a person who finds one knows where to revoke it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Final

__all__ = ["new_secret", "token_digest"]

SECRET_BYTES: Final = 32


def new_secret(random_bytes: Callable[[int], bytes], *, prefix: str = "") -> str:
    """`prefix` and 43 characters of randomness, safe in URLs, files and headers.

    Examples:
        >>> new_secret(bytes, prefix="fo_")
        'fo_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
    """
    return prefix + base64.urlsafe_b64encode(random_bytes(SECRET_BYTES)).rstrip(b"=").decode()


def token_digest(token: str) -> str:
    """SHA-256 of the token text, 64 hex digits: what is stored and looked up."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
