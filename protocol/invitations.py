"""Invitations to training, signed: whoever writes to the broker must not be able to send devices anywhere.

The aggregator signs all that an invitation says with its identity key; a device has that key pinned, and checks signature,
family, time and address before it starts a learner. Defaults are left out of what is signed, so a field that a later build
adds changes nothing until it is used; then a device that does not know it finds the signature wrong, and stays at home.

Source of the key: the aggregator's data directory; `fedge-aggregator identity` prints the public half.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from protocol.errors import IdentityError, InvitationError
from protocol.identity import sign_statement, verify_statement
from protocol.messages.payloads import TrainingInvitation

__all__ = ["check_invitation", "sign_invitation"]

DOMAIN: Final = "training-invitation/v1"

_ADDRESS: Final = re.compile(r"(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")


def sign_invitation(invitation: TrainingInvitation, key: ec.EllipticCurvePrivateKey) -> TrainingInvitation:
    """The same invitation with the aggregator's signature over everything else in it."""
    signature = sign_statement(key, DOMAIN, _statement(invitation))
    return replace(invitation, signature=base64.b64encode(signature).decode())


def check_invitation(
    invitation: TrainingInvitation,
    keys: Sequence[ec.EllipticCurvePublicKey],
    *,
    family: str,
    host: str | None,
    now_s: float,
) -> ec.EllipticCurvePublicKey:
    """Which of the pinned `keys` signed this invitation; requests go to the holder of that one.

    Args:
        invitation: as it came over the broker.
        keys: of the aggregator; two while one takes the other's place.
        family: of this device.
        host: the only one whose invitations are followed; None: any that the aggregator names.
        now_s: Unix seconds.

    Raises:
        InvitationError: it is not this aggregator's, is changed, for others, over, or leads elsewhere; the message says which.
    """
    key = _signer(invitation, keys)
    if key is None:
        raise InvitationError(
            f"the invitation to run {invitation.run_id} is not signed by the aggregator whose key is pinned (flower.aggregator_key)"
        )
    if invitation.family != family:
        raise InvitationError(f"the run trains family {invitation.family!r}, this device is of {family!r}")
    if not now_s < invitation.expires_at:
        raise InvitationError(f"the invitation to run {invitation.run_id} has expired")
    address = _ADDRESS.fullmatch(invitation.flower_address)
    if address is None or not 0 < int(address["port"]) < 65536:
        raise InvitationError(
            f"the invitation to run {invitation.run_id} leads to {invitation.flower_address!r}, which is not host:port"
        )
    if host is not None and address["host"].strip("[]").lower() != host.strip("[]").lower():
        raise InvitationError(
            f"the invitation to run {invitation.run_id} leads to {invitation.flower_address!r}, and flower.host allows {host!r} only"
        )
    return key


def _signer(
    invitation: TrainingInvitation, keys: Sequence[ec.EllipticCurvePublicKey]
) -> ec.EllipticCurvePublicKey | None:
    try:
        signature = base64.b64decode(invitation.signature, validate=True)
    except ValueError:
        return None
    statement = _statement(invitation)
    for key in keys:
        try:
            verify_statement(key, DOMAIN, statement, signature)
        except IdentityError:
            continue
        return key
    return None


def _statement(invitation: TrainingInvitation) -> bytes:
    return msgspec.json.encode(replace(invitation, signature=""))
