"""What a device refuses, and that it forgets the round when it does. The server here is malicious: it edits what the real one wrote."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from secure_sum_rehearsal import (
    CONFIG,
    MODEL,
    Rehearsal,
    announcement,
    device_ids,
    identity_of,
    new_device,
    random_vectors,
    roster_of,
)

from protocol.names import DeviceId
from protocol.secure_sum.advertisements import advertisement_digest, sign_advertisement
from protocol.secure_sum.device_role import DevicePolicy, DeviceRole, DeviceStage
from protocol.secure_sum.device_rules import sign_survivors
from protocol.secure_sum.errors import (
    AdvertisementError,
    AnnouncementMismatchError,
    BothListsError,
    BudgetSpentError,
    CohortTooSmallError,
    GraphMismatchError,
    RefusedRoundError,
    RepeatedStageError,
    SplitViewError,
    StageOrderError,
    SurvivorMismatchError,
    ThresholdTooLowError,
    TooFewSurvivorsError,
    UnknownDeviceError,
)
from protocol.secure_sum.keys import derive_pair_seed, key_pair_from_secret
from protocol.secure_sum.masks import MaskGenerator, expand_mask, unpack_words
from protocol.secure_sum.messages import (
    Advertisement,
    Announcement,
    CohortBook,
    MaskedInput,
    RevealedShares,
    SealedShares,
    ShareDelivery,
    SurvivorList,
    UnmaskRequest,
    pack_positions,
)
from protocol.secure_sum.server_role import ServerPolicy
from protocol.secure_sum.shamir import combine

pytestmark = pytest.mark.edge

IDS = device_ids(10)
ROSTER = roster_of(IDS)
ME = IDS[4]


def ten(**changes: Any) -> Rehearsal:
    figures = {
        key: changes.pop(key)
        for key in ("device_policy", "server_policy", "roles", "vanish")
        if key in changes
    }
    return Rehearsal(announcement(6, **changes), random_vectors(IDS, 6), **figures)


def advertised(**changes: Any) -> Rehearsal:
    """Ten devices have advertised; the cohort books are on their way."""
    played = ten(**changes)
    played.advertise()
    return played


def shared(**changes: Any) -> Rehearsal:
    played = advertised(**changes)
    played.share()
    return played


def masked(**changes: Any) -> Rehearsal:
    played = shared(**changes)
    played.mask()
    return played


def mask(played: Rehearsal, message: Any = None, **changes: Any) -> MaskedInput:
    arguments = {"model_hash": MODEL, "config_hash": CONFIG, "words": played.vectors[ME]} | changes
    answer: MaskedInput = played.roles[ME].mask(message or played.to_devices[ME], **arguments)
    return answer


def assert_forgotten(role: DeviceRole) -> None:
    """Refused, wiped, and refusing whatever comes next."""
    assert role.stage is DeviceStage.REFUSED
    if role._round is not None:
        secrets = role._round.secrets
        assert not any(secrets._masking.secret)
        assert not any(secrets._sharing.secret)
        assert not any(secrets.self_mask)
        assert (secrets._held, secrets._seal_secrets, secrets._mask_secrets) == ({}, {}, {})
    with pytest.raises(RepeatedStageError, match="already at 'refused'"):
        role.unmask(UnmaskRequest(session="session-0001", round_number=7, survivors=b"\0\0", dropped=b"\0\0"))


def edited(message: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(message, **changes)


def bits(*numbers: int) -> bytes:
    return pack_positions(numbers, len(IDS))


# --- the cohort ------------------------------------------------------------------------------------------------------


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


# --- the masked input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_hash": bytes(32)}, "the model at hand has hash 0000000000000000"),
        ({"config_hash": bytes(32)}, "the configuration at hand has hash"),
        ({"words": np.zeros(5, np.uint32)}, r"shape \(5,\) and type uint32; 6 words"),
        ({"words": np.zeros(6, np.int64)}, "type int64; 6 words of uint32"),
    ],
)
def test_an_answer_to_something_else_than_was_announced_is_not_given(
    changes: dict[str, Any], message: str
) -> None:
    played = shared()
    with pytest.raises(AnnouncementMismatchError, match=message):
        mask(played, **changes)
    assert_forgotten(played.roles[ME])
    assert played.roles[ME]._budget.spent == 0


@pytest.mark.parametrize(
    ("forge", "error", "message"),
    [
        (
            lambda d: edited(d, sharers=bits(0, 1, 2, 4, 5)),
            TooFewSurvivorsError,
            "5 of 10 devices shared.*from 6",
        ),
        (
            lambda d: edited(d, sharers=bits(0, 1, 2, 3, 5, 6, 7)),
            SurvivorMismatchError,
            "this device, 'd00004', is not",
        ),
        (lambda d: edited(d, sharers=b"\xff"), SurvivorMismatchError, "takes 2 bytes, got 1"),
        (
            lambda d: edited(d, sharers=b"\xff\xff"),
            SurvivorMismatchError,
            "position 15 is beyond a cohort of 10",
        ),
        (lambda d: edited(d, seals=d.seals[1:]), SurvivorMismatchError, "8 seals came for 9.*'d00000'"),
        (lambda d: edited(d, seals=(d.seals[1], *d.seals[1:])), SurvivorMismatchError, "9 seals came for 9"),
        (lambda d: edited(d, session="session-9999"), AnnouncementMismatchError, "session-9999"),
    ],
)
def test_a_forged_delivery_is_refused(forge: Any, error: type[RefusedRoundError], message: str) -> None:
    played = shared()
    with pytest.raises(error, match=message):
        mask(played, forge(played.to_devices[ME]))
    assert_forgotten(played.roles[ME])
    assert played.roles[ME]._budget.spent == 0


def test_survivors_below_the_device_s_floor_are_refused() -> None:
    played = shared(device_policy=DevicePolicy(minimum_cohort=9))
    with pytest.raises(
        TooFewSurvivorsError, match=r"8 of 10 devices shared.*from 9 .threshold 6, its own floor 9"
    ):
        mask(
            played,
            edited(played.to_devices[ME], sharers=bits(*range(8)), seals=played.to_devices[ME].seals[:7]),
        )


def test_a_ring_in_which_too_few_of_the_own_neighbours_shared_is_refused() -> None:
    ids = device_ids(131)
    played = Rehearsal(
        announcement(2),
        random_vectors(ids, 2),
        server_policy=ServerPolicy(secrecy_bits=4, correctness_bits=4, corrupt_fraction=0.05),
        device_policy=DevicePolicy(secrecy_bits=4, corrupt_fraction=0.05),
    )
    played.advertise()
    played.share()
    cohort = played.server._settled
    kept = cohort.neighbours(ids[0])[: cohort.plan.threshold - 1]
    sharers = {*ids, *kept} - (set(cohort.neighbours(ids[0])) - set(kept))
    delivery = played.to_devices[ids[0]]
    forged = edited(
        delivery,
        sharers=pack_positions((cohort.position(device) for device in sharers), 131),
        seals=tuple(seal for seal in delivery.seals if seal.peer in kept),
    )
    with pytest.raises(TooFewSurvivorsError, match=r"holders of this device's shares shared their keys"):
        played.roles[ids[0]].mask(forged, model_hash=MODEL, config_hash=CONFIG, words=played.vectors[ids[0]])
    assert_forgotten(played.roles[ids[0]])


class Purse:
    """A budget with some participations left; the answer to the n-th question is `answers[n]`."""

    def __init__(self, *answers: str | None, fails: bool = False) -> None:
        self.answers = list(answers)
        self.fails = fails
        self.spent = 0

    def objection(self, announcement: Announcement) -> str | None:
        return self.answers.pop(0)

    def spend(self, announcement: Announcement) -> None:
        if self.fails:
            raise OSError("disk full")
        self.spent += 1


def test_a_spent_budget_ends_the_round_before_anything_is_said() -> None:
    role = new_device(ME, roster=ROSTER, budget=Purse("100 of 100 participations are spent"))
    with pytest.raises(BudgetSpentError, match="100 of 100 participations are spent"):
        role.advertise(announcement(6))
    assert_forgotten(role)


def test_a_budget_spent_meanwhile_ends_the_round_before_the_input_leaves() -> None:
    purse = Purse(None, "spent by another run")
    played = shared(roles={ME: new_device(ME, roster=ROSTER, budget=purse)})
    with pytest.raises(BudgetSpentError, match="spent by another run"):
        mask(played)
    assert_forgotten(played.roles[ME])
    assert purse.spent == 0


def test_an_input_that_cannot_be_booked_does_not_leave() -> None:
    played = shared(roles={ME: new_device(ME, roster=ROSTER, budget=Purse(None, None, fails=True))})
    with pytest.raises(OSError, match="disk full"):
        mask(played)
    assert_forgotten(played.roles[ME])


def test_a_participation_is_booked_once() -> None:
    purse = Purse(None, None)
    played = masked(roles={ME: new_device(ME, roster=ROSTER, budget=purse)})
    played.unmask()
    played.server.finish()
    assert purse.spent == 1


# --- unmasking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dropped": bits(2, 9)}, BothListsError, "'d00002' listed as survivor and as dropped"),
        (
            {"survivors": bits(*range(9)), "dropped": bits(8, 9)},
            BothListsError,
            "'d00008' listed as survivor and as dropped",
        ),
        (
            {"survivors": bits(*range(9), 9), "dropped": b"\0\0"},
            SurvivorMismatchError,
            "'d00009' listed, but not among",
        ),
        ({"survivors": bits(*range(8))}, SurvivorMismatchError, "'d00008' shared keys and is neither"),
        (
            {"survivors": bits(0, 1, 2, 3, 4), "dropped": bits(5, 6, 7, 8)},
            TooFewSurvivorsError,
            "5 of 10 devices survived; this device goes on from 6",
        ),
        (
            {"survivors": bits(0, 1, 2, 3, 5, 6, 7, 8), "dropped": bits(4)},
            SurvivorMismatchError,
            "this device, 'd00004', is not among those who survived",
        ),
        (
            {"dropped": bits(9)},
            SurvivorMismatchError,
            "'d00009' listed, but not among the 9 devices that shared",
        ),
        ({"survivors": b""}, SurvivorMismatchError, "takes 2 bytes, got 0"),
        ({"round_number": 8}, AnnouncementMismatchError, "round 8"),
    ],
)
def test_a_forged_request_to_unmask_reveals_nothing(
    changes: dict[str, Any], error: type[RefusedRoundError], message: str
) -> None:
    # The last device never shared: nine did.
    played = masked(vanish={"share": [IDS[9]]})
    with pytest.raises(error, match=message):
        played.roles[ME].unmask(edited(played.to_devices[ME], **changes))
    assert_forgotten(played.roles[ME])


def test_survivors_below_the_floor_are_refused_at_the_end_too() -> None:
    played = masked(device_policy=DevicePolicy(minimum_cohort=9))
    request = edited(played.to_devices[ME], survivors=bits(*range(8)), dropped=bits(8, 9))
    with pytest.raises(TooFewSurvivorsError, match="8 of 10 devices survived; this device goes on from 9"):
        played.roles[ME].unmask(request)


class RevealsBoth(DeviceRole):
    """The mutant: answers for a device that is in both lists."""

    def unmask(self, request: UnmaskRequest) -> RevealedShares:
        assert self._round is not None
        everybody = frozenset(IDS)
        return self._reveal(request, self._round.secrets, everybody, everybody)


def lay_bare(played: Rehearsal, victim: DeviceId, words: bytes) -> np.ndarray[Any, Any]:
    """The attack of a server that lists one device as survivor and as dropped, with what it needs and has."""
    cohort = played.server._settled
    request = edited(played.to_devices[victim], dropped=bits(IDS.index(victim)))
    seeds, keys = {}, {}
    for device in IDS:
        if device == victim:
            continue
        revealed = played.roles[device].unmask(request)
        (seeds[device],) = (share.share for share in revealed.seeds if share.owner == victim)
        (keys[device],) = (share.share for share in revealed.mask_keys if share.owner == victim)
    holders = sorted(seeds)[: cohort.plan.threshold]
    points = [cohort.point(holder) for holder in holders]
    seed = combine(points, [seeds[holder] for holder in holders])
    secret = key_pair_from_secret(combine(points, [keys[holder] for holder in holders]))
    masks = [seed]
    vector = unpack_words(words, 6, 32) - expand_mask(seed, 6, generator=cohort.generator)
    for device in IDS:
        if device != victim:
            masks.append(
                derive(
                    secret.agree(played.server._advertisements[device].masking_key), played, device, victim
                )
            )
            mask = expand_mask(masks[-1], 6, generator=cohort.generator)
            vector = vector - mask if victim < device else vector + mask
    return vector


def derive(shared_secret: bytes, played: Rehearsal, *pair: str) -> bytes:
    binding = played.server._settled.binding(played.announcement)
    return derive_pair_seed(shared_secret, binding=binding, devices=(pair[0], pair[1]))


def masked_with_a_tap(kind: type[DeviceRole]) -> tuple[Rehearsal, bytes]:
    roles = {device: new_device(device, roster=ROSTER, kind=kind) for device in IDS}
    played = shared(roles=roles)
    seen: dict[DeviceId, bytes] = {}
    accept = played.server.accept_masked_input

    def tap(sender: DeviceId, message: MaskedInput) -> None:
        seen[sender] = message.words
        accept(sender, message)

    played.server.accept_masked_input = tap  # type: ignore[method-assign] # a tap on the wire
    played.mask()
    return played, seen[ME]


def test_a_server_that_asks_for_both_secrets_of_a_device_gets_none() -> None:
    played, words = masked_with_a_tap(DeviceRole)
    with pytest.raises(BothListsError):
        lay_bare(played, ME, words)


def test_the_attack_works_on_devices_that_answer_for_both_lists() -> None:
    """So that the refusal above is what stops it."""
    played, words = masked_with_a_tap(RevealsBoth)
    np.testing.assert_array_equal(lay_bare(played, ME, words), played.vectors[ME])


# --- compared survivors ----------------------------------------------------------------------------------------------


def confirmed(**changes: Any) -> Rehearsal:
    played = masked(compares_survivors=True, **changes)
    played.confirm()
    return played


def test_a_round_that_does_not_compare_survivors_is_refused_where_the_device_minds() -> None:
    role = new_device(ME, roster=ROSTER, policy=DevicePolicy(requires_confirmation=True))
    with pytest.raises(SplitViewError, match="announce the round with compares_survivors"):
        role.advertise(announcement(6))
    assert_forgotten(role)


def test_too_few_signatures_under_the_survivors_reveal_nothing() -> None:
    played = confirmed()
    request = played.to_devices[ME]
    with pytest.raises(SplitViewError, match=r"5 of 10 surviving holders.*it takes 6"):
        played.roles[ME].unmask(edited(request, confirmations=request.confirmations[:5]))
    assert_forgotten(played.roles[ME])


def test_one_neighbour_s_signature_counts_once() -> None:
    played = confirmed()
    request = played.to_devices[ME]
    with pytest.raises(SplitViewError, match="1 of 10 surviving holders"):
        played.roles[ME].unmask(edited(request, confirmations=request.confirmations[:1] * 9))


def test_only_surviving_holders_count_among_the_signatures() -> None:
    played = confirmed(vanish={"mask": [IDS[8], IDS[9]]})
    request = played.to_devices[ME]
    gone = tuple(
        edited(
            request.confirmations[0],
            device=device,
            signature=sign_survivors(played.server._settled, request.survivors, identity_of(device)),
        )
        for device in IDS[8:]
    )
    with pytest.raises(SplitViewError, match="5 of 8 surviving holders"):
        played.roles[ME].unmask(edited(request, confirmations=(*request.confirmations[:5], *gone)))


def test_a_list_other_than_the_confirmed_one_reveals_nothing() -> None:
    played = confirmed()
    request = edited(played.to_devices[ME], survivors=bits(*range(9)), dropped=bits(9))
    with pytest.raises(SplitViewError, match="not the ones this device confirmed"):
        played.roles[ME].unmask(request)
    assert_forgotten(played.roles[ME])


def test_a_server_that_shows_half_of_the_devices_other_survivors_gets_nothing_from_either() -> None:
    played = masked(compares_survivors=True)
    listed = played.to_devices[ME]
    other = edited(listed, survivors=bits(*range(9)))
    signatures = {}
    for at, device in enumerate(IDS[:9]):
        signatures[device] = played.roles[device].confirm(listed if at < 5 else other)
    for at, device in enumerate(IDS[:9]):
        request = UnmaskRequest(
            session="session-0001",
            round_number=7,
            survivors=(listed if at < 5 else other).survivors,
            dropped=b"\0\0" if at < 5 else bits(9),
            confirmations=tuple(signatures.values()),
        )
        with pytest.raises(SplitViewError, match="shown another list"):
            played.roles[device].unmask(request)


def test_a_confirmation_asked_for_in_a_round_without_them_is_refused() -> None:
    played = masked(compares_survivors=False)
    listed = SurvivorList(session="session-0001", round_number=7, survivors=bits(*range(10)))
    with pytest.raises(StageOrderError, match="goes on with unmask"):
        played.roles[ME].confirm(listed)


@pytest.mark.parametrize(
    ("survivors", "error"),
    [(bits(0, 1, 2, 3, 4), TooFewSurvivorsError), (bits(0, 1, 2, 3, 5, 6, 7), SurvivorMismatchError)],
)
def test_a_list_of_survivors_a_device_would_not_unmask_is_not_signed(
    survivors: bytes, error: type[RefusedRoundError]
) -> None:
    played = masked(compares_survivors=True)
    with pytest.raises(error):
        played.roles[ME].confirm(edited(played.to_devices[ME], survivors=survivors))
    assert_forgotten(played.roles[ME])


# --- every stage once, in its order ------------------------------------------------------------------------------------


def test_a_second_request_of_any_stage_is_refused() -> None:
    for stage in ("advertise", "share", "mask", "confirm", "unmask"):
        played = ten(compares_survivors=True)
        role = played.roles[ME]
        asked: dict[str, Any] = {}
        played.advertise()
        asked["advertise"] = lambda r=role, p=played: r.advertise(p.announcement)
        for step in ("share", "mask", "confirm", "unmask"):
            message = played.to_devices[ME]
            if stage == "advertise":
                break
            if step == "mask":
                asked[step] = lambda p=played, m=message: mask(p, m)
            else:
                name = {"share": "share_keys", "confirm": "confirm", "unmask": "unmask"}[step]
                asked[step] = lambda r=role, n=name, m=message: getattr(r, n)(m)
            getattr(played, step)()
            if step == stage:
                break
        with pytest.raises(RepeatedStageError, match="each stage is answered once"):
            asked[stage]()
        assert_forgotten(role)


def test_an_earlier_stage_asked_again_later_is_refused() -> None:
    played = advertised()
    book = played.to_devices[ME]
    played.share()
    played.mask()
    with pytest.raises(
        RepeatedStageError, match="stage 'shared' was requested, but this device is already at 'masked'"
    ):
        played.roles[ME].share_keys(book)
    assert_forgotten(played.roles[ME])


def test_a_skipped_stage_is_refused() -> None:
    request = UnmaskRequest(session="session-0001", round_number=7, survivors=b"\0\0", dropped=b"\0\0")
    delivery = ShareDelivery(session="session-0001", round_number=7, sharers=b"\0\0", seals=())
    fresh = new_device(ME, roster=ROSTER)
    with pytest.raises(
        StageOrderError, match="'revealed' was requested after 'new'; it comes after 'masked'"
    ):
        fresh.unmask(request)
    played = advertised()
    with pytest.raises(
        StageOrderError, match="'masked' was requested after 'advertised'; it comes after 'shared'"
    ):
        mask(played, delivery)
    assert_forgotten(played.roles[ME])
    compared = masked(compares_survivors=True)
    with pytest.raises(
        StageOrderError, match="'revealed' was requested after 'masked'; it comes after 'confirmed'"
    ):
        compared.roles[ME].unmask(request)


def test_a_device_that_leaves_forgets() -> None:
    played = shared()
    played.roles[ME].leave()
    assert_forgotten(played.roles[ME])


def test_no_secret_shows_when_a_device_is_printed() -> None:
    played = shared()
    role = played.roles[ME]
    assert role._round is not None
    secrets = role._round.secrets
    shown = "".join(repr(part) for part in (role, secrets, secrets._masking, secrets._held, role._round))
    for secret in (bytes(secrets._masking.secret), bytes(secrets._sharing.secret), secrets.self_mask):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


# --- different stories -----------------------------------------------------------------------------------------------


def test_devices_that_were_announced_different_models_do_not_go_on_together() -> None:
    """Even if the server signs nothing of its own: the neighbours' signatures give the other model away."""
    played = ten()
    other = announcement(6, model_hash=hashlib.sha256(b"another model").digest())
    books = {}
    for device in IDS:
        shown = other if device == ME else played.announcement
        books[device] = played.roles[device].advertise(shown)
    book = CohortBook(
        session="session-0001",
        round_number=7,
        degree=9,
        threshold=6,
        generator=MaskGenerator.AES_128_CTR,
        cohort=tuple(IDS),
        digests=b"".join(advertisement_digest(books[device]) for device in IDS),
        neighbours=(),
    )
    for device in IDS:
        others = tuple(books[peer] for peer in IDS if peer != device)
        with pytest.raises(AnnouncementMismatchError, match="was announced another round"):
            played.roles[device].share_keys(edited(book, neighbours=others))


def test_a_cohort_of_devices_the_fleet_does_not_know_is_refused() -> None:
    """A server that invents devices to surround one: it can sign for them, but the roster is the fleet's."""
    roster = {ME: ROSTER[ME]}
    role = new_device(ME, roster=roster)
    mine = role.advertise(announcement(6))
    invented = [new_device(device, roster=ROSTER) for device in IDS if device != ME]
    sent = {a.device: a for a in (mine, *(device.advertise(announcement(6)) for device in invented))}
    book = CohortBook(
        session="session-0001",
        round_number=7,
        degree=9,
        threshold=6,
        generator=MaskGenerator.AES_128_CTR,
        cohort=tuple(IDS),
        digests=b"".join(advertisement_digest(sent[device]) for device in IDS),
        neighbours=tuple(a for a in sent.values() if a.device != ME),
    )
    with pytest.raises(UnknownDeviceError, match="does not know 'd00000', 'd00001', 'd00002' and 6 more"):
        role.share_keys(book)
    assert_forgotten(role)


def test_an_identity_key_of_another_curve_position_is_not_mistaken_for_the_device_s() -> None:
    roster = dict(ROSTER)
    roster[IDS[0]] = ec.generate_private_key(ec.SECP256R1()).public_key()
    played = advertised(roles={ME: new_device(ME, roster=roster)})
    with pytest.raises(AdvertisementError, match="'d00000' are not signed"):
        played.roles[ME].share_keys(played.to_devices[ME])


def test_sealed_shares_tell_the_server_nothing_it_can_read() -> None:
    played = advertised()
    sealed: SealedShares = played.roles[ME].share_keys(played.to_devices[ME])
    held = played.roles[ME]._round
    assert held is not None
    pair = held.secrets._held[ME]
    everything = msgspec.msgpack.encode(sealed)
    assert pair.mask_key not in everything
    assert pair.self_mask not in everything
