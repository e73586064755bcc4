"""Before a device joins: does the fleet answer, is it the pinned one, does the broker, and is the clock right? A line each, with the remedy."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final

from edge_agent.errors import FleetAnswerError, FleetTlsError, FleetUnreachableError
from edge_agent.fleet_endpoint import FleetEndpoint
from edge_agent.pinned_tls import pinned_context
from edge_agent.settings import MqttSettings, Settings

__all__ = ["broker_trouble", "call_fleet"]

WRONG_BY_S: Final = 60.0
"""A clock that is off by less is not worth a word: tokens and invitations allow for as much."""
_PATIENCE_S: Final = 8.0


def call_fleet(settings: Settings, clock: Callable[[], float] = time.time) -> list[str]:
    """Ask the fleet how it is; returns what a person should know though joining goes on.

    Raises:
        FleetUnreachableError, FleetTlsError: with what to do about it.
    """
    assert settings.fleet is not None  # noqa: S101 - for the type checker; a joined device has one
    url = settings.fleet.url
    endpoint = FleetEndpoint(url=url, ca_file=settings.fleet.ca_file)
    try:
        answer = endpoint.exchange("GET", "/healthz", headers={})
    except FleetUnreachableError as error:
        raise FleetUnreachableError(
            f"{error} Is the plant up (fedge up), and does this device reach {url}? If the plant's host has another name now, make the"
            " join file again"
        ) from None
    except FleetTlsError as error:
        raise FleetTlsError(
            f"{error}. Devices must dial the name that `fedge init plant --host NAME` was given; another plant has another CA: join it with"
            " a file of its own"
        ) from None
    except FleetAnswerError as error:
        return [f"the fleet at {url} is not well: {error}"]
    return _clock_trouble(answer.headers.get("date", ""), clock())


def _clock_trouble(date: str, now_s: float) -> list[str]:
    try:
        ahead_s = now_s - parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return []
    if abs(ahead_s) < WRONG_BY_S:
        return []
    how = f"{_span(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'}"
    return [
        f"this device's clock is {how} the fleet's: it watches all the same; set the wrong one of them (timedatectl set-ntp true)"
    ]


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def broker_trouble(settings: MqttSettings) -> str:
    """Why the broker cannot be reached, with the remedy; empty where it can."""
    try:
        with socket.create_connection((settings.host, settings.port), _PATIENCE_S) as line:
            if settings.tls and settings.ca_file is not None:
                context = pinned_context(settings.ca_file, "mqtt.ca_file")
                with context.wrap_socket(line, server_hostname=settings.host):
                    pass
    except ssl.SSLCertVerificationError as error:
        why = f"shows a certificate that is not the plant's: {error.verify_message}"
    except ssl.SSLError as error:
        why = f"does not speak TLS as expected: {error.reason or error}"
    except TimeoutError:
        why = f"is silent for {_PATIENCE_S:g} s"
    except ConnectionRefusedError:
        why = "refuses: nothing listens there"
    except OSError as error:
        why = f"cannot be reached: {error.strerror or error}"
    else:
        return ""
    return (
        f"the broker {settings.url} {why}. Is the plant up (fedge up), and its port open to this device? Until then the device watches and"
        " keeps what it sees"
    )
