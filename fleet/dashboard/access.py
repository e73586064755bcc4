"""Who may see a page, and do what stands on it: as FastAPI dependencies, with the roles of the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Request

from service.access import caller_of, check_role
from service.roles import Caller, Role

__all__ = ["signed_in"]


def signed_in(*roles: Role, in_person: bool = False) -> Callable[..., Any]:
    """A dependency that lets people pass whose role allows what any of `roles` may; none given: who may look (`Role.VIEWER`)."""

    async def dependency(request: Request) -> Caller:
        caller = check_role(caller_of(request.state), *(roles or (Role.VIEWER,)))
        if in_person:
            caller.check_person("do this")
        return caller

    return dependency
