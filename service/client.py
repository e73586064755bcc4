"""A service's HTTP API as a program sees it: JSON in, JSON out, every refusal a `ClientError` in one line.

What may be asked again is asked again while the service says "not at present" (503 and 429, after their Retry-After) or the
connection breaks in the middle: every GET and PUT, and a POST with an idempotency key (`post(..., key=...)`), which is done once
however often it arrives.
"""

from __future__ import annotations

import secrets
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import httpx

from runtime.printable import printable
from service.addresses import is_loopback
from service.errors import ClientError
from service.token_file import TokenFile

__all__ = ["ApiClient", "connect", "new_key", "open_connection", "refusal_words"]

TIMEOUT_S: Final = 30.0
"""A bundle of 64 MB is read by the server in chunks; nothing of the API is silent for this long."""

ATTEMPTS: Final = 4
LONGEST_PAUSE_S: Final = 10.0
LATER: Final = frozenset({httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS})

Query = Mapping[str, str | float | None]


class ApiClient:
    """Calls the API of `service` (the fleet, the aggregator) with one operator token. Use as a context manager.

    Args:
        http: where to, and with which token.
        service: its name, for people.
        sleep: waits for so many seconds.
    """

    def __init__(
        self, http: httpx.Client, *, service: str, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._http, self._service, self._sleep = http, service, sleep

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its connections."""
        self._http.close()

    def get(self, path: str, query: Query | None = None) -> Any:
        """The JSON at `path`; query values of None are left out. Raises ClientError."""
        params = {key: value for key, value in (query or {}).items() if value is not None}
        return self._call("GET", path, params=params)

    def post(
        self, path: str, body: Any = None, *, key: str | None = None, if_match: str | None = None
    ) -> Any:
        """Post JSON and return the answer's JSON; under `key` it is done once. Raises ClientError."""
        return self._call("POST", path, json=body, headers=_named(key, if_match))

    def put(self, path: str, body: Any, *, if_match: str | None = None) -> Any:
        """Put JSON and return the answer's JSON. Raises ClientError."""
        return self._call("PUT", path, json=body, headers=_named(None, if_match))

    def download(self, path: str) -> bytes:
        """The raw bytes at `path`. Raises ClientError."""
        return self._request("GET", path).content

    def upload(self, path: str, content: bytes) -> Any:
        """Post raw bytes and return the answer's JSON. Raises ClientError."""
        return self._call("POST", path, content=content, headers={"Content-Type": "application/octet-stream"})

    def pages(self, path: str, query: Query, limit: int) -> Iterator[Any]:
        """Up to `limit` items of a paged listing; 0: all. Raises ClientError."""
        after: str | None = None
        left = limit or sys.maxsize
        while left > 0:
            page = self.get(path, {**query, "after": after, "limit": min(left, 1000)})
            yield from page["items"]
            left -= len(page["items"])
            after = page["next_cursor"]
            if after is None:
                return

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        answer = self._request(method, path, **arguments)
        return answer.json() if answer.content else None

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        may_repeat = method != "POST" or "Idempotency-Key" in arguments.get("headers", {})
        for attempt in range(1, ATTEMPTS + 1):
            is_last = not may_repeat or attempt == ATTEMPTS
            try:
                answer = self._http.request(method, path, **arguments)
            except httpx.HTTPError as error:
                # who is not there at all is told at once: most often the address is wrong
                if is_last or isinstance(error, httpx.ConnectError):
                    raise self._unanswered(error) from None
                self._sleep(attempt)
                continue
            if answer.is_success:
                return answer
            if is_last or answer.status_code not in LATER:
                break
            self._sleep(_pause_s(answer))
        raise ClientError(
            f"the {self._service} refused {method} {path} ({answer.status_code}): {refusal_words(answer)}"
        )

    def _unanswered(self, error: httpx.HTTPError) -> ClientError:
        return ClientError(
            f"no answer from the {self._service} at {self._http.base_url}: {error}; is it running, and --url and --ca right?"
        )


def connect(url: str | None, ca: Path | None, token_file: Path | None, *, service: str) -> ApiClient:
    """A client for `url` that trusts the CA in `ca` (default: the system's) and sends the token in `token_file`.

    Raises:
        ClientError: something is missing or unreadable, or the URL would send the token in clear.
        SettingsError: the token file cannot be read, is open to everybody, or does not hold one line.
    """
    return ApiClient(open_connection(url, ca, token_file, service=service), service=service)


def open_connection(
    url: str | None, ca: Path | None, token_file: Path | None, *, service: str
) -> httpx.Client:
    """The connection of `connect`; raises as it does."""
    if not url or token_file is None:
        raise ClientError(
            f"where is the {service}, and who are you? Give --url and --token-file, "
            f"or set FEDGE_{service.upper()}_URL and FEDGE_{service.upper()}_TOKEN_FILE"
        )
    if not _may_carry_a_token(url):
        raise ClientError(f"--url {url!r} must be https://host:port (http:// only to loopback)")
    token = TokenFile(token_file, "--token-file")
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ClientError(f"--ca {ca} holds no usable CA: {error}") from None
    return httpx.Client(base_url=url, verify=context, timeout=TIMEOUT_S, auth=token)


def _may_carry_a_token(url: str) -> bool:
    try:
        address = httpx.URL(url)
        address.raw_host.decode("ascii").encode(
            "idna"
        )  # as the resolver will, whose error nobody understands
    except (httpx.InvalidURL, ValueError):
        return False
    return address.scheme == "https" or (address.scheme == "http" and is_loopback(address.host))


def new_key() -> str:
    """An idempotency key for one request of this process."""
    return secrets.token_hex(16)


def refusal_words(answer: httpx.Response) -> str:
    """Why a service refused: its problem document's words, or whatever stands in between said, cut short."""
    try:
        problem = answer.json()
        return printable(str(problem.get("detail") or problem["title"])[:500])
    except (ValueError, KeyError, AttributeError):
        return printable(answer.text[:200]) or "no reason given"


def _named(key: str | None, if_match: str | None) -> dict[str, str]:
    named = {"Idempotency-Key": key, "If-Match": if_match}
    return {name: value for name, value in named.items() if value is not None}


def _pause_s(answer: httpx.Response) -> float:
    said = answer.headers.get("Retry-After", "")
    return min(float(said), LONGEST_PAUSE_S) if said.isdecimal() and len(said) < 10 else 1.0
