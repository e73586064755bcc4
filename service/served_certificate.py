"""The certificate that a listener shows: read anew when its files change, without a restart, and without a moment of none.

::

    look ─► changed, and settled? ─► loads as a pair? ─► valid now? ─► shown from the next handshake on
                                        └────── no: what was shown goes on being shown, and the log says why

Whoever renews writes two files, and not at once. A pair is taken when neither has changed between two looks, when the key is
that of the certificate, and when its time has come; so half of a pair, or a chain cut off, is never shown.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from prometheus_client import CollectorRegistry, Gauge

from service.errors import StartError

__all__ = ["LOOK_S", "WARN_DAYS", "ServedCertificate", "expose_days_left"]

LOOK_S: Final = 5.0
"""Between two looks at the files."""

WARN_DAYS: Final = 14.0
"""Two weeks in which somebody is at work, whatever the holidays."""

DAY_S: Final = 86400.0

_log = structlog.get_logger()

Stamp = tuple[tuple[int, int, int, int], ...]
"""Of each file: inode, size, and when content and inode changed, in nanoseconds."""


class ServedCertificate:
    """A certificate and its key, for one listener. One thread looks; handshakes may be in any.

    Args:
        cert: PEM, leaf first.
        key: PEM.
        now: Unix seconds.

    Raises:
        StartError: they cannot be read or do not belong together. One that has ended is shown all the same, and said:
            a device whose clock is wrong may still come in, and a service that does not start renews nothing.
    """

    def __init__(self, cert: Path, key: Path, now: Callable[[], float]) -> None:
        self._cert, self._key, self._now = cert, key, now
        try:
            self._stamp = self._look_at_files()
            self._shown, self._leaf = self._load()
            self.context: Final = _context(cert, key)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise StartError(
                f"tls_cert {cert} and tls_key {key} cannot be used: {error}; both are PEM files and belong together"
            ) from None
        self._seen, self._refused, self._warned_at = self._stamp, "", float("-inf")
        # OpenSSL asks for each handshake, with a name or without one: what is shown changes in one assignment.
        self.context.sni_callback = self._show
        self._warn()

    def days_left(self) -> float:
        """Until the certificate that is shown ends; negative once it has."""
        return (self._leaf.not_valid_after_utc.timestamp() - self._now()) / DAY_S

    def look(self) -> None:
        """Take what the files hold now, if it is whole; warn where the end is near. Call it every `LOOK_S`."""
        try:
            stamp = self._look_at_files()
            if stamp != self._stamp and stamp == self._seen:
                shown, leaf = self._load()
                if self._look_at_files() == stamp:
                    self._check_time(leaf)
                    self._stamp, self._shown, self._leaf, self._refused = stamp, shown, leaf, ""
                    _log.info(
                        "certificate_renewed", file=str(self._cert), days_left=round(self.days_left(), 1)
                    )
            self._seen = stamp
        except (OSError, ValueError) as error:
            if str(error) != self._refused:
                self._refused = str(error)
                _log.error(
                    "certificate_not_taken", file=str(self._cert), key=str(self._key), reason=str(error)
                )
        self._warn()

    def _load(self) -> tuple[ssl.SSLContext, x509.Certificate]:
        shown = _context(self._cert, self._key)
        return shown, x509.load_pem_x509_certificate(self._cert.read_bytes())

    def _check_time(self, leaf: x509.Certificate) -> None:
        now = self._now()
        if leaf.not_valid_before_utc.timestamp() > now:
            raise ValueError(f"the new certificate begins to be valid on {leaf.not_valid_before_utc}")
        if leaf.not_valid_after_utc.timestamp() <= now < self._leaf.not_valid_after_utc.timestamp():
            raise ValueError(
                f"the new certificate ended on {leaf.not_valid_after_utc}; the one in use has not"
            )

    def _look_at_files(self) -> Stamp:
        stats = [path.stat() for path in (self._cert, self._key)]
        return tuple((s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats)

    def _show(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._shown

    def _warn(self) -> None:
        if self.days_left() < WARN_DAYS and self._now() - self._warned_at > DAY_S:
            self._warned_at = self._now()
            _log.warning(
                "certificate_ends_soon",
                file=str(self._cert),
                ends=self._leaf.not_valid_after_utc.isoformat(),
                days_left=round(self.days_left(), 1),
                remedy="put the renewed certificate and key in these files; no restart is needed",
            )


def expose_days_left(registry: CollectorRegistry, certificate: ServedCertificate) -> None:
    """Show on the metrics page how long the certificate is still good for."""
    Gauge(
        "fedge_certificate_days_left", "Days until the served TLS certificate ends", registry=registry
    ).set_function(certificate.days_left)


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Each renegotiation costs us far more than whoever asks for one.
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Nobody of ours resumes a session, and each ticket costs as much as a small answer.
    context.num_tickets = 0
    # A key under a pass phrase is refused: without this, OpenSSL asks the terminal for it, and a service waits for ever.
    context.load_cert_chain(cert, key, password=_no_password)
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted; a service has nobody to ask for a pass phrase")
