"""Releases: verified before anything is kept, bytes in a file named by their SHA-256, record in the database.

The order makes a crash harmless: file durable first, then the row. A file without a row is an orphan that the next
upload of the same bytes takes over; a row without its file cannot happen, short of a damaged disk.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fleet import audit
from fleet.errors import ConflictError, NotFoundError, UnacceptableError
from fleet.storage.base import Database
from fleet.storage.device_tables import Desired, Device, DeviceState
from fleet.storage.release_tables import Release
from fleet.trust.listings import newest_listed
from fleet.trust.published import Published
from fleet.trust.repository import TrustRepository
from models.bundles import read_bundle
from models.errors import ModelError
from protocol.bundle import VerifiedBundle, open_bundle, peek_manifest
from protocol.errors import BundleError, TopicError
from protocol.names import MAX_RELEASE_VERSION, release_id, split_release_id
from runtime.durable_files import private_directory, write_durably
from runtime.errors import StorageError
from service.roles import Caller

__all__ = [
    "ReleaseStore",
    "approved_among",
    "bundle_path",
    "count_devices",
    "find_release",
]

CHUNK_BYTES: Final = 256 * 1024

FARTHEST: Final = 1000
"""How many versions a release may go beyond the newest of its family, stored or listed. A release is never removed, and training goes
on behind the newest: one at the end of all numbers, by a slip or a stolen key, would end the family."""


def bundle_path(family: str, version: int) -> str:
    """Where the bundle is downloaded, relative to the fleet's base URL."""
    return f"/v1/releases/{family}/{version}/bundle"


def find_release(session: Session, family: str, version: int) -> Release:
    """The record of release `family`/`version`; raises NotFoundError, also for a number no release can have."""
    # beyond that the database's own column would refuse the number, in its own words
    known = 0 < version <= MAX_RELEASE_VERSION
    release = session.get(Release, (family, version)) if known else None
    if release is None:
        raise NotFoundError(f"there is no release {family}/{version}")
    return release


def approved_among(session: Session, releases: Collection[str]) -> set[str]:
    """Those of `releases` of which a person approved a rollout, and that nobody took back since; none that is not there."""
    records = (session.get(Release, split_release_id(release)) for release in releases)
    return {
        release_id(record.family, record.version)
        for record in records
        if record is not None and record.approved_at is not None and record.withdrawn_at is None
    }


def count_devices(session: Session, families: Collection[str]) -> dict[str, int]:
    """How many enrolled devices of `families` shall run each release: what is in force, by release id.

    A device that was told nothing, or whose wish was taken back, keeps what it has: it counts for what it last said it
    runs.
    """
    release = func.coalesce(Desired.release, Device.release)
    rows = session.execute(
        select(release, func.count())
        .select_from(Device)
        .outerjoin(Desired, Desired.device == Device.id)
        .where(Device.family.in_(families), Device.state == DeviceState.ENROLLED, release.is_not(None))
        .group_by(release)
    )
    return dict(rows.all())


class ReleaseStore:
    """Publishes releases and hands out their bytes.

    Args:
        database: holds the records.
        directory: holds the bundles, one file each, named by its SHA-256; made where it is missing.
        trust: says whose signature the releases of a family bear.

    Raises:
        StorageError: the directory cannot be made.
    """

    def __init__(self, database: Database, directory: Path, trust: TrustRepository) -> None:
        self._database = database
        self._directory = private_directory(directory)
        self._trust = trust

    def publish(self, content: bytes, *, caller: Caller, now: float) -> tuple[Release, bool]:
        """Verify a bundle and keep it durably. The same bytes again change nothing.

        Returns:
            The release's record, and whether this call created it (False: the same bytes were there).

        Raises:
            NotFoundError: this fleet has no signed repository yet.
            UnacceptableError: not a bundle, damaged, not signed by a release key of its family, or its files are not what
                its manifest promises: no device would take it, so no rollout shall begin with it; or its version leaves no room.
            ForbiddenError: the caller publishes for other families.
            ConflictError: this release id exists with other bytes; publish under a new version.
        """
        trusted = self._trust.published()
        verified = _verify(content, trusted)
        manifest = verified.manifest
        caller.check_family(manifest.family)
        path = self._path(verified.sha256)
        # a file cut short by a damaged disk is replaced by the bytes we just verified
        if not path.exists() or path.stat().st_size != len(content):
            write_durably(path, content, mode=0o640)
        with self._database.write() as session:
            existing = session.get(Release, (manifest.family, manifest.version))
            if existing is not None:
                if existing.sha256 != verified.sha256:
                    raise ConflictError(
                        f"release {manifest.release} exists with SHA-256 {existing.sha256[:12]}…, this bundle has {verified.sha256[:12]}…; a release never changes: publish it under a new version"
                    )
                return existing, False
            _check_not_far(session, trusted, manifest.family, manifest.version)
            release = Release(
                family=manifest.family,
                version=manifest.version,
                sha256=verified.sha256,
                size_bytes=len(content),
                signed_by=verified.signed_by.hex(),
                manifest=msgspec.to_builtins(manifest),
                published_by=caller.actor,
                published_at=now,
                approved_at=None,
                approved_by=None,
                withdrawn_at=None,
                withdrawn_reason=None,
                listed_at=None,
            )
            session.add(release)
            audit.record(
                session,
                at=now,
                actor=caller.actor,
                action="release_published",
                subject=manifest.release,
                sha256=verified.sha256,
                size_bytes=len(content),
            )  # fmt: skip - one line of fields
        return release, True

    def read_range(self, sha256: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) of a stored bundle, in chunks.

        Raises:
            StorageError: the file is missing or shorter than its record says.
        """
        try:
            file = self._path(sha256).open("rb")
        except FileNotFoundError:
            raise StorageError(
                f"the stored bundle {sha256[:12]}… is missing; publish its bytes again"
            ) from None
        size = os.fstat(file.fileno()).st_size
        if size < stop:
            file.close()
            raise StorageError(
                f"the stored bundle {sha256[:12]}… ends at byte {size}; publish its bytes again"
            )
        return _chunks(file, start, stop)

    def _path(self, sha256: str) -> Path:
        return self._directory / f"{sha256}.fedge"


def _verify(content: bytes, trusted: Published) -> VerifiedBundle:
    try:
        # unverified, it only says whose keys to look for: a key of one family signs nothing of another
        verified = open_bundle(content, trusted.family_keys(peek_manifest(content).family))
        release_id(verified.manifest.family, verified.manifest.version)
        read_bundle(verified)
    except (BundleError, ModelError, TopicError) as error:
        raise UnacceptableError(str(error)) from None
    return verified


def _check_not_far(session: Session, trusted: Published, family: str, version: int) -> None:
    stored = session.scalar(select(func.max(Release.version)).where(Release.family == family)) or 0
    # a fleet that lost its database, and not its folder, has to take in again what was listed before
    newest = max(stored, newest_listed(trusted, family))
    if version > newest + FARTHEST:
        raise UnacceptableError(
            f"version {version} is more than {FARTHEST} beyond {newest}, the newest of family {family!r}; the next is {newest + 1}"
        )


def _chunks(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        while start < stop:
            chunk = file.read(min(CHUNK_BYTES, stop - start))
            if not chunk:
                return  # cut short under our hands: the client sees fewer bytes than Content-Length promised
            start += len(chunk)
            yield chunk
