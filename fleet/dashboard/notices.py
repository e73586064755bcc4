"""One sentence that is shown once, on the page that follows a deed: "rollout paused".

It waits in a cookie of some seconds, so that reloading the page neither shows it again nor does the deed again.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

from fastapi import Request
from fastapi.responses import RedirectResponse

__all__ = ["DELETED", "notice_of", "see_other"]

COOKIE: Final = "fedge_notice"
SECONDS: Final = 30
LONGEST: Final = 300
DELETED: Final = f"{COOKIE}=; Max-Age=0; Path=/; HttpOnly; SameSite=Strict"


def see_other(address: str, notice: str = "") -> RedirectResponse:
    """Send the browser on to `address` with 303, where it shows `notice`."""
    answer = RedirectResponse(address, status_code=303)
    if notice:
        answer.set_cookie(
            COOKIE, quote(notice[:LONGEST]), max_age=SECONDS, path="/", httponly=True, samesite="strict"
        )
    return answer


def notice_of(request: Request) -> str | None:
    """What is to be shown once to whoever asks; None: nothing."""
    waiting = request.cookies.get(COOKIE)
    return unquote(waiting)[:LONGEST] if waiting else None
