"""``/sign-in``, ``/sign-out`` and ``/sessions``: who is behind this browser, and behind which others."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from fleet.auth.web_sessions import LONGEST_S, WebSessions
from fleet.dashboard.access import signed_in
from fleet.dashboard.front import cookie_of, session_cookie, without_session
from fleet.dashboard.notices import see_other
from fleet.dashboard.rendering import page
from service.errors import AccessError
from service.roles import Caller

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_LOCAL: Final = re.compile(r"/(?![/\\])[^\x00-\x20\\]*")
"""An address on this host, and no other host's (``//evil.example``)."""


def _local(address: str) -> str:
    return address if _LOCAL.fullmatch(address) else "/"


def _sessions(request: Request) -> WebSessions:
    sessions: WebSessions = request.app.state.web_sessions
    return sessions


@router.get("/sign-in")
def show_sign_in(
    request: Request,
    wanted: Annotated[str, Query(alias="next", max_length=2000)] = "/",
    code: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """The form; with a one-time `code` a button is enough, and looking at it (as mail programs do) uses nothing up."""
    return page(request, "sign_in.html", title="Sign in", wanted=_local(wanted), code=code, refusal="")


@router.post("/sign-in")
def sign_in(
    request: Request,
    token: Annotated[str, Form(max_length=200)] = "",
    code: Annotated[str, Form(max_length=100)] = "",
    wanted: Annotated[str, Form(alias="next", max_length=2000)] = "/",
) -> Response:
    """Begin a session, and go where the person wanted to go."""
    sessions, browser = _sessions(request), request.headers.get("user-agent", "")
    before = cookie_of(request)
    try:
        secret = sessions.sign_in_by_code(code, browser) if code else sessions.sign_in(token.strip(), browser)
    except AccessError as error:
        return page(
            request,
            "sign_in.html",
            title="Sign in",
            wanted=_local(wanted),
            code="",
            refusal=str(error),
            status=401,
        )
    if before is not None:
        sessions.sign_out(before)
    answer = see_other(_local(wanted))
    session_cookie(answer, request, secret, LONGEST_S)
    return answer


@router.post("/sign-out")
async def sign_out(request: Request, _caller: Annotated[Caller, Depends(signed_in())]) -> Response:
    """End this session."""
    await run_in_threadpool(_sessions(request).sign_out, request.state.session)
    return without_session(see_other("/sign-in"))


@router.get("/sessions")
def list_sessions(request: Request, caller: Annotated[Caller, Depends(signed_in())]) -> Response:
    """Where this person is signed in; for an admin, where anybody is."""
    sessions = _sessions(request)
    return page(
        request,
        "sessions.html",
        title="Sessions",
        sessions=sessions.listed(caller),
        own=sessions.id_of(request.state.session),
    )


@router.post("/sessions/{session_id}/end")
def end_session(
    session_id: str, request: Request, caller: Annotated[Caller, Depends(signed_in())]
) -> Response:
    """Sign a browser out."""
    _sessions(request).end(session_id, caller)
    return see_other("/sessions", "that browser is signed out")
