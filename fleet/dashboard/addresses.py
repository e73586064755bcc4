"""Addresses of pages with what they ask for."""

from __future__ import annotations

from urllib.parse import urlencode

__all__ = ["with_query"]


def with_query(path: str, **query: object) -> str:
    """`path` with every value that is one; what is empty is left out.

    >>> with_query("/devices", query="site==a b", after=None, page="")
    '/devices?query=site%3D%3Da+b'
    """
    given = {name: value for name, value in query.items() if value not in {None, ""}}
    return f"{path}?{urlencode(given)}" if given else path
