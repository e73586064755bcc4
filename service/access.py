"""Who calls, and may they: bearer tokens of operators, as FastAPI dependencies.

Endpoints declare who may call: ``caller: Caller = Depends(require(Role.OPERATOR))``. There is no default: a route
without such a dependency is open, and a test of each service walks all routes and holds fast which ones are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Protocol

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import ForbiddenError, UnauthenticatedError
from service.roles import Caller, Role, allows

__all__ = ["TokenHolders", "bearer_token", "check_operator", "require"]


class TokenHolders(Protocol):
    """Port: where a service keeps who holds its operator tokens; stands at ``app.state.tokens``."""

    def find_caller(self, token: str) -> Caller:
        """Who holds this token; raises UnauthenticatedError for one that is unknown or revoked."""


_bearer = HTTPBearer(auto_error=False, description="a token of this service, or of an enrolled device")


def bearer_token(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str:
    """A dependency: the bearer token; raises UnauthenticatedError when there is none."""
    if credentials is None or not credentials.credentials:
        raise UnauthenticatedError("this call needs an Authorization header: Bearer <token>")
    return credentials.credentials


def require(*roles: Role) -> Callable[..., Caller]:
    """A dependency that lets operators pass whose role allows what any of `roles` may."""

    def dependency(request: Request, token: Annotated[str, Depends(bearer_token)]) -> Caller:
        return check_operator(request.app.state.tokens, token, *roles)

    return dependency


def check_operator(tokens: TokenHolders, token: str, *roles: Role) -> Caller:
    """The operator who holds `token`.

    Raises:
        UnauthenticatedError: the token is unknown or revoked.
        ForbiddenError: its role allows nothing that any of `roles` may.
    """
    caller = tokens.find_caller(token)
    if caller.role is None or not allows(caller.role, *roles):
        wanted = " or ".join(roles)
        raise ForbiddenError(f"token {caller.name!r} is of role {caller.role}; this call needs {wanted}")
    return caller
