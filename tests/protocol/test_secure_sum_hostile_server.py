"""A server that lies differently to every device, played with the real roles: what it wins, and what stops it.

The attack on split views: the victim is told that few devices shared their keys, so that it masks with these alone. The others
are told that these few have dropped out, and reveal their mask keys, and that the victim survived, and reveal its self-mask.
Each device sees a story that is fine in itself. Thresholds that are safe against split views make the two halves of the cohort
too small; comparing lists of survivors alone does not help, because all who matter are told the same list.

Source: Bonawitz et al., CCS 2017, section 6 and appendix A: the thresholds of the active-adversary setting.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from secure_sum_rehearsal import CONFIG, MODEL, Rehearsal, announcement, device_ids

from protocol.names import DeviceId
from protocol.secure_sum.device_role import DevicePolicy
from protocol.secure_sum.errors import ShareError, ThresholdTooLowError, TooFewSurvivorsError
from protocol.secure_sum.keys import derive_pair_seed, key_pair_from_secret
from protocol.secure_sum.masks import add_masks, unpack_words
from protocol.secure_sum.messages import RevealedShares, SurvivorList, UnmaskRequest
from protocol.secure_sum.server_role import ServerPolicy
from protocol.secure_sum.server_rules import positions_of
from protocol.secure_sum.shamir import combine

pytestmark = pytest.mark.edge
IDS = device_ids(10)
VICTIM = IDS[0]
"""Whose vector the server is after."""

COLLUDERS = IDS[8:]
"""Two of ten, γ = 0.2: they follow the protocol and tell the server all they know."""

VECTOR = np.arange(1, 7, dtype=np.uint32)


class LyingServer:
    """Plays the honest server until keys are shared, then tells the victim and the others different stories."""

    def __init__(self, *, split_view_safe: bool, requires_confirmation: bool) -> None:
        self.played = Rehearsal(
            announcement(VECTOR.size, requires_confirmation=requires_confirmation),
            dict.fromkeys(IDS, VECTOR),
            server_policy=ServerPolicy(split_view_safe=split_view_safe),
            device_policy=DevicePolicy(
                split_view_safe=split_view_safe, requires_confirmation=requires_confirmation
            ),
        )
        self.played.advertise()
        self.cohort = self.played.server._settled
        self.threshold = self.cohort.plan.threshold
        self.played.share()
        # As few as the victim accepts: itself, the colluders, and honest devices that will be called dropped.
        self.called_dropped = IDS[1 : self.threshold - len(COLLUDERS)]
        self.told_victim = {VICTIM, *COLLUDERS, *self.called_dropped}
        self.holders = [device for device in IDS[1:] if device not in self.called_dropped]

    def isolate(self) -> NDArray[np.uint32]:
        """The victim's vector, if the devices let the server have it."""
        words = self._masked_input_of_the_victim()
        revealed = self._revealed_by_the_holders()
        seed = self._secret_of(VICTIM, {h: r.seeds for h, r in revealed.items()})
        taken, given = [seed], []
        for device in self.called_dropped:
            pair = key_pair_from_secret(
                self._secret_of(device, {h: r.mask_keys for h, r in revealed.items()})
            )
            shared = pair.agree(self.played.server._advertisements[VICTIM].masking_key)
            (taken if device > VICTIM else given).append(self._pair_seed(shared, device))
        for device in COLLUDERS:
            (taken if device > VICTIM else given).append(self._pair_seed(self.known[device], device))
        add_masks(words, added=given, subtracted=taken, generator=self.cohort.generator)
        return words

    def _masked_input_of_the_victim(self) -> NDArray[np.uint32]:
        delivery = self.played.to_devices[VICTIM]
        delivery = msgspec.structs.replace(
            delivery,
            sharers=positions_of(self.cohort, self.told_victim),
            seals=tuple(seal for seal in delivery.seals if seal.peer in self.told_victim),
        )
        self.known = {}
        for device in COLLUDERS:
            begun = self.played.roles[device]._round
            assert begun is not None
            self.known[device] = begun.secrets._mask_secrets[VICTIM]
        masked = self._mask(VICTIM, delivery)
        return unpack_words(masked.words, VECTOR.size, 32)

    def _revealed_by_the_holders(self) -> dict[DeviceId, RevealedShares]:
        for device in self.holders:
            self._mask(device, self.played.to_devices[device])
        place = {"session": self.cohort.session, "round_number": self.cohort.round_number}
        survivors = positions_of(self.cohort, [VICTIM, *self.holders])
        confirmations: tuple[Any, ...] = ()
        if self.played.announcement.requires_confirmation:
            listed = SurvivorList(**place, survivors=survivors)
            confirmations = tuple(self.played.roles[device].confirm(listed) for device in self.holders)
        request = UnmaskRequest(
            **place,
            survivors=survivors,
            dropped=positions_of(self.cohort, self.called_dropped),
            confirmations=confirmations,
        )
        return {device: self.played.roles[device].unmask(request) for device in self.holders}

    def _mask(self, device: DeviceId, delivery: Any) -> Any:
        self.played.roles[device].accept(delivery, model_hash=MODEL, config_hash=CONFIG)
        return self.played.roles[device].mask(self.played.vectors[device])

    def _secret_of(self, owner: DeviceId, revealed: dict[DeviceId, Any]) -> bytes:
        shares = {
            holder: share.share for holder, own in revealed.items() for share in own if share.owner == owner
        }
        chosen = sorted(shares)[: self.threshold]
        return combine(
            [self.cohort.point(holder) for holder in chosen], [shares[holder] for holder in chosen]
        )

    def _pair_seed(self, shared: bytes, device: DeviceId) -> bytes:
        binding = self.cohort.binding(self.played.announcement)
        return derive_pair_seed(shared, binding=binding, devices=(VICTIM, device))


@pytest.mark.parametrize("requires_confirmation", [False, True])
def test_at_plain_thresholds_different_stories_isolate_a_device_even_where_survivors_are_compared(
    requires_confirmation: bool,
) -> None:
    """The limit of the claim: plain thresholds are for a server that is curious, not one that lies."""
    server = LyingServer(split_view_safe=False, requires_confirmation=requires_confirmation)
    assert server.threshold == 6
    assert np.array_equal(server.isolate(), VECTOR)


@pytest.mark.parametrize("requires_confirmation", [False, True])
def test_at_split_view_safe_thresholds_different_stories_win_nothing(requires_confirmation: bool) -> None:
    server = LyingServer(split_view_safe=True, requires_confirmation=requires_confirmation)
    assert server.threshold == 7
    assert len(server.holders) < server.threshold
    # Too few devices are left to be told the other story: they refuse, and what colluders hold does not open the secrets.
    with pytest.raises((TooFewSurvivorsError, ShareError)):
        server.isolate()


def test_a_device_that_minds_split_views_refuses_a_plain_threshold() -> None:
    played = Rehearsal(
        announcement(VECTOR.size),
        dict.fromkeys(IDS, VECTOR),
        server_policy=ServerPolicy(split_view_safe=False),
        device_policy=DevicePolicy(split_view_safe=True),
    )
    played.advertise()
    role = played.roles[VICTIM]
    with pytest.raises(ThresholdTooLowError, match="at least 7"):
        role.share_keys(played.to_devices[VICTIM])


def test_own_secrets_are_gone_as_soon_as_the_masked_input_is_made() -> None:
    """What unmasking needs are others' shares; whoever breaks into the device later must not find the masks of its input."""
    played = Rehearsal(announcement(VECTOR.size), dict.fromkeys(IDS, VECTOR))
    played.advertise()
    played.share()
    played.mask()
    for device in IDS:
        begun = played.roles[device]._round
        assert begun is not None
        secrets = begun.secrets
        assert secrets._masking.secret == bytes(32)
        assert secrets._sharing.secret == bytes(32)
        assert secrets.self_mask == bytes(32)
        assert not secrets._mask_secrets
        assert not secrets._seal_secrets
    played.unmask()
    assert np.array_equal(played.server.finish().words, VECTOR * 10)


def test_a_neighbour_s_seal_delivered_twice_or_in_another_s_name_is_refused_and_reveals_nothing() -> None:
    played = Rehearsal(announcement(VECTOR.size), dict.fromkeys(IDS, VECTOR))
    played.advertise()
    played.share()
    delivery = played.to_devices[VICTIM]
    first, second, *rest = delivery.seals
    swapped = (
        msgspec.structs.replace(first, seal=second.seal),
        msgspec.structs.replace(second, seal=first.seal),
        *rest,
    )
    role = played.roles[VICTIM]
    role.accept(msgspec.structs.replace(delivery, seals=swapped), model_hash=MODEL, config_hash=CONFIG)
    assert set(role.unreadable) == {first.peer, second.peer}
