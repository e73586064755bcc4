"""What is a call of the API and what a page for people: the one line between them."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["PAGE_BYTES", "is_page"]

PAGE_BYTES: Final = 64 * 1024
"""The largest form: a rollout's plan."""

_CALLS: Final = re.compile(r"/(v1|metrics|healthz)(/|:|$)")


def is_page(path: str) -> bool:
    """Whether this path is for people, and not a call of the API.

    >>> is_page("/"), is_page("/v1/devices"), is_page("/v1devices"), is_page("/healthz")
    (True, False, True, False)
    """
    return _CALLS.match(path) is None
