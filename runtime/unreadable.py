"""What msgspec raises about bytes that are not what they should be: another type, no text, or a nest deeper than the stack."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["UNREADABLE"]

UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)
"""Caught as one where bytes come from outside: whoever forgets the third is ended by four thousand brackets."""
