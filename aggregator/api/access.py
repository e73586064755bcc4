"""Who calls, and may they: bearer tokens looked up by hash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Header, Request

from aggregator.errors import AccessError
from aggregator.tokens import Role, TokenStore

__all__ = ["require"]


def require(role: Role) -> Callable[[Request, str], str]:
    """A dependency that lets callers of `role` or above through and hands on their token's name.

    Raises:
        AccessError: 401 without a known token, 403 with one whose role may not.
    """

    def caller(request: Request, authorization: Annotated[str, Header()] = "") -> str:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise AccessError("this call needs a token: Authorization: Bearer ao_…", 401)
        tokens: TokenStore = request.app.state.tokens
        name, held = tokens.authenticate(token.strip())
        if not held.allows(role):
            raise AccessError(f"token {name!r} is of role {held.value}; this call needs {role.value}", 403)
        return name

    return caller
