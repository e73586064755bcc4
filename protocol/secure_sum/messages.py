"""What the two roles of a secure sum say to each other, and how large it may be.

::

    server ──Announcement──►  device ──Advertisement──►         stage 1, advertise keys
           ──CohortBook──►           ──SealedShares──►          stage 2, share keys
           ──ShareDelivery──►        ──MaskedInput──►           stage 3, masked input
           ──SurvivorList──►         ──SurvivorConfirmation──►  only where survivors are compared
           ──UnmaskRequest──►        ──RevealedShares──►        stage 4, unmask

MessagePack on the wire; the golden vectors of the tests hold it fast. A set of devices travels as a bit set over positions
in the cohort (ids in ascending order), so that a list of 10 000 survivors takes 1250 bytes. Every message names its session
and round: one that strays in from elsewhere is told at once.

Not here: what a role accepts (`device_role`, `server_role`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from protocol.secure_sum.errors import SumMessageError
from protocol.secure_sum.masks import MAX_WORD_BITS, MIN_WORD_BITS, MaskGenerator
from runtime.unreadable import UNREADABLE

__all__ = [
    "MAX_COHORT",
    "MAX_DEGREE",
    "MAX_WORDS",
    "Advertisement",
    "Announcement",
    "CohortBook",
    "MaskedInput",
    "RevealedShares",
    "SealedShare",
    "SealedShares",
    "ShareDelivery",
    "Shares",
    "SurvivorConfirmation",
    "SurvivorList",
    "UnmaskRequest",
    "announcement_hash",
    "decode",
    "encode",
    "pack_positions",
    "unpack_positions",
]

MAX_COHORT: Final = 16_384
"""Devices in one sum; four times more would no longer fit the field of the shares."""

MAX_DEGREE: Final = 2_048
"""Neighbours of one device; 10 000 devices of which every second may vanish need fewer than 500."""

MAX_WORDS: Final = 1 << 26
"""Entries of one vector: 256 MB at 32 bits, far beyond what a small agent trains."""

Session = Annotated[str, Meta(min_length=8, max_length=64)]
Round = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Device = Annotated[str, Meta(min_length=1, max_length=64)]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=8, max_length=80)]
Seal = Annotated[bytes, Meta(min_length=1, max_length=256)]
Share = Annotated[bytes, Meta(min_length=1, max_length=64)]
Positions = Annotated[bytes, Meta(max_length=MAX_COHORT // 8)]


class Announcement(Struct, frozen=True, kw_only=True, tag="announcement"):
    """The round that is about to be: whatever differs between two devices' announcements keeps their masks from cancelling.

    `session` is fresh for every attempt, a retry included. `model_hash` and `config_hash` are SHA-256 of the model and of
    the question that every device is about to answer. The vectors have `word_count` entries of `word_bits` bits.
    `requires_confirmation` adds the stage in which devices sign the list of survivors.
    """

    session: Session
    round_number: Round
    model_hash: Hash
    config_hash: Hash
    word_bits: Annotated[int, Meta(ge=MIN_WORD_BITS, le=MAX_WORD_BITS)]
    word_count: Annotated[int, Meta(ge=1, le=MAX_WORDS)]
    requires_confirmation: bool = field(default=False, name="compares_survivors")  # the wire keeps its name


class Advertisement(Struct, frozen=True, kw_only=True, tag="advertisement"):
    """A device's two fresh X25519 public keys and its word on its self-mask seed, signed with its identity key.

    `sharing_key` encrypts shares, `masking_key` seeds masks. `seed_commitment` is a hash of the self-mask seed: with it the
    server notices a wrong share. `generators` are the ones this device runs well.
    """

    session: Session
    round_number: Round
    device: Device
    announcement_hash: Hash
    sharing_key: Key
    masking_key: Key
    seed_commitment: Hash
    generators: Annotated[tuple[MaskGenerator, ...], Meta(min_length=1, max_length=4)]
    signature: Signature


class CohortBook(Struct, frozen=True, kw_only=True, tag="cohort"):
    """Who takes part and which neighbours the recipient has.

    `cohort` holds all ids in strictly ascending order; `digests` the 32-byte hashes of their signed advertisements, in the
    same order. Both sides compute the graph from them. `neighbours` are the advertisements of the recipient's neighbours.
    """

    session: Session
    round_number: Round
    degree: Annotated[int, Meta(ge=1, le=MAX_DEGREE)]
    threshold: Annotated[int, Meta(ge=1, le=MAX_DEGREE)]
    generator: MaskGenerator
    cohort: Annotated[tuple[Device, ...], Meta(min_length=1, max_length=MAX_COHORT)]
    digests: Annotated[bytes, Meta(min_length=32, max_length=32 * MAX_COHORT)]
    neighbours: Annotated[tuple[Advertisement, ...], Meta(max_length=MAX_DEGREE)]


class SealedShare(Struct, frozen=True, array_like=True):
    """Shares under seal: `peer` is the recipient on the way to the server, the sender on the way from it."""

    peer: Device
    seal: Seal


class SealedShares(Struct, frozen=True, kw_only=True, tag="sealed"):
    """A device's two secrets, shared among its neighbours; one seal for each."""

    session: Session
    round_number: Round
    seals: Annotated[tuple[SealedShare, ...], Meta(min_length=1, max_length=MAX_DEGREE)]


class ShareDelivery(Struct, frozen=True, kw_only=True, tag="delivery"):
    """What the neighbours left with the recipient. `sharers` is everybody in the cohort who shared."""

    session: Session
    round_number: Round
    sharers: Positions
    seals: Annotated[tuple[SealedShare, ...], Meta(max_length=MAX_DEGREE)]


class MaskedInput(Struct, frozen=True, kw_only=True, tag="masked"):
    """A device's vector plus masks, packed (`masks.pack_words`)."""

    session: Session
    round_number: Round
    words: Annotated[bytes, Meta(max_length=4 * MAX_WORDS)]


class SurvivorList(Struct, frozen=True, kw_only=True, tag="survivors"):
    """Whose masked inputs are in the sum; to be signed."""

    session: Session
    round_number: Round
    survivors: Positions


class SurvivorConfirmation(Struct, frozen=True, kw_only=True, tag="confirmation"):
    """A device's signature under the list of survivors it was shown."""

    session: Session
    round_number: Round
    device: Device
    signature: Signature


class UnmaskRequest(Struct, frozen=True, kw_only=True, tag="unmask"):
    """Reveal your shares: of the self-mask seeds of `survivors`, of the mask secret keys of `dropped`, never both."""

    session: Session
    round_number: Round
    survivors: Positions
    dropped: Positions
    confirmations: Annotated[tuple[SurvivorConfirmation, ...], Meta(max_length=MAX_DEGREE + 1)] = ()


class Shares(Struct, frozen=True, array_like=True):
    """One share of one secret of `owner`."""

    owner: Device
    share: Share


class RevealedShares(Struct, frozen=True, kw_only=True, tag="revealed"):
    """A device's shares of its neighbours' self-mask seeds (`seeds`) and mask secret keys (`mask_keys`)."""

    session: Session
    round_number: Round
    seeds: Annotated[tuple[Shares, ...], Meta(max_length=MAX_DEGREE + 1)]
    mask_keys: Annotated[tuple[Shares, ...], Meta(max_length=MAX_DEGREE)]


Message = (
    Announcement
    | Advertisement
    | CohortBook
    | SealedShares
    | ShareDelivery
    | MaskedInput
    | SurvivorList
    | SurvivorConfirmation
    | UnmaskRequest
    | RevealedShares
)
MessageT = TypeVar("MessageT", bound=Struct)

_HEAD_BYTES: Final = 1024
"""Room for everything in a message that does not grow."""

MAX_BYTES: Final[dict[type[Struct], int]] = {
    Announcement: _HEAD_BYTES,
    Advertisement: _HEAD_BYTES,
    CohortBook: _HEAD_BYTES + MAX_COHORT * 100 + MAX_DEGREE * _HEAD_BYTES,
    SealedShares: _HEAD_BYTES + MAX_DEGREE * 340,
    ShareDelivery: _HEAD_BYTES + MAX_COHORT // 8 + MAX_DEGREE * 340,
    MaskedInput: _HEAD_BYTES + 4 * MAX_WORDS,
    SurvivorList: _HEAD_BYTES + MAX_COHORT // 8,
    SurvivorConfirmation: _HEAD_BYTES,
    UnmaskRequest: _HEAD_BYTES + MAX_COHORT // 4 + MAX_DEGREE * 340,
    RevealedShares: _HEAD_BYTES + 2 * MAX_DEGREE * 140,
}
"""Checked before anything is parsed."""

_encoder: Final = msgspec.msgpack.Encoder()
_decoders: Final[dict[type[Struct], msgspec.msgpack.Decoder[Struct]]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in MAX_BYTES
}


def encode(message: Message) -> bytes:
    """Write a message as MessagePack; the same message always gives the same bytes."""
    return _encoder.encode(message)


def decode(content: bytes, kind: type[MessageT]) -> MessageT:
    """Read a message of the expected `kind`.

    Raises:
        SumMessageError: too large, not MessagePack, of another kind, or a field missing, misshapen or out of range.
    """
    if len(content) > MAX_BYTES[kind]:
        raise SumMessageError(
            f"a {kind.__name__} of {len(content)} bytes is too large; at most {MAX_BYTES[kind]} are read"
        )
    try:
        message = _decoders[kind].decode(content)
    except UNREADABLE as error:
        raise SumMessageError(f"these bytes are no {kind.__name__} of a secure sum: {error}") from None
    # The decoder was made for this kind; the check is for the type checker, and cheap.
    if not isinstance(message, kind):
        raise SumMessageError(f"expected a {kind.__name__}, got a {type(message).__name__}")
    return message


def announcement_hash(announcement: Announcement) -> bytes:
    """SHA-256 of an announcement as written: what every advertisement of the round is signed for, 32 bytes."""
    return hashlib.sha256(encode(announcement)).digest()


def pack_positions(positions: Iterable[int], size: int) -> bytes:
    """Write a set of positions 0 … size-1 as a bit set, ⌈size/8⌉ bytes, position 0 in the lowest bit of the first byte."""
    bits = bytearray((size + 7) // 8)
    for position in positions:
        bits[position >> 3] |= 1 << (position & 7)
    return bytes(bits)


def unpack_positions(bits: bytes, size: int) -> frozenset[int]:
    """Read a bit set of positions back.

    Raises:
        SumMessageError: it is not ⌈size/8⌉ bytes, or names a position that a cohort of `size` does not have.
    """
    if len(bits) != (size + 7) // 8:
        raise SumMessageError(
            f"a list of devices of a cohort of {size} takes {(size + 7) // 8} bytes, got {len(bits)}"
        )
    positions = frozenset(at for at in range(8 * len(bits)) if bits[at >> 3] >> (at & 7) & 1)
    if positions and max(positions) >= size:
        raise SumMessageError(f"position {max(positions)} is beyond a cohort of {size}")
    return positions
