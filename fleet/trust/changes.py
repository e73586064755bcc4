"""What people can change in the repository, each as the unsigned files that they have to sign: nothing here holds a private key.

Every change is the next version of what is published, so what was prepared from an older state can no longer be published
once somebody else was faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy

from tuf.api.metadata import Key, Metadata, Role, Root, Snapshot, TargetFile, Targets, Timestamp

from fleet.errors import NotFoundError, UnacceptableError
from fleet.trust.metadata import (
    LIFETIME_S,
    LISTING_LIFETIME_S,
    PublicKey,
    delegated_role,
    encode,
    expiry,
    public_key,
    role_of,
    signers_of,
)
from fleet.trust.published import Published, delegated_paths

__all__ = [
    "change_delegation",
    "change_list",
    "change_online_keys",
    "change_root_keys",
    "change_targets_key",
    "check_root_keys",
    "sign_anew",
]


def change_delegation(
    before: Published, role: str, keys: Sequence[PublicKey], now: float, *, dropped: Iterable[str] = ()
) -> dict[str, bytes]:
    """Let exactly `keys` speak for a delegated role, which may be new; no keys: for nobody any more.

    Where none of them has signed the list that is published, the list is among the files: what is listed stays so under
    the new key (but for the targets in `dropped`), or no device would find a release until the next one.

    Raises:
        UnacceptableError: no role has such a name, or the fleet would be without its instruction key.
        NotFoundError: what is to be dropped is not listed.
    """
    paths = delegated_paths(role)
    targets = _next_targets(before, now)
    delegations = targets.signed.delegations
    if delegations is None or delegations.roles is None:
        raise UnacceptableError(
            "the published targets delegates to nobody; that is no repository of this fleet"
        )
    if not keys and not paths:
        raise UnacceptableError(f"{role} needs a key: devices obey nobody else's instructions")
    named = [public_key(key) for key in keys]
    delegations.roles.pop(role, None)
    if named:
        delegations.roles[role] = delegated_role(role, named, paths)
    delegations.keys = _used(delegations.keys, named, delegations.roles.values())
    files = {f"{targets.signed.version}.targets.json": encode(targets)}
    published = before.roles.get(role)
    if named and published is not None and not signers_of(published, targets.signed, role)[0]:
        files |= change_list(before, role, now, dropped=dropped)
    return files


def change_list(
    before: Published, role: str, now: float, *, dropped: Iterable[str] = (), added: Iterable[TargetFile] = ()
) -> dict[str, bytes]:
    """What `role` lists, without the targets in `dropped`, with those that are `added`; good for a new while.

    Raises:
        NotFoundError: what is to be dropped is not listed.
    """
    known = before.roles.get(role)
    listed = deepcopy(known.signed) if known else Targets(version=1)
    listed.version += 1 if known else 0
    listed.expires = expiry(now, LISTING_LIFETIME_S)
    for target in dropped:
        if listed.targets.pop(target, None) is None:
            raise NotFoundError(
                f"{role} does not list {target}; it lists {', '.join(listed.targets) or 'nothing'}"
            )
    listed.targets |= {file.path: file for file in added}
    return {f"{listed.version}.{role}.json": encode(Metadata(listed))}


def change_root_keys(
    before: Published, keys: Sequence[PublicKey], threshold: int, now: float
) -> dict[str, bytes]:
    """Let `threshold` of `keys` speak for root from now on; raises UnacceptableError as `check_root_keys`."""
    check_root_keys(keys, threshold)
    return _file(_next_root(before, now, {Root.type: ([public_key(key) for key in keys], threshold)}))


def check_root_keys(keys: Sequence[PublicKey], threshold: int) -> None:
    """Refuse what one stolen key could misuse, or one lost key would end.

    Raises:
        UnacceptableError: fewer than two must sign, there is no key to spare, or one is there twice.
    """
    different = {public_key(key).keyid for key in keys}
    if len(different) < len(keys):
        raise UnacceptableError("one root key is named twice; each must be another person's")
    if threshold < 2 or len(keys) <= threshold:
        raise UnacceptableError(
            f"root by {threshold} of {len(keys)} keys: at least two must sign, so that one stolen key is not enough, and there must"
            " be one more key than that, so that one lost key does not end the repository; 2 of 3 is usual"
        )


def change_targets_key(before: Published, key: PublicKey, now: float) -> dict[str, bytes]:
    """Let another key speak for targets: a root that names it, and targets to be signed by it."""
    root = _next_root(before, now, {Targets.type: ([public_key(key)], 1)})
    targets = _next_targets(before, now)
    return {**_file(root), f"{targets.signed.version}.targets.json": encode(targets)}


def change_online_keys(before: Published, keys: Sequence[PublicKey], now: float) -> dict[str, bytes]:
    """Let other keys speak for snapshot (the first) and timestamp (the last); the fleet must hold their private halves."""
    roles = {Snapshot.type: ([public_key(keys[0])], 1), Timestamp.type: ([public_key(keys[-1])], 1)}
    return _file(_next_root(before, now, roles))


def sign_anew(before: Published, roles: Iterable[str], now: float) -> dict[str, bytes]:
    """The same once more under the next version, good for a new while; `roles` among root, targets and delegated ones.

    Raises:
        NotFoundError: nothing is published of that role.
    """
    files: dict[str, bytes] = {}
    for role in roles:
        if role == Root.type:
            files |= _file(_next_root(before, now, {}))
        elif role == Targets.type:
            targets = _next_targets(before, now)
            files[f"{targets.signed.version}.targets.json"] = encode(targets)
        elif role in before.roles:
            files |= change_list(before, role, now)
        else:
            raise NotFoundError(
                f"{role} has published nothing; there is root, targets, {', '.join(before.roles) or 'and no list'}"
            )
    return files


def _next_root(before: Published, now: float, roles: dict[str, tuple[list[Key], int]]) -> Metadata[Root]:
    root = deepcopy(before.root.signed)
    root.version += 1
    root.expires = expiry(now, LIFETIME_S[Root.type])
    for role, (keys, threshold) in roles.items():
        root.roles[role] = role_of(keys, threshold)
        root.keys = _used(root.keys, keys, root.roles.values())
    return Metadata(root)


def _next_targets(before: Published, now: float) -> Metadata[Targets]:
    targets = deepcopy(before.targets.signed)
    targets.version += 1
    targets.expires = expiry(now, LIFETIME_S[Targets.type])
    return Metadata(targets)


def _used(known: dict[str, Key], new: Iterable[Key], roles: Iterable[Role]) -> dict[str, Key]:
    """The keys that some role still names."""
    named = {keyid for role in roles for keyid in role.keyids}
    return {keyid: key for keyid, key in (known | {key.keyid: key for key in new}).items() if keyid in named}


def _file(root: Metadata[Root]) -> dict[str, bytes]:
    return {f"{root.signed.version}.root.json": encode(root)}
