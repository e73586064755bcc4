"""When a device does not send its masked input: another model or shape than was announced, a forged delivery, too few who shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from secure_sum_rehearsal import CONFIG, MODEL, Rehearsal, announcement, device_ids, random_vectors
from secure_sum_stages import ME, assert_forgotten, bits, edited, mask, shared

from protocol.secure_sum.device_role import DevicePolicy
from protocol.secure_sum.errors import (
    AnnouncementMismatchError,
    RefusedRoundError,
    SurvivorMismatchError,
    TooFewSurvivorsError,
)
from protocol.secure_sum.messages import pack_positions
from protocol.secure_sum.server_role import ServerPolicy

pytestmark = pytest.mark.edge


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_hash": bytes(32)}, "the model at hand has hash 0000000000000000"),
        ({"config_hash": bytes(32)}, "the configuration at hand has hash"),
    ],
)
def test_something_else_than_was_announced_is_neither_charged_nor_answered(
    changes: dict[str, Any], message: str
) -> None:
    played = shared()
    with pytest.raises(AnnouncementMismatchError, match=message):
        mask(played, **changes)
    assert_forgotten(played.roles[ME])
    assert played.roles[ME]._budget.spent == 0


@pytest.mark.parametrize("words", [np.zeros(5, np.uint32), np.zeros(6, np.int64)])
def test_words_of_another_number_or_type_than_was_announced_are_not_masked(words: Any) -> None:
    played = shared()
    with pytest.raises(AnnouncementMismatchError, match="6 words of uint32 were announced"):
        mask(played, words=words)
    assert_forgotten(played.roles[ME])


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
        played.roles[ids[0]].accept(forged, model_hash=MODEL, config_hash=CONFIG)
    assert_forgotten(played.roles[ids[0]])
