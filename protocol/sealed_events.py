"""Words that hold whoever carries them: what a fleet tells a device, and what a device says of an installation.

A broker, a copy of the API or a stolen model key can carry, delay and repeat such a message, and can neither make nor change
one. The seal is a signature over who says it, to whom, of which kind, where it stands among the sender's messages, until when
it holds, and the SHA-256 of the data as they travel:

::

    tenant, device, kind, source, boot id, boot number, sequence, not after, nonce, SHA-256 of data      one a line

`device` is the one that hears it (a fleet's word) or says it (a device's). The same bytes travel over MQTT and over HTTPS, so the
road does not matter. Not covered: the envelope's `time`, which tells people when a message was made and decides nothing.

A seal says who and what, not whether it is new: counters and (boot number, sequence) do that.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from msgspec.structs import replace

from protocol.errors import IdentityError, SealError
from protocol.identity import IdentityKey, sign_statement, verify_statement
from protocol.messages.envelope import Event, kind_of
from protocol.messages.kinds import Kind
from protocol.messages.seals import Seal

__all__ = ["SEALED_BY_DEVICES", "SEALED_BY_THE_FLEET", "check_seal", "seal"]

SEALED_BY_THE_FLEET: Final = frozenset({Kind.DESIRED, Kind.COMMANDS, Kind.ACK})
SEALED_BY_DEVICES: Final = frozenset({Kind.REPORT, Kind.RESULT})

DOMAIN: Final = "sealed-message/v1"


def seal(
    event: Event, key: IdentityKey, *, tenant: str, device: str, nonce: str, not_after: int = 0
) -> Event:
    """The same event with the seal of `key`.

    Args:
        event: without a seal.
        key: the fleet's instruction key, or the device's identity key.
        tenant: of both.
        device: that it is for, or from.
        nonce: 32 hex digits, drawn anew for each.
        not_after: Unix seconds; 0: it holds for ever.
    """
    digest = hashlib.sha256(msgspec.json.encode(event.data)).hexdigest()
    unsigned = Seal(not_after=not_after, nonce=nonce, signature="", data_sha256=digest)
    signature = sign_statement(key, DOMAIN, _statement(event, unsigned, tenant, device))
    return replace(event, seal=replace(unsigned, signature=base64.b64encode(signature).decode()))


def check_seal(
    event: Event,
    keys: Iterable[EllipticCurvePublicKey],
    *,
    tenant: str,
    device: str,
    now_s: float,
) -> Seal:
    """The seal of an event that came from outside, once it is sure that the holder of one of `keys` made it.

    Args:
        event: as `protocol.messages.envelope.decode` gave it.
        keys: of whoever may say this: few, for each is tried.
        tenant: of both.
        device: that it must be for, or from.
        now_s: Unix seconds, the earliest that it can be.

    Raises:
        SealError: it has no seal, was made by somebody else or for somebody else, was changed, or has ended.
    """
    what = kind_of(event.data).value
    if event.seal is None:
        raise SealError(f"this {what} message is not signed; its sender is older than this version")
    try:
        signature = base64.b64decode(event.seal.signature, validate=True)
    except ValueError:
        signature = b""
    statement = _statement(event, event.seal, tenant, device)
    if not any(_is_by(key, statement, signature) for key in keys):
        raise SealError(f"this {what} message is not signed by whom it must come from, or is for another")
    if event.seal.not_after and now_s >= event.seal.not_after:
        raise SealError(
            f"this {what} message ended {now_s - event.seal.not_after:.0f} s ago; ask for a new one"
        )
    return event.seal


def _is_by(key: EllipticCurvePublicKey, statement: bytes, signature: bytes) -> bool:
    try:
        verify_statement(key, DOMAIN, statement, signature)
    except IdentityError:
        return False
    return True


def _statement(event: Event, seal: Seal, tenant: str, device: str) -> bytes:
    parts = (
        tenant,
        device,
        kind_of(event.data).value,
        event.source,
        event.boot_id,
        event.boot_number,
        event.sequence,
        seal.not_after,
        seal.nonce,
        seal.data_sha256,
    )
    # as JSON: a line break in a source cannot move a border between two parts
    return msgspec.json.encode(parts)
