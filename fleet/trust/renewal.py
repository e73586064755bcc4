"""Signs timestamp and snapshot anew in good time, and says what people must sign soon.

It also finishes a publication that another process began, within `EVERY_S`. A repository that is not there, or a disk
that refuses, is told and tried again; nothing else of the fleet waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from prometheus_client import Gauge
from tuf.api.metadata import Root, Targets

from fleet.errors import NotFoundError, UnacceptableError
from fleet.trust.metadata import DAY_S
from fleet.trust.published import Published
from fleet.trust.repository import TrustRepository
from runtime.errors import StorageError

__all__ = ["WARN_BEFORE_S", "TrustRenewal", "expiries"]

EVERY_S: Final = 60.0
"""A look costs a few small files; what people sign lasts a year, what the fleet signs half a day."""

WARN_BEFORE_S: Final = 60 * DAY_S
"""How long before its end something that people, or the aggregator, sign is warned about."""

WARN_EVERY_S: Final = DAY_S

_log = structlog.get_logger()


def expiries(published: Published, now: float) -> Mapping[str, float]:
    """Role → seconds until what it signed ends; only of roles whose word counts."""
    found = {Root.type: published.root.signed.expires, Targets.type: published.targets.signed.expires}
    for signed in (published.snapshot, published.timestamp):
        if signed is not None:
            found[signed.signed.type] = signed.signed.expires
    found |= {
        role: listed.signed.expires for role, listed in published.roles.items() if published.role_keys(role)
    }
    return {role: expires.timestamp() - now for role, expires in found.items()}


class TrustRenewal:
    """The background task; `watch` is called after each look, to note what is listed now.

    Args:
        repository: the fleet's.
        gauge: gets the seconds until each role's expiry, label ``role``.
        now: Unix seconds.
        watch: told what is published.
    """

    def __init__(
        self,
        repository: TrustRepository,
        gauge: Gauge,
        *,
        now: Callable[[], float],
        watch: Callable[[Published], None] = lambda _published: None,
    ) -> None:
        self._repository = repository
        self._gauge = gauge
        self._now = now
        self._watch = watch
        self._warned: dict[str, float] = {}

    async def run(self) -> None:
        """Look every `EVERY_S` until canceled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(EVERY_S)

    def look(self) -> None:
        """Do what is due now."""
        now = self._now()
        try:
            if self._repository.renew(now):
                _log.info("trust_renewed")
            published = self._repository.published()
        except NotFoundError as error:
            self._warn("missing", now, "trust_missing", str(error))
            return
        except (UnacceptableError, StorageError) as error:
            self._warn("failed", now, "trust_renewal_failed", str(error))
            return
        for role, left_s in expiries(published, now).items():
            self._gauge.labels(role).set(left_s)
            if left_s < WARN_BEFORE_S and role not in {"snapshot", "timestamp"}:
                self._warn(
                    role,
                    now,
                    "trust_expires_soon",
                    f"{role} ends in {left_s / DAY_S:.1f} days; sign it anew before, or devices take no release",
                )
        self._watch(published)

    def _warn(self, what: str, now: float, event: str, words: str) -> None:
        if not 0 <= now - self._warned.get(what, float("-inf")) < WARN_EVERY_S:
            self._warned[what] = now
            _log.warning(event, detail=words)
