"""The two shares a device leaves with a neighbour, sealed so that the server who carries them cannot read them.

One seal holds one share of the sender's mask secret key and one of its self-mask seed: 72 bytes of plaintext, 100 bytes
sealed. The key is single-use (`keys.derive_share_key`: one sender, one recipient, one round); the nonce is random all the
same, so that even a key used twice by mistake would give nothing away. Sender, recipient, round and session are
associated data: a seal carried to another device, round or session does not open.

Source: NIST SP 800-38D (AES-GCM); Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning",
CCS 2017, figure 4, round 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.secure_sum.errors import SealedShareError
from protocol.secure_sum.keys import SHARE_KEY_BYTES, RandomBytes
from protocol.secure_sum.shamir import SHARE_BYTES

__all__ = ["SEALED_BYTES", "SharePair", "open_shares", "seal_shares"]

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16

SEALED_BYTES: Final = _NONCE_BYTES + 2 * SHARE_BYTES + _TAG_BYTES
"""Length of every seal: 100 bytes."""


@dataclass(frozen=True, kw_only=True)
class SharePair:
    """One neighbour's shares of a device's two secrets, `SHARE_BYTES` each. They never show in a representation."""

    mask_key: bytes = field(repr=False)
    self_mask: bytes = field(repr=False)


def seal_shares(
    key: bytes,
    shares: SharePair,
    *,
    session: str,
    round_number: int,
    sender: str,
    recipient: str,
    random_bytes: RandomBytes,
) -> bytes:
    """Seal `shares` under a 16-byte `key`: nonce, ciphertext, tag; `SEALED_BYTES` long.

    Raises:
        SealedShareError: a share or the key has another length than the protocol's.
    """
    if len(shares.mask_key) != SHARE_BYTES or len(shares.self_mask) != SHARE_BYTES:
        raise SealedShareError(
            f"a share is {SHARE_BYTES} bytes, got {len(shares.mask_key)} (mask key) and {len(shares.self_mask)} (self mask)"
        )
    nonce = random_bytes(_NONCE_BYTES)
    associated = _associated_data(session, round_number, sender, recipient)
    return nonce + _cipher(key).encrypt(nonce, shares.mask_key + shares.self_mask, associated)


def open_shares(
    key: bytes, sealed: bytes, *, session: str, round_number: int, sender: str, recipient: str
) -> SharePair:
    """Open what `sender` sealed for `recipient` in this round.

    Raises:
        SealedShareError: another length, or not sealed with this key for these two in this round and session: the server
            or the sender is at fault, and the round must not go on with that sender.
    """
    if len(sealed) != SEALED_BYTES:
        raise SealedShareError(
            f"the sealed shares of {sender!r} for {recipient!r} are {len(sealed)} bytes; they must be {SEALED_BYTES}"
        )
    try:
        plain = _cipher(key).decrypt(
            sealed[:_NONCE_BYTES],
            sealed[_NONCE_BYTES:],
            _associated_data(session, round_number, sender, recipient),
        )
    except InvalidTag:
        raise SealedShareError(
            f"the sealed shares of {sender!r} do not open: they were not sealed for {recipient!r} in round {round_number} "
            f"of session {session!r}"
        ) from None
    return SharePair(mask_key=plain[:SHARE_BYTES], self_mask=plain[SHARE_BYTES:])


def _cipher(key: bytes) -> AESGCM:
    if len(key) != SHARE_KEY_BYTES:
        raise SealedShareError(f"shares are sealed with a key of {SHARE_KEY_BYTES} bytes, got {len(key)}")
    return AESGCM(key)


def _associated_data(session: str, round_number: int, sender: str, recipient: str) -> bytes:
    fields = (sender.encode(), recipient.encode(), round_number.to_bytes(8, "big"), session.encode())
    # Each field carries its length: otherwise two different pairs of names could read the same.
    return b"".join(len(part).to_bytes(2, "big") + part for part in fields)
