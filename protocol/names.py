"""The few identifiers that travel everywhere, and how they are checked.

A name is 1–64 of ``a-z A-Z 0-9 . _ -`` and starts with a letter or digit: safe in a topic, a path and a URL.
A release is written ``family/version``, e.g. ``rotating-machine/2``.
"""

from __future__ import annotations

import re
from typing import Final, NewType

from protocol.errors import TopicError
from protocol.limits import MAX_NAME_CHARS

__all__ = [
    "MAX_RELEASE_VERSION",
    "NAME_PATTERN",
    "DeviceId",
    "FamilyName",
    "ReleaseId",
    "RunId",
    "Tenant",
    "check_name",
    "release_id",
    "split_release_id",
]

DeviceId = NewType("DeviceId", str)
Tenant = NewType("Tenant", str)
FamilyName = NewType("FamilyName", str)
ReleaseId = NewType("ReleaseId", str)
RunId = NewType("RunId", str)

MAX_RELEASE_VERSION: Final = 999_999_999
"""Nine digits fit a 32-bit column of any database, and no family is released so often."""

NAME_PATTERN: Final = "[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME: Final = re.compile(NAME_PATTERN)
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")


def check_name(name: str, what: str) -> str:
    """Return `name` unchanged if it is safe in topics, paths and URLs.

    Raises:
        TopicError: it is empty, too long, or holds another character; names the offending value.
    """
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        raise TopicError(
            f"{what} {name[:80]!r} is not a valid name: use 1-{MAX_NAME_CHARS} of a-z A-Z 0-9 . _ - starting with a letter or digit"
        )
    return name


def release_id(family: str, version: int) -> ReleaseId:
    """Write the id of version `version` (1 to `MAX_RELEASE_VERSION`) of a model family; raises TopicError."""
    check_name(family, "family")
    if not 1 <= version <= MAX_RELEASE_VERSION:
        raise TopicError(
            f"release version {version} of family {family!r} must be between 1 and {MAX_RELEASE_VERSION}"
        )
    return ReleaseId(f"{family}/{version}")


def split_release_id(release: str) -> tuple[FamilyName, int]:
    """Read ``family/version`` back into its parts; raises TopicError where it is anything else.

    >>> split_release_id("rotating-machine/2")
    ('rotating-machine', 2)
    """
    family, slash, version = release.partition("/")
    if not slash or not _VERSION.fullmatch(version):
        raise TopicError(
            f"release {release[:80]!r} is not of the form family/version, e.g. rotating-machine/2"
        )
    return FamilyName(check_name(family, "family")), int(version)
