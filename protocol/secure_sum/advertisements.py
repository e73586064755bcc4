"""Key advertisements: a device's word that these keys are its own, in this round, for this announcement.

Signed with the device's identity key over a statement that names session, round, device and announcement, so that an
advertisement is void in any other round, for any other model and from any other device. A commitment to the self-mask seed goes
beyond the papers: like the public masking key for the masking secret, it shows the server when revealed shares are wrong.

Source: Bonawitz et al., CCS 2017, figure 4, round 0 (with signatures, against an active server).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.errors import IdentityError
from protocol.identity import IdentityKey, sign_statement, verify_statement
from protocol.names import DeviceId
from protocol.secure_sum.errors import AdvertisementError, AnnouncementMismatchError, KeyAgreementError
from protocol.secure_sum.keys import check_public_key
from protocol.secure_sum.masks import MaskGenerator
from protocol.secure_sum.messages import Advertisement, Announcement, announcement_hash, encode

__all__ = [
    "advertisement_digest",
    "check_advertisement",
    "check_distinct_keys",
    "holds_commitment",
    "sign_advertisement",
]

_DOMAIN: Final = "secure-sum/advertisement/v1"
_SEED_DOMAIN: Final = b"fedge/secure-sum/seed/v1"


def sign_advertisement(
    announcement: Announcement,
    device: DeviceId,
    *,
    sharing_key: bytes,
    masking_key: bytes,
    self_mask: bytes,
    generators: tuple[MaskGenerator, ...],
    identity_key: IdentityKey,
) -> Advertisement:
    """Advertise two X25519 public keys and commit to a self-mask seed, for the announced round."""
    unsigned = Advertisement(
        session=announcement.session,
        round_number=announcement.round_number,
        device=device,
        announcement_hash=announcement_hash(announcement),
        sharing_key=sharing_key,
        masking_key=masking_key,
        seed_commitment=_commitment(announcement.session, announcement.round_number, device, self_mask),
        generators=generators,
        signature=b"",
    )
    signature = sign_statement(identity_key, _DOMAIN, _statement(unsigned))
    return msgspec.structs.replace(unsigned, signature=signature)


def check_advertisement(
    message: Advertisement, announcement: Announcement, identity: ec.EllipticCurvePublicKey
) -> None:
    """Pass an advertisement that the holder of `identity` made for exactly this announcement.

    Raises:
        AnnouncementMismatchError: it was signed for another session, round, model or configuration.
        AdvertisementError: the signature is not that of `identity`, or a key is a point of small order.
    """
    if (message.session, message.round_number) != (announcement.session, announcement.round_number):
        raise AnnouncementMismatchError(
            f"the advertisement of {message.device!r} is for session {message.session!r} round {message.round_number}; this is "
            f"session {announcement.session!r} round {announcement.round_number}"
        )
    if message.announcement_hash != announcement_hash(announcement):
        raise AnnouncementMismatchError(
            f"device {message.device!r} was announced another round (hash {message.announcement_hash.hex()[:16]}…, here "
            f"{announcement_hash(announcement).hex()[:16]}…): its model, configuration or vector differs from this device's"
        )
    try:
        verify_statement(identity, _DOMAIN, _statement(message), message.signature)
    except IdentityError as error:
        raise AdvertisementError(
            f"the keys of {message.device!r} are not signed by the identity key the roster has for it: {error}"
        ) from None
    for key in (message.sharing_key, message.masking_key):
        try:
            check_public_key(key)
        except KeyAgreementError as error:
            raise AdvertisementError(
                f"device {message.device!r} advertises an unusable key: {error}"
            ) from None


def check_distinct_keys(messages: Iterable[Advertisement]) -> None:
    """Pass advertisements that show no public key twice, within a device or across devices.

    Raises:
        AdvertisementError: a key is shown twice; one of the devices passes another's key off as its own.
    """
    owner: dict[bytes, str] = {}
    for message in messages:
        for key in (message.sharing_key, message.masking_key):
            if key in owner:
                raise AdvertisementError(
                    f"devices {owner[key]!r} and {message.device!r} advertise the same key {key.hex()[:16]}…; every key of a"
                    " round must be fresh"
                )
            owner[key] = message.device


def holds_commitment(message: Advertisement, self_mask: bytes) -> bool:
    """Whether `self_mask` is the seed that the device committed to."""
    return message.seed_commitment == _commitment(
        message.session, message.round_number, message.device, self_mask
    )


def advertisement_digest(message: Advertisement) -> bytes:
    """SHA-256 of a signed advertisement as written, 32 bytes: what the graph is made of."""
    return hashlib.sha256(encode(message)).digest()


def _statement(message: Advertisement) -> bytes:
    return encode(msgspec.structs.replace(message, signature=b""))


def _commitment(session: str, round_number: int, device: str, self_mask: bytes) -> bytes:
    # 32 random bytes have nothing to guess, so that a hash hides them; the names keep one from being shown as another's.
    fields = (session.encode(), round_number.to_bytes(8, "big"), device.encode(), self_mask)
    return hashlib.sha256(
        b"".join(len(part).to_bytes(2, "big") + part for part in (_SEED_DOMAIN, *fields))
    ).digest()
