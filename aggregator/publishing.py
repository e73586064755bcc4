"""Publishes releases: the bundle first, then the family's list with it, both signed by the release key.

::

    bundle ─► fleet stores it ─► list: the fleet's (if a trusted key signed it) and our own ─► + release, version + 1 ─► kept here ─► fleet
                                                                                  ▲───── 409: somebody else was faster ─────┘

What was signed is kept before it is sent. So a kill anywhere is made good by doing it again, and a list that the fleet hands out
is never believed to be the newest once we have signed a newer one: who holds the server cannot have us list anew what was taken
back. What was withdrawn, and no device shall run, is left out of the next list.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from aggregator.errors import AggregatorError, FleetRefusedError, FleetUnreachableError
from aggregator.fleet_client import FleetClient
from aggregator.release_listing import LIFETIME_S, ListedFile, ReleaseList, read_list, sign_list
from aggregator.settings import FleetSettings, Settings
from protocol.bundle import TrustedKeys, open_bundle
from protocol.errors import ProtocolError
from protocol.names import FamilyName
from protocol.trust_roles import family_role
from runtime.durable_files import private_directory, read_bytes, write_durably

__all__ = ["PublishingFleet", "keep_listed", "open_fleet"]

ATTEMPTS: Final = 8
"""Against others who publish at the same moment; each attempt loses to one who won."""

LOOK_EVERY_S: Final = 3600.0
"""Lists last a year and are signed anew at half; an hour after it was restored, a fleet has its list again."""

NOTHING: Final = ReleaseList(version=0, expires_at=0.0, files={})

_log = structlog.get_logger()


class PublishingFleet(FleetClient):
    """The fleet, for who holds a release key; safe to use from several threads and processes.

    Args:
        settings: where it is.
        key: the release key.
        trusted: keys whose lists are continued; `key`'s own always is.
        directory: where what was signed is kept; one for all who sign with this key on this machine.
        now: Unix seconds.
    """

    def __init__(
        self,
        settings: FleetSettings,
        key: Ed25519PrivateKey,
        *,
        trusted: Iterable[Ed25519PublicKey] = (),
        directory: Path,
        now: Callable[[], float],
    ) -> None:
        super().__init__(settings)
        self._key, self._trusted, self._now = key, (key.public_key(), *trusted), now
        self._directory = directory

    def publish(self, content: bytes) -> None:
        """Hand a bundle in and list it; doing so again changes nothing.

        Raises:
            FleetUnreachableError: try again; also where others published at the same moment, again and again.
            FleetRefusedError: status 409: another bundle has this release id.
            UntrustedListError: the fleet's list is signed by no key that is trusted here.
            ProtocolError: no bundle that one of our keys signed.
        """
        manifest = open_bundle(content, TrustedKeys(self._trusted)).manifest
        super().publish(content)
        file = ListedFile(sha256=hashlib.sha256(content).hexdigest(), length=len(content))
        self._list(FamilyName(manifest.family), {str(manifest.release): file})

    def keep_listed(self, family: FamilyName) -> bool:
        """Sign the family's list anew where half of its time is over, or the fleet has lost it; whether it did.

        Raises: as `publish`.
        """
        return self._list(family, {})

    def _list(self, family: FamilyName, new: dict[str, ListedFile]) -> bool:
        role, refusal = family_role(family), ""
        for _ in range(ATTEMPTS):
            served, own = self._served(role), self._own(role)
            stored = {record.release: record for record in self.releases(family)}
            gone = {name for name, one in stored.items() if one.is_withdrawn and not one.desired_devices}
            older, newer = sorted((served, own), key=lambda found: found.version)
            # of equal versions both may hold what the other has not; an older one is never believed against a newer one of ours
            known = {**(older.files if older is own or older.version == newer.version else {}), **newer.files}
            files = {name: file for name, file in known.items() if name in stored and name not in gone} | new
            is_fresh = served.expires_at - self._now() > LIFETIME_S / 2
            if served.files == files and (is_fresh or not files):
                return False
            content = sign_list(files, newer.version + 1, self._key, self._now())
            private_directory(self._directory)
            write_durably(self._directory / f"{role}.json", content)
            try:
                self.publish_list(role, content)
            except FleetRefusedError as refused:
                if refused.status != 409:
                    raise
                refusal = str(refused)
                _log.info("list_outrun", role=role, version=newer.version + 1, detail=refusal)
                continue
            _log.info("releases_listed", role=role, version=newer.version + 1, releases=len(files))
            return True
        raise FleetUnreachableError(
            f"the list of {role} was outrun {ATTEMPTS} times: others publish at the same moment, or the fleet lost"
            f" releases that are listed (hand those in again); it said last: {refusal}"
        )

    def _served(self, role: str) -> ReleaseList:
        content = self.release_list(role)
        return NOTHING if content is None else read_list(content, self._trusted)

    def _own(self, role: str) -> ReleaseList:
        content = read_bytes(self._directory / f"{role}.json")
        return NOTHING if content is None else read_list(content, self._trusted)


def open_fleet(
    settings: Settings, key: Ed25519PrivateKey, former: Iterable[Ed25519PublicKey]
) -> PublishingFleet:
    """The fleet of an aggregator; `former` keys' lists are continued under `key`. Raises SettingsError."""
    return PublishingFleet(
        settings.fleet, key, trusted=former, directory=settings.data_dir / "lists", now=time.time
    )


async def keep_listed(fleet: PublishingFleet, families: Iterable[str]) -> None:
    """Keep every family's list from ending, until canceled; what goes wrong is told and tried again."""
    while True:
        for family in tuple(families):
            try:
                await asyncio.to_thread(fleet.keep_listed, FamilyName(family))
            except (AggregatorError, ProtocolError) as error:
                _log.warning("list_not_kept", family=family, reason=str(error))
        await asyncio.sleep(LOOK_EVERY_S)
