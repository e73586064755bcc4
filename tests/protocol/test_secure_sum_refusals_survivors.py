"""Where survivors are compared, a device reveals nothing before enough holders have signed the list that it was shown itself."""

from __future__ import annotations

from typing import Any

import pytest
from secure_sum_rehearsal import Rehearsal, announcement, identity_of, new_device
from secure_sum_stages import IDS, ME, ROSTER, assert_forgotten, bits, edited, masked

from protocol.secure_sum.device_role import DevicePolicy
from protocol.secure_sum.device_rules import sign_survivors
from protocol.secure_sum.errors import (
    RefusedRoundError,
    SplitViewError,
    StageOrderError,
    SurvivorMismatchError,
    TooFewSurvivorsError,
)
from protocol.secure_sum.messages import SurvivorList, UnmaskRequest

pytestmark = pytest.mark.edge


def confirmed(**changes: Any) -> Rehearsal:
    played = masked(requires_confirmation=True, **changes)
    played.confirm()
    return played


def test_a_round_that_does_not_compare_survivors_is_refused_where_the_device_minds() -> None:
    role = new_device(ME, roster=ROSTER, policy=DevicePolicy(requires_confirmation=True))
    with pytest.raises(SplitViewError, match="announce the round with requires_confirmation"):
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
    played = masked(requires_confirmation=True)
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
    played = masked(requires_confirmation=False)
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
    played = masked(requires_confirmation=True)
    with pytest.raises(error):
        played.roles[ME].confirm(edited(played.to_devices[ME], survivors=survivors))
    assert_forgotten(played.roles[ME])
