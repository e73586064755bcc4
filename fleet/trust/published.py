"""What the repository says now, and what may come after it: too few signatures, an older version or a list without keys may not.

No clock, no disk: `fleet.trust.repository` keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from fleet.errors import ConflictError, UnacceptableError
from fleet.trust.metadata import PublicKey, encode, read_key, read_metadata, remaining_s, signers_of
from protocol.bundle import TrustedKeys
from protocol.errors import TopicError
from protocol.names import check_name
from protocol.trust_roles import AGENT_ROLE, FLEET_ROLE, family_role

__all__ = [
    "NAME",
    "Published",
    "check_content",
    "check_publication",
    "delegated_paths",
    "rewritten",
    "split_name",
]

T = TypeVar("T", Root, Targets)

NAME: Final = re.compile(r"(?:[1-9][0-9]{0,8}\.[A-Za-z0-9][A-Za-z0-9._-]{0,79}|timestamp)\.json")
"""The only names of files that are ever opened for a caller."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """The newest root, and all that its timestamp leads to; `roles` are the lists of delegated roles by name."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    roles: Mapping[str, Metadata[Targets]]
    snapshot: Metadata[Snapshot] | None
    timestamp: Metadata[Timestamp] | None

    def role_keys(self, role: str) -> list[Key]:
        """The public keys of a delegated role; none where targets delegates nothing to it."""
        delegations = self.targets.signed.delegations
        found = (delegations.roles or {}).get(role) if delegations else None
        return [delegations.keys[keyid] for keyid in found.keyids] if delegations and found else []

    def family_keys(self, family: str) -> TrustedKeys:
        """The keys whose releases of `family` devices take: none where nobody delegated to the family."""
        try:
            keys = self.role_keys(family_role(family))
        except TopicError:
            keys = []
        return TrustedKeys(key for key in map(read_key, keys) if isinstance(key, Ed25519PublicKey))

    def fleet_keys(self) -> list[PublicKey]:
        """The keys whose instructions devices obey; raises UnacceptableError where one is none."""
        return [read_key(key) for key in self.role_keys(FLEET_ROLE)]

    def is_listed(self, target: str, sha256: str, length: int) -> bool:
        """Whether the role that answers for `target` lists exactly this file."""
        delegations = self.targets.signed.delegations
        for role, _ in delegations.get_roles_for_target(target) if delegations else ():
            file = self.roles[role].signed.targets.get(target) if role in self.roles else None
            return file is not None and file.length == length and file.hashes == {"sha256": sha256}
        return False


def delegated_paths(role: str) -> list[str]:
    """Which targets a delegated role may list: an agent's software, a family's models, or none (the fleet).

    Raises:
        UnacceptableError: no role of this repository has such a name.
    """
    if role == AGENT_ROLE:
        return ["agent/*"]
    if role == FLEET_ROLE:
        return []
    family = role.removeprefix("family-")
    try:
        if role == family_role(family):
            return [f"models/{check_name(family, 'family')}/*"]
    except TopicError:
        pass
    raise UnacceptableError(f"{role[:100]!r} is no role here; expected 'agent', 'fleet' or 'family-<name>'")


def split_name(name: str) -> tuple[int, str]:
    """``5.targets.json`` → (5, ``targets``); raises UnacceptableError for a file that nobody publishes by name."""
    number, _, rest = name.partition(".")
    role = rest.removesuffix(".json")
    if not NAME.fullmatch(name) or role in {"", "json", Snapshot.type, Timestamp.type}:
        raise UnacceptableError(
            f"{name[:100]!r} is no file that is published; expected e.g. '2.root.json' or '5.targets.json'"
        )
    return int(number), role


def rewritten(name: str, content: bytes) -> bytes:
    """A file in the one form that its content has; raises UnacceptableError as `split_name` and `read_metadata`."""
    if split_name(name)[1] == Root.type:
        return encode(read_metadata(content, Root, name))
    return encode(read_metadata(content, Targets, name))


def check_publication(files: Mapping[str, bytes], before: Published | None, now: float) -> Published:
    """The state that `files` make of the one before.

    Raises:
        UnacceptableError: a name or file that is none, too few signatures, an expiry in the past, or delegations that are none.
        ConflictError: a version that is not newer than the published one.
    """
    root, targets = (before.root, before.targets) if before else (None, None)
    roles = dict(before.roles) if before else {}
    for name in sorted(files, key=split_name):
        number, role = split_name(name)
        if role == Root.type:
            root = _next_root(root, read_metadata(files[name], Root, name), number)
        elif role == Targets.type:
            targets = _newer(targets, read_metadata(files[name], Targets, name), number, role)
        else:
            roles[role] = _newer(roles.get(role), read_metadata(files[name], Targets, name), number, role)
    if root is None or targets is None:
        raise UnacceptableError("a repository begins with 1.root.json and 1.targets.json")
    after = Published(
        root=root,
        targets=targets,
        roles=roles,
        snapshot=before.snapshot if before else None,
        timestamp=before.timestamp if before else None,
    )
    changed = {split_name(name)[1] for name in files}
    check_content(Root.type, root.signed)
    check_content(Targets.type, targets.signed)
    for role in changed & roles.keys():
        check_content(role, roles[role].signed)
    _check_signed(targets, root.signed, Targets.type, "")
    for role, metadata in roles.items():
        # a role that nobody delegates to any more stays in the snapshot, as devices insist, and means nothing
        if role in changed or after.role_keys(role):
            _check_signed(metadata, targets.signed, role, "")
    for role, signed in (
        (Root.type, root.signed),
        (Targets.type, targets.signed),
        *((r, m.signed) for r, m in roles.items()),
    ):
        if role in changed and (left := remaining_s(signed, now)) <= 0:
            raise UnacceptableError(
                f"{role} expired {-left:.0f} s ago ({signed.expires:%Y-%m-%d}); sign a newer one"
            )
    return after


def _next_root(before: Metadata[Root] | None, root: Metadata[Root], number: int) -> Metadata[Root]:
    expected = before.signed.version + 1 if before else 1
    if (number, root.signed.version) != (expected, expected):
        raise ConflictError(
            f"{number}.root.json says version {root.signed.version}; the next root is version {expected}"
        )
    if before is not None:
        _check_signed(root, before.signed, Root.type, " of the root before it")
    _check_signed(root, root.signed, Root.type, "")
    return root


def _newer(
    before: Metadata[Targets] | None, after: Metadata[Targets], number: int, role: str
) -> Metadata[Targets]:
    known = before.signed.version if before else 0
    if after.signed.version != number:
        raise UnacceptableError(f"{number}.{role}.json says version {after.signed.version}")
    if number <= known:
        raise ConflictError(
            f"version {number} of {role} is not newer than the published version {known}; sign a newer one"
        )
    return after


def check_content(role: str, signed: Root | Targets) -> None:
    """Refuse what a file of people may not say, whoever signed it; so that who signs is told all that it says.

    A key that goes by the id of another one, a file that targets lists itself, a list that delegates on: devices would go by it,
    and nobody would see it in the words of `fleet.trust.words`.

    Raises:
        UnacceptableError: names what it is.
    """
    if signed.unrecognized_fields:
        raise UnacceptableError(
            f"{role} holds {', '.join(signed.unrecognized_fields)[:100]!r}, which means nothing here"
        )
    if isinstance(signed, Root):
        for key in signed.keys.values():
            read_key(key)
        if not signed.consistent_snapshot:
            raise UnacceptableError("root turns consistent snapshots off; devices count on them")
    elif role == Targets.type:
        _check_delegations(signed)
    else:
        _check_list(role, signed)


def _check_list(role: str, listed: Targets) -> None:
    if listed.delegations is not None:
        raise UnacceptableError(f"the list of {role} delegates; it may hold files only")
    begins = tuple(path.removesuffix("*") for path in delegated_paths(role))
    for path, file in listed.targets.items():
        if not begins or not path.startswith(begins):
            what = "release" if role.startswith("family-") else "file"
            raise UnacceptableError(f"{path[:100]!r} is no {what} of {role}")
        is_plain = file.custom is None and not file.unrecognized_fields and type(file.length) is int
        if not is_plain or set(file.hashes) != {"sha256"}:
            raise UnacceptableError(f"{path[:100]!r} must be listed by length and sha256 alone")


def _check_delegations(targets: Targets) -> None:
    """Every delegated role has keys of its kind and the paths that its name says, and targets itself lists no file."""
    if targets.targets or targets.delegations is None or targets.delegations.roles is None:
        raise UnacceptableError("targets must list no file itself, and delegate to roles by name")
    keys = targets.delegations.keys
    if FLEET_ROLE not in targets.delegations.roles:
        raise UnacceptableError("targets must name the fleet's instruction key, or devices would obey nobody")
    for role in targets.delegations.roles.values():
        kind = EllipticCurvePublicKey if role.name == FLEET_ROLE else Ed25519PublicKey
        if (
            role.paths != delegated_paths(role.name)
            or role.threshold != 1
            or not role.terminating
            or not role.keyids
        ):
            raise UnacceptableError(
                f"{role.name} must be delegated {delegated_paths(role.name)}, terminating, to one of at least one key"
            )
        for keyid in role.keyids:
            if keyid not in keys or not isinstance(read_key(keys[keyid]), kind):
                raise UnacceptableError(f"{role.name} names {keyid[:12]}…, which is no {kind.__name__}")


def _check_signed(metadata: Metadata[T], delegator: Root | Targets, role: str, whose: str) -> None:
    signed, needed = signers_of(metadata, delegator, role)
    if signed < needed:
        raise UnacceptableError(
            f"version {metadata.signed.version} of {role} is signed by {signed} of the {needed} keys{whose} that are needed;"
            " devices would refuse it"
        )
