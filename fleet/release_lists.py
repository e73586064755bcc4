"""Which releases the signed repository lists, as the database remembers it: only these can be rolled out.

The repository is the truth and devices ask nothing else; the database follows it, at each publication and at each look of
`fleet.trust.renewal`, so that a publication that another process made, or a kill after the disk and before this, is caught up with.
"""

from __future__ import annotations

from sqlalchemy import select

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
        with database.read() as session:
            return {
                release_id(row.family, row.version): Stored(
                    sha256=row.sha256, size_bytes=row.size_bytes, is_withdrawn=row.withdrawn_at is not None
                )
                for row in session.scalars(select(Release))
            }

    published = publish_listing(repository, role, content, stored, now)
    note_listed(database, published, actor=actor, now=now)
    return published


def note_listed(database: Database, published: Published, *, actor: str, now: float) -> None:
    """Let the database say of each release whether it is listed, with an audit line for each that came or went."""

    def is_listed(row: Release) -> bool:
        return published.is_listed(
            model_target(release_id(row.family, row.version)), row.sha256, row.size_bytes
        )

    with database.read() as session:
        if all((row.listed_at is not None) == is_listed(row) for row in session.scalars(select(Release))):
            return
    with database.write() as session:
        for row in session.scalars(select(Release)):
            if (row.listed_at is not None) != is_listed(row):
                row.listed_at = now if row.listed_at is None else None
                audit.record(
                    session,
                    at=now,
                    actor=actor,
                    action="release_listed" if row.listed_at is not None else "release_unlisted",
                    subject=f"{row.family}/{row.version}",
                    sha256=row.sha256,
                )


def check_listed(release: Release) -> None:
    """Refuse what no device would take; raises ConflictError."""
    if release.listed_at is None:
        name = f"{release.family}/{release.version}"
        raise ConflictError(
            f"release {name} is stored here, but the signed repository does not list it, so no device would take it;"
            " whoever holds the family's release key lists it: fedge-aggregator publish"
        )
