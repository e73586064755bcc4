"""Secure sums played up to a stage: where a test of the device or of the server steps in, and what it checks at the end.

Two casts: `rehearsal` is a cohort of any size whose floors are low; `ten` and what follows from it are ten devices with the
default floors, of which `ME` is the one in question. The playing itself is `secure_sum_rehearsal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from secure_sum_rehearsal import CONFIG, MODEL, Rehearsal, announcement, device_ids, random_vectors, roster_of

from protocol.secure_sum.device_role import DevicePolicy, DeviceRole, DeviceStage
from protocol.secure_sum.errors import RepeatedStageError
from protocol.secure_sum.messages import MaskedInput, UnmaskRequest, pack_positions
from protocol.secure_sum.server_role import SecureSum, ServerPolicy

SMALL_DEVICES = DevicePolicy(minimum_cohort=2)
SMALL_SERVER = ServerPolicy(minimum_cohort=2)
IDS = device_ids(10)
ROSTER = roster_of(IDS)
ME = IDS[4]


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


def ten(**changes: Any) -> Rehearsal:
    """Ten devices, nothing said yet. Announcement figures may be changed by name, the roles' policies too."""
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
    """Ten devices have shared their keys; the deliveries are on their way."""
    played = advertised(**changes)
    played.share()
    return played


def masked(**changes: Any) -> Rehearsal:
    """Ten devices have sent their masked input; the survivors' lists, or the requests to unmask, are on their way."""
    played = shared(**changes)
    played.mask()
    return played


def mask(played: Rehearsal, message: Any = None, **changes: Any) -> MaskedInput:
    """What the device in question answers to a delivery: the one it was sent, unless another is given."""
    words = changes.pop("words", played.vectors[ME])
    hashes = {"model_hash": MODEL, "config_hash": CONFIG} | changes
    played.roles[ME].accept(message or played.to_devices[ME], **hashes)
    return played.roles[ME].mask(words)


def edited(message: Any, **changes: Any) -> Any:
    """The message with some fields replaced, as a malicious server would."""
    return msgspec.structs.replace(message, **changes)


def bits(*numbers: int) -> bytes:
    """These positions among the ten, packed."""
    return pack_positions(numbers, len(IDS))


def assert_exact(played: Rehearsal, result: SecureSum) -> None:
    """Nobody refused, nobody was rejected, and the sum is the plain one of those who sent their input."""
    assert not played.refusals
    assert not played.rejections
    word_bits = played.announcement.word_bits
    gone = {device for stage in ("advertise", "share", "mask") for device in played.vanish.get(stage, ())}
    assert set(result.participants) == set(played.vectors) - gone
    total = sum(played.vectors[device].astype(np.uint64) for device in result.participants)
    np.testing.assert_array_equal(result.words, total % 2**word_bits)


def assert_forgotten(role: DeviceRole) -> None:
    """Refused, wiped, and refusing whatever comes next."""
    assert role.stage is DeviceStage.REFUSED
    if role._round is not None:
        assert_wiped(role)
    with pytest.raises(RepeatedStageError, match="already at 'refused'"):
        role.unmask(UnmaskRequest(session="session-0001", round_number=7, survivors=b"\0\0", dropped=b"\0\0"))


def assert_wiped(role: DeviceRole) -> None:
    """Every secret of the round is overwritten or dropped."""
    assert role._round is not None
    secrets = role._round.secrets
    assert not any(secrets._masking.secret)
    assert not any(secrets._sharing.secret)
    assert not any(secrets.self_mask)
    assert (secrets._held, secrets._seal_secrets, secrets._mask_secrets) == ({}, {}, {})
