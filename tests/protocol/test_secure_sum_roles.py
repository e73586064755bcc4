"""Both roles together: the sum is exactly the plain one, whoever vanishes at whatever stage, and wrong answers cost only their sender."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from secure_sum_rehearsal import (
    CONFIG,
    MODEL,
    STAGES,
    Rehearsal,
    announcement,
    device_ids,
    identity_of,
    new_device,
    plain_sum,
    random_vectors,
    roster_of,
)

from protocol.names import DeviceId
from protocol.secure_sum.advertisements import sign_advertisement
from protocol.secure_sum.device_role import DevicePolicy, DeviceRole, DeviceStage
from protocol.secure_sum.errors import (
    InfeasiblePlanError,
    RejectedContributionError,
    TooFewSurvivorsError,
    VoidRoundError,
)
from protocol.secure_sum.fixed_point import center_words
from protocol.secure_sum.keys import key_pair_from_secret
from protocol.secure_sum.masks import MaskGenerator
from protocol.secure_sum.messages import RevealedShares, SealedShare, SealedShares, Shares
from protocol.secure_sum.server_role import SecureSum, ServerPolicy, ServerStage

pytestmark = pytest.mark.edge

SMALL_DEVICES = DevicePolicy(minimum_cohort=2)
SMALL_SERVER = ServerPolicy(minimum_cohort=2)


def rehearsal(n: int, d: int, *, vanish: dict[str, Sequence[int]] | None = None, **changes: Any) -> Rehearsal:
    """A cohort of n; `vanish` names devices by number. Announcement figures may be changed by name."""
    ids = device_ids(n)
    roles = {key: changes.pop(key) for key in ("server_policy", "device_policy", "roles") if key in changes}
    return Rehearsal(
        announcement(d, **changes),
        random_vectors(ids, d),
        vanish={stage: [ids[i] for i in who] for stage, who in (vanish or {}).items()},
        **{"server_policy": SMALL_SERVER, "device_policy": SMALL_DEVICES, **roles},
    )


def assert_exact(played: Rehearsal, result: SecureSum) -> None:
    assert not played.refusals
    assert not played.rejections
    bits = played.announcement.word_bits
    gone = {device for stage in ("advertise", "share", "mask") for device in played.vanish.get(stage, ())}
    assert set(result.participants) == set(played.vectors) - gone
    total = sum(played.vectors[device].astype(np.uint64) for device in result.participants)
    np.testing.assert_array_equal(result.words, total % 2**bits)


@pytest.mark.parametrize("compares_survivors", [False, True])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("d", [1, 1000])
def test_three_devices_add_up_exactly_when_one_vanishes(d: int, stage: str, compares_survivors: bool) -> None:
    played = rehearsal(3, d, vanish={stage: [1]}, compares_survivors=compares_survivors)
    assert_exact(played, played.play())


def test_three_devices_add_up_exactly_in_a_long_vector() -> None:
    played = rehearsal(3, 100_000, vanish={"mask": [0]})
    assert_exact(played, played.play())


@pytest.mark.parametrize("d", [1, 1000, 100_000])
def test_ten_devices_add_up_exactly_when_one_vanishes_at_every_stage(d: int) -> None:
    played = rehearsal(10, d, vanish={"share": [2], "mask": [5], "unmask": [9]})
    result = played.play()
    assert_exact(played, result)
    assert result.dropped == ("d00002", "d00005")


@pytest.mark.parametrize("stage", STAGES[:4])
def test_ten_devices_add_up_exactly_when_three_vanish_at_once(stage: str) -> None:
    played = rehearsal(10, 50, vanish={stage: [0, 4, 9]}, compares_survivors=True)
    assert_exact(played, played.play())


@pytest.mark.parametrize("d", [1, 1000, 100_000])
def test_a_hundred_devices_add_up_exactly_when_some_vanish_at_every_stage(d: int) -> None:
    vanish = {
        "advertise": range(2),
        "share": range(10, 15),
        "mask": range(30, 45),
        "unmask": range(60, 75),
    }
    played = rehearsal(100, d, vanish=vanish)
    assert_exact(played, played.play())


def test_a_ring_adds_up_exactly_when_some_vanish_at_every_stage() -> None:
    # Few neighbours, so that the sum has many pairs that are none.
    policy = ServerPolicy(secrecy_bits=8, correctness_bits=8, corrupt_fraction=0.05, dropout_fraction=0.15)
    devices = DevicePolicy(secrecy_bits=8, corrupt_fraction=0.05)
    vanish = {"share": range(5), "mask": range(20, 26), "unmask": range(50, 55)}
    played = rehearsal(131, 40, vanish=vanish, server_policy=policy, device_policy=devices)
    result = played.play()
    assert_exact(played, result)
    assert played.server._settled.plan.degree < 30


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(3, 9),
    d=st.integers(1, 40),
    word_bits=st.integers(2, 32),
    compares_survivors=st.booleans(),
    generator=st.sampled_from(MaskGenerator),
    data=st.data(),
)
def test_the_sum_is_the_plain_sum_or_the_round_is_void(
    n: int, d: int, word_bits: int, compares_survivors: bool, generator: MaskGenerator, data: st.DataObject
) -> None:
    vanish = {
        stage: data.draw(st.lists(st.integers(0, n - 1), max_size=2, unique=True), stage) for stage in STAGES
    }
    played = rehearsal(
        n,
        d,
        vanish=vanish,
        word_bits=word_bits,
        compares_survivors=compares_survivors,
        device_policy=DevicePolicy(minimum_cohort=2, generators=(generator,)),
    )
    try:
        result = played.play()
    except VoidRoundError:
        left = n - len({device for who in vanish.values() for device in who})
        assert left <= n // 2 + 1
        return
    expected = plain_sum(played.vectors, result.participants, word_bits)
    np.testing.assert_array_equal(result.words, expected)


def test_twenty_bit_words_carry_negative_numbers() -> None:
    ids = device_ids(4)
    integers = {device: np.array([-7 * (i + 1), i], np.int64) for i, device in enumerate(ids)}
    vectors = {device: values.astype(np.uint32) for device, values in integers.items()}
    result = Rehearsal(announcement(2, word_bits=20), vectors).play()
    assert center_words(result.words, 20).tolist() == [-70, 6]


def test_the_masked_input_is_as_long_as_its_words() -> None:
    played = rehearsal(3, 1000, word_bits=20)
    seen: list[bytes] = []
    accept = played.server.accept_masked_input

    def record(sender: DeviceId, message: Any) -> None:
        seen.append(message.words)
        accept(sender, message)

    played.server.accept_masked_input = record  # type: ignore[method-assign] # a tap on the wire
    played.play()
    assert [len(words) for words in seen] == [2500] * 3


def test_one_device_without_aes_instructions_moves_everybody_to_chacha() -> None:
    ids = device_ids(3)
    slow = new_device(
        ids[1],
        roster=roster_of(ids),
        policy=DevicePolicy(generators=(MaskGenerator.CHACHA20,)),
    )
    played = rehearsal(3, 10, roles={ids[1]: slow})
    played.advertise()
    assert {book.generator for book in played.to_devices.values()} == {MaskGenerator.CHACHA20}
    played.share()
    played.mask()
    played.unmask()
    assert_exact(played, played.server.finish())


def test_the_server_need_not_wait_for_more_shares_than_it_takes() -> None:
    played = rehearsal(10, 5)
    played.advertise()
    played.share()
    played.mask()
    requests = played.to_devices
    for answered, (device, request) in enumerate(requests.items()):
        assert played.server.can_finish == (answered >= 6)
        played.server.accept_revealed(device, played.roles[device].unmask(request))
    assert_exact(played, played.server.finish())


def test_a_seal_spoilt_on_the_way_costs_one_share_and_no_device() -> None:
    played = rehearsal(10, 5)
    played.advertise()
    played.share()
    victim = device_ids(10)[3]
    delivery = played.to_devices[victim]
    first, *rest = delivery.seals
    spoilt = SealedShare(first.peer, bytes([first.seal[0] ^ 1]) + first.seal[1:])
    played.to_devices[victim] = msgspec.structs.replace(delivery, seals=(spoilt, *rest))
    played.mask()
    assert played.roles[victim].unreadable == (first.peer,)
    played.unmask()
    assert_exact(played, played.server.finish())


def test_a_holder_that_reveals_wrong_shares_is_named_and_the_sum_is_right() -> None:
    played = rehearsal(10, 20, vanish={"mask": [6]})
    played.advertise()
    played.share()
    played.mask()
    liar, requests = device_ids(10)[2], dict(played.to_devices)
    for device, request in requests.items():
        revealed = played.roles[device].unmask(request)
        if device == liar:
            wrong = tuple(Shares(s.owner, bytes([s.share[0] ^ 1]) + s.share[1:]) for s in revealed.seeds)
            revealed = msgspec.structs.replace(revealed, seeds=wrong)
        played.server.accept_revealed(device, revealed)
    result = played.server.finish()
    assert result.liars == (liar,)
    assert_exact(played, result)


def test_without_a_share_to_spare_wrong_shares_void_the_round() -> None:
    played = rehearsal(3, 5, vanish={"unmask": [2]})
    played.advertise()
    played.share()
    played.mask()
    for device in device_ids(3)[:2]:
        revealed = played.roles[device].unmask(played.to_devices[device])
        if device == "d00001":
            wrong = tuple(Shares(s.owner, bytes([s.share[0] ^ 1]) + s.share[1:]) for s in revealed.seeds)
            revealed = msgspec.structs.replace(revealed, seeds=wrong)
        played.server.accept_revealed(device, revealed)
    with pytest.raises(VoidRoundError, match="do not give what it advertised"):
        played.server.finish()
    assert played.server.stage is ServerStage.VOID
    assert not played.server._total.any()


@pytest.mark.parametrize(
    ("stage", "gone", "message"),
    [
        ("advertise", 8, "2 devices advertised keys; the sum needs 3"),
        ("share", 5, "5 devices shared their keys; the sum needs 6"),
        ("mask", 5, "5 devices sent their masked input; the sum needs 6"),
        ("confirm", 5, "5 devices confirmed the survivors; the sum needs 6"),
        ("unmask", 5, "10 secrets have fewer than 6 shares"),
    ],
)
def test_a_round_with_too_few_left_is_void_and_says_so(stage: str, gone: int, message: str) -> None:
    played = rehearsal(
        10, 5, vanish={stage: range(gone)}, compares_survivors=True, server_policy=ServerPolicy()
    )
    with pytest.raises(VoidRoundError, match=message):
        played.play()
    assert played.server.stage is ServerStage.VOID
    assert played.server.expected == frozenset()
    with pytest.raises(RuntimeError, match="the server is at void"):
        played.server.finish()


def test_a_policy_that_so_few_devices_cannot_meet_voids_the_round_with_advice() -> None:
    played = rehearsal(10, 5, server_policy=ServerPolicy(dropout_fraction=0.6))
    with pytest.raises(InfeasiblePlanError, match=r"lower dropout_fraction to 0\.49"):
        played.play()
    assert played.server.stage is ServerStage.VOID


def test_a_device_nobody_could_unmask_counts_as_not_having_shared() -> None:
    policy = ServerPolicy(secrecy_bits=2, correctness_bits=2, corrupt_fraction=0.01, dropout_fraction=0.2)
    devices = DevicePolicy(secrecy_bits=2, corrupt_fraction=0.01)
    played = rehearsal(129, 5, server_policy=policy, device_policy=devices)
    played.advertise()
    cohort = played.server._settled
    lonely = cohort.ids[0]
    around = cohort.neighbours(lonely)
    silent = around[: len(around) - cohort.plan.threshold + 1]
    played.vanish = {"share": silent}
    played.share()
    assert lonely not in played.to_devices
    played.mask()
    played.unmask()
    result = played.server.finish()
    total = sum(played.vectors[device].astype(np.uint64) for device in result.participants)
    np.testing.assert_array_equal(result.words, total % 2**32)
    assert lonely in result.dropped


def test_a_round_in_which_somebody_s_masks_can_no_longer_be_removed_is_void_at_once() -> None:
    policy = ServerPolicy(secrecy_bits=2, correctness_bits=2, corrupt_fraction=0.01, dropout_fraction=0.2)
    devices = DevicePolicy(secrecy_bits=2, corrupt_fraction=0.01)
    played = rehearsal(129, 5, server_policy=policy, device_policy=devices)
    played.advertise()
    played.share()
    cohort = played.server._settled
    lonely = cohort.ids[0]
    around = cohort.neighbours(lonely)
    played.vanish = {"mask": around[: len(around) - cohort.plan.threshold + 1]}
    with pytest.raises(VoidRoundError, match=f"holders of the shares of .*'{lonely}'"):
        played.mask()
    assert played.server.stage is ServerStage.VOID


class OneMaskLeftOut(DeviceRole):
    def _hide(self, words: NDArray[np.uint32], begun: Any, settled: Any) -> None:
        settled.neighbours -= {min(settled.neighbours)}
        super()._hide(words, begun, settled)


def test_a_device_that_leaves_one_mask_out_is_seen_in_the_sum() -> None:
    ids = device_ids(4)
    mutant = new_device(ids[2], roster=roster_of(ids), kind=OneMaskLeftOut)
    played = rehearsal(4, 50, roles={ids[2]: mutant})
    with pytest.raises(AssertionError):
        assert_exact(played, played.play())


def test_secrets_are_gone_when_the_round_is_over() -> None:
    played = rehearsal(4, 5)
    played.play()
    for role in played.roles.values():
        assert role.stage is DeviceStage.REVEALED
        assert_wiped(role)


def assert_wiped(role: DeviceRole) -> None:
    assert role._round is not None
    secrets = role._round.secrets
    assert not any(secrets._masking.secret)
    assert not any(secrets._sharing.secret)
    assert not any(secrets.self_mask)
    assert (secrets._held, secrets._seal_secrets, secrets._mask_secrets) == ({}, {}, {})


def reveal(played: Rehearsal, device: DeviceId) -> RevealedShares:
    return played.roles[device].unmask(played.to_devices[device])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: msgspec.structs.replace(r, seeds=(*r.seeds, r.seeds[0])), "one owner twice"),
        (lambda r: msgspec.structs.replace(r, mask_keys=r.seeds), "mask key share of"),
        (
            lambda r: msgspec.structs.replace(r, seeds=(Shares("d77777", bytes(36)),)),
            "seed share of.*d77777",
        ),
        (
            lambda r: msgspec.structs.replace(r, seeds=(Shares(r.seeds[0].owner, bytes(35)),)),
            "not 36 bytes",
        ),
        (lambda r: msgspec.structs.replace(r, session="another-session"), "answered session"),
    ],
)
def test_misshapen_shares_are_rejected_and_the_others_do(spoil: Any, message: str) -> None:
    played = rehearsal(4, 5)
    played.advertise()
    played.share()
    played.mask()
    first, *others = device_ids(4)
    with pytest.raises(RejectedContributionError, match=message):
        played.server.accept_revealed(first, spoil(reveal(played, first)))
    for device in others:
        played.server.accept_revealed(device, reveal(played, device))
    assert_exact(played, played.server.finish())


def test_an_answer_that_is_doubled_late_or_uninvited_is_rejected() -> None:
    played = rehearsal(3, 5)
    first, second, _ = device_ids(3)
    advertisement = played.roles[first].advertise(played.announcement)
    played.server.accept_advertisement(first, advertisement)
    with pytest.raises(RejectedContributionError, match="has sent them before"):
        played.server.accept_advertisement(first, advertisement)
    with pytest.raises(RejectedContributionError, match="sent the advertisement of 'd00000'"):
        played.server.accept_advertisement(second, advertisement)
    with pytest.raises(RejectedContributionError, match="is not enrolled"):
        played.server.accept_advertisement(DeviceId("stranger"), advertisement)
    played.vanish = {"advertise": [first]}
    played.advertise()
    with pytest.raises(RejectedContributionError, match="too late"):
        played.server.accept_advertisement(second, advertisement)


def test_a_device_that_shows_another_s_key_as_its_own_is_rejected() -> None:
    played = rehearsal(3, 5)
    first, second, _ = device_ids(3)
    shown = played.roles[first].advertise(played.announcement)
    played.server.accept_advertisement(first, shown)
    copied = sign_advertisement(
        played.announcement,
        second,
        sharing_key=shown.masking_key,
        masking_key=key_pair_from_secret(bytes(range(32))).public,
        self_mask=bytes(32),
        generators=shown.generators,
        identity_key=identity_of(second),
    )
    with pytest.raises(RejectedContributionError, match="'d00001' advertises a key that another device"):
        played.server.accept_advertisement(second, copied)


@pytest.mark.parametrize("spoil", ["masking_key", "sharing_key"])
def test_an_unusable_or_unsigned_key_is_rejected(spoil: str) -> None:
    played = rehearsal(3, 5)
    first = device_ids(3)[0]
    shown = played.roles[first].advertise(played.announcement)
    keys = {"masking_key": shown.masking_key, "sharing_key": shown.sharing_key} | {spoil: bytes(32)}
    small = sign_advertisement(
        played.announcement,
        first,
        self_mask=bytes(32),
        generators=shown.generators,
        identity_key=identity_of(first),
        **keys,
    )
    with pytest.raises(RejectedContributionError, match="small order"):
        played.server.accept_advertisement(first, small)
    unsigned = msgspec.structs.replace(shown, **{spoil: b"\x07" * 32})
    with pytest.raises(RejectedContributionError, match="not signed by the identity key"):
        played.server.accept_advertisement(first, unsigned)
    played.server.accept_advertisement(first, shown)


def test_a_device_must_seal_one_share_for_each_neighbour_and_nobody_else() -> None:
    played = rehearsal(4, 5)
    played.advertise()
    first = device_ids(4)[0]
    sealed = played.roles[first].share_keys(played.to_devices[first])
    for seals in (
        sealed.seals[:-1],
        (*sealed.seals, sealed.seals[0]),
        (*sealed.seals[:-1], SealedShare("d77777", sealed.seals[0].seal)),
        (*sealed.seals[:-1], SealedShare(sealed.seals[-1].peer, b"short")),
    ):
        with pytest.raises(RejectedContributionError, match="seal"):
            played.server.accept_shares(first, msgspec.structs.replace(sealed, seals=seals))
    played.server.accept_shares(first, sealed)


def test_masked_words_of_another_length_are_rejected() -> None:
    played = rehearsal(3, 5)
    played.advertise()
    played.share()
    first = device_ids(3)[0]
    masked = played.roles[first].mask(
        played.to_devices[first], model_hash=MODEL, config_hash=CONFIG, words=played.vectors[first]
    )
    with pytest.raises(RejectedContributionError, match="masked input of 'd00000' does not fit"):
        played.server.accept_masked_input(first, msgspec.structs.replace(masked, words=masked.words + b"!"))
    assert not played.server._total.any()


def test_a_confirmation_of_another_list_is_rejected() -> None:
    played = rehearsal(4, 5, compares_survivors=True)
    played.advertise()
    played.share()
    played.mask()
    first, second, *_ = device_ids(4)
    confirmation = played.roles[first].confirm(played.to_devices[first])
    with pytest.raises(RejectedContributionError, match="did not sign the list"):
        played.server.accept_confirmation(second, confirmation)
    spoilt = msgspec.structs.replace(confirmation, signature=confirmation.signature[:-1] + b"\0")
    with pytest.raises(RejectedContributionError, match="did not sign the list"):
        played.server.accept_confirmation(first, spoilt)


def test_the_stages_of_the_server_come_in_order() -> None:
    played = rehearsal(3, 5)
    for close in (
        played.server.close_sharing,
        played.server.close_masking,
        played.server.close_confirming,
        played.server.finish,
    ):
        with pytest.raises(RuntimeError, match="the server is at advertisements"):
            close()
    assert not played.server.can_finish
    assert_exact(played, played.play())


def test_a_device_alone_refuses_where_the_server_forgot_to_void() -> None:
    """A server that ignores the bound: every device checks for itself."""
    played = rehearsal(5, 5, device_policy=DevicePolicy())
    played.advertise()
    played.share()
    delivery = played.to_devices[device_ids(5)[0]]
    alone = msgspec.structs.replace(delivery, sharers=b"\x03", seals=delivery.seals[:1])
    with pytest.raises(
        TooFewSurvivorsError, match="2 of 5 devices shared their keys; this device goes on from 3"
    ):
        played.roles[device_ids(5)[0]].mask(
            alone, model_hash=MODEL, config_hash=CONFIG, words=played.vectors[device_ids(5)[0]]
        )


def test_two_rounds_of_the_same_devices_share_no_key_and_no_mask() -> None:
    seen: list[Any] = []
    for session in ("session-0001", "session-0002"):
        played = rehearsal(3, 8, session=session)
        played.advertise()
        seen.append({d: (a.sharing_key, a.masking_key) for d, a in played.server._advertisements.items()})
    assert not {key for pair in seen[0].values() for key in pair} & {
        key for pair in seen[1].values() for key in pair
    }


def test_every_order_of_answers_gives_the_same_sum() -> None:
    results = []
    for order in itertools.permutations(device_ids(3)):
        ids = list(order)
        vectors = random_vectors(device_ids(3), 6)
        played = Rehearsal(announcement(6), {device: vectors[device] for device in ids})
        results.append(played.play().words.tolist())
    assert all(result == results[0] for result in results)


def test_an_empty_message_of_shares_is_read_as_none() -> None:
    played = rehearsal(4, 5)
    played.advertise()
    played.share()
    played.mask()
    first, *others = device_ids(4)
    nothing = RevealedShares(session="session-0001", round_number=7, seeds=(), mask_keys=())
    played.server.accept_revealed(first, nothing)
    for device in others:
        played.server.accept_revealed(device, reveal(played, device))
    assert_exact(played, played.server.finish())


def test_sealed_shares_of_another_round_are_rejected() -> None:
    played = rehearsal(3, 5)
    played.advertise()
    first = device_ids(3)[0]
    sealed: SealedShares = played.roles[first].share_keys(played.to_devices[first])
    with pytest.raises(RejectedContributionError, match="round 8; this is session 'session-0001' round 7"):
        played.server.accept_shares(first, msgspec.structs.replace(sealed, round_number=8))
