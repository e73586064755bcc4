"""What all receivers have in common: the port, and one POST whose answer ends."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol

import httpx

from fleet.alerts.messages import Message
from fleet.alerts.outbox import Delivered, Later, Outcome, Refused
from runtime.printable import printable

__all__ = ["Sender", "post", "tls_context"]

LONGEST_S: Final = 20.0
"""From the first packet to the last, whatever dribbles in between."""

MOST_BYTES: Final = 64 * 1024
SHOWN: Final = 120
"""Characters of an answer that are shown to people: why it was refused."""

_OF_RECEIVER: Final = frozenset({401, 402, 403, 404, 405, 407, 410})
"""Every other message would be refused as well, until somebody mends the settings."""

_LATER: Final = frozenset({408, 423, 425, 429})


class Sender(Protocol):
    """Port: somebody who is told. `at_once`: messages that fit in one."""

    at_once: int

    async def send(self, messages: Sequence[Message]) -> Outcome:
        """Send these as one; never raises for what the other side or the road does."""


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Authorities of the system, or of a file; raises OSError or ssl.SSLError where that is none."""
    return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))


async def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    ca_file: Path | None,
    secret: str,
    now: float,
) -> Outcome:
    """POST `body`, and say what became of it. A redirect is not followed: it could lead anywhere.

    Args:
        url: where to.
        body: what is sent.
        headers: of it.
        ca_file: authorities in place of the system's.
        secret: is shown nowhere, should it be in an answer or in an error.
        now: Unix seconds, for a Retry-After that is a date.
    """
    try:
        async with asyncio.timeout(LONGEST_S):
            context = await asyncio.to_thread(tls_context, ca_file)
            async with (
                httpx.AsyncClient(verify=context, follow_redirects=False, timeout=LONGEST_S / 2) as http,
                http.stream(
                    "POST", url, content=body, headers={"Accept-Encoding": "identity", **headers}
                ) as answer,
            ):
                said = b""
                async for part in answer.aiter_raw():
                    said += part
                    if len(said) > MOST_BYTES:
                        break
    except TimeoutError:
        return Later(f"it did not answer within {LONGEST_S:.0f} s")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return Later(_hidden(f"not reached: {type(error).__name__} {error}", secret))
    return _judged(answer, _hidden(said[: 4 * SHOWN].decode("utf-8", "replace"), secret), now)


def _judged(answer: httpx.Response, said: str, now: float) -> Outcome:
    status = answer.status_code
    reason = f"it answered {status} {_phrase(status)}: {said[:SHOWN]}".rstrip(": ")
    if answer.is_success:
        return Delivered()
    if answer.has_redirect_location or answer.is_redirect:
        return Refused(
            f"{reason}; redirects are not followed: set the address it leads to", is_of_receiver=True
        )
    if status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Later(reason, _retry_after(answer.headers.get("retry-after"), now))
    return Refused(reason, is_of_receiver=status in _OF_RECEIVER)


def _retry_after(said: str | None, now: float) -> float | None:
    if said is None:
        return None
    if said.strip().isascii() and said.strip().isdigit():
        return float(said.strip()[:12])
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - now)
    except (ValueError, OverflowError, TypeError):
        return None


def _hidden(text: str, secret: str) -> str:
    return printable(text.replace(secret, "…") if secret else text)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
