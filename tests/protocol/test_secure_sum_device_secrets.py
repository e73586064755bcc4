"""A device's secrets of a round are new in each, are in nothing it prints or sends, and are gone when it is over."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from secure_sum_stages import ME, advertised, assert_forgotten, assert_wiped, rehearsal, shared

from protocol.secure_sum.device_role import DeviceStage
from protocol.secure_sum.messages import SealedShares

pytestmark = pytest.mark.edge


def test_a_device_that_leaves_forgets() -> None:
    played = shared()
    played.roles[ME].leave()
    assert_forgotten(played.roles[ME])


def test_secrets_are_gone_when_the_round_is_over() -> None:
    played = rehearsal(4, 5)
    played.play()
    for role in played.roles.values():
        assert role.stage is DeviceStage.REVEALED
        assert_wiped(role)


def test_no_secret_shows_when_a_device_is_printed() -> None:
    played = shared()
    role = played.roles[ME]
    assert role._round is not None
    secrets = role._round.secrets
    shown = "".join(repr(part) for part in (role, secrets, secrets._masking, secrets._held, role._round))
    for secret in (bytes(secrets._masking.secret), bytes(secrets._sharing.secret), secrets.self_mask):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


def test_sealed_shares_tell_the_server_nothing_it_can_read() -> None:
    played = advertised()
    sealed: SealedShares = played.roles[ME].share_keys(played.to_devices[ME])
    held = played.roles[ME]._round
    assert held is not None
    pair = held.secrets._held[ME]
    everything = msgspec.msgpack.encode(sealed)
    assert pair.mask_key not in everything
    assert pair.self_mask not in everything


def test_two_rounds_of_the_same_devices_share_no_key_and_no_mask() -> None:
    seen: list[Any] = []
    for session in ("session-0001", "session-0002"):
        played = rehearsal(3, 8, session=session)
        played.advertise()
        seen.append({d: (a.sharing_key, a.masking_key) for d, a in played.server._advertisements.items()})
    assert not {key for pair in seen[0].values() for key in pair} & {
        key for pair in seen[1].values() for key in pair
    }
