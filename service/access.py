"""Who calls, and may they: whoever `token_first` has found, as FastAPI dependencies.

Endpoints declare who may call: ``caller: Caller = Depends(require(Role.OPERATOR))``. A route without such a dependency is open
to every caller that is known, and a test of each service walks all routes and holds fast which ones are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Protocol

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import ForbiddenError, UnauthenticatedError
from service.roles import Caller, CallerKind, Role, allows

__all__ = [
    "UNSAID",
    "TokenHolders",
    "bearer_token",
    "caller_of",
    "check_role",
    "require",
    "require_kind",
]


class TokenHolders(Protocol):
    """Port: where a service looks up who holds a token."""

    def find_caller(self, token: str) -> Caller:
        """Who holds this token.

        Raises:
            UnauthenticatedError: one that is unknown or revoked.
            ForbiddenError: one of somebody who is known, and shut out.
        """


_bearer = HTTPBearer(auto_error=False, description="a token of this service, or of an enrolled device")
UNSAID: Final = "this call needs one Authorization header: Bearer <token>"


async def bearer_token(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str:
    """A dependency: the bearer token; raises UnauthenticatedError when there is none."""
    if credentials is None or not credentials.credentials:
        raise UnauthenticatedError(UNSAID)
    return credentials.credentials


def caller_of(state: Any) -> Caller:
    """Whom `token_first` found for a request with this ``request.state``; raises UnauthenticatedError where nobody was asked."""
    caller = getattr(state, "caller", None)
    if not isinstance(caller, Caller):
        raise UnauthenticatedError(UNSAID)
    return caller


def require(*roles: Role, in_person: bool = False) -> Callable[..., Any]:
    """A dependency that lets operators pass whose role allows what any of `roles` may; `in_person`: no program."""

    async def dependency(request: Request, _token: Annotated[str, Depends(bearer_token)]) -> Caller:
        caller = check_role(caller_of(request.state), *roles)
        if in_person:
            caller.check_person("make this call")
        return caller

    return dependency


def require_kind(*kinds: CallerKind) -> Callable[..., Any]:
    """A dependency that lets callers of these kinds pass."""

    async def dependency(request: Request, _token: Annotated[str, Depends(bearer_token)]) -> Caller:
        caller = caller_of(request.state)
        if caller.kind not in kinds:
            wanted = " and ".join(f"{kind}s" for kind in kinds)
            raise ForbiddenError(f"this call is for {wanted}; the token of a {caller.kind} was given")
        return caller

    return dependency


def check_role(caller: Caller, *roles: Role) -> Caller:
    """`caller`; raises ForbiddenError where it is no operator, or its role allows nothing that any of `roles` may."""
    wanted = " or ".join(roles)
    if caller.role is None:
        raise ForbiddenError(
            f"this call needs an operator's token ({wanted}); one of a {caller.kind} was given"
        )
    if not allows(caller.role, *roles):
        raise ForbiddenError(f"token {caller.name!r} is of role {caller.role}; this call needs {wanted}")
    return caller
