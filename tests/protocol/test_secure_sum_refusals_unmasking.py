"""The requests to unmask that a device refuses, above all the one for both secrets of a device.

The server here is malicious. Its attack is played in full, also against a mutant that answers, so that the refusal is what stops it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from secure_sum_rehearsal import Rehearsal, new_device
from secure_sum_stages import IDS, ME, ROSTER, assert_forgotten, bits, edited, masked, shared

from protocol.names import DeviceId
from protocol.secure_sum.device_role import DevicePolicy, DeviceRole
from protocol.secure_sum.errors import (
    AnnouncementMismatchError,
    BothListsError,
    RefusedRoundError,
    SurvivorMismatchError,
    TooFewSurvivorsError,
)
from protocol.secure_sum.keys import derive_pair_seed, key_pair_from_secret
from protocol.secure_sum.masks import expand_mask, unpack_words
from protocol.secure_sum.messages import MaskedInput, RevealedShares, UnmaskRequest
from protocol.secure_sum.shamir import combine

pytestmark = pytest.mark.edge


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
