"""What each role allows, as a pure rule.

viewer < operator < admin. ``publisher`` stands beside them: it reads, publishes releases, and creates the rollout
that its family's settings ask for (the aggregator holds one), but manages no device and no token.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["Caller", "CallerKind", "Role", "allows"]


class Role(StrEnum):
    """What an operator token allows. viewer < operator < admin; publisher may read and publish releases."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    PUBLISHER = "publisher"


_GRANTS: Final[dict[Role, frozenset[Role]]] = {
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.OPERATOR: frozenset({Role.VIEWER, Role.OPERATOR}),
    Role.PUBLISHER: frozenset({Role.VIEWER, Role.PUBLISHER}),
    Role.ADMIN: frozenset(Role),
}


class CallerKind(StrEnum):
    """What a caller proved: it holds an operator's token, an enrolled device's key, or a claim for a device to come."""

    OPERATOR = "operator"
    DEVICE = "device"
    CLAIM = "claim"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who made a request: an operator token's name, a device's id, or a claim. Only an operator has a `role`."""

    name: str
    role: Role | None = None
    kind: CallerKind = CallerKind.OPERATOR

    @property
    def actor(self) -> str:
        """How an audit log names this caller."""
        return f"{self.kind.value if self.role is None else self.role.value}:{self.name}"

    @property
    def is_person(self) -> bool:
        """Whether people hold such a token: an operator's or an admin's, not a program's and not a device's."""
        return self.role in {Role.OPERATOR, Role.ADMIN}


def allows(role: Role, *wanted: Role) -> bool:
    """Whether a token of `role` may do what any of the `wanted` roles may.

    Examples:
        >>> allows(Role.OPERATOR, Role.VIEWER)
        True
        >>> allows(Role.PUBLISHER, Role.OPERATOR, Role.ADMIN)
        False
    """
    return not _GRANTS[role].isdisjoint(wanted)
