"""Wrong answers cost only their sender: the server rejects or names it, and the sum of the others is right."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from secure_sum_rehearsal import CONFIG, MODEL, Rehearsal, device_ids, identity_of
from secure_sum_stages import assert_exact, rehearsal

from protocol.names import DeviceId
from protocol.secure_sum.advertisements import sign_advertisement
from protocol.secure_sum.errors import RejectedContributionError
from protocol.secure_sum.keys import key_pair_from_secret
from protocol.secure_sum.messages import RevealedShares, SealedShare, SealedShares, Shares

pytestmark = pytest.mark.edge


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
    played.roles[first].accept(played.to_devices[first], model_hash=MODEL, config_hash=CONFIG)
    masked = played.roles[first].mask(played.vectors[first])
    with pytest.raises(RejectedContributionError, match="masked input of 'd00000' does not fit"):
        played.server.accept_masked_input(first, msgspec.structs.replace(masked, words=masked.words + b"!"))
    assert not played.server._total.any()


def test_a_confirmation_of_another_list_is_rejected() -> None:
    played = rehearsal(4, 5, requires_confirmation=True)
    played.advertise()
    played.share()
    played.mask()
    first, second, *_ = device_ids(4)
    confirmation = played.roles[first].confirm(played.to_devices[first])
    with pytest.raises(RejectedContributionError, match="did not sign the list"):
        played.server.accept_confirmation(second, confirmation)
    other = confirmation.signature[:-1] + bytes([confirmation.signature[-1] ^ 1])
    spoilt = msgspec.structs.replace(confirmation, signature=other)
    with pytest.raises(RejectedContributionError, match="did not sign the list"):
        played.server.accept_confirmation(first, spoilt)


def test_sealed_shares_of_another_round_are_rejected() -> None:
    played = rehearsal(3, 5)
    played.advertise()
    first = device_ids(3)[0]
    sealed: SealedShares = played.roles[first].share_keys(played.to_devices[first])
    with pytest.raises(RejectedContributionError, match="round 8; this is session 'session-0001' round 7"):
        played.server.accept_shares(first, msgspec.structs.replace(sealed, round_number=8))


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
