"""When too few are left the round is void, at once and with the reason; one whom nobody could unmask is left out before."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from secure_sum_rehearsal import CONFIG, MODEL, device_ids
from secure_sum_stages import rehearsal

from protocol.secure_sum.device_role import DevicePolicy
from protocol.secure_sum.errors import InfeasiblePlanError, TooFewSurvivorsError, VoidRoundError
from protocol.secure_sum.messages import Shares
from protocol.secure_sum.server_role import ServerPolicy, ServerStage

pytestmark = pytest.mark.edge


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
        10, 5, vanish={stage: range(gone)}, requires_confirmation=True, server_policy=ServerPolicy()
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
        played.roles[device_ids(5)[0]].accept(alone, model_hash=MODEL, config_hash=CONFIG)
