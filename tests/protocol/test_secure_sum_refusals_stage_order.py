"""A device answers every stage once and in its order; a stage asked again or skipped ends the round for it."""

from __future__ import annotations

from typing import Any

import pytest
from secure_sum_rehearsal import new_device
from secure_sum_stages import ME, ROSTER, advertised, assert_forgotten, mask, masked, ten

from protocol.secure_sum.errors import RepeatedStageError, StageOrderError
from protocol.secure_sum.messages import ShareDelivery, UnmaskRequest

pytestmark = pytest.mark.edge


def test_a_second_request_of_any_stage_is_refused() -> None:
    for stage in ("advertise", "share", "mask", "confirm", "unmask"):
        played = ten(requires_confirmation=True)
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
        StageOrderError, match="'accepted' was requested after 'advertised'; it comes after 'shared'"
    ):
        mask(played, delivery)
    assert_forgotten(played.roles[ME])
    compared = masked(requires_confirmation=True)
    with pytest.raises(
        StageOrderError, match="'revealed' was requested after 'masked'; it comes after 'confirmed'"
    ):
        compared.roles[ME].unmask(request)
