"""What each role allows, as a pure rule.

viewer < operator < admin. ``publisher`` stands beside them, for a program (the aggregator holds one): it publishes releases
of its families and creates the rollouts that their settings ask for. It does not even read what is not needed for that.

Behind a token stands a **person**, who answers for what is done with it; two tokens of one person are one person. What only
people may do (approve) needs a token that a person holds in their own hand, and not one of a person's programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from service.errors import ForbiddenError

__all__ = ["Caller", "CallerKind", "Role", "allows"]


class Role(StrEnum):
    """What an operator token allows. viewer < operator < admin; publisher publishes, and reads what that needs."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    PUBLISHER = "publisher"


_GRANTS: Final[dict[Role, frozenset[Role]]] = {
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.OPERATOR: frozenset({Role.VIEWER, Role.OPERATOR}),
    Role.PUBLISHER: frozenset({Role.PUBLISHER}),
    Role.ADMIN: frozenset(Role),
}


class CallerKind(StrEnum):
    """What a caller proved: it holds an operator's token, an enrolled device's key, or a claim for a device to come."""

    OPERATOR = "operator"
    DEVICE = "device"
    CLAIM = "claim"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who made a request: an operator token's name, a device's id, or a claim. Only an operator has a `role`.

    Attributes:
        person: who answers for the token; None: nobody, as behind a device or the aggregator.
        is_program: a program holds the token, also where a person answers for it.
        families: what a publisher publishes for; None: every family.
    """

    name: str
    role: Role | None = None
    kind: CallerKind = CallerKind.OPERATOR
    person: str | None = None
    is_program: bool = False
    families: frozenset[str] | None = None

    @property
    def actor(self) -> str:
        """How an audit log names this caller."""
        return f"{self.kind.value if self.role is None else self.role.value}:{self.name}"

    @property
    def is_person(self) -> bool:
        """Whether a person holds such a token in their own hand: not a program and not a device."""
        return self.role in {Role.OPERATOR, Role.ADMIN} and self.person is not None and not self.is_program

    def check_person(self, deed: str) -> None:
        """Raise ForbiddenError where no person holds the token in their own hand; `deed` is what only people do."""
        if not self.is_person:
            raise ForbiddenError(
                f"{self.actor} cannot {deed}: a person must, with an operator's or an admin's token of their own"
            )

    def check_family(self, family: str) -> None:
        """Raise ForbiddenError where the token is for other families."""
        if self.families is not None and family not in self.families:
            raise ForbiddenError(
                f"token {self.name!r} is for {', '.join(sorted(self.families))}; family {family[:80]!r} is not among them"
            )


def allows(role: Role, *wanted: Role) -> bool:
    """Whether a token of `role` may do what any of the `wanted` roles may.

    Examples:
        >>> allows(Role.OPERATOR, Role.VIEWER)
        True
        >>> allows(Role.PUBLISHER, Role.OPERATOR, Role.ADMIN)
        False
    """
    return not _GRANTS[role].isdisjoint(wanted)
