"""Keeps this device's certificate for the broker good: fetches the first one, and the next before one ends.

::

    waiting for a person ─► the enrolment once more ─┐
    no certificate, or past 2/3 of its life ─────────┼─► HTTPS, by the identity key ─► connection.pem ─► the link connects again
    refused by the broker, whatever our clock says ──┘

A thread that sleeps most of its life. HTTPS needs no certificate of this device, so that one which has ended is renewed like
any other: a device that lay in a drawer for a year comes back by itself. Where nobody knows the date, the time since the
certificate came counts, and what the broker makes of it. Nothing here ends the agent: what does not work is told in
`trouble`, and tried again.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import structs

from edge_agent.connection_certificate import Lifetime, accept_certificate, make_request, read_lifetime
from edge_agent.enrolled import Enrolled, load_enrolled, save_enrolled
from edge_agent.enrolment import enrol_device
from edge_agent.errors import FleetDeniedError
from edge_agent.fleet_client import FleetClient
from edge_agent.settings import Settings
from runtime.backoff import backoff_s
from runtime.errors import FedgeError

__all__ = ["CertificateKeeper", "Clock", "Road"]

log: Final = logging.getLogger(__name__)

_SHARE, _SPREAD = 0.6, 0.133
"""A certificate is renewed at 60 to 73 % of its life, 2/3 in the mean: devices that enrolled in one hour do not renew in one."""
_UNDATED_SHARE: Final = 1 / 3
"""Where the date is not known: after so much of a life since it was first looked at."""
_URGENT_SHARE: Final = 5 / 6
"""From here on a renewal that fails is told to people."""
_LOOK_S: Final = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 3600.0
_LONGEST_WAIT_S: Final = 600.0
"""Between two questions whether a person has approved this device."""
_REFUSALS: Final = 3
"""Connections in a row that a broker ended before its welcome: one may be its restart."""


class Clock(Protocol):
    """What is asked of `edge_agent.trusted_clock.TrustedClock`."""

    def wall_s(self) -> float:
        """Unix seconds, the best that is known."""

    def known_s(self) -> float | None:
        """The same where they are known to be right."""

    def boot_s(self) -> float:
        """Seconds that nobody can set."""


class Road(Protocol):
    """What is asked of `edge_agent.mqtt_link.MqttLink`."""

    refusals: int

    def reconnect(self) -> None:
        """Connect again, with the certificate that is there now."""


class CertificateKeeper:
    """Starts its thread at once. `turn` is one look, for tests in their own thread."""

    def __init__(
        self,
        settings: Settings,
        enrolled: Enrolled,
        fleet: FleetClient,
        *,
        clock: Clock,
        link: Road | None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Look what there is.

        Args:
            settings: of this agent; with ``[fleet]``.
            enrolled: who this device is; it may still wait for approval.
            fleet: as this device.
            clock: for the dates of certificates.
            link: told of a new certificate; None: this device talks over HTTPS alone, and needs none.
            draw: uniform in [0, 1), for the jitter.
        """
        self._settings, self._enrolled, self._fleet = settings, enrolled, fleet
        self._clock, self._link, self._draw = clock, link, draw
        self._lifetime: Lifetime | None = None
        self._seen: tuple[int, int] | None = None
        self._seen_s = 0.0
        self._share = _SHARE + _SPREAD * draw()
        self._asks = self._refusals = 0
        self._is_lost = False
        self._not_before_s = float("-inf")
        self.trouble = ""
        """What a person should know, in a sentence; empty while all is well."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="certificate", daemon=True)

    def start(self) -> None:
        """Begin to keep it."""
        self._thread.start()

    def close(self) -> None:
        """Stop; a question under way ends with its own timeout."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._turn_safely()):
            pass

    def _turn_safely(self) -> float:
        try:
            return self.turn()
        except Exception as error:  # noqa: BLE001 - from outside comes anything, and this thread must outlive it
            told = str(error) if isinstance(error, FedgeError) else f"{type(error).__name__}: {error}"
            self._tell(f"the certificate for the broker cannot be looked after: {told}")
            return _LONGEST_WAIT_S

    def turn(self) -> float:
        """Look, and ask the fleet where that is due; returns the seconds until the next look."""
        if self._enrolled.is_waiting:
            return self._ask_to_be_let_in()
        if self._link is None:
            self.trouble = ""
            return _LONGEST_PAUSE_S
        self._look()
        self._refusals = min(self._refusals, self._link.refusals)
        is_refused = self._link.refusals - self._refusals >= _REFUSALS
        if not self._is_due() and not is_refused:
            self.trouble = ""
            return _LOOK_S
        if self._clock.boot_s() < self._not_before_s:
            return _LOOK_S
        self._refusals = (
            self._link.refusals
        )  # a broker refuses a new certificate before the next one is asked for
        self._ask(is_refused=is_refused)
        return _LOOK_S

    def _ask_to_be_let_in(self) -> float:
        """Ask again, as a person may have answered meanwhile, or enrolled this device by hand."""
        self._asks += 1
        name, key, words = (
            self._enrolled.device,
            self._enrolled.fingerprint,
            "waits until a person at the fleet approves it",
        )
        told = f"{words} (fedge-fleet devices approve {name}; its key is {key})"
        try:
            self._enrolled = load_enrolled(self._settings.paths.enrolment)
            if self._enrolled.is_waiting:
                self._enrolled = self._asked_again()
        except FleetDeniedError as error:
            told = f"the fleet does not let this device in: {error}"
        except FedgeError as error:
            told = f"{words}; nobody can be asked whether one did: {error}"
        if not self._enrolled.is_waiting:
            self._asks, self.trouble = 0, ""
            return 0.0
        self._tell(told)
        return backoff_s(self._asks, first_s=_FIRST_PAUSE_S, maximum_s=_LONGEST_WAIT_S, draw=self._draw())

    def _asked_again(self) -> Enrolled:
        fleet, enrolled = self._settings.fleet, self._enrolled
        if fleet is not None and fleet.claim_token_file is not None and fleet.claim_token_file.exists():
            return enrol_device(self._settings, self._clock.known_s)
        # The claim is deleted, as it should be once it is used: the fleet knows this device by its key.
        self._fetch()
        enrolled = structs.replace(enrolled, is_waiting=False)
        save_enrolled(self._settings.paths.enrolment, enrolled)
        return enrolled

    def _look(self) -> None:
        """Take in a certificate that is new on the disk, whoever put it there."""
        path = self._settings.paths.connection
        try:
            found = path.stat()
            seen = (found.st_ino, found.st_mtime_ns)
        except FileNotFoundError:
            seen = None
        if seen == self._seen and seen is not None:
            return
        before, self._seen = self._seen, seen
        self._lifetime = read_lifetime(path, self._enrolled.device)
        self._seen_s = self._clock.boot_s()
        self._share = _SHARE + _SPREAD * self._draw()
        if before is not None and self._link is not None:
            self._link.reconnect()

    def _is_due(self) -> bool:
        lifetime = self._lifetime
        if lifetime is None:
            return True
        is_known = self._clock.known_s() is not None
        if (is_known or not self._is_lost) and self._is_past(self._share, lifetime):
            return True
        kept_s = self._clock.boot_s() - self._seen_s
        return not is_known and kept_s >= _UNDATED_SHARE * lifetime.length_s

    def _is_past(self, share: float, lifetime: Lifetime) -> bool:
        return self._clock.wall_s() >= lifetime.begins_s + share * lifetime.length_s

    def _ask(self, *, is_refused: bool) -> None:
        self._asks += 1
        try:
            self._fetch()
            self._look()
            # One that was made this moment is not near its end: a clock that says so, and is not kept, is wrong.
            self._is_lost = self._lifetime is not None and self._is_past(self._share, self._lifetime)
            if not is_refused and not self._is_due():
                self._asks = 0
            self.trouble = ""
        except FleetDeniedError as error:
            mended = "; run `fedge-agent enrol` with a claim of this fleet" if error.status == 401 else ""
            self._tell(f"the fleet gives this device no certificate for the broker: {error}{mended}")
        except FedgeError as error:
            if self._is_urgent():
                self._tell(f"no new certificate for the broker: {error}")
        pause_s = backoff_s(
            max(1, self._asks), first_s=_FIRST_PAUSE_S, maximum_s=_LONGEST_PAUSE_S, draw=self._draw()
        )
        self._not_before_s = self._clock.boot_s() + pause_s

    def _fetch(self) -> None:
        """The next certificate, by the identity key; raises FleetError, IdentityKeyError, StorageError."""
        device = self._enrolled.device
        key, request = make_request(device)
        chain = self._fleet.certificate(request)
        accept_certificate(
            self._settings.paths.connection, chain, key, device=device, now_s=self._clock.known_s()
        )
        log.info("certificate_renewed device=%s", device)

    def _is_urgent(self) -> bool:
        lifetime = self._lifetime
        if lifetime is None:
            return True
        return self._is_past(_URGENT_SHARE, lifetime)

    def _tell(self, words: str) -> None:
        if words != self.trouble:
            log.warning("certificate_trouble what=%s", words)
        self.trouble = words
