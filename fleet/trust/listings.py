"""What the key of a model family may list, and what it may not take back: checked before anything of it is published.

A list names each release by path, length and SHA-256. Every one of them must be stored here with just these; what was
listed stays listed as it was, until the fleet withdrew it. A list may not delegate on, nor list another family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tuf.api.metadata import TargetFile, Targets

from fleet.errors import ConflictError, NotFoundError, UnacceptableError
from fleet.trust.metadata import DAY_S, LISTING_LIFETIME_S, encode, read_metadata, remaining_s
from fleet.trust.published import Published, delegated_paths
from fleet.trust.repository import TrustRepository
from protocol.errors import TopicError
from protocol.names import ReleaseId, check_name, split_release_id
from protocol.trust_roles import family_role, model_target

__all__ = ["Stored", "newest_listed", "publish_listing"]

FARTHEST: Final = 1000
"""How many versions a list may go ahead: publishers that lost a race, or a fleet that came back from an old backup, need
some; one that jumps to the end of all numbers would leave no room for the next."""

SHORTEST_S: Final = DAY_S


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A release as the fleet stores it."""

    sha256: str
    size_bytes: int
    is_withdrawn: bool


def publish_listing(
    repository: TrustRepository,
    role: str,
    content: bytes,
    stored: Callable[[], Mapping[ReleaseId, Stored]],
    now: float,
) -> Published:
    """Publish a new list of `role`; the one that is published already changes nothing.

    Args:
        repository: the fleet's.
        role: ``family-<name>`` or ``agent``.
        content: the list, signed by the role's key.
        stored: every release of this fleet.
        now: Unix seconds.

    Raises:
        NotFoundError: nobody delegated to this role.
        ConflictError: not newer than the published one: fetch that, add to it, and sign it anew.
        UnacceptableError: not signed by the role's key, or it says what it may not.
        StorageError: it could not be written.
    """
    if not delegated_paths(role):
        raise UnacceptableError(f"{role} lists nothing")
    metadata = read_metadata(content, Targets, f"the list of {role}")
    listed, version = metadata.signed, metadata.signed.version
    published = repository.published()
    if role in published.roles and encode(published.roles[role]) == encode(metadata):
        return published
    if not published.role_keys(role):
        raise NotFoundError(
            f"nobody has delegated to {role} in this fleet's signed repository; an offline key must: fedge-fleet trust delegate"
        )
    left = remaining_s(listed, now)
    if not SHORTEST_S <= left <= LISTING_LIFETIME_S + DAY_S:
        raise UnacceptableError(
            f"the list of {role} ends in {left / DAY_S:.2f} days; between 1 and {LISTING_LIFETIME_S / DAY_S:.0f} are possible (is a clock wrong?)"
        )

    def check(before: Published | None, _after: Published) -> None:
        known = before.roles.get(role) if before else None
        if version > (known.signed.version if known else 0) + FARTHEST:
            raise UnacceptableError(f"version {version} of {role} is more than {FARTHEST} ahead")
        releases = stored() if role.startswith("family-") else {}
        for path, file in listed.targets.items():
            _check_entry(role, path, file, releases)
        for path, file in known.signed.targets.items() if known else ():
            if listed.targets.get(path) != file and not _is_withdrawn(path, releases):
                raise ConflictError(
                    f"{path} was listed by version {known.signed.version if known else 0} of {role}, and this one"
                    f" {'changes it' if path in listed.targets else 'leaves it out'}; a release stays as it was listed until it is"
                    " withdrawn: fetch the current list and add to that"
                )

    return repository.publish({f"{version}.{role}.json": content}, now, check=check)


def _check_entry(role: str, path: str, file: TargetFile, releases: Mapping[ReleaseId, Stored]) -> None:
    if not role.startswith("family-"):
        if not path.startswith("agent/") or not _is_name(path.removeprefix("agent/")):
            raise UnacceptableError(f"{path[:100]!r} is no file of {role}; expected agent/<name>")
        return
    release = _release_of_target(path)
    if release is None:
        raise UnacceptableError(f"{path[:100]!r} is no release of {role}")
    found = releases.get(release)
    if found is None or (found.sha256, found.size_bytes) != (file.hashes["sha256"], file.length):
        raise UnacceptableError(
            f"{release} is listed with {file.length} bytes, SHA-256 {str(file.hashes['sha256'])[:12]}…, and "
            + (f"stored here with {found.size_bytes}, {found.sha256[:12]}…" if found else "not stored here")
            + "; upload the bundle first"
        )


def newest_listed(published: Published, family: str) -> int:
    """The highest version of `family` that is listed; 0 where none is."""
    listed = published.roles.get(family_role(family))
    releases = map(_release_of_target, listed.signed.targets if listed else ())
    return max((split_release_id(release)[1] for release in releases if release), default=0)


def _release_of_target(path: str) -> ReleaseId | None:
    """``models/motor/2.fedge`` → ``motor/2``; None for what is no release's path."""
    release = path.removeprefix("models/").removesuffix(".fedge")
    try:
        return ReleaseId(release) if model_target(release) == path else None
    except TopicError:
        return None


def _is_withdrawn(path: str, releases: Mapping[ReleaseId, Stored]) -> bool:
    release = _release_of_target(path)
    return release is not None and release in releases and releases[release].is_withdrawn


def _is_name(text: str) -> bool:
    try:
        return bool(check_name(text, "file"))
    except TopicError:
        return False
