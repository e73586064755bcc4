"""The cohort a device refuses: forged books, copied keys, floors not met. The server here is malicious: it edits what the real one wrote."""

from __future__ import annotations

from typing import Any

import pytest
from secure_sum_rehearsal import Rehearsal, announcement, device_ids, identity_of, new_device, random_vectors
from secure_sum_stages import ME, ROSTER, advertised, assert_forgotten, edited, ten

from protocol.names import DeviceId
from protocol.secure_sum.advertisements import advertisement_digest, sign_advertisement
from protocol.secure_sum.device_role import DevicePolicy
from protocol.secure_sum.errors import (
    AdvertisementError,
    AnnouncementMismatchError,
    CohortTooSmallError,
    GraphMismatchError,
    RefusedRoundError,
    ThresholdTooLowError,
    UnknownDeviceError,
)
from protocol.secure_sum.masks import MaskGenerator
from protocol.secure_sum.messages import Advertisement, CohortBook
from protocol.secure_sum.server_role import ServerPolicy

pytestmark = pytest.mark.edge


def resigned(message: Advertisement, signer: str, **changes: Any) -> Advertisement:
    """An advertisement changed and signed again with the identity key of `signer`."""
    figures = {
        "sharing_key": message.sharing_key,
        "masking_key": message.masking_key,
        "generators": message.generators,
    } | changes
    return sign_advertisement(
        changes.pop("announced", announcement(6)),
        changes.pop("device", DeviceId(message.device)),
        self_mask=bytes(32),
        identity_key=identity_of(signer),
        **{key: value for key, value in figures.items() if key not in ("announced", "device")},
    )


def with_neighbour(book: CohortBook, forged: Advertisement) -> CohortBook:
    """The book with one neighbour's advertisement replaced, consistently in the list of digests."""
    at = book.cohort.index(forged.device)
    digests = book.digests[: 32 * at] + advertisement_digest(forged) + book.digests[32 * at + 32 :]
    others = tuple(forged if a.device == forged.device else a for a in book.neighbours)
    return edited(book, digests=digests, neighbours=others)


SMALL_ORDER = bytes(32)


@pytest.mark.parametrize(
    ("forge", "error", "message"),
    [
        (lambda b: edited(b, threshold=5), ThresholdTooLowError, "5 shares would open.*at least 6"),
        (
            lambda b: edited(b, threshold=11),
            ThresholdTooLowError,
            "can never be met by 10 holders; it must be 6 to 10",
        ),
        (lambda b: edited(b, degree=8), GraphMismatchError, "complete graph, degree 9; got degree 8"),
        (
            lambda b: edited(b, session="session-0002"),
            AnnouncementMismatchError,
            "session 'session-0002' round 7",
        ),
        (
            lambda b: edited(b, round_number=8),
            AnnouncementMismatchError,
            "round 8; this device takes part in",
        ),
        (lambda b: edited(b, cohort=b.cohort[::-1]), GraphMismatchError, "ascending order"),
        (lambda b: edited(b, cohort=(b.cohort[0], *b.cohort[:-1])), GraphMismatchError, "an id is repeated"),
        (lambda b: edited(b, digests=b.digests[:-32]), GraphMismatchError, "320 bytes of digests, got 288"),
        (
            lambda b: edited(b, cohort=(*b.cohort[:-1], "zz")),
            UnknownDeviceError,
            "the roster does not know 'zz'",
        ),
        (lambda b: edited(b, digests=bytes(320)), AdvertisementError, "does not hold the keys that 'd00004'"),
        (
            lambda b: edited(b, neighbours=b.neighbours[1:]),
            GraphMismatchError,
            "9 devices by the hash.*sent 8",
        ),
        (
            lambda b: edited(b, neighbours=(b.neighbours[1], *b.neighbours[1:])),
            GraphMismatchError,
            "sent 9 advertisements, of which 8",
        ),
        (
            lambda b: edited(b, neighbours=(resigned(b.neighbours[0], "d00000"), *b.neighbours[1:])),
            AdvertisementError,
            "'d00000' is not the one in the cohort's list",
        ),
        (
            lambda b: with_neighbour(b, resigned(b.neighbours[0], "d00009")),
            AdvertisementError,
            "'d00000' are not signed by the identity key",
        ),
        (
            lambda b: with_neighbour(b, resigned(b.neighbours[0], "server")),
            AdvertisementError,
            "not signed by the identity key the roster has",
        ),
        (
            lambda b: with_neighbour(
                b, resigned(b.neighbours[0], "d00000", announced=announcement(6, session="session-0002"))
            ),
            AnnouncementMismatchError,
            "advertisement of 'd00000' is for session 'session-0002'",
        ),
        (
            lambda b: with_neighbour(
                b, resigned(b.neighbours[0], "d00000", announced=announcement(6, model_hash=bytes(32)))
            ),
            AnnouncementMismatchError,
            "'d00000' was announced another round",
        ),
        (
            lambda b: with_neighbour(b, resigned(b.neighbours[0], "d00000", masking_key=SMALL_ORDER)),
            AdvertisementError,
            "'d00000' advertises an unusable key.*small order",
        ),
        (
            lambda b: with_neighbour(
                b, resigned(b.neighbours[0], "d00000", masking_key=b.neighbours[1].masking_key)
            ),
            AdvertisementError,
            "'d00000' and 'd00001' advertise the same key",
        ),
    ],
)
def test_a_forged_cohort_is_refused(forge: Any, error: type[RefusedRoundError], message: str) -> None:
    played = advertised()
    with pytest.raises(error, match=message):
        played.roles[ME].share_keys(forge(played.to_devices[ME]))
    assert_forgotten(played.roles[ME])


def test_a_device_s_own_keys_reflected_to_it_are_refused() -> None:
    played = advertised()
    book = played.to_devices[ME]
    mine = played.server._advertisements[ME]
    reflected = resigned(book.neighbours[0], "d00000", sharing_key=mine.sharing_key)
    with pytest.raises(AdvertisementError, match="'d00004' and 'd00000' advertise the same key"):
        played.roles[ME].share_keys(with_neighbour(book, reflected))
    assert_forgotten(played.roles[ME])


def test_a_generator_nobody_asked_for_is_refused() -> None:
    played = advertised(device_policy=DevicePolicy(generators=(MaskGenerator.CHACHA20,)))
    book = edited(played.to_devices[ME], generator=MaskGenerator.AES_128_CTR)
    with pytest.raises(
        AnnouncementMismatchError, match=r"'aes-128-ctr' was chosen; this device offered \['chacha20'\]"
    ):
        played.roles[ME].share_keys(book)
    assert_forgotten(played.roles[ME])


@pytest.mark.parametrize("floor", [11, 100])
def test_a_cohort_below_the_floor_is_refused(floor: int) -> None:
    played = advertised(device_policy=DevicePolicy(minimum_cohort=floor))
    with pytest.raises(CohortTooSmallError, match=f"10 devices; this device takes part from {floor} on"):
        played.roles[ME].share_keys(played.to_devices[ME])
    assert_forgotten(played.roles[ME])


def test_a_cohort_of_one_is_refused() -> None:
    role = new_device(ME, roster=ROSTER)
    mine = role.advertise(announcement(6))
    book = CohortBook(
        session="session-0001",
        round_number=7,
        degree=1,
        threshold=1,
        generator=MaskGenerator.AES_128_CTR,
        cohort=(ME,),
        digests=advertisement_digest(mine),
        neighbours=(),
    )
    with pytest.raises(CohortTooSmallError, match="1 devices; this device takes part from 3 on"):
        role.share_keys(book)
    assert_forgotten(role)


@pytest.mark.parametrize(
    "figures",
    [
        {"minimum_cohort": 1},
        {"minimum_threshold": 1},
        {"corrupt_fraction": 1.0},
        {"secrecy_bits": 0},
        {"generators": ()},
    ],
)
def test_a_policy_that_protects_nothing_cannot_be_made(figures: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|at least one"):
        DevicePolicy(**figures)


def test_a_threshold_below_the_device_s_own_floor_is_refused() -> None:
    played = advertised(device_policy=DevicePolicy(minimum_threshold=8))
    with pytest.raises(ThresholdTooLowError, match=r"6 shares.*threshold of at least 8"):
        played.roles[ME].share_keys(played.to_devices[ME])


def test_a_threshold_that_falls_to_different_stories_is_refused_where_the_device_minds() -> None:
    played = advertised(device_policy=DevicePolicy(split_view_safe=True))
    with pytest.raises(ThresholdTooLowError, match=r"6 shares.*threshold of at least 7"):
        played.roles[ME].share_keys(played.to_devices[ME])
    safe = ten(
        device_policy=DevicePolicy(split_view_safe=True), server_policy=ServerPolicy(split_view_safe=True)
    )
    assert len(safe.play().participants) == 10


def test_a_ring_too_thin_for_the_device_s_assumptions_is_refused() -> None:
    ids = device_ids(140)
    played = Rehearsal(
        announcement(2),
        random_vectors(ids, 2),
        server_policy=ServerPolicy(secrecy_bits=4, correctness_bits=4),
    )
    played.advertise()
    degree = played.server._settled.plan.degree
    with pytest.raises(ThresholdTooLowError, match=f"degree {degree}"):
        played.roles[ids[0]].share_keys(played.to_devices[ids[0]])
    assert_forgotten(played.roles[ids[0]])
