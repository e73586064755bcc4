"""A repository from its keys, all in one place: for tests, simulations and trials. A real one is made by the ceremony."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from tuf.api.metadata import Delegations, Metadata, Root, Snapshot, Targets, Timestamp

from fleet.trust.metadata import (
    LIFETIME_S,
    delegated_role,
    encode,
    expiry,
    public_key,
    role_of,
    sign,
)
from fleet.trust.published import delegated_paths
from fleet.trust.repository import TrustRepository
from protocol.trust_roles import AGENT_ROLE, FLEET_ROLE, family_role

__all__ = ["create_repository", "first_root", "first_targets"]


def create_repository(
    directory: Path,
    *,
    root_keys: Sequence[Ed25519PrivateKey],
    targets_key: Ed25519PrivateKey,
    online_keys: Sequence[Ed25519PrivateKey],
    families: Mapping[str, Sequence[Ed25519PublicKey]],
    fleet_key: EllipticCurvePublicKey,
    agent_key: Ed25519PublicKey | None = None,
    now: float,
) -> TrustRepository:
    """Make and publish a repository without a release; devices pin its ``metadata/1.root.json``.

    Args:
        directory: the fleet's ``<data_dir>/trust``.
        root_keys: two of them must sign (the one where there is only one).
        targets_key: signs what the other roles' keys are.
        online_keys: snapshot's and timestamp's, or one for both; kept in `directory`.
        families: model family → the release keys of whoever publishes it.
        fleet_key: whose instructions devices obey.
        agent_key: signs agent software.
        now: Unix seconds.
    """
    repository = TrustRepository(directory)
    for key in online_keys:
        repository.online_keys.keep(key)
    root = first_root(
        [key.public_key() for key in root_keys],
        min(2, len(root_keys)),
        targets_key.public_key(),
        [key.public_key() for key in online_keys],
        now,
    )
    delegations: dict[str, Sequence[Ed25519PublicKey | EllipticCurvePublicKey]] = {
        FLEET_ROLE: [fleet_key],
        **({AGENT_ROLE: [agent_key]} if agent_key else {}),
        **{family_role(family): keys for family, keys in families.items()},
    }
    targets = first_targets(delegations, now)
    repository.publish(
        {"1.root.json": encode(sign(root, *root_keys)), "1.targets.json": encode(sign(targets, targets_key))},
        now,
    )
    return repository


def first_root(
    root_keys: Sequence[Ed25519PublicKey],
    threshold: int,
    targets_key: Ed25519PublicKey,
    online_keys: Sequence[Ed25519PublicKey],
    now: float,
) -> Metadata[Root]:
    """Version 1 of root, unsigned; the first of `online_keys` is snapshot's, the last timestamp's."""
    keys = {
        Root.type: [public_key(key) for key in root_keys],
        Targets.type: [public_key(targets_key)],
        Snapshot.type: [public_key(online_keys[0])],
        Timestamp.type: [public_key(online_keys[-1])],
    }
    return Metadata(
        Root(
            version=1,
            expires=expiry(now, LIFETIME_S[Root.type]),
            keys={key.keyid: key for named in keys.values() for key in named},
            roles={
                role: role_of(named, threshold if role == Root.type else 1) for role, named in keys.items()
            },
            consistent_snapshot=True,
        )
    )


def first_targets(
    delegations: Mapping[str, Sequence[Ed25519PublicKey | EllipticCurvePublicKey]], now: float
) -> Metadata[Targets]:
    """Version 1 of targets, unsigned: role → its keys."""
    keys = {role: [public_key(key) for key in named] for role, named in delegations.items()}
    return Metadata(
        Targets(
            version=1,
            expires=expiry(now, LIFETIME_S[Targets.type]),
            targets={},
            delegations=Delegations(
                keys={key.keyid: key for named in keys.values() for key in named},
                roles={
                    role: delegated_role(role, named, delegated_paths(role)) for role, named in keys.items()
                },
            ),
        )
    )
