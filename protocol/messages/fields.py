"""The types of fields that several messages share: every text and every number from another machine has a bound."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from protocol.limits import MAX_INTEGER

__all__ = ["Count", "Name", "Positive", "Rate", "Release", "Sha256", "Text", "Word"]

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Release = Annotated[str, Meta(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9._/-]*$(?!\n)")]
"""``family/version``, as a device says it; whether there is one is another question."""
Word = Annotated[str, Meta(min_length=1, max_length=64)]
Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Positive = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
Rate = Annotated[float, Meta(ge=0)]
Text = Annotated[str, Meta(max_length=2000)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
