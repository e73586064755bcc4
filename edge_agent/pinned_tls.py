"""TLS as a device speaks it: one pinned CA for each road, nothing older than TLS 1.2, no way to switch verification off.

Who the other side is, is always verified: its name, and a chain to the pinned CA. *When* a certificate is good is verified as
far as this device knows what time it is. Many have no clock that survives a power cut, and no time server; one that thinks
it is 1970, or is twenty years ahead, must still reach its fleet, because an alarm that is not told is worse than a certificate
that is out of date. So dates are ours to check, and not OpenSSL's, which knows the system clock only:

    a time service keeps the clock ─► not before and not after hold, of the certificate and of the CA that signed it
    nobody knows the time          ─► only what ended before this version was made is refused

And nobody dribbles an answer (`is_paced`): who sends fewer than `LEAST_BYTES_PER_S` on the average, head and body alike, is given up. A limit on silence alone
lets a byte every few seconds hold a thread, and an update, for days.

Decided in docs/decisions/0018; source: X509_VERIFY_PARAM_set_flags(3) (X509_V_FLAG_NO_CHECK_TIME).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from edge_agent.errors import NotEnrolledError
from edge_agent.trusted_clock import is_kept_by_a_time_service
from edge_agent.version import MADE_AFTER_S
from runtime.errors import SettingsError

__all__ = ["KnownTime", "SlowPeerError", "known_time", "pinned_context", "show_certificate"]

KnownTime = Callable[[], float | None]
"""Unix seconds where they are known to be right, else None."""

LEAST_BYTES_PER_S: Final = 100.0
"""Of what a peer sends: a tenth of what GPRS gives."""
PATIENCE_S: Final = 30.0
"""For the first byte of an answer, and for pauses of a bad road, before the average counts."""
_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME: `ssl` has no name for it."""


def known_time() -> float | None:
    """The system's time, where a time service keeps it."""
    return time.time() if is_kept_by_a_time_service() else None


def pinned_context(
    ca_file: Path, key: str, now: KnownTime | None = None, *, is_paced: bool = False
) -> ssl.SSLContext:
    """A client's context that trusts `ca_file` alone; `key` is the setting that named it, `now` is `known_time` unless given.

    `is_paced`: one question, one answer: who dribbles it is given up.

    Raises:
        SettingsError: the file cannot be read or holds no certificate.
    """
    context = _PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.now, context.is_paced = now or known_time, is_paced
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= _NO_CHECK_TIME
    try:
        context.load_verify_locations(cafile=str(ca_file))
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(
            f"{key} {ca_file} cannot be used: {error.strerror or error}; it must be the PEM of the CA"
        ) from None
    return context


class SlowPeerError(TimeoutError):
    """The peer sends, and so slowly that nothing would ever come of it."""


def show_certificate(context: ssl.SSLContext, file: Path) -> None:
    """From now on show the certificate in `file` (PEM: key, then chain) to whom asks for one.

    Raises:
        NotEnrolledError: there is none yet, or it cannot be used.
    """
    try:
        context.load_cert_chain(file)
    except FileNotFoundError:
        raise NotEnrolledError("this device has no certificate for the broker yet") from None
    except OSError as error:
        raise NotEnrolledError(f"{file} cannot be shown to the broker: {error.strerror or error}") from None


class _DatedSocket(ssl.SSLSocket):
    """Looks at the dates as soon as it is known whose certificate it is, and before a byte is sent; counts what comes against the time."""

    _since_s: float | None = None
    _received = 0

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """As `ssl`; raises SlowPeerError."""
        if isinstance(self.context, _PinnedContext) and self.context.is_paced:
            now_s = self.context.clock()
            self._since_s = now_s if self._since_s is None else self._since_s
            spent_s = now_s - self._since_s
            if spent_s > PATIENCE_S + self._received / LEAST_BYTES_PER_S:
                raise SlowPeerError(f"sent {self._received} bytes in {spent_s:.0f} s, which leads nowhere")
        count = super().recv_into(buffer, nbytes, flags)
        self._received += count
        return count

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the signature of `ssl`
        super().do_handshake(block)
        context, certificate = self.context, self.getpeercert()
        if isinstance(context, _PinnedContext) and certificate:
            _check_dates(certificate, context.get_ca_certs(), context.now())


class _PinnedContext(ssl.SSLContext):
    now: KnownTime
    is_paced = False
    clock: Callable[[], float] = staticmethod(time.monotonic)
    sslsocket_class = _DatedSocket


def _check_dates(
    certificate: Mapping[str, Any], known: Iterable[Mapping[str, Any]], now_s: float | None
) -> None:
    """Refuse a peer's certificate that is not good now, or that only a CA signed which is not.

    Raises:
        ssl.SSLCertVerificationError: as OpenSSL would say it.
    """
    why = _out_of_date(certificate, now_s)
    if not why:
        issuers = [ca for ca in known if ca.get("subject") == certificate.get("issuer")]
        ended = [said for ca in issuers if (said := _out_of_date(ca, now_s))]
        why = f"the CA's {ended[0]}" if issuers and len(ended) == len(issuers) else ""
    if why:
        error = ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, f"certificate verify failed: {why}")
        error.verify_message = why
        raise error


def _out_of_date(certificate: Mapping[str, Any], now_s: float | None) -> str:
    """Why it is not good now, or empty."""
    begins_s, ends_s = (ssl.cert_time_to_seconds(certificate[name]) for name in ("notBefore", "notAfter"))
    if ends_s < (MADE_AFTER_S if now_s is None else now_s):
        clock = (
            "before this version was made"
            if now_s is None
            else f"and it is {_day(now_s)} by a clock that is kept"
        )
        return f"certificate has expired on {_day(ends_s)}, {clock}"
    if now_s is not None and begins_s > now_s:
        return f"certificate is not yet valid: from {_day(begins_s)} on, and it is {_day(now_s)} by a clock that is kept"
    return ""


def _day(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d")
