"""A browser without a script, for the pages of a running fleet app: it keeps cookies, says where its forms come from."""

from __future__ import annotations

import re
from typing import Any

from fleet_api_world import Fleet

from service.roles import Role

HOST = "http://testserver"


class Browser:
    """One person's browser; `role` None: nobody is signed in."""

    def __init__(self, fleet: Fleet, role: Role | None = Role.VIEWER) -> None:
        self.fleet, self.cookies = fleet, dict[str, str]()
        if role is not None:
            answer = self.post("/sign-in", token=fleet.tokens[role])
            assert answer.status_code == 303, answer.text

    def get(self, address: str, **headers: str) -> Any:
        return self._ask("GET", address, headers)

    def post(self, address: str, /, *, origin: str | None = HOST, **form: Any) -> Any:
        return self._ask("POST", address, {} if origin is None else {"origin": origin}, data=form)

    def follow(self, answer: Any) -> Any:
        """Where a deed sends the browser."""
        assert answer.status_code == 303, answer.text
        return self.get(answer.headers["location"])

    def _ask(self, method: str, address: str, headers: dict[str, str], **arguments: Any) -> Any:
        self.fleet.client.cookies.clear()
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = ({"cookie": cookie} if cookie else {}) | headers
        answer = self.fleet.client.request(
            method, address, headers=headers, follow_redirects=False, **arguments
        )
        for line in answer.headers.get_list("set-cookie"):
            name, value = re.match(r"([^=]+)=\"?([^;\"]*)", line).groups()  # type: ignore[union-attr] # or the test fails
            if "Max-Age=0" in line or not value:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        self.fleet.client.cookies.clear()
        return answer


def text_of(answer: Any) -> str:
    """What a person reads on a page."""
    shown = re.sub(r"<(script|style)>.*?</\1>", " ", answer.text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", shown))
