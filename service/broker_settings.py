"""Where a cloud service finds the broker, and who it is there. What connects is `service.broker_account`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from service.addresses import is_loopback

__all__ = ["BrokerSettings"]


class BrokerSettings(Struct, frozen=True, kw_only=True):
    """Where the broker is and who we are there.

    url: ``mqtts://host[:port]``; ``mqtt://`` to loopback only.
    ca_file: replaces the system's authorities.
    tls_cert, tls_key: shown to the broker, which knows this service by the name in it; ``mqtts://`` needs both.
    reconnect_s: first pause before reconnecting; doubles up to 5 s.
    """

    GONE: ClassVar[dict[str, str]] = dict.fromkeys(
        ("username", "password_file"),
        "the broker knows this service by the name in its certificate: give tls_cert and tls_key",
    )

    url: str
    ca_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    reconnect_s: Annotated[float, Meta(gt=0, le=60)] = 0.5

    def __post_init__(self) -> None:
        """Raises ValueError for an address that is none, would send messages in clear, or lacks a certificate."""
        parts = urlsplit(self.url)
        try:
            is_address = parts.scheme in {"mqtt", "mqtts"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_address = False
        if not is_address or "@" in parts.netloc or parts.path.strip("/"):
            raise ValueError(
                "url is not mqtts://host[:port], or mqtt://127.0.0.1[:port] (no user and no path in it)"
            )
        if parts.scheme == "mqtt" and not is_loopback(parts.hostname or ""):
            raise ValueError(
                f"url = {self.url!r} would send messages in clear; use mqtts:// to anything but loopback"
            )
        has = self.tls_cert is not None, self.tls_key is not None
        if any(has) != all(has) or (parts.scheme == "mqtts" and not all(has)):
            raise ValueError(
                f"url = {self.url!r} needs tls_cert and tls_key: the broker knows this service by the certificate"
                if parts.scheme == "mqtts"
                else "tls_cert and tls_key belong together; give both or neither"
            )
