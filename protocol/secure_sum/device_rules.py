"""What a device checks before it answers: the cohort it is offered, who shared, who survived, what the neighbours signed.

Pure rules. Each takes what the server claims and what the device holds itself (its advertisement, the roster, its policy) and
either returns what is now known to be true or raises the RefusedRoundError that says what was wrong and what would be right.

Not here: the order of the stages and the secrets (`device_role`).

Source: Bell et al., CCS 2020, figures 2 and 5; Bonawitz et al., CCS 2017, figure 4 (rounds 1 to 4).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from protocol.errors import IdentityError
from protocol.identity import IdentityKey, sign_statement, verify_statement
from protocol.names import DeviceId
from protocol.secure_sum.advertisements import advertisement_digest, check_advertisement, check_distinct_keys
from protocol.secure_sum.errors import (
    AdvertisementError,
    AnnouncementMismatchError,
    BothListsError,
    CohortTooSmallError,
    GraphMismatchError,
    SplitViewError,
    SumMessageError,
    SurvivorMismatchError,
    ThresholdTooLowError,
    TooFewSurvivorsError,
    UnknownDeviceError,
)
from protocol.secure_sum.graph import Cohort
from protocol.secure_sum.masks import MaskGenerator
from protocol.secure_sum.messages import (
    Advertisement,
    Announcement,
    CohortBook,
    SurvivorConfirmation,
    unpack_positions,
)
from protocol.secure_sum.planner import SumPlan, secrecy_threshold

__all__ = [
    "DevicePolicy",
    "check_announced",
    "check_cohort",
    "check_confirmations",
    "check_seals",
    "check_sharers",
    "check_survivors",
    "check_words",
    "named",
    "sign_survivors",
    "verify_survivors",
]

_SURVIVORS_DOMAIN: Final = "secure-sum/survivors/v1"


@dataclass(frozen=True, kw_only=True)
class DevicePolicy:
    """The floors below which a device takes no part, whatever the server says.

    Attributes:
        minimum_cohort: fewest devices in a sum; the survivors must reach it too. 3, because of two each knows the other's input.
        minimum_threshold: fewest shares that may open one of the device's secrets.
        corrupt_fraction: share of the cohort the device assumes to collude with the server; with `secrecy_bits` it gives
            the smallest threshold the device accepts for the degree and cohort it is offered.
        secrecy_bits: the chance that enough colluders are among someone's neighbours stays below 2^-secrecy_bits.
        split_view_safe: demand thresholds that hold even if the server tells neighbours different stories.
        requires_confirmation: refuse rounds in which survivors are not compared.
        generators: mask generators this device runs well, best first.

    Raises:
        ValueError: a floor below 2 (a sum over one device is its input) or a figure that is no share or no number of bits.
    """

    minimum_cohort: int = 3
    minimum_threshold: int = 2
    corrupt_fraction: float = 0.2
    secrecy_bits: int = 40
    split_view_safe: bool = False
    requires_confirmation: bool = False
    generators: tuple[MaskGenerator, ...] = (MaskGenerator.AES_128_CTR, MaskGenerator.CHACHA20)

    def __post_init__(self) -> None:
        if min(self.minimum_cohort, self.minimum_threshold) < 2:
            raise ValueError(
                f"a device's floors must be 2 or more, got minimum_cohort {self.minimum_cohort} and minimum_threshold "
                f"{self.minimum_threshold}"
            )
        if not 0 <= self.corrupt_fraction < 1 or not 1 <= self.secrecy_bits <= 128:
            raise ValueError(
                f"corrupt_fraction must be in [0, 1) and secrecy_bits 1 to 128, got {self.corrupt_fraction} and {self.secrecy_bits}"
            )
        if not self.generators:
            raise ValueError("a device offers at least one mask generator")


def check_announced(announcement: Announcement, *, model_hash: bytes, config_hash: bytes) -> None:
    """Pass if the question at hand is the very one, for the very model, that was announced.

    Raises:
        AnnouncementMismatchError: it is not; names what differs.
    """
    for what, at_hand, announced in (
        ("model", model_hash, announcement.model_hash),
        ("configuration", config_hash, announcement.config_hash),
    ):
        if at_hand != announced:
            raise AnnouncementMismatchError(
                f"the {what} at hand has hash {at_hand.hex()[:16]}…, the announced one {announced.hex()[:16]}…; answer only what was "
                "announced"
            )


def check_words(announcement: Announcement, words: NDArray[np.uint32]) -> None:
    """Pass if the answer has as many words as were announced; raises AnnouncementMismatchError."""
    if words.shape != (announcement.word_count,) or words.dtype != np.uint32:
        raise AnnouncementMismatchError(
            f"the words have shape {words.shape} and type {words.dtype}; {announcement.word_count} words of uint32 were announced"
        )


def check_cohort(
    book: CohortBook,
    *,
    announcement: Announcement,
    own: Advertisement,
    roster: Mapping[DeviceId, ec.EllipticCurvePublicKey],
    policy: DevicePolicy,
) -> tuple[Cohort, dict[DeviceId, Advertisement]]:
    """The cohort and this device's neighbours in it, if both are what they must be.

    Raises:
        CohortTooSmallError, ThresholdTooLowError, UnknownDeviceError, AdvertisementError, GraphMismatchError,
        AnnouncementMismatchError: see `protocol.secure_sum.errors`.
    """
    ids = tuple(DeviceId(device) for device in book.cohort)
    n = len(ids)
    if any(a >= b for a, b in pairwise(ids)):
        raise GraphMismatchError(
            "the cohort must list every device once, in ascending order; an id is repeated or misplaced"
        )
    if len(book.digests) != 32 * n:
        raise GraphMismatchError(f"a cohort of {n} has {32 * n} bytes of digests, got {len(book.digests)}")
    if n < policy.minimum_cohort:
        raise CohortTooSmallError(
            f"the cohort has {n} devices; this device takes part from {policy.minimum_cohort} on: invite more devices"
        )
    strangers = [device for device in ids if device not in roster]
    if strangers:
        raise UnknownDeviceError(
            f"the roster does not know {named(strangers)} of the cohort; only enrolled devices may take part"
        )
    if book.generator not in own.generators:
        raise AnnouncementMismatchError(
            f"generator {book.generator.value!r} was chosen; this device offered {[g.value for g in own.generators]}"
        )
    cohort = Cohort(
        session=announcement.session,
        round_number=announcement.round_number,
        digests={device: book.digests[32 * at : 32 * at + 32] for at, device in enumerate(ids)},
        plan=SumPlan(degree=book.degree, threshold=book.threshold),
        generator=book.generator,
    )
    device = DeviceId(own.device)
    if cohort.digests.get(device) != advertisement_digest(own):
        raise AdvertisementError(
            f"the cohort does not hold the keys that {own.device!r} advertised; the server replaced or lost them"
        )
    _check_threshold(cohort, policy)
    return cohort, _check_neighbours(book, cohort, announcement, own, roster)


def _check_threshold(cohort: Cohort, policy: DevicePolicy) -> None:
    n, offered = len(cohort.ids), cohort.plan
    needed = secrecy_threshold(
        cohort=n,
        degree=offered.degree,
        corrupt_fraction=policy.corrupt_fraction,
        secrecy_bits=policy.secrecy_bits,
        split_view_safe=policy.split_view_safe,
    )
    if needed is None:
        raise ThresholdTooLowError(
            f"with degree {offered.degree} no threshold keeps this device's secrets from {policy.corrupt_fraction:g} of {n} devices"
            f" at {policy.secrecy_bits} bits; raise the degree"
        )
    floor = max(needed, policy.minimum_threshold)
    if offered.threshold < floor:
        raise ThresholdTooLowError(
            f"{offered.threshold} shares would open a secret; with {n} devices and degree {offered.degree} this device asks for "
            f"a threshold of at least {floor}"
        )
    most = n if cohort.is_complete else offered.degree
    if offered.threshold > most:
        raise ThresholdTooLowError(
            f"threshold {offered.threshold} can never be met by {most} holders; it must be {floor} to {most}"
        )


def _check_neighbours(
    book: CohortBook,
    cohort: Cohort,
    announcement: Announcement,
    own: Advertisement,
    roster: Mapping[DeviceId, ec.EllipticCurvePublicKey],
) -> dict[DeviceId, Advertisement]:
    expected = cohort.neighbours(DeviceId(own.device))
    neighbours = {DeviceId(message.device): message for message in book.neighbours}
    if len(neighbours) != len(book.neighbours) or neighbours.keys() != set(expected):
        raise GraphMismatchError(
            f"the neighbours of {own.device!r} are {len(expected)} devices by the hash of the cohort; the server sent "
            f"{len(book.neighbours)} advertisements, of which {len(neighbours.keys() & set(expected))} are theirs"
        )
    for device, message in neighbours.items():
        if advertisement_digest(message) != cohort.digests[device]:
            raise AdvertisementError(
                f"the advertisement of {device!r} is not the one in the cohort's list; others were shown another"
            )
        check_advertisement(message, announcement, roster[device])
    check_distinct_keys((own, *neighbours.values()))
    return neighbours


def check_sharers(
    bits: bytes, *, cohort: Cohort, device: DeviceId, policy: DevicePolicy
) -> frozenset[DeviceId]:
    """Who shared, if these are enough and this device is one of them.

    Raises:
        SurvivorMismatchError: no list of this cohort's devices, or this device is not in it.
        TooFewSurvivorsError: fewer than max(threshold, floor), or fewer than the threshold hold shares of this device.
    """
    sharers = _devices(bits, cohort, "those who shared")
    _check_enough(sharers, cohort=cohort, device=device, policy=policy, what="shared their keys")
    return sharers


def check_survivors(
    bits: bytes,
    *,
    cohort: Cohort,
    device: DeviceId,
    sharers: frozenset[DeviceId],
    policy: DevicePolicy,
    dropped: bytes | None = None,
) -> tuple[frozenset[DeviceId], frozenset[DeviceId]]:
    """Who survived and who dropped, if together they are exactly those who shared.

    `dropped` is the server's list of them where it gave one; else it is who shared and did not survive.

    Raises:
        BothListsError: a device is in both lists.
        SurvivorMismatchError: someone who never shared is in a list, someone who shared is in none, or this device is not a survivor.
        TooFewSurvivorsError: fewer than max(threshold, floor), or fewer than the threshold hold shares of this device.
    """
    survivors = _devices(bits, cohort, "the survivors")
    lost = sharers - survivors if dropped is None else _devices(dropped, cohort, "the dropped")
    both = survivors & lost
    if both:
        raise BothListsError(
            f"{named(both)} listed as survivor and as dropped: both secrets together would lay the input bare; a device is "
            "one or the other"
        )
    strangers = (survivors | lost) - sharers
    if strangers:
        raise SurvivorMismatchError(
            f"{named(strangers)} listed, but not among the {len(sharers)} devices that shared their keys"
        )
    missing = sharers - survivors - lost
    if missing:
        raise SurvivorMismatchError(
            f"{named(missing)} shared keys and is neither survivor nor dropped; it must be one of them"
        )
    _check_enough(survivors, cohort=cohort, device=device, policy=policy, what="survived")
    return survivors, lost


def _check_enough(
    devices: frozenset[DeviceId], *, cohort: Cohort, device: DeviceId, policy: DevicePolicy, what: str
) -> None:
    if device not in devices:
        raise SurvivorMismatchError(
            f"this device, {device!r}, is not among those who {what}; only they are asked to go on"
        )
    floor = max(cohort.plan.threshold, policy.minimum_cohort)
    if len(devices) < floor:
        raise TooFewSurvivorsError(
            f"{len(devices)} of {len(cohort.ids)} devices {what}; this device goes on from {floor} (threshold "
            f"{cohort.plan.threshold}, its own floor {policy.minimum_cohort}): start again with more devices"
        )
    holders = devices.intersection(cohort.holders(device))
    if len(holders) < cohort.plan.threshold:
        raise TooFewSurvivorsError(
            f"{len(holders)} of {len(cohort.holders(device))} holders of this device's shares {what}; its masks can only be removed "
            f"with {cohort.plan.threshold}: start again"
        )


def check_seals(
    senders: Collection[str], *, neighbours: Collection[DeviceId], sharers: frozenset[DeviceId]
) -> None:
    """Pass if there is exactly one seal from each neighbour that shared.

    Raises:
        SurvivorMismatchError: one is missing, doubled, or from somebody else.
    """
    expected = sharers.intersection(neighbours)
    if len(senders) != len(expected) or set(senders) != expected:
        odd = set(senders) ^ expected
        raise SurvivorMismatchError(
            f"{len(senders)} seals came for {len(expected)} neighbours that shared; missing, doubled or uninvited: "
            f"{named(odd) if odd else 'a doubled one'}"
        )


def sign_survivors(cohort: Cohort, survivors: bytes, identity_key: IdentityKey) -> bytes:
    """Sign the list of survivors this device was shown, for this cohort and round only."""
    return sign_statement(identity_key, _SURVIVORS_DOMAIN, cohort.graph_hash + survivors)


def verify_survivors(
    cohort: Cohort, survivors: bytes, identity: ec.EllipticCurvePublicKey, signature: bytes
) -> bool:
    """Whether the holder of `identity` signed this list of survivors in this cohort and round."""
    try:
        verify_statement(identity, _SURVIVORS_DOMAIN, cohort.graph_hash + survivors, signature)
    except IdentityError:
        return False
    return True


def check_confirmations(
    confirmations: Iterable[SurvivorConfirmation],
    *,
    survivors: bytes,
    cohort: Cohort,
    device: DeviceId,
    roster: Mapping[DeviceId, ec.EllipticCurvePublicKey],
) -> None:
    """Pass if at least a threshold of this device's share holders signed the very list that it was shown.

    Raises:
        SplitViewError: too few did; others may have been shown other survivors.
    """
    alive = _devices(survivors, cohort, "the survivors")
    holders = alive.intersection(cohort.holders(device))
    agreed = {
        signer
        for signer, signature in ((DeviceId(c.device), c.signature) for c in confirmations)
        if signer in holders and verify_survivors(cohort, survivors, roster[signer], signature)
    }
    if len(agreed) < cohort.plan.threshold:
        raise SplitViewError(
            f"{len(agreed)} of {len(holders)} surviving holders of this device's shares signed the list of survivors it was shown; "
            f"it takes {cohort.plan.threshold}. The others were shown another list, or none"
        )


def named(devices: Collection[str]) -> str:
    """A few of the devices by name, for a message: ``'d1', 'd2' and 7 more``."""
    first = [repr(device) for device in sorted(devices)[:3]]
    more = len(devices) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")


def _devices(bits: bytes, cohort: Cohort, what: str) -> frozenset[DeviceId]:
    try:
        return frozenset(cohort.ids[at] for at in unpack_positions(bits, len(cohort.ids)))
    except SumMessageError as error:
        raise SurvivorMismatchError(f"the list of {what} is no list of this cohort: {error}") from None
