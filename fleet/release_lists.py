"""Which releases the signed repository lists, as the database remembers it: only these can be rolled out.

The repository is the truth and devices ask nothing else; the database follows it, at each publication and at each look of
`fleet.trust.renewal`, so that a publication that another process made, or a kill after the disk and before this, is caught up with.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet import audit
from fleet.errors import ConflictError
from fleet.storage.base import Database
from fleet.storage.release_tables import Release
from fleet.trust.listings import Stored, publish_listing
from fleet.trust.published import Published
from fleet.trust.repository import TrustRepository
from protocol.names import ReleaseId, release_id
from protocol.trust_roles import model_target

__all__ = ["check_listed", "note_listed", "publish_list"]


def publish_list(
    database: Database, repository: TrustRepository, role: str, content: bytes, *, actor: str, now: float
) -> Published:
    """Publish what the key of `role` lists, and let the database follow; raises as `fleet.trust.listings.publish_listing`."""

    def stored() -> dict[ReleaseId, Stored]:
        columns = (Release.family, Release.version, Release.sha256, Release.size_bytes, Release.withdrawn_at)
        with database.read() as session:
            return {
                release_id(family, version): Stored(
                    sha256=sha256, size_bytes=size, is_withdrawn=at is not None
                )
                for family, version, sha256, size, at in session.execute(select(*columns))
            }

    published = publish_listing(repository, role, content, stored, now)
    note_listed(database, repository, actor=actor, now=now)
    return published


def note_listed(database: Database, repository: TrustRepository, *, actor: str, now: float) -> None:
    """Let the database say of each release whether it is listed, with an audit line for each that came or went."""
    with database.read() as session:
        if not _changed(session, repository):
            return
    with database.write() as session:
        for family, version, is_listed in _changed(session, repository):
            session.get_one(Release, (family, version)).listed_at = now if is_listed else None
            audit.record(
                session,
                at=now,
                actor=actor,
                action="release_listed" if is_listed else "release_unlisted",
                subject=f"{family}/{version}",
            )


def _changed(session: Session, repository: TrustRepository) -> list[tuple[str, int, bool]]:
    """Releases (family, version) of which the database says otherwise, and whether they are listed.

    The rows are read first: what another thread noted meanwhile is never judged by a repository that is older than it.
    """
    columns = (Release.family, Release.version, Release.sha256, Release.size_bytes, Release.listed_at)
    rows = session.execute(select(*columns)).all()
    published = repository.published()
    return [
        (family, version, is_listed)
        for family, version, sha256, size, at in rows
        if (is_listed := published.is_listed(model_target(release_id(family, version)), sha256, size))
        != (at is not None)
    ]


def check_listed(release: Release) -> None:
    """Refuse what no device would take; raises ConflictError."""
    if release.listed_at is None:
        name = f"{release.family}/{release.version}"
        raise ConflictError(
            f"release {name} is stored here, but the signed repository does not list it, so no device would take it;"
            " whoever holds the family's release key lists it: fedge-aggregator publish"
        )
