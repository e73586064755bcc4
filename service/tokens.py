"""Operator tokens: made, rotated, revoked, and who calls by one. The same for every service; where they lie is a port.

::

    create ─► good ── rotate ──► new secret good, the one before it until its grace is over ── rotate … ─► revoke, or expiry
                                                                                                            └─► void

A token is a prefix and 256 random bits, told once and stored as SHA-256 only: without a salt or stretching, because there is
no dictionary of 256 random bits. The prefix says what it is for, so that a person who finds one knows where to revoke it. Not
here: what a role allows (`service.roles`), and whether a request carries a token (`service.access`).
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol

from protocol.names import check_name
from service.errors import TokenChangeError, UnauthenticatedError
from service.roles import Caller, Role

__all__ = [
    "GRACE_S",
    "StoredTokens",
    "TokenGrant",
    "TokenRecord",
    "TokenRows",
    "create_token",
    "new_secret",
    "revoke_token",
    "rotate_token",
    "token_digest",
]

SECRET_BYTES: Final = 32

GRACE_S: Final = 86400.0
"""How long a secret stays good after its rotation: a day, in which every program that holds it gets the new one."""


def new_secret(random_bytes: Callable[[int], bytes], *, prefix: str = "") -> str:
    """`prefix` and 43 characters of randomness, safe in URLs, files and headers.

    Examples:
        >>> new_secret(bytes, prefix="fo_")
        'fo_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
    """
    return prefix + base64.urlsafe_b64encode(random_bytes(SECRET_BYTES)).rstrip(b"=").decode()


def token_digest(token: str) -> str:
    """SHA-256 of the token text, 64 hex digits: what is stored and looked up."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class TokenGrant:
    """What a token is for.

    Attributes:
        name: of the token, as the audit log names its holder.
        role: what it allows.
        person: who answers for it, in lower case: "Ann" and "ann" are one person.
        is_program: a program holds it, for that person.
        families: of a publisher: what it publishes for; None: every family.
    """

    name: str
    role: Role
    person: str | None = None
    is_program: bool = False
    families: tuple[str, ...] | None = None

    def checked(self) -> TokenGrant:
        """The same with its person in lower case.

        Raises:
            TokenChangeError: no person where one must answer, or families of a token that publishes nothing.
            TopicError: a name that is none.
        """
        check_name(self.name, "token name")
        if self.role in {Role.OPERATOR, Role.ADMIN} and not self.person:
            raise TokenChangeError(
                f"token {self.name!r} of role {self.role} changes things: say who answers for it with --person NAME,"
                " and --program where a program holds it"
            )
        if self.families is not None and self.role is not Role.PUBLISHER:
            raise TokenChangeError(
                f"a token of role {self.role} is not restricted to families; a publisher's is"
            )
        for family in self.families or ():
            check_name(family, "family")
        person = self.person and check_name(self.person, "person").lower()
        return replace(self, person=person, is_program=self.is_program or self.role is Role.PUBLISHER)


@dataclass(frozen=True, kw_only=True)
class TokenRecord(TokenGrant):
    """A token as it is stored; times are Unix seconds. `earlier_sha256` is good until `earlier_until`."""

    sha256: str
    created_at: float
    rotated_at: float | None = None
    earlier_sha256: str | None = None
    earlier_until: float | None = None
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None


class TokenRows(Protocol):
    """Port: the tokens of a service within one transaction."""

    def find(self, name: str) -> TokenRecord | None:
        """The token of this name."""

    def find_digest(self, digest: str) -> TokenRecord | None:
        """The token whose secret, or the one before it, has this SHA-256."""

    def put(self, record: TokenRecord) -> None:
        """Store a token under its name."""

    def note(self, action: str, name: str, at: float, **detail: object) -> None:
        """A line in the service's audit log, where it has one."""


def create_token(
    rows: TokenRows,
    grant: TokenGrant,
    *,
    prefix: str,
    now: float,
    random_bytes: Callable[[int], bytes],
    valid_s: float | None = None,
) -> str:
    """Store a new token and return its text, which nobody can recover later.

    Args:
        rows: the transaction.
        grant: what it is for; a name whose token was revoked is free again.
        prefix: of its text.
        now: Unix seconds.
        random_bytes: gives as many as asked.
        valid_s: seconds until it expires; None: never.

    Raises:
        TokenChangeError: a token of this name is not revoked; or as `TokenGrant.checked`.
        TopicError: a name that is none.
    """
    grant = grant.checked()
    existing = rows.find(grant.name)
    if existing is not None and existing.revoked_at is None:
        raise TokenChangeError(
            f"a token named {grant.name!r} exists (role {existing.role}); rotate or revoke it, or choose another name"
        )
    token = new_secret(random_bytes, prefix=prefix)
    expires_at = None if valid_s is None else now + valid_s
    rows.put(TokenRecord(**vars(grant), sha256=token_digest(token), created_at=now, expires_at=expires_at))
    families = None if grant.families is None else list(grant.families)
    rows.note(
        "token_created",
        grant.name,
        now,
        role=grant.role.value,
        person=grant.person,
        program=grant.is_program,
        families=families,
        expires_at=expires_at,
    )
    return token


def rotate_token(
    rows: TokenRows,
    name: str,
    *,
    prefix: str,
    now: float,
    random_bytes: Callable[[int], bytes],
    grace_s: float = GRACE_S,
    valid_s: float | None = None,
    person: str | None = None,
) -> str:
    """Give a token a new secret and return it; the one before it is good for `grace_s` more, and none before that.

    Args:
        rows: the transaction.
        name: of the token.
        prefix: of its text.
        now: Unix seconds.
        random_bytes: gives as many as asked.
        grace_s: 0 makes the old secret void at once.
        valid_s: seconds until the token expires; None: as long as it was good for before.
        person: who answers for it from now on; None: as before.

    Raises:
        TokenChangeError: there is no such token, or it is revoked.
        TopicError: `person` is no name.
    """
    record = _find(rows, name)
    if record.revoked_at is not None:
        raise TokenChangeError(f"token {name!r} is revoked; create it anew")
    if valid_s is None and record.expires_at is not None:
        valid_s = record.expires_at - (record.rotated_at or record.created_at)
    until = min(now + grace_s, record.expires_at or now + grace_s)
    token = new_secret(random_bytes, prefix=prefix)
    rows.put(
        replace(
            record,
            person=(person and check_name(person, "person").lower()) or record.person,
            sha256=token_digest(token),
            rotated_at=now,
            earlier_sha256=record.sha256 if until > now else None,
            earlier_until=until if until > now else None,
            expires_at=None if valid_s is None else now + valid_s,
        )
    )
    rows.note("token_rotated", name, now, earlier_until=until if until > now else None, person=person)
    return token


def revoke_token(rows: TokenRows, name: str, now: float) -> None:
    """Make a token void from now on, with the secret before it; raises TokenChangeError where there is none of this name."""
    record = _find(rows, name)
    if record.revoked_at is None:
        rows.put(replace(record, revoked_at=now, earlier_sha256=None, earlier_until=None))
        rows.note("token_revoked", name, now)


def _find(rows: TokenRows, name: str) -> TokenRecord:
    record = rows.find(name)
    if record is None:
        raise TokenChangeError(f"there is no token named {name[:80]!r}; `tokens list` shows them")
    return record


class StoredTokens:
    """Implements `service.access.TokenHolders` over a service's `TokenRows`; every call is one transaction.

    Args:
        read: opens a transaction that changes nothing.
        write: opens one that commits where its block ends.
        now: Unix seconds.
    """

    def __init__(
        self,
        read: Callable[[], AbstractContextManager[TokenRows]],
        write: Callable[[], AbstractContextManager[TokenRows]],
        now: Callable[[], float],
    ) -> None:
        self._read, self._write, self._now = read, write, now
        self._lock = threading.Lock()
        self._uses: dict[str, float] = {}

    def find_caller(self, token: str) -> Caller:
        """See `TokenHolders`."""
        return self.caller_of(token_digest(token))

    def caller_of(self, digest: str) -> Caller:
        """Who holds the token whose secret has this SHA-256; raises as `find_caller`."""
        now = self._now()
        with self._read() as rows:
            record = rows.find_digest(digest)
        if record is None or record.revoked_at is not None:
            raise UnauthenticatedError(
                "this operator token is unknown or revoked; an admin makes one with: tokens create"
            )
        if record.sha256 != digest and not now < (record.earlier_until or 0.0):
            raise UnauthenticatedError(
                f"this is the old secret of token {record.name!r}, which was rotated {_when(record.rotated_at)}; use the new one"
            )
        if record.expires_at is not None and now >= record.expires_at:
            raise UnauthenticatedError(
                f"token {record.name!r} expired {_when(record.expires_at)}; an admin renews it with: tokens rotate {record.name}"
            )
        with self._lock:
            self._uses[record.name] = now
        return Caller(
            name=record.name,
            role=record.role,
            person=record.person,
            is_program=record.is_program,
            families=None if record.families is None else frozenset(record.families),
        )

    def store_uses(self) -> None:
        """Write down when each token was last used since the last call: at each request it would wait for the disk."""
        with self._lock:
            uses, self._uses = self._uses, {}
        if not uses:
            return
        with self._write() as rows:
            for name, at in uses.items():
                if (record := rows.find(name)) is not None:
                    # another replica may have seen a later use
                    rows.put(replace(record, last_used_at=max(at, record.last_used_at or at)))


def _when(at: float | None) -> str:
    return "" if at is None else f"on {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
