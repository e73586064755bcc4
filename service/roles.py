"""What each role allows, as a pure rule.

viewer < operator < admin. ``publisher`` stands beside them: it reads, publishes releases, and creates the rollout
that its family's settings ask for (the aggregator holds one), but manages no device and no token.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["Caller", "Role", "allows"]


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


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who made a request: an operator token's name, or a device's id. `role` is None for a device."""

    name: str
    role: Role | None

    @property
    def actor(self) -> str:
        """How an audit log names this caller."""
        return f"device:{self.name}" if self.role is None else f"{self.role.value}:{self.name}"

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
