"""``[alerts]`` of fleet.toml: who is told of what, and how patiently. `fleet.alerts` is what follows from it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from service.addresses import is_loopback

__all__ = [
    "AlertKind",
    "AlertSettings",
    "EmailReceiver",
    "PagerDutyReceiver",
    "Receiver",
    "Severity",
    "SlackReceiver",
    "WebhookReceiver",
    "check_url",
]


class AlertKind(StrEnum):
    """What an alert is about."""

    ANOMALY = "anomaly"  # a device scores over its threshold
    DRIFT = "drift"  # the world of a device has left its reference
    SILENT = "silent"  # a device is not heard any more
    BLIND = "blind"  # a device runs and judges nothing
    DEAF = "deaf"  # no device is heard: the broker, the network or this service
    CONFLICT = "identity_conflict"  # two devices use one identity
    PRECISION = "precision"  # people call more alarms of a release false than before
    ROLLOUT = "rollout"  # a rollout stopped, or goes back
    APPROVAL = "approval"  # a rollout waits for a person
    ENROLMENT = "enrolment"  # somebody with a claim of ours was not let in
    MESSAGES = "messages"  # a device's messages are refused, or come too fast
    RELEASE = "release"  # a release was published


class Severity(StrEnum):
    """How bad, in PagerDuty's words; the worst first."""

    CRITICAL = "critical"
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Receiver(Struct, frozen=True, kw_only=True, tag_field="type"):
    """Somebody who is told, and of what: every list that is given narrows it.

    name: in the API and metrics.
    kinds: none: every kind.
    families: none: every family. What is of no family (nothing is heard at all) is told to everybody.
    sites: none: every site; likewise.
    at_least: nothing milder is told here.
    send_resolved: whether it is told that something is over.
    per_minute: messages at most; what waits beyond that goes out together, and nothing is dropped.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)")]
    kinds: tuple[AlertKind, ...] = ()
    families: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    at_least: Severity = Severity.INFO
    send_resolved: bool = True
    per_minute: Annotated[int, Meta(ge=1, le=600)] = 6

    def secret_files(self) -> dict[str, Path]:
        """The files of secrets that it needs, by the setting that names them."""
        return {}


class WebhookReceiver(Receiver, frozen=True, kw_only=True, tag="webhook"):
    """CloudEvents 1.0 by HTTP POST, one in structured mode, several in batched mode.

    url: https, or http to loopback.
    token_file: sent as `Authorization: Bearer`.
    ca_file: replaces the system's authorities.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    per_minute: Annotated[int, Meta(ge=1, le=600)] = 60

    def __post_init__(self) -> None:
        """Raises ValueError for an address that is none, or would send in clear."""
        check_url(self.url, "url")

    def secret_files(self) -> dict[str, Path]:
        """See `Receiver.secret_files`."""
        return {} if self.token_file is None else {"token_file": self.token_file}


class SlackReceiver(Receiver, frozen=True, kw_only=True, tag="slack"):
    """A channel of Slack, or of what speaks its language (Mattermost, Rocket.Chat), by an incoming webhook.

    url_file: holds the webhook's address: whoever has it may write to the channel, so it is a secret.
    ca_file: replaces the system's authorities.
    """

    url_file: Path
    ca_file: Path | None = None

    def secret_files(self) -> dict[str, Path]:
        """See `Receiver.secret_files`."""
        return {"url_file": self.url_file}


class PagerDutyReceiver(Receiver, frozen=True, kw_only=True, tag="pagerduty"):
    """A service of PagerDuty, by Events API v2.

    routing_key_file: holds the integration key.
    url: of the European region `https://events.eu.pagerduty.com/v2/enqueue`.
    ca_file: replaces the system's authorities.
    """

    routing_key_file: Path
    url: str = "https://events.pagerduty.com/v2/enqueue"
    ca_file: Path | None = None
    at_least: Severity = Severity.WARNING
    per_minute: Annotated[int, Meta(ge=1, le=600)] = 60

    def __post_init__(self) -> None:
        """Raises ValueError for an address that is none, or would send in clear."""
        check_url(self.url, "url")

    def secret_files(self) -> dict[str, Path]:
        """See `Receiver.secret_files`."""
        return {"routing_key_file": self.routing_key_file}


Address = Annotated[str, Meta(pattern=r"^[^\s@<>,;:\"()\[\]]+@[A-Za-z0-9.-]+$(?!\n)", max_length=254)]


class EmailReceiver(Receiver, frozen=True, kw_only=True, tag="email"):
    """People, by e-mail: plain text, from one sender, through one server, always encrypted.

    host: the mail server; its certificate must name it.
    port: none: 587, with implicit TLS 465.
    tls: whether the connection begins in clear and goes over to TLS, which is required, or is TLS from the first byte.
    sender: in From.
    to: at most fifty.
    username: none: the server asks nobody.
    password_file: of that user.
    ca_file: replaces the system's authorities.
    """

    host: Annotated[str, Meta(min_length=1)]
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    tls: Literal["starttls", "implicit"] = "starttls"
    sender: Address
    to: Annotated[tuple[Address, ...], Meta(min_length=1, max_length=50)]
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a user without a password, or the other way round."""
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together; give both or neither")

    def secret_files(self) -> dict[str, Path]:
        """See `Receiver.secret_files`."""
        return {} if self.password_file is None else {"password_file": self.password_file}


AnyReceiver = WebhookReceiver | SlackReceiver | PagerDutyReceiver | EmailReceiver
HOUR_S: Final = 3600.0


class AlertSettings(Struct, frozen=True, kw_only=True):
    """Who is told that something needs a person, and how patiently.

    group_wait_s: a message waits so long for more of its kind, so that it says how many there are.
    group_gap_s: one more of the same kind, family and site within so long after the last one is the same storm.
    group_longest_s: what begins later than that after a storm's first is told anew, however steady it goes on.
    resolve_after_s: how long an alarm must be over; one that comes back sooner never was. Twice as long for one that came back
        within the day, up to sixteen times.
    silent_after_s: how long a device must have been offline to be called silent.
    quiet_after_s: what never tells of its end (refused messages, older agents) is over after so long without another.
    remind_every_s: none: what is still open is not told again.
    """

    group_wait_s: Annotated[float, Meta(ge=0, le=HOUR_S)] = 30.0
    group_gap_s: Annotated[float, Meta(ge=0, le=HOUR_S)] = 300.0
    group_longest_s: Annotated[float, Meta(ge=60, le=24 * HOUR_S)] = HOUR_S
    resolve_after_s: Annotated[float, Meta(ge=0, le=HOUR_S)] = 300.0
    silent_after_s: Annotated[float, Meta(ge=0, le=24 * HOUR_S)] = 300.0
    quiet_after_s: Annotated[float, Meta(ge=60, le=24 * HOUR_S)] = HOUR_S
    remind_every_s: Annotated[float, Meta(ge=600, le=7 * 24 * HOUR_S)] | None = None
    receivers: Annotated[tuple[AnyReceiver, ...], Meta(max_length=32)] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for two receivers of one name."""
        names = [receiver.name for receiver in self.receivers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two receivers are called {twice[0]!r}; each needs a name of its own")


def check_url(url: str, what: str) -> None:
    """Raise ValueError where `url` is no address of HTTP, or would send in clear to another machine."""
    parts = urlsplit(url)
    try:
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or "@" in parts.netloc or any(not c.isprintable() or c == " " for c in url):
        raise ValueError(f"{what} is not https://host/path, or http://127.0.0.1/path (no user in it)")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError(
            f"{what} = {url!r} would send alerts in clear; use https:// to anything but loopback"
        )
