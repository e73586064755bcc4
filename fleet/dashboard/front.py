"""Before every page: who is it, did our own page send this form, and what may the browser do with the answer.

::

    a request ─► open? (sign-in) ─► POST: Origin is ours ─► cookie ─► who ─► a place ─► the page
                                              └ 403                   └ 303 to sign-in; a form: 401

A form is believed where the browser says that it came from this very host (``Origin``, which no script can forge); the cookie is
``SameSite=Strict`` besides. Who follows a link from a mail has no cookie with it: a page of nothing sends the browser on to the
same address, from our own site now.

Source: WHATWG Fetch, section 3.2 (Origin); RFC 6265bis (SameSite, ``__Host-``); Content Security Policy Level 3.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet.auth.web_sessions import WebSessions
from fleet.dashboard.inlined import POLICY
from fleet.dashboard.rendering import page
from runtime.errors import FedgeError
from service.connections import has_place
from service.errors import AccessError
from service.problems import StatusTable, problem_of

__all__ = ["COOKIES", "Front", "cookie_of", "session_cookie", "without_session"]

SECURE_COOKIE: Final = "__Host-fedge"
PLAIN_COOKIE: Final = "fedge"
COOKIES: Final = (SECURE_COOKIE, PLAIN_COOKIE)
"""Over TLS, and on loopback without it, where a browser may not keep a secure one."""

PLACES: Final = 64
"""Connections of one person's pages: each that is open holds one."""

HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # not no-referrer: with it a browser says "null" for the origin of our own forms
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
OPEN: Final = "/sign-in"

AGAIN: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0">'
    '<title>Fedge</title></head><body><p><a href="">Go on</a></p></body></html>'
)


class Front:
    """ASGI middleware of the pages.

    Args:
        app: the pages.
        sessions: who is signed in.
        public_url: how people reach the pages, where that is not what the browser calls this host.
        statuses: which error is which status.
    """

    def __init__(
        self, app: ASGIApp, *, sessions: WebSessions, public_url: str | None, statuses: StatusTable
    ) -> None:
        self._app, self._sessions, self._statuses = app, sessions, statuses
        self._public = urlsplit(public_url).netloc.lower() if public_url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on to its page, or answer in its place."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        answer = await self._answer(Request(scope))
        await (self._app if answer is None else answer)(scope, receive, guarded)

    async def _answer(self, request: Request) -> Response | None:
        """None: the page itself answers."""
        if request.method not in {"GET", "HEAD"} and not self._is_ours(request):
            words = "this form did not come from this page: open it again here, and send it from there"
            return error_page(request, HTTPStatus.FORBIDDEN, words)
        return None if request.url.path.startswith(OPEN) else await self._let_in(request)

    async def _let_in(self, request: Request) -> Response | None:
        secret = cookie_of(request)
        if secret is None:
            is_followed = request.headers.get("sec-fetch-site") == "cross-site"
            return HTMLResponse(AGAIN) if is_followed else _to_sign_in(request)
        try:
            caller = await run_in_threadpool(self._sessions.find_caller, secret)
        except AccessError:
            return without_session(_to_sign_in(request))
        except FedgeError as error:
            return self._refused(request, error)
        if not has_place(request.scope, f"pages:{caller.name}", PLACES):
            words = "too many connections of yours are open; close some pages"
            return error_page(request, HTTPStatus.TOO_MANY_REQUESTS, words, retry_after="5")
        request.state.caller, request.state.session = caller, secret
        return None

    def _is_ours(self, request: Request) -> bool:
        origin = urlsplit(request.headers.get("origin", "")).netloc.lower()
        return bool(origin) and origin in {request.headers.get("host", "").lower(), self._public}

    def _refused(self, request: Request, error: Exception) -> Response:
        problem = problem_of(error, self._statuses, request.url.path)
        if problem is None:
            raise error
        return error_page(request, problem.status_code, str(error), problem.headers.get("retry-after"))


def error_page(request: Request, status: int, words: str, retry_after: str | None = None) -> Response:
    """What went wrong, as a page."""
    title = HTTPStatus(status).phrase
    response = page(request, "error.html", title=title, status=status, words=words, problem_status=status)
    if retry_after is not None:
        response.headers["retry-after"] = retry_after
    return response


def cookie_of(request: Request) -> str | None:
    """The secret of the session that a request came with."""
    return next((request.cookies[name] for name in COOKIES if request.cookies.get(name)), None)


def session_cookie(response: Response, request: Request, secret: str, seconds: float) -> None:
    """Have the browser keep the secret of its session, out of reach of any script."""
    is_secure = request.url.scheme == "https"
    response.set_cookie(
        SECURE_COOKIE if is_secure else PLAIN_COOKIE,
        secret,
        max_age=int(seconds),
        path="/",
        secure=is_secure,
        httponly=True,
        samesite="strict",
    )


def without_session(response: Response) -> Response:
    """Have the browser forget its session."""
    for name in COOKIES:
        response.delete_cookie(name, path="/", secure=name == SECURE_COOKIE, httponly=True, samesite="strict")
    return response


def _to_sign_in(request: Request) -> Response:
    if request.method != "GET":
        words = "you are not signed in any more, so nothing was done; sign in, and do it again"
        return error_page(request, HTTPStatus.UNAUTHORIZED, words)
    if request.url.path == "/live":
        return Response(status_code=HTTPStatus.UNAUTHORIZED)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    where = "/sign-in" if wanted == "/" else f"/sign-in?next={quote(wanted, safe='')}"
    return RedirectResponse(where, status_code=HTTPStatus.SEE_OTHER)
